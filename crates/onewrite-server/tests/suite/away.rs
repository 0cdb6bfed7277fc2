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
    async fn beside(&self) -> Started {
        until("it stands still outside a transaction", async || {
            self.owner.process.signal(Signal::STOP);
            let busy = "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'";
            let stands = self.count(busy).await == 0;
            if !stands {
                self.owner.process.signal(Signal::CONT);
            }
            stands
        })
        .await;
        let port = self.proxy.addr().port();
        let url = self.server.url(&self.database);
        let url = url.replace(&format!(":{}", self.server.port()), &format!(":{port}"));
        block_in_place(|| serve_on(&self.place, &url, anywhere(), &["--lease", "60s"]))
    }

    async fn post(&self, server: &Started, route: &str, body: &Value) -> (StatusCode, Value) {
        ask(&self.client, Method::POST, format!("{}/v1/{route}", server.url), Some(body)).await
    }

    async fn sql(&self, sql: &str) -> String {
        self.server.psql(&self.database, sql).await.unwrap()
    }

    async fn count(&self, of: &str) -> u64 {
        self.sql(&format!("SELECT count(*) FROM {of}")).await.trim().parse().unwrap()
    }

    /// Takes a table away once it has a row. Who has written that is told so, and reads it in vain.
    async fn take_away(&self, table: &str) {
        until(table, async || self.count(table).await > 0).await;
        self.sql(&format!("ALTER TABLE {table} RENAME TO gone")).await;
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
    let other = pair.beside().await;
    let route = format!("sagas/{}/cancel", started["id"].as_str().unwrap());
    let why = why();
    let asked = pair.post(&other, &route, &why);
    tokio::join!(asked, pair.take_away("onewrite.saga_signal")).0
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
    let other = pair.beside().await;
    let mut start = rest("r-1");
    start["wait_ms"] = json!(60_000);
    let asked = tokio::time::timeout(PATIENCE, pair.post(&other, "sagas", &start));
    tokio::join!(asked, pair.take_away("onewrite.saga")).0.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_answered_with_its_id_when_the_store_fails_behind_it() {
    let (status, said) = started(Place::new()).await;
    assert_eq!(status.as_u16(), 201, "{said}");
    assert!(said["id"].is_string() && said["state"].is_null(), "{said}");
}

const MANY: u64 = 600;

/// So many sagas, and the answer to one decision about them all, while the store goes away amid them.
async fn decided_of_many(place: Place) -> (Pair, Started, (StatusCode, Value)) {
    let pair = Pair::start(place).await;
    let starts = (0..MANY).map(|n| {
        let pair = &pair;
        async move {
            let (status, said) = pair.post(&pair.owner, "sagas", &rest(&format!("r-{n}"))).await;
            assert_eq!(status.as_u16(), 201, "{said}");
        }
    });
    let starts = futures::stream::iter(starts);
    futures::StreamExt::collect::<Vec<()>>(futures::StreamExt::buffer_unordered(starts, 32)).await;
    let other = pair.beside().await;
    pair.owner.process.signal(Signal::CONT);
    let why = why();
    let asked = pair.post(&other, "bulk/cancel?name=rest", &why);
    let cut = async {
        // More than are asked at the same time: the first of them have been answered.
        until("some heeded it", async || pair.count(ENDED).await > 80).await;
        pair.proxy.set(Fault::Refuse);
    };
    let answer = tokio::join!(asked, cut).0;
    (pair, other, answer)
}

const ENDED: &str = "onewrite.saga WHERE ended_at IS NOT NULL";

fn why() -> Value {
    json!({"reason": "a mistake"})
}

/// What is told is true, and whoever goes on where it says so leaves none out.
#[tokio::test(flavor = "multi_thread")]
async fn many_decisions_are_told_as_far_as_they_came_and_none_is_left_out() {
    let (pair, other, (status, said)) = decided_of_many(Place::new()).await;
    assert_eq!(status.as_u16(), 200, "{said}");
    assert!(said["stopped"].as_str().unwrap().contains("OW0002"), "{said}");
    let of = |what: &str| said[what].as_u64().unwrap();
    assert!(of("done") > 0 && of("unknown") > 0 && of("refused") == 0, "{said}");
    assert!(of("done") + of("unknown") < MANY, "{said}");
    assert!(pair.count(ENDED).await >= of("done"), "{said}");
    pair.proxy.set(Fault::Pass);
    let behind = said["next"].as_str().map(|next| format!("&behind={next}"));
    let route = format!("bulk/cancel?name=rest{}", behind.unwrap_or_default());
    until("the rest is decided", async || {
        let (status, said) = pair.post(&other, &route, &why()).await;
        status.is_success() && said.get("stopped").is_none() && said["unknown"] == 0
    })
    .await;
    until("all heeded it", async || pair.count(ENDED).await == MANY).await;
}

#[cfg(feature = "sabotage")]
mod sabotage {
    use onewrite::sabotage::Defect;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_decision_that_is_called_refused_is_noticed() {
        let (status, said) = decided(Place::with_defect(Defect::DenyDecision)).await;
        assert_eq!((status.as_u16(), &said["code"]), (500, &json!("OW0003")), "{said}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_start_that_is_called_refused_is_noticed() {
        let (status, said) = started(Place::with_defect(Defect::DenyStart)).await;
        assert_eq!((status.as_u16(), &said["code"]), (500, &json!("OW0003")), "{said}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_decisions_that_are_called_refused_are_noticed() {
        let place = Place::with_defect(Defect::DenyMany);
        let (pair, _, (status, said)) = decided_of_many(place).await;
        assert_eq!((status.as_u16(), &said["code"]), (503, &json!("OW0002")), "{said}");
        assert!(pair.count(ENDED).await > 0, "some heeded it");
    }
}
