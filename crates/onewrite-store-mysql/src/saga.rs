//! Sagas: definitions, rows and journals.
//!
//! Starts and transitions of many sagas go in one statement each. Their values stand in the statement as
//! hexadecimal numbers: nothing in them can end it, and its text differs each time, so that preparing it
//! would gain nothing.

use std::{collections::HashMap, fmt::Write as _};

use mysql_async::{Conn, Params, Row, Transaction, TxOpts, prelude::Queryable};
use onewrite_core::{
    Code, Error, Partition, Result, Text,
    lease::{Epoch, Fence},
    sabotage::{Defect, Sabotage},
    saga::{
        Checked, Group, Json, SagaId,
        journal::{
            FindSagas, NewSaga, SCOPE, SavedSaga, SavedTransition, Standing, State, Transition,
            Waits,
        },
    },
    store::Outcome,
};

use crate::{
    commit::{ROLL_BACK, SAVEPOINT, finish},
    error::While,
    row::{self, began, binds, execute, now, query, query_one, quoted},
};

/// Stores a definition, unless it is stored. Another text under the same id is refused.
pub(crate) async fn define(tx: &mut impl Queryable, checked: &Checked) -> Result<u64> {
    let id = &**checked.id();
    let sql = concat!(
        "INSERT INTO onewrite_saga_definition (id, name, definition, since) VALUES (?, ?, ?, ",
        now!(),
        ") ON DUPLICATE KEY UPDATE id = id"
    );
    let binds = binds![id, &*checked.definition().name, &**checked.json()];
    let new = execute(tx, sql, binds).await?;
    if definition(tx, id).await?.as_ref() != Some(checked.json()) {
        return Err(Error::new(
            Code::InvariantBroken,
            format!("the definition {id} is stored with another text"),
        ));
    }
    Ok(new)
}

/// Starts sagas: says for each whether it is new.
pub(crate) async fn start(tx: &mut impl Queryable, sagas: &[&NewSaga]) -> Result<Vec<bool>> {
    if sagas.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(long) = sagas.iter().find(|new| new.key.chars().count() > KEY_MAX) {
        let what = format!("the key of a saga `{}` has more than {KEY_MAX} characters", long.name);
        return Err(Error::new(Code::InvalidInput, what));
    }
    let mut sql = String::from(
        "INSERT INTO onewrite_saga (id, name, `key`, run, `partition`, definition, input, state, waits, due_at, started_at, ended_at, parent) VALUES ",
    );
    for (index, new) in sagas.iter().enumerate() {
        let standing = &new.standing;
        let ended = (standing.waits == Waits::Nothing).then_some(new.started_at.0);
        let parent = new.parent.as_ref().map(|parent| quoted(&parent.to_string()));
        // Writing to a text cannot fail.
        let _ = write!(
            sql,
            "{}({}, {}, {}, {}, {}, {}, {}, '{}', '{}', {}, {}, {}, {})",
            comma(index),
            id(new.id),
            quoted(&new.name),
            quoted(&new.key),
            new.run,
            new.partition,
            quoted(&new.definition),
            quoted(new.input.as_str()),
            standing.state.as_str(),
            standing.waits.as_str(),
            option(standing.due.map(|due| due.0)),
            new.started_at.0,
            option(ended),
            parent.as_deref().unwrap_or("NULL")
        );
    }
    // One of the same name, key and run is left as it is.
    sql.push_str(" ON DUPLICATE KEY UPDATE run = onewrite_saga.run");
    tx.query_drop(sql).await.during("start sagas")?;
    let ids = list(sagas.iter().map(|new| new.id));
    let there = format!("SELECT id FROM onewrite_saga WHERE id IN ({ids})");
    let mut new = Vec::new();
    for mut found in tx.query::<Row, _>(there).await.during("start sagas")? {
        new.push(read_id(&mut found, 0)?);
    }
    Ok(sagas.iter().map(|saga| new.contains(&saga.id)).collect())
}

/// Characters that a key may have: the column's.
const KEY_MAX: usize = 255;

/// Adds transitions to journals, at most one for each saga. When one's number exists, none is written.
pub(crate) async fn advance(
    tx: &mut impl Queryable,
    transitions: &[(Epoch, &Transition)],
    sabotage: Sabotage,
) -> Result<()> {
    if transitions.is_empty() {
        return Ok(());
    }
    let verb = if sabotage.has(Defect::NoVersion) { "REPLACE" } else { "INSERT" };
    let mut sql =
        format!("{verb} INTO onewrite_saga_journal (saga, version, time, epoch, entries) VALUES ");
    for (index, (epoch, next)) in transitions.iter().enumerate() {
        let Transition { saga, version, time, entries, .. } = next;
        let (saga, entries) = (id(*saga), quoted(entries));
        let _ = write!(sql, "{}({saga}, {version}, {}, {epoch}, {entries})", comma(index), time.0);
    }
    tx.query_drop(sql).await.map_err(|error| match error {
        mysql_async::Error::Server(said) if said.code == DUPLICATE => {
            Error::new(Code::SagaConflict, "a transition of a saga exists already")
        }
        error => crate::error::database("advance sagas", error),
    })?;
    stand(tx, transitions).await
}

