//! Signals: kept, matched with what waits for them, taken once.

use mysql_async::{Conn, Row, prelude::Queryable};
use onewrite_core::{
    Code, Error, Partition, Result, Text,
    sabotage::{Defect, Sabotage},
    saga::{
        Json, REQUEST, SagaId, Signal,
        journal::{Arrived, Awaited, Awaits},
    },
};

use crate::{
    row::{self, began, binds, execute, query},
    saga::{numbers, read_id},
};

/// Sends a signal to the saga that waits for it now or later, in the caller's transaction. Returns whether
/// it is new: one that is sent again while it is kept changes nothing.
///
/// # Errors
/// [`Code::InvalidInput`] for a name, correlation or id that cannot be; what the database says.
pub async fn signal(tx: &mut impl Queryable, signal: &Signal) -> Result<bool> {
    signal.check()?;
    // Ignored is one of the same id; nothing else can be wrong with what was looked through.
    let keep = i64::try_from(signal.keep.as_micros()).unwrap_or(i64::MAX / 2);
    let sql = concat!(
        "INSERT IGNORE INTO onewrite_saga_signal (id, name, correlation, payload, received_at, expires_at) VALUES (?, ?, ?, ?, ",
        began!(),
        ", ",
        began!(),
        " + ?)"
    );
    let (name, correlation) = (&*signal.name, &*signal.correlation);
    let all = binds![&*signal.id, name, correlation, signal.payload.as_str(), keep];
    let new = execute(tx, sql, all).await?;
    if new > 0 {
        let sql = "UPDATE onewrite_saga_wait SET arrived = 1 WHERE name = ? AND correlation = ? AND arrived = 0";
        execute(tx, sql, binds![name, correlation]).await?;
    }
    Ok(new > 0)
}

/// Notes the signals that a saga waits for.
pub(crate) async fn wait(
    tx: &mut impl Queryable,
    saga: SagaId,
    partition: Partition,
    signals: &[Awaited],
) -> Result<()> {
    for Awaited { step, name, correlation } in signals {
        let sql = "INSERT INTO onewrite_saga_wait (saga, step, `partition`, name, correlation, arrived) VALUES (?, ?, ?, ?, ?,
             EXISTS (SELECT 1 FROM onewrite_saga_signal WHERE name = ? AND correlation = ? AND taken_by IS NULL))";
        let id = saga.0.to_be_bytes().to_vec();
        let (name, correlation) = (&**name, &**correlation);
        let all = binds![id, &**step, partition, name, correlation, name, correlation];
        execute(tx, sql, all).await?;
    }
    Ok(())
}

/// The same, in the place of what it waited for before.
pub(crate) async fn wait_instead(
    tx: &mut impl Queryable,
    saga: SagaId,
    awaits: &Awaits,
) -> Result<()> {
    let id = saga.0.to_be_bytes().to_vec();
    execute(tx, "DELETE FROM onewrite_saga_wait WHERE saga = ?", binds![id]).await?;
    wait(tx, saga, awaits.partition, &awaits.signals).await
}

/// Takes a signal for a saga, unless another one has it.
pub(crate) async fn take(
    tx: &mut impl Queryable,
    saga: SagaId,
    signal: &str,
    sabotage: Sabotage,
) -> Result<()> {
    let sql = "UPDATE onewrite_saga_signal SET taken_by = ? WHERE id = ? AND taken_by IS NULL";
    match execute(tx, sql, binds![saga.0.to_be_bytes().to_vec(), signal]).await? {
        0 if !sabotage.has(Defect::TakeTwice) => {
            Err(Error::new(Code::SagaConflict, format!("the signal `{signal}` is taken")))
        }
        _ => Ok(()),
    }
}

/// Matches signals with what began to wait while they were sent, and forgets those whose time is over.
pub(crate) async fn match_all(tx: &mut impl Queryable) -> Result<u64> {
    let old = concat!(
        "DELETE FROM onewrite_saga_signal WHERE expires_at <= ",
        began!(),
        " ORDER BY expires_at LIMIT 1000"
    );
    execute(tx, old, binds![]).await?;
    execute(tx, MATCH, binds![]).await
}

const MATCH: &str = "UPDATE onewrite_saga_wait w JOIN onewrite_saga_signal s ON s.name = w.name AND s.correlation = w.correlation AND s.taken_by IS NULL
     SET w.arrived = 1 WHERE w.arrived = 0";

/// Signals that have come, with the steps that wait for them.
pub(crate) async fn arrived(
    conn: &mut Conn,
    partitions: &[Partition],
    limit: usize,
) -> Result<Vec<Arrived>> {
    let arrived = |mut found: Row| {
        let found = &mut found;
        Ok(Arrived {
            saga: read_id(found, 0)?,
            step: row::option(found, 1)?,
            signal: row::text(found, 2)?,
            payload: Json::trusted(row::text(found, 3)?),
        })
    };
    let sql = arrivals(partitions, limit);
    query(conn, &sql, binds![&*REQUEST]).await?.into_iter().map(arrived).collect()
}

fn arrivals(partitions: &[Partition], limit: usize) -> String {
    format!(
        concat!(
            "SELECT w.saga, w.step, s.id, s.payload, s.received_at FROM onewrite_saga_wait w
             JOIN onewrite_saga_signal s ON s.name = w.name AND s.correlation = w.correlation AND s.taken_by IS NULL AND s.expires_at > ",
            began!(),
            " WHERE w.arrived = 1 AND w.`partition` IN ({partitions})
             UNION ALL
             SELECT g.id, NULL, s.id, s.payload, s.received_at FROM onewrite_saga_signal s
             JOIN onewrite_saga g ON g.id = UNHEX(REPLACE(s.correlation, '-', ''))
             WHERE s.name = ? AND s.taken_by IS NULL AND s.expires_at > ",
            began!(),
            " AND g.`partition` IN ({partitions}) ORDER BY 5 LIMIT {limit}"
        ),
        partitions = numbers(partitions),
        limit = limit,
    )
}

/// What signals of a name bring that are about one of these.
pub(crate) async fn about(
    conn: &mut Conn,
    name: &str,
    about: &[Text],
) -> Result<Vec<(Text, Json)>> {
    if about.is_empty() {
        return Ok(Vec::new());
    }
    let about: Vec<String> = about.iter().map(|text| row::quoted(text)).collect();
    let sql = format!(
        concat!(
            "SELECT correlation, payload FROM onewrite_saga_signal
             WHERE name = ? AND correlation IN ({}) AND taken_by IS NULL AND expires_at > ",
            began!(),
            " ORDER BY received_at"
        ),
        about.join(",")
    );
    let pair =
        |mut found: Row| Ok((row::text(&mut found, 0)?, Json::trusted(row::text(&mut found, 1)?)));
    query(conn, &sql, binds![name]).await?.into_iter().map(pair).collect()
}

#[cfg(test)]
#[path = "signal_test.rs"]
mod signal_test;
