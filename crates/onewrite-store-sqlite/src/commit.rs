//! The write door: every write of the engine, each item in a savepoint of its own.

use onewrite_core::{
    Code, Error, Result,
    position::Source,
    sabotage::Sabotage,
    store::{From, Item, Op, Outcome},
};
use rusqlite::{Connection, params};

use crate::{
    claim::{self, execute},
    emit, parking, trim,
    writer::in_savepoint,
};

/// Writes one item. A fence that no longer holds changes nothing.
pub(crate) fn item(tx: &Connection, source: &Source, item: &Item, sabotage: Sabotage) -> Outcome {
    match in_savepoint(tx, || write(tx, source, item, sabotage)) {
        Ok(count) => Outcome::Applied(count),
        Err(error) if error.code() == Code::Fenced => Outcome::Fenced,
        Err(error) => Outcome::Failed(error),
    }
}

fn write(tx: &Connection, source: &Source, item: &Item, sabotage: Sabotage) -> Result<u64> {
    if let Some(fence) = &item.fence
        && !claim::holds(tx, fence, sabotage)?
    {
        return Err(Error::new(Code::Fenced, "the lease has another owner"));
    }
    let mut touched = 0;
    for op in &item.ops {
        touched = apply(tx, source, op, sabotage)?;
    }
    Ok(touched)
}

fn apply(tx: &Connection, source: &Source, op: &Op, sabotage: Sabotage) -> Result<u64> {
    match op {
        Op::Emit(event) => {
            emit::place(tx, event, emit::terms(tx)?)?;
            Ok(1)
        }
        Op::Subscribe { sink, from } => {
            let (head, trimmed) = crate::read::bounds(tx)?;
            let start = if *from == From::Now { head } else { trimmed };
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
        Op::Request { scope, key, request, reason } => parking::request(tx, scope, key, *request, reason.as_deref()),
        Op::Release(fence) => claim::release(tx, fence),
        Op::Leave { scope, owner } => claim::leave(tx, scope, owner),
        Op::Suspend { sink, reason } => trim::suspend(tx, sink, reason.as_deref()),
        Op::Trim { before, history_before, limit } => trim::trim(tx, *before, *history_before, *limit, sabotage),
    }
}