/// The server's number for a row that exists already.
const DUPLICATE: u16 = 1062;

/// Writes what the rows of sagas say from now on.
async fn stand(tx: &mut impl Queryable, transitions: &[(Epoch, &Transition)]) -> Result<()> {
    let mut sql = String::from("UPDATE onewrite_saga s JOIN (");
    let mut count = 0;
    for (_, next) in transitions {
        let Some(standing) = &next.standing else { continue };
        let ended = (standing.waits == Waits::Nothing).then_some(next.time.0);
        let output = standing.output.as_ref().map(|output| quoted(output.as_str()));
        let _ = write!(
            sql,
            "{}SELECT {} AS id, '{}' AS state, '{}' AS waits, {} AS due_at, {} AS output, {} AS ended_at",
            if count > 0 { " UNION ALL " } else { "" },
            id(next.saga),
            standing.state.as_str(),
            standing.waits.as_str(),
            option(standing.due.map(|due| due.0)),
            output.as_deref().unwrap_or("NULL"),
            option(ended)
        );
        count += 1;
    }
    if count == 0 {
        return Ok(());
    }
    sql.push_str(
        ") n ON s.id = n.id SET s.state = n.state, s.waits = n.waits, s.due_at = n.due_at, s.output = n.output, s.ended_at = n.ended_at",
    );
    tx.query_drop(sql).await.during("advance sagas")
}

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
        Err(error) if error.code() == Code::SagaConflict => {
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

/// Where one of many exists already: each by itself.
async fn advance_one(
    tx: &mut Transaction<'_>,
    one: (Epoch, &Transition),
    sabotage: Sabotage,
) -> Result<Outcome> {
    tx.query_drop(SAVEPOINT).await.during("begin an item")?;
    match advance(tx, &[one], sabotage).await {
        Ok(()) => Ok(Outcome::Applied(1)),
        Err(error) if error.code() == Code::SagaConflict => {
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

pub(crate) fn epoch(fence: Option<&Fence>) -> Epoch {
    fence.map_or(0, |fence| fence.epoch)
}

fn id(id: SagaId) -> String {
    format!("X'{:032x}'", id.0)
}

fn list(ids: impl Iterator<Item = SagaId>) -> String {
    ids.map(id).collect::<Vec<_>>().join(",")
}

fn comma(index: usize) -> &'static str {
    if index > 0 { ", " } else { "" }
}

fn option(number: Option<i64>) -> String {
    number.map_or_else(|| "NULL".into(), |number| number.to_string())
}

pub(crate) fn read_id(found: &mut Row, index: usize) -> Result<SagaId> {
    let bytes: Vec<u8> = row::get(found, index)?;
    let bytes = <[u8; 16]>::try_from(bytes)
        .map_err(|_| Error::new(Code::Corrupt, "the id of a saga has another length"))?;
    Ok(SagaId(u128::from_be_bytes(bytes)))
}

pub(crate) async fn definition(on: &mut impl Queryable, id: &str) -> Result<Option<Text>> {
    let sql = "SELECT definition FROM onewrite_saga_definition WHERE id = ?";
    let found = query_one(on, sql, binds![id]).await?;
    found.map(|mut found| row::text(&mut found, 0)).transpose()
}

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
        FindSagas::Due { partitions, limit } => (
            format!(
                concat!(
                    "WHERE `partition` IN ({}) AND waits IN ('timer', 'signal') AND ended_at IS NULL AND due_at <= ",
                    began!(),
                    " ORDER BY due_at LIMIT {}"
                ),
                numbers(partitions),
                limit
            ),
            binds![],
        ),
        FindSagas::Forgotten => (
            "WHERE ended_at IS NULL AND NOT (waits IN ('lease', 'operator') AND due_at IS NULL OR waits IN ('timer', 'signal') AND due_at IS NOT NULL) LIMIT 100"
                .to_owned(),
            binds![],
        ),
    }
}

pub(crate) fn numbers(partitions: &[Partition]) -> String {
    // Never an empty list, which is no SQL; there is no such partition.
    let all = partitions.iter().map(ToString::to_string).chain(["-1".to_owned()]);
    all.collect::<Vec<_>>().join(",")
}

fn saga(mut found: Row) -> Result<SavedSaga> {
    let found = &mut found;
    let standing = Standing {
        state: State::parse(&row::text(found, 7)?)?,
        waits: Waits::parse(&row::text(found, 8)?)?,
        due: row::time(found, 9)?,
        output: row::option(found, 10)?.map(Json::trusted),
    };
    Ok(SavedSaga {
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
        parent: row::option(found, 13)?.map(|parent| parent.parse()).transpose()?,
        journal: Vec::new(),
    })
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
#[path = "saga_test.rs"]
pub(crate) mod saga_test;
