//! The wish to end: Ctrl-C, a polite kill, or a terminal that was closed.

use std::process::ExitCode;

use onewrite::{Code, Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for the signals that end a demo, so that it can clear up behind itself.
pub(crate) struct Interrupts {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    pub(crate) fn listen() -> Result<Self> {
        let of = |kind| {
            signal(kind)
                .map_err(|error| Error::new(Code::Stopped, "listen for signals").with_source(error))
        };
        Ok(Self {
            hangup: of(SignalKind::hangup())?,
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
        })
    }

    /// The next signal, as the exit code by which a shell knows it.
    pub(crate) async fn next(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.hangup.recv() => ExitCode::from(129),
            _ = self.interrupt.recv() => ExitCode::from(130),
            _ = self.terminate.recv() => ExitCode::from(143),
        }
    }
}
