//! An inbox's part of a transaction of the shared writer, which commits it.

use std::{collections::BTreeSet, error::Error as StdError};

use onewrite_core::{
    Code, Error, Record, Result, Text, failpoint,
    inbox::{Act, Bind, Lane, LaneState, Policy, Received, Rows, Session, Statement, is_trouble},
    parking::{ParkedKey, ParkedRecord, Request},
};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::{Context, Handler};
use crate::{
    claim::{execute, number},
    error::{While, code_of},
    parking, statement,
    writer::in_savepoint,
};

/// What counts.
pub(super) struct Counting<'a> {
    pub(super) tx: &'a Connection,
    pub(super) policy: &'a Policy,
}

impl Rows for Counting<'_> {
    async fn states(&mut self, lanes: &BTreeSet<Lane>) -> Result<Vec<(Lane, LaneState)>> {
        let state = |lane: &Lane| Ok((lane.clone(), lane_state(self.tx, self.policy, lane)?));
        lanes.iter().map(state).collect()
    }

    async fn write(&mut self, changed: &[(&Lane, &LaneState)]) -> Result<()> {
        changed.iter().try_for_each(|(lane, state)| move_mark(self.tx, self.policy, lane, state))
    }

    /// The writer does.
    async fn commit(self) -> Result<()> {
        Ok(())
    }
}

/// What handles.
pub(super) struct Work<'a> {
    rows: Counting<'a>,
    scope: Text,
    handler: &'a Handler,
}

impl<'a> Work<'a> {
    pub(super) fn new(tx: &'a Connection, policy: &'a Policy, handler: &'a Handler) -> Self {
        Self { rows: Counting { tx, policy }, scope: policy.scope(), handler }
    }
}

impl Rows for Work<'_> {
    async fn states(&mut self, lanes: &BTreeSet<Lane>) -> Result<Vec<(Lane, LaneState)>> {
        self.rows.states(lanes).await
    }

    async fn write(&mut self, changed: &[(&Lane, &LaneState)]) -> Result<()> {
        self.rows.write(changed).await
    }

    async fn commit(self) -> Result<()> {
        self.rows.commit().await
    }
}

impl Session for Work<'_> {
    /// Each handler runs in a savepoint.
    const FAULTS_SHOW_LATER: bool = false;

    async fn any_parked(&mut self) -> Result<bool> {
        parking::any_parked(self.rows.tx, &self.scope)
    }

    async fn execute(&mut self, statement: Statement<'_>) -> Result<u64> {
        let (sql, binds) = statement::of(statement, &self.rows.policy.consumer, &self.scope);
        let binds: Vec<&dyn ToSql> = binds.iter().map(value).collect();
        if statement.asks() {
            return number(self.rows.tx, sql, &*binds).map(i64::cast_unsigned);
        }
        execute(self.rows.tx, sql, &*binds)
    }

    /// The writer's own savepoint does it.
    async fn act(&mut self, _: Act) -> Result<()> {
        Ok(())
    }

    async fn run(&mut self, record: &Record, redriven: bool) -> Result<Option<Text>> {
        let context = Context { tx: self.rows.tx, received: Received::new(record, redriven) };
        let mut trouble = None;
        let handled = in_savepoint(self.rows.tx, || {
            (self.handler)(&context).map_err(|error| {
                trouble = database_trouble(&*error);
                Error::new(Code::HandlerFailed, error.to_string())
            })
        });
        let Err(error) = handled else { return Ok(None) };
        match trouble {
            Some(code) => Err(Error::new(code, "the handler could not write").with_source(error)),
            None => Ok(Some(error.to_string().into())),
        }
    }

    async fn finish(self) -> Result<()> {
        failpoint::hit("receiver.after_handler_before_commit");
        self.commit().await
    }

    async fn parked(&mut self, key: &ParkedKey) -> Result<(Option<Request>, Option<ParkedRecord>)> {
        Ok((parking::current(self.rows.tx, key)?, parking::front(self.rows.tx, key)?))
    }
}

fn value<'a>(bind: &'a Bind<'a>) -> &'a dyn ToSql {
    match bind {
        Bind::Text(text) => text,
        Bind::Number(number) => number,
        Bind::Bytes(bytes) => bytes,
    }
}

/// Whether a handler's error comes from the database itself, so that every event would fail. (A file that
/// cannot be opened is not this one, which is open.)
fn database_trouble(error: &(dyn StdError + 'static)) -> Option<Code> {
    let own = error.downcast_ref::<Error>().map(Error::code);
    let code = own.or_else(|| error.downcast_ref().map(code_of))?;
    (is_trouble(code) && code != Code::StoreUnreachable).then_some(code)
}

fn lane_state(tx: &Connection, policy: &Policy, lane: &Lane) -> Result<LaneState> {
    let read = |row: &Row<'_>| {
        Ok(LaneState {
            sequence: row.get::<_, i64>(0)?.cast_unsigned(),
            last_id: row.get::<_, String>(1)?.into(),
            attempt_first: row.get::<_, i64>(2)?.cast_unsigned(),
            attempts: row.get(3)?,
            redriven: row.get::<_, i64>(4)?.cast_unsigned(),
            gap: row.get::<_, i64>(5)?.cast_unsigned(),
        })
    };
    tx.prepare_cached(statement::LANE_STATE)
        .and_then(|mut statement| {
            statement
                .query_row(
                    params![
                        &*policy.consumer,
                        &*lane.source,
                        lane.incarnation.to_string(),
                        lane.partition
                    ],
                    read,
                )
                .optional()
        })
        .during("read the receiver's mark")
        .map(Option::unwrap_or_default)
}

fn move_mark(tx: &Connection, policy: &Policy, lane: &Lane, state: &LaneState) -> Result<()> {
    execute(
        tx,
        statement::MOVE_MARK,
        params![
            &*policy.consumer,
            &*lane.source,
            lane.incarnation.to_string(),
            lane.partition,
            state.sequence.cast_signed(),
            &*state.last_id,
            state.attempt_first.cast_signed(),
            state.attempts,
            state.redriven.cast_signed(),
            state.gap.cast_signed()
        ],
    )
    .map(|_| ())
}
