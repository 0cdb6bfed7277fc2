//! Whether this file is the one its source was registered with, and whether it went back in time.
//!
//! The inode tells a copy from the file itself: a move within the file system keeps it, a copy or a
//! restored backup has another. A backup written into the very same file keeps it too, so a witness
//! beside the database (`shop.db-witness`) notes how far the log had come: a log that does not reach
//! there, or has another record there, was restored. A witness that is missing proves nothing; then
//! the comparison with the receivers' marks remains.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use onewrite_core::{Code, Error, Result, Sequence};
use rusqlite::Connection;

use crate::{read, schema};

/// How often the witness is written at most.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// What tells this file from a copy of it.
pub(crate) fn of(path: &Path) -> Result<String> {
    fs::metadata(path).map(|file| format!("inode-{}", file.ino())).map_err(|error| {
        Error::new(Code::StoreUnreachable, format!("look at the database {}", path.display()))
            .with_source(error)
    })
}

/// The note beside the database.
pub(crate) struct Witness {
    path: PathBuf,
    noted: Option<Sequence>,
    noted_at: Instant,
}

impl Witness {
    pub(crate) fn beside(database: &Path) -> Self {
        let mut name = database.as_os_str().to_owned();
        name.push("-witness");
        Self { path: name.into(), noted: None, noted_at: Instant::now() }
    }

    /// Whether the log once had a record that it does not have now.
    pub(crate) fn contradicts(&self, connection: &Connection) -> Result<bool> {
        let Ok(note) = fs::read_to_string(&self.path) else { return Ok(false) };
        // The id comes last: it may hold spaces.
        let mut words = note.trim_end_matches('\n').splitn(3, ' ');
        let (Some(life), Some(head), id) = (words.next(), words.next(), words.next()) else {
            return Ok(false);
        };
        let Ok(head) = head.parse::<Sequence>() else { return Ok(false) };
        let known = schema::source(connection)?
            .incarnations
            .iter()
            .any(|(_, other)| other.to_string() == life);
        if !known || head > schema::head(connection)? {
            return Ok(true);
        }
        Ok(read::id_at(connection, head)?.is_some_and(|found| id.is_some_and(|id| *id != *found)))
    }

    /// Notes how far the log has come, now and then. A note that cannot be written is done without.
    pub(crate) fn note(&mut self, connection: &Connection, at_once: bool) {
        if !at_once && self.noted_at.elapsed() < NOTE_EVERY {
            return;
        }
        self.noted_at = Instant::now();
        if let Err(error) = self.write(connection) {
            tracing::debug!(%error, "the witness beside the database was not written");
        }
    }

    fn write(&mut self, connection: &Connection) -> Result<()> {
        let head = schema::head(connection)?;
        if self.noted == Some(head) {
            return Ok(());
        }
        let life = schema::source(connection)?.incarnation_at(head);
        let id = read::id_at(connection, head)?.unwrap_or_default();
        let failed = |error| Error::new(Code::ReadOnly, "write the witness").with_source(error);
        let mut new = self.path.clone().into_os_string();
        new.push(format!("-{}", std::process::id()));
        fs::write(&new, format!("{life} {head} {id}\n")).map_err(failed)?;
        fs::rename(&new, &self.path).map_err(failed)?;
        self.noted = Some(head);
        Ok(())
    }
}
