//! The write door: every write of the engine, each item in a savepoint of its own.
//!
//! What a relay writes most, cursors under their fences, goes in one statement for all of them.

use std::collections::HashSet;

use deadpool_postgres::{Client, Transaction};
use futures::future;
use onewrite_core::{
    Code, Error, Event, Partition, Result, Sequence, Text, Timestamp, failpoint,
    lease::{Epoch, Fence},
    position::Source,
    sabotage::{Defect, Sabotage},
    saga::{Group, journal::SCOPE},
    store::{Batch, Durability, Item, Op, Outcome},
};
use tokio_postgres::types::ToSql;

use crate::{
    emit,
    error::{While, after_commit, is_unknown},
    gap, guard, parking,
    row::Time,
    saga, signal, statement, trim,
};

/// What the door needs to know.
pub(crate) struct Terms<'a> {
    pub(crate) source: &'a Source,
    pub(crate) event_bytes_max: usize,
    pub(crate) sabotage: Sabotage,
}

/// Writes a batch in one transaction. An error says that nothing of it was committed, or, when it is
/// [`Code::CommitUnknown`], that nobody knows.
pub(crate) async fn batch(
    client: &mut Client,
    terms: &Terms<'_>,
    batch: Batch,
) -> Result<Vec<Outcome>> {
    let sabotage = terms.sabotage;
    let Batch { durability, items } = batch;
    let durable = durability == Durability::Durable;
    let moves: Option<Vec<Move<'_>>> = items.iter().map(Move::of).collect();
    if let Some(moves) = moves.filter(|moves| are_distinct(moves) && !sabotage.has(Defect::NoFence))
    {
        return move_all(client, durable, &moves).await;
    }
    let sound =
        [Defect::NoSync, Defect::NoFence, Defect::NoVersion].map(|defect| !sabotage.has(defect));
    if durable
        && sound == [true; 3]
        && let Some(group) = Group::of(&items)
        && let Some(outcomes) = saga::write_all(client, &group, items.len()).await?
    {
        return Ok(outcomes);
    }
    let mut tx = client.transaction().await.during("begin a write")?;
    let relaxed = !durable || sabotage.has(Defect::NoSync);
    if relaxed {
        tx.batch_execute(RELAXED).await.during("begin a write")?;
    }
    let mut outcomes = Vec::with_capacity(items.len());
    let mut emitted = Vec::new();
    for item in &items {
        outcomes.push(in_savepoint(&mut tx, terms, item, &mut emitted).await?);
    }
    // All at the end, in one statement that locks their partitions in order: two batches never wait for
    // each other.
    emit::append(&tx, &emitted).await?;
    if relaxed {
        tx.commit().await.map_err(after_commit)?;
    } else {
        finish(tx).await?;
    }
    Ok(outcomes)
}

/// Commits what must not be lost. In a transaction that a statement has aborted, COMMIT rolls back and
/// says so only in passing; any statement fails there, so one goes before it. It also undoes what a
/// handler may have set.
pub(crate) async fn finish(tx: Transaction<'_>) -> Result<()> {
    tx.batch_execute(statement::DURABLE).await.during("make the commit durable")?;
    failpoint::hit("store.before_commit");
    let committed = tx.commit().await;
    failpoint::hit("store.after_commit_before_reply");
    committed.map_err(after_commit)
}

/// A relaxed commit is not waited for: it survives any process of ours.
pub(crate) const RELAXED: &str = "SET LOCAL synchronous_commit TO OFF";

/// Runs one item so that its failure undoes its own writes only. An error concerns the whole batch.
async fn in_savepoint(
    tx: &mut Transaction<'_>,
    terms: &Terms<'_>,
    item: &Item,
    emitted: &mut Vec<Event>,
) -> Result<Outcome> {
    let before = emitted.len();
    let savepoint = tx.savepoint("onewrite").await.during("begin an item")?;
    match write(&savepoint, terms, item, emitted).await {
        Ok(count) => {
            savepoint.commit().await.during("end an item")?;
            Ok(Outcome::Applied(count))
        }
        Err(error) if is_unknown(&error) => Err(error),
        Err(error) => {
            savepoint.rollback().await.during("undo an item")?;
            emitted.truncate(before);
            Ok(if error.code() == Code::Fenced { Outcome::Fenced } else { Outcome::Failed(error) })
        }
    }
}

pub(crate) async fn write(
    tx: &Transaction<'_>,
    terms: &Terms<'_>,
    item: &Item,
    emitted: &mut Vec<Event>,
) -> Result<u64> {
    if let Some(fence) = &item.fence
        && !terms.sabotage.has(Defect::NoFence)
        && !holds(tx, fence).await?
    {
        return Err(Error::new(Code::Fenced, "the lease has another owner"));
    }
    let mut touched = 0;
    for op in &item.ops {
        touched = apply(tx, terms, item.fence.as_ref(), op, emitted).await?;
    }
    Ok(touched)
}

