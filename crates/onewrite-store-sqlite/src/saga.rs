//! Sagas: definitions, rows and journals.

mod heads;
mod trim;

use onewrite_core::{
    Code, Error, Partition, Result, Text, Timestamp,
    lease::Fence,
    sabotage::{Defect, Sabotage},
    saga::{
        Attribute, Checked, Json, Parent, SagaId,
        journal::{
            FindSagas, NewSaga, SavedSaga, SavedTransition, Standing, State, Transition, Waits,
        },
    },
};
use rusqlite::{
    Connection, OptionalExtension, Row, params,
    types::{FromSql, FromSqlResult, ValueRef},
};

use self::trim::MAY_GO;
pub(crate) use self::{heads::heads, trim::trim};
use crate::{claim::execute, error::While, signal, writer::now};

/// Sagas read at most where no limit is asked for.
const FORGOTTEN_MAX: usize = 100;

/// Stores a definition, unless it is stored. Another text under the same id is refused.
pub(crate) fn define(tx: &Connection, checked: &Checked) -> Result<u64> {
    let (id, name) = (&**checked.id(), &*checked.definition().name);
    let new = execute(
        tx,
        "INSERT INTO onewrite_saga_definition (id, name, definition, since) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        params![id, name, &**checked.json(), now().0],
    )?;
    if new == 0 && definition(tx, id)?.as_ref() != Some(checked.json()) {
        return Err(Error::new(
            Code::InvariantBroken,
            format!("the definition {id} is stored with another text"),
        ));
    }
    Ok(new)
}

/// Starts a saga: one, or none when one of its name and key exists, of its run or a later one.
pub(crate) fn start(tx: &Connection, saga: &NewSaga) -> Result<u64> {
    let standing = &saga.standing;
    let ended = standing.waits == Waits::Nothing;
    let new = execute(
        tx,
        "INSERT INTO onewrite_saga (id, name, key, run, partition, definition, input, state, waits, due_at, started_at, ended_at, parent)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13
         WHERE NOT EXISTS (SELECT 1 FROM onewrite_saga WHERE name = ?2 AND key = ?3 AND run >= ?4)",
        params![
            saga.id.0.to_be_bytes(),
            &*saga.name,
            &*saga.key,
            saga.run,
            saga.partition,
            &*saga.definition,
            saga.input.as_str(),
            standing.state.as_str(),
            standing.waits.as_str(),
            standing.due.map(|due| due.0),
            saga.started_at.0,
            ended.then_some(saga.started_at.0),
            saga.parent.as_ref().map(Parent::to_string),
        ],
    )?;
    if new > 0 {
        signal::wait(tx, saga.id, saga.partition, &saga.awaits)?;
        for Attribute { name, value } in &saga.attributes {
            let sql = "INSERT INTO onewrite_saga_attribute (saga, name, value) VALUES (?1, ?2, ?3)";
            execute(tx, sql, params![saga.id.0.to_be_bytes(), &**name, &**value])?;
        }
    }
    Ok(new)
}

/// Adds a transition to a journal, and says on the saga's row what changes. One that [`Transition::is_plain`]
/// is written as a whole or not at all, also without a savepoint.
pub(crate) fn advance(
    tx: &Connection,
    fence: Option<&Fence>,
    transition: &Transition,
    sabotage: Sabotage,
) -> Result<u64> {
    if let Some(taken) = &transition.takes {
        signal::take(tx, transition.saga, taken, sabotage)?;
    }
    if let Some(awaits) = &transition.awaits {
        signal::wait_instead(tx, transition.saga, awaits)?;
    }
    let sql = if sabotage.has(Defect::NoVersion) {
        "INSERT OR REPLACE INTO onewrite_saga_journal (saga, version, time, epoch, entries) VALUES (?1, ?2, ?3, ?4, ?5)"
    } else {
        "INSERT INTO onewrite_saga_journal (saga, version, time, epoch, entries) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING"
    };
    let saga = transition.saga.0.to_be_bytes();
    let epoch = fence.map_or(0, |fence| fence.epoch.cast_signed());
    let binds = params![saga, transition.version, transition.time.0, epoch, &*transition.entries];
    if execute(tx, sql, binds)? == 0 {
        let Transition { saga, version, .. } = transition;
        let what = format!("transition {version} of the saga {saga} exists already");
        return Err(Error::new(Code::SagaConflict, what));
    }
    match transition.standing.as_ref().map(|standing| stand(tx, transition, standing)) {
        None | Some(Ok(1)) => Ok(1),
        Some(Ok(_)) => {
            let sql = "DELETE FROM onewrite_saga_journal WHERE saga = ?1 AND version = ?2";
            execute(tx, sql, params![saga, transition.version])?;
            Err(Error::new(Code::NotFound, format!("there is no saga {}", transition.saga)))
        }
        Some(Err(error)) => {
            // The database itself failed between two statements that belong together: the transaction ends
            // here, and none of those who share it is told that it was committed.
            let _ = tx.execute_batch("ROLLBACK");
            Err(error)
        }
    }
}

