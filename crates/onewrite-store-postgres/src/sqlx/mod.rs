//! Joining the transactions of users who bring `sqlx`.
//!
//! The same statements as for `tokio-postgres`, run on the user's own open transaction.

mod emit;
mod inbox;

use onewrite_core::{Code, Error};

pub use emit::emit;
pub use inbox::{SqlxContext, SqlxInbox};

/// What a `sqlx` error means, with `context` saying what was being done.
fn failed(context: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| {
        let state = error.as_database_error().and_then(|error| error.code());
        let code = match state.as_deref() {
            Some(state) => crate::error::code_of_state(state),
            None if matches!(
                error,
                sqlx::Error::Io(_)
                    | sqlx::Error::PoolTimedOut
                    | sqlx::Error::PoolClosed
                    | sqlx::Error::Protocol(_)
            ) =>
            {
                Code::StoreUnreachable
            }
            None => Code::Database,
        };
        Error::new(code, context).with_source(error)
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
