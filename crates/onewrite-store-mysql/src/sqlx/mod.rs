//! Joining the transactions of users who bring `sqlx`.
//!
//! The same statements as for `mysql_async`, run on the user's own open transaction.

pub mod barrier;
mod client;
mod emit;
mod inbox;

use onewrite_core::{Code, Error};
use sqlx::mysql::MySqlDatabaseError;

pub use emit::{emit, emit_all};
pub use inbox::{SqlxContext, SqlxInbox};

use crate::error::{ERROR_DURING_COMMIT, code_of_number, is_unknown};

/// What a `sqlx` error means, with `context` saying what was being done.
fn failed(context: &str, error: sqlx::Error) -> Error {
    let code = code_of(&error);
    match server_said(&error).filter(|said| state_of(said).starts_with("OW")) {
        // The schema's own triggers say it better than whoever ran into them.
        Some(said) => Error::new(code, said.message().to_owned()),
        None => Error::new(code, context.to_owned()).with_source(error),
    }
}

fn code_of(error: &sqlx::Error) -> Code {
    match (server_said(error), error) {
        (Some(said), _) => code_of_number(state_of(said), said.number()),
        (
            None,
            sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed,
        ) => Code::StoreUnreachable,
        _ => Code::Database,
    }
}

fn server_said(error: &sqlx::Error) -> Option<&MySqlDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

fn state_of(said: &MySqlDatabaseError) -> &str {
    said.code().unwrap_or_default()
}

/// What is known of a commit that came to `error`: nothing, unless the server itself said that it refused it.
fn after_commit(error: sqlx::Error) -> Error {
    let refused = server_said(&error).is_some_and(|said| said.number() != ERROR_DURING_COMMIT);
    let known = failed("commit", error);
    if refused && !is_unknown(&known) {
        return known;
    }
    Error::new(Code::CommitUnknown, "commit").with_source(known)
}
