//! The write door: every write of the engine, each item in a savepoint of its own.
//!
//! What a relay writes most, cursors under their fences, goes in one statement for all of them.

use std::collections::HashSet;

use mysql_async::{Conn, Row, Transaction, TxOpts, prelude::Queryable};
use onewrite_core::{
    Code, Error, Event, Partition, Result, Sequence, Text, failpoint,
    lease::{Epoch, Fence},
    position::Source,
    sabotage::{Defect, Sabotage},
    saga::Group,
    store::{Item, Op, Outcome},
};

use crate::{
    claim,
    client::Client,
    emit,
    error::{While, after_commit, is_unknown},
    gap, parking,
    row::{self, binds, execute},
    saga, signal, trim,
};

/// What the door needs to know.
pub(crate) struct Terms<'a> {
    pub(crate) source: &'a Source,
    pub(crate) event_bytes_max: usize,
    pub(crate) sabotage: Sabotage,
}

/// Writes a batch in one transaction. An error says that nothing of it was committed, or, when it is
/// [`Code::CommitUnknown`], that nobody knows. (These servers sync each commit or none, so a relaxed batch
/// is durable as well.)
pub(crate) async fn batch(
    conn: &mut Conn,
    terms: &Terms<'_>,
    items: &[Item],
) -> Result<Vec<Outcome>> {
    if let Some(group) = Group::of(items) {
        return saga::write_all(conn, &group, items.len(), terms.sabotage).await;
    }
    let mut tx = conn.start_transaction(TxOpts::default()).await.during("begin a write")?;
    let moves = Moves::of(items).filter(|_| !terms.sabotage.has(Defect::NoFence));
    let outcomes = match moves {
        Some(moves) => moves.write(&mut tx).await?,
        None => one_by_one(&mut tx, terms, items).await?,
    };
    finish(tx).await?;
    Ok(outcomes)
}

/// Begins what a handler writes; the next one takes its place.
pub(crate) const SAVEPOINT: &str = "SAVEPOINT onewrite";

/// Undoes what a handler wrote.
pub(crate) const ROLL_BACK: &str = "ROLLBACK TO SAVEPOINT onewrite";

/// Marks where a user's transaction begins.
pub(crate) const BEGUN: &str = "SAVEPOINT onewrite_begun";

/// Commits a user's transaction, if it is still the one that was begun. A deadlock undoes the whole of it, and
/// what comes after a statement that commits by itself is another one; the savepoint is gone then. (In these
/// sessions nothing is committed by itself, so what somebody wrote afterwards is undone as well.)
pub(crate) async fn finish_work<T: Tx>(mut tx: T, sabotage: Sabotage) -> Result<()> {
    if let Err(known) = tx.text("RELEASE SAVEPOINT onewrite_begun", "commit").await {
        if is_unknown(&known) {
            return Err(known);
        }
        if sabotage.has(Defect::TrustTransaction) {
            return finish(tx).await;
        }
        tx.undo().await?;
        let context = "the transaction had ended before its commit: the server undid it (a deadlock whose error was overlooked), or a statement committed it";
        return Err(Error::new(Code::StoreBusy, context));
    }
    finish(tx).await
}

/// Commits what must not be lost.
pub(crate) async fn finish(tx: impl Tx) -> Result<()> {
    failpoint::hit("store.before_commit");
    let committed = tx.end().await;
    failpoint::hit("store.after_commit_before_reply");
    committed
}

/// A transaction of a client.
pub(crate) trait Tx: Client {
    /// Commits.
    async fn end(self) -> Result<()>;

    /// Rolls back.
    async fn undo(self) -> Result<()>;
}

impl Tx for Transaction<'_> {
    async fn end(self) -> Result<()> {
        self.commit().await.map_err(after_commit)
    }

    async fn undo(self) -> Result<()> {
        self.rollback().await.during("undo a transaction")
    }
}

async fn one_by_one(
    tx: &mut Transaction<'_>,
    terms: &Terms<'_>,
    items: &[Item],
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(items.len());
    let mut emitted = Vec::new();
    for item in items {
        outcomes.push(in_savepoint(tx, terms, item, &mut emitted).await?);
    }
    // All at the end: two batches never wait for each other.
    emit::emit_all(tx, &emitted).await?;
    Ok(outcomes)
}