/// Says on a saga's row what it waits for from now on.
fn stand(tx: &Connection, transition: &Transition, standing: &Standing) -> Result<u64> {
    let ended = standing.waits == Waits::Nothing;
    execute(
        tx,
        "UPDATE onewrite_saga SET state = ?2, waits = ?3, due_at = ?4, output = ?5, ended_at = ?6 WHERE id = ?1",
        params![
            transition.saga.0.to_be_bytes(),
            standing.state.as_str(),
            standing.waits.as_str(),
            standing.due.map(|due| due.0),
            standing.output.as_ref().map(Json::as_str),
            ended.then_some(transition.time.0),
        ],
    )
}

pub(crate) fn definition(connection: &Connection, id: &str) -> Result<Option<Text>> {
    connection
        .prepare_cached("SELECT definition FROM onewrite_saga_definition WHERE id = ?1")
        .and_then(|mut statement| {
            statement.query_row([id], |row| row.get::<_, Lossy>(0)).optional()
        })
        .during("read the definition of a saga")
        .map(|found| found.map(|text| text.0.into()))
}

const COLUMNS: &str = "SELECT id, name, key, run, partition, definition, input, state, waits, due_at, output, started_at, ended_at, parent FROM onewrite_saga";

/// Sagas with their journals, as of one moment.
pub(crate) fn find(connection: &Connection, find: &FindSagas) -> Result<Vec<SavedSaga>> {
    // One transaction: a saga's row and its journal belong together.
    let tx = connection.unchecked_transaction().during("read sagas")?;
    let mut sagas = rows(&tx, find)?;
    for saga in &mut sagas {
        saga.journal = journal(&tx, saga.id)?;
    }
    Ok(sagas)
}

fn rows(tx: &Connection, find: &FindSagas) -> Result<Vec<SavedSaga>> {
    match find {
        FindSagas::Id(id) => read(tx, "WHERE id = ?1", params![id.0.to_be_bytes()]),
        FindSagas::Ids(ids) => {
            read(tx, "WHERE id IN (SELECT unhex(value) FROM json_each(?1))", [hex(ids)])
        }
        FindSagas::Key { name, key } => read(
            tx,
            "WHERE name = ?1 AND key = ?2 ORDER BY run DESC LIMIT 1",
            params![&**name, &**key],
        ),
        FindSagas::Leased { partitions, after, limit } => read(
            tx,
            "WHERE partition IN (SELECT value FROM json_each(?1)) AND waits = 'lease' AND ended_at IS NULL AND id > ?2
             ORDER BY id LIMIT ?3",
            params![list(partitions), after.0.to_be_bytes(), bound(*limit)],
        ),
        FindSagas::Due { also_signals, partitions, limit } => read(
            tx,
            "WHERE partition IN (SELECT value FROM json_each(?1)) AND waits IN ('timer', iif(?4, 'signal', 'timer')) AND ended_at IS NULL AND due_at <= ?2
             ORDER BY due_at LIMIT ?3",
            params![list(partitions), now().0, bound(*limit), also_signals],
        ),
        FindSagas::Forgotten => read(
            tx,
            "WHERE ended_at IS NULL AND NOT (waits IN ('lease', 'operator') AND due_at IS NULL OR waits IN ('timer', 'signal') AND due_at IS NOT NULL)
             LIMIT ?1",
            params![bound(FORGOTTEN_MAX)],
        ),
        FindSagas::Ended { before, limit } => read(
            tx,
            &format!("s WHERE {MAY_GO} ORDER BY ended_at LIMIT ?3"),
            params![before.0, false, bound(*limit)],
        ),
    }
}

