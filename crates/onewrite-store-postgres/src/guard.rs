//! The guard against the forgotten event.
//!
//! A guarded table has a deferred row-level constraint trigger. The first change of a transaction queues
//! one check for its commit, which fails unless the transaction emitted an event or stated why none is
//! needed. The marks it looks at belong to the transaction and go back with its savepoints; so it
//! works with COPY, partitions, plain INSERTs and PREPARE TRANSACTION.
//!
//! Limits: it proves that *an* event was emitted, not the right one. `TRUNCATE` fires no row triggers,
//! and a session with `session_replication_role = replica` (logical replication) fires none of these.

use onewrite_core::{Code, Error, Result, Text};
use tokio_postgres::{Client, error::SqlState};

use crate::{error::While, row};

/// Guards `table`, which may be qualified by its schema: from now on a transaction that changes it must
/// emit an event.
///
/// # Errors
/// [`Code::NotFound`] when there is no such table, [`Code::UnsafeSetting`] for a table of onewrite.
pub(crate) async fn add(client: &Client, table: &str) -> Result<()> {
    let name = resolve(client, table).await?;
    let guarded = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass($1) AND tgname = 'onewrite_guard')",
            &[&&*name],
        )
        .await
        .during("look for the guard")?;
    if guarded.get::<_, bool>(0) {
        return Ok(());
    }
    client
        .execute("SELECT onewrite.guard_table(to_regclass($1))", &[&&*name])
        .await
        .during("guard the table")
        .map(|_| ())
}

/// Stops guarding `table`.
///
/// # Errors
/// [`Code::NotFound`] when the table is not guarded.
pub(crate) async fn remove(client: &Client, table: &str) -> Result<()> {
    let name = resolve(client, table).await?;
    let known = client
        .query_opt("SELECT 1 FROM onewrite.guard WHERE guarded = to_regclass($1)::text", &[&&*name])
        .await
        .during("look for the guard")?;
    if known.is_none() {
        return Err(Error::new(
            Code::NotFound,
            format!("the table `{}` is not guarded", table.escape_debug()),
        )
        .with_cure("`onewrite guard list` shows the tables that are."));
    }
    client
        .execute("SELECT onewrite.unguard_table(to_regclass($1))", &[&&*name])
        .await
        .during("stop guarding the table")
        .map(|_| ())
}

/// The guarded tables.
pub(crate) async fn list(client: &Client) -> Result<Vec<Text>> {
    let rows = client
        .query("SELECT guarded FROM onewrite.guard ORDER BY guarded", &[])
        .await
        .during("list the guards")?;
    rows.iter().map(|found| row::text(found, 0)).collect()
}

/// The table's name as PostgreSQL reads it, or as it is written where it needs quotes.
async fn resolve(client: &Client, table: &str) -> Result<Text> {
    let found = client
        .query_one(
            "SELECT coalesce(to_regclass(quote_ident($1)), to_regclass($1))::text,
                    (SELECT nspname FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
                     WHERE c.oid = coalesce(to_regclass(quote_ident($1)), to_regclass($1)))",
            &[&table],
        )
        .await;
    let found = match found {
        Err(error) if error.code() == Some(&SqlState::INVALID_NAME) => None,
        found => Some(found.during("look for the table")?),
    };
    let name = found.as_ref().map(|found| row::option(found, 0)).transpose()?.flatten();
    let (Some(name), Some(found)) = (name, found) else {
        return Err(Error::new(
            Code::NotFound,
            format!("there is no table `{}`", table.escape_debug()),
        )
        .with_cure("Check the spelling: a table is there before it is guarded, and one outside of the search path is named with its schema."));
    };
    let schema = row::option(&found, 1)?.unwrap_or_default();
    if matches!(&*schema, "onewrite" | "pg_catalog" | "information_schema") {
        return Err(Error::new(Code::UnsafeSetting, format!("`{name}` is not a table of yours")));
    }
    Ok(name)
}
