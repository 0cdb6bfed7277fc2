//! Signals: kept, matched with what waits for them, taken once.

use deadpool_postgres::Transaction;
use onewrite_core::{
    Code, Error, Partition, Result, Text,
    sabotage::{Defect, Sabotage},
    saga::{
        Json, REQUEST, SagaId, Signal,
        journal::{Arrived, Awaited, Awaits},
    },
};

use crate::{commit::execute, error::While, row, saga::Id};

/// Sends a signal to the saga that waits for it now or later, in the caller's transaction. Returns whether
/// it is new: one that is sent again while it is kept changes nothing.
///
/// # Errors
/// [`Code::InvalidInput`] for a name, correlation or id that cannot be; what the database says.
pub async fn signal(tx: &Transaction<'_>, signal: &Signal) -> Result<bool> {
    signal.check()?;
    let new = execute(
        tx,
        "WITH new AS (
             INSERT INTO onewrite.saga_signal (id, name, correlation, payload, received_at, expires_at)
             VALUES ($1, $2, $3, $4, clock_timestamp(), clock_timestamp() + make_interval(secs => $5)) ON CONFLICT DO NOTHING
             RETURNING name, correlation
         ), matched AS (
             UPDATE onewrite.saga_wait w SET arrived = true FROM new WHERE w.name = new.name AND w.correlation = new.correlation AND NOT w.arrived
         )
         SELECT FROM new",
        &[
            &&*signal.id,
            &&*signal.name,
            &&*signal.correlation,
            &signal.payload.as_str(),
            &signal.kept().as_secs_f64(),
        ],
    )
    .await?;
    Ok(new > 0)
}

/// Notes the signals that a saga waits for.
pub(crate) async fn wait(
    tx: &Transaction<'_>,
    saga: SagaId,
    partition: Partition,
    signals: &[Awaited],
) -> Result<()> {
    for Awaited { step, name, correlation } in signals {
        execute(
            tx,
            "INSERT INTO onewrite.saga_wait (saga, step, partition, name, correlation, arrived) VALUES ($1, $2, $3, $4, $5,
                 EXISTS (SELECT FROM onewrite.saga_signal WHERE name = $4 AND correlation = $5 AND taken_by IS NULL))",
            &[&Id(saga), &&**step, &i32::from(partition), &&**name, &&**correlation],
        )
        .await?;
    }
    Ok(())
}

/// The same, in the place of what it waited for before.
pub(crate) async fn wait_instead(
    tx: &Transaction<'_>,
    saga: SagaId,
    awaits: &Awaits,
) -> Result<()> {
    // Somebody's open transaction may have sent a signal for it. Then this transition is tried again, and those
    // that share its commit do not wait.
    let free = "SELECT FROM onewrite.saga_wait WHERE saga = $1 FOR UPDATE NOWAIT";
    if execute(tx, free, &[&Id(saga)]).await? > 0 {
        execute(tx, "DELETE FROM onewrite.saga_wait WHERE saga = $1", &[&Id(saga)]).await?;
    }
    wait(tx, saga, awaits.partition, &awaits.signals).await
}

/// Takes a signal for a saga, unless another one has it.
pub(crate) async fn take(
    tx: &Transaction<'_>,
    saga: SagaId,
    signal: &str,
    sabotage: Sabotage,
) -> Result<()> {
    let sql = "UPDATE onewrite.saga_signal SET taken_by = $1 WHERE id = $2 AND taken_by IS NULL";
    match execute(tx, sql, &[&Id(saga), &signal]).await? {
        0 if !sabotage.has(Defect::TakeTwice) => {
            Err(Error::new(Code::SignalTaken, format!("the signal `{signal}` is taken")))
        }
        _ => Ok(()),
    }
}

/// Takes a signal that means nothing, unless it is taken. Any other failure is one: it may have ended the
/// transaction.
pub(crate) async fn drop(
    tx: &Transaction<'_>,
    saga: SagaId,
    signal: &str,
    sabotage: Sabotage,
) -> Result<u64> {
    match take(tx, saga, signal, sabotage).await {
        Err(error) if error.code() == Code::SignalTaken => Ok(0),
        taken => taken.map(|()| 1),
    }
}

