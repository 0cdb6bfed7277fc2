//! `/metrics`, `/healthz` and `/readyz`, wherever this program listens.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use metrics_exporter_prometheus::PrometheusBuilder;
use onewrite::{Code, Error, Result, Shutdown, Store, sqlite::SqliteStore};
use tokio::task::JoinHandle;

struct Health {
    stores: Vec<SqliteStore>,
    shutdown: Shutdown,
}

/// Serves the three routes at `listen`, if it is given. There is no authentication, so only loopback
/// addresses are allowed.
pub(crate) async fn serve(
    listen: Option<SocketAddr>,
    stores: Vec<SqliteStore>,
    shutdown: &Shutdown,
) -> Result<Option<JoinHandle<()>>> {
    let Some(address) = listen else { return Ok(None) };
    let cannot = |what: String| Error::new(Code::CannotListen, what);
    if !address.ip().is_loopback() {
        return Err(cannot(format!(
            "{address} is not a loopback address, and these routes ask for no token"
        )));
    }
    let recorder = PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| cannot("start the metrics".into()).with_source(error))?;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| cannot(format!("listen on {address}")).with_source(error))?;
    let health = Arc::new(Health { stores, shutdown: shutdown.clone() });
    let routes = Router::new()
        .route("/metrics", get(move || std::future::ready(recorder.render())))
        .route("/healthz", get(|| std::future::ready("alive\n")))
        .route("/readyz", get(ready))
        .with_state(health);
    eprintln!("metrics at http://{}/metrics", listener.local_addr().unwrap_or(address));
    Ok(Some(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "the metrics are no longer served");
        }
    })))
}

/// Ready when every store answers and the end has not begun. A sink that is down does not count: its
/// events wait safely, and taking this process away would not help.
async fn ready(State(health): State<Arc<Health>>) -> (StatusCode, String) {
    if health.shutdown.has_begun() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".into());
    }
    for store in &health.stores {
        if let Err(error) = store.head().await {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"));
        }
    }
    (StatusCode::OK, "ready\n".into())
}
