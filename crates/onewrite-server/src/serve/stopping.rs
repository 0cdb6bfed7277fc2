//! How a server is asked to end: the first signal asks, the second one insists.

use std::time::{Duration, Instant};

use onewrite::{Code, Error, Result, Shutdown};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::report;

/// Signals within this time are one: of a terminal, and of who passes on what it was sent itself.
const SAME_WITHIN: Duration = Duration::from_millis(250);

/// The signals by which a server is ended.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Self> {
        let of = |kind| {
            signal(kind)
                .map_err(|error| Error::new(Code::Stopped, "listen for signals").with_source(error))
        };
        let (interrupt, terminate) = (of(SignalKind::interrupt())?, of(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate })
    }

    /// The next one, as the exit code by which a shell knows it.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }

    /// Begins the shutdown at the first signal and ends the process at the second one, whatever is still under
    /// way: of that the store holds what it holds after a kill, and others go on from there.
    pub(super) async fn heed(mut self, shutdown: Shutdown) {
        self.next().await;
        shutdown.begin();
        let first = Instant::now();
        let mut code = self.next().await;
        while first.elapsed() < SAME_WITHIN {
            code = self.next().await;
        }
        report::tell!(
            "stopped at once: what was under way is gone on with from the store, once its leases have run out"
        );
        // Not by way of the runtime, which would wait for what blocks a thread.
        std::process::exit(code);
    }
}