/// Whether `fence` is still the current owner's. Locks the lease: a takeover waits for this commit. Other
/// writers of sagas do not.
async fn holds(tx: &Transaction<'_>, fence: &Fence) -> Result<bool> {
    let sql = match fence.scope == SCOPE {
        true => {
            "SELECT FROM onewrite.lease WHERE scope = $1 AND partition = $2 AND epoch = $3 AND owner IS NOT NULL FOR SHARE"
        }
        false => {
            "SELECT FROM onewrite.lease WHERE scope = $1 AND partition = $2 AND epoch = $3 AND owner IS NOT NULL FOR NO KEY UPDATE"
        }
    };
    let found = execute(
        tx,
        sql,
        &[&&*fence.scope, &i32::from(fence.partition), &fence.epoch.cast_signed()],
    )
    .await?;
    Ok(found == 1)
}

async fn apply(
    tx: &Transaction<'_>,
    terms: &Terms<'_>,
    fence: Option<&Fence>,
    op: &Op,
    emitted: &mut Vec<Event>,
) -> Result<u64> {
    let source = terms.source;
    match op {
        Op::Emit(event) => {
            event.check(terms.event_bytes_max)?;
            emitted.push((**event).clone());
            Ok(1)
        }
        Op::Guard { table } => guard::add(tx.client(), table).await.map(|()| 1),
        Op::Unguard { table } => guard::remove(tx.client(), table).await.map(|()| 1),
        Op::Subscribe { sink, from } => trim::subscribe(tx, sink, *from, source.partitions).await,
        Op::MoveCursor { sink, partition, sequence, chain } => execute(
            tx,
            "UPDATE onewrite.cursor SET sequence = $3, chain = $4, attempts = 0, retry_at = NULL, reason = NULL
             WHERE sink = $1 AND partition = $2",
            &[&&**sink, &i32::from(*partition), &sequence.cast_signed(), &chain.cast_signed()],
        )
        .await,
        Op::FailCursor { sink, partition, attempts, retry_at, reason } => execute(
            tx,
            "UPDATE onewrite.cursor SET attempts = $3, retry_at = $4, reason = $5 WHERE sink = $1 AND partition = $2",
            &[&&**sink, &i32::from(*partition), &i64::from(*attempts), &Time(*retry_at), &&**reason],
        )
        .await,
        Op::Park { sink, partition, sequence, reason } => {
            parking::park_from_log(tx, source, sink, (*partition, *sequence), reason).await
        }
        Op::Unpark { scope, source, key, position } => {
            parking::unpark(tx, scope, (source, key), *position).await
        }
        Op::Request { scope, source, key, request, reason } => {
            parking::request(tx, scope, (source, key), *request, reason.as_deref()).await
        }
        Op::AcceptGaps { consumer, source } => gap::accept(tx, consumer, source).await,
        Op::DefineSaga(checked) => saga::define(tx, checked).await,
        Op::StartSaga(new) => saga::start(tx, new).await,
        Op::AdvanceSaga(next) => saga::advance(tx, fence, next, terms.sabotage).await,
        Op::Signal(sent) => signal(tx, sent).await.map(u64::from),
        Op::DropSignal { saga, signal } => {
            signal::drop(tx, *saga, signal, terms.sabotage).await
        }
        Op::MatchSignals => signal::match_all(tx).await,
        Op::TrimSignals { limit } => signal::trim(tx, *limit).await,
        Op::TrimSagas { before, limit, only } => {
            saga::trim(tx, *before, *limit, only.as_deref(), terms.sabotage).await
        }
        Op::Release(fence) => execute(
            tx,
            "UPDATE onewrite.lease SET owner = NULL, expires_at = 'epoch' WHERE scope = $1 AND partition = $2 AND epoch = $3",
            &[&&*fence.scope, &i32::from(fence.partition), &fence.epoch.cast_signed()],
        )
        .await,
        Op::Leave { scope, owner } => execute(
            tx,
            "DELETE FROM onewrite.member WHERE scope = $1 AND owner = $2",
            &[&&**scope, &&**owner],
        )
        .await,
        Op::Suspend { sink, reason } => trim::suspend(tx, sink, reason.as_deref()).await,
        Op::Trim { before, history_before, limit } => {
            trim::trim(tx, *before, *history_before, *limit, terms.sabotage).await
        }
    }
}

