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
    error::While as _,
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
    let keep = i64::try_from(signal.kept().as_micros()).unwrap_or(i64::MAX / 2);
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
        // Read without locks and changed by their keys: between them no lock is left for others to wait for.
        let waiting = "SELECT saga, step FROM onewrite_saga_wait WHERE name = ? AND correlation = ? AND arrived = 0";
        for mut found in query(tx, waiting, binds![name, correlation]).await? {
            let (saga, step): (Vec<u8>, String) =
                (row::get(&mut found, 0)?, row::get(&mut found, 1)?);
            let sql = "UPDATE onewrite_saga_wait SET arrived = 1 WHERE saga = ? AND step = ?";
            execute(tx, sql, binds![saga, step]).await?;
        }
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
        let (name, correlation) = (&**name, &**correlation);
        // Apart from the insert, which would lock what it reads and wait for whoever sends a signal now.
        let there = "SELECT 1 FROM onewrite_saga_signal WHERE name = ? AND correlation = ? AND taken_by IS NULL LIMIT 1";
        let arrived = !query(tx, there, binds![name, correlation]).await?.is_empty();
        let sql = "INSERT INTO onewrite_saga_wait (saga, step, `partition`, name, correlation, arrived) VALUES (?, ?, ?, ?, ?, ?)";
        let id = saga.0.to_be_bytes().to_vec();
        execute(tx, sql, binds![id, &**step, partition, name, correlation, arrived]).await?;
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
    let all = "SELECT 1 FROM onewrite_saga_wait WHERE saga = ?";
    let count = query(tx, all, binds![id.clone()]).await?.len();
    if count > 0 {
        let free = "SELECT 1 FROM onewrite_saga_wait WHERE saga = ? FOR UPDATE SKIP LOCKED";
        if query(tx, free, binds![id.clone()]).await?.len() < count {
            return Err(Error::new(Code::StoreBusy, LOCKED));
        }
        execute(tx, "DELETE FROM onewrite_saga_wait WHERE saga = ?", binds![id]).await?;
    }
    wait(tx, saga, awaits.partition, &awaits.signals).await
}

/// Then the transition is tried again, and those that share its commit do not wait.
const LOCKED: &str = "somebody's open transaction has sent a signal for this saga";

/// Whether a transaction goes on although the store is busy: one saga's rows are locked.
pub(crate) fn is_locked(error: &Error) -> bool {
    error.code() == Code::StoreBusy && error.context() == LOCKED
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
            Err(Error::new(Code::SignalTaken, format!("the signal `{signal}` is taken")))
        }
        _ => Ok(()),
    }
}

/// Takes a signal that means nothing, unless it is taken. Any other failure is one: it may have ended the
/// transaction.
pub(crate) async fn drop(
    tx: &mut impl Queryable,
    saga: SagaId,
    signal: &str,
    sabotage: Sabotage,
) -> Result<u64> {
    match take(tx, saga, signal, sabotage).await {
        Err(error) if error.code() == Code::SignalTaken => Ok(0),
        taken => taken.map(|()| 1),
    }
}

/// Matches signals with what began to wait while they were sent: neither saw the other. Returns how many are left, at
/// least: what another transaction works on is not waited for.
pub(crate) async fn match_all(tx: &mut impl Queryable) -> Result<u64> {
    let unmatched = query(tx, UNMATCHED, binds![]).await?;
    let mut left = u64::from(unmatched.len() >= UNMATCHED_MAX);
    for mut found in unmatched {
        let (saga, step): (Vec<u8>, String) = (row::get(&mut found, 0)?, row::get(&mut found, 1)?);
        let free =
            "SELECT 1 FROM onewrite_saga_wait WHERE saga = ? AND step = ? FOR UPDATE SKIP LOCKED";
        if query(tx, free, binds![saga.clone(), step.clone()]).await?.is_empty() {
            left += 1;
        } else {
            let sql = "UPDATE onewrite_saga_wait SET arrived = 1 WHERE saga = ? AND step = ?";
            execute(tx, sql, binds![saga, step]).await?;
        }
    }
    Ok(left)
}

const UNMATCHED_MAX: usize = 1_000;

/// Read without locks: what somebody sends now is waited for by nobody.
const UNMATCHED: &str = "SELECT w.saga, w.step FROM onewrite_saga_wait w JOIN onewrite_saga_signal s
     ON s.name = w.name AND s.correlation = w.correlation AND s.taken_by IS NULL WHERE w.arrived = 0 LIMIT 1000";

/// Deletes signals whose time is over.
pub(crate) async fn trim(tx: &mut impl Queryable, limit: u32) -> Result<u64> {
    let old = concat!(
        "SELECT id FROM onewrite_saga_signal WHERE expires_at <= ",
        began!(),
        " ORDER BY expires_at LIMIT ? FOR UPDATE SKIP LOCKED"
    );
    let mut ids = Vec::new();
    for mut found in query(tx, old, binds![limit]).await? {
        ids.push(row::quoted(&row::text(&mut found, 0)?));
    }
    if !ids.is_empty() {
        let sql = format!("DELETE FROM onewrite_saga_signal WHERE id IN ({})", ids.join(","));
        tx.query_drop(sql).await.during("delete signals whose time is over")?;
    }
    Ok(ids.len() as u64)
}

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
