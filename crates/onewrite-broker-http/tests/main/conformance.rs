//! The broker's promises in both halves, over real sockets, in each format that carries batches.

use std::sync::Arc;

use onewrite_broker_http::{HttpFeedOptions, HttpSinkOptions, receiver};
use onewrite_core::{
    BoxFuture,
    broker::{Feed, Mark, Sink},
};
use onewrite_testkit::conformance::BrokerFixture;

use crate::{OLD, options, secrets, serve_feed};

onewrite_testkit::broker_suite!(Http);

/// Signed batches to a receiver on the loopback interface.
struct Http;

impl Http {
    async fn connect(feed: HttpFeedOptions) -> (Arc<dyn Sink>, Box<dyn Feed>) {
        let (url, feed) = serve_feed(HttpFeedOptions { secrets: secrets(&[OLD]), ..feed }).await;
        let sink = HttpSinkOptions { secrets: secrets(&[OLD]), ..options(&url) };
        (Arc::new(onewrite_broker_http::HttpSink::new(sink).unwrap()), Box::new(feed))
    }
}

impl BrokerFixture for Http {
    fn pair(&self) -> BoxFuture<'_, (Arc<dyn Sink>, Box<dyn Feed>)> {
        Box::pin(Self::connect(HttpFeedOptions::default()))
    }

    fn pair_with_marks(
        &self,
        marks: Vec<Mark>,
    ) -> BoxFuture<'_, Option<(Arc<dyn Sink>, Box<dyn Feed>)>> {
        let told: onewrite_broker_http::MarksOf = Arc::new(move |_, _| {
            let marks = marks.clone();
            Box::pin(async move { Ok(marks) })
        });
        let options = HttpFeedOptions { marks: Some(told), ..HttpFeedOptions::default() };
        Box::pin(async { Some(Self::connect(options).await) })
    }

    fn closed(&self) -> BoxFuture<'_, Option<Box<dyn Feed>>> {
        let (_router, mut feed) = receiver(HttpFeedOptions::default());
        feed.close();
        Box::pin(std::future::ready(Some(Box::new(feed) as Box<dyn Feed>)))
    }
}
