//! The processes of a demo: who they are, how they are started and started again.

use std::{net::SocketAddr, path::Path};

use onewrite::{Code, Error, Result};
use onewrite_shop::Role;
use onewrite_testkit::child::{Child, End};
use tokio::process::Command;

use super::DemoArgs;

/// One process, restarted under the same address whenever it dies.
pub(crate) struct Actor {
    pub(crate) role: Role,
    pub(crate) address: SocketAddr,
    pub(crate) relays: bool,
    /// Whether it serves the API and receives events.
    pub(crate) serves: bool,
    arguments: Vec<String>,
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
        command.args(&self.arguments);
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
        let child = self.child()?;
        child.terminate().map_err(failed)?;
        match child.wait().await.map_err(failed)? {
            End::Exit(0) => Ok(()),
            end => Err(Error::new(
                Code::InvariantBroken,
                format!(
                    "a process of the {} service ended with {end:?} when asked to end",
                    self.role.name()
                ),
            )),
        }
    }
}

/// Lays out the processes and writes the configuration that `flow` and `why` read.
pub(crate) fn lay_out(args: &DemoArgs, folder: &Path) -> Result<Vec<Actor>> {
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
                child: None,
            });
        }
    }
    let peers: Vec<String> = actors
        .iter()
        .filter(|actor| actor.serves)
        .map(|actor| format!("{}=http://{}/events", actor.role.name(), actor.address))
        .collect();
    for actor in &mut actors {
        let database = folder.join(format!("{}.db", actor.role.name()));
        actor.arguments =
            ["demo-service", "--role", actor.role.name(), "--listen", &actor.address.to_string()]
                .map(str::to_owned)
                .to_vec();
        actor.arguments.extend([
            "--lease-ms".into(),
            args.lease_ms.to_string(),
            "--database".into(),
            database.display().to_string(),
        ]);
        actor.arguments.extend(peers.iter().flat_map(|peer| ["--peer".to_owned(), peer.clone()]));
        let flags = [
            ("--relay", actor.relays && !args.dual_write),
            ("--relay-only", !actor.serves),
            ("--naive", args.dual_write),
        ];
        actor.arguments.extend(
            flags.into_iter().filter(|(_, wanted)| *wanted).map(|(flag, _)| flag.to_owned()),
        );
    }
    if args.dual_write {
        actors.retain(|actor| actor.serves);
    }
    write_configuration(folder, &actors)?;
    Ok(actors)
}

fn free_address() -> Result<(SocketAddr, std::net::TcpListener)> {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| Ok((listener.local_addr()?, listener)))
        .map_err(|error| {
            Error::new(Code::CannotListen, "find a free port on loopback").with_source(error)
        })
}

fn write_configuration(folder: &Path, actors: &[Actor]) -> Result<()> {
    let mut text = String::from("# Written by `onewrite demo`.\n");
    for role in Role::ALL {
        text.push_str(&format!(
            "\n[[service]]\nname = \"{0}\"\nstore = \"sqlite:{0}.db\"\n",
            role.name()
        ));
        for (subscriber, kinds) in role.subscribers() {
            let urls: Vec<String> = actors
                .iter()
                .filter(|actor| actor.role == *subscriber && actor.serves)
                .map(|actor| format!("http://{}/events", actor.address))
                .collect();
            text.push_str(&format!(
                "\n[[service.sink]]\nname = \"{}\"\nurls = {urls:?}\ntypes = {kinds:?}\nallow_private = true\n",
                subscriber.name()
            ));
        }
    }
    let path = folder.join(crate::config::FILE);
    std::fs::write(&path, text).map_err(|error| {
        Error::new(Code::ReadOnly, format!("write {}", path.display())).with_source(error)
    })
}
