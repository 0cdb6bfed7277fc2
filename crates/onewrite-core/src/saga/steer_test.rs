use super::*;
use crate::saga::Refusal;

fn want(run: &mut Run, verb: Verb) -> Vec<String> {
    run.give(Input::Wanted { verb, actor: "ann".into(), reason: "so".into() })
}

fn skip(step: &'static str) -> Verb {
    skip_of(step, Direction::Action)
}

fn skip_of(step: &'static str, direction: Direction) -> Verb {
    let (step, output) = (step.into(), Json::trusted("\"by hand\""));
    Verb::Skip { step, output, direction: Some(direction) }
}

fn retry(step: &'static str) -> Verb {
    Verb::Retry { step: step.into() }
}

/// Why a step cannot be tried again.
fn why_not(run: &Run, step: &'static str) -> Refusal {
    run.saga.refusal(&retry(step)).unwrap()
}

#[test]
fn a_paused_saga_begins_nothing_and_no_time_is_over() {
    let mut run = Run::of(ORDER);
    assert_eq!(want(&mut run, Verb::Pause), ["paused"]);
    assert_eq!(want(&mut run, Verb::Pause), [""; 0]);
    assert_eq!(run.stands(), (State::Running, Waits::Lease), "an attempt is in flight");
    assert_eq!(run.done("reserve"), ["done"], "what is in flight ends");
    assert_eq!(run.flying(), [""; 0]);
    assert_eq!(why_not(&run, "charge"), Refusal::State("it is paused: resume it"));
    assert_eq!(run.stands(), (State::Running, Waits::Operator));
    assert_eq!(run.wait(Duration::from_secs(7_200)), [""; 0], "its time is not over");
    run.take_over();
    assert_eq!(run.flying(), [""; 0]);
    assert_eq!(run.stands(), (State::Running, Waits::Operator));
    assert_eq!(want(&mut run, Verb::Resume), ["resumed"]);
    assert_eq!(run.flying(), ["+charge"]);
    assert_eq!(run.wait(Duration::ZERO), ["expired"], "now it is");
}

#[test]
fn what_fails_while_it_is_paused_is_compensated_once_it_goes_on() {
    let mut run = Run::of(ORDER);
    run.done("reserve");
    want(&mut run, Verb::Pause);
    assert_eq!(run.end("charge", Ended::Aborted("no money".into())), ["failed"]);
    assert_eq!((run.flying(), run.stands()), (vec![], (State::Compensating, Waits::Operator)));
    assert_eq!(want(&mut run, Verb::Resume), ["resumed"]);
    assert_eq!(run.flying(), ["-charge"]);
}

#[test]
fn who_cancels_what_is_paused_wants_it_compensated() {
    let mut run = Run::of(ORDER);
    run.done("reserve");
    want(&mut run, Verb::Pause);
    assert_eq!(want(&mut run, Verb::Cancel), ["cancelled"]);
    run.take_over();
    assert_eq!(run.flying(), ["-charge"]);
    // Also where it turned back by itself meanwhile.
    let mut run = Run::of(ORDER);
    want(&mut run, Verb::Pause);
    run.end("reserve", Ended::Aborted("sold out".into()));
    assert_eq!(
        (run.flying(), want(&mut run, Verb::Cancel)),
        (vec![], vec!["cancelled".to_owned()])
    );
    assert_eq!(run.flying(), ["-reserve"]);
    assert_eq!(want(&mut run, Verb::Cancel), [""; 0]);
}

#[test]
fn what_is_so_already_is_known() {
    let run = Run::of(ORDER);
    let verbs = [Verb::Cancel, Verb::ForceCompensate, Verb::ForceComplete, Verb::Pause];
    let is_so = |run: &Run| verbs.clone().map(|verb| run.saga.is_so(&verb));
    assert_eq!(is_so(&run), [false; 4]);
    let with = |verb: Verb| {
        let mut run = Run::of(ORDER);
        run.done("reserve");
        want(&mut run, verb);
        run
    };
    assert_eq!(is_so(&with(Verb::Pause)), [false, false, false, true]);
    assert_eq!(is_so(&with(Verb::ForceComplete)), [false, false, true, false]);
    let mut back = with(Verb::Cancel);
    assert_eq!(is_so(&back), [true, true, false, false]);
    want(&mut back, Verb::Pause);
    assert_eq!(is_so(&back), [false, false, false, true], "it is to go on for that");
    want(&mut back, Verb::Resume);
    // The action that was in flight, and its compensation.
    back.done("charge");
    back.done("charge");
    back.done("reserve");
    assert!(back.saga.has_ended());
    assert_eq!(is_so(&back), [true, true, false, false]);
}

