//! Installs what tests need on Debian, so that `.ci/run` needs nothing but Rust.
//!
//! A package of a server starts it, and PostgreSQL's makes a first cluster. Neither is wanted here, so
//! both are switched off for the time of the installation, and switched back in whatever way it ends.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use rustix::process::geteuid;

use super::{Server, Signals, runtime};

/// Asked before a package starts a service; 101 is no.
const POLICY: (&str, &str) = (
    "/usr/sbin/policy-rc.d",
    "#!/bin/sh\n# Until onewrite has installed its tests' servers.\nexit 101\n",
);
const CLUSTER: (&str, &str) =
    ("/etc/postgresql-common/createcluster.d/onewrite.conf", "create_main_cluster = false\n");
/// Two runs at the same time would put each other's files back.
const LOCK: &str = "/run/lock/onewrite-install";

/// What tests run beside the servers: how to see that it is there, and Debian's package.
const TOOLS: [(&[&str], &str); 3] = [
    (&["haproxy", "-v"], "haproxy"),
    (&["python3", "-c", "import venv, ensurepip"], "python3-venv"),
    (&["openssl", "version"], "openssl"),
];

/// Installs what of `wanted` is missing, or says how to; with the tools that tests use, if `tools` says so.
pub(crate) fn install_missing(wanted: &[Server], tools: bool) -> Result<()> {
    let missing = |wanted: &[Server]| missing(wanted, tools);
    let Some(packages) = missing(wanted) else { return Ok(()) };
    let by_hand = format!("apt-get install {}", packages.join(" "));
    if !geteuid().is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!("packages that the tests need are not installed (Debian: `{by_hand}`)");
    }
    let lock = File::create(LOCK).with_context(|| format!("cannot write {LOCK}"))?;
    lock.lock().with_context(|| format!("cannot lock {LOCK}"))?;
    let Some(packages) = missing(wanted) else { return Ok(()) };
    eprintln!(
        "Packages that the tests need are missing. Installing them, without starting any server:"
    );
    eprintln!("{by_hand}");
    // Ctrl-C ends apt-get, and not us before the files are back.
    let runtime = runtime()?;
    let _signals = runtime.block_on(async { Signals::new() })?;
    let _policy = Replaced::new(Path::new(POLICY.0), POLICY.1)?;
    let _cluster = Replaced::new(Path::new(CLUSTER.0), CLUSTER.1)?;
    apt_get(&["update"])?;
    let options = ["install", "-y", "--no-install-recommends"];
    apt_get(&[&options, packages.as_slice()].concat())?;
    match missing(wanted) {
        None => Ok(()),
        Some(left) => bail!("installed, but nothing to use in: {}", left.join(" ")),
    }
}

fn missing(wanted: &[Server], tools: bool) -> Option<Vec<&'static str>> {
    let servers = wanted.iter().filter(|server| !server.is_installed());
    let mut packages: Vec<_> = servers.filter_map(|server| server.package()).collect();
    let is_there = |probe: &[&str]| {
        let mut command = Command::new(probe[0]);
        command.args(&probe[1..]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let tools = TOOLS.iter().filter(|(probe, _)| tools && !is_there(probe));
    packages.extend(tools.map(|(_, package)| *package));
    (!packages.is_empty()).then_some(packages)
}

fn apt_get(words: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    // Another's installation may be going on.
    command.args(["-o", "DPkg::Lock::Timeout=300"]).args(words);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    let status = command.status().context("cannot start apt-get")?;
    if !status.success() {
        bail!("`apt-get {}` failed: {status}", words.join(" "));
    }
    Ok(())
}

/// A program's file that is replaced by ours until this is dropped.
#[derive(Debug)]
struct Replaced {
    path: PathBuf,
    /// Folders that were made for it, the innermost first.
    folders: Vec<PathBuf>,
}

impl Replaced {
    fn new(path: &Path, text: &str) -> Result<Self> {
        let failed = || format!("cannot write {}", path.display());
        let folders = path.ancestors().skip(1).take_while(|folder| !folder.exists());
        let folders = folders.map(Path::to_path_buf).collect();
        let replaced = Self { path: path.to_path_buf(), folders };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(failed)?;
        }
        // A run that was killed may have left a file of its own, with the original put aside or without.
        let ours = fs::read_to_string(path).is_ok_and(|found| found == text);
        if path.exists() && !ours && !replaced.aside().exists() {
            fs::rename(path, replaced.aside()).with_context(failed)?;
        }
        fs::write(path, text).with_context(failed)?;
        fs::set_permissions(path, Permissions::from_mode(0o755)).with_context(failed)?;
        Ok(replaced)
    }

    fn aside(&self) -> PathBuf {
        self.path.with_added_extension("before-onewrite")
    }

    fn restore(&self) -> std::io::Result<()> {
        fs::remove_file(&self.path)?;
        if self.aside().exists() {
            fs::rename(self.aside(), &self.path)?;
        }
        // A folder that the package has filled meanwhile stays.
        self.folders.iter().all(|folder| fs::remove_dir(folder).is_ok());
        Ok(())
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            eprintln!("cannot restore {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_are_back_afterwards() -> Result<()> {
        let root = std::env::temp_dir().join(format!("xtask-install-{}", std::process::id()));
        let (old, new) = (root.join("old"), root.join("one/two/new.conf"));
        fs::create_dir_all(&root)?;
        fs::write(&old, "theirs")?;
        for path in [&old, &new] {
            let _killed = std::mem::ManuallyDrop::new(Replaced::new(path, "ours")?);
            let replaced = Replaced::new(path, "ours")?;
            assert_eq!(fs::read_to_string(path)?, "ours");
            drop(replaced);
        }
        assert_eq!(fs::read_to_string(&old)?, "theirs");
        drop(Replaced::new(&root.join("a/b"), "ours")?);
        assert!(!new.exists() && !root.join("a").exists());
        fs::remove_dir_all(root)?;
        Ok(())
    }
}
