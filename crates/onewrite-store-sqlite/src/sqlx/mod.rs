//! Joining the transactions of users who bring `sqlx`.
//!
//! The same statements as for `rusqlite`, run on the user's own open transaction.

mod emit;
mod inbox;

use onewrite_core::{Code, Error};

pub use emit::emit;
pub use inbox::{SqlxContext, SqlxInbox};

/// What a `sqlx` error means, with `context` saying what was being done.
fn failed(context: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| {
        let busy = |code: &str| matches!(code.parse::<u32>().map(|code| code & 0xff), Ok(5 | 6));
        let full = |code: &str| matches!(code.parse::<u32>().map(|code| code & 0xff), Ok(13));
        let code =
            error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        let kind = match code.as_deref() {
            Some(code) if busy(code) => Code::StoreBusy,
            Some(code) if full(code) => Code::DiskFull,
            _ => Code::Database,
        };
        Error::new(kind, context).with_source(error)
    }
}
