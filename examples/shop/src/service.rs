//! One service as a process: its database, its web address, its inbox, and a relay to each subscriber.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use onewrite::{
    Code, Error, Receiver, ReceiverOptions, Relay, RelayOptions, Result, Retention, Shutdown,
    Sweeper, inbox::InboxOptions,
};

use crate::{
    Order, Role, broker,
    database::{self, Database},
};

/// How long an answer to a relay may take: the services are near, and quick to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How to run one service.
#[derive(Clone)]
pub struct ServiceOptions {
    /// Which one.
    pub role: Role,
    /// The URL of its database.
    pub store: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its events arrive: [`broker::HTTP`], or the URL of what it reads from a broker.
    pub receives: String,
    /// Where each service's events go to (several processes may serve one role).
    pub peers: Vec<(Role, Vec<String>)>,
    /// Whether this process relays its events as well.
    pub relay: bool,
    /// How long its leases hold.
    pub lease_ttl: Duration,
    /// How long delivered events stay in the log.
    pub retention: Retention,
}

impl ServiceOptions {
    /// Who this process is where processes share work.
    pub(crate) fn owner(&self) -> String {
        format!("{}-{}-{}", self.role.name(), std::process::id(), self.listen.port())
    }

    /// Where the events for `subscriber` go.
    pub(crate) fn urls_of(&self, subscriber: Role) -> Vec<String> {
        let peer = self.peers.iter().find(|(role, _)| *role == subscriber);
        peer.map(|(_, urls)| urls.clone()).unwrap_or_default()
    }
}

/// Opens a service's database with its tables and guards.
///
/// # Errors
/// What the store says.
pub async fn open(role: Role, url: &str, guarded: bool) -> Result<Arc<dyn Database>> {
    let database = database::open(url, Some(role)).await?;
    database.create_tables(role).await?;
    if guarded {
        database::guard(&*database, role).await?;
    }
    Ok(database)
}

/// Runs a service until the shutdown begins; calls `ready` once it listens.
///
/// # Errors
/// When its database cannot be opened, its address cannot be listened on, or the broker cannot be
/// reached.
pub async fn run(options: ServiceOptions, ready: impl FnOnce(), shutdown: Shutdown) -> Result<()> {
    let role = options.role;
    let database = open(role, &options.store, true).await?;
    let mut policy = InboxOptions::new(role.name());
    policy.policy.sabotage = onewrite::sabotage::Sabotage::from_env();
    let inbox = database.inbox(role, policy)?;
    let incoming = broker::incoming(&options, database.store(), Some(Arc::clone(&inbox))).await?;
    let mut api = Router::new().route("/orders", post(place)).with_state(Arc::clone(&database));
    if let Some(routes) = incoming.routes {
        api = api.nest("/events", routes);
    }
    let listener = listen(options.listen).await?;
    let mut tasks = tokio::task::JoinSet::new();
    if options.relay {
        for relay in relays(&*database, &options).await? {
            tasks.spawn(relay.run(shutdown.clone()));
        }
        tasks.spawn(Sweeper::new(database.store(), options.retention).run(shutdown.clone()));
    }
    tasks.spawn(
        Receiver::new(inbox, ReceiverOptions::default()).run(incoming.feed, shutdown.clone()),
    );
    ready();
    let end = shutdown.clone();
    let served =
        axum::serve(listener, api).with_graceful_shutdown(async move { end.begun().await }).await;
    shutdown.begin();
    tasks.join_all().await;
    incoming.closing.close().await;
    served.map_err(|error| Error::new(Code::Stopped, "serve the shop's API").with_source(error))
}

/// Takes an order: the row and its event are one commit, and so is the answer's promise.
async fn place(
    State(database): State<Arc<dyn Database>>,
    Json(placed): Json<Order>,
) -> (StatusCode, String) {
    match database.place(placed, true).await {
        Ok(_) => (StatusCode::CREATED, String::new()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// A relay to each subscriber of this service's events.
///
/// # Errors
/// When a peer's address is not valid, or its broker cannot be reached.
pub async fn relays(database: &dyn Database, options: &ServiceOptions) -> Result<Vec<Relay>> {
    let mut relays = Vec::new();
    for (subscriber, _) in options.role.subscribers() {
        let sink = broker::sink(options.urls_of(*subscriber), ANSWER_WITHIN).await?;
        let relay = RelayOptions {
            kinds: options.role.kinds_for(*subscriber),
            lease_ttl: options.lease_ttl,
            ..RelayOptions::new(subscriber.name())
        };
        relays.push(Relay::new(database.store(), sink, relay, options.owner()));
    }
    Ok(relays)
}

pub(crate) async fn listen(address: SocketAddr) -> Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address).await.map_err(|error| {
        Error::new(Code::CannotListen, format!("listen on {address}")).with_source(error)
    })
}
