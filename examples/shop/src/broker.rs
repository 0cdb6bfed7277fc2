//! How events get from one service to another: each sink and feed by its URL.

use std::{sync::Arc, time::Duration};

use axum::Router;
use onewrite::{
    Code, Error, Result, Store,
    broker::{Feed, Sink},
    http,
    inbox::Inbox,
    stream,
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
        _ if stream::is_stream(first) => stream::sink(first).await,
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
pub(crate) struct Closing(Option<stream::Closer>);

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
    if options.receives == HTTP {
        let marks = inbox.map(marks_of);
        let (routes, feed) =
            http::receiver(http::HttpFeedOptions { marks, ..http::HttpFeedOptions::default() });
        return Ok(Incoming { feed: Box::new(feed), routes: Some(routes), closing: Closing(None) });
    }
    if !stream::is_stream(&options.receives) {
        return Err(unknown());
    }
    let reading = stream::Reading {
        lease_ttl: options.lease_ttl,
        ..stream::Reading::new(options.role.name(), store, options.owner())
    };
    let (feed, closer) = stream::feed(&options.receives, reading).await?;
    Ok(Incoming { feed, routes: None, closing: Closing(Some(closer)) })
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
    Error::new(Code::UnknownScheme, "the shop has no broker of this scheme")
}
