//! Opening the file: the settings that the promises rest on.

use std::{fs, path::PathBuf, time::Duration};

use onewrite_core::{
    Code, Error, Result, Text,
    event::EVENT_BYTES_MAX_DEFAULT,
    position::PARTITIONS_DEFAULT,
    sabotage::{Defect, Sabotage},
    store::Copied,
};
use rusqlite::{Connection, OpenFlags};

use crate::error::While;

/// What the write-ahead log shrinks to after a checkpoint, in bytes.
const WAL_BYTES_KEPT: i64 = 64 * 1024 * 1024;

/// How to open a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// The database file.
    pub path: PathBuf,
    /// Whether a missing file or schema is created.
    pub create: bool,
    /// The source's name for a new schema; the file's name without extension by default.
    pub source: Option<Text>,
    /// Partitions of a new schema; fixed afterwards.
    pub partitions: u16,
    /// The largest event accepted, in bytes.
    pub event_bytes_max: usize,
    /// How long a write waits for other processes' transactions.
    pub busy_timeout: Duration,
    /// What a file with another identity is taken for.
    pub copied: Copied,
    /// Defects planted by tests.
    pub sabotage: Sabotage,
}

impl Options {
    /// Opens or creates `path` with the defaults: 256 partitions, events of 1 MiB at most, ten seconds
    /// of patience with other writers.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            create: true,
            source: None,
            partitions: PARTITIONS_DEFAULT,
            event_bytes_max: EVENT_BYTES_MAX_DEFAULT,
            busy_timeout: Duration::from_secs(10),
            copied: Copied::Refuse,
            sabotage: Sabotage::from_env(),
        }
    }

    /// Reads a URL of the form `sqlite:shop.db` or `sqlite:///var/lib/shop.db`.
    ///
    /// # Errors
    /// [`Code::UnknownScheme`] for another scheme, [`Code::InvalidConfig`] for an empty path.
    pub fn from_url(url: &str) -> Result<Self> {
        let Some(path) = url.strip_prefix("sqlite:") else {
            return Err(Error::new(Code::UnknownScheme, "this store opens `sqlite:` URLs"));
        };
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            return Err(Error::new(Code::InvalidConfig, "the URL `sqlite:` names no file"));
        }
        if path.starts_with(':') {
            return Err(Error::new(
                Code::InvalidConfig,
                format!("`{url}` names no file: a log in memory could not outlive its process"),
            ));
        }
        Ok(Self::new(path))
    }

    /// The source's name for a new schema.
    pub(crate) fn source_name(&self) -> Text {
        let stem =
            || self.path.file_stem().map_or("onewrite".into(), |stem| stem.to_string_lossy());
        self.source.clone().unwrap_or_else(|| stem().into_owned().into())
    }

    /// Opens a connection for writing, with the settings the promises rest on.
    pub(crate) fn connect_writer(&self) -> Result<Connection> {
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        if self.create {
            flags |= OpenFlags::SQLITE_OPEN_CREATE;
        }
        let context = || format!("open the database {}", self.path.display());
        let connection = Connection::open_with_flags(&self.path, flags).map_err(|error| {
            let missing = !self.path.exists();
            let readable = fs::metadata(&self.path).is_ok_and(|file| file.is_file());
            let detail = if missing && !self.create { "; the file does not exist" } else { "" };
            let barred = readable || (missing && self.create && self.folder_exists());
            let code = if barred { Code::ReadOnly } else { Code::StoreUnreachable };
            Error::new(code, context() + detail).with_source(error)
        })?;
        // SQLite opens what it cannot write for reading, and says so only later and less clearly.
        if connection.is_readonly("main").during(&context())? {
            return Err(Error::new(Code::ReadOnly, context())
                .with_source("the file, or the disk it is on, can only be read"));
        }
        connection.busy_timeout(self.busy_timeout).during(&context())?;
        connection.set_prepared_statement_cache_capacity(128);
        let synchronous = if self.sabotage.has(Defect::NoSync) { "OFF" } else { "FULL" };
        connection.pragma_update(None, "journal_mode", "WAL").during(&context())?;
        connection.pragma_update(None, "synchronous", synchronous).during(&context())?;
        connection.pragma_update(None, "foreign_keys", "ON").during(&context())?;
        // What a savepoint may have to undo stays in memory: SQLite would write every page that an item
        // touches to a file of its own before it changes it.
        connection.pragma_update(None, "temp_store", "MEMORY").during(&context())?;
        // The write-ahead log grows while somebody reads for long; afterwards it shrinks to this.
        connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT).during(&context())?;
        Ok(connection)
    }

    fn folder_exists(&self) -> bool {
        self.path.parent().is_some_and(|folder| folder.as_os_str().is_empty() || folder.is_dir())
    }

    /// Opens a connection that cannot write.
    pub(crate) fn connect_reader(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let context = || format!("open the database {} for reading", self.path.display());
        let connection = Connection::open_with_flags(&self.path, flags).during(&context())?;
        connection.busy_timeout(self.busy_timeout).during(&context())?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    }
}