#[test]
fn a_step_is_tried_at_once_with_a_new_budget() {
    let mut run = Run::of(ORDER);
    run.done("reserve");
    assert_eq!(want(&mut run, retry("charge")), [""; 0], "it is in flight");
    assert_eq!(why_not(&run, "charge"), Refusal::UnderWay, "and that is said");
    assert_eq!(run.fail("charge"), ["retrying"]);
    assert_eq!(run.saga.refusal(&retry("charge")), None);
    assert_eq!(want(&mut run, retry("charge")), ["retried"]);
    assert_eq!(run.attempts[0].number, 1);
    assert_eq!(why_not(&run, "charge"), Refusal::UnderWay);
    assert_eq!(run.fail("charge"), ["retrying"], "not yet the last attempt");
    assert_eq!(want(&mut run, retry("reserve")), [""; 0], "it is done");
    assert_eq!(want(&mut run, retry("nobody")), [""; 0]);
    run.take_over();
}

#[test]
fn what_is_skipped_counts_as_done_and_as_made_good() {
    let mut run = Run::of(ORDER);
    assert!(run.saga.refusal(&skip("charge")).is_some(), "it is not its turn");
    assert_eq!(want(&mut run, skip("charge")), [""; 0]);
    assert_eq!(want(&mut run, skip("reserve")), ["skipped"]);
    assert_eq!(run.attempts.len(), 2, "whatever becomes of the attempt in flight");
    assert_eq!(run.done("reserve"), [""; 0]);
    let input = run.attempts[0].input.clone().unwrap();
    assert_eq!(input.as_str(), r#"[{"order":17},"by hand"]"#);
    run.end("charge", Ended::Aborted("no money".into()));
    assert!(run.saga.refusal(&skip("charge")).is_some(), "that was its action");
    assert_eq!(want(&mut run, skip("charge")), [""; 0], "its compensation is not lost");
    let back = |step| skip_of(step, Direction::Compensation);
    assert_eq!(want(&mut run, back("reserve")), [""; 0], "what came after is made good first");
    assert_eq!(want(&mut run, back("charge")), ["skipped"]);
    assert_eq!(run.flying(), ["-charge", "-reserve"], "it is compensated all the same");
    assert_eq!(run.done("charge"), [""; 0]);
    assert_eq!(run.done("reserve"), ["compensated"]);
    assert_eq!(run.stands(), (State::Compensated, Waits::Nothing));
}

#[test]
fn what_is_held_can_be_skipped() {
    let mut run = Run::of(ORDER);
    for step in ["reserve", "charge", "book"] {
        run.done(step);
    }
    assert_eq!(run.end("ship", Ended::Aborted("no lorry".into())), ["held"]);
    assert_eq!(want(&mut run, skip("ship")), ["skipped"]);
    assert_eq!(run.stands(), (State::Completed, Waits::Nothing));
    assert_eq!(run.saga.standing.output, Some(Json::trusted("\"by hand\"")));
}

#[test]
fn past_the_pivot_only_force_compensates() {
    let mut run = Run::of(ORDER);
    for step in ["reserve", "charge", "book"] {
        run.done(step);
    }
    assert!(run.saga.refusal(&Verb::Cancel).is_some());
    assert_eq!(want(&mut run, Verb::Cancel), [""; 0]);
    assert_eq!(want(&mut run, Verb::ForceCompensate), ["force compensated"]);
    assert_eq!(run.saga.refusal(&Verb::ForceCompensate), None, "so it is");
    run.take_over();
    assert_eq!(run.flying(), ["-charge"], "what cannot be compensated stays");
    run.done("charge");
    run.done("reserve");
    assert_eq!(run.stands(), (State::Compensated, Waits::Nothing));
}

#[test]
fn what_is_completed_by_force_has_ended() {
    let mut run = Run::of(ORDER);
    run.done("reserve");
    assert_eq!(want(&mut run, Verb::ForceComplete), ["force completed"]);
    assert_eq!(run.stands(), (State::Completed, Waits::Nothing));
    assert_eq!(run.saga.standing.output, Some(Json::NULL), "nothing is there to answer");
    assert!(run.saga.refusal(&Verb::Pause).is_some());
    assert_eq!(run.done("charge"), [""; 0]);
    let mut run = Run::of(ORDER);
    run.end("reserve", Ended::Aborted("sold out".into()));
    assert!(run.saga.refusal(&Verb::ForceComplete).is_some(), "never both");
    assert_eq!(want(&mut run, Verb::ForceComplete), [""; 0]);
}

#[test]
fn what_is_wanted_of_a_saga_is_found_in_its_journal() {
    let (id, actor, reason) = ("r".into(), "ann".into(), "so".into());
    let request = crate::saga::Request { id, verb: skip("ship"), actor, reason };
    let skipped = |step: &'static str| Entry::Skipped {
        step: step.into(),
        output: Json::NULL,
        actor: "ann".into(),
        reason: "so".into(),
    };
    assert!(request.is_heeded(&[Entry::Woken, skipped("ship")]));
    assert!(!request.is_heeded(&[skipped("book")]));
}
