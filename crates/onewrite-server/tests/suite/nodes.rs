//! Several `onewrite serve` on one store, behind a load balancer, or with clients that try the next one.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use onewrite_testkit::server::{shared_mariadb, shared_postgres, unique};
use reqwest::Client;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{task::block_in_place, time::sleep};

use crate::{
    balancer::Balancer,
    serve::{JsonBody as _, Started, serve_on},
    services::database,
    support::{Place, free_address},
};

/// How many sagas, unless `ONEWRITE_NODES_SAGAS` says so, and how long they may take.
const SAGAS: usize = 240;
const PATIENCE: Duration = Duration::from_secs(120);

const NODES: usize = 3;
const LEASE: Duration = Duration::from_secs(1);

/// What a key was answered before.
type Answer = (&'static str, String);

/// A service whose answers are lost now and then. It acts once for each key, in order, and notes the steps of each
/// order.
#[derive(Clone, Default)]
struct Shop {
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    effects: Arc<Mutex<BTreeMap<u64, Vec<String>>>>,
    asked: Arc<AtomicU64>,
    /// A broken one: it acts whenever it is asked.
    forgets: bool,
}

impl Shop {
    async fn open(self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/{step}", post(Self::act)).with_state(self);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        address
    }

    async fn act(
        State(shop): State<Self>,
        Path(step): Path<String>,
        headers: HeaderMap,
        body: String,
    ) -> Response {
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        let (key, compensates) =
            (text("idempotency-key"), text("onewrite-direction") == "compensation");
        let body: Value = serde_json::from_str(&body).unwrap();
        let order = if compensates { &body["input"] } else { &body };
        let (outcome, said) =
            shop.carry_out(&step, &key, order["n"].as_u64().unwrap(), compensates);
        // It is done, and nobody hears of it.
        if shop.asked.fetch_add(1, Ordering::Relaxed) % 11 == 10 {
            return StatusCode::BAD_GATEWAY.into_response();
        }
        ([("onewrite-outcome", outcome)], said).into_response()
    }

    fn carry_out(&self, step: &str, key: &str, order: u64, compensates: bool) -> Answer {
        let mut answers = self.answers.lock().unwrap();
        if let Some(known) = answers.get(key).filter(|_| !self.forgets) {
            return known.clone();
        }
        let action = key.replace("/compensation", "");
        let acted = answers.entry(action.clone()).or_insert(("failed", "too late".into())).0;
        let refuses = step == "ship" && order % 5 == 4;
        let answer = match (compensates, refuses) {
            (false, true) => ("failed", "nobody delivers there".to_owned()),
            _ => ("done", "null".to_owned()),
        };
        if answer.0 == "done" && (!compensates || acted == "done") {
            self.effects.lock().unwrap().entry(order).or_default().push(step.to_owned());
        }
        answers.insert(key.to_owned(), answer.clone());
        answer
    }
}

fn definition() -> Value {
    let quickly = json!({"initial_ms": 5, "cap_ms": 100, "attempts_max": null});
    let step = |name: &str, undo: Value| {
        json!({"name": name, "action": format!("shop.{name}"), "compensation": undo,
        "retry": quickly, "compensation_retry": quickly})
    };
    json!({"name": "order", "steps": [
        step("reserve", json!({"by": "shop.release"})),
        step("charge", json!({"by": "shop.refund"})),
        step("ship", json!({"by": "shop.recall"})),
        step("note", json!({"none": "it is last"}))]})
}

/// The servers, which are killed and stalled meanwhile.
struct Nodes {
    place: Place,
    store: String,
    shop: String,
    balancer: Option<Balancer>,
    all: Vec<(SocketAddr, Option<Started>)>,
}

impl Nodes {
    fn start(store: String, shop: SocketAddr, balanced: bool) -> Self {
        let all = (0..NODES).map(|_| (free_address(), None)).collect();
        let (place, shop) = (Place::new(), format!("shop=http://{shop}"));
        let mut nodes = Self { place, store, shop, balancer: None, all };
        (0..NODES).for_each(|node| nodes.begin(node));
        if balanced {
            let servers = nodes.all.iter().map(|(address, _)| *address);
            nodes.balancer = Some(Balancer::before(&nodes.place, servers));
        }
        nodes
    }

    fn begin(&mut self, node: usize) {
        let lease = format!("{}ms", LEASE.as_millis());
        let args = ["--participant", &self.shop, "--allow-private", "--lease", &lease];
        self.all[node].1 = Some(serve_on(&self.place, &self.store, self.all[node].0, &args));
    }

    /// Whom clients ask: the balancer alone, if there is one.
    fn urls(&self) -> Vec<String> {
        if let Some(balancer) = &self.balancer {
            return vec![balancer.url()];
        }
        self.all.iter().map(|(address, _)| format!("http://{address}")).collect()
    }

    fn kill(&mut self, node: usize) {
        drop(self.all[node].1.take().map(|started| started.process.kill()));
        self.begin(node);
    }

    async fn stall(&self, node: usize) {
        let process = &self.all[node].1.as_ref().unwrap().process;
        process.signal(Signal::STOP);
        sleep(LEASE * 2).await;
        process.signal(Signal::CONT);
    }
}

/// Asks one node after another until one answers.
async fn asked(
    client: &Client,
    urls: &[String],
    first: usize,
    method: reqwest::Method,
    route: &str,
    body: Option<&Value>,
) -> Value {
    let until = Instant::now() + PATIENCE;
    for turn in first.. {
        let url = format!("{}{route}", urls[turn % urls.len()]);
        let mut request = client.request(method.clone(), url);
        if let Some(body) = body {
            request = request.json_body(body);
        }
        if let Ok(answer) = request.send().await
            && answer.status().is_success()
            && let Ok(text) = answer.text().await
        {
            return serde_json::from_str(&text).unwrap();
        }
        assert!(Instant::now() < until, "nobody answers {route}");
        sleep(Duration::from_millis(20)).await;
    }
    unreachable!("it goes on for ever")
}

/// Starts sagas, some of them twice, while nodes are killed and stalled; waits for their ends. Returns them with
/// the effects of each order.
async fn run(
    store: String,
    shop: Shop,
    balanced: bool,
) -> (BTreeMap<u64, String>, BTreeMap<u64, Vec<String>>) {
    let count = std::env::var("ONEWRITE_NODES_SAGAS").map_or(SAGAS, |text| text.parse().unwrap());
    let effects = Arc::clone(&shop.effects);
    let address = shop.open().await;
    let mut nodes = block_in_place(|| Nodes::start(store, address, balanced));
    let urls = nodes.urls();
    let client = Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    let starting = {
        let (client, urls) = (client.clone(), urls.clone());
        tokio::spawn(async move {
            let starts = (0..count).map(|n| {
                let (client, urls) = (client.clone(), urls.clone());
                async move {
                    let body = json!({"definition": definition(), "key": format!("o-{n}"), "input": {"n": n}});
                    let start = async |first| {
                        asked(&client, &urls, first, reqwest::Method::POST, "/v1/sagas", Some(&body)).await["id"].clone()
                    };
                    let id = start(n).await;
                    if n % 7 == 0 {
                        assert_eq!(start(n + 1).await, id, "o-{n} was started twice");
                    }
                }
            });
            futures::StreamExt::collect::<Vec<()>>(futures::StreamExt::buffer_unordered(
                futures::stream::iter(starts),
                16,
            ))
            .await;
        })
    };
    // By what was done, so that the faults fall in the middle however fast it goes.
    let done = || effects.lock().unwrap().len();
    for fault in 0..6 {
        let until = Instant::now() + PATIENCE;
        while done() < count * (fault + 1) / 8 {
            assert!(Instant::now() < until, "it does not go on");
            sleep(Duration::from_millis(5)).await;
        }
        match fault % 3 {
            2 => nodes.stall(fault % NODES).await,
            _ => block_in_place(|| nodes.kill(fault % NODES)),
        }
    }
    starting.await.unwrap();
    let ends = ends(&client, &urls, count).await;
    block_in_place(|| {
        for (_, node) in nodes.all {
            node.unwrap().process.terminate().ok();
        }
    });
    let effects = effects.lock().unwrap().clone();
    (ends, effects)
}

/// How each order ended, once all have.
async fn ends(client: &Client, urls: &[String], count: usize) -> BTreeMap<u64, String> {
    let until = Instant::now() + PATIENCE;
    let open = "/v1/sagas?state=running,compensating,needs_operator&limit=1";
    let get = reqwest::Method::GET;
    while asked(client, urls, 0, get.clone(), open, None).await["sagas"] != json!([]) {
        assert!(Instant::now() < until, "some never end");
        sleep(Duration::from_millis(50)).await;
    }
    let (mut ends, mut behind) = (BTreeMap::new(), String::new());
    loop {
        let route = format!("/v1/sagas?limit=1000{behind}");
        let page = asked(client, urls, 0, get.clone(), &route, None).await;
        for saga in page["sagas"].as_array().unwrap() {
            let key = saga["key"].as_str().unwrap().trim_start_matches("o-").parse().unwrap();
            ends.insert(key, saga["state"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next"].as_str() else { break };
        behind = format!("&behind={next}");
    }
    assert_eq!(ends.len(), count, "each order is one saga");
    ends
}

fn is_clean((ends, effects): &(BTreeMap<u64, String>, BTreeMap<u64, Vec<String>>)) {
    for (order, end) in ends {
        let (expected, state): (&[&str], _) = match order % 5 {
            4 => (&["reserve", "charge", "refund", "release"], "compensated"),
            _ => (&["reserve", "charge", "ship", "note"], "completed"),
        };
        assert_eq!(
            (end.as_str(), effects[order].as_slice()),
            (state, &expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
            "o-{order}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_behind_a_balancer_are_killed_and_stalled_and_every_saga_ends_once() {
    shared_postgres().await.unwrap();
    is_clean(&run(database("sagas").await, Shop::default(), true).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_mariadb_are_killed_and_stalled_and_every_saga_ends_once() {
    let server = shared_mariadb().await.unwrap();
    let name = unique("sagas");
    server.sql("information_schema", &format!("CREATE DATABASE {name}")).await.unwrap();
    is_clean(&run(server.url(&name), Shop::default(), false).await);
}

/// The control: a service that does not look at the key acts once for each answer that is lost as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_shop_that_forgets_its_keys_acts_twice() {
    let shop = Shop { forgets: true, ..Shop::default() };
    let (_, effects) = run(database("sagas").await, shop, false).await;
    let twice = effects.values().any(|steps| steps.windows(2).any(|pair| pair[0] == pair[1]));
    assert!(twice, "{effects:?}");
}
