//! How events get from one service to another: each sink and feed by its URL.

use std::{sync::Arc, time::Duration};

use axum::Router;
use onewrite::{
    Code, Error, Result, Store,
    broker::{Feed, Sink},
    http,
    inbox::Inbox,
    nats, redis,
};

use crate::service::ServiceOptions;

/// The word for events that go from process to process over HTTP.
pub const HTTP: &str = "http";

/// How long a feed that was closed may take to give back what it holds.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The sink that delivers to `urls`, all of one consumer, whose answer may take as long as `timeout`.
///
/// # Errors
/// When a URL is not valid, or the broker cannot be reached.
pub async fn sink(urls: Vec<String>, timeout: Duration) -> Result<Arc<dyn Sink>> {
    let first = urls.first().map_or("", String::as_str);
    match scheme(first) {
        "http" => Ok(Arc::new(http::HttpSink::new(http::HttpSinkOptions {
            urls,
            // The shop's services are this machine's own processes.
            allow_private: true,
            timeout,
            ..http::HttpSinkOptions::new(String::new())
        })?)),
        "nats" | "tls" => {
            let options = nats::NatsSinkOptions::from_url(first)?;
            Ok(Arc::new(nats::NatsSink::connect(options).await?))
        }
        "redis" | "rediss" => {
            let options = redis::RedisSinkOptions::from_url(first)?;
            Ok(Arc::new(redis::RedisSink::connect(options).await?))
        }
        #[cfg(feature = "kafka")]
        "kafka" | "kafka+ssl" => {
            let options = onewrite::kafka::KafkaSinkOptions::from_url(first)?;
            Ok(Arc::new(onewrite::kafka::KafkaSink::connect(options).await?))
        }
        _ => Err(unknown()),
    }
}

/// What comes in.
pub(crate) struct Incoming {
    /// Where it arrives.
    pub(crate) feed: Box<dyn Feed>,
    /// What has to be served for it, if anything.
    pub(crate) routes: Option<Router>,
    /// Waits until the feed, once dropped, has given back what it held.
    pub(crate) closing: Closing,
}

/// What is left to do after the end of a feed.
pub(crate) struct Closing(Option<nats::Closer>);

impl Closing {
    pub(crate) async fn close(self) {
        if let Some(closer) = self.0
            && tokio::time::timeout(CLOSE_WITHIN, closer.close()).await.is_err()
        {
            tracing::warn!("the feed's leases are not given back; they run out by themselves");
        }
    }
}

/// Opens what a service receives from. `store` is where processes that share a broker's work agree who
/// does what; `inbox` tells senders over HTTP what was received.
///
/// # Errors
/// When the URL is not valid, or the broker cannot be reached.
pub(crate) async fn incoming(
    options: &ServiceOptions,
    store: Arc<dyn Store>,
    inbox: Option<Arc<dyn Inbox>>,
) -> Result<Incoming> {
    match scheme(&options.receives) {
        "nats" | "tls" => {
            let (consumer, owner) = (options.role.name(), options.owner());
            let url = &options.receives;
            let mut feed = nats::NatsFeedOptions::from_url(url, consumer, store, owner)?;
            feed.lease_ttl = options.lease_ttl;
            let feed = nats::NatsFeed::open(feed).await?;
            let closing = Closing(Some(feed.closer()));
            Ok(Incoming { feed: Box::new(feed), routes: None, closing })
        }
        "redis" | "rediss" => {
            let (consumer, owner) = (options.role.name(), options.owner());
            let url = &options.receives;
            let mut feed = redis::RedisFeedOptions::from_url(url, consumer, store, owner)?;
            feed.lease_ttl = options.lease_ttl;
            let feed = redis::RedisFeed::open(feed).await?;
            let closing = Closing(Some(feed.closer()));
            Ok(Incoming { feed: Box::new(feed), routes: None, closing })
        }
        #[cfg(feature = "kafka")]
        "kafka" | "kafka+ssl" => {
            use onewrite::kafka::{KafkaFeed, KafkaFeedOptions};
            let (consumer, owner) = (options.role.name(), options.owner());
            let url = &options.receives;
            let mut feed = KafkaFeedOptions::from_url(url, consumer, store, owner)?;
            feed.lease_ttl = options.lease_ttl;
            let feed = KafkaFeed::open(feed).await?;
            let closing = Closing(Some(feed.closer()));
            Ok(Incoming { feed: Box::new(feed), routes: None, closing })
        }
        _ if options.receives == HTTP => {
            let marks = inbox.map(marks_of);
            let (routes, feed) =
                http::receiver(http::HttpFeedOptions { marks, ..http::HttpFeedOptions::default() });
            Ok(Incoming { feed: Box::new(feed), routes: Some(routes), closing: Closing(None) })
        }
        _ => Err(unknown()),
    }
}

fn marks_of(inbox: Arc<dyn Inbox>) -> http::MarksOf {
    Arc::new(move |source, life| {
        let inbox = Arc::clone(&inbox);
        Box::pin(async move { inbox.marks(&source, life).await })
    })
}

/// What stands before the first colon.
pub(crate) fn scheme(url: &str) -> &str {
    url.split_once(':').map_or("", |(scheme, _)| scheme)
}

fn unknown() -> Error {
    Error::new(Code::UnknownScheme, "the shop has no broker of this scheme; it has that of `kafka:` when it is built with the feature `kafka`")
}
