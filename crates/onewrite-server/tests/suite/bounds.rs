//! How much `onewrite serve` has on its way at once: who comes beside that is asked to come again, and nothing is
//! lost of what was taken.

use std::net::SocketAddr;

use onewrite::sqlite::rusqlite::TransactionBehavior;
use reqwest::{Client, Method, StatusCode};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::{JoinSet, block_in_place},
};

use crate::{
    serve::{Started, anywhere, ask, serve},
    support::{PATIENCE, Place, open},
};

const STARTS_MAX: usize = 1_024;
const REQUESTS_MAX: usize = 2_048;
/// Those who come beside.
const MORE: usize = 40;

/// Lets this process, and the server that it starts, have as many connections as these tests make.
fn allow_connections() {
    let mut limit = getrlimit(Resource::Nofile);
    let enough = 4 * REQUESTS_MAX as u64;
    limit.current = Some(limit.maximum.map_or(enough, |most| most.min(enough)));
    setrlimit(Resource::Nofile, limit).unwrap();
}

async fn status(client: &Client, server: &Started, path: &str) -> StatusCode {
    client.get(format!("{}{path}", server.url)).send().await.unwrap().status()
}

/// The next answer. None means that nothing more is answered in time.
async fn next<T: 'static>(asked: &mut JoinSet<T>) -> T {
    let answer = tokio::time::timeout(PATIENCE / 2, asked.join_next()).await;
    answer.expect("nobody is answered").unwrap().unwrap()
}

/// Asks for a start and never says which; the head of the answer, if one comes.
async fn half_a_request(server: SocketAddr) -> String {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let head = "POST /v1/sagas HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") && stream.read_buf(&mut answer).await.unwrap() > 0 {}
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_beside_so_many_requests_is_to_come_again() {
    allow_connections();
    let (place, client) = (Place::new(), Client::new());
    let server = block_in_place(|| serve(&place, anywhere(), &[]));
    let address: SocketAddr = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut asked = JoinSet::new();
    for _ in 0..REQUESTS_MAX - 1 {
        asked.spawn(half_a_request(address));
    }
    assert_eq!(status(&client, &server, "/v1/sagas").await, 200, "there is room for one");
    for _ in 0..=MORE {
        asked.spawn(half_a_request(address));
    }
    for _ in 0..MORE {
        let answer = next(&mut asked).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("retry-after") && answer.contains("OW0010"), "{answer}");
    }
    assert_eq!(status(&client, &server, "/v1/sagas").await, 503);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(status(&client, &server, path).await, 200, "{path} is answered in any case");
    }
    assert_eq!(asked.len(), REQUESTS_MAX, "the others wait");
    asked.shutdown().await;
    let until = std::time::Instant::now() + PATIENCE;
    while status(&client, &server, "/v1/sagas").await != 200 {
        assert!(std::time::Instant::now() < until, "there is no room again");
    }
    block_in_place(|| drop(server.process.terminate().ok()));
}

/// A start that takes as long as the store is held by somebody.
async fn start(client: Client, url: String, number: usize) -> (StatusCode, Value) {
    let rest = json!({"name": "rest", "steps": [{"name": "rest", "wait": {"for_ms": 3_600_000}, "compensation": {"none": "x"}}]});
    let body = json!({"definition": rest, "key": format!("k-{number}")});
    ask(&client, Method::POST, url, Some(&body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_starts_beside_so_many_starts_is_to_come_again() {
    allow_connections();
    let (place, client) = (Place::new(), Client::new());
    let server = block_in_place(|| serve(&place, anywhere(), &[]));
    let url = format!("{}/v1/sagas", server.url);
    let mut store = open(&place.path("sagas.db"));
    let held = store.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let mut asked = JoinSet::new();
    for number in 0..STARTS_MAX + MORE {
        asked.spawn(start(client.clone(), url.clone(), number));
    }
    for _ in 0..MORE {
        let (status, problem) = next(&mut asked).await;
        assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("OW0010")), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("being started"), "{problem}");
    }
    assert_eq!(asked.len(), STARTS_MAX, "the others wait");
    assert_eq!(status(&client, &server, "/v1/sagas").await, 200, "others are answered");
    drop(held);
    for _ in 0..STARTS_MAX {
        let (status, answer) = next(&mut asked).await;
        assert_eq!(status, 201, "{answer}");
    }
    let (status, answer) = start(client, url, STARTS_MAX + MORE).await;
    assert_eq!(status, 201, "{answer}");
    block_in_place(|| drop(server.process.terminate().ok()));
}
