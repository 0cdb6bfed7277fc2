//! Definitions that cannot be read or run: what is wrong with them is said in our words, and where.

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::{
    serve::{anywhere, ask, serve},
    support::Place,
};

/// Over HTTP each mistake has its place in the request, as in a file it has its line.
#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_in_a_definition_that_is_sent_has_its_place() {
    let (place, client) = (Place::new(), Client::new());
    let server = block_in_place(|| serve(&place, anywhere(), &[]));
    let url = format!("{}/v1/sagas", server.url);
    let step =
        json!({"name": "a", "retry": {"attempts_max": "many"}, "compensation": {"none": "x"}});
    for (definition, expected) in [
        (
            json!({"name": 7, "steps": [step]}),
            &[
                ("/definition/name", "must be a text"),
                ("/definition/steps/0/retry/attempts_max", "must be a whole number"),
            ][..],
        ),
        (
            json!({"name": "s", "steps": [["a", null, null]]}),
            &[("/definition/steps/0", "must be an object, and is a list")],
        ),
        (json!(["s", null, []]), &[("/definition", "a definition has a name and steps")]),
        (json!({"name": "s", "steps": []}), &[("/definition/steps", "it has no steps")]),
    ] {
        let body = json!({"definition": definition, "key": "k"});
        let (status, problem) = ask(&client, Method::POST, url.clone(), Some(&body)).await;
        assert_eq!((status.as_u16(), &problem["code"]), (422, &json!("OW0032")), "{problem}");
        let errors = problem["errors"].as_array().unwrap();
        assert_eq!(errors.len(), expected.len(), "{problem}");
        for (error, (pointer, what)) in errors.iter().zip(expected) {
            assert_eq!(error["pointer"], *pointer, "{problem}");
            assert!(error["detail"].as_str().unwrap().contains(what), "{problem}");
        }
        assert!(!problem.to_string().contains("expected"), "in the words of Rust: {problem}");
    }
    let twice = r#"{"definition": {"name": "s", "name": "t", "steps": []}, "key": "k"}"#;
    let sent = client.post(&url).header("content-type", "application/json").body(twice);
    let problem = sent.send().await.unwrap().text().await.unwrap();
    assert!(problem.contains("the key `name` is there twice"), "{problem}");
    let (status, problem) =
        ask(&client, Method::POST, url, Some(&json!(["order", "k", Value::Null, 0]))).await;
    assert_eq!((status.as_u16(), &problem["code"]), (422, &json!("OW0007")), "{problem}");
    block_in_place(|| drop(server.process.terminate().ok()));
}

/// A file that is not there keeps no other from being looked at.
#[test]
fn a_file_that_cannot_be_read_is_one_of_the_mistakes() {
    let place = Place::new();
    let good = "name: nap\nsteps:\n  - {name: rest, wait: {for_ms: 1}, compensation: {none: x}}\n";
    place.write("good.yaml", good);
    place.write("bad.yaml", "name: nap\nsteps: []\n");
    let files = ["saga", "check", "good.yaml", "missing.yaml", "bad.yaml", "gone.yaml"];
    let found = place.run(&files);
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(found.out.contains("good.yaml: good: nap@"), "{found:?}");
    assert!(found.out.contains("bad.yaml:2:1: it has no steps"), "{found:?}");
    for missing in ["missing.yaml", "gone.yaml"] {
        assert!(found.err.contains(&format!("read the definition in {missing}")), "{found:?}");
    }
    let all = place.run(&[&files[..], &["--json"]].concat());
    let all: Value = serde_json::from_str(&all.out).unwrap();
    let oks: Vec<&Value> = all.as_array().unwrap().iter().map(|one| &one["ok"]).collect();
    assert_eq!(oks, [&json!(true), &json!(false), &json!(false), &json!(false)], "{all}");
    assert!(all[1]["mistakes"][0]["what"].as_str().unwrap().contains("OW0007"), "{all}");
    place.run(&["saga", "check", "missing.yaml"]).refused("OW0007", &["missing.yaml"]);
    assert_eq!(place.run(&["saga", "check", "good.yaml", "good.yaml"]).code, Some(0));
}

/// What the signal is about is what an earlier step answered: known only when it is waited for.
const TRIP: &str = "name: trip
steps:
  - {name: book, action: 'https://agency.invalid/book', compensation: {by: 'https://agency.invalid/cancel'}}
  - name: paid
    wait: {signal: {name: payment, correlation: /steps/book/id}}
    step_timeout_ms: 600000
    compensation: {none: it only waits}
  - {name: ticket, kind: pivot, action: 'http://127.0.0.1:1/ticket', compensation: {none: its no is final}}
output: /steps/paid/cents
";

#[test]
fn what_waits_for_a_signal_is_tried_with_it_and_stubs_stand_in_for_urls() {
    let place = Place::new();
    place.write("trip.yaml", TRIP);
    let test = |more: &[&str]| place.run(&[&["saga", "test", "trip.yaml"][..], more].concat());
    test(&["--stub-all"]).refused("OW0007", &["`paid`", "--signal payment=JSON"]);
    let signal = ["--signal", r#"payment={"cents": 1}"#, "--stub", r#"book={"id": 7}"#];
    let with = |more: &[&str]| test(&[&signal[..], more].concat());
    // The ticket's address is private, and it is asked.
    with(&[]).refused("OW0024", &["127.0.0.1"]);
    for stubs in [&["--stub", "ticket"][..], &["--stub-all"]] {
        let run = with(&[stubs, &["--json"]].concat()).ok();
        let tried: Value = serde_json::from_str(&run.out).unwrap();
        let runs = tried["runs"].as_array().unwrap();
        assert_eq!((runs.len(), &tried["caught"]), (13, &json!(0)), "{tried}");
        assert_eq!(runs[0]["ended"], "completed", "{tried}");
        let of_wait = runs.iter().filter(|run| run["step"] == "paid").count();
        assert_eq!(of_wait, 0, "nothing goes wrong at a wait");
    }
    with(&["--stub-all", "--signal", "refund=1"]).refused("OW0007", &["`refund`"]);
    with(&["--stub-all", "--signal", "payment"]).refused("OW0007", &["NAME=JSON"]);
    with(&["--stub", "nobody"]).refused("OW0007", &["`nobody`"]);
    // Nobody said no: what the step is given is not there.
    place.write("lost.yaml", "name: lost\nsteps:\n  - {name: pay, action: bank, input: /input/cents, compensation: {none: x}}\n");
    let run = place.run(&["saga", "test", "lost.yaml", "--json"]);
    let tried: Value = serde_json::from_str(&run.out).unwrap();
    let caught = tried["runs"][0]["caught"].as_str().unwrap();
    assert!(caught.contains("`pay` failed: ") && caught.contains("/input/cents"), "{tried}");
}
