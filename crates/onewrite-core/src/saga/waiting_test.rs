use super::*;
use crate::saga::{OpenStep, Refusal, journal::Awaited};

/// Asks, waits for the answer or for an hour, and waits a minute more before it ends.
const ANSWER: &str = r#"{"name":"answer","output":"/steps/answer/yes","steps":[
    {"name":"ask","compensation":{"by":"take_back"}},
    {"name":"answer","wait":{"signal":{"name":"answered","correlation":"/steps/ask/id"}},
     "step_timeout_ms":3600000,"compensation":{"none":"waiting changes nothing"}},
    {"name":"cool","wait":{"for_ms":60000},"compensation":{"none":"waiting changes nothing"}}]}"#;

fn answer() -> Run {
    let mut run = Run::of(ANSWER);
    let how = Ended::Done(Json::trusted(r#"{"id":17}"#));
    assert_eq!(run.end("ask", how), ["done"]);
    run
}

fn signal(run: &mut Run, step: &str, signal: &'static str) -> Vec<String> {
    let step = run.saga.checked.index_of(step).unwrap();
    let payload = Json::trusted(r#"{"yes":true}"#);
    run.give(Input::Signalled { step, signal: signal.into(), payload })
}

#[test]
fn a_step_waits_for_its_signal_and_then_for_a_time() {
    let mut run = answer();
    assert_eq!(run.stands(), (State::Running, Waits::Signal));
    assert_eq!(run.saga.standing.due, Some(run.now.plus(Duration::from_secs(3_600))));
    let awaited = run.saga.awaited();
    assert_eq!((&*awaited[0].name, &*awaited[0].correlation), ("answered", "17"));
    let retry = Verb::Retry { step: "answer".into() };
    assert!(
        matches!(run.saga.refusal(&retry), Some(Refusal::State(why)) if why.contains("signal"))
    );
    assert_eq!(run.flying(), [""; 0], "nothing is carried out");
    assert!(run.wait(Duration::from_secs(3_599)).is_empty());
    assert!(signal(&mut run, "cool", "s-0").is_empty(), "nobody waits for it there");
    assert_eq!(signal(&mut run, "answer", "s-1"), ["signalled"]);
    assert_eq!(run.takes.as_deref(), Some("s-1"));
    assert_eq!(run.stands(), (State::Running, Waits::Timer));
    assert!(run.saga.awaited().is_empty());
    assert!(signal(&mut run, "answer", "s-2").is_empty(), "it has its signal");
    assert!(run.wait(Duration::from_secs(59)).is_empty());
    assert_eq!(run.wait(Duration::from_secs(1)), ["done"]);
    assert_eq!(run.takes, None);
    assert_eq!(run.stands(), (State::Completed, Waits::Nothing));
    assert_eq!(run.saga.standing.output, Some(Json::trusted("true")));
}

#[test]
fn without_a_signal_in_time_what_was_done_is_compensated() {
    let mut run = answer();
    assert_eq!(run.wait(Duration::from_secs(3_600)), ["failed"]);
    assert_eq!(run.flying(), ["-ask"]);
    assert!(signal(&mut run, "answer", "s-1").is_empty(), "it comes too late");
    assert_eq!(run.done("ask"), ["compensated"]);
    assert_eq!(run.stands(), (State::Compensated, Waits::Nothing));
}

#[test]
fn waiting_outlives_its_owner_and_counts_no_attempts() {
    let mut run = answer();
    let due = run.saga.standing.due;
    for _ in 0..20 {
        run.take_over();
    }
    assert_eq!(run.stands(), (State::Running, Waits::Signal));
    assert_eq!(run.saga.standing.due, due);
    assert_eq!(signal(&mut run, "answer", "s-1"), ["signalled"]);
    run.take_over();
    assert_eq!(run.wait(Duration::from_secs(60)), ["done"]);
    assert_eq!(run.stands().0, State::Completed);
}

#[test]
fn a_saga_that_waits_can_be_cancelled() {
    let mut run = answer();
    let cancel = Input::Wanted { verb: Verb::Cancel, actor: "me".into(), reason: "why not".into() };
    assert_eq!(run.give(cancel), ["cancelled"]);
    assert_eq!(run.done("ask"), ["compensated"]);
    assert!(run.saga.awaited().is_empty());
}

#[test]
fn behind_the_pivot_a_signal_that_does_not_come_is_for_a_person() {
    let mut run = Run::of(
        r#"{"name":"s","steps":[
        {"name":"book","kind":"pivot","compensation":{"none":"it decides"}},
        {"name":"told","kind":"retriable","wait":{"signal":{"name":"told","correlation":"/input/order"}},
         "step_timeout_ms":1000,"compensation":{"none":"it only goes forward"}}]}"#,
    );
    run.done("book");
    assert_eq!(run.stands(), (State::Running, Waits::Signal));
    assert_eq!(run.wait(Duration::from_secs(1)), ["held"]);
    assert_eq!(run.stands(), (State::NeedsOperator, Waits::Operator));
    assert_eq!(run.saga.awaited().len(), 1, "it may still come");
    let resume =
        Input::Wanted { verb: Verb::Resume, actor: "me".into(), reason: "they are late".into() };
    assert_eq!(run.give(resume), ["resumed"]);
    assert_eq!(run.stands(), (State::Running, Waits::Signal));
    assert_eq!(run.wait(Duration::from_secs(1)), ["held"]);
    assert_eq!(signal(&mut run, "told", "s-1"), ["signalled"]);
    assert_eq!(run.stands(), (State::Completed, Waits::Nothing));
}

#[test]
fn a_correlation_that_leads_nowhere_fails_at_once() {
    let mut run = Run::of(ANSWER);
    assert_eq!(run.done("ask"), ["done"], "its output is no object");
    assert!(run.saga.awaited().is_empty());
    assert_eq!(run.wait(Duration::ZERO), ["failed"]);
    assert_eq!(run.flying(), ["-ask"]);
}

#[test]
fn a_saga_may_begin_by_waiting() {
    let run = Run::of(
        r#"{"name":"s","steps":[{"name":"paid","wait":{"signal":{"name":"paid","correlation":"/input/order"}},
         "step_timeout_ms":1000,"compensation":{"none":"waiting changes nothing"}}]}"#,
    );
    assert_eq!(run.stands(), (State::Running, Waits::Signal));
    assert_eq!(&*run.saga.awaited()[0].correlation, "17");
}