fn bound(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Ids as a JSON array of hexadecimal numbers.
fn hex(ids: &[SagaId]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| format!("{:032x}", id.0)).collect();
    format!("{ids:?}")
}

pub(crate) fn list(partitions: &[Partition]) -> String {
    format!("{partitions:?}")
}

fn read(tx: &Connection, which: &str, binds: impl rusqlite::Params) -> Result<Vec<SavedSaga>> {
    let mut statement = tx.prepare_cached(&format!("{COLUMNS} {which}")).during("read sagas")?;
    let mut rows = statement.query(binds).during("read sagas")?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during("read sagas")? {
        found.push(saga(row)?);
    }
    Ok(found)
}

fn saga(row: &Row<'_>) -> Result<SavedSaga> {
    let parent = option(row, 13)?;
    let standing = Standing {
        due: time(row, 9)?,
        output: option(row, 10)?.map(Json::trusted),
        ..Standing::leased(State::Running)
    };
    let saga = SavedSaga {
        id: SagaId(u128::from_be_bytes(row.get(0).during("read a saga")?)),
        name: text(row, 1)?,
        key: text(row, 2)?,
        run: number(row.get(3).during("read a saga")?),
        partition: row.get(4).during("read a saga")?,
        definition: text(row, 5)?,
        input: option(row, 6)?.map_or(Json::NULL, Json::trusted),
        standing,
        started_at: time(row, 11)?.unwrap_or_default(),
        ended_at: time(row, 12)?,
        parent: None,
        journal: Vec::new(),
        unreadable: None,
    };
    Ok(saga.with_words(&text(row, 7)?, &text(row, 8)?, parent.as_deref()))
}

fn text(row: &Row<'_>, index: usize) -> Result<Text> {
    row.get::<_, Lossy>(index).map(|text| text.0.into()).during("read a saga")
}

fn option(row: &Row<'_>, index: usize) -> Result<Option<String>> {
    let found: Option<Lossy> = row.get(index).during("read a saga")?;
    Ok(found.map(|text| text.0))
}

fn time(row: &Row<'_>, index: usize) -> Result<Option<Timestamp>> {
    row.get::<_, Option<i64>>(index).map(|time| time.map(Timestamp)).during("read a saga")
}

/// Text of which somebody may have made something else by hand: that concerns its own saga, and no other.
pub(crate) struct Lossy(pub(crate) String);

impl FromSql for Lossy {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_bytes().map(|bytes| Self(String::from_utf8_lossy(bytes).into_owned()))
    }
}

/// A number that somebody wrote by hand may be none: no saga has this one, and it can be read all the same.
fn number(stored: i64) -> u32 {
    u32::try_from(stored).unwrap_or(u32::MAX)
}

fn journal(tx: &Connection, saga: SagaId) -> Result<Vec<SavedTransition>> {
    tx.prepare_cached(
        "SELECT version, time, epoch, entries FROM onewrite_saga_journal WHERE saga = ?1 ORDER BY version",
    )
    .and_then(|mut statement| {
        let rows = statement.query_map(params![saga.0.to_be_bytes()], |row| {
            Ok(SavedTransition {
                version: number(row.get(0)?),
                time: Timestamp(row.get(1)?),
                epoch: row.get::<_, i64>(2)?.cast_unsigned(),
                json: row.get::<_, Lossy>(3)?.0.into(),
            })
        })?;
        rows.collect()
    })
    .during("read the journal of a saga")
}
