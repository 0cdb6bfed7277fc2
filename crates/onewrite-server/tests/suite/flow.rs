//! `flow` and `why`: the whole story, the graph, and where something is.

use std::sync::OnceLock;

use onewrite::Event;
use serde_json::Value;

use crate::support::{Place, emit, event, eventually, execute, free_address, number, texts};

/// A shop that took sixty orders and closed: its stores and configuration lie in `kept`.
fn shop() -> &'static Place {
    static SHOP: OnceLock<Place> = OnceLock::new();
    SHOP.get_or_init(|| {
        let place = Place::new();
        place.run(&["demo", "--orders", "60", "--chaos", "0", "--dir", "kept"]).ok();
        place
    })
}

const CONFIG: [&str; 2] = ["--config", "kept/onewrite.toml"];

fn ask(args: &[&str]) -> String {
    shop().run(&[args, &CONFIG].concat()).ok().out
}

fn ask_json(args: &[&str]) -> Value {
    shop().json(&[args, &CONFIG, &["--json"]].concat())
}

/// The order that ended like this, and why.
fn ended(state: &str, reason: &str) -> String {
    let sql = format!(
        "SELECT id FROM orders WHERE state = '{state}' AND reason = '{reason}' ORDER BY id"
    );
    texts(&shop().path("kept/order.db"), &sql).swap_remove(0)
}

/// The types of a story, which is a line of causes.
fn line(story: &Value) -> Vec<&str> {
    let mut kinds = Vec::new();
    let mut here = &story[0];
    while let Some(kind) = here["type"].as_str() {
        kinds.push(kind);
        assert!(here["effects"].as_array().unwrap().len() <= 1, "{here}");
        here = &here["effects"][0];
    }
    kinds
}

#[test]
fn the_story_of_an_order_is_told_across_all_stores() {
    let order = ended("completed", "ShippingScheduled");
    let text = ask(&["flow", &order]);
    let lines: Vec<&str> = text.lines().collect();
    let good = [
        "OrderCreated",
        "PaymentCompleted",
        "StockReserved",
        "ShippingScheduled",
        "OrderCompleted",
    ];
    assert_eq!(lines.len(), good.len(), "{text}");
    for (depth, (found, kind)) in lines.iter().zip(good).enumerate() {
        assert!(found.contains(kind) && found.contains(" ms"), "{kind}: {text}");
        assert_eq!(found.contains("└─"), depth > 0, "{text}");
    }
    assert!(lines[0].contains("(order)") && lines[1].contains("(payment)"), "{text}");
    let story = ask_json(&["flow", &order]);
    assert_eq!(line(&story), good);
    assert_eq!((&story[0]["source"], &story[0]["in"]), (&"order".into(), &"log".into()));
}

#[test]
fn the_story_of_an_order_that_was_undone_shows_how() {
    let story = ask_json(&["flow", &ended("cancelled", "PaymentRefunded")]);
    let kinds = line(&story);
    assert_eq!(kinds[..2], ["OrderCreated", "PaymentCompleted"], "{kinds:?}");
    assert_eq!(kinds[kinds.len() - 2..], ["PaymentRefunded", "OrderCancelled"], "{kinds:?}");
}

#[test]
fn the_graph_lists_what_causes_what_and_finds_no_cycle_in_the_shop() {
    let text = ask(&["flow", "--graph"]);
    let edge = |line: &&str| line.contains("OrderCreated") && line.contains("PaymentCompleted");
    assert!(text.lines().any(|line| edge(&line)), "{text}");
    assert!(text.trim_end().ends_with("no cycle"), "{text}");
    let graph = ask_json(&["flow", "--graph"]);
    assert_eq!(graph["cycles"], serde_json::json!([]));
    let edges = graph["edges"].as_array().unwrap();
    let edge = edges.iter().find(|edge| edge["effect"] == "StockReserved").unwrap();
    assert_eq!((&edge["cause"], &edge["source"]), (&"PaymentCompleted".into(), &"stock".into()));
    assert!(edge["times"].as_u64().unwrap() > 30, "{edge}");
}

