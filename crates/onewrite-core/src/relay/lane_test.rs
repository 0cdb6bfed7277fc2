//! Rules of one lane: gaps and lives of its stream, leases gained and lost.

use super::*;

#[test]
fn a_gap_rewinds_to_the_receivers_mark() {
    let mut relay = leased(10);
    let sent = offer(&mut relay, &[(11, "a"), (12, "b")], 12);
    let done = relay.published(NOW, 1.0, &sent, Some(&[Gap { have: 7 }, Blocked]));
    assert_eq!(words(&done.items), ["move 7/7"]);
    assert_eq!(done.alarms, [Alarm::FellBack(0)]);
    assert_eq!(relay.wanted(NOW), [(0, 7)], "at once");
    assert_eq!(chain(&offer(&mut relay, &[(8, "a")], 8)), [(8, 7)]);
}

#[test]
fn a_gap_event_stands_for_what_was_trimmed() {
    let mut relay = leased(10);
    relay.trimmed(0, 20);
    let sent = offer(&mut relay, &[(25, "a")], 25);
    assert_eq!(chain(&sent), [(20, 10), (25, 20)]);
    assert_eq!(sent.deliveries[0].record.event.kind, GAP_KIND);
    settle(&mut relay, &sent, &[Accepted, Accepted]);
    assert_eq!(chain(&offer(&mut relay, &[(26, "a")], 26)), [(26, 25)], "told once");
}

#[test]
fn a_gap_event_never_takes_the_place_of_a_settled_record() {
    let mut relay = leased(10);
    relay.trimmed(0, 500);
    assert_eq!(chain(&offer(&mut relay, &[(11, "a")], 11)), [(11, 10)], "nothing fits between");
}

#[test]
fn a_refused_gap_event_is_never_parked() {
    let mut relay = leased(10);
    relay.trimmed(0, 20);
    for _ in 0..9 {
        let sent = offer(&mut relay, &[(25, "a")], 25);
        assert_eq!(chain(&sent), [(20, 10), (25, 20)]);
        assert_eq!(settle(&mut relay, &sent, &[no(), Blocked]), ["fail 0"]);
    }
}

#[test]
fn a_gap_event_comes_before_a_parked_key() {
    let mut relay = relay(3);
    relay.leased(&[fence(0, 1)], &[Cursor { parked: vec!["a".into()], ..cursor(0, 10, 10) }]);
    relay.trimmed(0, 20);
    let sent = offer(&mut relay, &[(25, "a")], 25);
    assert_eq!((chain(&sent), sent.items.len()), (vec![(20, 10)], 0));
    settle(&mut relay, &sent, &[Accepted]);
    assert_eq!(words(&offer(&mut relay, &[(25, "a")], 25).items), ["park 25, move 25/20"]);
}

#[test]
fn an_owed_gap_event_waits_for_the_next_record() {
    let mut relay = leased(10);
    relay.trimmed(0, 20);
    assert!(offer(&mut relay, &[], 30).is_empty());
    assert_eq!(chain(&offer(&mut relay, &[(31, "a")], 31)), [(20, 10), (31, 20)]);
}

#[test]
fn another_partitions_trimming_says_nothing() {
    let mut relay = leased(10);
    relay.trimmed(1, 20);
    assert_eq!(chain(&offer(&mut relay, &[(25, "a")], 25)), [(25, 10)]);
}

#[test]
fn a_new_life_starts_its_own_stream() {
    let mut relay = leased(0);
    let lives = vec![(1, Incarnation(1)), (100, Incarnation(2))];
    relay.source.incarnations = lives;
    let mut new = record(0, 101, "a");
    new.incarnation = Incarnation(2);
    let page = Page {
        records: vec![record(0, 99, "a"), new],
        upto: vec![(0, 101)],
        trimmed: Vec::new(),
        more: false,
    };
    let sent = relay.offer(&relay.wanted(NOW), page);
    assert_eq!(chain(&sent), [(99, START), (101, START)]);
}

#[test]
fn a_receiver_ahead_of_its_source_stops_the_lane() {
    let mut relay = leased(10);
    let ahead = relay.wanted(NOW);
    assert_eq!(relay.compare(0, (10, "id-10"), 12, Some("id-10")), None);
    assert_eq!(relay.compare(0, (10, "id-10"), 12, None), None, "forgotten is not another");
    assert_eq!(relay.compare(0, (13, "id-13"), 12, None), Some(Alarm::SinkAhead(0)));
    assert_eq!(relay.wanted(LATER), []);
    assert!(relay.offer(&ahead, page(&[(11, "a")], 11)).is_empty(), "nor with a page at hand");
    let mut other = leased(10);
    assert!(other.compare(0, (10, "x"), 12, Some("id-10")).is_some());
}

