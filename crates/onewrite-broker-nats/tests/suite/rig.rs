//! What the tests share: the stream between a source and a receiver.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_nats::jetstream;
use onewrite_broker_nats::{NatsFeedOptions, NatsSink, NatsSinkOptions};
use onewrite_core::{retry::Backoff, store::Store};
pub(crate) use onewrite_testkit::rig::{
    Consumer, PATIENCE, Source, event, lanes_of, unique, until, within,
};

/// The URL of a stream of a server.
pub(crate) fn url(address: SocketAddr, stream: &str) -> String {
    format!("nats://{address}/{stream}?timeout=1")
}

/// A client for looking and for disturbing.
pub(crate) async fn client(address: SocketAddr) -> jetstream::Context {
    jetstream::new(async_nats::connect(address.to_string()).await.unwrap())
}

/// A sink for a stream.
pub(crate) async fn sink(url: &str) -> NatsSink {
    NatsSink::connect(NatsSinkOptions::from_url(url).unwrap()).await.unwrap()
}

/// How to read a stream without losing time.
pub(crate) fn reading(url: &str, store: Arc<dyn Store>, owner: &str) -> NatsFeedOptions {
    let options = NatsFeedOptions::from_url(url, "payments", store, owner.to_owned()).unwrap();
    NatsFeedOptions {
        lease_ttl: Duration::from_millis(600),
        ack_wait: Duration::from_millis(500),
        backoff: Backoff { initial: Duration::from_millis(2), cap: Duration::from_millis(100) },
        ..options
    }
}
