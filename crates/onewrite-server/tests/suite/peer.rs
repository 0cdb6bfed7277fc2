//! A receiver in this process, as a service of the user's own: an inbox behind HTTP.

use std::{net::SocketAddr, path::Path, sync::Arc};

use onewrite::{
    Receiver, ReceiverOptions, Shutdown, http, other,
    sqlite::{Context, HandlerError, InboxOptions, Options, SqliteInbox, SqliteStore},
};
use tokio::runtime::Runtime;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS effects (n INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT, id TEXT, kind TEXT, data TEXT);
    CREATE TABLE IF NOT EXISTS refused (key TEXT PRIMARY KEY)";

/// A receiver that notes every event it takes in `effects` and refuses the keys in `refused`.
pub(crate) struct Peer {
    address: SocketAddr,
    shutdown: Shutdown,
    // Dropping it ends the receiver.
    runtime: Option<Runtime>,
}

impl Peer {
    /// Receives at any free address into the database at `path`.
    pub(crate) fn start(path: &Path) -> Self {
        Self::with(path, "127.0.0.1:0".parse().unwrap(), |_| ())
    }

    pub(crate) fn with(
        path: &Path,
        listen: SocketAddr,
        adjust: impl FnOnce(&mut InboxOptions),
    ) -> Self {
        let runtime = Runtime::new().unwrap();
        let shutdown = Shutdown::default();
        let mut options = InboxOptions::new("peer");
        adjust(&mut options);
        let address = runtime.block_on(serve(path, listen, options, shutdown.clone()));
        Self { address, shutdown, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shutdown.begin();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(
    path: &Path,
    listen: SocketAddr,
    options: InboxOptions,
    shutdown: Shutdown,
) -> SocketAddr {
    let store = SqliteStore::open(Options::new(path)).unwrap();
    store.write(|tx| tx.execute_batch(TABLES).map_err(other)).await.unwrap();
    let inbox = Arc::new(SqliteInbox::new(&store, options, note).unwrap());
    let marks = Arc::clone(&inbox);
    let (events, feed) = http::receiver(http::HttpFeedOptions {
        marks: Some(Arc::new(move |source, life| {
            let inbox = Arc::clone(&marks);
            Box::pin(async move { onewrite::inbox::Inbox::marks(&*inbox, &source, life).await })
        })),
        ..http::HttpFeedOptions::default()
    });
    let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
    let address = listener.local_addr().unwrap();
    let receiver = Receiver::new(inbox, ReceiverOptions::default());
    tokio::spawn(receiver.run(Box::new(feed), shutdown));
    let routes = axum::Router::new().nest("/events", events);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

fn note(cx: &Context<'_>) -> Result<(), HandlerError> {
    let event = cx.event();
    let refused: i64 = cx.tx().query_row(
        "SELECT count(*) FROM refused WHERE key = ?1",
        [&**event.order_key()],
        |row| row.get(0),
    )?;
    if refused > 0 {
        return Err("the account is closed".into());
    }
    cx.tx().execute(
        "INSERT INTO effects (key, id, kind, data) VALUES (?1, ?2, ?3, ?4)",
        (
            &**event.order_key(),
            event.id.as_deref(),
            &*event.kind,
            String::from_utf8_lossy(&event.data),
        ),
    )?;
    Ok(())
}
