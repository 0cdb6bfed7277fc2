//! The same shop with dual writes: commit, then publish, as many services do it. For comparison only.
//!
//! The business code is the same; what differs is that an event is sent right after the commit, once,
//! and that a receiver has no memory of what it handled.

use std::sync::Arc;

use axum::{Json, Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use onewrite::{
    Delivery, Event, Result, Shutdown, Timestamp, broker::Sink, cloudevents, failpoint, http,
    other, record::Order as Sequence, sqlite::SqliteStore,
};

use crate::{
    Order, Role, order,
    reaction::note_effect,
    service::{ServiceOptions, listen, open},
};

struct Naive {
    role: Role,
    store: SqliteStore,
    sinks: Vec<(Vec<onewrite::Text>, http::HttpSink)>,
}

/// Runs a naive service until the shutdown begins; calls `ready` once it listens.
///
/// # Errors
/// When its database cannot be opened or its address cannot be listened on.
pub async fn run(options: ServiceOptions, ready: impl FnOnce(), shutdown: Shutdown) -> Result<()> {
    let role = options.role;
    let store = open(role, options.database.clone(), false).await?;
    let mut sinks = Vec::new();
    for (subscriber, _) in role.subscribers() {
        let urls =
            options.peers.iter().find(|(peer, _)| peer == subscriber).map(|(_, urls)| urls.clone());
        let sink = http::HttpSink::new(http::HttpSinkOptions {
            urls: urls.unwrap_or_default(),
            allow_private: true,
            ..http::HttpSinkOptions::new(String::new())
        })?;
        sinks.push((role.kinds_for(*subscriber), sink));
    }
    let naive = Arc::new(Naive { role, store, sinks });
    let api = Router::new()
        .route("/orders", post(place))
        .route("/events", post(receive))
        .with_state(naive);
    let listener = listen(options.listen).await?;
    ready();
    let end = shutdown.clone();
    axum::serve(listener, api)
        .with_graceful_shutdown(async move { end.begun().await })
        .await
        .map_err(|error| {
            onewrite::Error::new(onewrite::Code::Stopped, "serve the shop's API").with_source(error)
        })
}

async fn place(State(naive): State<Arc<Naive>>, Json(placed): Json<Order>) -> StatusCode {
    let written = naive.store.write(move |tx| order::place(tx, &placed)).await;
    match written {
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

async fn receive(State(naive): State<Arc<Naive>>, body: Bytes) -> StatusCode {
    let Ok(deliveries) = cloudevents::decode_batch(&body) else { return StatusCode::BAD_REQUEST };
    failpoint::hit("receiver.after_attempt_before_handler");
    for delivery in deliveries {
        let role = naive.role;
        let reacted = naive
            .store
            .write(move |tx| {
                let events = role.reaction()(tx, &delivery.record.event).map_err(|error| {
                    onewrite::Error::new(onewrite::Code::HandlerFailed, error.to_string())
                })?;
                note_effect(tx, &delivery.record)?;
                failpoint::hit("receiver.after_handler_before_commit");
                let caused = |event: Event| event.caused_by(&delivery.record.event);
                Ok(events.into_iter().map(caused).collect::<Vec<_>>())
            })
            .await;
        let Ok(events) = reacted else { return StatusCode::SERVICE_UNAVAILABLE };
        for event in events {
            naive.publish(event).await;
        }
    }
    failpoint::hit("receiver.after_commit_before_reply");
    StatusCode::NO_CONTENT
}

impl Naive {
    /// Sends an event once; what fails is logged, as such code does.
    async fn publish(&self, event: Event) {
        let Some((_, sink)) = self.sinks.iter().find(|(kinds, _)| kinds.contains(&event.kind))
        else {
            return;
        };
        let Ok(id) = self
            .store
            .read_with(|db| {
                db.query_row("SELECT lower(hex(randomblob(16)))", [], |row| row.get::<_, String>(0))
                    .map_err(other)
            })
            .await
        else {
            return;
        };
        let event = Event { id: Some(id.into()), time: Some(Timestamp::default()), ..event };
        let record = onewrite::Record {
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
