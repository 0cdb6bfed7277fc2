//! Reading sagas with their journals.

use std::collections::HashMap;

use mysql_async::{Conn, Params, Row, Transaction, TxOpts, prelude::Queryable};
use onewrite_core::{
    Result,
    saga::{
        Json, SagaId,
        journal::{FindSagas, SavedSaga, SavedTransition, Standing, State},
    },
};

use super::{list, numbers, read_id, trim::MAY_GO};
use crate::{
    error::While,
    row::{self, began, binds, query},
};

const COLUMNS: &str = "SELECT id, name, `key`, run, `partition`, definition, input, state, waits, due_at, output, started_at, ended_at, parent FROM onewrite_saga ";

/// Sagas with their journals, as of one moment.
pub(crate) async fn find(conn: &mut Conn, find: &FindSagas) -> Result<Vec<SavedSaga>> {
    let mut options = TxOpts::default();
    options.with_consistent_snapshot(true).with_readonly(true);
    options.with_isolation_level(mysql_async::IsolationLevel::RepeatableRead);
    let mut tx = conn.start_transaction(options).await.during("read sagas")?;
    let mut sagas = rows(&mut tx, find).await?;
    journals(&mut tx, &mut sagas).await?;
    tx.rollback().await.during("read sagas")?;
    Ok(sagas)
}

async fn rows(tx: &mut Transaction<'_>, find: &FindSagas) -> Result<Vec<SavedSaga>> {
    let (which, binds) = which(find);
    let found = query(tx, &format!("{COLUMNS}{which}"), binds).await?;
    found.into_iter().map(saga).collect()
}

/// Which rows are looked for, with what is bound.
fn which(find: &FindSagas) -> (String, Params) {
    match find {
        FindSagas::Id(id) => ("WHERE id = ?".to_owned(), binds![id.0.to_be_bytes().to_vec()]),
        // There is no saga of the number 0; an empty list is no SQL.
        FindSagas::Ids(ids) => {
            let ids = list(ids.iter().copied().chain([SagaId::default()]));
            (format!("WHERE id IN ({ids})"), binds![])
        }
        FindSagas::Key { name, key } => (
            "WHERE name = ? AND `key` = ? ORDER BY run DESC LIMIT 1".to_owned(),
            binds![&**name, &**key],
        ),
        FindSagas::Leased { partitions, after, limit } => (
            format!(
                "WHERE `partition` IN ({}) AND waits = 'lease' AND ended_at IS NULL AND id > ? ORDER BY id LIMIT {limit}",
                numbers(partitions)
            ),
            binds![after.0.to_be_bytes().to_vec()],
        ),
        FindSagas::Due { also_signals, partitions, limit } => (
            format!(
                concat!(
                    "WHERE `partition` IN ({}) AND waits IN ('timer', '{}') AND ended_at IS NULL AND due_at <= ",
                    began!(),
                    " ORDER BY due_at LIMIT {}"
                ),
                numbers(partitions),
                if *also_signals { "signal" } else { "timer" },
                limit
            ),
            binds![],
        ),
        FindSagas::Forgotten => (
            "WHERE ended_at IS NULL AND NOT (waits IN ('lease', 'operator') AND due_at IS NULL OR waits IN ('timer', 'signal') AND due_at IS NOT NULL) LIMIT 100"
                .to_owned(),
            binds![],
        ),
        FindSagas::Ended { before, limit } => (
            format!("s WHERE {MAY_GO} ORDER BY ended_at LIMIT {limit}"),
            binds![before.0, false],
        ),
    }
}

fn saga(mut found: Row) -> Result<SavedSaga> {
    let found = &mut found;
    let standing = Standing {
        due: row::time(found, 9)?,
        output: row::option(found, 10)?.map(Json::trusted),
        ..Standing::leased(State::Running)
    };
    let (state, waits) = (row::text(found, 7)?, row::text(found, 8)?);
    let parent = row::option(found, 13)?;
    let saga = SavedSaga {
        id: read_id(found, 0)?,
        name: row::text(found, 1)?,
        key: row::text(found, 2)?,
        run: row::get(found, 3)?,
        partition: row::get(found, 4)?,
        definition: row::text(found, 5)?,
        input: Json::trusted(row::text(found, 6)?),
        standing,
        started_at: row::time(found, 11)?.unwrap_or_default(),
        ended_at: row::time(found, 12)?,
        parent: None,
        journal: Vec::new(),
        unreadable: None,
    };
    Ok(saga.with_words(&state, &waits, parent.as_deref()))
}

async fn journals(tx: &mut Transaction<'_>, sagas: &mut [SavedSaga]) -> Result<()> {
    if sagas.is_empty() {
        return Ok(());
    }
    let places: HashMap<SagaId, usize> =
        sagas.iter().enumerate().map(|(place, saga)| (saga.id, place)).collect();
    let sql = format!(
        "SELECT saga, version, time, epoch, entries FROM onewrite_saga_journal WHERE saga IN ({}) ORDER BY saga, version",
        list(sagas.iter().map(|saga| saga.id))
    );
    for mut found in tx.query::<Row, _>(sql).await.during("read the journal of a saga")? {
        let transition = SavedTransition {
            version: row::get(&mut found, 1)?,
            time: row::time(&mut found, 2)?.unwrap_or_default(),
            epoch: row::number(&mut found, 3)?,
            json: row::text(&mut found, 4)?,
        };
        if let Some(saga) = places.get(&read_id(&mut found, 0)?).and_then(|at| sagas.get_mut(*at)) {
            saga.journal.push(transition);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "read_test.rs"]
pub(crate) mod read_test;
