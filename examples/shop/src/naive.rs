//! The same shop with dual writes: commit, then publish, as many services do it. For comparison only.
//!
//! The business code is the same; what differs is that an event is sent right after the commit, once,
//! and that a receiver has no memory of what it handled.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use onewrite::{
    Code, Delivery, Error, Event, Record, Result, Shutdown, Text, Timestamp,
    broker::{Arrival, Feed, Receipt, Sink},
    failpoint,
    record::Order as Sequence,
};

use crate::{
    Order, Role, broker,
    database::Database,
    rows::now,
    service::{ServiceOptions, listen, open},
};

/// A publish waits for all that follows from it, from service to service.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

struct Naive {
    role: Role,
    database: Arc<dyn Database>,
    sinks: Vec<(Vec<Text>, Arc<dyn Sink>)>,
    /// Makes the ids of events unique in this process.
    published: AtomicU64,
}

/// Runs a naive service until the shutdown begins; calls `ready` once it listens.
///
/// # Errors
/// When its database cannot be opened, its address cannot be listened on, or the broker cannot be
/// reached.
pub async fn run(options: ServiceOptions, ready: impl FnOnce(), shutdown: Shutdown) -> Result<()> {
    let role = options.role;
    let database = open(role, &options.store, false).await?;
    let mut sinks = Vec::new();
    for (subscriber, _) in role.subscribers() {
        let sink = broker::sink(options.urls_of(*subscriber), ANSWER_WITHIN).await?;
        sinks.push((role.kinds_for(*subscriber), sink));
    }
    let naive = Arc::new(Naive { role, database, sinks, published: AtomicU64::new(0) });
    let incoming = broker::incoming(&options, naive.database.store(), None).await?;
    let mut api = Router::new().route("/orders", post(place)).with_state(Arc::clone(&naive));
    if let Some(routes) = incoming.routes {
        api = api.nest("/events", routes);
    }
    let listener = listen(options.listen).await?;
    let receiver = tokio::spawn(naive.receive(incoming.feed));
    ready();
    let served = axum::serve(listener, api)
        .with_graceful_shutdown(async move { shutdown.begun().await })
        .await;
    receiver.abort();
    served.map_err(|error| Error::new(Code::Stopped, "serve the shop's API").with_source(error))
}

async fn place(State(naive): State<Arc<Naive>>, Json(placed): Json<Order>) -> StatusCode {
    match naive.database.place(placed, false).await {
        Ok(event) => {
            // The first write is done. From here on nothing remembers that a second one is due.
            if let Some(event) = event {
                naive.publish(event).await;
            }
            StatusCode::CREATED
        }
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl Naive {
    async fn receive(self: Arc<Self>, mut feed: Box<dyn Feed>) {
        while let Some(arrival) = feed.next().await {
            tokio::spawn(Arc::clone(&self).handle(arrival));
        }
    }

    async fn handle(self: Arc<Self>, mut arrival: Box<dyn Arrival>) {
        failpoint::hit("receiver.after_attempt_before_handler");
        let deliveries = arrival.take();
        let receipts = vec![Receipt::Accepted; deliveries.len()];
        for Delivery { record, .. } in deliveries {
            let cause = record.event.clone();
            let Ok(events) = self.database.react(self.role, record).await else { return };
            for event in events {
                self.publish(event.caused_by(&cause)).await;
            }
        }
        failpoint::hit("receiver.after_commit_before_reply");
        if let Err(error) = arrival.settle(receipts).await {
            tracing::debug!(%error, "a sender did not wait for its receipts");
        }
    }

    /// Sends an event once; what fails is logged, as such code does.
    async fn publish(&self, event: Event) {
        let Some((_, sink)) = self.sinks.iter().find(|(kinds, _)| kinds.contains(&event.kind))
        else {
            return;
        };
        let number = self.published.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{}-{}-{number}", self.role.name(), std::process::id(), now());
        let event = Event { id: Some(id.into()), time: Some(Timestamp(now())), ..event };
        let record = Record {
            source: self.role.name().into(),
            incarnation: onewrite::position::Incarnation::default(),
            partition: 0,
            sequence: 0,
            event,
        };
        failpoint::hit("relay.after_read_before_publish");
        let sent = sink.publish(&[Delivery { record, order: Sequence::ById }]).await;
        failpoint::hit("relay.after_publish_before_cursor");
        if let Err(error) = sent {
            tracing::warn!(%error, "an event was not published");
        }
        failpoint::hit("relay.after_cursor");
    }
}