#[test]
fn the_steps_that_a_saga_is_at_are_told() {
    let mut run = Run::of(DECISION);
    let at = |run: &Run| {
        let open = run.saga.open_steps();
        let name = |signal: &Awaited| signal.name.to_string();
        let told = |open: OpenStep| {
            (
                open.step.to_string(),
                open.direction,
                open.participant.map(|name| name.to_string()),
                open.signal.as_ref().map(name),
                open.at.is_some(),
            )
        };
        open.into_iter().map(told).collect::<Vec<_>>()
    };
    let (there, back) = (Direction::Action, Direction::Compensation);
    let ask = Some("ask".to_owned());
    assert_eq!(at(&run), [("ask".into(), there, ask, None, false)]);
    run.done("ask");
    assert_eq!(at(&run), [("word".into(), there, None, Some("word".into()), true)]);
    run.wait(Duration::from_secs(61));
    assert_eq!(at(&run), [("ask".into(), back, Some("take_back".into()), None, false)]);
}

/// Pays when the signal comes, and only goes forward then.
const DECISION: &str = r#"{"name":"s","timeout_ms":3600000,"steps":[
    {"name":"ask","compensation":{"by":"take_back"}},
    {"name":"word","kind":"pivot","wait":{"signal":{"name":"word","correlation":"/input/order"}},
     "step_timeout_ms":60000,"compensation":{"none":"waiting changes nothing"}},
    {"name":"pay","kind":"retriable","compensation":{"none":"it only goes forward"}}]}"#;

#[test]
fn a_signal_decides() {
    let mut run = Run::of(DECISION);
    run.done("ask");
    assert_eq!(run.stands(), (State::Running, Waits::Signal));
    assert_eq!(run.saga.can_cancel(), Cancelled::Yes, "nothing is decided yet");
    assert_eq!(signal(&mut run, "word", "s-1"), ["signalled"]);
    assert_eq!(run.saga.can_cancel(), Cancelled::TooLate);
    run.take_over();
    assert_eq!(run.wait(Duration::from_secs(3_600)), ["overdue"]);
    run.done("pay");
    assert_eq!(run.stands(), (State::Completed, Waits::Nothing));
}

#[test]
fn without_the_signal_that_decides_in_time_it_is_compensated() {
    let mut run = Run::of(DECISION);
    run.done("ask");
    run.take_over();
    assert!(run.wait(Duration::from_secs(59)).is_empty());
    assert_eq!(run.wait(Duration::from_secs(1)), ["failed"]);
    assert_eq!(run.flying(), ["-ask"]);
    assert!(signal(&mut run, "word", "s-1").is_empty(), "it comes too late");
}

#[test]
fn a_saga_that_waits_for_what_decides_can_be_cancelled() {
    let mut run = Run::of(DECISION);
    run.done("ask");
    let cancel = Input::Wanted { verb: Verb::Cancel, actor: "me".into(), reason: "why not".into() };
    assert_eq!(run.give(cancel), ["cancelled"]);
    assert!(signal(&mut run, "word", "s-1").is_empty(), "it is for others");
    assert_eq!(run.done("ask"), ["compensated"]);
    assert_eq!(run.stands(), (State::Compensated, Waits::Nothing));
}

/// A sleep beside an action that takes its time: whoever takes the saga over makes no attempt of the sleep.
#[test]
fn a_sleep_uses_up_no_attempts_when_owners_change() {
    let mut run = Run::of(
        r#"{"name":"nap","steps":[
            {"name":"call","after":[],"retry":{"attempts_max":100},"compensation":{"by":"undo"}},
            {"name":"sleep","after":[],"wait":{"for_ms":60000},"compensation":{"none":"waiting changes nothing"}}]}"#,
    );
    for _ in 0..30 {
        assert_eq!(run.take_over(), ["taken over"]);
    }
    assert_eq!(run.stands(), (State::Running, Waits::Lease));
    run.done("call");
    assert_eq!(run.wait(Duration::from_secs(60)), ["done"]);
    assert_eq!(run.stands().0, State::Completed);
}
