//! What a receiver makes of requests: signatures, modes, problems, its queue and its marks.

use std::sync::Arc;

use onewrite_broker_http::{HttpFeedOptions, HttpSink, HttpSinkOptions, signature};
use onewrite_core::{
    BoxFuture, Code, Incarnation, Result, Text,
    broker::{Arrival, Feed, Mark, Receipt, Sink},
    cloudevents,
    record::Order,
};

use crate::{
    NEW, OLD, accept_all, code, delivery, options, secrets, serve_dying, serve_feed, settle_all,
    sink,
};

#[tokio::test]
async fn only_a_common_secret_opens_and_two_can_overlap() {
    let receives = HttpFeedOptions { secrets: secrets(&[OLD]), ..HttpFeedOptions::default() };
    let (url, feed) = serve_feed(receives).await;
    let _seen = settle_all(feed, accept_all);
    let signed = |texts: &[&str]| {
        HttpSink::new(HttpSinkOptions { secrets: secrets(texts), ..options(&url) }).unwrap()
    };
    let batch = [delivery(0, 1)];
    assert_eq!(code(&signed(&[NEW]), &batch).await, Code::SinkRefused);
    assert_eq!(code(&sink(&url), &batch).await, Code::SinkRefused);
    assert!(signed(&[OLD]).publish(&batch).await.is_ok());
    assert!(signed(&[NEW, OLD]).publish(&batch).await.is_ok(), "the sender rotates first");
    let receives = HttpFeedOptions { secrets: secrets(&[NEW, OLD]), ..HttpFeedOptions::default() };
    let (url, feed) = serve_feed(receives).await;
    let _seen = settle_all(feed, accept_all);
    let old = HttpSinkOptions { secrets: secrets(&[OLD]), ..options(&url) };
    assert!(HttpSink::new(old).unwrap().publish(&batch).await.is_ok(), "the receiver does");
}

