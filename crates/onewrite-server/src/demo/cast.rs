//! The processes of a demo: who they are.

use std::{fs, io::Write as _, net::SocketAddr, os::unix::fs::OpenOptionsExt as _};

use onewrite::{Code, Error, Result};
use onewrite_shop::Role;
use onewrite_testkit::server::port;

use super::{
    actor::Actor,
    args::{DemoArgs, Flow},
    node, service,
    stage::Stage,
};

/// Lays out the processes and writes the configuration that `flow` and `why` read.
pub(crate) fn lay_out(args: &DemoArgs, stage: &Stage) -> Result<Vec<Actor>> {
    let actors = match args.flow {
        Flow::Choreography => services(args, stage)?,
        Flow::Orchestration => nodes(args, stage)?,
    };
    write_configuration(args, stage, &actors)?;
    Ok(actors)
}

/// The processes that react to each other's events.
fn services(args: &DemoArgs, stage: &Stage) -> Result<Vec<Actor>> {
    let mut actors = Vec::new();
    let processes = args.consumers.max(args.relays);
    let mut held = Vec::new();
    for role in Role::ALL {
        for index in 0..processes {
            let (address, listener) = free_address()?;
            // Held until all are chosen, so that none is handed out twice.
            held.push(listener);
            let (serves, relays) = (index < args.consumers, index < args.relays);
            let who = format!("a process of the {} service", role.name());
            let mut actor = Actor::new(who, role, address);
            (actor.relays, actor.serves) = (relays, serves);
            actors.push(actor);
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
    Ok(actors)
}

/// The processes that run sagas. Each takes orders, and may take part for any service.
fn nodes(args: &DemoArgs, stage: &Stage) -> Result<Vec<Actor>> {
    let stores = stage.stores().iter().map(|(role, url)| format!("{}={url}", role.name()));
    let stores = stores.collect::<Vec<_>>().join(service::BETWEEN_PEERS);
    let (mut actors, mut held) = (Vec::new(), Vec::new());
    for number in 1..=args.nodes() {
        let (address, listener) = free_address()?;
        held.push(listener);
        let mut actor = Actor::new(format!("node {number}"), Role::Order, address);
        (actor.serves, actor.runs_sagas) = (true, true);
        let (address, lease_ms) = (address.to_string(), args.lease_ms.to_string());
        let arguments = ["demo-node", "--listen", &address, "--lease-ms", &lease_ms];
        let flag = args.without_barrier.then_some("--without-barrier");
        actor.arguments = arguments.into_iter().chain(flag).map(str::to_owned).collect();
        actor.environment = vec![(node::STORES, stores.clone())];
        actors.push(actor);
    }
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
    // One that no connection takes while the process that listens there is down.
    port::free()
        .and_then(|port| std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)))
        .and_then(|listener| Ok((listener.local_addr()?, listener)))
        .map_err(|error| {
            Error::new(Code::CannotListen, "find a free port on loopback").with_source(error)
        })
}

fn write_configuration(args: &DemoArgs, stage: &Stage, actors: &[Actor]) -> Result<()> {
    let mut text = String::from("# Written by `onewrite demo`.\n");
    for role in Role::ALL {
        let (name, store) = (role.name(), stage.configured_store(role));
        text.push_str(&format!("\n[[service]]\nname = {name:?}\nstore = {store:?}\n"));
        if args.flow == Flow::Orchestration {
            continue;
        }
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
