//! Starts and transitions of many sagas, in one transaction.

use std::collections::HashMap;

use mysql_async::{Conn, Row, Transaction, TxOpts, prelude::Queryable};
use onewrite_core::{
    Code, Error, Partition, Result,
    lease::{Epoch, Fence},
    sabotage::{Defect, Sabotage},
    saga::{
        Group,
        journal::{NewSaga, SCOPE, Transition},
    },
    store::Outcome,
};

use super::{advance, epoch, start};
use crate::{
    commit::{ROLL_BACK, SAVEPOINT, finish},
    error::While,
    row::{self, quoted},
};

/// Writes starts and transitions together, in one transaction.
pub(crate) async fn write_all(
    conn: &mut Conn,
    group: &Group<'_>,
    count: usize,
    sabotage: Sabotage,
) -> Result<Vec<Outcome>> {
    let mut tx = conn.start_transaction(TxOpts::default()).await.during("begin a write")?;
    let held = held(&mut tx, group).await?;
    let holds = |fence: Option<&Fence>| {
        let current = |fence: &Fence| held.get(&fence.partition) == Some(&fence.epoch);
        fence.is_none_or(current) || sabotage.has(Defect::NoFence)
    };
    let mut outcomes: Vec<Outcome> = (0..count).map(|_| Outcome::Fenced).collect();
    let starts: Vec<_> = group.starts.iter().filter(|(_, fence, _)| holds(*fence)).collect();
    let news: Vec<&NewSaga> = starts.iter().map(|(_, _, new)| *new).collect();
    for ((place, ..), new) in starts.iter().zip(start(&mut tx, &news).await?) {
        outcomes[*place] = Outcome::Applied(u64::from(new));
    }
    let nexts: Vec<_> = group.advances.iter().filter(|(_, fence, _)| holds(*fence)).collect();
    let all: Vec<(Epoch, &Transition)> =
        nexts.iter().map(|(_, fence, next)| (epoch(*fence), *next)).collect();
    tx.query_drop(SAVEPOINT).await.during("begin an item")?;
    match advance(&mut tx, &all, sabotage).await {
        Ok(()) => nexts.iter().for_each(|(place, ..)| outcomes[*place] = Outcome::Applied(1)),
        Err(error) if is_its_own(&error) => {
            tx.query_drop(ROLL_BACK).await.during("undo an item")?;
            for ((place, ..), one) in nexts.iter().zip(&all) {
                outcomes[*place] = advance_one(&mut tx, *one, sabotage).await?;
            }
        }
        Err(error) => return Err(error),
    }
    finish(tx).await?;
    Ok(outcomes)
}

/// Whether one of many is to blame: its transition exists already, or its saga does not.
fn is_its_own(error: &Error) -> bool {
    matches!(error.code(), Code::SagaConflict | Code::NotFound)
}

/// Each by itself.
async fn advance_one(
    tx: &mut Transaction<'_>,
    one: (Epoch, &Transition),
    sabotage: Sabotage,
) -> Result<Outcome> {
    tx.query_drop(SAVEPOINT).await.during("begin an item")?;
    match advance(tx, &[one], sabotage).await {
        Ok(()) => Ok(Outcome::Applied(1)),
        Err(error) if is_its_own(&error) => {
            tx.query_drop(ROLL_BACK).await.during("undo an item")?;
            Ok(Outcome::Failed(error))
        }
        Err(error) => Err(error),
    }
}

/// The leases that are held, locked in one order: a takeover waits for this commit, other writers do not.
async fn held(tx: &mut Transaction<'_>, group: &Group<'_>) -> Result<HashMap<Partition, Epoch>> {
    let mut held = HashMap::new();
    if group.leases.is_empty() {
        return Ok(held);
    }
    let partitions: Vec<String> =
        group.leases.iter().map(|(partition, _)| partition.to_string()).collect();
    let sql = format!(
        "SELECT `partition`, epoch FROM onewrite_lease WHERE scope = {} AND `partition` IN ({}) AND owner IS NOT NULL
         ORDER BY `partition` LOCK IN SHARE MODE",
        quoted(&SCOPE),
        partitions.join(",")
    );
    for mut found in tx.query::<Row, _>(sql).await.during("look at the leases")? {
        held.insert(row::get(&mut found, 0)?, row::number(&mut found, 1)?);
    }
    Ok(held)
}
