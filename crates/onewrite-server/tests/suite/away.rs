//! A store that goes away while an answer is on its way: what was asked for stands, and nobody calls it refused.

use std::{net::SocketAddr, time::Duration};

use onewrite_testkit::{
    proxy::{Fault, Proxy},
    server::{PostgresAddress, shared_postgres, unique},
};
use reqwest::{Client, Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{task::block_in_place, time::sleep};

use crate::{
    serve::{Started, anywhere, ask, serve_on},
    support::{PATIENCE, Place},
};

/// Two servers on one PostgreSQL: the first runs all sagas, and the second reaches the store by a proxy.
struct Pair {
    place: Place,
    server: &'static PostgresAddress,
    database: String,
    proxy: Proxy,
    client: Client,
    owner: Started,
}

impl Pair {
    async fn start(place: Place) -> Self {
        let (server, database) = (shared_postgres().await.unwrap(), unique("away"));
        server.create_database(&database).await.unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], server.port()));
        let proxy = Proxy::start(address).await.unwrap();
        let owner = block_in_place(|| {
            serve_on(&place, &server.url(&database), anywhere(), &["--lease", "60s"])
        });
        Self { place, server, database, proxy, client: Client::new(), owner }
    }

    /// The second, while the first does nothing, and keeps what it has: its leases last.
    fn beside(&self) -> Started {
        self.owner.process.signal(Signal::STOP);
        let port = self.proxy.addr().port();
        let url = self.server.url(&self.database);
        let url = url.replace(&format!(":{}", self.server.port()), &format!(":{port}"));
        serve_on(&self.place, &url, anywhere(), &["--lease", "60s"])
    }

    async fn post(&self, server: &Started, route: &str, body: &Value) -> (StatusCode, Value) {
        ask(&self.client, Method::POST, format!("{}/v1/{route}", server.url), Some(body)).await
    }

    async fn count(&self, sql: &str) -> u64 {
        let sql = format!("SELECT count(*) FROM {sql}");
        let found = self.server.psql(&self.database, &sql).await.unwrap();
        found.trim().parse().unwrap()
    }

    /// Cuts the store off once it has so many rows there, and whoever wrote the last one knows.
    async fn cut_behind(&self, sql: &str, rows: u64) {
        until(sql, async || self.count(sql).await >= rows).await;
        let passed = self.proxy.bytes().1;
        until("answers of the store pass", async || self.proxy.bytes().1 > passed + 4_096).await;
        self.proxy.set(Fault::Refuse);
    }
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let until = std::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(std::time::Instant::now() < until, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A saga that rests for an hour.
fn rest(key: &str) -> Value {
    let steps = json!([{"name": "rest", "wait": {"for_ms": 3_600_000}, "compensation": {"none": "nothing was done"}}]);
    json!({"definition": {"name": "rest", "steps": steps}, "key": key})
}

/// The answer to a decision that is written, while the store fails before anybody has heeded it.
async fn decided(place: Place) -> (StatusCode, Value) {
    let pair = Pair::start(place).await;
    let (_, started) = pair.post(&pair.owner, "sagas", &rest("r-1")).await;
    let other = block_in_place(|| pair.beside());
    let route = format!("sagas/{}/cancel", started["id"].as_str().unwrap());
    let why = json!({"reason": "a mistake"});
    let asked = pair.post(&other, &route, &why);
    tokio::join!(asked, pair.cut_behind("onewrite.saga_signal", 1)).0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_stands_is_unknown_when_the_store_fails_behind_it() {
    let (status, said) = decided(Place::new()).await;
    assert_eq!((status.as_u16(), &said["code"]), (504, &json!("OW0011")), "{said}");
    assert!(said["detail"].as_str().unwrap().contains("may stand"), "{said}");
}

/// The answer to a start that waits for the end, while the store fails behind it.
async fn started(place: Place) -> (StatusCode, Value) {
    let pair = Pair::start(place).await;
    let other = block_in_place(|| pair.beside());
    let mut start = rest("r-1");
    start["wait_ms"] = json!(60_000);
    let asked = pair.post(&other, "sagas", &start);
    tokio::join!(asked, pair.cut_behind("onewrite.saga", 1)).0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_answered_with_its_id_when_the_store_fails_behind_it() {
    let (status, said) = started(Place::new()).await;
    assert_eq!(status.as_u16(), 201, "{said}");
    assert!(said["id"].is_string() && said["state"].is_null(), "{said}");
}

/// Sagas of one page, and those of the next.
const PAGE: u64 = 1_000;
const MORE: u64 = 5;

/// The answer to one decision about many, while the store fails amid the first page; how many sagas heeded it.
async fn decided_of_many(place: Place) -> (StatusCode, Value, u64) {
    let pair = Pair::start(place).await;
    let starts = (0..PAGE + MORE).map(|n| {
        let pair = &pair;
        async move {
            let (status, said) = pair.post(&pair.owner, "sagas", &rest(&format!("r-{n}"))).await;
            assert_eq!(status.as_u16(), 201, "{said}");
        }
    });
    let starts = futures::stream::iter(starts);
    futures::StreamExt::collect::<Vec<()>>(futures::StreamExt::buffer_unordered(starts, 32)).await;
    let other = block_in_place(|| pair.beside());
    pair.owner.process.signal(Signal::CONT);
    let why = json!({"reason": "a mistake"});
    let asked = pair.post(&other, "bulk/cancel?name=rest", &why);
    let ended = "onewrite.saga WHERE ended_at IS NOT NULL";
    let (status, said) = tokio::join!(asked, pair.cut_behind(ended, 100)).0;
    (status, said, pair.count(ended).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_decisions_are_told_as_far_as_they_came_when_the_store_fails() {
    let (status, said, heeded) = decided_of_many(Place::new()).await;
    assert_eq!(status.as_u16(), 200, "{said}");
    let of = |what: &str| said[what].as_u64().unwrap();
    assert!((1..=heeded).contains(&of("done")), "{heeded}: {said}");
    assert!(of("unknown") > 0, "{said}");
    assert_eq!(of("done") + of("unknown") + of("refused"), PAGE, "{said}");
    assert!(said["next"].is_string(), "{said}");
    assert!(said["stopped"].as_str().unwrap().contains("OW0002"), "{said}");
}

#[cfg(feature = "sabotage")]
mod sabotage {
    use onewrite::sabotage::Defect;

    use super::*;

    fn place() -> Place {
        Place::with_defect(Defect::DenyAsked)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_decision_that_is_called_refused_is_noticed() {
        let (status, said) = decided(place()).await;
        assert_eq!((status.as_u16(), &said["code"]), (503, &json!("OW0002")), "{said}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_start_that_is_called_refused_is_noticed() {
        let (status, said) = started(place()).await;
        assert_eq!((status.as_u16(), &said["code"]), (503, &json!("OW0002")), "{said}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_decisions_that_are_called_refused_are_noticed() {
        let (status, said, heeded) = decided_of_many(place()).await;
        assert_eq!((status.as_u16(), &said["code"]), (503, &json!("OW0002")), "{said}");
        assert!(heeded > 0, "some heeded it");
    }
}
