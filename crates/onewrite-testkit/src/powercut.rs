//! A power cut for a child process: what it wrote and never synced is gone.
//!
//! A small library, compiled here and loaded into the child before all others, copies each file when
//! it is synced. After the child was killed, [`cut`] puts these copies in the files' places. Works on
//! Linux, for programs that sync through the C library, as SQLite does. A sync is taken to be one act:
//! torn sectors and disks that lie about their caches are not simulated.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tokio::process::Command;

const SOURCE: &str = include_str!("powercut.c");
const SYNCED: &str = ".synced";

/// The compiled library.
#[derive(Debug)]
pub struct Shim {
    folder: TempDir,
}

impl Shim {
    /// Compiles the library with the machine's C compiler (`CC`, or `cc`).
    ///
    /// # Errors
    /// When there is no compiler, or it fails.
    pub fn compile() -> io::Result<Self> {
        let folder = TempDir::new()?;
        let source = folder.path().join("powercut.c");
        fs::write(&source, SOURCE)?;
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let output = std::process::Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(library(folder.path()))
            .arg(&source)
            .args(["-ldl", "-lpthread"])
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(io::Error::other(format!("the C compiler failed: {said}")));
        }
        Ok(Self { folder })
    }

    /// Has `command` run with the library, for the files below `folder`.
    ///
    /// # Errors
    /// When the folder does not exist.
    pub fn preload(&self, command: &mut Command, folder: &Path) -> io::Result<()> {
        command.env("LD_PRELOAD", library(self.folder.path()));
        command.env("ONEWRITE_POWERCUT", folder.canonicalize()?);
        Ok(())
    }
}

fn library(folder: &Path) -> PathBuf {
    folder.join("powercut.so")
}

/// Cuts the power: each file in `folder` becomes what it was when it was last synced, and is empty of
/// all that came after; a file that was never synced is removed. Files keep their identity. SQLite's
/// shared memory (`-shm`) is never on disk.
///
/// Call it only after every process that has the files open has ended.
///
/// # Errors
/// What the file system says.
pub fn cut(folder: &Path) -> io::Result<()> {
    for path in files(folder)? {
        let synced = beside(&path);
        if synced.exists() {
            fs::copy(&synced, &path)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Takes all that is in `folder` for synced: a new beginning.
///
/// # Errors
/// What the file system says.
pub fn settle(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_copy(&path) {
            fs::remove_file(path)?;
        }
    }
    for path in files(folder)? {
        fs::copy(&path, beside(&path))?;
    }
    Ok(())
}

/// The files that a program made, without the copies.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let files: Vec<PathBuf> = entries.collect::<io::Result<_>>()?;
    Ok(files.into_iter().filter(|path| path.is_file() && !is_copy(path)).collect())
}

fn is_copy(path: &Path) -> bool {
    path.to_string_lossy().contains(SYNCED)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SYNCED);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_not_synced_is_gone() {
        let (folder, shim) = (TempDir::new().unwrap(), Shim::compile().unwrap());
        let (one, two) = (folder.path().join("kept"), folder.path().join("gone"));
        for (file, sync) in [(&one, "conv=fsync"), (&two, "conv=notrunc")] {
            let mut command = Command::new("dd");
            let out = format!("of={}", file.display());
            command.args(["if=/dev/zero", &out, "bs=100", "count=3", "status=none", sync]);
            shim.preload(&mut command, folder.path()).unwrap();
            assert!(command.status().await.unwrap().success());
        }
        fs::write(&one, "more, and not synced").unwrap();
        cut(folder.path()).unwrap();
        assert_eq!(fs::read(&one).unwrap(), [0; 300]);
        assert!(!two.exists());
    }
}
