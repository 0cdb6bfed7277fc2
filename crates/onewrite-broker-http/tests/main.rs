//! Sender and receiver over real sockets: what the sender makes of the answers. What the receiver
//! makes of requests stands in `main/receiving.rs`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "main/conformance.rs"]
mod conformance;
#[path = "main/receiving.rs"]
mod receiving;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderMap, StatusCode},
    routing::{any, post},
};
use onewrite_broker_http::{
    Format, HttpFeed, HttpFeedOptions, HttpSink, HttpSinkOptions, Secret, receiver, signature,
};
use onewrite_core::{
    Bytes, Code, Delivery, Event, Incarnation, Record,
    broker::{Feed, Receipt, Sink},
    record::Order,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn delivery(partition: u16, sequence: u64) -> Delivery {
    let event = Event {
        id: Some(format!("e{partition}-{sequence}").into()),
        key: Some("order-1".into()),
        ..Event::new("OrderCreated", "Order", "order-1")
    };
    let (source, incarnation) = ("shop".into(), Incarnation(7));
    let record = Record { source, incarnation, partition, sequence, event };
    Delivery { record, order: Order::Chained { previous: sequence - 1 } }
}

fn secrets(texts: &[&str]) -> Vec<Secret> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

async fn serve_feed(options: HttpFeedOptions) -> (String, HttpFeed) {
    let (router, feed) = receiver(options);
    let address = serve(Router::new().nest("/events", router)).await;
    (format!("http://{address}/events"), feed)
}

/// A receiver that answers every request the same.
async fn serve_plain(status: StatusCode, body: &'static str) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let answer = move || {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::ready((status, body))
    };
    (format!("http://{}/hook", serve(Router::new().route("/hook", any(answer))).await), asked)
}

fn options(url: &str) -> HttpSinkOptions {
    HttpSinkOptions { allow_private: true, ..HttpSinkOptions::new(url) }
}

fn sink(url: &str) -> HttpSink {
    HttpSink::new(options(url)).unwrap()
}

async fn code(sink: &HttpSink, batch: &[Delivery]) -> Code {
    sink.publish(batch).await.unwrap_err().code()
}

/// Settles what arrives, as `judge` says, until the feed ends.
fn settle_all(
    mut feed: HttpFeed,
    judge: impl Fn(&[Delivery]) -> Vec<Receipt> + Send + 'static,
) -> Arc<Mutex<Vec<Delivery>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let taken = seen.clone();
    tokio::spawn(async move {
        while let Some(mut arrival) = feed.next().await {
            let deliveries = arrival.take();
            let receipts = judge(&deliveries);
            taken.lock().unwrap().extend(deliveries);
            arrival.settle(receipts).await.unwrap();
        }
    });
    seen
}

fn accept_all(deliveries: &[Delivery]) -> Vec<Receipt> {
    vec![Receipt::Accepted; deliveries.len()]
}

