//! Whether the files that are open are still the ones at their paths.
//!
//! A file that was removed or replaced is written on, by who has it open, and nobody finds that again. So every
//! commit looks first, which costs less than a hundredth of it; what falls into that moment is lost as what was
//! committed just before the file went.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use onewrite_core::{
    Code, Error, Result,
    sabotage::{Defect, Sabotage},
};
use rusqlite::{Connection, config::DbConfig};

/// What tells a file from another one at its path.
type Identity = (u64, u64);

fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// The database and the files beside it, as they were when it was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    files: Vec<(PathBuf, Identity)>,
    /// The write-ahead log, which whoever closes the database last removes by its path.
    log: PathBuf,
}

impl Opened {
    /// The files of a database that this connection has read.
    ///
    /// # Errors
    /// [`Code::StoreUnreachable`] when they are gone already.
    pub(crate) fn of(path: &Path, connection: &Connection) -> Result<Self> {
        let failed = |error| {
            let what = format!("look at the database {}", path.display());
            Error::new(Code::StoreUnreachable, what).with_source(error)
        };
        // The process may change its folder; SQLite has its own files' real place.
        let path = std::path::absolute(path).map_err(failed)?;
        let database = connection.path().map_or_else(|| path.clone(), PathBuf::from);
        let beside = |suffix: &str| {
            let mut name = database.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let file = fs::metadata(&path).map_err(failed)?;
        let log = beside("-wal");
        let others = [log.clone(), beside("-shm")].into_iter();
        let others = others.filter_map(|path| identity(&path).map(|found| (path, found)));
        let files = std::iter::once((path, (file.dev(), file.ino()))).chain(others).collect();
        Ok(Self { files, log })
    }

    /// # Errors
    /// [`Code::StoreUnreachable`] when one of them is no longer at its path.
    pub(crate) fn check(&self) -> Result<()> {
        let gone = self.files.iter().find(|(path, opened)| match fs::metadata(path) {
            Ok(found) => (found.dev(), found.ino()) != *opened,
            // Who may not look, since rights were dropped, say, learns nothing from that.
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        });
        let Some((path, _)) = gone.filter(|_| !Sabotage::from_env().has(Defect::TrustPaths)) else {
            return Ok(());
        };
        let how = if path.exists() { "was replaced by another" } else { "was removed or moved" };
        let why = format!(
            "{} {how} while it was open: bring it back, or end this program and start it on the one that counts",
            path.display()
        );
        Err(Error::new(Code::StoreUnreachable, "use the database").with_source(why))
    }

    /// Keeps a log that is another database's by now from being removed when this connection is closed.
    pub(crate) fn spare_others(&self, connection: &Connection) {
        let ours = self.files.iter().find(|(path, _)| *path == self.log).map(|(_, found)| *found);
        let found = identity(&self.log);
        if found.is_none() || found == ours {
            return;
        }
        // What is in the log that is open goes to the file that is open, for whoever has that still.
        let moved = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        let kept = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        if let Err(error) = moved.and(kept.map(drop)) {
            tracing::warn!(%error, "the log of a database that was replaced could not be left alone");
        }
    }
}
