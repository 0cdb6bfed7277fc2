//! What the server's errors mean.

use mysql_async::{DriverError, Error as Cause, IoError, ServerError};
use onewrite_core::{Code, Error};

use crate::roles::{CURE, DENIED};

/// Turns a database error into ours, saying what was being done.
pub(crate) trait While<T> {
    fn during(self, context: &str) -> Result<T, Error>;
}

impl<T> While<T> for Result<T, Cause> {
    fn during(self, context: &str) -> Result<T, Error> {
        self.map_err(|error| database(context, error))
    }
}

/// What an error means that a statement of your own came to, with `context` saying what was being done.
#[must_use]
pub fn failed(context: &str, error: Cause) -> Error {
    database(context, error)
}

/// The error's meaning, with `context` saying what was being done.
pub(crate) fn database(context: &str, error: Cause) -> Error {
    let code = code_of(&error);
    match error {
        // The schema's own triggers say it better than whoever ran into them.
        Cause::Server(said) if said.state.starts_with("OW") => Error::new(code, said.message),
        Cause::Server(said) if DENIED.contains(&said.code) => {
            let context = format!("{context} (hint: {CURE})");
            Error::new(code, context).with_source(format!("{} ({})", said.message, said.code))
        }
        error => Error::new(code, context).with_source(said(error)),
    }
}

/// Without the driver's own prefixes.
fn said(error: Cause) -> String {
    match error {
        Cause::Server(said) => format!("{} ({})", said.message, said.code),
        Cause::Io(IoError::Io(error)) => error.to_string(),
        error => error.to_string(),
    }
}

/// What a handler's error says.
pub(crate) fn told(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref::<Cause>() {
        Some(Cause::Server(said)) => format!("{} ({})", said.message, said.code),
        _ => error.to_string(),
    }
}

pub(crate) fn code_of(error: &Cause) -> Code {
    match error {
        Cause::Server(error) => code_of_server(error),
        // The client itself refuses a statement that the server would not take.
        Cause::Io(IoError::Io(error)) if error.to_string().contains("max_allowed_packet") => {
            Code::Database
        }
        Cause::Io(_)
        | Cause::Driver(DriverError::ConnectionClosed | DriverError::PoolDisconnected) => {
            Code::StoreUnreachable
        }
        Cause::Url(_) => Code::InvalidConfig,
        Cause::Driver(_) | Cause::Other(_) => Code::Database,
    }
}

fn code_of_server(error: &ServerError) -> Code {
    code_of_number(&error.state, error.code)
}

/// What an SQLSTATE and the server's own number mean.
pub(crate) fn code_of_number(state: &str, number: u16) -> Code {
    match (state, number) {
        ("OW005", _) => Code::EventTooLarge,
        ("OW006", _) => Code::InvalidEvent,
        ("OW013", _) => Code::SinkAhead,
        ("OW017", _) => Code::Gap,
        // No such table, no such procedure.
        (_, 1146 | 1305) => Code::SchemaMissing,
        // The disk, and a table, are full.
        (_, 1021 | 1114) => Code::DiskFull,
        (_, 1290 | 1792 | 1836) => Code::ReadOnly,
        // Deadlock, lock wait, a row changed since it was read, too many connections.
        (_, 1213 | 1205 | 1020 | 1040 | 1203) => Code::StoreBusy,
        // Shutting down, gone, killed, idle for too long within a transaction.
        (_, 1053 | 1077 | 1079 | 1080 | 1152 | 1158..=1161 | 1927 | 4030..=4032) => {
            Code::StoreUnreachable
        }
        // A value that does not fit its column.
        (_, 1406) => Code::InvalidEvent,
        (_, 1194 | 1195 | 1712) => Code::Corrupt,
        _ => Code::Database,
    }
}

/// The error of a connection that could not be made to a place: cause and cure.
pub(crate) fn unreachable(place: &str, error: Cause) -> Error {
    let cure = match &error {
        Cause::Server(said) => match said.code {
            1045 | 1698 => "user or password are wrong",
            1044 => "this user has no rights on the database: grant them, or correct the URL",
            1049 => "there is no such database: create it, or correct the URL",
            1130 => "the server does not let this host in: create the user for it",
            1040 | 1203 => {
                "the server has no room for another connection: raise max_connections or use fewer processes"
            }
            _ => "the server refused the connection",
        },
        Cause::Io(IoError::Tls(_)) => {
            "TLS failed: name the certificate authority with `sslrootcert=FILE` in the URL, or say `sslmode=disable` where the network is safe"
        }
        Cause::Driver(DriverError::NoClientSslFlagFromServer) => {
            "the server offers no TLS: set it up, or say `sslmode=disable` where the network is safe"
        }
        _ => "the server cannot be reached: check host and port, and that it runs",
    };
    Error::new(Code::StoreUnreachable, format!("{place}: {cure}")).with_source(said(error))
}

/// Whether nothing is known about a statement that ended with this error: its commit may have happened.
pub(crate) fn is_unknown(error: &Error) -> bool {
    error.code() == Code::StoreUnreachable
}

/// What is known of a commit that came to `error`: nothing, unless the server itself said that it refused it.
pub(crate) fn after_commit(error: Cause) -> Error {
    let refused = matches!(&error, Cause::Server(said) if said.code != ERROR_DURING_COMMIT);
    let known = database("commit", error);
    if refused && !is_unknown(&known) {
        return known;
    }
    Error::new(Code::CommitUnknown, "commit").with_source(known)
}

/// The server does not say how far it came.
pub(crate) const ERROR_DURING_COMMIT: u16 = 1180;
