//! Parked keys and their records.

use deadpool_postgres::Transaction;
use onewrite_core::{
    Code, Error, Partition, Record, Result, Sequence, Text,
    parking::{ParkedKey, ParkedRecord, Request},
    position::Source,
};
use tokio_postgres::Client;

use crate::{
    commit::execute,
    error::While,
    row::{self, Arena, event_columns},
    statement,
    trim::query,
};

/// Parks the log's record at `sequence`, unless it is parked. It is copied, so that retention goes on.
pub(crate) async fn park_from_log(
    tx: &Transaction<'_>,
    source: &Source,
    sink: &str,
    (partition, sequence): (Partition, Sequence),
    reason: &str,
) -> Result<u64> {
    let scope = format!("relay/{sink}");
    let life = source.incarnation_at(sequence).to_string();
    let (partition, sequence) = (i32::from(partition), sequence.cast_signed());
    let copied = execute(
        tx,
        concat!(
            "INSERT INTO onewrite.parked (scope, origin, incarnation, sequence, partition, ",
            event_columns!(),
            ")
             SELECT $1, $2, $3, sequence, partition, ",
            event_columns!(),
            " FROM onewrite.log o WHERE partition = $4 AND sequence = $5
             AND NOT EXISTS (SELECT FROM onewrite.parked p
                 WHERE p.scope = $1 AND p.origin = $2 AND p.key = o.key AND p.sequence = $5 AND p.incarnation = $3)"
        ),
        &[&scope, &&*source.name, &life, &partition, &sequence],
    )
    .await?;
    if copied == 0 {
        let known = query(
            tx,
            "SELECT 1 FROM onewrite.parked WHERE scope = $1 AND origin = $2 AND sequence = $3 AND partition = $4 LIMIT 1",
            &[&scope, &&*source.name, &sequence, &partition],
        )
        .await?;
        if known.is_empty() {
            // Its sink was suspended meanwhile: the lane starts over and tells its receiver of the gap.
            return Err(Error::new(Code::NotFound, "a record to park is no longer in the log"));
        }
    }
    execute(
        tx,
        "INSERT INTO onewrite.parked_key (scope, source, key, partition, reason)
         SELECT $1, $2, key, partition, $3 FROM onewrite.log WHERE partition = $4 AND sequence = $5
         ON CONFLICT DO NOTHING",
        &[&scope, &&*source.name, &reason, &partition, &sequence],
    )
    .await?;
    Ok(copied)
}

/// Removes the front record of a key, and the key with its last one. Returns how many still wait.
pub(crate) async fn unpark(
    tx: &Transaction<'_>,
    scope: &str,
    (source, key): (&str, &str),
    position: Sequence,
) -> Result<u64> {
    // Whoever parks behind it waits, or comes first: the key is freed only when nothing is left.
    execute(
        tx,
        "SELECT FROM onewrite.parked_key WHERE scope = $1 AND source = $2 AND key = $3 FOR UPDATE",
        &[&scope, &source, &key],
    )
    .await?;
    execute(tx, statement::UNPARK, &[&position.cast_signed(), &scope, &source, &key]).await?;
    let left = left(tx, scope, (source, key)).await?;
    if left == 0 {
        execute(tx, statement::FREE, &[&scope, &source, &key]).await?;
    }
    Ok(left)
}

async fn left(tx: &Transaction<'_>, scope: &str, (source, key): (&str, &str)) -> Result<u64> {
    let found = query(tx, statement::LEFT, &[&scope, &source, &key]).await?;
    found.first().map_or(Ok(0), |found| row::number(found, 0))
}

/// Says what is to happen to a key; `reason` says why it waits again after a re-drive that failed.
pub(crate) async fn request(
    tx: &Transaction<'_>,
    scope: &str,
    (source, key): (&str, &str),
    request: Request,
    reason: Option<&str>,
) -> Result<u64> {
    execute(tx, statement::REQUEST, &[&scope, &key, &request.as_str(), &reason, &source]).await
}

/// Whether any key is parked, and whether any table is guarded.
pub(crate) async fn circumstances(tx: &Transaction<'_>, scope: &str) -> Result<(bool, bool)> {
    let found = query(tx, statement::CIRCUMSTANCES, &[&scope]).await?;
    Ok(found.first().map_or((true, true), |found| (found.get(0), found.get(1))))
}

pub(crate) async fn keys(client: &Client, scope: Option<&str>) -> Result<Vec<ParkedKey>> {
    let rows = client
        .query(
            "SELECT scope, source, partition, key, request, reason, since, redrives,
                (SELECT count(*) FROM onewrite.parked p WHERE p.scope = k.scope AND p.origin = k.source AND p.key = k.key)
             FROM onewrite.parked_key k WHERE $1::text IS NULL OR scope = $1 ORDER BY since, scope, key",
            &[&scope],
        )
        .await
        .during("list the parked keys")?;
    rows.iter()
        .map(|found| {
            Ok(ParkedKey {
                scope: row::text(found, 0)?,
                source: row::text(found, 1)?,
                partition: row::partition(found, 2)?,
                key: row::text(found, 3)?,
                request: Request::parse(&row::text(found, 4)?),
                reason: row::text(found, 5)?,
                since: row::time(found, 6)?.unwrap_or_default(),
                redrives: u32::try_from(row::number(found, 7)?).unwrap_or(u32::MAX),
                waiting: row::number(found, 8)?,
            })
        })
        .collect()
}

const RECORDS: &str = concat!(
    "SELECT position, incarnation, sequence, partition, ",
    event_columns!(),
    " FROM onewrite.parked WHERE scope = $1 AND origin = $2 AND key = $3
      ORDER BY CASE WHEN scope LIKE 'relay/%' THEN sequence ELSE position END LIMIT $4"
);

/// The records of a key from the front.
pub(crate) async fn records(
    client: &Client,
    key: &ParkedKey,
    limit: usize,
) -> Result<Vec<ParkedRecord>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = client
        .query(RECORDS, &[&&*key.scope, &&*key.source, &&*key.key, &limit])
        .await
        .during("read parked records")?;
    let mut arena = Arena::new();
    rows.iter()
        .map(|found| {
            Ok(ParkedRecord {
                position: row::number(found, 0)?,
                record: Record {
                    source: key.source.clone(),
                    incarnation: row::text(found, 1)?.parse()?,
                    sequence: row::number(found, 2)?,
                    partition: row::partition(found, 3)?,
                    event: row::event(found, 4, &mut arena)?,
                },
            })
        })
        .collect()
}

/// What is asked for a parked key now, if it is still parked; locked until this transaction ends.
pub(crate) async fn requested(tx: &Transaction<'_>, key: &ParkedKey) -> Result<Option<Request>> {
    let found = query(tx, statement::REQUESTED, &[&&*key.scope, &&*key.source, &&*key.key]).await?;
    let word: Option<Text> = found.first().map(|found| row::text(found, 0)).transpose()?;
    Ok(word.map(|word| Request::parse(&word)))
}
