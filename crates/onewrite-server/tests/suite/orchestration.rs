//! `onewrite demo --flow orchestration`: orders as sagas, whose nodes are killed and stalled.

use onewrite_testkit::server::{shared_mariadb, shared_postgres};
use serde_json::Value;
use tokio::task::block_in_place;

use crate::{
    demo::verdict,
    support::{Place, Run},
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
    let args = ["--nodes", "2", "--orders", "40", "--chaos", "3", "--stalls", "1", "--seed", "6"];
    let run = block_in_place(|| run(&[&args[..], &["--store", &store]].concat()));
    is_clean(&run, 40, 3, 1);
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
