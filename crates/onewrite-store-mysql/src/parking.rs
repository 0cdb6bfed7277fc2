//! Parked keys and their records. A key is found by its digest, which fits an index whatever its length.

use mysql_async::{Conn, Row, Value};
use onewrite_core::{
    Code, Error, Partition, Record, Result, Sequence,
    parking::{ParkedKey, ParkedRecord, Request},
    position::Source,
};

use crate::{
    client::Client,
    row::{self, binds, event_columns, execute, now, query, query_one},
};

/// The digest of two texts: SHA-256 of one, a byte 0, and the other.
macro_rules! digest {
    ($left:literal, $right:literal) => {
        concat!("UNHEX(SHA2(CONCAT(", $left, ", X'00', ", $right, "), 256))")
    };
}
pub(crate) use digest;

/// Parks the log's record at `sequence`, unless it is parked. It is copied, so that retention goes on.
pub(crate) async fn park_from_log(
    tx: &mut impl Client,
    source: &Source,
    sink: &str,
    sequence: Sequence,
    reason: &str,
) -> Result<u64> {
    let scope = format!("relay/{sink}");
    let life = source.incarnation_at(sequence).to_string();
    let (name, sequence) = (&*source.name, sequence.cast_signed());
    let known = "SELECT 1 FROM onewrite_parked WHERE scope = ? AND origin = ? AND sequence = ? AND incarnation = ? LIMIT 1";
    if query_one(tx, known, binds![&*scope, name, sequence, &*life]).await?.is_some() {
        return Ok(0);
    }
    let copy = concat!(
        "INSERT INTO onewrite_parked (scope, digest, origin, incarnation, sequence, `partition`, ",
        event_columns!(),
        ") SELECT ?, ",
        digest!("?", "`key`"),
        ", ?, ?, sequence, `partition`, ",
        event_columns!(),
        " FROM onewrite_log WHERE sequence = ?"
    );
    if execute(tx, copy, binds![&*scope, name, name, &*life, sequence]).await? == 0 {
        // Its sink was suspended meanwhile: the lane starts over and tells its receiver of the gap.
        return Err(Error::new(Code::NotFound, "a record to park is no longer in the log"));
    }
    let key = concat!(
        "INSERT INTO onewrite_parked_key (scope, digest, source, `key`, `partition`, reason, since) SELECT ?, ",
        digest!("?", "`key`"),
        ", ?, `key`, `partition`, ?, ",
        now!(),
        " FROM onewrite_log l WHERE sequence = ? ON DUPLICATE KEY UPDATE scope = onewrite_parked_key.scope"
    );
    execute(tx, key, binds![&*scope, name, name, reason, sequence]).await?;
    Ok(1)
}

