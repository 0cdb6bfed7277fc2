//! Definitions in files, and the verbs of operators: on the command line and over HTTP.

use std::sync::{Arc, Mutex};

use axum::{Router, http::HeaderMap, routing::post};
use onewrite_testkit::certificates::Certificates;
use reqwest::{Certificate, Client, Identity, Method};
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::{
    serve::{JsonBody as _, Started, anywhere, ask, serve, state},
    support::{PATIENCE, Place, Run, eventually, execute},
};

const ORDER: &str = "name: order
steps:
  - name: charge
    action: bank.charge
    compensation: {by: bank.refund}
    retry: &long {initial_ms: 86400000, cap_ms: 86400000, attempts_max: null}
    compensation_retry: *long
  - name: rest
    wait: {for_ms: 3600000}
    compensation: {none: it only waits}
output: /steps/charge
";

const STORE: [&str; 2] = ["--store", "sqlite:sagas.db"];

/// The verbs of one saga's operator.
struct Operator<'a> {
    place: &'a Place,
    id: String,
}

impl<'a> Operator<'a> {
    /// Starts the saga of `order.yaml` about `key`.
    fn start(place: &'a Place, key: &str) -> Self {
        let args = ["saga", "start", "order.yaml", "--key", key, "--json"];
        let started = place.json(&[&args[..], &STORE].concat());
        assert_eq!(started["new"], json!(true), "{started}");
        Self { place, id: started["id"].as_str().unwrap().to_owned() }
    }

    fn show(&self) -> Value {
        self.place.json(&[&["saga", "show", &self.id, "--json"][..], &STORE].concat())
    }

    fn stands(&self) -> (String, String) {
        let shown = self.show();
        let text = |name: &str| shown[name].as_str().unwrap().to_owned();
        (text("state"), text("waits"))
    }

    fn args<'b>(&'b self, verb: &'b str, more: &[&'b str]) -> Vec<&'b str> {
        let own = ["saga", verb, &self.id, "--reason", "so", "--actor", "ann"];
        [&own[..], &STORE, more].concat()
    }

    fn says(&self, verb: &str, more: &[&str]) {
        self.place.run(&self.args(verb, more)).ok();
    }

    fn cannot_retry(&self, step: &str, why: &str) {
        let run = self.place.run(&self.args("retry", &["--step", step]));
        run.refused("OW0039", &["nothing is changed", why]);
    }

    /// Waits until its attempt has failed and is to be made again in a day: one that was just started waits as well, to
    /// be taken up.
    fn waits_to_try_again(&self) {
        eventually("it waits to try again", || {
            let journal = self.show()["journal"].take();
            let last = journal.as_array().and_then(|lines| lines.last());
            last.is_some_and(|line| line["entries"].to_string().contains("\"retrying\""))
        });
    }

    fn becomes(&self, expected: (&str, &str)) {
        eventually(&format!("{expected:?}"), || {
            let (state, waits) = self.stands();
            (&*state, &*waits) == expected
        });
    }
}

