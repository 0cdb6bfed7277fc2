//! Sagas: definitions, rows and journals.
//!
//! Starts and transitions of many sagas go in one statement each. Their values stand in the statement as
//! hexadecimal numbers: nothing in them can end it, and its text differs each time, so that preparing it
//! would gain nothing.

mod heads;
mod read;
mod trim;
mod write;

use std::fmt::Write as _;

use mysql_async::{Row, prelude::Queryable};
use onewrite_core::{
    Code, Error, Partition, Result, Text,
    lease::{Epoch, Fence},
    sabotage::{Defect, Sabotage},
    saga::{
        Attribute, Checked, SagaId,
        journal::{NewSaga, Transition, Waits},
    },
};

#[cfg(test)]
pub(crate) use self::read::read_test;
pub(crate) use self::{heads::heads, read::find, trim::trim, write::write_all};
use crate::{
    error::While,
    row::{self, binds, execute, now, query_one, quoted},
};

/// Stores a definition, unless it is stored. Another text under the same id is refused.
pub(crate) async fn define(tx: &mut impl Queryable, checked: &Checked) -> Result<u64> {
    let id = &**checked.id();
    let sql = concat!(
        "INSERT IGNORE INTO onewrite_saga_definition (id, name, definition, since) VALUES (?, ?, ?, ",
        now!(),
        ")"
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
    let mut new = Vec::new();
    for piece in pieces(sagas, |saga| saga.input.as_str().len()) {
        insert(tx, piece).await?;
        new.extend(inserted(tx, piece).await?);
    }
    let new: Vec<bool> = sagas.iter().map(|saga| new.contains(&saga.id)).collect();
    let started = sagas.iter().zip(&new).filter(|(_, new)| **new).map(|(saga, _)| *saga);
    note_attributes(tx, started).await?;
    Ok(new)
}

/// Notes what new sagas are looked for by.
async fn note_attributes(
    tx: &mut impl Queryable,
    sagas: impl Iterator<Item = &NewSaga>,
) -> Result<()> {
    let row = |saga: &NewSaga, Attribute { name, value }: &Attribute| {
        format!("({}, {}, {})", id(saga.id), quoted(name), quoted(value))
    };
    let rows = sagas.flat_map(|saga| saga.attributes.iter().map(|one| row(saga, one)));
    let rows: Vec<String> = rows.collect();
    for piece in pieces(&rows, String::len) {
        let sql = format!(
            "INSERT IGNORE INTO onewrite_saga_attribute (saga, name, value) VALUES {}",
            piece.join(", ")
        );
        tx.query_drop(sql).await.during("start sagas")?;
    }
    Ok(())
}

async fn insert(tx: &mut impl Queryable, sagas: &[&NewSaga]) -> Result<()> {
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
    tx.query_drop(sql).await.during("start sagas")
}

/// Which of them are there now: they are new. One of which a later run exists is taken back.
async fn inserted(tx: &mut impl Queryable, sagas: &[&NewSaga]) -> Result<Vec<SagaId>> {
    let ids = list(sagas.iter().map(|new| new.id));
    let there = format!(
        "SELECT id, EXISTS (SELECT 1 FROM onewrite_saga n WHERE n.name = s.name AND n.`key` = s.`key` AND n.run > s.run)
         FROM onewrite_saga s WHERE id IN ({ids})"
    );
    let (mut new, mut late) = (Vec::new(), Vec::new());
    for mut found in tx.query::<Row, _>(there).await.during("start sagas")? {
        let of = if row::get(&mut found, 1)? { &mut late } else { &mut new };
        of.push(read_id(&mut found, 0)?);
    }
    if !late.is_empty() {
        let sql = format!("DELETE FROM onewrite_saga WHERE id IN ({})", list(late.into_iter()));
        tx.query_drop(sql).await.during("start sagas")?;
    }
    Ok(new)
}

/// Bytes of data in one statement, about: they stand there as twice as many, and a server takes 16 MiB.
const PIECE: usize = 2 << 20;

/// Cut into what one statement may hold.
fn pieces<T>(all: &[T], bytes: impl Fn(&T) -> usize + Copy) -> impl Iterator<Item = &[T]> {
    let mut rest = all;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = rest.iter().take_while(|one| {
            sum += bytes(one);
            sum <= PIECE
        });
        let (piece, behind) = rest.split_at(fits.count().max(1).min(rest.len()));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Adds transitions to journals, at most one for each saga. When one's number exists, none is to be committed.
pub(crate) async fn advance(
    tx: &mut impl Queryable,
    transitions: &[(Epoch, &Transition)],
    sabotage: Sabotage,
) -> Result<()> {
    let bytes = |(_, next): &(Epoch, &Transition)| {
        let output = next.standing.as_ref().and_then(|standing| standing.output.as_ref());
        next.entries.len() + output.map_or(0, |output| output.as_str().len())
    };
    for piece in pieces(transitions, bytes) {
        append(tx, piece, sabotage).await?;
        stand(tx, piece).await?;
    }
    Ok(())
}

async fn append(
    tx: &mut impl Queryable,
    transitions: &[(Epoch, &Transition)],
    sabotage: Sabotage,
) -> Result<()> {
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
    })
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
    let stood = tx.query_iter(sql).await.during("advance sagas")?;
    let found = stood.affected_rows();
    stood.drop_result().await.during("advance sagas")?;
    if found < count {
        return Err(Error::new(Code::NotFound, "there is no saga to advance"));
    }
    Ok(())
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

pub(crate) fn numbers(partitions: &[Partition]) -> String {
    // Never an empty list, which is no SQL; there is no such partition.
    let all = partitions.iter().map(ToString::to_string).chain(["-1".to_owned()]);
    all.collect::<Vec<_>>().join(",")
}

pub(crate) async fn definition(on: &mut impl Queryable, id: &str) -> Result<Option<Text>> {
    let sql = "SELECT definition FROM onewrite_saga_definition WHERE id = ?";
    let found = query_one(on, sql, binds![id]).await?;
    found.map(|mut found| row::text(&mut found, 0)).transpose()
}
