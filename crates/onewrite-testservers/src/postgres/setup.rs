//! PostgreSQL's programs: making a server's files, starting it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
};

use super::{PostgresAddress, address::without_settings};
use crate::{
    folder::Folder,
    process::{self, Process, User},
    random::random,
};

/// What Debian calls the user that PostgreSQL runs as.
const USER: &str = "postgres";

/// What every server is set to. Syncs are on: that is the default, and it stays.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("password_encryption", "scram-sha-256"),
    ("wal_level", "logical"),
    ("max_prepared_transactions", "64"),
    ("max_connections", "200"),
    ("max_wal_senders", "64"),
    ("max_replication_slots", "64"),
    ("wal_sender_timeout", "10s"),
    // So that a standby can be away for a while.
    ("wal_keep_size", "256MB"),
    ("log_destination", "stderr"),
    ("log_line_prefix", "%m [%p] %q%u@%d "),
    // In the server's own folder, which goes with it.
    ("dynamic_shared_memory_type", "mmap"),
];

/// Where the programs are, and whom they run as.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    folder: PathBuf,
    user: Option<User>,
}

impl Programs {
    /// Finds the newest of Debian's, else those on the search path.
    pub(super) fn find() -> io::Result<Self> {
        let missing = || {
            io::Error::other("PostgreSQL is not installed (Debian: `apt-get install postgresql`)")
        };
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut versions: Vec<PathBuf> = versions.map(|entry| entry.path()).collect();
        versions.sort_by_key(|path| std::cmp::Reverse(version(path)));
        let folders: Vec<PathBuf> = versions.iter().map(|path| path.join("bin")).collect();
        // A client alone leaves a version without `initdb`.
        let initdb = process::find("initdb", &folders).ok_or_else(missing)?;
        let folder = initdb.parent().ok_or_else(missing)?.to_path_buf();
        Ok(Self { folder, user: User::instead_of_root(USER)? })
    }

    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }

    /// A folder for a server.
    pub(super) fn folder(&self) -> io::Result<Folder> {
        Folder::new(self.user.map(|user| (user.id, user.group)))
    }

    /// Makes the files of a new server in `folder`.
    pub(super) fn init(&self, folder: &Path, password: &str, more: &[String]) -> io::Result<()> {
        let secret = folder.join("password");
        fs::write(&secret, password)?;
        if let Some(user) = self.user {
            chown(&secret, Some(user.id), Some(user.group))?;
        }
        let mut command = self.command("initdb", "KILL");
        command.args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8"]);
        // Unsynced files are fine here: the folder does not outlive the machine's next start.
        command.args(["--locale=C", "--no-sync", "--no-instructions"]);
        command.arg("--pwfile").arg(&secret).arg("-D").arg(data(folder));
        process::run(command, "initdb").map(drop)?;
        fs::remove_file(secret)?;
        let ours = SETTINGS.iter().map(|(name, value)| setting(name, value));
        let mut config =
            OpenOptions::new().append(true).open(data(folder).join("postgresql.conf"))?;
        config.write_all(ours.chain(more.iter().cloned()).collect::<String>().as_bytes())
    }

    /// Copies a running server into `folder`, to follow it.
    pub(super) fn copy(&self, primary: &PostgresAddress, folder: &Path) -> io::Result<()> {
        let mut command = self.command("pg_basebackup", "KILL");
        primary.connect(&mut command);
        command.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-D"]);
        command.arg(data(folder));
        process::run(command, "pg_basebackup").map(drop)
    }

    /// Starts the server of `folder` and waits until it lets clients in.
    pub(super) fn start(&self, folder: &Path, port: u16) -> io::Result<Process> {
        // What tells it from others goes here: a standby has its primary's configuration.
        let socket = format!("unix_socket_directories={}", folder.display());
        let mut command = self.command("postgres", "QUIT");
        command.arg("-D").arg(data(folder)).arg("-p").arg(port.to_string()).args(["-c", &socket]);
        Process::start(command, &folder.join("log"), |id| is_ready(folder, id))
    }

    fn command(&self, program: &str, on_death: &str) -> Command {
        let mut command = process::command(self.path(program), on_death, self.user);
        without_settings(&mut command);
        command
    }
}

/// A line of the configuration.
pub(super) fn setting(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\'', "''"))
}

pub(super) fn password() -> String {
    format!("{:016x}{:016x}", random(), random())
}

/// Whether the process `id` lets clients in. It says so itself, in the file that `pg_ctl` waits for;
/// a connection could reach another server that was quicker to take the port.
fn is_ready(folder: &Path, id: u32) -> bool {
    let state = fs::read_to_string(data(folder).join("postmaster.pid")).unwrap_or_default();
    let mut lines = state.lines();
    lines.next() == Some(&id.to_string()) && lines.nth(6).is_some_and(|said| said.trim() == "ready")
}

/// Removes the segment of shared memory that a killed server leaves behind. A start on the same data
/// would do so; without one it would stay until the machine ends.
pub(super) fn remove_shared_memory(folder: &Path) {
    let state = fs::read_to_string(data(folder).join("postmaster.pid")).unwrap_or_default();
    let segment = state.lines().nth(6).and_then(|line| line.split_whitespace().nth(1));
    if let Some(segment) = segment {
        let _ = Command::new("ipcrm").args(["-m", segment]).output();
    }
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

fn version(path: &Path) -> u32 {
    path.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or_default()
}
