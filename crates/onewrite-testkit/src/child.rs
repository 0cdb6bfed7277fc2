//! Real child processes that are killed or stalled at a named point.

use std::{io, process::Stdio};

use onewrite_engine::control::CONTROL_ENV;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{self, ChildStdin, ChildStdout, Command},
};

/// The line a child prints on standard output once it is ready for its parent.
pub const READY: &str = "ready";

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exit(i32),
    /// By SIGKILL, its own at a failpoint or its parent's.
    Killed,
    /// By another signal.
    Signal(i32),
}

/// Whether each thread of a process that was stopped has come to a stop by now: the signal does not wait for
/// that. A process that has ended stands still.
#[must_use]
pub fn stands_still(process: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{process}/task")) else { return true };
    tasks.flatten().all(|task| match std::fs::read_to_string(task.path().join("stat")) {
        // Behind the name, in parentheses, which may hold anything.
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')),
        // It has ended.
        Err(_) => true,
    })
}

/// A running child process that listens to its parent (see [`onewrite_engine::control`]).
///
/// It is killed when this is dropped, and ends by itself when this process ends.
#[derive(Debug)]
pub struct Child {
    process: process::Child,
    pid: Pid,
    control: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts `command` and waits until it prints [`READY`].
    ///
    /// # Errors
    /// When it cannot be started, or ends before it is ready.
    pub async fn start(mut command: Command) -> io::Result<Self> {
        command
            .env(CONTROL_ENV, "stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn()?;
        let gone = || io::Error::other("the child process has no pipes");
        let control = process.stdin.take().ok_or_else(gone)?;
        let mut lines = BufReader::new(process.stdout.take().ok_or_else(gone)?).lines();
        let pid = process.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or_else(gone)?;
        while let Some(line) = lines.next_line().await? {
            if line == READY {
                return Ok(Self { process, pid, control, lines });
            }
        }
        let status = process.wait().await?;
        Err(io::Error::other(format!("the child process ended before it was ready ({status})")))
    }

    /// Arms a failpoint: at its `hits`-th passing the child ends by SIGKILL.
    ///
    /// # Errors
    /// When the child has ended.
    pub async fn arm(&mut self, point: &str, hits: u32) -> io::Result<()> {
        self.control.write_all(format!("arm {point} {hits}\n").as_bytes()).await?;
        self.control.flush().await
    }

    /// The next line of its standard output.
    ///
    /// # Errors
    /// When the pipe breaks.
    pub async fn line(&mut self) -> io::Result<Option<String>> {
        self.lines.next_line().await
    }

    /// Ends it at once, wherever it is.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn kill(&self) -> io::Result<()> {
        Ok(kill_process(self.pid, Signal::KILL)?)
    }

    /// Stalls it (SIGSTOP): to itself no time passes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn stall(&self) -> io::Result<()> {
        Ok(kill_process(self.pid, Signal::STOP)?)
    }

    /// Whether it was stalled, and each of its threads has come to a stop by now.
    #[must_use]
    pub fn stands_still(&self) -> bool {
        stands_still(self.pid.as_raw_nonzero().get().cast_unsigned())
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it has ended.
    pub fn resume(&self) -> io::Result<()> {
        Ok(kill_process(self.pid, Signal::CONT)?)
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Errors
    /// When it has ended.
    pub fn terminate(&self) -> io::Result<()> {
        Ok(kill_process(self.pid, Signal::TERM)?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the system cannot say.
    pub async fn wait(&mut self) -> io::Result<End> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.process.wait().await?;
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => End::Exit(code),
            (None, Some(signal)) if signal == Signal::KILL.as_raw() => End::Killed,
            (None, signal) => End::Signal(signal.unwrap_or_default()),
        })
    }
}
