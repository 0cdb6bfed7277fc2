//! I8: the same event comes back under a new transport id, from a dead-letter queue or a mirror, and
//! is handled twice.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::HeaderMap,
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::post,
};
use onewrite::{
    Delivery, Record,
    broker::Sink as _,
    cloudevents,
    http::{HttpSink, HttpSinkOptions, receiver, signature},
    position::Incarnation,
    record::Order,
};

use crate::rig::{Consumer, Running, effect, event, http_options, serve, sound};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

type Effects = Arc<Mutex<Vec<(String, String)>>>;
type Ids = Arc<Mutex<Vec<String>>>;

/// The first events of a source elsewhere, as `mirror` numbers them.
fn foreign(mirror: u64, ids: &[&str]) -> Vec<Delivery> {
    let number = |(n, id): (usize, &&str)| Delivery {
        record: Record {
            source: "elsewhere".into(),
            incarnation: Incarnation(0),
            partition: 0,
            sequence: mirror + n as u64,
            event: event("k", *id),
        },
        order: Order::ById,
    };
    ids.iter().enumerate().map(number).collect()
}

fn webhook_id(headers: &HeaderMap) -> String {
    headers.get(signature::ID).unwrap().to_str().unwrap().to_owned()
}

async fn note_id(State(ids): State<Ids>, request: Request, next: Next) -> Response {
    ids.lock().unwrap().push(webhook_id(request.headers()));
    next.run(request).await
}

/// A receiver that knows a message by the id that its transport gave it.
fn by_transport(effects: Effects) -> Router {
    let seen: Arc<Mutex<HashSet<String>>> = Arc::default();
    let take = move |headers: HeaderMap, body: Bytes| async move {
        if seen.lock().unwrap().insert(webhook_id(&headers)) {
            let deliveries = cloudevents::decode_batch(&body).unwrap();
            effects.lock().unwrap().extend(deliveries.iter().map(|it| effect(&it.record)));
        }
    };
    Router::new().route("/", post(take))
}

/// Four messages with five events in all; two events come again in another batch, and all of them
/// once more through a mirror.
async fn send_again(address: SocketAddr) {
    let secrets = vec![SECRET.parse().unwrap()];
    let sink = HttpSink::new(HttpSinkOptions { secrets, ..http_options(address) }).unwrap();
    for batch in [
        foreign(1, &["a", "b", "c"]),
        foreign(1, &["a", "b", "c"]),
        foreign(2, &["b", "c", "d", "e"]),
        foreign(901, &["a", "b", "c", "d", "e"]),
    ] {
        let receipts = sink.publish(&batch).await.unwrap();
        assert!(receipts.iter().all(onewrite::broker::Receipt::is_settled), "{receipts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_under_another_transport_id_is_a_duplicate() {
    let folder = tempfile::tempdir().unwrap();
    let consumer = Consumer::open(folder.path()).await;
    let (router, feed) = receiver(onewrite::http::HttpFeedOptions {
        secrets: vec![SECRET.parse().unwrap()],
        ..Default::default()
    });
    let ids = Ids::default();
    let address = serve(router.layer(from_fn_with_state(ids.clone(), note_id))).await;
    let receiver = Running::receiver(consumer.inbox(sound()), feed);
    send_again(address).await;
    receiver.stop().await;
    let found: Vec<_> = consumer.effects().await.into_iter().map(|(_, id)| id).collect();
    assert_eq!(found, ["a", "b", "c", "d", "e"]);
    let ids: HashSet<_> = ids.lock().unwrap().drain(..).collect();
    assert_eq!(ids.len(), 3, "four messages, the second a plain repetition of the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn deduplication_by_transport_id_handles_it_again() {
    let effects = Effects::default();
    send_again(serve(by_transport(effects.clone())).await).await;
    let found = effects.lock().unwrap().len();
    assert!(found > 5, "nothing noticed: {found}");
}
