//! `onewrite demo`: killed, stalled, and nothing lost; and what dual writes lose.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Place, Run};

/// The object on the last line.
pub(crate) fn verdict(run: &Run) -> Value {
    serde_json::from_str(run.out.lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

pub(crate) fn is_clean(run: &Run, kills: u64) -> Value {
    let found = verdict(run);
    assert_eq!(run.code, Some(0), "{run:?}");
    for fault in ["lost", "duplicated", "out_of_order"] {
        assert_eq!(found[fault], 0, "{found}");
    }
    assert_eq!(found["balanced"], true, "{found}");
    assert!(found["kills"].as_u64().unwrap() >= kills, "{found}");
    let ended = found["completed"].as_u64().unwrap() + found["compensated"].as_u64().unwrap();
    assert_eq!((ended, &found["mode"]), (found["orders"].as_u64().unwrap(), &"outbox".into()));
    assert!(found["elapsed_ms"].as_u64() > Some(0) && found["p99_ms"].as_f64() > Some(0.0));
    found
}

#[test]
fn killed_services_lose_nothing_and_double_nothing() {
    let run =
        Place::new().run(&["demo", "--orders", "200", "--chaos", "6", "--seed", "3", "--json"]);
    let found = is_clean(&run, 6);
    assert_eq!((&found["orders"], &found["seed"]), (&200.into(), &3.into()));
    assert!(found["compensated"].as_u64() > Some(0), "some fail for business reasons: {found}");
    let points = found["kills_by_point"].as_object().unwrap();
    let between: u64 = onewrite::failpoint::BETWEEN_ACT_AND_ACK
        .iter()
        .filter_map(|point| points.get(*point)?.as_u64())
        .sum();
    assert!(
        between >= 3,
        "at least half fall between a durable act and its acknowledgement: {found}"
    );
    assert!(run.err.contains("every promise held"), "{run:?}");
}

#[test]
fn a_stalled_relay_is_taken_over_and_does_no_harm_when_it_wakes() {
    let run = Place::new().run(&[
        "demo",
        "--orders",
        "200",
        "--chaos",
        "6",
        "--seed",
        "3",
        "--relays",
        "2",
        "--consumers",
        "2",
        "--stalls",
        "1",
        "--json",
    ]);
    let found = is_clean(&run, 6);
    assert!(found["takeovers"].as_u64() >= Some(1) && found["stalls"] == 1, "{found}");
}

#[test]
fn dual_writes_lose_under_the_same_kills() {
    let run = Place::new().run(&[
        "demo",
        "--dual-write",
        "--orders",
        "200",
        "--chaos",
        "6",
        "--seed",
        "7",
        "--json",
    ]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let found = verdict(&run);
    assert_eq!(found["mode"], "dual-write");
    assert!(found["lost"].as_u64() > Some(0) && found["balanced"] == false, "{found}");
}

#[test]
fn orders_are_read_from_a_file_and_a_table_is_shown() {
    let place = Place::new();
    let lines: String = (0..30)
        .map(|number| format!("{{\"id\":\"mine-{number}\",\"customer\":\"c-{}\",\"sku\":\"book\",\"quantity\":2,\"cents\":1500,\"country\":\"{}\"}}\n", number % 7, if number == 11 { "Atlantis" } else { "Korea" }))
        .collect();
    place.write("orders.jsonl", &lines);
    let run = place.run(&["demo", "--input", "orders.jsonl", "--chaos", "1", "--dir", "kept"]).ok();
    for word in ["every promise held", "completed", "29", "compensated", "kills", "takeovers"] {
        assert!(run.out.contains(word), "`{word}` is not in: {}", run.out);
    }
    let story = place.run(&["flow", "mine-11", "--config", "kept/onewrite.toml"]).ok().out;
    assert!(story.contains("ShippingFailed") && story.contains("OrderCancelled"), "{story}");
}

#[test]
fn a_shop_on_hold_stays_open_until_it_is_interrupted() {
    let place = Place::new();
    let demo = place.start(&["demo", "--orders", "5", "--chaos", "0", "--hold", "--dir", "kept"]);
    let curl = demo.says("curl");
    let shop = curl.split_whitespace().find(|word| word.starts_with("http")).unwrap();
    let body = curl.split('\'').nth(3).unwrap().to_owned();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let placed = runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(shop).header("content-type", "application/json");
        request.body(body).send().await.unwrap().status()
    });
    assert_eq!(placed.as_u16(), 201);
    let flow = || place.run(&["flow", "mine", "--config", "kept/onewrite.toml"]);
    crate::support::eventually("the order completes", || flow().out.contains("OrderCompleted"));
    demo.signal(Signal::INT);
    let run = demo.end().ok();
    assert!(
        run.out.contains("every promise held"),
        "what was ordered meanwhile is not judged: {run:?}"
    );
}

#[test]
fn a_demo_that_is_told_to_end_leaves_nothing_behind() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let place = Place::new();
        let mut command = place.command(&["demo", "--orders", "100000", "--chaos", "4"]);
        command.env("TMPDIR", place.root());
        let demo = crate::support::Running::of(command);
        let left = || std::fs::read_dir(place.root()).unwrap().count();
        crate::support::eventually("it has begun", || {
            let mut folders = std::fs::read_dir(place.root()).unwrap().filter_map(Result::ok);
            folders.any(|folder| folder.path().join("shipping.db").exists())
        });
        demo.signal(signal);
        let run = demo.end();
        assert_eq!((run.code, left()), (Some(code), 0), "{run:?}");
    }
}

#[test]
fn a_demo_on_an_unknown_database_or_broker_is_not_begun() {
    let place = Place::new();
    for args in [["--store", "oracle://x"], ["--broker", "pigeon://loft"]] {
        let run = place.run(&[&["demo", "--dir", "kept"], &args[..]].concat());
        run.refused("OW0001", &[&args[0][2..]]);
        assert!(!place.path("kept").exists());
    }
    place.run(&["demo", "--orders", "5", "--store", "sqlite", "--broker", "http"]).ok();
}

#[test]
fn no_service_outlives_a_demo_that_is_killed() {
    let place = Place::new();
    let demo = place.start(&["demo", "--orders", "5", "--chaos", "0", "--hold", "--dir", "kept"]);
    demo.says("curl");
    let folder = place.path("kept").canonicalize().unwrap().display().to_string();
    let services = |file: &str| {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let of = |process: &std::fs::DirEntry, file: &str| {
            let read = std::fs::read(process.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&read).into_owned()
        };
        processes
            .filter(|process| of(process, "cmdline").contains("demo-service"))
            .filter(|process| of(process, file).contains(&folder))
            .count()
    };
    assert_eq!(services("environ"), 4);
    assert_eq!(services("cmdline"), 0, "URLs hold passwords, and arguments are seen by everybody");
    demo.kill();
    crate::support::eventually("they end", || services("environ") == 0);
}

#[test]
fn the_sample_orders_are_taken() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop/orders.jsonl");
    let run = Place::new().run(&["demo", "--input", sample, "--chaos", "1", "--json"]);
    let found = is_clean(&run, 1);
    assert!(found["completed"].as_u64() > Some(0) && found["compensated"].as_u64() > Some(0));
}