/// Runs one item so that its failure undoes its own writes only. An error concerns the whole batch.
async fn in_savepoint(
    tx: &mut Transaction<'_>,
    terms: &Terms<'_>,
    item: &Item,
    emitted: &mut Vec<Event>,
) -> Result<Outcome> {
    let before = emitted.len();
    tx.query_drop(SAVEPOINT).await.during("begin an item")?;
    match write(tx, terms, item, emitted).await {
        Ok(count) => Ok(Outcome::Applied(count)),
        // A deadlock undoes the whole transaction.
        Err(error)
            if is_unknown(&error)
                || error.code() == Code::StoreBusy && !signal::is_locked(&error) =>
        {
            Err(error)
        }
        Err(error) => {
            tx.query_drop(ROLL_BACK).await.during("undo an item")?;
            emitted.truncate(before);
            Ok(if error.code() == Code::Fenced { Outcome::Fenced } else { Outcome::Failed(error) })
        }
    }
}

pub(crate) async fn write(
    tx: &mut Transaction<'_>,
    terms: &Terms<'_>,
    item: &Item,
    emitted: &mut Vec<Event>,
) -> Result<u64> {
    if let Some(fence) = &item.fence
        && !terms.sabotage.has(Defect::NoFence)
        && !claim::holds(tx, fence).await?
    {
        return Err(Error::new(Code::Fenced, "the lease has another owner"));
    }
    let mut touched = 0;
    for op in &item.ops {
        touched = apply(tx, terms, item.fence.as_ref(), op, emitted).await?;
    }
    Ok(touched)
}

async fn apply(
    tx: &mut Transaction<'_>,
    terms: &Terms<'_>,
    fence: Option<&Fence>,
    op: &Op,
    emitted: &mut Vec<Event>,
) -> Result<u64> {
    match op {
        Op::Emit(event) => {
            event.check(terms.event_bytes_max)?;
            let mut event = (**event).clone();
            let id = event.id.get_or_insert_with(emit::new_id).clone();
            emit::check(&event, &id)?;
            emitted.push(event);
            Ok(1)
        }
        Op::Guard { .. } => Err(Error::new(
            Code::UnsafeSetting,
            "tables cannot be guarded on MariaDB and MySQL: they have no check that waits for the end of a transaction",
        )),
        Op::Unguard { .. } => Ok(0),
        Op::Subscribe { sink, from } => {
            trim::subscribe(tx, sink, *from, terms.source.partitions).await
        }
        Op::MoveCursor { sink, partition, sequence, chain } => {
            let sql = "UPDATE onewrite_cursor SET sequence = ?, chain = ?, attempts = 0, retry_at = NULL, reason = NULL
                 WHERE sink = ? AND `partition` = ?";
            let binds = binds![sequence.cast_signed(), chain.cast_signed(), &**sink, *partition];
            execute(tx, sql, binds).await
        }
        Op::FailCursor { sink, partition, attempts, retry_at, reason } => {
            let sql = "UPDATE onewrite_cursor SET attempts = ?, retry_at = ?, reason = ? WHERE sink = ? AND `partition` = ?";
            execute(tx, sql, binds![*attempts, retry_at.0, &**reason, &**sink, *partition]).await
        }
        Op::Park { sink, sequence, reason, .. } => {
            parking::park_from_log(tx, terms.source, sink, *sequence, reason).await
        }
        Op::Unpark { scope, source, key, position } => {
            parking::unpark(tx, scope, (source, key), *position).await
        }
        Op::Request { scope, source, key, request, reason } => {
            parking::request(tx, scope, (source, key), *request, reason.as_deref()).await
        }
        Op::AcceptGaps { consumer, source } => gap::accept(tx, consumer, source).await,
        Op::DefineSaga(checked) => saga::define(tx, checked).await,
        Op::StartSaga(new) => {
            let started = saga::start(tx, &[new]).await?.into_iter().map(u64::from).sum();
            if started > 0 {
                signal::wait(tx, new.id, new.partition, &new.awaits).await?;
            }
            Ok(started)
        }
        Op::AdvanceSaga(next) => {
            if let Some(taken) = &next.takes {
                signal::take(tx, next.saga, taken, terms.sabotage).await?;
            }
            if let Some(awaits) = &next.awaits {
                signal::wait_instead(tx, next.saga, awaits).await?;
            }
            saga::advance(tx, &[(saga::epoch(fence), next)], terms.sabotage).await.map(|()| 1)
        }
        Op::Signal(sent) => signal(tx, sent).await.map(u64::from),
        Op::DropSignal { saga, signal } => signal::drop(tx, *saga, signal, terms.sabotage).await,
        Op::MatchSignals => signal::match_all(tx).await,
        Op::TrimSignals { limit } => signal::trim(tx, *limit).await,
        Op::TrimSagas { before, limit, only } => {
            saga::trim(tx, *before, *limit, only.as_deref(), terms.sabotage).await
        }
        Op::Release(fence) => {
            let sql = "UPDATE onewrite_lease SET owner = NULL, expires_at = 0 WHERE scope = ? AND `partition` = ? AND epoch = ?";
            execute(tx, sql, binds![&*fence.scope, fence.partition, fence.epoch.cast_signed()])
                .await
        }
        Op::Leave { scope, owner } => {
            let sql = "DELETE FROM onewrite_member WHERE scope = ? AND owner = ?";
            execute(tx, sql, binds![&**scope, &**owner]).await
        }
        Op::Suspend { sink, reason } => trim::suspend(tx, sink, reason.as_deref()).await,
        Op::Trim { before, history_before, limit } => {
            trim::trim(tx, *before, *history_before, *limit, terms.sabotage).await
        }
    }
}

