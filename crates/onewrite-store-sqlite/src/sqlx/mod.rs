//! Joining the transactions of users who bring `sqlx`.
//!
//! The same statements as for `rusqlite`, run on the user's own open transaction.

pub mod barrier;
mod emit;
mod inbox;
mod rows;
mod work;

use onewrite_core::{Code, Error};

pub use emit::emit;
pub use inbox::{SqlxContext, SqlxInbox};

/// What a `sqlx` error means, with `context` saying what was being done.
fn failed(context: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| Error::new(code_of(&error), context).with_source(error)
}

fn code_of(error: &sqlx::Error) -> Code {
    match result_code(error) {
        Some(SQLITE_BUSY | SQLITE_LOCKED) => Code::StoreBusy,
        Some(SQLITE_FULL) => Code::DiskFull,
        _ => Code::Database,
    }
}

const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;
const SQLITE_FULL: u32 = 13;
const SQLITE_CONSTRAINT: u32 = 19;

/// SQLite's primary result code.
fn result_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<u32>().ok().map(|code| code & 0xff)
}

/// What is known of a commit that came to `error`: nothing, unless SQLite refused it before it wrote.
fn after_commit(error: sqlx::Error) -> Error {
    let refused = [SQLITE_BUSY, SQLITE_LOCKED, SQLITE_FULL, SQLITE_CONSTRAINT];
    let is_known = result_code(&error).is_some_and(|code| refused.contains(&code));
    let known = failed("commit")(error);
    if is_known {
        return known;
    }
    Error::new(Code::CommitUnknown, "commit").with_source(known)
}