#[tokio::test]
async fn a_batch_and_every_kind_of_receipt_come_through() {
    let receipts = vec![
        Receipt::Accepted,
        Receipt::Duplicate,
        Receipt::Retry("busy".into()),
        Receipt::Blocked,
        Receipt::Refused("never".into()),
        Receipt::Gap { have: 41 },
        Receipt::Diverged,
    ];
    let batch: Vec<_> = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (2, 43), (3, 1)]
        .map(|(partition, sequence)| delivery(partition, sequence))
        .into();
    let (url, feed) = serve_feed(HttpFeedOptions::default()).await;
    let answer = receipts.clone();
    let seen = settle_all(feed, move |_| answer.clone());
    assert_eq!(sink(&url).publish(&batch).await.unwrap(), receipts);
    assert_eq!(*seen.lock().unwrap(), batch);
    assert_eq!(sink(&url).publish(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn each_format_carries_the_same_delivery() {
    for format in [Format::Batch, Format::Structured, Format::Binary] {
        let (url, feed) = serve_feed(HttpFeedOptions::default()).await;
        let seen = settle_all(feed, accept_all);
        let sink = HttpSink::new(HttpSinkOptions { format, ..options(&url) }).unwrap();
        let mut one = delivery(0, 1);
        one.record.event = one.record.event.header("näme", "a \"b\" 100%\u{1f9c0}");
        one.record.event.headers[0].0 = "name".into();
        one.record.event.data = Bytes::from_static(b"{\"n\": 1.0}");
        let batch = vec![one, delivery(0, 2)];
        assert_eq!(sink.publish(&batch).await.unwrap(), accept_all(&batch), "{format:?}");
        assert_eq!(*seen.lock().unwrap(), batch, "{format:?}");
    }
}

#[tokio::test]
async fn singly_sent_events_stop_at_the_first_unsettled_of_a_partition() {
    let (url, feed) = serve_feed(HttpFeedOptions::default()).await;
    let seen = settle_all(feed, |deliveries| match deliveries[0].record.id() {
        "e0-2" => vec![Receipt::Refused("no".into())],
        _ => accept_all(deliveries),
    });
    let format = Format::Structured;
    let sink = HttpSink::new(HttpSinkOptions { format, ..options(&url) }).unwrap();
    let batch = [delivery(0, 1), delivery(0, 2), delivery(1, 1), delivery(0, 3), delivery(1, 2)];
    let refused = Receipt::Refused("no".into());
    let expected =
        [Receipt::Accepted, refused, Receipt::Accepted, Receipt::Blocked, Receipt::Accepted];
    assert_eq!(sink.publish(&batch).await.unwrap(), expected);
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn nothing_counts_as_taken_behind_what_was_not() {
    let reply = r#"{"results":["accepted",{"retry":"busy"},"accepted","accepted"]}"#;
    let (url, _) = serve_plain(StatusCode::OK, reply).await;
    let batch = [delivery(0, 1), delivery(0, 2), delivery(0, 3), delivery(1, 1)];
    let receipts = sink(&url).publish(&batch).await.unwrap();
    assert_eq!(receipts[2..], [Receipt::Blocked, Receipt::Accepted]);
}

#[tokio::test]
async fn the_id_of_a_request_repeats_with_its_batch() {
    let ids = Arc::new(Mutex::new(Vec::new()));
    let seen = ids.clone();
    let note = move |headers: HeaderMap| {
        seen.lock().unwrap().push(headers[signature::ID].clone());
        std::future::ready(StatusCode::NO_CONTENT)
    };
    let url = format!("http://{}/", serve(Router::new().route("/", post(note))).await);
    let sink =
        HttpSink::new(HttpSinkOptions { secrets: secrets(&[OLD]), ..options(&url) }).unwrap();
    for batch in [[delivery(0, 1)], [delivery(0, 1)], [delivery(0, 2)]] {
        sink.publish(&batch).await.unwrap();
    }
    let ids = ids.lock().unwrap();
    assert!(ids[0] == ids[1] && ids[1] != ids[2]);
}

/// A receiver that reads a request and dies before it answers.
async fn serve_dying() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 65536]).await;
            drop::<TcpStream>(stream);
        }
    });
    format!("http://{address}/")
}

#[tokio::test]
async fn a_lost_reply_is_unknown() {
    let dying = serve_dying().await;
    assert_eq!(code(&sink(&dying), &[delivery(0, 1)]).await, Code::SinkUnreachable);
    let (url, feed) = serve_feed(HttpFeedOptions::default()).await;
    let timeout = Duration::from_millis(100);
    let hasty = HttpSink::new(HttpSinkOptions { timeout, ..options(&url) }).unwrap();
    assert_eq!(code(&hasty, &[delivery(0, 1)]).await, Code::SinkUnreachable, "no answer in time");
    // Whether the receiver still gets the first one or not, it can be settled and does no harm.
    let seen = settle_all(feed, accept_all);
    assert_eq!(sink(&url).publish(&[delivery(0, 2)]).await.unwrap(), [Receipt::Accepted]);
    assert_eq!(seen.lock().unwrap().last(), Some(&delivery(0, 2)));
}

