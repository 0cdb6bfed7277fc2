//! Where sagas go before they are deleted: files of JSON lines.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use onewrite::{
    BoxFuture, Code, Error, Result,
    saga::{Archive, SavedSaga},
};
use serde_json::json;

use crate::saga::view::View;

/// Keeps sagas as lines of JSON, as the API shows them, in a file for each process: what one is written to
/// is nobody else's, so a line that is torn stands at its end.
#[derive(Debug)]
pub(super) struct Files {
    path: Arc<PathBuf>,
}

impl Files {
    /// Files in this folder, which is created where it is missing; `owner` is unique to this process.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] where nothing can be written there.
    pub(super) fn new(folder: &Path, owner: &str) -> Result<Self> {
        let failed = |error| {
            let what = format!("keep sagas in {}", folder.display());
            Error::new(Code::InvalidConfig, what).with_source(error)
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        // Found out now, and not in a month.
        tempfile::tempfile_in(folder).map_err(failed)?;
        let above = folder.canonicalize().map_err(failed)?;
        above.parent().map_or(Ok(()), sync_folder).map_err(failed)?;
        Ok(Self { path: Arc::new(folder.join(format!("sagas-{owner}.jsonl"))) })
    }
}

impl Archive for Files {
    fn keep(&self, sagas: Vec<SavedSaga>) -> BoxFuture<'_, Result<()>> {
        let path = Arc::clone(&self.path);
        Box::pin(async move {
            let written = tokio::task::spawn_blocking(move || write(&path, &lines(&sagas))).await;
            let written = written.map_err(|error| {
                let what = "writing the archive ended unexpectedly";
                Error::new(Code::Stopped, what).with_source(error)
            })?;
            written.map_err(|error| {
                let what = format!("keep ended sagas in {}", self.path.display());
                Error::new(Code::StoreUnreachable, what).with_source(error)
            })
        })
    }
}

/// A line for each. What a user or a participant sent may have been printed over several: outside of a text JSON
/// has them between its parts alone, and within one they are escaped.
fn lines(sagas: &[SavedSaga]) -> String {
    let mut lines = String::new();
    for saga in sagas {
        match serde_json::to_string(&View::of(saga)) {
            Ok(line) => lines.push_str(&line.replace(['\n', '\r'], " ")),
            // It stops nobody else from being kept and deleted.
            Err(error) => {
                let kept = json!({"id": saga.id.to_string(), "unreadable": error.to_string(), "raw": format!("{saga:?}")});
                lines.push_str(&kept.to_string());
            }
        }
        lines.push('\n');
    }
    lines
}

/// Appends, durably. The file is opened each time: one that was moved away in the meantime is another's now.
fn write(path: &Path, lines: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    let length = file.metadata()?.len();
    if length > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            // The write before failed in the middle: it is repeated here.
            file.write_all(b"\n")?;
        }
    }
    file.write_all(lines.as_bytes())?;
    file.sync_all()?;
    // Its name is to be as durable as what is in it.
    path.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(folder: &Path) -> std::io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_torn_or_moved_away_spoils_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sagas.jsonl");
        let read = || std::fs::read_to_string(&path).unwrap();
        write(&path, "one\n").unwrap();
        std::fs::write(&path, "one\ntw").unwrap();
        write(&path, "two\n").unwrap();
        assert_eq!(read(), "one\ntw\ntwo\n");
        std::fs::rename(&path, folder.path().join("away.jsonl")).unwrap();
        write(&path, "three\n").unwrap();
        assert_eq!(read(), "three\n");
    }
}
