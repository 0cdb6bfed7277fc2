//! Parked keys and their records.

use onewrite_core::{
    Code, Error, Record, Result, Sequence, Timestamp,
    parking::{ParkedKey, ParkedRecord, Request},
    position::Source,
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{
    claim::{execute, number},
    error::While,
    row::{self, Arena, event_columns},
    statement,
    writer::now,
};

/// Parks the log's record at `sequence`, unless it is parked. It is copied, so that retention goes on.
pub(crate) fn park_from_log(
    tx: &Connection,
    source: &Source,
    sink: &str,
    sequence: Sequence,
    reason: &str,
) -> Result<u64> {
    let scope = format!("relay/{sink}");
    let life = source.incarnation_at(sequence).to_string();
    let copied = execute(
        tx,
        concat!(
            "INSERT INTO onewrite_parked (scope, origin, incarnation, sequence, partition, ",
            event_columns!(),
            ")
             SELECT ?1, ?2, ?3, sequence, partition, ",
            event_columns!(),
            " FROM onewrite_outbox o WHERE sequence = ?4
             AND NOT EXISTS (SELECT 1 FROM onewrite_parked p
                 WHERE p.scope = ?1 AND p.origin = ?2 AND p.key = o.key AND p.sequence = ?4 AND p.incarnation = ?3)"
        ),
        params![scope, &*source.name, life, sequence.cast_signed()],
    )?;
    let known = number(
        tx,
        "SELECT count(*) FROM onewrite_parked WHERE scope = ?1 AND origin = ?2 AND sequence = ?3",
        params![scope, &*source.name, sequence.cast_signed()],
    )?;
    if known == 0 {
        // Its sink was suspended meanwhile: the lane starts over and tells its receiver of the gap.
        return Err(Error::new(Code::NotFound, "a record to park is no longer in the log"));
    }
    execute(
        tx,
        "INSERT INTO onewrite_parked_key (scope, source, key, partition, reason, since)
         SELECT ?1, ?2, key, partition, ?3, ?4 FROM onewrite_outbox WHERE sequence = ?5
         ON CONFLICT DO NOTHING",
        params![scope, &*source.name, reason, now().0, sequence.cast_signed()],
    )?;
    Ok(copied)
}

/// Removes the front record of a key, and the key with its last one. Returns how many still wait.
pub(crate) fn unpark(
    tx: &Connection,
    scope: &str,
    source: &str,
    key: &str,
    position: Sequence,
) -> Result<u64> {
    execute(tx, statement::UNPARK, params![position.cast_signed(), scope, source, key])?;
    let left = number(tx, statement::LEFT, params![scope, source, key])?;
    if left == 0 {
        execute(tx, statement::FREE, params![scope, source, key])?;
    }
    Ok(left.cast_unsigned())
}

/// Says what is to happen to a key; `reason` says why it waits again after a re-drive that failed.
pub(crate) fn request(
    tx: &Connection,
    scope: &str,
    (source, key): (&str, &str),
    request: Request,
    reason: Option<&str>,
) -> Result<u64> {
    execute(tx, statement::REQUEST, params![scope, key, request.as_str(), reason, source])
}

pub(crate) fn any_parked(tx: &Connection, scope: &str) -> Result<bool> {
    number(tx, statement::ANY_PARKED, params![scope]).map(|found| found > 0)
}

pub(crate) fn keys(connection: &Connection, scope: Option<&str>) -> Result<Vec<ParkedKey>> {
    let mut statement = connection
        .prepare_cached(
            "SELECT scope, source, partition, key, request, reason, since, redrives,
                (SELECT count(*) FROM onewrite_parked p WHERE p.scope = k.scope AND p.origin = k.source AND p.key = k.key)
             FROM onewrite_parked_key k WHERE ?1 IS NULL OR scope = ?1 ORDER BY since, scope, key",
        )
        .during("list the parked keys")?;
    let read = |row: &Row<'_>| {
        Ok(ParkedKey {
            scope: row.get::<_, String>(0)?.into(),
            source: row.get::<_, String>(1)?.into(),
            partition: row.get(2)?,
            key: row.get::<_, String>(3)?.into(),
            request: Request::parse(&row.get::<_, String>(4)?),
            reason: row.get::<_, String>(5)?.into(),
            since: Timestamp(row.get(6)?),
            redrives: row.get(7)?,
            waiting: row.get::<_, i64>(8)?.cast_unsigned(),
        })
    };
    statement.query_map([scope], read).and_then(Iterator::collect).during("list the parked keys")
}

/// The records of a key from the front.
pub(crate) fn records(
    connection: &Connection,
    key: &ParkedKey,
    limit: usize,
) -> Result<Vec<ParkedRecord>> {
    let mut statement = connection
        .prepare_cached(concat!(
            "SELECT position, incarnation, sequence, partition, ", event_columns!(),
            " FROM onewrite_parked WHERE scope = ?1 AND origin = ?2 AND key = ?3 ORDER BY CASE WHEN scope LIKE 'relay/%' THEN sequence ELSE position END LIMIT ?4"
        ))
        .during("read parked records")?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement
        .query(params![&*key.scope, &*key.source, &*key.key, limit])
        .during("read parked records")?;
    let mut arena = Arena::new();
    let mut records = Vec::new();
    while let Some(found) = rows.next().during("read parked records")? {
        let number = |index| {
            found.get::<_, i64>(index).during("read a parked record").map(i64::cast_unsigned)
        };
        let life: String = found.get(1).during("read a parked record")?;
        records.push(ParkedRecord {
            position: number(0)?,
            record: Record {
                source: key.source.clone(),
                incarnation: life.parse()?,
                sequence: number(2)?,
                partition: found.get(3).during("read a parked record")?,
                event: row::event(found, 4, &mut arena)?,
            },
        });
    }
    Ok(records)
}

/// The front record of a key.
pub(crate) fn front(tx: &Connection, key: &ParkedKey) -> Result<Option<ParkedRecord>> {
    Ok(records(tx, key, 1)?.pop())
}

/// The key as it is now, if it is still parked.
pub(crate) fn current(tx: &Connection, key: &ParkedKey) -> Result<Option<Request>> {
    let request: Option<String> = tx
        .prepare_cached(statement::REQUESTED)
        .and_then(|mut statement| {
            statement
                .query_row(params![&*key.scope, &*key.source, &*key.key], |row| row.get(0))
                .optional()
        })
        .during("look at a parked key")?;
    Ok(request.map(|text| Request::parse(&text)))
}
