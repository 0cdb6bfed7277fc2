//! One service as a process: its database, its web address, its inbox, and a relay to each subscriber.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use onewrite::{
    Code, Error, Receiver, ReceiverOptions, Relay, RelayOptions, Result, Retention, Shutdown,
    Sweeper, http, other, sqlite,
    sqlite::{Context, HandlerError, InboxOptions, SqliteInbox, SqliteStore, guard},
};

use crate::{
    Order, Role, order,
    reaction::{EFFECTS, note_effect},
};

/// How to run one service.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// Which one.
    pub role: Role,
    /// Its database file.
    pub database: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where each service's receivers listen (several processes may serve one role).
    pub peers: Vec<(Role, Vec<String>)>,
    /// Whether this process relays its events as well.
    pub relay: bool,
    /// How long its leases hold.
    pub lease_ttl: Duration,
    /// How long delivered events stay in the log.
    pub retention: Retention,
}

/// Opens a service's database with its tables and guards.
///
/// # Errors
/// What the store says.
pub async fn open(role: Role, database: PathBuf, guarded: bool) -> Result<SqliteStore> {
    let options =
        sqlite::Options { source: Some(role.name().into()), ..sqlite::Options::new(database) };
    let store = SqliteStore::open(options)?;
    let (tables, guards) = role.tables();
    store
        .write(move |tx| {
            tx.execute_batch(tables).and_then(|()| tx.execute_batch(EFFECTS)).map_err(other)?;
            let wanted: &[&str] = if guarded { guards } else { &[] };
            wanted.iter().try_for_each(|table| guard::add(tx, table))
        })
        .await?;
    Ok(store)
}

/// Runs a service until the shutdown begins; calls `ready` once it listens.
///
/// # Errors
/// When its database cannot be opened or its address cannot be listened on.
pub async fn run(options: ServiceOptions, ready: impl FnOnce(), shutdown: Shutdown) -> Result<()> {
    let role = options.role;
    let store = open(role, options.database.clone(), true).await?;
    let mut inbox = InboxOptions::new(role.name());
    inbox.policy.sabotage = onewrite::sabotage::Sabotage::from_env();
    let inbox = Arc::new(SqliteInbox::new(&store, inbox, move |cx| react(role, cx))?);
    let marks = Arc::clone(&inbox);
    let (events, feed) = http::receiver(http::HttpFeedOptions {
        marks: Some(Arc::new(move |source, life| {
            let inbox = Arc::clone(&marks);
            Box::pin(async move { onewrite::inbox::Inbox::marks(&*inbox, &source, life).await })
        })),
        ..http::HttpFeedOptions::default()
    });
    let api = Router::new()
        .route("/orders", post(place))
        .with_state(store.clone())
        .nest("/events", events);
    let listener = listen(options.listen).await?;
    ready();
    let mut tasks = tokio::task::JoinSet::new();
    if options.relay {
        for relay in relays(&store, &options)? {
            tasks.spawn(relay.run(shutdown.clone()));
        }
        tasks.spawn(Sweeper::new(Arc::new(store.clone()), options.retention).run(shutdown.clone()));
    }
    tasks.spawn(
        Receiver::new(inbox, ReceiverOptions::default()).run(Box::new(feed), shutdown.clone()),
    );
    let end = shutdown.clone();
    let served =
        axum::serve(listener, api).with_graceful_shutdown(async move { end.begun().await }).await;
    shutdown.begin();
    tasks.join_all().await;
    served.map_err(|error| Error::new(Code::Stopped, "serve the shop's API").with_source(error))
}

/// The reaction's rows, its events, and the note for the audit: one commit.
fn react(role: Role, cx: &Context<'_>) -> std::result::Result<(), HandlerError> {
    let events = role.reaction()(cx.tx(), cx.event())?;
    note_effect(cx.tx(), cx.record())?;
    for event in events {
        cx.emit(event)?;
    }
    Ok(())
}

/// Takes an order: the row and its event are one commit, and so is the answer's promise.
async fn place(
    State(store): State<SqliteStore>,
    Json(placed): Json<Order>,
) -> (StatusCode, String) {
    let written = store
        .write(move |tx| {
            if let Some(event) = order::place(tx, &placed)? {
                sqlite::emit(tx, &event)?;
            }
            Ok(())
        })
        .await;
    match written {
        Ok(()) => (StatusCode::CREATED, String::new()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// A relay to each subscriber of this service's events.
///
/// # Errors
/// When a peer's address is not valid.
pub fn relays(store: &SqliteStore, options: &ServiceOptions) -> Result<Vec<Relay>> {
    let owner = format!("{}-{}-{}", options.role.name(), std::process::id(), options.listen.port());
    let to = |(subscriber, _): &(Role, _)| {
        let urls =
            options.peers.iter().find(|(role, _)| role == subscriber).map(|(_, urls)| urls.clone());
        let sink = http::HttpSink::new(http::HttpSinkOptions {
            urls: urls.unwrap_or_default(),
            // The shop's services are this machine's own processes: near, and quick to answer.
            allow_private: true,
            timeout: Duration::from_secs(2),
            ..http::HttpSinkOptions::new(String::new())
        })?;
        let relay = RelayOptions {
            kinds: options.role.kinds_for(*subscriber),
            lease_ttl: options.lease_ttl,
            ..RelayOptions::new(subscriber.name())
        };
        Ok(Relay::new(Arc::new(store.clone()), Arc::new(sink), relay, owner.clone()))
    };
    options.role.subscribers().iter().map(to).collect()
}

pub(crate) async fn listen(address: SocketAddr) -> Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address).await.map_err(|error| {
        Error::new(Code::CannotListen, format!("listen on {address}")).with_source(error)
    })
}
