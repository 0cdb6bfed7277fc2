//! Joining the transactions of users who bring `sqlx`.
//!
//! The same statements as for `tokio-postgres`, run on the user's own open transaction.

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
    match error {
        sqlx::Error::Database(error) => {
            error.code().map_or(Code::Database, |state| crate::error::code_of_state(&state))
        }
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Protocol(_) => Code::StoreUnreachable,
        _ => Code::Database,
    }
}

/// What is known of a commit that came to `error`.
fn after_commit(error: sqlx::Error) -> Error {
    let known = failed("commit")(error);
    if crate::error::is_unknown(&known) {
        return Error::new(Code::CommitUnknown, "commit").with_source(known);
    }
    known
}
