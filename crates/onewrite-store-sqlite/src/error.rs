//! What SQLite's errors mean.

use onewrite_core::{Code, Error};
use rusqlite::ErrorCode;

/// The error's meaning, with `context` saying what was being done.
pub(crate) fn database(context: impl Into<String>, error: rusqlite::Error) -> Error {
    let ours = Error::new(code_of(&error), context);
    let ours = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => ours.with_cure(NO_DATABASE),
        _ => ours,
    };
    ours.with_source(error)
}

/// Of most such files nothing is damaged: the path is wrong.
const NO_DATABASE: &str = "Check the path: this file is no database of SQLite. If it was one, restore the last backup, then `onewrite store fork`.";

/// Turns a database error into ours, saying what was being done.
pub(crate) trait While<T> {
    fn during(self, context: &str) -> Result<T, Error>;
}

impl<T> While<T> for rusqlite::Result<T> {
    fn during(self, context: &str) -> Result<T, Error> {
        self.map_err(|error| database(context, error))
    }
}

pub(crate) fn code_of(error: &rusqlite::Error) -> Code {
    let Some(kind) = error.sqlite_error_code() else { return Code::Database };
    match kind {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Code::StoreBusy,
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => Code::ReadOnly,
        ErrorCode::DiskFull => Code::DiskFull,
        ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt => Code::Corrupt,
        ErrorCode::CannotOpen => Code::StoreUnreachable,
        _ if is_missing_table(error) => Code::SchemaMissing,
        _ => Code::Database,
    }
}

fn is_missing_table(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(_, Some(text))
        if text.starts_with("no such table: onewrite_") || text == "no such table: dtm_barrier")
}

/// Whether this commit was refused by a deferred foreign key: perhaps a debt of the guard.
pub(crate) fn is_foreign_key(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(failure, _)
        if failure.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY)
}
