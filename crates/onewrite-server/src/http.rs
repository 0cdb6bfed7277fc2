//! `/metrics`, `/healthz` and `/readyz`, wherever this program listens.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use onewrite::{Code, Error, Result, Shutdown, Store, saga::Sagas};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::report;

struct Health {
    stores: Vec<Arc<dyn Store>>,
    /// Whoever runs sagas here knows whether their store takes what is written.
    sagas: Option<Sagas>,
    recorder: PrometheusHandle,
    shutdown: Shutdown,
}

/// Serves the three routes at `listen`, if it is given. There is no authentication, so only loopback
/// addresses are allowed.
pub(crate) async fn serve(
    listen: Option<SocketAddr>,
    stores: Vec<Arc<dyn Store>>,
    shutdown: &Shutdown,
) -> Result<Option<JoinHandle<()>>> {
    let Some(address) = listen else { return Ok(None) };
    if !address.ip().is_loopback() {
        let what =
            format!("{address} is not a loopback address, and these routes ask for no token");
        return Err(Error::new(Code::CannotListen, what));
    }
    let routes = routes(stores, None, shutdown)?;
    let (listener, address) = self::listen(address).await?;
    report::tell!("metrics at http://{address}/metrics");
    Ok(Some(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "the metrics are no longer served");
        }
    })))
}

/// The three routes.
pub(crate) fn routes(
    stores: Vec<Arc<dyn Store>>,
    sagas: Option<Sagas>,
    shutdown: &Shutdown,
) -> Result<Router> {
    let recorder = PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| Error::new(Code::CannotListen, "start the metrics").with_source(error))?;
    let health = Arc::new(Health { stores, sagas, recorder, shutdown: shutdown.clone() });
    Ok(Router::new()
        .route("/metrics", get(measure))
        .route("/healthz", get(|| std::future::ready("alive\n")))
        .route("/readyz", get(ready))
        .with_state(health))
}

/// Listens, and says where: a port of 0 is any free one.
pub(crate) async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Error::new(Code::CannotListen, format!("listen on {address}")).with_source(error)
    })?;
    let address = listener.local_addr().unwrap_or(address);
    Ok((listener, address))
}

/// What the drivers count as they go, and what only the stores know: parked keys, suspended sinks and
/// takeovers.
async fn measure(State(health): State<Arc<Health>>) -> (StatusCode, String) {
    for store in &health.stores {
        if let Err(error) = ask(&**store).await {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"));
        }
    }
    (StatusCode::OK, health.recorder.render())
}

async fn ask(store: &dyn Store) -> Result<()> {
    let source = store.source().name.to_string();
    let mut parked: BTreeMap<String, u64> = BTreeMap::new();
    for sink in store.sinks().await? {
        let suspended = f64::from(u8::from(sink.suspended.is_some()));
        let name = sink.name.to_string();
        metrics::gauge!("onewrite_sink_suspended", "source" => source.clone(), "sink" => name)
            .set(suspended);
        parked.insert(format!("relay/{}", sink.name), 0);
    }
    for key in store.parked_keys(None).await? {
        *parked.entry(key.scope.to_string()).or_default() += 1;
    }
    for (scope, keys) in parked {
        metrics::gauge!("onewrite_parked_keys", "source" => source.clone(), "scope" => scope)
            .set(keys as f64);
    }
    let takeovers: u64 = store.leases().await?.iter().map(|lease| lease.takeovers).sum();
    metrics::counter!("onewrite_lease_takeovers_total", "source" => source).absolute(takeovers);
    Ok(())
}

/// Ready when every store answers, and takes what is written for sagas, and the end has not begun. A sink that is
/// down does not count: its events wait safely, and taking this process away would not help.
async fn ready(State(health): State<Arc<Health>>) -> (StatusCode, String) {
    if health.shutdown.has_begun() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".into());
    }
    for store in &health.stores {
        if let Err(error) = store.head().await {
            return unready(&error);
        }
    }
    if let Some(Err(error)) = health.sagas.as_ref().map(Sagas::writable) {
        return unready(&error);
    }
    (StatusCode::OK, "ready\n".into())
}

fn unready(error: &Error) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n{}\n", error.cure()))
}
