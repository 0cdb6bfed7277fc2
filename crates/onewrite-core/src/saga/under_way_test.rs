use super::*;
use crate::saga::uncounted::{NOT_MADE_PAUSE, PAUSE_MAX};

const HOUR: Duration = Duration::from_secs(3_600);

/// A step whose work goes on elsewhere, before one that follows it.
const SHIP: &str = r#"{"name":"order","steps":[
    {"name":"ship","compensation":{"by":"recall"},"retry":{"attempts_max":2}},
    {"name":"note","compensation":{"by":"strike"}}]}"#;

fn under_way() -> Ended {
    Ended::UnderWay { look_in: HOUR, reason: "it sails".into() }
}

fn look(run: &mut Run, step: &'static str) -> Vec<String> {
    let (actor, reason) = ("the ship".into(), "completed".into());
    run.give(Input::Wanted { verb: Verb::Look { step: step.into() }, actor, reason })
}

#[test]
fn what_is_under_way_elsewhere_is_looked_at_when_the_saga_is_told() {
    let mut run = Run::of(SHIP);
    assert_eq!(run.end("ship", under_way()), ["retrying"]);
    assert_eq!(run.stands(), (State::Running, Waits::Timer));
    assert_eq!(run.saga.standing.due, Some(run.now.plus(HOUR)));
    assert_eq!(look(&mut run, "note"), [""; 0], "that one is not at work");
    assert_eq!(look(&mut run, "sail"), [""; 0], "there is no such step");
    assert_eq!(look(&mut run, "ship"), ["told"]);
    assert_eq!(run.flying(), ["+ship"]);
    assert_eq!(run.done("ship"), ["done"]);
    assert_eq!(look(&mut run, "ship"), [""; 0], "it is known");
}

#[test]
fn looking_uses_up_no_attempts_and_needs_nobody_who_tells() {
    let mut run = Run::of(SHIP);
    for _ in 0..10 {
        assert_eq!(run.end("ship", under_way()), ["retrying"]);
        assert!(run.wait(HOUR - Duration::from_secs(1)).is_empty());
        run.take_over();
        assert_eq!(run.wait(Duration::from_secs(1)), ["woken"]);
        assert_eq!(run.attempts[0].number, 1);
    }
    assert_eq!(run.end("ship", Ended::Aborted("it sank".into())), ["failed"]);
    assert_eq!(run.flying(), ["-ship"]);
}

/// What is told while an attempt looks may be what it just missed.
#[test]
fn what_is_told_during_an_attempt_is_not_forgotten() {
    let mut run = Run::of(SHIP);
    assert_eq!(look(&mut run, "ship"), ["told"]);
    assert_eq!(run.flying(), ["+ship"], "the same attempt");
    assert_eq!(run.end("ship", under_way()), ["retrying"]);
    assert_eq!(run.saga.standing.due, Some(run.now), "it looks again at once");
    assert_eq!(run.wait(Duration::ZERO), ["woken"]);
    assert_eq!(run.end("ship", under_way()), ["retrying"]);
    assert_eq!(run.saga.standing.due, Some(run.now.plus(HOUR)), "and not for ever");
    run.take_over();
}

#[test]
fn a_compensation_waits_for_what_goes_on_elsewhere() {
    let mut run = Run::of(SHIP);
    run.end("ship", under_way());
    let cancel = Input::Wanted { verb: Verb::Cancel, actor: "me".into(), reason: "why not".into() };
    assert_eq!(run.give(cancel), ["cancelled"]);
    assert_eq!(run.flying(), ["-ship"]);
    assert_eq!(run.end("ship", under_way()), ["retrying"]);
    assert_eq!(run.stands(), (State::Compensating, Waits::Timer));
    run.take_over();
    assert_eq!(look(&mut run, "ship"), ["told"]);
    assert_eq!(run.done("ship"), ["compensated"]);
    assert_eq!(run.stands(), (State::Compensated, Waits::Nothing));
}

#[test]
fn behind_the_pivot_an_end_that_comes_late_still_counts() {
    let mut run = Run::of(
        r#"{"name":"order","steps":[
        {"name":"pay","kind":"pivot","compensation":{"none":"it decides"}},
        {"name":"ship","kind":"retriable","compensation":{"none":"it only goes forward"}}]}"#,
    );
    run.done("pay");
    assert_eq!(run.end("ship", Ended::Aborted("it is late".into())), ["held"]);
    assert_eq!(run.stands(), (State::NeedsOperator, Waits::Operator));
    assert_eq!(look(&mut run, "ship"), ["told"]);
    assert_eq!(run.done("ship"), ["done"]);
    assert_eq!(run.stands(), (State::Completed, Waits::Nothing));
}

/// The end was told while the attempt looked: what it saw is not what there is.
#[test]
fn behind_the_pivot_an_end_that_comes_while_an_attempt_is_late_still_counts() {
    let mut run = Run::of(
        r#"{"name":"order","steps":[
        {"name":"pay","kind":"pivot","compensation":{"none":"it decides"}},
        {"name":"ship","kind":"retriable","compensation":{"none":"it only goes forward"}}]}"#,
    );
    run.done("pay");
    assert_eq!(look(&mut run, "ship"), ["told"]);
    assert_eq!(run.end("ship", Ended::Aborted("it is late".into())), ["retrying"]);
    assert_eq!(run.wait(Duration::ZERO), ["woken"]);
    assert_eq!(run.done("ship"), ["done"]);
    assert_eq!(run.stands(), (State::Completed, Waits::Nothing));
}

