//! A process of a demo: how it is started, started again and ended.

use std::{net::SocketAddr, time::Duration};

use onewrite::{Code, Error, Result};
use onewrite_shop::Role;
use onewrite_testkit::child::{Child, End};
use tokio::process::Command;

/// A process that was asked to end and has not within this time is killed.
const END_WITHIN: Duration = Duration::from_secs(5);
/// The same for one that is to settle what is in flight.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);

/// One process, restarted under the same address whenever it dies.
pub(crate) struct Actor {
    /// What people call it.
    pub(crate) who: String,
    pub(crate) role: Role,
    pub(crate) address: SocketAddr,
    pub(crate) relays: bool,
    /// Whether it serves the API and receives events.
    pub(crate) serves: bool,
    /// Whether it runs sagas.
    pub(crate) runs_sagas: bool,
    pub(super) arguments: Vec<String>,
    /// Its URLs: they may hold passwords, and anybody may list the arguments of a process.
    pub(super) environment: Vec<(&'static str, String)>,
    child: Option<Child>,
}

impl Actor {
    /// One that does nothing yet.
    pub(super) fn new(who: String, role: Role, address: SocketAddr) -> Self {
        Self {
            who,
            role,
            address,
            relays: false,
            serves: false,
            runs_sagas: false,
            arguments: Vec::new(),
            environment: Vec::new(),
            child: None,
        }
    }

    /// Whether others wait for its leases when it stalls.
    pub(crate) fn holds_leases(&self) -> bool {
        self.relays || self.runs_sagas
    }

    pub(crate) async fn start(&mut self) -> Result<()> {
        let failed = |error: std::io::Error| {
            Error::new(Code::Stopped, format!("start {}", self.who)).with_source(error)
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        // The one before has ended, whether this one starts or not.
        self.child = None;
        self.child = Some(Child::start(command).await.map_err(failed)?);
        Ok(())
    }

    /// The running process.
    pub(crate) fn child(&mut self) -> Result<&mut Child> {
        let Self { child, who, .. } = self;
        child.as_mut().ok_or_else(|| Error::new(Code::Stopped, format!("{who} does not run")))
    }

    /// Asks it to end and waits: it settles what is in flight.
    pub(crate) async fn end(&mut self) -> Result<()> {
        let failed = |error: std::io::Error| {
            Error::new(Code::Stopped, "end a process of the demo").with_source(error)
        };
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.terminate().map_err(failed)?;
        let broken = |what: String| {
            let what = format!("{} {what} when asked to end", self.who);
            Err(Error::new(Code::InvariantBroken, what))
        };
        match tokio::time::timeout(SETTLE_WITHIN, child.wait()).await {
            Ok(end) => match end.map_err(failed)? {
                End::Exit(0) => Ok(()),
                end => broken(format!("ended with {end:?}")),
            },
            // It is killed where its handle is dropped.
            Err(_) => broken("did not end".into()),
        }
    }
}

/// Asks every process to end: each settles what is in flight.
pub(crate) async fn end(actors: &mut [Actor]) -> Result<()> {
    for actor in actors {
        actor.end().await?;
    }
    Ok(())
}

/// Ends every process that still runs, whatever it is doing.
pub(crate) async fn stop(actors: &mut [Actor]) {
    let mut running: Vec<_> = actors.iter_mut().filter_map(|actor| actor.child.take()).collect();
    // A process that has ended by itself cannot be asked: nothing has to be done then.
    for child in &running {
        let _ = child.resume();
        let _ = child.terminate();
    }
    for child in &mut running {
        if tokio::time::timeout(END_WITHIN, child.wait()).await.is_err() {
            let _ = child.kill();
            let _ = child.wait().await;
        }
    }
}
