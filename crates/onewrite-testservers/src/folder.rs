//! The temporary folder of a server.
//!
//! Its owner holds the lock of a file in it for as long as it lives; the system lets go of the lock
//! however the owner ends. So who starts a server can tell the folders that were left behind from those
//! in use, in whatever container their owners run, and removes them.

use std::{
    env,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use crate::random::random;

const PREFIX: &str = "onewrite-server-";
const LOCK: &str = "lock";

/// A folder that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Held locked.
    _lock: File,
}

impl Folder {
    /// Makes one that only `owner` (user and group) can read; without an owner, only this user.
    pub(crate) fn new(owner: Option<(u32, u32)>) -> io::Result<Self> {
        let parent = env::temp_dir();
        remove_left_behind(&parent);
        let name = format!("{PREFIX}{:016x}", random());
        // It gets its name only once it is locked: until then it would look left behind.
        let nameless = parent.join(format!("new-{name}"));
        fs::create_dir(&nameless)?;
        fs::set_permissions(&nameless, Permissions::from_mode(0o700))?;
        let lock = File::create(nameless.join(LOCK))?;
        lock.lock()?;
        if let Some((user, group)) = owner {
            chown(&nameless, Some(user), Some(group))?;
        }
        let path = parent.join(name);
        fs::rename(&nameless, &path)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders whose owners have ended. What cannot be removed, another user's, stays.
fn remove_left_behind(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let path = entry.path();
            let lock = File::open(path.join(LOCK));
            if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
                let _ = fs::remove_dir_all(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_in_use_stay_and_those_left_behind_go() {
        let (used, left) = (Folder::new(None).unwrap(), Folder::new(None).unwrap());
        let path = left.path().to_path_buf();
        left._lock.unlock().unwrap();
        let third = Folder::new(None).unwrap();
        assert!(used.path().exists() && third.path().exists() && !path.exists());
        let path = used.path().to_path_buf();
        drop(used);
        assert!(!path.exists());
    }
}
