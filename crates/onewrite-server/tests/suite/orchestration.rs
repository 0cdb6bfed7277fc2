//! `onewrite demo --flow orchestration`: orders as sagas, whose nodes are killed and stalled.

use onewrite_shop::{Books, Order, Role, audit::Verdict, saga};
use onewrite_testkit::server::{shared_mariadb, shared_postgres};
use serde_json::Value;
use tokio::task::block_in_place;

use crate::{
    demo::verdict,
    support::{Place, Run, execute},
};

const SAGAS: &[&str] = &["demo", "--flow", "orchestration", "--json"];

fn run(args: &[&str]) -> Run {
    Place::new().run(&[SAGAS, args].concat())
}

/// Every order has ended in one way, once, under so many kills and stalls.
fn is_clean(run: &Run, orders: u64, kills: u64, stalls: u64) -> Value {
    let found = verdict(run);
    assert_eq!(run.code, Some(0), "{run:?}");
    for fault in ["lost", "duplicated", "out_of_order"] {
        assert_eq!(found[fault], 0, "{found}");
    }
    assert_eq!((&found["balanced"], &found["mode"]), (&true.into(), &"sagas".into()), "{found}");
    assert_eq!(found["faults"], Value::Array(Vec::new()), "{found}");
    let count = |name: &str| found[name].as_u64().unwrap();
    assert_eq!(count("completed") + count("compensated"), orders, "{found}");
    assert!(count("completed") > 0 && count("compensated") > 0, "both happen: {found}");
    assert_eq!((count("orders"), count("kills"), count("stalls")), (orders, kills, stalls));
    found
}

#[test]
fn a_node_that_is_killed_and_stalled_ends_every_saga_in_one_way() {
    let run = run(&["--orders", "60", "--chaos", "6", "--stalls", "1", "--seed", "1"]);
    let found = is_clean(&run, 60, 6, 1);
    let points = found["kills_by_point"].as_object().unwrap();
    let after = ["saga.after_attempt_before_journal", "store.after_commit_before_reply"];
    let between: u64 = after.iter().filter_map(|point| points.get(*point)?.as_u64()).sum();
    assert!(between >= 3, "at least half fall between an effect and its journal: {found}");
    assert!(run.err.contains("every promise held"), "{run:?}");
}

#[test]
fn nodes_on_one_file_take_over_from_each_other() {
    let args = ["--nodes", "3", "--orders", "60", "--chaos", "5", "--stalls", "1", "--seed", "2"];
    let found = is_clean(&run(&args), 60, 5, 1);
    assert!(found["takeovers"].as_u64() > Some(0), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_postgres_end_every_saga_in_one_way() {
    let store = shared_postgres().await.unwrap().server_url();
    let args = ["--nodes", "2", "--orders", "40", "--chaos", "2", "--stalls", "1", "--seed", "6"];
    let run = block_in_place(|| run(&[&args[..], &["--store", &store]].concat()));
    is_clean(&run, 40, 2, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_mariadb_end_every_saga_in_one_way_and_leave_no_passage() {
    let mariadb = shared_mariadb().await.unwrap();
    let store = mariadb.server_url();
    let args = ["--nodes", "3", "--orders", "60", "--chaos", "4", "--stalls", "1", "--seed", "1"];
    let run = block_in_place(|| run(&[&args[..], &["--store", &store]].concat()));
    is_clean(&run, 60, 4, 1);
    let left = "SELECT count(*) FROM dtm_barrier.barrier WHERE branch_id = 'create_order'";
    assert_eq!(mariadb.sql("information_schema", left).await.unwrap().trim(), "0");
}

/// The control: participants that keep no barrier do what is repeated twice.
#[test]
fn without_a_barrier_effects_are_doubled_under_the_same_kills() {
    let broken = (1..=5).find_map(|seed: u32| {
        let seed = seed.to_string();
        let args = ["--without-barrier", "--orders", "60", "--chaos", "6", "--seed", &seed];
        let run = run(&args);
        assert_eq!(run.code, Some(0), "that is what it is to show: {run:?}");
        let found = verdict(&run);
        assert_eq!(found["mode"], "no-barrier");
        // An order that is written twice is there once; a payment is not.
        (found["duplicated"].as_u64() > Some(0) && found["balanced"] == false).then_some(found)
    });
    assert!(broken.is_some(), "nothing is doubled");
}

fn orders() -> Vec<Order> {
    let order = |number: usize| Order {
        id: format!("mine-{number}"),
        customer: "c".into(),
        sku: "book".into(),
        quantity: 1,
        cents: 1_500,
        country: "Korea".into(),
    };
    (0..8).map(order).collect()
}

/// What the audit says of the databases in the folder `kept`.
async fn judged(place: &Place) -> Verdict {
    let url = |role: Role| {
        let file = place.path("kept").join(format!("{}.db", role.name()));
        (role, format!("sqlite:{}", file.display()))
    };
    let books = Books::open(&Role::ALL.map(url)).await.unwrap();
    let orders = orders();
    let acknowledged: Vec<String> = orders.iter().map(|order| order.id.clone()).collect();
    saga::audit::judge(&books, &orders, &acknowledged).await.unwrap()
}

/// The control of the audit: what contradicts the sagas is named.
#[tokio::test(flavor = "multi_thread")]
async fn what_contradicts_the_sagas_is_noticed() {
    let place = Place::new();
    let line = |order: &Order| serde_json::to_string(order).unwrap();
    place.write("orders.jsonl", &orders().iter().map(line).collect::<Vec<_>>().join("\n"));
    let kept = ["--input", "orders.jsonl", "--chaos", "0", "--dir", "kept"];
    block_in_place(|| place.run(&[SAGAS, &kept].concat()).ok());
    assert!(judged(&place).await.is_clean());
    let (order, shipping) = (place.path("kept/order.db"), place.path("kept/shipping.db"));
    execute(&order, "UPDATE orders SET state = 'pending' WHERE id = 'mine-1'");
    execute(&order, "UPDATE onewrite_saga SET state = 'compensated' WHERE key = 'mine-2'");
    execute(
        &order,
        "UPDATE onewrite_saga SET state = 'running', ended_at = NULL WHERE key = 'mine-3'",
    );
    execute(&shipping, "INSERT INTO effects (event_id, event_key) VALUES ('a', 'ghost')");
    let verdict = judged(&place).await;
    assert_eq!((verdict.lost, verdict.money_balanced), (1, false), "{verdict:?}");
    for fault in [
        "order mine-1: its saga is completed, and it is pending",
        "order mine-2: its saga is compensated, and it is confirmed",
        "order mine-2: it is compensated, and nobody had refused it",
        "order mine-3: its saga is still running",
        "order mine-3: its saga waits for nothing",
        "order ghost: the shipping service did something, and no saga knows it",
    ] {
        assert!(verdict.faults.iter().any(|found| found == fault), "{fault}: {verdict:?}");
    }
}

#[test]
fn settings_of_the_other_flow_are_refused() {
    for setting in [&["--relays", "2"][..], &["--consumers", "2"], &["--dual-write"]] {
        run(setting).refused("OW0007", &[setting[0], "--flow choreography"]);
    }
    for setting in [&["--nodes", "2"][..], &["--without-barrier"]] {
        let refused = Place::new().run(&[&["demo"], setting].concat());
        refused.refused("OW0007", &[setting[0], "--flow orchestration"]);
    }
}
