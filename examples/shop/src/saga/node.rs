//! A process that takes orders over HTTP and runs their sagas, beside others on the same stores.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use onewrite::{
    Code, Error, Result, Shutdown,
    saga::{SagaOptions, SagaRunner, Sagas},
};

use super::{OrderSaga, Services, order_saga};
use crate::{Order, Role, service::listen};

/// Attempts in flight at one participant. Each holds a connection, and a server has few of them; more would
/// only stand in line for the same accounts and articles.
const IN_FLIGHT_MAX: usize = 2;

/// How to run a node.
#[derive(Clone)]
pub struct NodeOptions {
    /// The URL of each service's database. The order service's holds the sagas as well.
    pub stores: Vec<(Role, String)>,
    /// Where it takes orders.
    pub listen: SocketAddr,
    /// How long its leases hold.
    pub lease_ttl: Duration,
    /// Whether participants keep a barrier. They must; without, effects are doubled.
    pub keeps_barrier: bool,
}

struct Node {
    saga: OrderSaga,
    sagas: Sagas,
}

/// Runs a node until the shutdown begins; calls `ready` once it listens.
///
/// # Errors
/// When a database cannot be opened, or its address cannot be listened on.
pub async fn run(options: NodeOptions, ready: impl FnOnce(), shutdown: Shutdown) -> Result<()> {
    let services = Arc::new(Services::open(&options.stores, options.keeps_barrier).await?);
    let saga = order_saga()?;
    let journal = services.of(Role::Order)?.journal();
    let owner = format!("node-{}-{}", std::process::id(), options.listen.port());
    let settings = SagaOptions {
        lease_ttl: options.lease_ttl,
        participant_max: IN_FLIGHT_MAX,
        ..SagaOptions::default()
    };
    let runner = SagaRunner::new(journal, settings, owner).serve(&saga, &services);
    let node = Arc::new(Node { saga, sagas: runner.sagas() });
    let listener = listen(options.listen).await?;
    let running = tokio::spawn(runner.run(shutdown.clone()));
    ready();
    let (api, end) =
        (Router::new().route("/orders", post(place)).with_state(node), shutdown.clone());
    let served =
        axum::serve(listener, api).with_graceful_shutdown(async move { end.begun().await }).await;
    shutdown.begin();
    running.await.map_err(|error| Error::new(Code::Stopped, "run sagas").with_source(error))?;
    served.map_err(|error| Error::new(Code::Stopped, "serve the shop's API").with_source(error))
}

/// Takes an order: once its saga is started, it ends. Taking it twice starts one saga.
async fn place(State(node): State<Arc<Node>>, Json(order): Json<Order>) -> (StatusCode, String) {
    match node.sagas.start(&node.saga, order.id.clone(), &order).await {
        Ok(started) => (StatusCode::CREATED, started.id.to_string()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}