#[tokio::test]
async fn a_plain_webhook_accepts_everything() {
    let (url, asked) = serve_plain(StatusCode::NO_CONTENT, "").await;
    let batch = [delivery(0, 1), delivery(0, 2)];
    assert_eq!(sink(&url).publish(&batch).await.unwrap(), accept_all(&batch));
    assert_eq!(sink(&url).marks("shop", Incarnation(7)).await.unwrap(), None);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_status_is_about_one_event_or_about_the_target() {
    let (one, two) = ([delivery(0, 1)], [delivery(0, 1), delivery(0, 2)]);
    let (url, _) = serve_plain(StatusCode::UNPROCESSABLE_ENTITY, "secret").await;
    let refused = sink(&url).publish(&one).await.unwrap();
    assert_eq!(refused, [Receipt::Refused("HTTP 422".into())]);
    assert_eq!(code(&sink(&url), &two).await, Code::SinkRefused);
    let (url, _) = serve_plain(StatusCode::INTERNAL_SERVER_ERROR, "").await;
    assert_eq!(sink(&url).publish(&one).await.unwrap(), [Receipt::Retry("HTTP 500".into())]);
    let (url, _) = serve_plain(StatusCode::NOT_FOUND, "").await;
    assert_eq!(code(&sink(&url), &one).await, Code::SinkRefused);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (target, asked) = serve_plain(StatusCode::OK, "").await;
    let reply = (StatusCode::TEMPORARY_REDIRECT, [("location", target)]);
    let redirect = Router::new().route("/", post(move || std::future::ready(reply.clone())));
    let url = format!("http://user:secret@{}/?token=secret", serve(redirect).await);
    let error = sink(&url).publish(&[delivery(0, 1)]).await.unwrap_err();
    assert_eq!(error.code(), Code::SinkRefused);
    let text = error.to_string();
    assert!(text.contains("a redirect") && !text.contains("secret"), "{text}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn private_addresses_are_refused_as_numbers_and_as_names() {
    for url in ["http://127.0.0.1:1/", "http://2130706433/", "http://[::ffff:10.0.0.1]/"] {
        let refused = HttpSink::new(HttpSinkOptions::new(url)).map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::PrivateAddress, "{url}");
    }
    let (url, asked) = serve_plain(StatusCode::OK, "").await;
    let url = url.replace("127.0.0.1", "localhost");
    let sink = HttpSink::new(HttpSinkOptions::new(url)).unwrap();
    assert_eq!(code(&sink, &[delivery(0, 1)]).await, Code::PrivateAddress);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_without_quoting_them() {
    let header = |name: &str| HttpSinkOptions {
        headers: vec![(name.to_owned(), "secret\n".to_owned())],
        ..options("http://example.com/")
    };
    let cases = [
        options("ftp://secret@example.com/"),
        options("secret"),
        HttpSinkOptions { urls: Vec::new(), ..options("") },
        header("webhook-id"),
        header("a b"),
        header("authorization"),
    ];
    for case in cases {
        let error = HttpSink::new(case).map(drop).unwrap_err();
        assert_eq!(error.code(), Code::InvalidConfig);
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    assert!(HttpSink::new(HttpSinkOptions::new("https://example.com/hook")).is_ok());
}

#[tokio::test]
async fn a_batch_that_is_too_large_is_refused_as_a_whole() {
    let (url, feed) =
        serve_feed(HttpFeedOptions { body_bytes_max: 2000, ..HttpFeedOptions::default() }).await;
    let _seen = settle_all(feed, accept_all);
    let batch: Vec<_> = (1..8).map(|sequence| delivery(0, sequence)).collect();
    let error = sink(&url).publish(&batch).await.unwrap_err();
    assert_eq!(error.code(), Code::SinkRefused);
    assert!(error.to_string().contains("HTTP 413"), "{error}");
    let mut large = delivery(0, 1);
    large.record.event.data = Bytes::from(vec![b'1'; 3000]);
    let refused = sink(&url).publish(&[large]).await.unwrap();
    assert_eq!(refused, [Receipt::Refused("HTTP 413".into())]);
}

#[tokio::test]
async fn the_next_receiver_takes_over() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (url, asked) = serve_plain(StatusCode::OK, "").await;
    let urls = vec![format!("http://{closed}/"), serve_dying().await, url];
    let sink = HttpSink::new(HttpSinkOptions { urls, ..options("") }).unwrap();
    let batch = [delivery(0, 1)];
    // The first cannot be connected to, so the second is asked at once; it leaves the outcome
    // unknown, which the sender must hear.
    assert_eq!(code(&sink, &batch).await, Code::SinkUnreachable);
    assert_eq!(sink.publish(&batch).await.unwrap(), [Receipt::Accepted]);
    assert_eq!(sink.publish(&batch).await.unwrap(), [Receipt::Accepted], "it stays with it");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}
