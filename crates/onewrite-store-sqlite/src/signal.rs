//! Signals: kept, matched with what waits for them, taken once.

use onewrite_core::{
    Code, Error, Partition, Result, Text,
    sabotage::{Defect, Sabotage},
    saga::{
        Json, REQUEST, SagaId, Signal,
        journal::{Arrived, Awaited, Awaits},
    },
};
use rusqlite::{Connection, params};

use crate::{
    claim::execute,
    error::While,
    saga::{Lossy, list},
    writer::now,
};

/// Sends a signal to the saga that waits for it now or later, in the caller's transaction. Returns whether
/// it is new: one that is sent again while it is kept changes nothing.
///
/// # Errors
/// [`Code::InvalidInput`] for a name, correlation or id that cannot be; what the database says.
pub fn signal(tx: &Connection, signal: &Signal) -> Result<bool> {
    signal.check()?;
    let now = now();
    let new = execute(
        tx,
        "INSERT INTO onewrite_saga_signal (id, name, correlation, payload, received_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO NOTHING",
        params![
            &*signal.id,
            &*signal.name,
            &*signal.correlation,
            signal.payload.as_str(),
            now.0,
            now.plus(signal.kept()).0
        ],
    )?;
    if new > 0 {
        execute(
            tx,
            "UPDATE onewrite_saga_wait SET arrived = 1 WHERE name = ?1 AND correlation = ?2",
            params![&*signal.name, &*signal.correlation],
        )?;
    }
    Ok(new > 0)
}

/// Notes the signals that a saga waits for.
pub(crate) fn wait(
    tx: &Connection,
    saga: SagaId,
    partition: Partition,
    signals: &[Awaited],
) -> Result<()> {
    for Awaited { step, name, correlation } in signals {
        execute(
            tx,
            "INSERT INTO onewrite_saga_wait (saga, step, partition, name, correlation, arrived) VALUES (?1, ?2, ?3, ?4, ?5,
                 EXISTS (SELECT 1 FROM onewrite_saga_signal WHERE name = ?4 AND correlation = ?5 AND taken_by IS NULL))",
            params![saga.0.to_be_bytes(), &**step, partition, &**name, &**correlation],
        )?;
    }
    Ok(())
}

/// The same, in the place of what it waited for before.
pub(crate) fn wait_instead(tx: &Connection, saga: SagaId, awaits: &Awaits) -> Result<()> {
    let sql = "DELETE FROM onewrite_saga_wait WHERE saga = ?1";
    execute(tx, sql, params![saga.0.to_be_bytes()])?;
    wait(tx, saga, awaits.partition, &awaits.signals)
}

/// Takes a signal for a saga, unless another one has it.
pub(crate) fn take(tx: &Connection, saga: SagaId, signal: &str, sabotage: Sabotage) -> Result<()> {
    let sql = "UPDATE onewrite_saga_signal SET taken_by = ?1 WHERE id = ?2 AND taken_by IS NULL";
    match execute(tx, sql, params![saga.0.to_be_bytes(), signal])? {
        0 if !sabotage.has(Defect::TakeTwice) => {
            Err(Error::new(Code::SignalTaken, format!("the signal `{signal}` is taken")))
        }
        _ => Ok(()),
    }
}

/// Takes a signal that means nothing, unless it is taken. Any other failure is one: it may have ended the
/// transaction.
pub(crate) fn drop(tx: &Connection, saga: SagaId, signal: &str, sabotage: Sabotage) -> Result<u64> {
    match take(tx, saga, signal, sabotage) {
        Err(error) if error.code() == Code::SignalTaken => Ok(0),
        taken => taken.map(|()| 1),
    }
}

/// Deletes signals whose time is over.
pub(crate) fn trim(tx: &Connection, limit: u32) -> Result<u64> {
    execute(
        tx,
        "DELETE FROM onewrite_saga_signal WHERE id IN (SELECT id FROM onewrite_saga_signal WHERE expires_at <= ?1 LIMIT ?2)",
        params![now().0, limit],
    )
}

/// Signals that have come, with the steps that wait for them.
pub(crate) fn arrived(
    connection: &Connection,
    partitions: &[Partition],
    limit: usize,
) -> Result<Vec<Arrived>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    connection
        .prepare_cached(
            "SELECT w.saga, w.step, s.id, s.payload, s.received_at FROM onewrite_saga_wait w
             JOIN onewrite_saga_signal s ON s.name = w.name AND s.correlation = w.correlation AND s.taken_by IS NULL AND s.expires_at > ?2
             WHERE w.arrived = 1 AND w.partition IN (SELECT value FROM json_each(?1))
             UNION ALL
             SELECT g.id, NULL, s.id, s.payload, s.received_at FROM onewrite_saga_signal s JOIN onewrite_saga g ON g.id = unhex(replace(s.correlation, '-', ''))
             WHERE s.name = ?4 AND s.taken_by IS NULL AND s.expires_at > ?2 AND g.partition IN (SELECT value FROM json_each(?1))
             ORDER BY 5 LIMIT ?3",
        )
        .and_then(|mut statement| {
            let rows = statement.query_map(params![list(partitions), now().0, limit, &*REQUEST], |row| {
                let text = |index| row.get::<_, Lossy>(index).map(|text| Text::from(text.0));
                Ok(Arrived {
                    saga: SagaId(u128::from_be_bytes(row.get(0)?)),
                    step: row.get::<_, Option<Lossy>>(1)?.map(|text| text.0.into()),
                    signal: text(2)?,
                    payload: Json::trusted(text(3)?),
                })
            })?;
            rows.collect()
        })
        .during("look for signals")
}

/// What signals of a name bring that are about one of these.
pub(crate) fn about(
    connection: &Connection,
    name: &str,
    about: &[Text],
) -> Result<Vec<(Text, Json)>> {
    let about: Vec<&str> = about.iter().map(|text| &**text).collect();
    let about = serde_json::to_string(&about)
        .map_err(|error| Error::new(Code::InvalidInput, "a list of texts").with_source(error))?;
    connection
        .prepare_cached(
            "SELECT correlation, payload FROM onewrite_saga_signal
             WHERE name = ?1 AND correlation IN (SELECT value FROM json_each(?2)) AND taken_by IS NULL AND expires_at > ?3 ORDER BY received_at",
        )
        .and_then(|mut statement| {
            let rows = statement.query_map(params![name, about, now().0], |row| {
                let text = |index| row.get::<_, Lossy>(index).map(|text| Text::from(text.0));
                Ok((text(0)?, Json::trusted(text(1)?)))
            })?;
            rows.collect()
        })
        .during("look for signals")
}
