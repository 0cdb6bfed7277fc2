//! The same tests notice a promise that is broken on purpose.
//!
//! Not every defect shows at this height. What two others hide or what needs another world is planted
//! below, in the machines' own tests, the conformance suite and the simulation: a missing fence only
//! repeats what receivers recognise (`NoFence`), a missing chain shows with a record lost in between
//! (`NoChain`), a mark or an attempt written at the wrong time with a handler that kills its process
//! (`MarkBeforeEffect`, `NoAttempts`), forgotten ids with a foreign sender (`ForgetIds`), a wrong order
//! with clocks (`OrderByTime`), a reused sequence with an emptied log (`ReuseSequence`), a missing
//! fsync with a power cut (`NoSync`).

use onewrite::{
    position::{PARTITIONS_DEFAULT, partition_of},
    sabotage::{Defect, Sabotage},
};

use crate::{
    dead_letter::Shop,
    demo::verdict,
    restore::Restored,
    support::{Place, Run, Running, VARIABLE, emit, event, eventually, number},
};

fn planted(defect: Defect) -> Sabotage {
    Sabotage::default().with(defect)
}

/// Runs the demo with `defect` planted in its processes, with a few seeds, until it says so.
fn is_caught(defect: Defect, fault: &str) {
    let place = Place::new();
    let found = (1..=5).find_map(|seed: u32| {
        let seed = seed.to_string();
        let mut command = place.command(&[
            "demo",
            "--orders",
            "100",
            "--chaos",
            "4",
            "--patience-s",
            "3",
            "--seed",
            &seed,
            "--json",
        ]);
        command.env(VARIABLE, planted(defect).to_env());
        let run = Run::of(command);
        (run.code == Some(1)).then(|| verdict(&run))
    });
    let found = found.unwrap_or_else(|| panic!("{defect:?} is not noticed"));
    assert!(found[fault].as_u64() > Some(0), "{defect:?}: {found}");
}

#[test]
fn the_demo_notices_a_cursor_that_moves_before_the_receiver_accepts() {
    is_caught(Defect::CursorBeforePublish, "lost");
}

#[test]
fn the_demo_notices_a_receiver_that_does_not_deduplicate() {
    is_caught(Defect::NoDedup, "duplicated");
}

#[test]
fn a_restored_source_that_is_not_compared_swallows_new_events() {
    let restored = Restored::new();
    let relay = restored.relay(|command| {
        command.env(VARIABLE, planted(Defect::NoIncarnation).to_env());
    });
    let passed = "SELECT count(*) FROM onewrite_outbox o JOIN onewrite_cursor c ON c.partition = o.partition WHERE c.sequence >= o.sequence";
    let shop = restored.place.path("shop.db");
    eventually("its event is passed", || number(&shop, passed) == 2);
    assert!(!restored.effects().contains(&"4".to_owned()), "and never took effect");
    assert!(!relay.said().contains("OW0013"), "without a word");
}

#[test]
fn a_parked_key_that_is_let_through_is_out_of_order() {
    let parking = "attempts_max = 2\n";
    let shop = Shop::with(
        parking,
        |options| options.policy.attempts_max = 1_000,
        |command| {
            command.env(VARIABLE, planted(Defect::NoParking).to_env());
        },
    );
    shop.emit("bad", 1);
    shop.parked(["--store", "sqlite:shop.db"], 1);
    shop.mend();
    shop.emit("bad", 2);
    eventually("the second overtakes the first", || shop.effects() == ["2"]);
}

/// A key of the partition of `bad`.
fn neighbour() -> String {
    let wanted = partition_of("bad", PARTITIONS_DEFAULT);
    let keys = (0..).map(|number| format!("key-{number}"));
    keys.into_iter().find(|key| partition_of(key, PARTITIONS_DEFAULT) == wanted).unwrap()
}

#[test]
fn a_refused_event_that_does_not_stop_those_behind_it_is_lost() {
    let shop = Shop::with(
        "",
        |options| options.policy.sabotage = planted(Defect::AckPastFailure),
        |command| {
            command.env(VARIABLE, planted(Defect::AckPastFailure).to_env());
        },
    );
    emit(&shop.place.path("shop.db"), &[event("Made", "bad", 1), event("Made", &neighbour(), 2)]);
    eventually("the one behind it is taken", || shop.effects() == ["2"]);
    shop.mend();
    let settled = "SELECT max(sequence) FROM onewrite_cursor";
    eventually("both are passed", || number(&shop.place.path("shop.db"), settled) == 2);
    shop.emit("bad", 3);
    eventually("the next one is taken", || shop.effects().contains(&"3".to_owned()));
    assert!(!shop.effects().contains(&"1".to_owned()), "and the refused one never took effect");
}

#[test]
fn a_redriven_event_that_is_judged_by_the_mark_is_dropped() {
    let shop = Shop::with(
        "attempts_max = 2\n",
        |options| {
            options.policy.attempts_max = 1_000;
            options.policy.sabotage = planted(Defect::RedriveByMark);
        },
        |_| (),
    );
    let at = ["--store", "sqlite:shop.db"];
    shop.emit("bad", 1);
    shop.parked(at, 1);
    shop.emit(&neighbour(), 2);
    eventually("the mark moves on", || shop.effects() == ["2"]);
    shop.mend();
    shop.place.run(&[&["dead-letter", "retry", "bad"], &at[..]].concat()).ok();
    eventually("it is said to be re-driven", || shop.list(at).is_empty());
    assert_eq!(shop.effects(), ["2"], "and never took effect");
}

#[test]
fn rows_that_are_never_deleted_stay() {
    let place = Place::with_store();
    let path = place.path("shop.db");
    let relay = |sabotage: Sabotage| {
        let args = ["relay", "--store", "sqlite:shop.db", "--sink", "null:", "--name", "out"];
        let mut command = place.command(&args);
        command.env(VARIABLE, sabotage.to_env());
        let relay = Running::of(command);
        relay.says("relaying");
        relay
    };
    let noted = || number(&path, "SELECT max(sequence) FROM onewrite_cursor");
    let rows = || number(&path, "SELECT count(*) FROM onewrite_outbox");
    emit(&path, &[event("Made", "a", 1)]);
    let settling = relay(Sabotage::default());
    eventually("it is settled", || noted() == 1);
    settling.terminate().ok();
    place.write("onewrite.toml", "[retention]\nlog_s = 0\n");
    emit(&path, &[event("Made", "a", 2)]);
    let sabotaged = relay(planted(Defect::NoRetention));
    eventually("the next one is settled", || noted() == 2);
    sabotaged.terminate().ok();
    assert_eq!(rows(), 2, "the sabotaged one keeps both");
    let honest = relay(Sabotage::default());
    eventually("the honest one deletes them", || rows() == 0);
    honest.terminate().ok();
}