/// Cursors of one sink that move under leases of one scope.
struct Moves<'a> {
    sink: &'a Text,
    scope: &'a Text,
    /// Partition of the cursor, sequence and chain; partition and epoch of the lease.
    all: Vec<(Partition, Sequence, Sequence, Partition, Epoch)>,
}

impl<'a> Moves<'a> {
    /// When `items` are nothing else, and each cursor is written once.
    fn of(items: &'a [Item]) -> Option<Self> {
        let mut moves: Option<Self> = None;
        let mut seen = HashSet::new();
        for item in items {
            let ([Op::MoveCursor { sink, partition, sequence, chain }], Some(fence)) =
                (item.ops.as_slice(), &item.fence)
            else {
                return None;
            };
            let own =
                moves.get_or_insert_with(|| Self { sink, scope: &fence.scope, all: Vec::new() });
            if own.sink != sink || *own.scope != fence.scope || !seen.insert(*partition) {
                return None;
            }
            own.all.push((*partition, *sequence, *chain, fence.partition, fence.epoch));
        }
        moves
    }

    /// Locks the leases in one order, then moves the cursors of those that still hold.
    async fn write(&self, tx: &mut impl Queryable) -> Result<Vec<Outcome>> {
        let numbers = |of: &mut dyn Iterator<Item = u64>| {
            of.map(|n| n.to_string()).collect::<Vec<_>>().join(",")
        };
        let leases = numbers(&mut self.all.iter().map(|own| own.3.into()));
        let sql = format!(
            "SELECT `partition`, epoch FROM onewrite_lease WHERE scope = {} AND `partition` IN ({leases}) AND owner IS NOT NULL
             ORDER BY `partition` FOR UPDATE",
            row::quoted(self.scope)
        );
        let mut current: HashSet<(Partition, Epoch)> = HashSet::new();
        for mut found in tx.query::<Row, _>(sql).await.during("look at the leases")? {
            current.insert((row::get(&mut found, 0)?, row::number(&mut found, 1)?));
        }
        let holds = |own: &&(Partition, Sequence, Sequence, Partition, Epoch)| {
            current.contains(&(own.3, own.4))
        };
        let held: Vec<_> = self.all.iter().filter(holds).collect();
        if !held.is_empty() {
            let partitions = numbers(&mut held.iter().map(|own| own.0.into()));
            let sequences = numbers(&mut held.iter().map(|own| own.1));
            let chains = numbers(&mut held.iter().map(|own| own.2));
            let sql = format!(
                "UPDATE onewrite_cursor SET sequence = ELT(FIELD(`partition`, {partitions}), {sequences}),
                     chain = ELT(FIELD(`partition`, {partitions}), {chains}), attempts = 0, retry_at = NULL, reason = NULL
                 WHERE sink = {} AND `partition` IN ({partitions})",
                row::quoted(self.sink)
            );
            tx.query_drop(sql).await.during("move cursors")?;
        }
        let outcome = |own| if holds(&own) { Outcome::Applied(1) } else { Outcome::Fenced };
        Ok(self.all.iter().map(outcome).collect())
    }
}
