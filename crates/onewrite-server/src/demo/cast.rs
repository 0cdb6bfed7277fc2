//! The processes of a demo: who they are, how they are started and started again.

use std::{fs, io::Write as _, net::SocketAddr, os::unix::fs::OpenOptionsExt as _, time::Duration};

use onewrite::{Code, Error, Result};
use onewrite_shop::Role;
use onewrite_testkit::child::{Child, End};
use tokio::process::Command;

use super::{DemoArgs, service, stage::Stage};

/// A process that was asked to end and has not within this time is killed.
const END_WITHIN: Duration = Duration::from_secs(5);
/// The same for one that is to settle what is in flight.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);

/// One process, restarted under the same address whenever it dies.
pub(crate) struct Actor {
    pub(crate) role: Role,
    pub(crate) address: SocketAddr,
    pub(crate) relays: bool,
    /// Whether it serves the API and receives events.
    pub(crate) serves: bool,
    arguments: Vec<String>,
    /// Its URLs: they may hold passwords, and anybody may list the arguments of a process.
    environment: Vec<(&'static str, String)>,
    child: Option<Child>,
}

impl Actor {
    pub(crate) async fn start(&mut self) -> Result<()> {
        let failed = |error: std::io::Error| {
            Error::new(
                Code::Stopped,
                format!("start a process of the {} service", self.role.name()),
            )
            .with_source(error)
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
        let role = self.role.name();
        self.child.as_mut().ok_or_else(|| {
            Error::new(Code::Stopped, format!("a process of the {role} service does not run"))
        })
    }

    /// Asks it to end and waits: it settles what is in flight.
    pub(crate) async fn end(&mut self) -> Result<()> {
        let failed = |error: std::io::Error| {
            Error::new(Code::Stopped, "end a process of the demo").with_source(error)
        };
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.terminate().map_err(failed)?;
        let role = self.role.name();
        let broken = |what: String| {
            let what = format!("a process of the {role} service {what} when asked to end");
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

/// Lays out the processes and writes the configuration that `flow` and `why` read.
pub(crate) fn lay_out(args: &DemoArgs, stage: &Stage) -> Result<Vec<Actor>> {
    let mut actors = Vec::new();
    let processes = args.consumers.max(args.relays);
    let mut held = Vec::new();
    for role in Role::ALL {
        for index in 0..processes {
            let (address, listener) = free_address()?;
            // Held until all are chosen, so that none is handed out twice.
            held.push(listener);
            let (serves, relays) = (index < args.consumers, index < args.relays);
            actors.push(Actor {
                role,
                address,
                relays,
                serves,
                arguments: Vec::new(),
                environment: Vec::new(),
                child: None,
            });
        }
    }
    let peers: Vec<String> = Role::ALL
        .into_iter()
        .flat_map(|role| {
            addresses(&actors, stage, role)
                .into_iter()
                .map(move |url| format!("{}={url}", role.name()))
        })
        .collect();
    for actor in &mut actors {
        actor.arguments = arguments(actor, args);
        actor.environment = vec![
            (service::STORE, stage.store(actor.role).to_owned()),
            (service::RECEIVES, stage.receives(actor.role).to_owned()),
            (service::PEERS, peers.join(service::BETWEEN_PEERS)),
        ];
    }
    if args.dual_write {
        actors.retain(|actor| actor.serves);
    }
    write_configuration(stage, &actors)?;
    Ok(actors)
}

/// Where events for `role` go.
fn addresses(actors: &[Actor], stage: &Stage, role: Role) -> Vec<String> {
    let listening: Vec<String> = actors
        .iter()
        .filter(|actor| actor.role == role && actor.serves)
        .map(|actor| format!("http://{}/events", actor.address))
        .collect();
    stage.peers(role, listening)
}

fn arguments(actor: &Actor, args: &DemoArgs) -> Vec<String> {
    let (address, lease_ms) = (actor.address.to_string(), args.lease_ms.to_string());
    let settings =
        [("--role", actor.role.name()), ("--listen", &address), ("--lease-ms", &lease_ms)];
    let flags = [
        ("--relay", actor.relays && !args.dual_write),
        ("--relay-only", !actor.serves),
        ("--naive", args.dual_write),
    ];
    let settings = settings.into_iter().flat_map(|(name, value)| [name, value]);
    let flags = flags.into_iter().filter(|(_, wanted)| *wanted).map(|(flag, _)| flag);
    ["demo-service"].into_iter().chain(settings).chain(flags).map(str::to_owned).collect()
}

fn free_address() -> Result<(SocketAddr, std::net::TcpListener)> {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| Ok((listener.local_addr()?, listener)))
        .map_err(|error| {
            Error::new(Code::CannotListen, "find a free port on loopback").with_source(error)
        })
}

fn write_configuration(stage: &Stage, actors: &[Actor]) -> Result<()> {
    let mut text = String::from("# Written by `onewrite demo`.\n");
    for role in Role::ALL {
        let (name, store) = (role.name(), stage.configured_store(role));
        text.push_str(&format!("\n[[service]]\nname = {name:?}\nstore = {store:?}\n"));
        for (subscriber, kinds) in role.subscribers() {
            let (name, urls) = (subscriber.name(), addresses(actors, stage, *subscriber));
            text.push_str(&format!(
                "\n[[service.sink]]\nname = {name:?}\nurls = {urls:?}\ntypes = {kinds:?}\nallow_private = true\n"
            ));
        }
    }
    let path = stage.folder().join(crate::config::FILE);
    // URLs may hold passwords: nobody else is to read them.
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        Error::new(Code::ReadOnly, format!("write {}", path.display())).with_source(error)
    })
}
