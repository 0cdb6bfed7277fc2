//! What PostgreSQL's errors mean.

use deadpool_postgres::{HookError, PoolError};
use onewrite_core::{Code, Error};
use tokio_postgres::error::{Severity, SqlState};

/// What mends a right that is missing in the schema `onewrite`.
const RIGHTS: &str = "`GRANT onewrite_relay TO` this user, or onewrite_emit, onewrite_receive, onewrite_operator, whichever does \
    this work; a table is guarded by its owner";

/// Turns a database error into ours, saying what was being done.
pub(crate) trait While<T> {
    fn during(self, context: &str) -> Result<T, Error>;
}

impl<T> While<T> for Result<T, tokio_postgres::Error> {
    fn during(self, context: &str) -> Result<T, Error> {
        self.map_err(|error| database(context, &error))
    }
}

/// What it means that the pool has no connection to `place` to hand out.
pub(crate) fn no_connection(place: &str, error: PoolError) -> Error {
    match error {
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
            unreachable(place, &error)
        }
        error => Error::new(Code::StoreUnreachable, format!("connect to PostgreSQL at {place}"))
            .with_source(error),
    }
}

/// The error of a connection to `place` that could not be made: cause and cure.
pub(crate) fn unreachable(place: &str, error: &tokio_postgres::Error) -> Error {
    let state = error.code();
    let cure = match state {
        Some(state) if *state == SqlState::INVALID_PASSWORD => "user or password are wrong",
        Some(state) if *state == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "the server does not let this user in: check pg_hba.conf and the URL's user"
        }
        Some(state) if *state == SqlState::INVALID_CATALOG_NAME => {
            "there is no such database: create it, or correct the URL"
        }
        Some(state) if *state == SqlState::TOO_MANY_CONNECTIONS => {
            "the server has no room for another connection: raise max_connections or use fewer processes"
        }
        Some(state) if *state == SqlState::CANNOT_CONNECT_NOW => "the server is starting or ending",
        Some(_) => "the server refused the connection",
        None if is_password_missing(error) => {
            "the server asks for a password and the URL names none: postgres://USER:PASSWORD@HOST/DATABASE"
        }
        None if is_tls(error) => {
            "TLS failed: name the certificate authority with `sslrootcert=FILE` in the URL, or say `sslmode=disable` where the network is safe"
        }
        None => "the server cannot be reached: check host and port, and that it runs",
    };
    Error::new(Code::StoreUnreachable, format!("connect to PostgreSQL at {place}: {cure}"))
        .with_source(said(error))
}

/// The client has a word for it, and no type.
fn is_password_missing(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.to_string() == "password missing")
}

fn is_tls(error: &tokio_postgres::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.is::<rustls::Error>() || error.to_string().contains("TLS") {
            return true;
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What an error means that a statement of your own came to, with `context` saying what was being done.
#[must_use]
pub fn failed(context: &str, error: &tokio_postgres::Error) -> Error {
    database(context, error)
}

/// The error's meaning, with `context` saying what was being done.
pub(crate) fn database(context: impl Into<String>, error: &tokio_postgres::Error) -> Error {
    let code = code_of(error);
    let mut context = context.into();
    if code == Code::EventForgotten || code == Code::EventTooLarge {
        // Our own functions say it better than whoever called them.
        context = error.as_db_error().map_or(context, |error| error.message().to_owned());
        return Error::new(code, context);
    }
    let hint = error.as_db_error().and_then(|error| error.hint());
    let cure = (error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)).then_some(RIGHTS);
    if let Some(hint) = hint.or(cure) {
        context = format!("{context} (hint: {hint})");
    }
    Error::new(code, context).with_source(said(error))
}

/// `tokio_postgres::Error` prints only "db error"; what matters is its source.
fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} ({})", error.message(), error.code().code()),
        None => std::error::Error::source(error)
            .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")),
    }
}

/// What a handler's error says.
pub(crate) fn told(error: &(dyn std::error::Error + 'static)) -> String {
    error.downcast_ref().map_or_else(|| error.to_string(), said)
}

pub(crate) fn code_of(error: &tokio_postgres::Error) -> Code {
    let Some(state) = error.code() else {
        let source = std::error::Error::source(error);
        let broken = source.is_some_and(|source| source.is::<std::io::Error>());
        return if broken || error.is_closed() { Code::StoreUnreachable } else { Code::Database };
    };
    code_of_state(state.code())
}

/// What an SQLSTATE means.
pub(crate) fn code_of_state(state: &str) -> Code {
    match state {
        "OW005" => Code::EventTooLarge,
        "OW006" => Code::InvalidEvent,
        "OW013" => Code::SinkAhead,
        "OW017" => Code::Gap,
        "OW022" => Code::EventForgotten,
        "42P01" | "3F000" | "OW003" => Code::SchemaMissing,
        "53100" => Code::DiskFull,
        "25006" => Code::ReadOnly,
        // Deadlock, serialization, lock timeout, too many connections.
        "40P01" | "40001" | "55P03" | "53300" => Code::StoreBusy,
        "XX001" | "XX002" => Code::Corrupt,
        code if code.starts_with("08") || code.starts_with("57P") => Code::StoreUnreachable,
        _ => Code::Database,
    }
}

/// Whether nothing is known about a statement that ended with this error: its commit may have happened.
pub(crate) fn is_unknown(error: &Error) -> bool {
    error.code() == Code::StoreUnreachable
}

/// What is known of a commit that came to `error`: nothing, unless the server itself said that it refused
/// it and goes on.
#[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
pub(crate) fn after_commit(error: tokio_postgres::Error) -> Error {
    let known = database("commit", &error);
    let goes_on = error.as_db_error().is_some_and(|error| {
        !matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
    });
    if is_unknown(&known) || !goes_on {
        return Error::new(Code::CommitUnknown, "commit").with_source(known);
    }
    known
}