#[test]
fn a_cycle_across_stores_is_named() {
    let place = Place::new();
    for store in ["one", "two"] {
        place.run(&["store", "init", "--store", &format!("sqlite:{store}.db")]).ok();
    }
    let named =
        |kind: &'static str, id: &'static str| Event { id: Some(id.into()), ..event(kind, "a", 1) };
    let asked = named("Asked", "e-1");
    let answered = named("Answered", "e-2").caused_by(&asked);
    emit(&place.path("one.db"), &[asked, named("Asked", "e-3").caused_by(&answered)]);
    emit(&place.path("two.db"), &[answered]);
    let both = ["--store", "sqlite:one.db", "--store", "sqlite:two.db"];
    let text = place.run(&[&["flow", "--graph"], &both[..]].concat()).ok().out;
    assert!(text.contains("CYCLE: Answered → Asked → Answered"), "{text}");
    let graph = place.json(&[&["flow", "--graph", "--json"], &both[..]].concat());
    assert_eq!(graph["cycles"], serde_json::json!([["Answered", "Asked"]]));
    // Its story is told all the same.
    let text = place.run(&[&["flow", "e-1"], &both[..]].concat()).ok().out;
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn why_says_where_a_delivered_event_is() {
    let order = ended("completed", "ShippingScheduled");
    let story = ask_json(&["flow", &order]);
    let id = story[0]["id"].as_str().unwrap();
    let text = ask(&["why", id]);
    assert!(text.contains("OrderCreated") && text.contains("settled for sink payment"), "{text}");
    let answers = ask_json(&["why", id]);
    assert_eq!((&answers[0]["event"], &answers[0]["store"]), (&id.into(), &"order".into()));
    let key = story[0]["key"].as_str().unwrap();
    assert!(ask(&["why", key]).lines().count() >= 5, "by key, in every store");
}

#[test]
fn why_sends_who_names_a_correlation_id_to_its_story() {
    let place = Place::with_store();
    let named = Event { correlation_id: Some("o-1".into()), ..event("Made", "a", 1) };
    emit(&place.path("shop.db"), &[named]);
    let run = place.run(&["why", "o-1", "--store", "sqlite:shop.db"]);
    run.refused("OW0026", &["is a correlation id", "`onewrite flow o-1`"]);
}

#[test]
fn why_says_who_owns_what_waits_and_when_it_is_tried_next() {
    let place = Place::with_store();
    let path = place.path("shop.db");
    let id = emit(&path, &[event("Made", "a", 1)]).remove(0);
    let why = || place.run(&["why", &id, "--store", "sqlite:shop.db"]).ok().out;
    assert!(why().contains("no sink is registered yet"), "{}", why());
    let url = format!("http://{}/x", free_address());
    let args =
        ["relay", "--store", "sqlite:shop.db", "--sink", &url, "--name", "dead", "--allow-private"];
    let relay = place.start(&args);
    let paused = "SELECT count(*) FROM onewrite_cursor WHERE retry_at IS NOT NULL";
    eventually("its lane is paused", || number(&path, paused) > 0);
    let said = why();
    for word in ["waits for sink dead", "OW0015", "tried", "by relay ", "epoch"] {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    let answer = place.json(&["why", &id, "--store", "sqlite:shop.db", "--json"]);
    assert!(answer[0]["owner"].is_string() && answer[0]["retry_at"].is_string(), "{answer}");
    relay.terminate().ok();
    let said = why();
    assert!(said.contains("failed (") && said.contains("; no relay holds its partition"), "{said}");
    // What left the log is remembered.
    execute(&path, "DELETE FROM onewrite_sink; DELETE FROM onewrite_cursor");
    place.write("onewrite.toml", "[retention]\nlog_s = 0\n");
    let relay =
        place.start(&["relay", "--store", "sqlite:shop.db", "--sink", "null:", "--name", "well"]);
    eventually("it leaves the log", || number(&path, "SELECT count(*) FROM onewrite_history") == 1);
    relay.terminate().ok();
    assert!(why().contains("its story is kept"), "{}", why());
}