/// A server whose bank nobody reaches.
fn without_a_bank(place: &Place) -> Started {
    place.write("order.yaml", ORDER);
    let bank = ["--participant", "bank=http://127.0.0.1:1", "--allow-private"];
    serve(place, anywhere(), &bank)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_decides_on_the_command_line() {
    let place = Place::new();
    let server = block_in_place(|| without_a_bank(&place));
    block_in_place(|| {
        let saga = Operator::start(&place, "k-1");
        saga.waits_to_try_again();
        saga.says("pause", &[]);
        assert_eq!(saga.stands(), ("running".into(), "operator".into()));
        // It is so already, whoever else wants that: the command line is another process.
        let bob = ["saga", "pause", &saga.id, "--reason", "I as well", "--actor", "bob"];
        place.run(&[&bob[..], &STORE].concat()).ok();
        assert_eq!(saga.show()["journal"].to_string().matches("\"paused\"").count(), 1);
        saga.says("resume", &[]);
        saga.becomes(("running", "timer"));
        // While its participant is held that is heeded, and said to wait.
        let bank = |verb: &str| {
            let args = ["participant", verb, "bank", "--reason", "it is down", "--actor", "ann"];
            place.run(&[&args[..], &STORE].concat()).ok();
        };
        bank("hold");
        let retried = place.run(&saga.args("retry", &["--step", "charge"])).ok();
        let warning =
            "warning: bank is held by ann: it is down; no attempt begins until it is released\n";
        assert_eq!(retried.err, warning);
        bank("release");
        saga.waits_to_try_again();
        saga.says("retry", &["--step", "charge"]);
        let retried = |shown: &Value| shown["journal"].to_string().contains("retried");
        assert!(retried(&saga.show()));
        place.run(&saga.args("skip", &["--step", "rest"])).refused("OW0039", &["turn"]);
        saga.says("skip", &["--step", "charge", "--output", r#"{"paid":"in cash"}"#]);
        saga.cannot_retry("rest", "this step waits for a time");
        saga.says("skip", &["--step", "rest"]);
        saga.becomes(("completed", "nothing"));
        assert_eq!(saga.show()["output"], json!({"paid": "in cash"}));
        place.run(&saga.args("pause", &[])).refused("OW0039", &["it has ended"]);
        let story =
            place.run(&[&["saga", "show", &saga.id, "--payloads"][..], &STORE].concat()).ok();
        for word in ["paused by ann: so", "skipped by ann", "in cash", "completed"] {
            assert!(story.out.contains(word), "{word}: {}", story.out);
        }

        let saga = Operator::start(&place, "k-2");
        saga.becomes(("running", "timer"));
        saga.says("force-compensate", &[]);
        saga.becomes(("compensating", "timer"));
        saga.says("cancel", &[]);
        saga.says("pause", &[]);
        assert_eq!(saga.stands(), ("compensating".into(), "operator".into()));
        saga.says("cancel", &[]);
        saga.becomes(("compensating", "timer"));
        place.run(&saga.args("force-complete", &[])).refused("OW0039", &["being compensated"]);
        saga.says("skip", &["--step", "charge"]);
        saga.becomes(("compensated", "nothing"));

        let saga = Operator::start(&place, "k-3");
        saga.says("force-complete", &[]);
        saga.becomes(("completed", "nothing"));

        let list = |more: &[&str]| {
            let page = place.json(&[&["saga", "list", "--json"][..], &STORE, more].concat());
            let keys = page["sagas"].as_array().unwrap().iter();
            keys.map(|saga| saga["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(list(&[]), ["k-3", "k-2", "k-1"]);
        assert_eq!(list(&["--state", "compensated"]), ["k-2"]);
        assert_eq!(list(&["--key", "k-1", "--name", "order"]), ["k-1"]);
        assert_eq!(list(&["--older-than", "1h"]), [""; 0]);
        assert_eq!(list(&["--limit", "1", "--behind", &saga.id]), ["k-2"]);
        let nobody = ["saga", "show", "01964b2e-7d1c-7a00-8000-0123456789ab"];
        place.run(&[&nobody[..], &STORE].concat()).refused("OW0026", &["no saga"]);
        place
            .run(&[&["saga", "list", "--state", "done"][..], &STORE].concat())
            .refused("OW0007", &["needs_operator"]);
        server.process.terminate().ok();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_decides_over_http() {
    let (place, client) = (Place::new(), Client::new());
    let server = block_in_place(|| without_a_bank(&place));
    let url = &server.url;
    let saga = block_in_place(|| Operator::start(&place, "k"));
    let wants = async |verb: &str, body: Value| {
        let route = format!("{url}/v1/sagas/{}/{verb}", saga.id);
        ask(&client, Method::POST, route, Some(&body)).await
    };
    let why = || json!({"reason": "so", "actor": "ann"});
    let of = |step: &str| json!({"reason": "so", "actor": "ann", "step": step});
    block_in_place(|| saga.waits_to_try_again());
    for (verb, body) in [("pause", why()), ("resume", why()), ("retry", of("charge"))] {
        assert_eq!(wants(verb, body).await.0, 204, "{verb}");
    }
    let (status, problem) = wants("skip", of("rest")).await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("OW0039")), "{problem}");
    // A step that it does not have is a mistake, and no matter of its state.
    let (status, problem) = wants("skip", of("rests")).await;
    assert_eq!((status.as_u16(), &problem["code"]), (422, &json!("OW0007")), "{problem}");
    assert_eq!(wants("skip", of("charge")).await.0, 204);
    assert_eq!(wants("force-compensate", why()).await.0, 204);
    assert_eq!(wants("skip", of("charge")).await.0, 204);
    assert_eq!(state(&client, url, &saga.id).await, "compensated");
    for verb in ["force-complete", "cancel", "resume"] {
        let (status, problem) = wants(verb, why()).await;
        assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("OW0039")), "{problem}");
    }
    block_in_place(|| drop(server.process.terminate().ok()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_is_decided_about_many() {
    let (place, client) = (Place::new(), Client::new());
    let server = block_in_place(|| without_a_bank(&place));
    let url = &server.url;
    block_in_place(|| {
        let keys: Vec<String> = (0..8).map(|n| format!("k-{n}")).collect();
        let sagas: Vec<Operator<'_>> =
            keys.iter().map(|key| Operator::start(&place, key)).collect();
        sagas.iter().for_each(|saga| saga.becomes(("running", "timer")));
        fn bulk<'a>(args: &[&'a str]) -> Vec<&'a str> {
            [&["saga", "bulk"], args, &["--reason", "so"], &STORE].concat()
        }
        let json = |args: &[&str]| place.json(&[&bulk(args)[..], &["--json"]].concat());
        let paused = json(&["pause", "--name", "order", "--limit", "5"]);
        assert_eq!((&paused["done"], &paused["refused"]), (&json!(5), &json!(0)), "{paused}");
        let next = paused["next"].as_str().unwrap();
        assert_eq!(json(&["pause", "--name", "order", "--behind", next])["done"], json!(3));
        sagas.iter().for_each(|saga| assert_eq!(saga.stands().1, "operator"));
        let refused = json(&["skip", "--step", "rest", "--state", "running"]);
        assert_eq!((&refused["done"], &refused["refused"]), (&json!(0), &json!(8)), "{refused}");
        assert_eq!(refused["why"].as_array().unwrap().len(), 8);
        // One that a newer program started, whose definition this one cannot read, keeps no others from being asked.
        place.write("odd.yaml", &ORDER.replace("name: order", "name: odd"));
        let args = ["saga", "start", "odd.yaml", "--key", "odd", "--json"];
        let odd = place.json(&[&args[..], &STORE].concat());
        let odd = Operator { place: &place, id: odd["id"].as_str().unwrap().to_owned() };
        odd.becomes(("running", "timer"));
        let newer =
            "UPDATE onewrite_saga_definition SET definition = '{\"odd\": 1}' WHERE name = 'odd'";
        execute(&place.path("sagas.db"), newer);
        let refused = json(&["retry", "--step", "charge", "--state", "running"]);
        assert_eq!((&refused["done"], &refused["refused"]), (&json!(0), &json!(9)), "{refused}");
        assert!(refused["why"].to_string().contains("unknown field `odd`"), "{refused}");
        execute(
            &place.path("sagas.db"),
            "UPDATE onewrite_saga SET ended_at = started_at, state = 'completed' WHERE name = 'odd'",
        );
        place.run(&bulk(&["pause"])).refused("OW0007", &["say which"]);
        place.run(&bulk(&["retry", "--name", "order"])).refused("OW0007", &["--step"]);
    });
    let why = json!({"reason": "so", "actor": "ann"});
    let cancel = |query: &str| format!("{url}/v1/bulk/cancel{query}");
    let (status, problem) = ask(&client, Method::POST, cancel(""), Some(&why)).await;
    assert_eq!(status, 422, "{problem}");
    let (status, done) =
        ask(&client, Method::POST, cancel("?state=running&key=k-3"), Some(&why)).await;
    assert_eq!((status.as_u16(), &done["done"]), (200, &json!(1)), "{done}");
    let (status, done) = ask(&client, Method::POST, cancel("?state=running"), Some(&why)).await;
    assert_eq!((status.as_u16(), &done["done"]), (200, &json!(7)), "{done}");
    block_in_place(|| drop(server.process.terminate().ok()));
}

/// A saga whose step is being tried, by a participant that does not answer; how a retry over HTTP is answered. And what
/// has to be kept for that.
async fn tried_again(place: &Place) -> (Operator<'_>, reqwest::StatusCode, Value, impl Sized) {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bank = format!("bank=http://{}", silent.local_addr().unwrap());
    let args = ["--participant", &bank, "--allow-private"];
    let server = block_in_place(|| serve(place, anywhere(), &args));
    let saga = block_in_place(|| Operator::start(place, "k-1"));
    let attempt = silent.accept().await.unwrap();
    let route = format!("{}/v1/sagas/{}/retry", server.url, saga.id);
    let why = json!({"step": "charge", "reason": "so"});
    let (status, answer) = ask(&Client::new(), Method::POST, route, Some(&why)).await;
    (saga, status, answer, (server, attempt, silent))
}

/// Who wants tried what is being tried is told so, by the server that tries it and on the command line.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_under_way_is_not_made_again() {
    let place = Place::new();
    place.write("order.yaml", ORDER);
    let (saga, status, problem, _kept) = tried_again(&place).await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("OW0039")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("is being tried"), "{problem}");
    block_in_place(|| saga.cannot_retry("charge", "is being tried"));
    let journal = block_in_place(|| saga.show())["journal"].to_string();
    assert!(!journal.contains("retried"), "{journal}");
}

#[cfg(feature = "sabotage")]
#[tokio::test(flavor = "multi_thread")]
async fn a_promise_to_try_again_what_is_being_tried_is_noticed() {
    let place = Place::with_defect(onewrite::sabotage::Defect::PromiseRetry);
    place.write("order.yaml", ORDER);
    let (saga, status, answer, _kept) = tried_again(&place).await;
    assert_eq!(status, 204, "{answer}");
    let journal = block_in_place(|| saga.show())["journal"].to_string();
    assert!(!journal.contains("retried"), "nothing follows: {journal}");
}

/// Nothing is asked of who is held, by any process; what waits goes on once it is released.
#[tokio::test(flavor = "multi_thread")]
async fn a_participant_is_held_and_released() {
    let (place, client) = (Place::new(), Client::new());
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let act = move || async move {
        *count.lock().unwrap() += 1;
        [("onewrite-outcome", "done")]
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bank = format!("bank=http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/charge", post(act));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let server =
        block_in_place(|| serve(&place, anywhere(), &["--participant", &bank, "--allow-private"]));
    let url = &server.url;
    let verb = |name: &str| {
        let args = ["participant", name, "bank", "--reason", "it is down", "--actor", "ann"];
        block_in_place(|| place.json(&[&args[..], &STORE, &["--json"]].concat()))
    };
    assert_eq!(verb("hold")["done"], "bank is held");
    assert_eq!(verb("hold")["done"], "bank was held before");
    let (_, held) = ask(&client, Method::GET, format!("{url}/v1/holds"), None).await;
    assert_eq!(
        (&held["holds"][0]["participant"], &held["holds"][0]["actor"]),
        (&json!("bank"), &json!("ann"))
    );
    // A process that starts now knows of it before it asks anybody.
    block_in_place(|| drop(server.process.terminate().ok()));
    let server =
        block_in_place(|| serve(&place, anywhere(), &["--participant", &bank, "--allow-private"]));
    let url = &server.url;
    let charge = json!({"name": "s", "steps": [{"name": "charge", "action": "bank.charge", "compensation": {"none": "x"}}]});
    let body = json!({"definition": charge, "key": "k"});
    let (_, started) = ask(&client, Method::POST, format!("{url}/v1/sagas"), Some(&body)).await;
    let id = started["id"].as_str().unwrap();
    // Another one that asks somebody else goes through meanwhile: there was time enough.
    let nap = json!({"name": "nap", "steps": [{"name": "rest", "wait": {"for_ms": 1500}, "compensation": {"none": "x"}}]});
    let body = json!({"definition": nap, "key": "k"});
    let (_, other) = ask(&client, Method::POST, format!("{url}/v1/sagas"), Some(&body)).await;
    let other = other["id"].as_str().unwrap();
    let until = std::time::Instant::now() + PATIENCE;
    while state(&client, url, other).await != "completed" {
        assert!(std::time::Instant::now() < until, "it is not over");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!((state(&client, url, id).await, *asked.lock().unwrap()), ("running".into(), 0));
    let (_, saga) = ask(&client, Method::GET, format!("{url}/v1/sagas/{id}"), None).await;
    let open = &saga["open_steps"][0];
    assert_eq!(
        (&open["participant"], &open["held"]["actor"]),
        (&json!("bank.charge"), &json!("ann")),
        "{saga}"
    );
    let shown = block_in_place(|| place.run(&[&["saga", "show", id][..], &STORE].concat()));
    assert!(shown.ok().out.contains("charge, by bank.charge; bank is held by ann: it is down"));
    let retry = Operator { place: &place, id: id.to_owned() };
    block_in_place(|| {
        retry.cannot_retry("charge", "bank is held by ann: it is down; no attempt begins");
        retry.says("pause", &[]);
        retry.cannot_retry("charge", "it is paused: resume it");
        retry.says("resume", &[]);
    });
    let why = json!({"participant": "bank", "reason": "it is back"});
    let (_, released) =
        ask(&client, Method::POST, format!("{url}/v1/holds/release"), Some(&why)).await;
    assert_eq!(released["held"], json!(true));
    while state(&client, url, id).await != "completed" {
        assert!(std::time::Instant::now() < until, "it is not asked");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(*asked.lock().unwrap(), 1);
    assert_eq!(verb("release")["done"], "bank was not held");
    block_in_place(|| a_name_that_nobody_has_is_doubted(&place));
    for (participant, known) in [("bank", true), ("bank.charge", true), ("bnak", false)] {
        let body = json!({"participant": participant, "reason": "so"});
        for route in ["holds", "holds/release"] {
            let route = format!("{url}/v1/{route}");
            let (_, said) = ask(&client, Method::POST, route, Some(&body)).await;
            assert_eq!(said["known"], json!(known || said["held"] == json!(true)), "{said}");
        }
    }
    block_in_place(|| drop(server.process.terminate().ok()));
}

/// It is held all the same: a saga that names it may be started yet.
fn a_name_that_nobody_has_is_doubted(place: &Place) {
    let verb = |name: &str, who: &str, more: &[&str]| {
        let args = ["participant", name, who, "--reason", "so"];
        place.run(&[&args[..], &STORE, more].concat()).ok()
    };
    let held = verb("hold", "bnak", &[]);
    assert_eq!(held.out, "bnak is held\n");
    let warning =
        "warning: none of the store's latest sagas names `bnak`; they name `bank.charge`\n";
    assert_eq!(held.err, warning);
    assert_eq!(verb("release", "bnak", &[]).err, "", "it was there");
    assert_eq!(verb("release", "bnak", &[]).err, warning);
    let told: Value = serde_json::from_str(&verb("hold", "bnak", &["--json"]).out).unwrap();
    assert_eq!(told["done"], "bnak is held");
    assert!(told["warning"].as_str().unwrap().contains("`bnak`"), "{told}");
    verb("release", "bnak", &[]);
    verb("hold", "bank.charge", &[]);
    let released = verb("release", "bank", &["--actor", "ann"]);
    assert_eq!(released.out, "bank was not held\n");
    assert!(released.err.starts_with("warning: bank.charge is held by "), "{}", released.err);
    verb("hold", "bank", &[]);
    let released = verb("release", "bank.charge", &[]);
    assert_eq!(released.out, "bank.charge is released\n");
    assert!(released.err.starts_with("warning: bank is held by "), "{}", released.err);
    verb("release", "bank", &[]);
    assert_eq!(verb("hold", "bank", &[]).err, "");
    verb("release", "bank", &[]);
}

#[test]
fn a_definition_is_checked_and_drawn() {
    let place = Place::new();
    place.write("order.yaml", ORDER);
    place.write("bad.yaml", &ORDER.replace("wait:", "waits:"));
    place.write("worse.json", "{\"name\": \"s\",\n \"steps\": []}");
    let good = place.run(&["saga", "check", "order.yaml"]).ok();
    assert!(good.out.starts_with("order.yaml: good: order@"), "{good:?}");
    let bad = place.run(&["saga", "check", "order.yaml", "bad.yaml", "worse.json"]);
    assert_eq!(bad.code, Some(1));
    assert!(bad.out.contains("bad.yaml:9:5: unknown field `waits`"), "{bad:?}");
    assert!(bad.out.contains("worse.json:2:2: it has no steps"), "{bad:?}");
    let told = place.run(&["saga", "check", "bad.yaml", "--json"]);
    let told: Value = serde_json::from_str(&told.out).unwrap();
    let mistake = &told[0]["mistakes"][0];
    assert_eq!((&mistake["line"], &mistake["column"]), (&json!(9), &json!(5)), "{told}");
    assert_eq!(mistake["at"], "/steps/1/waits");
    let svg = place.run(&["saga", "graph", "order.yaml"]).ok();
    assert!(svg.out.starts_with("<svg") && svg.out.contains("bank.refund"), "{}", svg.out);
    let mermaid = place.run(&["saga", "graph", "order.yaml", "--format", "mermaid"]).ok();
    assert!(mermaid.out.starts_with("flowchart"), "{}", mermaid.out);
    place.run(&["saga", "graph", "bad.yaml"]).refused("OW0032", &["bad.yaml:9:5"]);
    place.run(&["saga", "graph", "missing.yaml"]).refused("OW0007", &["missing.yaml"]);
    let start =
        ["saga", "start", "order.yaml", "--key", "k", "--input", "{", "--store", "sqlite:none.db"];
    place.run(&start).refused("OW0007", &["input"]);
}

#[test]
fn the_definition_of_the_book_is_good() {
    let book = std::fs::read_to_string(crate::services::repository("book/src/serve.md")).unwrap();
    let block = book.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let place = Place::new();
    place.write("order.yaml", block);
    let good = place.run(&["saga", "check", "order.yaml"]).ok();
    assert!(good.out.contains("2 steps"), "{good:?}");
}

/// The published schema and what is read say the same: every field that one knows the other knows.
#[test]
fn the_schema_knows_the_fields_that_are_read() {
    let place = Place::new();
    let schema = place.run(&["saga", "schema"]).ok();
    let schema: Value = serde_json::from_str(&schema.out).unwrap();
    let fields = |at: &str| {
        let all = schema.pointer(at).unwrap_or_else(|| panic!("{at}")).as_object().unwrap();
        let mut all: Vec<String> = all.keys().cloned().collect();
        all.sort();
        all
    };
    for (at, text) in [
        ("/properties", "{x: 1}".to_owned()),
        ("/$defs/step/properties", ORDER.replace("action:", "x:")),
        ("/$defs/retry/properties", ORDER.replace("initial_ms:", "x:")),
    ] {
        place.write("x.yaml", &text);
        let said = place.run(&["saga", "check", "x.yaml"]).out;
        let said = said.lines().find(|line| line.contains("unknown field")).unwrap();
        let mut read: Vec<&str> = said.split('`').skip(1).step_by(2).skip(1).collect();
        read.sort_unstable();
        assert_eq!(read, fields(at), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_is_started_by_the_name_of_its_definition() {
    let (place, client) = (Place::new(), Client::new());
    std::fs::create_dir(place.path("sagas")).unwrap();
    let rest = "steps:\n  - {name: rest, wait: {for_ms: 1}, compensation: {none: x}}\n";
    place.write("sagas/a.yaml", &format!("name: nap\nversion: '1'\n{rest}"));
    place.write("sagas/b.yml", &format!("name: nap\nversion: '2'\n{rest}"));
    place.write("sagas/c.json", r#"{"name": "break", "steps": [{"name": "rest", "wait": {"for_ms": 1}, "compensation": {"none": "x"}}]}"#);
    place.write("sagas/notes.txt", "not a definition");
    let named = ["--definitions", "sagas"];
    let server = block_in_place(|| serve(&place, anywhere(), &named));
    let url = format!("{}/v1/sagas", server.url);
    for (name, status, said) in [
        ("break", 201, "break"),
        ("nap@2", 201, "nap"),
        ("nap", 422, "nap@1, nap@2"),
        ("nap@3", 422, "nap@1, nap@2"),
        ("sleep", 404, "sleep"),
    ] {
        let body = json!({"definition": name, "key": name, "wait_ms": 30_000});
        let (found, answer) = ask(&client, Method::POST, url.clone(), Some(&body)).await;
        assert_eq!(found.as_u16(), status, "{answer}");
        assert!(answer.to_string().contains(said), "{answer}");
        let ended = if status == 201 { json!("completed") } else { Value::Null };
        assert_eq!(answer["state"], ended, "{answer}");
    }
    block_in_place(|| drop(server.process.terminate().ok()));
    place.write("sagas/d.yaml", "name: bad\nsteps: []\n");
    let serve = |more: &[&str]| place.run(&[&["serve"][..], &STORE, more].concat());
    serve(&named).refused("OW0032", &["sagas/d.yaml:2:1: it has no steps"]);
    place.write("sagas/d.yaml", ORDER);
    serve(&named).refused("OW0034", &["bank.charge"]);
    place.write("sagas/d.yaml", &format!("name: nap\nversion: '1'\n{rest}"));
    serve(&named).refused("OW0023", &["nap@1"]);
    serve(&["--definitions", "nowhere"]).refused("OW0023", &["nowhere"]);
}

/// Why it was compensated stands in the answer: a step's no, a person's decision, or its time.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_saga_that_is_compensated_is_told_why() {
    let (place, client) = (Place::new(), Client::new());
    let no = || async { ([("onewrite-outcome", "failed")], "the card is blocked") };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bank = format!("bank=http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/charge", post(no));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let args = ["--participant", &bank, "--allow-private"];
    let server = block_in_place(|| serve(&place, anywhere(), &args));
    let url = format!("{}/v1/sagas", server.url);
    let none = json!({"none": "nothing was done"});
    let refused = json!({"name": "refused", "steps": [{"name": "charge", "action": "bank.charge", "compensation": none}]});
    let late = json!({"name": "late", "timeout_ms": 50, "steps": [{"name": "rest", "wait": {"for_ms": 60_000}, "compensation": none}]});
    for (definition, why) in [
        (refused, json!({"step": "charge", "reason": "the card is blocked"})),
        (late, json!({"reason": "it was not done in time"})),
    ] {
        let body = json!({"definition": definition, "key": "k", "wait_ms": 30_000});
        // The second answer is about a saga that ended before.
        for status in [201, 200] {
            let (found, answer) = ask(&client, Method::POST, url.clone(), Some(&body)).await;
            assert_eq!(
                (found.as_u16(), &answer["state"]),
                (status, &json!("compensated")),
                "{answer}"
            );
            assert_eq!(answer["why"], why, "{answer}");
        }
    }
    let rest = json!({"name": "cancelled", "steps": [{"name": "rest", "wait": {"for_ms": 60_000}, "compensation": none}]});
    let body = |wait_ms: u64| json!({"definition": rest, "key": "k", "wait_ms": wait_ms});
    let (_, started) = ask(&client, Method::POST, url.clone(), Some(&body(0))).await;
    assert!(started.get("why").is_none(), "{started}");
    let cancel = format!("{url}/{}/cancel", started["id"].as_str().unwrap());
    let wish = json!({"reason": "a mistake", "actor": "ann"});
    assert_eq!(ask(&client, Method::POST, cancel, Some(&wish)).await.0, 204);
    let (_, answer) = ask(&client, Method::POST, url, Some(&body(30_000))).await;
    assert_eq!(answer["why"], json!({"reason": "cancelled by ann: a mistake"}), "{answer}");
    block_in_place(|| drop(server.process.terminate().ok()));
}

/// Somebody who works for long says that it is done, and is asked at once instead of in an hour.
#[tokio::test(flavor = "multi_thread")]
async fn who_works_for_long_says_when_it_is_done() {
    let (place, client) = (Place::new(), Client::new());
    let places = Arc::new(Mutex::new(Vec::<String>::new()));
    let seen = Arc::clone(&places);
    let act = move |headers: HeaderMap| async move {
        let mut seen = seen.lock().unwrap();
        seen.push(headers["onewrite-look"].to_str().unwrap().to_owned());
        match seen.len() {
            1 => (
                axum::http::StatusCode::ACCEPTED,
                [("onewrite-outcome", "in-progress"), ("retry-after", "3600")],
            ),
            _ => (axum::http::StatusCode::OK, [("onewrite-outcome", "done"), ("x-none", "")]),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let yard = format!("yard=http://{}", listener.local_addr().unwrap());
    tokio::spawn(
        async move { axum::serve(listener, Router::new().route("/build", post(act))).await },
    );
    let listen = crate::support::free_address();
    let public = format!("http://{listen}/");
    let args = [
        "--participant",
        &yard,
        "--allow-private",
        "--public-url",
        &public,
        "--token",
        "yard:participant=START",
        "--token",
        "ann:operator=STEER",
    ];
    let server = block_in_place(|| serve(&place, listen, &args));
    let ship = json!({"name": "ship", "steps": [{"name": "build", "action": "yard.build", "compensation": {"none": "x"}}]});
    let body = json!({"definition": ship, "key": "k"});
    let request =
        client.post(format!("{}/v1/sagas", server.url)).bearer_auth("steering-is-for-a-few");
    let started = request.json_body(&body).send().await.unwrap().text().await.unwrap();
    let started: Value = serde_json::from_str(&started).unwrap();
    let show = format!("{}/v1/sagas/{}", server.url, started["id"].as_str().unwrap());
    let shown = async || {
        let sent = client.get(&show).bearer_auth("steering-is-for-a-few").send().await.unwrap();
        serde_json::from_str::<Value>(&sent.text().await.unwrap()).unwrap()
    };
    let until = std::time::Instant::now() + PATIENCE;
    while shown().await["waits"] != "timer" {
        assert!(std::time::Instant::now() < until, "it is not under way");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let look = places.lock().unwrap()[0].clone();
    assert!(look.starts_with(&format!("http://{listen}/v1/sagas/")), "{look}");
    let says = async |token: &str, to: String| {
        client.post(to).bearer_auth(token).send().await.unwrap().status()
    };
    assert_eq!(says("guessed-but-long-enough", look.clone()).await, 401);
    // Who takes part may do nothing else.
    assert_eq!(
        client.get(&show).bearer_auth("starting-is-also-fine").send().await.unwrap().status(),
        403
    );
    let late = look.clone();
    assert_eq!(says("starting-is-also-fine", look).await, 204);
    while shown().await["state"] != "completed" {
        assert!(std::time::Instant::now() < until, "it is not asked");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(says("starting-is-also-fine", late).await, 204, "it may come twice, and late");
    block_in_place(|| drop(server.process.terminate().ok()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_expired_opens_nothing() {
    let (place, client) = (Place::new(), Client::new());
    let args = [
        "--token",
        "old:reader=READ@2020-01-01T00:00:00Z",
        "--token",
        "ann:reader=START@2100-01-01T00:00:00Z",
    ];
    let server = block_in_place(|| serve(&place, anywhere(), &args));
    let said = block_in_place(|| server.process.says("has expired"));
    assert!(said.contains("old (reader) until 2020-01-01T00:00:00Z"), "{said}");
    assert!(!server.process.said().contains("ann") && !said.contains("reading-is"), "{said}");
    let get = async |token: &str| {
        let request = client.get(format!("{}/v1/sagas", server.url)).bearer_auth(token);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, said) = get("reading-is-harmless-0").await;
    assert!(status == 401 && said.contains("expired"), "{status} {said}");
    assert_eq!(get("starting-is-also-fine").await.0, 200);
    block_in_place(|| drop(server.process.terminate().ok()));
    let mut command = place.command(&[&["serve"][..], &STORE, &args[..2]].concat());
    let all = Run::of_ref(command.env("READ", "reading-is-harmless-0"));
    all.refused("OW0023", &["every token has expired: old (reader)"]);
    assert!(!all.err.contains("reading-is-harmless"), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_only_clients_with_a_certificate_are_let_in() {
    let (place, files) = (Place::new(), Certificates::make());
    let [ca, cert, key] = ["ca.crt", "server.crt", "server.key"].map(|name| files.file(name));
    let args = ["--tls-cert", &cert, "--tls-key", &key, "--client-ca", &ca];
    let server = block_in_place(|| serve(&place, anywhere(), &args));
    let port = server.url.rsplit(':').next().unwrap().to_owned();
    assert!(server.url.starts_with("https://"), "{}", server.url);
    let read = |path: &str| std::fs::read(path).unwrap();
    let client = || {
        let trusted = Certificate::from_pem(&read(&ca)).unwrap();
        Client::builder().use_rustls_tls().add_root_certificate(trusted)
    };
    let get = |client: reqwest::ClientBuilder| {
        client.build().unwrap().get(format!("https://localhost:{port}/v1/sagas")).send()
    };
    let both = [read(&key), read(&cert)].concat();
    let known = get(client().identity(Identity::from_pem(&both).unwrap())).await.unwrap();
    assert_eq!(known.status(), 200);
    get(client()).await.unwrap_err();
    let said = block_in_place(|| server.process.says("TLS handshakes failed"));
    assert!(said.contains("count=1") && said.contains("127.0.0.1:"), "{said}");
    assert!(said.contains("certificate"), "{said}");
    // Who fails right after it is counted, and not told.
    get(client()).await.unwrap_err();
    get(client().identity(Identity::from_pem(&both).unwrap())).await.unwrap();
    let run = block_in_place(|| server.process.terminate().ok());
    assert_eq!(run.err.matches("TLS handshakes failed").count(), 1, "{}", run.err);
    let serve = |args: &[&str]| place.run(&[&["serve"][..], &STORE, args].concat());
    serve(&["--tls-cert", &cert, "--tls-key", "none.key"]).refused("OW0023", &["none.key"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_archived_and_then_deleted() {
    let (place, client) = (Place::new(), Client::new());
    // Who repeats a start that was not answered is not to start it anew.
    for short in ["0s", "59s"] {
        let args = ["serve", "--store", "sqlite:sagas.db", "--retention", short];
        place.run(&args).refused("OW0023", &["--retention", "at least 1min", "forever"]);
    }
    let args = ["--retention", "1m", "--archive", "old"];
    let server = block_in_place(|| serve(&place, anywhere(), &args));
    let nap = json!({"name": "nap", "steps": [{"name": "rest", "wait": {"for_ms": 1}, "compensation": {"none": "x"}}]});
    let url = format!("{}/v1/sagas", server.url);
    // Printed over several lines, it is one line there.
    let body = format!(
        r#"{{"definition": {nap}, "key": "k", "wait_ms": 30000, "input": {{{}"dream": 1}}}}"#,
        "\n\r\n  "
    );
    let sent = client
        .post(url)
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .unwrap();
    let started: Value = serde_json::from_str(&sent.text().await.unwrap()).unwrap();
    assert_eq!(started["state"], json!("completed"), "{started}");
    block_in_place(|| {
        // Long ago.
        execute(&place.path("sagas.db"), "UPDATE onewrite_saga SET ended_at = 0");
        eventually("it is gone", || {
            let list = ["saga", "list", "--json"];
            place.json(&[&list[..], &STORE].concat())["sagas"] == json!([])
        });
        let file = std::fs::read_dir(place.path("old")).unwrap().next().unwrap().unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let kept: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((&kept["id"], &kept["input"]), (&started["id"], &json!({"dream": 1})));
        assert_eq!((&kept["state"], text.lines().count()), (&json!("completed"), 1));
        server.process.terminate().ok();
    });
}

/// Stubs bear everything; a service that is not idempotent is named, and so is what a check finds.
#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_tried_with_everything_that_can_go_wrong() {
    let place = Place::new();
    place.write("order.yaml", ORDER);
    block_in_place(|| {
        let stubs = place.json(&["saga", "test", "order.yaml", "--input", r#"{"n":1}"#, "--json"]);
        let runs = stubs["runs"].as_array().unwrap();
        assert_eq!((runs.len(), &stubs["caught"]), (8, &json!(0)), "{stubs}");
        let ended = |fault: &str| {
            let run = runs.iter().find(|run| run["fault"].as_str().unwrap().contains(fault));
            run.unwrap()["ended"].as_str().unwrap().to_owned()
        };
        assert_eq!(
            (ended("nothing goes wrong"), ended("says no")),
            ("completed".into(), "compensated".into())
        );
        let checked = place.run(&[
            "saga",
            "test",
            "order.yaml",
            "--check",
            "test $ONEWRITE_STATE = completed || { echo something is left; exit 1; }",
        ]);
        assert_eq!(checked.code, Some(1));
        assert!(checked.out.contains("something is left"), "{checked:?}");
        place
            .run(&["saga", "test", "order.yaml", "--stub", "nobody=1"])
            .refused("OW0007", &["--stub"]);
    });
    let count = Arc::new(Mutex::new(0));
    let act = move || async move {
        let mut count = count.lock().unwrap();
        *count += 1;
        ([("onewrite-outcome", "done")], count.to_string())
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bank = format!("bank=http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/{step}", post(act));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let args = ["saga", "test", "order.yaml", "--participant", &bank, "--allow-private"];
    let caught = block_in_place(|| place.run(&args));
    assert_eq!(caught.code, Some(1), "{caught:?}");
    assert!(caught.out.contains("`charge` is not idempotent"), "{caught:?}");
}
