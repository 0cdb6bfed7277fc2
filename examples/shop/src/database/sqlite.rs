//! A service on SQLite. Its transactions run synchronously, on the thread that writes the file.

use std::sync::Arc;

use onewrite::{
    BoxFuture, Code, Error, Event, Record, Result, Store, failpoint,
    inbox::{Inbox, InboxOptions},
    other,
    saga::{Journal, Passage},
    sqlite::{
        self, SqliteInbox, SqliteStore,
        rusqlite::{Connection, Row, types::ValueRef},
    },
};

use super::Database;
use crate::{
    Order, ReactionError, Role, order,
    reaction::noted,
    rows::{Rows, Value, at_once, failed},
    saga::deed::Act,
};

/// Every committed reaction, for the audit.
const EFFECTS: &str = "CREATE TABLE IF NOT EXISTS effects (
    n INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT, event_id TEXT, event_key TEXT, sequence BIGINT)";

/// As `$1`, `$2`… are called; no statement of the shop has more.
const NAMES: [&str; 6] = ["$1", "$2", "$3", "$4", "$5", "$6"];

pub(super) struct Sqlite(SqliteStore);

impl Sqlite {
    pub(super) fn open(url: &str, source: Option<Role>) -> Result<Self> {
        let (create, source) = (source.is_some(), source.map(|role| role.name().into()));
        let options = sqlite::Options { create, source, ..sqlite::Options::from_url(url)? };
        Ok(Self(SqliteStore::open(options)?))
    }
}

impl Database for Sqlite {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    fn create_tables(&self, role: Role) -> BoxFuture<'_, Result<()>> {
        let (tables, _) = role.tables();
        Box::pin(self.0.write(move |tx| {
            tx.execute_batch(tables).and_then(|()| tx.execute_batch(EFFECTS)).map_err(other)
        }))
    }

    fn place(&self, order: Order, emits: bool) -> BoxFuture<'_, Result<Option<Event>>> {
        Box::pin(self.0.write(move |tx| {
            let placed = at_once(order::place(&mut SqliteRows(tx), &order)).map_err(failed)?;
            if let Some(event) = placed.as_ref().filter(|_| emits) {
                sqlite::emit(tx, event)?;
            }
            Ok(placed)
        }))
    }

    fn inbox(&self, role: Role, options: InboxOptions) -> Result<Arc<dyn Inbox>> {
        let inbox = SqliteInbox::new(&self.0, options, move |cx| {
            let events = at_once(noted(role, &mut SqliteRows(cx.tx()), cx.record()))?;
            for event in events {
                cx.emit(event)?;
            }
            Ok(())
        })?;
        Ok(Arc::new(inbox))
    }

    fn react(&self, role: Role, record: Record) -> BoxFuture<'_, Result<Vec<Event>>> {
        Box::pin(self.0.write(move |tx| {
            let events = at_once(noted(role, &mut SqliteRows(tx), &record))
                .map_err(|error| Error::new(Code::HandlerFailed, error.to_string()))?;
            failpoint::hit("receiver.after_handler_before_commit");
            Ok(events)
        }))
    }

    fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(self.0.clone())
    }

    fn create_barrier(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.write(sqlite::barrier::create))
    }

    fn take_part(&self, act: Act) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.write(move |tx| {
            let passage = match act.barrier() {
                Some(barrier) => sqlite::barrier::pass(tx, barrier)?,
                None => Passage::Act,
            };
            at_once(act.follow(&mut SqliteRows(tx), passage)).map_err(failed)
        }))
    }

    fn pairs(&self, sql: &'static str) -> BoxFuture<'_, Result<Vec<(String, String)>>> {
        Box::pin(self.0.read_with(move |db| {
            let mut statement = db.prepare(sql).map_err(other)?;
            let found = statement
                .query_map([], |row| Ok((text(row, 0)?, text(row, 1)?)))
                .and_then(Iterator::collect);
            found.map_err(other)
        }))
    }

    fn number(&self, sql: &'static str) -> BoxFuture<'_, Result<i64>> {
        Box::pin(self.0.read_with(move |db| db.query_row(sql, [], |row| row.get(0)).map_err(other)))
    }
}

/// Text as it is stored; SQLite does not insist that a column of text holds valid text.
fn text(row: &Row<'_>, index: usize) -> sqlite::rusqlite::Result<String> {
    match row.get_ref(index)? {
        ValueRef::Integer(number) => Ok(number.to_string()),
        value => Ok(String::from_utf8_lossy(value.as_bytes().unwrap_or_default()).into_owned()),
    }
}

struct SqliteRows<'a>(&'a Connection);

impl Rows for SqliteRows<'_> {
    fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = std::result::Result<u64, ReactionError>> + Send {
        // Done before it is asked: the connection stays on its thread.
        std::future::ready(execute(self.0, sql, values))
    }

    fn wait_in_line(
        &mut self,
        _: &'static str,
    ) -> impl Future<Output = std::result::Result<(), ReactionError>> + Send {
        // SQLite has one writer at a time.
        std::future::ready(Ok(()))
    }
}

/// SQLite numbers `$1` and its like as they appear, so they are bound by name.
fn execute(
    tx: &Connection,
    sql: &'static str,
    values: &[Value<'_>],
) -> std::result::Result<u64, ReactionError> {
    let mut statement = tx.prepare_cached(sql)?;
    for (name, value) in NAMES.into_iter().zip(values) {
        let index =
            statement.parameter_index(name)?.ok_or_else(|| format!("no {name} in {sql}"))?;
        match value {
            Value::Text(text) => statement.raw_bind_parameter(index, text)?,
            Value::Integer(number) => statement.raw_bind_parameter(index, number)?,
        }
    }
    Ok(statement.raw_execute()? as u64)
}
