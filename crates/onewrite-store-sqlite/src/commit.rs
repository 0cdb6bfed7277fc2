//! The write door: every write of the engine, each item in a savepoint of its own.

use onewrite_core::{
    Code, Error, Result,
    lease::Fence,
    position::{START, Source},
    sabotage::{Defect, Sabotage},
    store::{From, Item, Op, Outcome},
};
use rusqlite::{Connection, params};

use crate::{
    claim::{self, Held, execute},
    emit, gap, guard, parking, read, saga, schema, signal, trim,
    writer::in_savepoint,
};

/// Writes one item. A fence that no longer holds changes nothing.
pub(crate) fn item(
    tx: &Connection,
    source: &Source,
    item: &Item,
    held: &mut Held,
    sabotage: Sabotage,
) -> Outcome {
    if tx.is_autocommit() {
        // The database rolled the group back: what came now would be committed by itself.
        let why = "the transaction has ended already";
        return Outcome::Failed(Error::new(Code::Stopped, why));
    }
    if let Some(count) = move_alone(tx, item, sabotage) {
        return Outcome::Applied(count);
    }
    let alone = needs_no_savepoint(item);
    let mut write = || write(tx, source, item, held, sabotage);
    let written = if alone { write() } else { in_savepoint(tx, write) };
    match written {
        Ok(count) => Outcome::Applied(count),
        Err(error) if error.code() == Code::Fenced => Outcome::Fenced,
        Err(error) => Outcome::Failed(error),
    }
}

/// Whether it is atomic by itself, as is what the engine of sagas writes most: in a savepoint SQLite would
/// copy every page before it is changed.
fn needs_no_savepoint(item: &Item) -> bool {
    match item.ops.as_slice() {
        [Op::StartSaga(new)] => new.awaits.is_empty(),
        [Op::AdvanceSaga(next)] => next.is_plain(),
        _ => false,
    }
}

/// What a relay writes most: one cursor under one fence. A statement is atomic by itself, so it needs
/// no savepoint. Whatever is not simply applied goes the long way, which says what it is.
fn move_alone(tx: &Connection, item: &Item, sabotage: Sabotage) -> Option<u64> {
    let (Some(fence), [Op::MoveCursor { sink, partition, sequence, chain }]) =
        (&item.fence, item.ops.as_slice())
    else {
        return None;
    };
    if sabotage.has(Defect::NoFence) {
        return None;
    }
    let moved = execute(
        tx,
        "UPDATE onewrite_cursor SET sequence = ?3, chain = ?4, attempts = 0, retry_at = NULL, reason = NULL
         WHERE sink = ?1 AND partition = ?2 AND EXISTS (
             SELECT 1 FROM onewrite_lease WHERE scope = ?5 AND partition = ?6 AND epoch = ?7 AND owner IS NOT NULL)",
        params![
            &**sink,
            partition,
            sequence.cast_signed(),
            chain.cast_signed(),
            &*fence.scope,
            fence.partition,
            fence.epoch.cast_signed()
        ],
    );
    moved.ok().filter(|count| *count == 1)
}

fn write(
    tx: &Connection,
    source: &Source,
    item: &Item,
    held: &mut Held,
    sabotage: Sabotage,
) -> Result<u64> {
    if let Some(fence) = &item.fence
        && !held.holds(tx, fence, sabotage)?
    {
        return Err(Error::new(Code::Fenced, "the lease has another owner"));
    }
    let mut touched = 0;
    for op in &item.ops {
        if matches!(op, Op::Release(_)) {
            held.forget();
        }
        touched = apply(tx, source, item.fence.as_ref(), op, sabotage)?;
    }
    Ok(touched)
}

fn apply(
    tx: &Connection,
    source: &Source,
    fence: Option<&Fence>,
    op: &Op,
    sabotage: Sabotage,
) -> Result<u64> {
    match op {
        Op::Emit(event) => {
            emit::place(tx, event, emit::terms(tx)?)?;
            Ok(1)
        }
        Op::Guard { table } => guard::add(tx, table).map(|()| 1),
        Op::Unguard { table } => guard::remove(tx, table).map(|()| 1),
        Op::Subscribe { sink, from } => {
            let start = match from {
                From::Now => schema::head(tx)?,
                From::Time(time) => read::before(tx, *time)?,
                // The log is trimmed from its front: nothing up to the highest one deleted is left.
                From::Beginning => {
                    read::trimmed(tx)?.iter().map(|(_, last)| *last).max().unwrap_or(START)
                }
            };
            trim::subscribe(tx, sink, start, source.partitions)
        }
        Op::MoveCursor { sink, partition, sequence, chain } => execute(
            tx,
            "UPDATE onewrite_cursor SET sequence = ?3, chain = ?4, attempts = 0, retry_at = NULL, reason = NULL
             WHERE sink = ?1 AND partition = ?2",
            params![&**sink, partition, sequence.cast_signed(), chain.cast_signed()],
        ),
        Op::FailCursor { sink, partition, attempts, retry_at, reason } => execute(
            tx,
            "UPDATE onewrite_cursor SET attempts = ?3, retry_at = ?4, reason = ?5 WHERE sink = ?1 AND partition = ?2",
            params![&**sink, partition, attempts, retry_at.0, &**reason],
        ),
        Op::Park { sink, sequence, reason, .. } => parking::park_from_log(tx, source, sink, *sequence, reason),
        Op::Unpark { scope, source, key, position } => parking::unpark(tx, scope, source, key, *position),
        Op::Request { scope, source, key, request, reason } => parking::request(tx, scope, (source, key), *request, reason.as_deref()),
        Op::AcceptGaps { consumer, source } => gap::accept(tx, consumer, source),
        Op::DefineSaga(checked) => saga::define(tx, checked),
        Op::StartSaga(new) => saga::start(tx, new),
        Op::AdvanceSaga(transition) => saga::advance(tx, fence, transition, sabotage),
        Op::Signal(sent) => signal(tx, sent).map(u64::from),
        Op::DropSignal { saga, signal } => signal::drop(tx, *saga, signal, sabotage),
        // One writer: a signal sees what waits for it, and what begins to wait sees its signal.
        Op::MatchSignals => Ok(0),
        Op::TrimSignals { limit } => signal::trim(tx, *limit),
        Op::TrimSagas { before, limit, only } => saga::trim(tx, *before, *limit, only.as_deref(), sabotage),
        Op::Release(fence) => claim::release(tx, fence),
        Op::Leave { scope, owner } => claim::leave(tx, scope, owner),
        Op::Suspend { sink, reason } => trim::suspend(tx, sink, reason.as_deref()),
        Op::Trim { before, history_before, limit } => trim::trim(tx, *before, *history_before, *limit, sabotage),
    }
}