#[test]
fn another_record_at_the_receivers_mark_stops_the_lane() {
    let mut relay = leased(10);
    let sent = offer(&mut relay, &[(11, "a")], 11);
    let done = relay.published(NOW, 1.0, &sent, Some(&[Diverged]));
    assert_eq!((done.items.len(), done.alarms), (0, vec![Alarm::SinkAhead(0)]));
    assert_eq!((relay.wanted(LATER), relay.resume_at()), (vec![], None));
}

#[test]
fn only_idle_lanes_are_given_back() {
    let mut relay = relay(3);
    relay.leased(&[fence(0, 1), fence(1, 4)], &[cursor(0, 10, 10), cursor(1, 10, 10)]);
    let page = Page {
        records: vec![record(0, 11, "a")],
        upto: vec![(0, 11)],
        trimmed: Vec::new(),
        more: false,
    };
    let sent = relay.offer(&relay.wanted(NOW), page);
    let items = relay.give_back(2);
    assert_eq!(words(&items), ["release"]);
    assert_eq!(items[0].fence, Some(fence(1, 4)));
    assert_eq!(relay.partitions().collect::<Vec<_>>(), [0]);
    settle(&mut relay, &sent, &[Accepted]);
    assert_eq!(relay.give_back(0).len(), 0);
    assert_eq!(words(&relay.give_back(1)), ["release"]);
}

#[test]
fn a_lane_given_back_notes_how_far_it_was_looked_through() {
    let mut relay = leased(10);
    let empty = offer(&mut relay, &[], 30);
    settle(&mut relay, &empty, &[]);
    assert_eq!(words(&relay.give_back(1)), ["move 30/10, release"]);
}

#[test]
fn a_checkpoint_notes_each_advance_once_and_clears_no_attempts() {
    let mut relay = leased(10);
    let empty = offer(&mut relay, &[], 30);
    settle(&mut relay, &empty, &[]);
    assert_eq!(words(&relay.checkpoint()), ["move 30/10"]);
    assert!(relay.checkpoint().is_empty());
    let empty = offer(&mut relay, &[], 40);
    settle(&mut relay, &empty, &[]);
    let sent = offer(&mut relay, &[(41, "a")], 41);
    settle(&mut relay, &sent, &[no()]);
    assert!(relay.checkpoint().is_empty(), "moving the cursor would clear the stored attempt");
}

#[test]
fn a_lane_whose_epoch_changed_starts_over_at_its_cursor() {
    let mut relay = leased(10);
    let sent = offer(&mut relay, &[(11, "a"), (12, "b")], 12);
    assert!(relay.knows(&[fence(0, 1)]));
    assert!(!relay.knows(&[fence(0, 3)]));
    assert_eq!(relay.leased(&[fence(0, 3)], &[cursor(0, 20, 20)]), [0]);
    // What another owner settled meanwhile is not taken back by the receipts of an old offer.
    assert!(settle(&mut relay, &sent, &[Accepted, no()]).is_empty());
    assert_eq!(relay.lane(0), Some((20, 20, 0)));
    assert_eq!(relay.wanted(NOW), [(0, 20)]);
    assert_eq!(chain(&offer(&mut relay, &[(21, "a")], 21)), [(21, 20)]);
}

#[test]
fn a_lane_lost_with_its_epoch_kept_starts_over_too() {
    let mut relay = leased(10);
    let sent = offer(&mut relay, &[(11, "a")], 11);
    relay.lost(0);
    assert!(!relay.knows(&[fence(0, 1)]), "so that its cursor is read again");
    relay.leased(&[fence(0, 1)], &[cursor(0, 10, 10)]);
    assert!(settle(&mut relay, &sent, &[Accepted]).is_empty());
    assert_eq!(relay.wanted(NOW), [(0, 10)]);
}

#[test]
fn a_lease_not_held_any_more_takes_its_lane_along() {
    let mut relay = leased(10);
    let asked = relay.wanted(NOW);
    assert!(relay.leased(&[], &[]).is_empty());
    assert_eq!(relay.partitions().count(), 0);
    assert!(relay.offer(&asked, page(&[(11, "a")], 11)).is_empty());
}