/// One cursor under one fence: moved, or noted as failing.
struct Move<'a> {
    sink: &'a Text,
    partition: Partition,
    fence: (&'a Text, Partition, Epoch),
    /// Sequence and chain, or attempts, when to try again, and why.
    to: Result<(Sequence, Sequence), (u32, Timestamp, &'a Text)>,
}

impl<'a> Move<'a> {
    fn of(item: &'a Item) -> Option<Self> {
        let fence = item.fence.as_ref()?;
        let fence = (&fence.scope, fence.partition, fence.epoch);
        match item.ops.as_slice() {
            [Op::MoveCursor { sink, partition, sequence, chain }] => {
                Some(Self { sink, partition: *partition, fence, to: Ok((*sequence, *chain)) })
            }
            [Op::FailCursor { sink, partition, attempts, retry_at, reason }] => {
                let to = Err((*attempts, *retry_at, reason));
                Some(Self { sink, partition: *partition, fence, to })
            }
            _ => None,
        }
    }
}

/// Whether there are some, and each cursor is written once: one statement writes a row only once.
fn are_distinct(moves: &[Move<'_>]) -> bool {
    let mut seen = HashSet::new();
    !moves.is_empty() && moves.iter().all(|m| seen.insert((m.sink, m.partition)))
}

/// The leases are locked in one order, then the cursors follow those that still hold.
const MOVE_ALL: &str = "WITH wanted AS MATERIALIZED (
        SELECT * FROM unnest($1::int8[], $2::text[], $3::int4[], $4::text[], $5::int4[], $6::int8[], $7::bool[], $8::int8[], $9::int8[],
            $10::int8[], $11::timestamptz[], $12::text[])
            AS w (n, sink, partition, scope, lease, epoch, moves, sequence, chain, attempts, retry_at, reason)
    ), held AS MATERIALIZED (
        SELECT l.scope, l.partition, l.epoch FROM onewrite.lease l
        WHERE (l.scope, l.partition) IN (SELECT scope, lease FROM wanted) AND l.owner IS NOT NULL
        ORDER BY l.scope, l.partition FOR NO KEY UPDATE
    ), moved AS (
        UPDATE onewrite.cursor c SET
            sequence = CASE WHEN w.moves THEN w.sequence ELSE c.sequence END,
            chain = CASE WHEN w.moves THEN w.chain ELSE c.chain END,
            attempts = w.attempts, retry_at = w.retry_at, reason = w.reason
        FROM wanted w
        JOIN held h ON h.scope = w.scope AND h.partition = w.lease AND h.epoch = w.epoch
        WHERE c.sink = w.sink AND c.partition = w.partition
        RETURNING c.partition
    )
    SELECT w.n, h.epoch IS NOT NULL FROM wanted w
    LEFT JOIN held h ON h.scope = w.scope AND h.partition = w.lease AND h.epoch = w.epoch
    CROSS JOIN (SELECT count(*) FROM moved) done ORDER BY w.n";

/// Moves cursors in one statement and one round trip.
async fn move_all(client: &Client, durable: bool, moves: &[Move<'_>]) -> Result<Vec<Outcome>> {
    let statement = client.prepare_cached(MOVE_ALL).await.during("move cursors")?;
    let numbers: Vec<i64> = (0..).take(moves.len()).collect();
    let column = |pick: &dyn Fn(&Move<'_>) -> i64| moves.iter().map(pick).collect::<Vec<i64>>();
    let small = |pick: &dyn Fn(&Move<'_>) -> u16| {
        moves.iter().map(|m| i32::from(pick(m))).collect::<Vec<_>>()
    };
    let sinks: Vec<&str> = moves.iter().map(|m| &**m.sink).collect();
    let scopes: Vec<&str> = moves.iter().map(|m| &**m.fence.0).collect();
    let is_move: Vec<bool> = moves.iter().map(|m| m.to.is_ok()).collect();
    let retry: Vec<Option<Time>> =
        moves.iter().map(|m| m.to.err().map(|(_, at, _)| Time(at))).collect();
    let reasons: Vec<Option<&str>> =
        moves.iter().map(|m| m.to.err().map(|(_, _, reason)| &**reason)).collect();
    let (partitions, leases) = (small(&|m| m.partition), small(&|m| m.fence.1));
    let epochs = column(&|m| m.fence.2.cast_signed());
    let sequences = column(&|m| m.to.map_or(0, |(sequence, _)| sequence.cast_signed()));
    let chains = column(&|m| m.to.map_or(0, |(_, chain)| chain.cast_signed()));
    let attempts = column(&|m| m.to.err().map_or(0, |(attempts, ..)| attempts.into()));
    let binds: [&(dyn ToSql + Sync); 12] = [
        &numbers,
        &sinks,
        &partitions,
        &scopes,
        &leases,
        &epochs,
        &is_move,
        &sequences,
        &chains,
        &attempts,
        &retry,
        &reasons,
    ];
    // All at once: the messages go out in this order, and one round trip brings the answers.
    let begin = if durable { "BEGIN".to_owned() } else { format!("BEGIN; {RELAXED}") };
    let (begun, moved, committed) = future::join3(
        client.batch_execute(&begin),
        client.query(&statement, &binds),
        client.batch_execute("COMMIT"),
    )
    .await;
    // Sent together: whichever answer is lost, the commit may have happened.
    begun.map_err(after_commit)?;
    let rows = moved.map_err(after_commit)?;
    committed.map_err(after_commit)?;
    let outcome = |held: bool| if held { Outcome::Applied(1) } else { Outcome::Fenced };
    Ok(rows.iter().map(|row| outcome(row.get(1))).collect())
}

pub(crate) async fn execute(
    tx: &Transaction<'_>,
    sql: &str,
    binds: &[&(dyn ToSql + Sync)],
) -> Result<u64> {
    let statement = tx.prepare_cached(sql).await.during("prepare a write")?;
    tx.execute(&statement, binds).await.during("write")
}
