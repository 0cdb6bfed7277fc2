//! The rule of the barrier, in every combination.

use std::time::Duration;

use super::{Barrier, KEPT_MIN, Passage, kept_secs};
use crate::{Code, saga::SagaId};

const NOTHING: [&str; 0] = [];

fn barrier(op: &str) -> Barrier {
    Barrier::new("tcc", "gid", "branch", op).unwrap()
}

#[test]
fn rows_are_inserted_in_one_order_with_the_operation_as_their_reason() {
    let of = |op: &str| barrier(op).ops().into_iter().map(str::to_owned).collect::<Vec<_>>();
    for op in ["action", "try", "confirm", "commit"] {
        assert_eq!(of(op), [op], "it undoes nothing");
    }
    assert_eq!(of("compensate"), ["action", "compensate"]);
    assert_eq!(of("rollback"), ["action", "rollback"]);
    assert_eq!(of("cancel"), ["try", "cancel"]);
    let cancel = barrier("cancel");
    assert_eq!(cancel.row("try"), ["tcc", "gid", "branch", "try", "01", "cancel"]);
    assert_eq!(cancel.row("cancel"), ["tcc", "gid", "branch", "cancel", "01", "cancel"]);
    assert_eq!(cancel.key("try"), ["gid", "branch", "try", "01"]);
}

#[test]
fn what_was_inserted_says_what_to_do() {
    for (op, undoes) in [("action", "compensate"), ("try", "cancel"), ("confirm", "cancel")] {
        let own = barrier(op);
        assert_eq!(own.passage(&[op]), Some(Passage::Act), "{op}");
        assert_eq!(own.passage(&NOTHING), None, "{op}: its reason has to be read");
        assert_eq!(own.passage_of(Some(op)).unwrap(), Passage::Repeated);
        assert_eq!(own.passage_of(Some(undoes)).unwrap(), Passage::Late);
        assert_eq!(own.passage_of(None).unwrap_err().code(), Code::StoreBusy);
    }
    for (op, origin) in [("compensate", "action"), ("rollback", "action"), ("cancel", "try")] {
        let own = barrier(op);
        assert_eq!(own.passage(&[origin, op]), Some(Passage::Empty), "{op}");
        assert_eq!(own.passage(&[op]), Some(Passage::Act), "{op}");
        assert_eq!(own.passage(&NOTHING), Some(Passage::Repeated), "{op}");
        // The origin's row was forgotten, its own was not.
        assert_eq!(own.passage(&[origin]), Some(Passage::Repeated), "{op}");
    }
    assert!(Passage::Act.acts());
    assert!(![Passage::Repeated, Passage::Late, Passage::Empty].iter().any(|found| found.acts()));
}

#[test]
fn a_step_has_a_barrier_for_its_action_one_for_its_compensation_and_one_for_each_transaction() {
    let saga = SagaId(1);
    let gid = "00000000-0000-0000-0000-000000000001";
    let action = Barrier::action(saga, "pay").unwrap();
    assert_eq!(action.row("action"), ["saga", gid, "pay", "action", "01", "action"]);
    let compensation = Barrier::compensation(saga, "pay").unwrap();
    assert_eq!(compensation.ops(), ["action", "compensate"]);
    assert_eq!(compensation.key("action"), action.key("action"));
    assert_eq!(action.clone().nth(2).key("action"), [gid, "pay", "action", "02"]);
    assert_eq!(action.nth(123).key("action")[3], "123");
}

#[test]
fn what_a_server_would_shorten_or_confuse_is_refused() {
    let (short, long) = ("ä".repeat(45), "ä".repeat(128));
    Barrier::new(&short, &long, &long, &short).unwrap();
    let (short_over, long_over) = ("x".repeat(46), "x".repeat(129));
    for [trans_type, gid, branch, op] in [
        [&*short_over, "g", "b", "try"],
        ["tcc", &long_over, "b", "try"],
        ["tcc", "g", &long_over, "try"],
        ["tcc", "g", "b", &short_over],
        ["", "g", "b", "try"],
        ["tcc", "", "b", "try"],
        ["tcc", "g", "", "try"],
        ["tcc", "g", "b", ""],
        ["tcc", "g ", "b", "try"],
        ["tcc", "g", " b", "try"],
    ] {
        let refused = Barrier::new(trans_type, gid, branch, op).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidInput, "{refused}");
    }
}

#[test]
fn rows_are_kept_for_a_day_at_least() {
    assert_eq!(kept_secs(KEPT_MIN).unwrap(), 86_400);
    assert_eq!(kept_secs(Duration::MAX).unwrap(), 3_153_600_000);
    let refused = kept_secs(KEPT_MIN - Duration::from_nanos(1)).unwrap_err();
    assert_eq!(refused.code(), Code::UnsafeSetting);
}