#[tokio::test]
async fn an_old_request_cannot_be_played_again() {
    let receives = HttpFeedOptions { secrets: secrets(&[OLD]), ..HttpFeedOptions::default() };
    let (url, feed) = serve_feed(receives).await;
    let _seen = settle_all(feed, accept_all);
    let body = cloudevents::encode_batch(&[delivery(0, 1)]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    for (at, expected) in [(now, 200), (now - 3600, 401)] {
        let reply = reqwest::Client::new()
            .post(&url)
            .header("content-type", cloudevents::BATCH_TYPE)
            .header(signature::ID, "msg_1")
            .header(signature::TIMESTAMP, at)
            .header(signature::SIGNATURE, signature::sign(&secrets(&[OLD]), "msg_1", at, &body))
            .body(body.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(reply.status(), expected);
    }
}

#[tokio::test]
async fn foreign_events_are_taken_in_any_mode() {
    let (url, feed) = serve_feed(HttpFeedOptions::default()).await;
    let seen = settle_all(feed, accept_all);
    let event = r#"{"specversion":"1.0","id":"7","type":"paid","source":"/pay","subject":"i-1"}"#;
    let client = reqwest::Client::new();
    let structured = client.post(&url).header("content-type", cloudevents::EVENT_TYPE).body(event);
    let binary = client
        .post(&url)
        .header("content-type", "text/plain")
        .header("ce-specversion", "1.0")
        .header("ce-id", "8")
        .header("ce-type", "paid")
        .header("ce-source", "/pay")
        .body("thanks");
    for request in [structured, binary] {
        assert_eq!(request.send().await.unwrap().text().await.unwrap(), r#"{"accepted":1}"#);
    }
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|one| one.order == Order::ById && one.record.source == "/pay"));
    assert_eq!(seen[0].record.event.aggregate_id, "i-1");
    assert_eq!(seen[1].record.event.data, "thanks");
}

#[tokio::test]
async fn what_is_not_an_event_is_a_problem_with_its_place() {
    let (url, _feed) = serve_feed(HttpFeedOptions::default()).await;
    let request = reqwest::Client::new().post(&url);
    let request = request.header("content-type", cloudevents::BATCH_TYPE).body(r#"[{"id":"x"}]"#);
    let reply = request.send().await.unwrap();
    assert_eq!(reply.status(), 400);
    assert_eq!(reply.headers()["content-type"], "application/problem+json");
    let text = reply.text().await.unwrap();
    assert!(text.contains("element 0 of the batch") && text.contains("OW0006"), "{text}");
}

#[tokio::test]
async fn a_receiver_that_is_busy_or_gone_says_so() {
    let (url, mut feed) =
        serve_feed(HttpFeedOptions { queue_max: 1, ..HttpFeedOptions::default() }).await;
    let send = |sequence| {
        let sink = sink(&url);
        tokio::spawn(async move { sink.publish(&[delivery(0, sequence)]).await })
    };
    // Two at once, room for one: whichever comes second is told to come again.
    let (one, two) = (send(1), send(2));
    let (busy, waiting) = match futures::future::select(one, two).await {
        futures::future::Either::Left((busy, waiting)) => (busy, waiting),
        futures::future::Either::Right((busy, waiting)) => (busy, waiting),
    };
    let error = busy.unwrap().unwrap_err();
    assert!(error.to_string().contains("HTTP 503"), "{error}");
    drop::<Box<dyn Arrival>>(feed.next().await.unwrap());
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::SinkRefused, "an arrival dropped is an arrival not taken");
    drop(feed);
    assert_eq!(send(3).await.unwrap().unwrap_err().code(), Code::SinkRefused);
}

#[tokio::test]
async fn a_closed_feed_ends_after_what_waits() {
    let (url, mut feed) = serve_feed(HttpFeedOptions::default()).await;
    let publishing = sink(&url);
    let publish = tokio::spawn(async move { publishing.publish(&[delivery(0, 1)]).await });
    let arrival = feed.next().await.unwrap();
    feed.close();
    assert!(feed.next().await.is_none());
    arrival.settle(vec![Receipt::Accepted]).await.unwrap();
    assert!(publish.await.unwrap().is_ok());
    assert_eq!(code(&sink(&url), &[delivery(0, 2)]).await, Code::SinkRefused);
}

#[tokio::test]
async fn marks_are_told_to_a_sender_that_may_ask() {
    let marks = vec![Mark { partition: 3, sequence: 41, last_id: "e3-41".into() }];
    let known = marks.clone();
    let look_up = move |source: Text, life| {
        let found =
            if source == "shop & co" && life == Incarnation(7) { known.clone() } else { vec![] };
        let future: BoxFuture<'static, Result<Vec<Mark>>> = Box::pin(std::future::ready(Ok(found)));
        future
    };
    let receives = HttpFeedOptions {
        secrets: secrets(&[OLD]),
        marks: Some(Arc::new(look_up)),
        ..HttpFeedOptions::default()
    };
    let (url, _feed) = serve_feed(receives).await;
    let signed =
        HttpSink::new(HttpSinkOptions { secrets: secrets(&[OLD]), ..options(&url) }).unwrap();
    assert_eq!(signed.marks("shop & co", Incarnation(7)).await.unwrap(), Some(marks));
    assert_eq!(signed.marks("shop & co", Incarnation(8)).await.unwrap(), Some(vec![]));
    let unsigned = sink(&url).marks("shop & co", Incarnation(7)).await.unwrap_err();
    assert_eq!(unsigned.code(), Code::SinkUnreachable, "not to be told is not to keep none");
    let (url, _feed) = serve_feed(HttpFeedOptions::default()).await;
    assert_eq!(sink(&url).marks("shop", Incarnation(7)).await.unwrap(), None, "none are kept");
    let gone = sink(&serve_dying().await).marks("shop", Incarnation(7)).await.unwrap_err();
    assert_eq!(gone.code(), Code::SinkUnreachable);
}