/// Parks a record that came over the wire.
pub(crate) async fn park_record(tx: &mut impl Client, scope: &str, record: &Record) -> Result<u64> {
    let (event, source) = (&record.event, &*record.source);
    let key = &**event.order_key();
    let copy = concat!(
        "INSERT INTO onewrite_parked (scope, digest, origin, incarnation, sequence, `partition`, ",
        event_columns!(),
        ") VALUES (?, ",
        digest!("?", "?"),
        ", ?, ?, ?, ?, COALESCE(?, ",
        now!(),
        "), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    );
    let place: Vec<Value> = vec![
        scope.into(),
        source.into(),
        key.into(),
        source.into(),
        record.incarnation.to_string().into(),
        record.sequence.cast_signed().into(),
        record.partition.into(),
    ];
    let values = place.into_iter().chain(row::event_values(event, record.id(), event.time));
    execute(tx, copy, mysql_async::Params::Positional(values.collect())).await
}

/// Parks its key, unless it is.
pub(crate) async fn park_key(
    tx: &mut impl Client,
    scope: &str,
    record: &Record,
    reason: &str,
) -> Result<u64> {
    let (source, key) = (&*record.source, &**record.event.order_key());
    let park = concat!(
        "INSERT INTO onewrite_parked_key (scope, digest, source, `key`, `partition`, reason, since) VALUES (?, ",
        digest!("?", "?"),
        ", ?, ?, ?, ?, ",
        now!(),
        ") ON DUPLICATE KEY UPDATE scope = scope"
    );
    let binds = binds![scope, source, key, source, key, record.partition, reason];
    execute(tx, park, binds).await
}

/// Removes the front record of a key, and the key with its last one. Returns how many still wait.
pub(crate) async fn unpark(
    tx: &mut impl Client,
    scope: &str,
    (source, key): (&str, &str),
    position: Sequence,
) -> Result<u64> {
    // Whoever parks behind it waits, or comes first: the key is freed only when nothing is left.
    lock(tx, scope, source, key).await?;
    remove(tx, scope, (source, key), position).await?;
    let left = count_left(tx, scope, (source, key)).await?;
    if left == 0 {
        free(tx, scope, (source, key)).await?;
    }
    Ok(left)
}

/// Removes one record of a key.
pub(crate) async fn remove(
    tx: &mut impl Client,
    scope: &str,
    (source, key): (&str, &str),
    position: Sequence,
) -> Result<u64> {
    let sql = concat!(
        "DELETE FROM onewrite_parked WHERE position = ? AND scope = ? AND digest = ",
        digest!("?", "?")
    );
    execute(tx, sql, binds![position.cast_signed(), scope, source, key]).await
}

/// How many records of a key are parked.
pub(crate) async fn count_left(
    tx: &mut impl Client,
    scope: &str,
    (source, key): (&str, &str),
) -> Result<u64> {
    let sql = concat!(
        "SELECT COUNT(*) FROM onewrite_parked WHERE scope = ? AND digest = ",
        digest!("?", "?")
    );
    let left = query_one(tx, sql, binds![scope, source, key]).await?;
    left.map_or(Ok(0), |mut found| row::number(&mut found, 0))
}

/// Frees a key.
pub(crate) async fn free(
    tx: &mut impl Client,
    scope: &str,
    (source, key): (&str, &str),
) -> Result<u64> {
    let sql =
        concat!("DELETE FROM onewrite_parked_key WHERE scope = ? AND digest = ", digest!("?", "?"));
    execute(tx, sql, binds![scope, source, key]).await
}

/// What is asked for a key, which is locked until this transaction ends; `None` when it is not parked.
async fn lock(
    tx: &mut impl Client,
    scope: &str,
    source: &str,
    key: &str,
) -> Result<Option<Request>> {
    let sql = concat!(
        "SELECT request FROM onewrite_parked_key WHERE scope = ? AND digest = ",
        digest!("?", "?"),
        " FOR UPDATE"
    );
    let found = query_one(tx, sql, binds![scope, source, key]).await?;
    found.map(|mut found| Ok(Request::parse(&row::text(&mut found, 0)?))).transpose()
}

/// Says what is to happen to a key; `reason` says why it waits again after a re-drive that failed.
pub(crate) async fn request(
    tx: &mut impl Client,
    scope: &str,
    (source, key): (&str, &str),
    request: Request,
    reason: Option<&str>,
) -> Result<u64> {
    let sql = concat!(
        "UPDATE onewrite_parked_key SET request = ?, redrives = redrives + (? IS NOT NULL), reason = COALESCE(?, reason)
         WHERE scope = ? AND digest = ",
        digest!("?", "?")
    );
    execute(tx, sql, binds![request.as_str(), reason, reason, scope, source, key]).await
}

/// Whether the key is parked. Locks it if so: a re-drive that would free it waits for this transaction.
pub(crate) async fn is_parked(tx: &mut impl Client, scope: &str, record: &Record) -> Result<u64> {
    let found = lock(tx, scope, &record.source, record.event.order_key()).await?;
    Ok(found.is_some().into())
}

/// Whether any key of a scope is parked.
pub(crate) async fn any(tx: &mut impl Client, scope: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM onewrite_parked_key WHERE scope = ? LIMIT 1";
    Ok(query_one(tx, sql, binds![scope]).await?.is_some())
}

pub(crate) async fn keys(conn: &mut Conn, scope: Option<&str>) -> Result<Vec<ParkedKey>> {
    let sql = "SELECT scope, source, `partition`, `key`, request, reason, since, redrives,
            (SELECT COUNT(*) FROM onewrite_parked p WHERE p.scope = k.scope AND p.digest = k.digest)
         FROM onewrite_parked_key k WHERE ? IS NULL OR scope = ? ORDER BY since, scope, `key`";
    let key = |mut found: Row| {
        let found = &mut found;
        Ok(ParkedKey {
            scope: row::text(found, 0)?,
            source: row::text(found, 1)?,
            partition: row::get::<Partition>(found, 2)?,
            key: row::text(found, 3)?,
            request: Request::parse(&row::text(found, 4)?),
            reason: row::text(found, 5)?,
            since: row::time(found, 6)?.unwrap_or_default(),
            redrives: u32::try_from(row::number(found, 7)?).unwrap_or(u32::MAX),
            waiting: row::number(found, 8)?,
        })
    };
    query(conn, sql, binds![scope, scope]).await?.into_iter().map(key).collect()
}

/// The records of a key from the front.
pub(crate) async fn records(
    on: &mut impl Client,
    key: &ParkedKey,
    limit: usize,
) -> Result<Vec<ParkedRecord>> {
    let sql = concat!(
        "SELECT position, incarnation, sequence, `partition`, ",
        event_columns!(),
        " FROM onewrite_parked WHERE scope = ? AND digest = ",
        digest!("?", "?"),
        " ORDER BY IF(scope LIKE 'relay/%', sequence, position) LIMIT ?"
    );
    let record = |mut found| {
        let found = &mut found;
        Ok(ParkedRecord {
            position: row::number(found, 0)?,
            record: Record {
                source: key.source.clone(),
                incarnation: row::text(found, 1)?.parse()?,
                sequence: row::number(found, 2)?,
                partition: row::get(found, 3)?,
                event: row::event(found, 4)?,
            },
        })
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    query(on, sql, binds![&*key.scope, &*key.source, &*key.key, limit])
        .await?
        .into_iter()
        .map(record)
        .collect()
}

/// What is asked for a parked key now, if it is still parked; locked until this transaction ends.
pub(crate) async fn requested(tx: &mut impl Client, key: &ParkedKey) -> Result<Option<Request>> {
    lock(tx, &key.scope, &key.source, &key.key).await
}
