//! A server as a process: started so that it cannot outlive this one, stopped by its id.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

/// How long a server may take to start, recovery included, or to end.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(3);
const LOG_LINES: usize = 40;

/// A user that a program runs as.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User {
    pub(crate) id: u32,
    pub(crate) group: u32,
}

impl User {
    /// Whom a server runs as that refuses to run as root: the user that its package creates. `None` when
    /// we are not root.
    pub(crate) fn instead_of_root(name: &str) -> io::Result<Option<Self>> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd")?;
        let entry = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let ids = |entry: Vec<&str>| match entry[..] {
            [found, _, id, group, ..] if found == name => {
                Some(Self { id: id.parse().ok()?, group: group.parse().ok()? })
            }
            _ => None,
        };
        let missing =
            format!("the server refuses to run as root, and there is no user `{name}` instead");
        entry.filter_map(ids).next().map(Some).ok_or_else(|| io::Error::other(missing))
    }
}

/// Runs a program to its end; what it printed, unless it fails.
pub(crate) fn run(mut command: Command, name: &str) -> io::Result<Vec<u8>> {
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{name} failed: {}", said.trim())));
    }
    Ok(output.stdout)
}

/// A command that gets the signal `on_death` when the thread that starts it ends.
///
/// `setpriv` sets that up and becomes the program: what would do it from here is `unsafe`.
pub(crate) fn command(program: impl AsRef<OsStr>, on_death: &str, user: Option<User>) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--pdeathsig={on_death}"));
    if let Some(User { id, group }) = user {
        command.arg(format!("--reuid={id}")).arg(format!("--regid={group}"));
        command.arg("--clear-groups");
    }
    command.arg(program);
    command
}

/// The first of `folders` or of the search path that holds `program`.
pub(crate) fn find(program: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = folders.iter().cloned().chain(env::split_paths(&path));
    places.map(|folder| folder.join(program)).find(|place| place.is_file())
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` with its output at the end of the file `log`, and waits until `ready` agrees,
    /// which gets the process id.
    ///
    /// An error holds the end of the log. Its kind is `AddrInUse` when the log says so.
    pub(crate) fn start(
        mut command: Command,
        log: &Path,
        mut ready: impl FnMut(u32) -> bool,
    ) -> io::Result<Self> {
        let mut output = OpenOptions::new().create(true).append(true).read(true).open(log)?;
        let before = output.seek(SeekFrom::End(0))?;
        // In a group of its own: an interrupt at the terminal is for us, and we stop the server.
        command.stdin(Stdio::null()).process_group(0);
        command.stdout(output.try_clone()?).stderr(output.try_clone()?);
        let mut process = Self { child: spawn(command)? };
        let start = Instant::now();
        let failure = loop {
            if let Some(status) = process.child.try_wait()? {
                break format!("ended ({status})");
            }
            if ready(process.child.id()) {
                return Ok(process);
            }
            if start.elapsed() > LIMIT {
                process.crash();
                break format!("was not ready after {} s", LIMIT.as_secs());
            }
            thread::sleep(PAUSE);
        };
        Err(start_error(&failure, &since(output, before)?))
    }

    /// Sends it `signal` and waits for its end; whether it came in time.
    pub(crate) fn end(&mut self, signal: Signal) -> bool {
        self.signal(signal);
        until(|| !self.is_running())
    }

    /// Ends it and its children at once, as a crash does, and waits until all are gone.
    ///
    /// Its children are killed while it stands still: it starts no others meanwhile, and as nobody else
    /// can reap them, their ids are not given to other processes.
    pub(crate) fn crash(&mut self) {
        if !self.is_running() {
            return;
        }
        self.signal(Signal::STOP);
        let id = self.child.id();
        until(|| state(id).is_none_or(|(state, _)| matches!(state, 'T' | 'Z')));
        let children = children(id);
        children.iter().for_each(|&child| signal(child, Signal::KILL));
        until(|| children.iter().all(|&child| state(child).is_none_or(|(state, _)| state == 'Z')));
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    fn signal(&mut self, which: Signal) {
        // Once it has ended and was waited for, the number may be another's.
        if self.is_running() {
            signal(self.child.id(), which);
        }
    }

    fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

/// Waits until `done`; whether that came in time.
fn until(mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > LIMIT {
            return false;
        }
        thread::sleep(PAUSE);
    }
    true
}

fn signal(id: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(id.cast_signed()) {
        // An error says that it has ended, which is what is waited for anyway.
        let _ = kill_process(pid, signal);
    }
}

fn children(id: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|&child| state(child).is_some_and(|(_, parent)| parent == id)).collect()
}

/// A process's state letter and its parent.
fn state(id: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name before it, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Starts `command` from a thread that lives as long as this process.
///
/// The signal on the parent's death comes when the *thread* that started the child ends, and those of
/// tests and async runtimes end long before the process does.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static KEEPER: OnceLock<Sender<Order>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, child) = mpsc::channel();
    let program = command.get_program().to_string_lossy().into_owned();
    keeper.send((command, reply)).map_err(io::Error::other)?;
    let child = child.recv().map_err(io::Error::other)?;
    child.map_err(|error| io::Error::new(error.kind(), format!("cannot start {program}: {error}")))
}

fn start_error(failure: &str, log: &str) -> io::Error {
    let taken = log.to_lowercase().contains("address already in use");
    let kind = if taken { io::ErrorKind::AddrInUse } else { io::ErrorKind::Other };
    let lines: Vec<&str> = log.lines().collect();
    let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    io::Error::new(kind, format!("the server {failure}; its log ends:\n{tail}"))
}

/// What a log says behind `position`.
pub(crate) fn said(log: &Path, position: u64) -> io::Result<String> {
    since(File::open(log)?, position)
}

fn since(mut file: File, position: u64) -> io::Result<String> {
    file.seek(SeekFrom::Start(position))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
