//! The guard against the forgotten event.
//!
//! A guarded table has triggers that leave a debt behind every change. A debt's deferred foreign key
//! points nowhere, so a transaction with a debt cannot commit; an event emitted *after* the change, or
//! a reason in `onewrite_no_event`, pays all debts of the transaction. Savepoints work as one expects.
//!
//! Limits: it proves that *an* event was emitted, not the right one. It needs `foreign_keys=ON` on the
//! connection that writes (the default here, with sqlx and with rusqlite's bundled SQLite; not with
//! Python's `sqlite3`). SQLite's own message is only "FOREIGN KEY constraint failed"; through this
//! crate the error names the table and the cure.

use onewrite_core::{Code, Error, Result};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    error::{While, database},
    statement,
    writer::now,
};

const OPERATIONS: [&str; 3] = ["INSERT", "UPDATE", "DELETE"];

/// Guards `table`: from now on a transaction that changes it must emit an event afterwards.
///
/// # Errors
/// [`Code::NotFound`] when there is no such table, [`Code::UnsafeSetting`] for a table of onewrite.
pub fn add(tx: &Connection, table: &str) -> Result<()> {
    let name: Option<String> = tx
        .query_row(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
            [table],
            |row| row.get(0),
        )
        .optional()
        .during("look for the table")?;
    let Some(name) = name else {
        return Err(Error::new(
            Code::NotFound,
            format!("there is no table `{}`", table.escape_debug()),
        )
        .with_cure("Check the spelling: a table is there before it is guarded."));
    };
    if name.starts_with("onewrite_") || name.starts_with("sqlite_") {
        return Err(Error::new(Code::UnsafeSetting, format!("`{name}` is not a table of yours")));
    }
    for operation in OPERATIONS {
        // Deleted first: `OR REPLACE` here would give way to the conflict clause of the user's own
        // statement.
        let sql = format!(
            "CREATE TRIGGER IF NOT EXISTS {0} AFTER {operation} ON {1} BEGIN DELETE FROM onewrite_debt WHERE guarded = {2}; INSERT INTO onewrite_debt (guarded) VALUES ({2}); END",
            identifier(&trigger(&name, operation)),
            identifier(&name),
            literal(&name),
        );
        tx.execute_batch(&sql).during("create the guard's trigger")?;
    }
    tx.execute(
        "INSERT OR IGNORE INTO onewrite_guard (guarded, since) VALUES (?1, ?2)",
        params![name, now().0],
    )
    .during("register the guard")?;
    Ok(())
}

/// Stops guarding `table`.
///
/// # Errors
/// [`Code::NotFound`] when the table is not guarded.
pub fn remove(tx: &Connection, table: &str) -> Result<()> {
    let name: Option<String> = tx
        .query_row(
            "DELETE FROM onewrite_guard WHERE guarded = ?1 COLLATE NOCASE RETURNING guarded",
            [table],
            |row| row.get(0),
        )
        .optional()
        .during("remove the guard")?;
    let Some(name) = name else {
        return Err(Error::new(
            Code::NotFound,
            format!("the table `{}` is not guarded", table.escape_debug()),
        )
        .with_cure("`onewrite guard list` shows the tables that are."));
    };
    for operation in OPERATIONS {
        let sql = format!("DROP TRIGGER IF EXISTS {}", identifier(&trigger(&name, operation)));
        tx.execute_batch(&sql).during("drop the guard's trigger")?;
    }
    Ok(())
}

/// The guarded tables.
///
/// # Errors
/// When the database cannot be read.
pub fn list(connection: &Connection) -> Result<Vec<String>> {
    let mut statement = connection
        .prepare_cached("SELECT guarded FROM onewrite_guard ORDER BY guarded")
        .during("list the guards")?;
    let rows = statement.query_map([], |row| row.get(0)).during("list the guards")?;
    rows.collect::<rusqlite::Result<_>>().during("list the guards")
}

/// Pays the debts of this transaction without an event, for a stated reason (a backfill, a repair).
///
/// # Errors
/// [`Code::Database`] for an empty reason.
pub fn no_event(tx: &Connection, reason: &str) -> Result<()> {
    tx.prepare_cached("INSERT INTO onewrite_no_event (reason) VALUES (?1)")
        .and_then(|mut statement| statement.execute([reason]))
        .during("state why no event is needed")
        .map(|_| ())
}

/// Drops debts that a connection without foreign keys committed: they are nobody's here.
pub(crate) fn drop_stale(tx: &Connection) -> Result<()> {
    match debtor(tx)? {
        None => Ok(()),
        Some(_) => tx.execute_batch("DELETE FROM onewrite_debt").during("drop old debts"),
    }
}

/// Fails while this transaction owes an event.
pub(crate) fn check(tx: &Connection) -> Result<()> {
    match debtor(tx)? {
        None => Ok(()),
        Some(table) => Err(forgotten(&table)),
    }
}

/// What to say about a commit that a foreign key refused.
pub(crate) fn refusal(tx: &Connection, error: rusqlite::Error) -> Error {
    match debtor(tx) {
        Ok(Some(table)) => forgotten(&table),
        _ => database("a deferred constraint refused the commit", error),
    }
}

fn debtor(tx: &Connection) -> Result<Option<String>> {
    tx.prepare_cached(statement::DEBTOR)
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)).optional())
        .during("look for changes without an event")
}

pub(crate) fn forgotten(table: &str) -> Error {
    Error::new(
        Code::EventForgotten,
        format!(
            "the transaction changed the guarded table `{table}` and emitted no event afterwards; emit one in the same transaction, or state why none is needed"
        ),
    )
}

fn trigger(table: &str, operation: &str) -> String {
    format!("onewrite_guard_{}_{table}", operation.to_ascii_lowercase())
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
