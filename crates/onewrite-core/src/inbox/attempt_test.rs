//! Rules of counting claims and of planning a batch.

use super::*;

#[test]
fn an_unfinished_claim_is_counted_only_when_asked_again() {
    let mut state = LaneState { sequence: 4, ..Default::default() };
    assert!(state.claim(5, false));
    assert!(!state.claim(5, false));
    assert!(state.claim(5, true));
    assert_eq!((state.attempt_first, state.attempts), (5, 2));
    assert!(!state.claim(6, false), "whoever claims elsewhere is told");
    assert!(state.claim(6, true));
    assert_eq!((state.attempt_first, state.attempts), (6, 1));
    state.sequence = 9;
    assert!(state.claim(10, false), "finished by the mark");
}

#[test]
fn a_calm_batch_is_claimed_as_a_whole() {
    let deliveries = [chained(4, 5, "a"), by_id(1, "b"), chained(5, 6, "c")];
    let attempts = Attempt::of(&deliveries);
    assert_eq!(attempts, [attempt(5)]);
    let groups = plan(&deliveries, &attempts, &[(LaneState::default(), true)]);
    assert_eq!(groups.len(), 1);
    assert_eq!((&groups[0].indexes[..], &groups[0].attempts), (&[0, 1, 2][..], &attempts));
}

#[test]
fn suspicious_lanes_go_alone_and_one_record_at_a_time() {
    let other = |previous, sequence, partition| {
        let mut delivery = chained(previous, sequence, "k");
        delivery.record.partition = partition;
        delivery
    };
    let deliveries = [
        other(0, 1, 1),
        other(1, 2, 1),
        other(0, 3, 2),
        other(0, 4, 3),
        other(3, 5, 2),
        by_id(9, "z"),
    ];
    let attempts = Attempt::of(&deliveries);
    let seen =
        |first, attempts| LaneState { attempt_first: first, attempts, ..LaneState::default() };
    let counted = [(seen(1, 3), false), (seen(3, 1), true), (seen(8, 1), false)];
    let groups = plan(&deliveries, &attempts, &counted);
    let indexes: Vec<_> = groups.iter().map(|group| &group.indexes[..]).collect();
    assert_eq!(
        indexes,
        [&[2, 4, 5][..], &[3], &[0], &[1]],
        "calm first, then the least suspicious"
    );
    let contended: Vec<_> = groups.iter().map(|group| group.attempts[0].contended).collect();
    assert_eq!(contended, [false, true, false, false], "lane 3 was claimed from elsewhere");
    let firsts: Vec<_> = groups[2..].iter().map(|group| group.attempts[0].first).collect();
    assert_eq!(firsts, [1, 2], "each record is a claim of its own");
}

#[test]
fn a_lane_is_closed_behind_a_failure_and_behind_a_repeat() {
    let batch = [chained(4, 5, "a"), chained(5, 6, "a")];
    let is_closed = |receipts: &[Receipt]| closed(&batch, receipts).contains(&lane().partition());
    assert!(!is_closed(&[Accepted]));
    assert!(is_closed(&[Accepted, retry()]));
    assert!(is_closed(&[Duplicate]));
    assert!(closed(&[by_id(5, "a")], &[Duplicate]).is_empty());
}
