//! What the tests share: the stream between a source and a receiver.

use std::net::SocketAddr;

use async_nats::jetstream;
use futures::StreamExt as _;
use onewrite_broker_nats::{
    Announcement, Closer, NatsFeed, NatsFeedOptions, NatsSink, NatsSinkOptions, Reading,
    gap_subject,
};
use onewrite_testkit::streams::{self, Crash};
pub(crate) use onewrite_testkit::{
    rig::{Consumer, event, unique, until},
    streams::{Stream, assert_clean, reading},
};
use tokio::sync::mpsc;

use crate::server::Nats;

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

/// A stream on a server of its own: these tests disturb it.
pub(crate) struct Orders {
    pub(crate) server: Nats,
    pub(crate) name: String,
}

pub(crate) type Shop = streams::Shop<Orders>;

impl Orders {
    /// Messages in the stream.
    pub(crate) async fn stored(&self) -> u64 {
        let context = client(self.address()).await;
        context.get_stream(&self.name).await.unwrap().cached_info().state.messages
    }
}

impl Stream for Orders {
    type Sink = NatsSink;
    type Feed = NatsFeed;

    async fn start() -> Self {
        Self { server: Nats::start().await, name: unique("orders") }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn url_at(&self, address: SocketAddr) -> String {
        format!("{}&ack_wait=500ms", url(address, &self.name))
    }

    fn patient_url(&self) -> String {
        format!("{}&ack_wait=60s", url(self.address(), &self.name))
    }

    /// The server knows no process, and gives to another what was not answered for in time.
    fn takeover_url(&self) -> String {
        self.url()
    }

    async fn sink(url: &str) -> NatsSink {
        sink(url).await
    }

    async fn feed(url: &str, reading: Reading) -> NatsFeed {
        let options = NatsFeedOptions::from_url(url, reading).unwrap();
        NatsFeed::open(options).await.unwrap()
    }

    fn closer(feed: &NatsFeed) -> Closer {
        feed.closer()
    }

    async fn lose_one(&self) {
        let stream = client(self.address()).await.get_stream(&self.name).await.unwrap();
        assert!(stream.delete_message(77).await.unwrap());
    }

    async fn announced(&self) -> mpsc::UnboundedReceiver<Announcement> {
        let client = client(self.address()).await.client();
        let mut announced = client.subscribe(gap_subject(&self.name)).await.unwrap();
        client.flush().await.unwrap();
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(message) = announced.next().await {
                let _ = sender.send(serde_json::from_slice(&message.payload).unwrap());
            }
        });
        receiver
    }

    async fn foreign(&self) {
        let client = client(self.address()).await.client();
        let subject = format!("{}.0.elsewhere", self.name);
        let json =
            r#"{"specversion":"1.0","id":"f1","type":"T","source":"elsewhere","subject":"f"}"#;
        for payload in ["no event", json, json] {
            client.publish(subject.clone(), payload.into()).await.unwrap();
        }
        client.flush().await.unwrap();
    }
}

impl Crash for Orders {
    fn kill(&self) {
        self.server.kill();
    }

    async fn restart(&self) {
        self.server.restart().await;
    }
}