/// What waits for a signal that is there, and does not know it. Only signals of names that are waited for are read;
/// replies, of which there may be many, are not among them.
macro_rules! unmatched {
    () => {
        "SELECT w.saga, w.step FROM onewrite.saga_signal s JOIN onewrite.saga_wait w ON w.name = s.name AND w.correlation = s.correlation
         WHERE s.name = ANY(ARRAY(SELECT DISTINCT name FROM onewrite.saga_wait WHERE NOT arrived))
             AND s.taken_by IS NULL AND NOT w.arrived"
    };
}

/// Matches signals with what began to wait while they were sent: neither saw the other. Returns whether some are
/// left, as 1: what another transaction works on is not waited for.
pub(crate) async fn match_all(tx: &Transaction<'_>) -> Result<u64> {
    let sql = concat!(
        "UPDATE onewrite.saga_wait SET arrived = true WHERE (saga, step) IN (",
        unmatched!(),
        " FOR UPDATE OF w SKIP LOCKED)"
    );
    execute(tx, sql, &[]).await?;
    execute(tx, concat!(unmatched!(), " LIMIT 1"), &[]).await
}

/// Deletes signals whose time is over.
pub(crate) async fn trim(tx: &Transaction<'_>, limit: u32) -> Result<u64> {
    execute(
        tx,
        "DELETE FROM onewrite.saga_signal WHERE id = ANY(ARRAY(
             SELECT id FROM onewrite.saga_signal WHERE expires_at <= statement_timestamp() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))",
        &[&i64::from(limit)],
    )
    .await
}

/// Signals that have come, with the steps that wait for them.
pub(crate) async fn arrived(
    client: &deadpool_postgres::Client,
    partitions: &[Partition],
    limit: usize,
) -> Result<Vec<Arrived>> {
    let partitions: Vec<i32> = partitions.iter().copied().map(i32::from).collect();
    let statement = client
        .prepare_cached(
            "SELECT w.saga, w.step, s.id, s.payload, s.received_at FROM onewrite.saga_wait w
             JOIN onewrite.saga_signal s ON s.name = w.name AND s.correlation = w.correlation AND s.taken_by IS NULL AND s.expires_at > statement_timestamp()
             WHERE w.arrived AND w.partition = ANY($1)
             UNION ALL
             SELECT g.id, NULL, s.id, s.payload, s.received_at FROM onewrite.saga_signal s
             JOIN onewrite.saga g ON g.id = CASE WHEN s.name = $3 AND s.correlation ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN s.correlation::uuid END
             WHERE s.name = $3 AND s.taken_by IS NULL AND s.expires_at > statement_timestamp() AND g.partition = ANY($1)
             ORDER BY 5 LIMIT $2",
        )
        .await
        .during("look for signals")?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = client
        .query(&statement, &[&partitions, &limit, &&*REQUEST])
        .await
        .during("look for signals")?;
    let arrived = |found: &tokio_postgres::Row| {
        let saga: Id = found.try_get(0).during("look for signals")?;
        Ok(Arrived {
            saga: saga.0,
            step: row::option(found, 1)?,
            signal: row::text(found, 2)?,
            payload: Json::trusted(row::text(found, 3)?),
        })
    };
    rows.iter().map(arrived).collect()
}

/// What signals of a name bring that are about one of these.
pub(crate) async fn about(
    client: &deadpool_postgres::Client,
    name: &str,
    about: &[Text],
) -> Result<Vec<(Text, Json)>> {
    let about: Vec<&str> = about.iter().map(|text| &**text).collect();
    let statement = client
        .prepare_cached(
            "SELECT correlation, payload FROM onewrite.saga_signal
             WHERE name = $1 AND correlation = ANY($2) AND taken_by IS NULL AND expires_at > statement_timestamp() ORDER BY received_at",
        )
        .await
        .during("look for signals")?;
    let rows = client.query(&statement, &[&name, &about]).await.during("look for signals")?;
    let pair = |found| Ok((row::text(found, 0)?, Json::trusted(row::text(found, 1)?)));
    rows.iter().map(pair).collect()
}
