//! What the tests share: a folder, the program as a child process, events, and patience.

use std::{
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use onewrite::{
    Event,
    sqlite::{
        self,
        rusqlite::{Connection, TransactionBehavior},
    },
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// What has not happened within this time will not happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_onewrite");

/// Names the promises that a process breaks on purpose.
pub(crate) const VARIABLE: &str = "ONEWRITE_SABOTAGE";

/// Makes `command` independent of the settings of whoever runs the tests.
pub(crate) fn plain(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ONEWRITE_") {
            command.env_remove(name);
        }
    }
}

/// A folder of its own; the program runs in it.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    /// What breaks promises of the program on purpose, if anything.
    planted: Option<String>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), planted: None }
    }

    /// Where a promise of the program is broken on purpose.
    #[cfg(feature = "sabotage")]
    pub(crate) fn with_defect(defect: onewrite::sabotage::Defect) -> Self {
        let planted = onewrite::sabotage::Sabotage::default().with(defect);
        Self { planted: Some(planted.to_env()), ..Self::new() }
    }

    /// With an empty store `shop.db`.
    pub(crate) fn with_store() -> Self {
        let place = Self::new();
        place.run(&["store", "init", "--store", "sqlite:shop.db"]).ok();
        place
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        plain(&mut command);
        command.args(args).current_dir(self.root()).stdin(Stdio::null());
        command.envs(self.planted.iter().map(|planted| (VARIABLE, planted)));
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command(args))
    }

    /// Runs the program, which must succeed and print one JSON value.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let run = self.run(args).ok();
        serde_json::from_str(run.out.trim()).unwrap_or_else(|error| panic!("{error}: {run:?}"))
    }

    /// Starts the program and goes on.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running::of(self.command(args))
    }
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    pub(crate) fn of(mut command: Command) -> Self {
        Self::of_ref(&mut command)
    }

    pub(crate) fn of_ref(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// It must have succeeded.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.is_no_panic();
        self
    }

    /// It must have failed with a clear paragraph: the code, what failed, what to do about it, and
    /// `words`. Nothing on standard output, no panic, no backtrace.
    pub(crate) fn refused(&self, code: &str, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        self.is_no_panic();
        let head = format!("error[{code}]: ");
        assert!(self.err.lines().any(|line| line.starts_with(&head)), "{code}: {}", self.err);
        assert!(self.err.contains("  what to do: "), "{}", self.err);
        assert!(self.err.contains(&format!("onewrite explain {code}")), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "`{word}` is not in: {}", self.err);
        }
    }

    fn is_no_panic(&self) {
        for word in ["panicked", "backtrace", "RUST_BACKTRACE"] {
            assert!(!self.err.contains(word), "{self:?}");
        }
    }
}

#[derive(Default)]
struct Lines {
    seen: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl Lines {
    fn collect(self: Arc<Self>, from: impl Read + Send + 'static) {
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                self.seen.lock().unwrap().0.push(line);
                self.more.notify_all();
            }
            self.seen.lock().unwrap().1 = true;
            self.more.notify_all();
        });
    }

    fn wait(&self, enough: impl Fn(&[String]) -> bool) -> Option<Vec<String>> {
        let until = Instant::now() + PATIENCE;
        let mut seen = self.seen.lock().unwrap();
        while !enough(&seen.0) {
            let left = until.checked_duration_since(Instant::now())?;
            if seen.1 {
                return None;
            }
            seen = self.more.wait_timeout(seen, left).unwrap().0;
        }
        Some(seen.0.clone())
    }

    fn all(&self) -> Vec<String> {
        self.wait(|_| false);
        self.seen.lock().unwrap().0.clone()
    }
}

/// A program that runs, with what it said so far. Killed when dropped.
pub(crate) struct Running {
    process: Child,
    out: Arc<Lines>,
    err: Arc<Lines>,
}

impl Running {
    pub(crate) fn of(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (Arc::<Lines>::default(), Arc::<Lines>::default());
        Arc::clone(&out).collect(process.stdout.take().unwrap());
        Arc::clone(&err).collect(process.stderr.take().unwrap());
        Self { process, out, err }
    }

    /// Waits until standard output has `count` lines.
    pub(crate) fn lines(&self, count: usize) -> Vec<String> {
        self.out
            .wait(|lines| lines.len() >= count)
            .unwrap_or_else(|| panic!("no {count} lines: {}", self.said()))
    }

    /// Waits until standard output has `count` lines, and reads each as JSON.
    pub(crate) fn events(&self, count: usize) -> Vec<Value> {
        self.lines(count).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for a line on standard error that contains `word`.
    pub(crate) fn says(&self, word: &str) -> String {
        let lines = self.err.wait(|lines| lines.iter().any(|line| line.contains(word)));
        let lines = lines.unwrap_or_else(|| panic!("no `{word}`: {}", self.said()));
        lines.into_iter().find(|line| line.contains(word)).unwrap()
    }

    /// What it said on standard error so far.
    pub(crate) fn said(&self) -> String {
        self.err.seen.lock().unwrap().0.join("\n")
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Asks it to end and waits.
    pub(crate) fn terminate(self) -> Run {
        self.signal(Signal::TERM);
        self.end()
    }

    /// Kills it at once.
    pub(crate) fn kill(self) -> Run {
        self.signal(Signal::KILL);
        self.end()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Run {
        let status = self.process.wait().unwrap();
        let (out, err) = (self.out.all().join("\n"), self.err.all().join("\n"));
        Run { code: status.code(), out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An event about `key` whose data is `number`.
pub(crate) fn event(kind: &'static str, key: &str, number: usize) -> Event {
    Event::new(kind, "Thing", key.to_owned()).json(&number).unwrap()
}

/// Emits events in one transaction, as a program of the user's own does it.
pub(crate) fn emit(path: &Path, events: &[Event]) -> Vec<String> {
    let mut connection = open(path);
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let placed = events.iter().map(|event| sqlite::emit(&tx, event).unwrap().id.to_string());
    let ids = placed.collect();
    sqlite::commit(tx).unwrap();
    ids
}

pub(crate) fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.pragma_update(None, "synchronous", "FULL").unwrap();
    connection.pragma_update(None, "foreign_keys", "ON").unwrap();
    connection
}

/// The one number that `sql` finds; 0 for none.
pub(crate) fn number(path: &Path, sql: &str) -> i64 {
    let found: Option<i64> = open(path).query_row(sql, [], |row| row.get(0)).unwrap();
    found.unwrap_or(0)
}

/// The first column of what `sql` finds.
pub(crate) fn texts(path: &Path, sql: &str) -> Vec<String> {
    let connection = open(path);
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

pub(crate) fn execute(path: &Path, sql: &str) {
    open(path).execute_batch(sql).unwrap();
}

/// An address nobody listens at.
pub(crate) fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, onewrite_testkit::server::port::free().unwrap()).into()
}
