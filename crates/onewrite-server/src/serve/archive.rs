//! Where sagas go before they are deleted: files of JSON lines.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use onewrite::{
    BoxFuture, Code, Error, Result,
    saga::{Archive, SavedSaga},
};

use crate::saga::view::View;

/// Keeps sagas as lines of JSON, as the API shows them, in a file for each process: what one is written to
/// is nobody else's, so a line that is torn stands at its end.
#[derive(Debug)]
pub(super) struct Files {
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    file: Mutex<Option<File>>,
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
        let path = folder.join(format!("sagas-{owner}.jsonl"));
        Ok(Self { place: Arc::new(Place { path, file: Mutex::new(None) }) })
    }
}

impl Archive for Files {
    fn keep(&self, sagas: Vec<SavedSaga>) -> BoxFuture<'_, Result<()>> {
        let place = Arc::clone(&self.place);
        Box::pin(async move {
            let written = tokio::task::spawn_blocking(move || place.write(&sagas)).await;
            written.map_err(|error| {
                Error::new(Code::Stopped, "writing the archive ended unexpectedly")
                    .with_source(error)
            })?
        })
    }
}

impl Place {
    fn write(&self, sagas: &[SavedSaga]) -> Result<()> {
        let failed = |error| {
            let what = format!("keep ended sagas in {}", self.path.display());
            Error::new(Code::StoreUnreachable, what).with_source(error)
        };
        let mut lines = Vec::new();
        for saga in sagas {
            let encoded = serde_json::to_writer(&mut lines, &View::of(saga));
            encoded.map_err(|error| {
                Error::new(Code::Corrupt, format!("encode the saga {}", saga.id)).with_source(error)
            })?;
            lines.push(b'\n');
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            let opened = OpenOptions::new().create(true).append(true).open(&self.path);
            // The file's name is as durable as what is in it.
            let opened = opened.and_then(|opened| sync_folder(&self.path).map(|()| opened));
            *file = Some(opened.map_err(failed)?);
        }
        let Some(file) = file.as_mut() else { return Ok(()) };
        let before = file.metadata().map_err(failed)?.len();
        file.write_all(&lines).and_then(|()| file.sync_all()).map_err(|error| {
            // What is torn would spoil the line behind it. They are written again.
            let _ = file.set_len(before);
            failed(error)
        })
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