/// What is under way for weeks outlives any number of looks that fail now and then.
#[test]
fn what_was_seen_to_be_well_has_a_budget_of_its_own_from_then_on() {
    let mut run = Run::of(SHIP);
    for _ in 0..10 {
        assert_eq!(run.fail("ship"), ["retrying"], "the store does not answer");
        assert_eq!(run.wait(Duration::from_secs(1)), ["woken"]);
        assert_eq!(run.attempts[0].number, 2);
        assert_eq!(run.end("ship", under_way()), ["retrying"]);
        run.take_over();
        assert_eq!(run.wait(HOUR), ["woken"]);
        assert_eq!(run.attempts[0].number, 1);
    }
    assert_eq!(run.fail("ship"), ["retrying"]);
    assert_eq!(run.wait(Duration::from_secs(1)), ["woken"]);
    assert_eq!(run.fail("ship"), ["failed"], "it was not seen meanwhile");
}

#[test]
fn a_budget_of_time_begins_when_it_was_last_seen_to_be_well() {
    let mut run = Run::of(
        r#"{"name":"order","steps":[{"name":"ship","compensation":{"by":"recall"},
        "retry":{"attempts_max":null,"elapsed_max_ms":60000}}]}"#,
    );
    assert_eq!(run.end("ship", under_way()), ["retrying"]);
    let seen = run.now;
    assert_eq!(look(&mut run, "ship"), ["told"]);
    run.now = seen.plus(Duration::from_secs(59));
    assert_eq!(run.end("ship", under_way()), ["retrying"]);
    assert_eq!(look(&mut run, "ship"), ["told"]);
    run.now = seen.plus(Duration::from_secs(110));
    assert_eq!(run.fail("ship"), ["retrying"], "51 seconds of 60");
    run.take_over();
    assert_eq!(run.wait(Duration::from_secs(10)), ["woken"]);
    assert_eq!(run.fail("ship"), ["failed"]);
}

/// A step's timeout is none of the budget: looking does not put it off.
#[test]
fn looking_puts_off_no_timeout() {
    let mut run = Run::of(
        r#"{"name":"order","steps":[{"name":"ship","compensation":{"by":"recall"},"step_timeout_ms":60000}]}"#,
    );
    run.now = run.now.plus(Duration::from_secs(50));
    assert_eq!(run.end("ship", under_way()), ["retrying"]);
    assert_eq!(look(&mut run, "ship"), ["told"]);
    run.now = run.now.plus(Duration::from_secs(10));
    assert_eq!(run.fail("ship"), ["failed"]);
}

/// A look that was due was not made: whoever takes over makes it, and loses nothing.
#[test]
fn a_look_that_nobody_made_in_time_counts_for_nothing() {
    let mut run = Run::of(
        r#"{"name":"order","steps":[{"name":"ship","compensation":{"by":"recall"},"retry":{"attempts_max":1}}]}"#,
    );
    assert_eq!(run.end("ship", under_way()), ["retrying"]);
    run.now = run.now.plus(HOUR);
    assert_eq!(run.take_over(), ["taken over"]);
    assert_eq!(run.flying(), ["+ship"]);
    assert_eq!(run.attempts[0].number, 1);
    // This one may have been made.
    assert_eq!(run.take_over(), ["taken over", "failed"]);
}

/// Each look costs rows of the journal.
#[test]
fn what_goes_on_for_long_is_looked_at_less_often() {
    let mut run = Run::of(SHIP);
    let often = || Ended::UnderWay { look_in: Duration::from_secs(1), reason: "it sails".into() };
    let begin = run.now;
    let mut looks = 0;
    while run.now.since(begin) < 24 * HOUR {
        assert_eq!(run.end("ship", often()), ["retrying"]);
        let due = run.saga.standing.due.unwrap();
        let pause = due.since(run.now);
        assert!(pause >= Duration::from_secs(1) && pause <= Duration::from_secs(300), "{pause:?}");
        assert_eq!(run.wait(pause), ["woken"]);
        looks += 1;
    }
    assert!(looks < 500, "{looks}");
}

/// Nobody serves the step for a day: its pauses grow, and with them the journal hardly does.
#[test]
fn an_attempt_that_nobody_makes_fills_no_journal() {
    let mut run = Run::of(DIAMOND);
    let (begun, mut longest) = (run.now, Duration::ZERO);
    while run.now.since(begun) < Duration::from_secs(24 * 3_600) {
        assert_eq!(run.end("a", Ended::NotMade("nobody".into())), ["retrying"]);
        let pause = run.saga.next_time().unwrap().since(run.now);
        let limit = (run.now.since(begun) / 10).max(NOT_MADE_PAUSE).min(PAUSE_MAX);
        assert!(pause <= limit, "{pause:?} after {:?}", run.now.since(begun));
        longest = longest.max(pause);
        assert_eq!(run.wait(pause), ["woken"]);
    }
    assert_eq!(longest, PAUSE_MAX);
    assert!(run.journal.len() < 1_000, "{}", run.journal.len());
}
