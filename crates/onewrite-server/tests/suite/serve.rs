//! `onewrite serve`: sagas of services in another language, over HTTP.

use std::net::SocketAddr;

use reqwest::{Client, Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::{
    services::{example, script},
    support::{PATIENCE, Place, Running, eventually, free_address, number, texts},
};

const TOKENS: [(&str, &str); 3] = [
    ("READ", "reading-is-harmless-0"),
    ("START", "starting-is-also-fine"),
    ("STEER", "steering-is-for-a-few"),
];

/// A server, or a service, and where it is.
pub(crate) struct Started {
    pub(crate) process: Running,
    pub(crate) url: String,
}

fn bank(place: &Place, port: u16, args: &[&str]) -> Started {
    let (port, database) = (port.to_string(), place.path("bank.db"));
    let database = database.to_str().unwrap();
    let args = [&["--port", &port, "--database", database], args].concat();
    let process = Running::of(script(&example("bank.py"), &args));
    let line = process.lines(1).remove(0);
    let port = line.rsplit(' ').next().unwrap();
    Started { url: format!("http://127.0.0.1:{port}"), process }
}

pub(crate) fn serve(place: &Place, listen: SocketAddr, args: &[&str]) -> Started {
    serve_on(place, "sqlite:sagas.db", listen, args)
}

pub(crate) fn serve_on(place: &Place, store: &str, listen: SocketAddr, args: &[&str]) -> Started {
    let listen = listen.to_string();
    let own = ["serve", "--store", store, "--listen", &listen];
    let mut command = place.command(&[&own, args].concat());
    command.envs(TOKENS);
    let process = Running::of(command);
    let line = process.says("serving sagas at ");
    Started { url: line.rsplit(' ').next().unwrap().to_owned(), process }
}

pub(crate) fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A charge that can be paid back, a decision, and what only goes forward.
fn definition() -> Value {
    let quickly = json!({"initial_ms": 5, "cap_ms": 200, "attempts_max": null});
    json!({"name": "order", "steps": [
        {"name": "charge", "action": "bank.charge", "compensation": {"by": "bank.refund"},
         "retry": quickly, "compensation_retry": quickly},
        {"name": "confirm", "kind": "pivot", "action": "bank.confirm", "compensation": {"none": "its no is final"},
         "retry": quickly},
        {"name": "ship", "kind": "retriable", "action": "bank.ship", "compensation": {"none": "it only goes forward"},
         "retry": quickly}]})
}

fn order(number: usize) -> Value {
    let customer = if number % 5 == 4 { "poor minjun" } else { "minjun" };
    let country = if number % 5 == 3 { "Atlantis" } else { "Korea" };
    json!({"id": format!("o-{number}"), "customer": customer, "country": country, "cents": 100})
}

fn start_of(number: usize) -> Value {
    json!({"definition": definition(), "key": format!("o-{number}"), "input": order(number)})
}

/// Answers are tried for again: a server that is away does not lose a start.
async fn start(client: &Client, url: &str, number: usize) -> String {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let sent = client.post(format!("{url}/v1/sagas")).json_body(&start_of(number)).send().await;
        if let Ok(answer) = sent
            && answer.status().is_success()
        {
            let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            return answer["id"].as_str().unwrap().to_owned();
        }
        assert!(std::time::Instant::now() < until, "o-{number} is not started");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

pub(crate) trait JsonBody {
    fn json_body(self, body: &Value) -> Self;
}

impl JsonBody for reqwest::RequestBuilder {
    fn json_body(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }
}

pub(crate) async fn ask(
    client: &Client,
    method: Method,
    url: String,
    body: Option<&Value>,
) -> (StatusCode, Value) {
    let mut request = client.request(method, url);
    if let Some(body) = body {
        request = request.json_body(body);
    }
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

pub(crate) async fn state(client: &Client, url: &str, id: &str) -> String {
    let (status, saga) = ask(client, Method::GET, format!("{url}/v1/sagas/{id}"), None).await;
    assert_eq!(status, 200, "{saga}");
    saga["state"].as_str().unwrap().to_owned()
}

/// Answers are lost, and server and service are killed in the middle: every order is charged, confirmed and shipped
/// once, or nothing is left of it.
#[tokio::test(flavor = "multi_thread")]
async fn sagas_over_services_in_python_outlive_both() {
    const ORDERS: usize = 60;
    let (place, client) = (Place::new(), Client::new());
    let (ours, theirs) = (free_address(), free_address());
    let named = format!("bank=http://{theirs}");
    let args = ["--participant", &named, "--allow-private"];
    let first = block_in_place(|| bank(&place, theirs.port(), &["--lose-every", "7"]));
    let server = block_in_place(|| serve(&place, ours, &args));
    let url = server.url.clone();
    let starting = tokio::spawn({
        let (client, url) = (client.clone(), url.clone());
        async move {
            let mut ids = Vec::new();
            for number in 0..ORDERS {
                ids.push(start(&client, &url, number).await);
            }
            ids
        }
    });
    let done = || number(&place.path("bank.db"), "SELECT count(*) FROM effect");
    block_in_place(|| eventually("some effects", || done() > 20));
    block_in_place(|| drop(server.process.kill()));
    let server = block_in_place(|| serve(&place, ours, &args));
    block_in_place(|| eventually("more effects", || done() > 60));
    block_in_place(|| drop(first.process.kill()));
    let _second = block_in_place(|| bank(&place, theirs.port(), &["--lose-every", "5"]));
    let ids = starting.await.unwrap();
    let until = std::time::Instant::now() + PATIENCE * 2;
    for (number, id) in ids.iter().enumerate() {
        let expected = if number % 5 < 3 { "completed" } else { "compensated" };
        loop {
            let state = state(&client, &url, id).await;
            if state == expected {
                break;
            }
            let ended = ["completed", "compensated"].contains(&&*state);
            assert!(!ended && std::time::Instant::now() < until, "o-{number} is {state}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    let path = place.path("bank.db");
    let twice =
        "SELECT step || ' ' || order_id FROM effect GROUP BY step, order_id HAVING count(*) > 1";
    assert_eq!(texts(&path, twice), Vec::<String>::new());
    let steps = "SELECT step || ' ' || count(*) FROM effect GROUP BY step ORDER BY step";
    assert_eq!(texts(&path, steps), ["charge 48", "confirm 36", "refund 12", "ship 36"]);
    block_in_place(|| drop(server.process.terminate().ok()));
}

/// The control: a service that does not look at the key acts once for each answer that is lost as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_forgets_its_keys_acts_twice() {
    let (place, client) = (Place::new(), Client::new());
    let broken = ["--lose-every", "3", "--forget-keys"];
    let bank = block_in_place(|| bank(&place, 0, &broken));
    let named = format!("bank={}", bank.url);
    let args = ["--participant", &named, "--allow-private"];
    let server = block_in_place(|| serve(&place, anywhere(), &args));
    for number in 0..10 {
        start(&client, &server.url, number).await;
    }
    let twice =
        "SELECT count(*) FROM (SELECT 1 FROM effect GROUP BY step, order_id HAVING count(*) > 1)";
    let path = place.path("bank.db");
    block_in_place(|| eventually("an effect twice", || number(&path, twice) > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_twice_is_harmless_and_a_saga_is_shown_and_signalled() {
    let (place, client) = (Place::new(), Client::new());
    let server = block_in_place(|| serve(&place, anywhere(), &[]));
    let url = &server.url;
    let waits = json!({"name": "waits", "attributes": {"bill": "/input"}, "steps": [{"name": "paid", "wait": {"signal": {"name": "payment", "correlation": "/input"}},
        "compensation": {"none": "it only waits"}, "step_timeout_ms": 600_000}], "output": "/steps/paid"});
    let body = json!({"definition": waits, "key": "k", "input": "b-1"});
    let (status, started) =
        ask(&client, Method::POST, format!("{url}/v1/sagas"), Some(&body)).await;
    assert_eq!((status, &started["new"]), (StatusCode::CREATED, &json!(true)), "{started}");
    let (status, again) = ask(&client, Method::POST, format!("{url}/v1/sagas"), Some(&body)).await;
    assert_eq!(
        (status, &again["id"], &again["new"]),
        (StatusCode::OK, &started["id"], &json!(false))
    );
    // What it waits for is named, and it is found by what it is about.
    let id = started["id"].as_str().unwrap();
    let (_, saga) = ask(&client, Method::GET, format!("{url}/v1/sagas/{id}"), None).await;
    let (open, paid) = (&saga["open_steps"][0], json!({"name": "payment", "correlation": "b-1"}));
    assert_eq!((&open["step"], &open["signal"]), (&json!("paid"), &paid), "{saga}");
    let shown = block_in_place(|| place.run(&["saga", "show", id, "--store", "sqlite:sagas.db"]));
    assert!(shown.ok().out.contains("paid: waits for the signal payment about b-1, until "));
    for (value, expected) in [("b-1", 1), ("b-2", 0)] {
        let found = format!("{url}/v1/sagas?name=waits&attribute=bill={value}");
        let (_, page) = ask(&client, Method::GET, found, None).await;
        assert_eq!(page["sagas"].as_array().unwrap().len(), expected, "{page}");
        let (attribute, store) = (format!("bill={value}"), "sqlite:sagas.db");
        let args = ["saga", "list", "--attribute", &attribute, "--store", store, "--json"];
        let page = block_in_place(|| place.json(&args));
        assert_eq!(page["sagas"].as_array().unwrap().len(), expected, "{page}");
    }
    let list = |attribute: &str| {
        let args = ["saga", "list", "--attribute", attribute, "--store", "sqlite:sagas.db"];
        block_in_place(|| place.run(&args)).ok().err
    };
    let warning =
        "warning: none of the store's latest sagas has an attribute `bil`; they have `bill`\n";
    assert_eq!((list("bill=b-2"), list("bil=b-1")), (String::new(), warning.to_owned()));
    let many = "attribute=a=1&".repeat(9);
    for bad in
        ["attribute=bill", "attribute=a%00=1", many.as_str(), "limit=0", "size=1", "key=k&key=l"]
    {
        let (status, problem) =
            ask(&client, Method::GET, format!("{url}/v1/sagas?{bad}"), None).await;
        assert_eq!((status.as_u16(), &problem["code"]), (422, &json!("OW0007")), "{problem}");
    }
    // However deep a payload is, it is shown.
    place.write("deep.json", &format!("{}1{}", "[".repeat(1_000), "]".repeat(1_000)));
    place.write("nap.json", r#"{"name":"nap","steps":[{"name":"rest","wait":{"for_ms":1},"compensation":{"none":"it only waits"}}]}"#);
    block_in_place(|| {
        let store = ["--store", "sqlite:sagas.db"];
        let args = ["saga", "start", "nap.json", "--key", "d", "--input", "@deep.json", "--json"];
        let deep = place.json(&[&args[..], &store].concat());
        let args = ["saga", "show", deep["id"].as_str().unwrap(), "--json"];
        let shown = place.run(&[&args[..], &store].concat()).ok().out;
        assert!(shown.contains(&"[".repeat(1_000)) && shown.trim_end().lines().count() == 1);
    });
    let signal =
        json!({"id": "s-1", "name": "payment", "correlation": "b-1", "payload": {"cents": 1}});
    let (status, sent) =
        ask(&client, Method::POST, format!("{url}/v1/signals"), Some(&signal)).await;
    assert_eq!((status, &sent["new"]), (StatusCode::ACCEPTED, &json!(true)));
    let until = std::time::Instant::now() + PATIENCE;
    while state(&client, url, id).await != "completed" {
        assert!(std::time::Instant::now() < until, "it never ends");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let found = format!("{url}/v1/sagas?name=waits&key=k");
    let (_, page) = ask(&client, Method::GET, found, None).await;
    assert_eq!((&page["sagas"][0]["id"], &page["next"]), (&started["id"], &Value::Null), "{page}");
    let (_, saga) = ask(&client, Method::GET, format!("{url}/v1/sagas/{id}"), None).await;
    assert_eq!(
        (&saga["output"], &saga["open_steps"]),
        (&json!({"cents": 1}), &json!([])),
        "{saga}"
    );
    assert_eq!(saga["journal"][0]["entries"][0]["signalled"]["step"], "paid", "{saga}");
    let (status, described) =
        ask(&client, Method::GET, format!("{url}/v1/openapi.json"), None).await;
    assert_eq!((status, &described["openapi"]), (StatusCode::OK, &json!("3.1.0")));
    block_in_place(|| drop(server.process.terminate().ok()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_a_problem() {
    let (place, client) = (Place::new(), Client::new());
    // What the server is told may be near; what a definition tells may not.
    let named = ["--participant", "bank=http://127.0.0.1:1", "--allow-private"];
    let server = block_in_place(|| serve(&place, anywhere(), &named));
    let url = &server.url;
    let with = |action: &str| json!({"definition": {"name": "s", "steps": [{"name": "a", "action": action, "compensation": {"none": "x"}}]}, "key": "k"});
    let waiting = |signal: &str, undo: &str| {
        json!({"definition": {"name": "s", "steps": [{"name": "a", "wait": {"signal": {"name": signal, "correlation": "/input"}},
            "step_timeout_ms": 1000, "compensation": {"by": undo}}]}, "key": "k"})
    };
    let id = "01964b2e-7d1c-7a00-8000-0123456789ab";
    let wish = json!({"id": "x", "verb": "cancel", "actor": "ann", "reason": "so"});
    let request =
        json!({"id": "x", "name": "onewrite.request", "correlation": id, "payload": wish});
    let mut large = with("http://bank.example/charge");
    large["input"] = json!("x".repeat(1 << 20));
    let mut huge = with("http://bank.example/charge");
    huge["input"] = json!("x".repeat((1 << 20) + 300 * 1024));
    for (method, path, body, status, code, word) in [
        (Method::POST, "/v1/sagas", Some(json!({"key": "k"})), 422, "OW0007", "definition"),
        (
            Method::POST,
            "/v1/sagas",
            Some(json!({"definition": {"name": "s", "steps": []}, "key": "k"})),
            422,
            "OW0032",
            "no steps",
        ),
        (Method::POST, "/v1/sagas", Some(with("shop.charge")), 422, "OW0034", "--participant"),
        (Method::POST, "/v1/sagas", Some(with("http://127.0.0.1:1/x")), 422, "OW0024", "private"),
        (
            Method::POST,
            "/v1/sagas",
            Some(with("http://169.254.169.254/x")),
            422,
            "OW0024",
            "private",
        ),
        (Method::POST, "/v1/sagas", Some(large), 422, "OW0007", "1048578 bytes"),
        (Method::POST, "/v1/sagas", Some(huge), 413, "OW0007", "more than"),
        (Method::GET, "/v1/sagas/1", None, 422, "OW0007", "saga"),
        (
            Method::GET,
            "/v1/sagas/01964b2e-7d1c-7a00-8000-0123456789ab",
            None,
            404,
            "OW0026",
            "no saga",
        ),
        (Method::GET, "/v1/sagas?nam=s", None, 422, "OW0007", "nam"),
        (Method::GET, "/v1/sagas?state=done", None, 422, "OW0007", "needs_operator"),
        (Method::GET, "/v1/sagas?limit=0", None, 422, "OW0007", "limit"),
        (Method::GET, "/v1/sagas?started_before=now", None, 422, "OW0007", "a time"),
        (
            Method::POST,
            "/v1/sagas",
            Some(json!({"definition": "order", "key": "k"})),
            404,
            "OW0026",
            "--definitions",
        ),
        (
            Method::POST,
            "/v1/sagas",
            Some(json!({"definition": {"nam": "s"}, "key": "k"})),
            422,
            "OW0032",
            "unknown field",
        ),
        (
            Method::POST,
            "/v1/sagas/01964b2e-7d1c-7a00-8000-0123456789ab/skip",
            Some(json!({"reason": "so"})),
            422,
            "OW0007",
            "which `step`",
        ),
        (
            Method::POST,
            "/v1/sagas/01964b2e-7d1c-7a00-8000-0123456789ab/delete",
            Some(json!({"reason": "so"})),
            404,
            "OW0026",
            "openapi",
        ),
        (Method::GET, "/v1/saga", None, 404, "OW0026", "openapi"),
        (Method::DELETE, "/v1/sagas", None, 405, "OW0007", "method"),
        (
            Method::POST,
            "/v1/signals",
            Some(json!({"id": "s", "name": "", "correlation": "c"})),
            422,
            "OW0007",
            "name",
        ),
        (
            Method::POST,
            "/v1/sagas/01964b2e-7d1c-7a00-8000-0123456789ab/cancel",
            Some(json!({"reason": ""})),
            422,
            "OW0007",
            "the reason",
        ),
        // Requests of operators and replies of participants travel as signals: nobody may send them as such.
        (Method::POST, "/v1/signals", Some(request), 422, "OW0007", "onewrite's own"),
        (
            Method::POST,
            "/v1/sagas",
            Some(waiting("onewrite.request", "bank")),
            422,
            "OW0032",
            "onewrite's own",
        ),
        (
            Method::POST,
            "/v1/sagas",
            Some(waiting("paid", "shop.refund")),
            422,
            "OW0034",
            "shop.refund",
        ),
        (Method::POST, "/v1/sagas", Some(with("http://")), 422, "OW0023", "read as a URL"),
        (
            Method::POST,
            "/v1/sagas",
            Some(with("http://me:secret@bank.example/x")),
            422,
            "OW0032",
            "password",
        ),
        (Method::GET, "/v1/sagas?name=s&key=%00", None, 422, "OW0007", "NUL"),
    ] {
        let shown = format!("{method} {path}");
        let (found, problem) = ask(&client, method, format!("{url}{path}"), body.as_ref()).await;
        assert_eq!(
            (found.as_u16(), &problem["code"]),
            (status, &json!(code)),
            "{shown}: {problem}"
        );
        assert!(problem["detail"].as_str().unwrap().contains(word), "{shown}: {problem}");
        assert_eq!(problem["status"], status, "{shown}: {problem}");
    }
    // What a page in a browser can send here unasked.
    let start = || client.post(format!("{url}/v1/sagas"));
    let local = start_of(1).to_string();
    for (request, status) in [
        (start().body(local.clone()), 415),
        (start().header("content-type", "text/plain").body(local.clone()), 415),
        (start().header("origin", "https://elsewhere.example").json_body(&start_of(1)), 403),
        (start().header("host", "elsewhere.example:8480").json_body(&start_of(1)), 403),
    ] {
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    block_in_place(|| drop(server.process.terminate().ok()));
}

/// A participant that takes every request, and answers none.
async fn silent() -> (tokio::net::TcpListener, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bank = format!("bank=http://{}", listener.local_addr().unwrap());
    (listener, bank)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_wait_for_what_is_in_flight() {
    let (place, client, (listener, bank)) = (Place::new(), Client::new(), silent().await);
    // Longer than this test has patience.
    let args = ["--participant", &bank, "--allow-private", "--lease", "10m"];
    for (first, second, code) in
        [(Signal::TERM, Signal::TERM, 143), (Signal::TERM, Signal::INT, 130)]
    {
        let mut server = block_in_place(|| serve(&place, anywhere(), &args));
        let body =
            json!({"definition": definition(), "key": format!("k-{code}"), "input": order(1)});
        let url = format!("{}/v1/sagas", server.url);
        let (status, started) = ask(&client, Method::POST, url, Some(&body)).await;
        assert_eq!(status, 201, "{started}");
        let _attempt = listener.accept().await.unwrap();
        let id = started["id"].as_str().unwrap();
        let run = block_in_place(|| {
            server.process.signal(first);
            let said = server.process.says("stopping");
            assert!(said.contains("a second signal"), "{said}");
            // Until it is one of its own.
            eventually("it ends", || {
                let has_ended = !server.process.is_running();
                if !has_ended {
                    server.process.signal(second);
                }
                has_ended
            });
            server.process.end()
        });
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!(run.err.contains("stopped at once"), "{run:?}");
        let shown = ["saga", "show", id, "--json", "--store", "sqlite:sagas.db"];
        assert_eq!(place.json(&shown)["state"], json!("running"));
    }
}

/// A terminal sends it to all, and whoever started the server passes it on.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_comes_twice_is_one() {
    let (place, client, (listener, bank)) = (Place::new(), Client::new(), silent().await);
    let server =
        block_in_place(|| serve(&place, anywhere(), &["--participant", &bank, "--allow-private"]));
    let url = format!("{}/v1/sagas", server.url);
    assert_eq!(ask(&client, Method::POST, url, Some(&start_of(1))).await.0, 201);
    let attempt = listener.accept().await.unwrap();
    let run = block_in_place(|| {
        server.process.signal(Signal::INT);
        server.process.signal(Signal::TERM);
        server.process.says("stopping");
        drop(attempt);
        server.process.end()
    });
    assert!(!run.ok().err.contains("at once"));
}

/// Whoever waits for the end of a saga learns which one it is before the server goes.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_when_a_server_is_stopped_is_told_the_id() {
    let (place, client, (listener, bank)) = (Place::new(), Client::new(), silent().await);
    let args = ["--participant", &bank, "--allow-private", "--lease", "10m"];
    let server = block_in_place(|| serve(&place, anywhere(), &args));
    let mut body = start_of(1);
    body["wait_ms"] = json!(60_000);
    let url = format!("{}/v1/sagas", server.url);
    let asked = tokio::time::timeout(PATIENCE, ask(&client, Method::POST, url, Some(&body)));
    let stopped = async {
        let attempt = listener.accept().await.unwrap();
        server.process.signal(Signal::TERM);
        attempt
    };
    let (answered, _attempt) = tokio::join!(asked, stopped);
    let (status, answer) = answered.expect("an answer before the time that it may wait is over");
    assert_eq!(status, 201, "{answer}");
    assert!(answer["id"].is_string() && answer["state"].is_null(), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what_is_said_by_tokens() {
    let place = Place::new();
    let tokens =
        ["--token", "r:reader=READ", "--token", "s:starter=START", "--token", "ann:operator=STEER"];
    let server = block_in_place(|| serve(&place, anywhere(), &tokens));
    let url = &server.url;
    let as_who = |token: Option<&str>| {
        let mut headers = reqwest::header::HeaderMap::new();
        if let Some(token) = token {
            let value = format!("Bearer {token}");
            headers.insert("authorization", value.parse().unwrap());
        }
        Client::builder().default_headers(headers).build().unwrap()
    };
    let [reader, starter, operator] = TOKENS.map(|(_, token)| as_who(Some(token)));
    let waits = json!({"name": "waits", "steps": [{"name": "rest", "wait": {"for_ms": 600_000}, "compensation": {"none": "x"}}]});
    let body = json!({"definition": waits, "key": "k"});
    let post = async |client: &Client, path: String, body: &Value| {
        ask(client, Method::POST, format!("{url}{path}"), Some(body)).await
    };
    for (client, status) in
        [(as_who(None), 401), (as_who(Some("guessed-but-long-enough")), 401), (reader.clone(), 403)]
    {
        let (found, problem) = post(&client, "/v1/sagas".into(), &body).await;
        assert_eq!((found.as_u16(), &problem["code"]), (status, &json!("OW0038")), "{problem}");
    }
    let (found, started) = post(&starter, "/v1/sagas".into(), &body).await;
    assert_eq!(found, 201, "{started}");
    let id = started["id"].as_str().unwrap();
    assert_eq!(state(&reader, url, id).await, "running");
    let metrics = format!("{url}/metrics");
    assert_eq!(ask(&as_who(None), Method::GET, metrics.clone(), None).await.0, 401);
    assert_eq!(ask(&reader, Method::GET, metrics, None).await.0, 200);
    let cancel = format!("/v1/sagas/{id}/cancel");
    let why = json!({"reason": "a mistake", "actor": "somebody else"});
    assert_eq!(post(&starter, cancel.clone(), &why).await.0, 403);
    assert_eq!(post(&operator, cancel, &why).await.0, 204);
    let (_, saga) = ask(&reader, Method::GET, format!("{url}/v1/sagas/{id}"), None).await;
    let cancelled = &saga["journal"][0]["entries"][0]["cancelled"];
    assert_eq!(
        (&cancelled["actor"], &cancelled["reason"]),
        (&json!("ann"), &json!("a mistake")),
        "{saga}"
    );
    // Where nobody needs a token, only this machine may ask.
    let open = place.run(&["serve", "--store", "sqlite:sagas.db", "--listen", "0.0.0.0:0"]);
    open.refused("OW0031", &["no tokens"]);
    for (token, word) in [
        ("ann", "NAME:ROLE=VARIABLE"),
        ("ann:king=STEER", "NAME:ROLE=VARIABLE"),
        ("ann:reader=NOWHERE", "NOWHERE"),
        ("ann:reader=READ@tomorrow", "NAME:ROLE=VARIABLE"),
    ] {
        let run = place.run(&["serve", "--store", "sqlite:sagas.db", "--token", token]);
        run.refused("OW0023", &[word]);
    }
    block_in_place(|| drop(server.process.terminate().ok()));
}
