use super::*;
use crate::saga::{Definition, Verb, journal::SavedTransition};

const ORDER: &str = r#"{"name":"order","timeout_ms":60000,"output":"/steps/ship","steps":[
    {"name":"reserve","compensation":{"by":"release"}},
    {"name":"charge","compensation":{"by":"refund"},"input":["/input","/steps/reserve"],
     "retry":{"attempts_max":2}, "compensation_retry":{"attempts_max":2}},
    {"name":"book","kind":"pivot","compensation":{"none":"it decides"}},
    {"name":"ship","kind":"retriable","compensation":{"none":"it only goes forward"}}]}"#;

/// Two branches behind one step, and one behind both.
const DIAMOND: &str = r#"{"name":"trip","steps":[
    {"name":"a","compensation":{"by":"undo"}},
    {"name":"b","after":["a"],"compensation":{"by":"undo"}},
    {"name":"c","after":["a"],"compensation":{"by":"undo"}},
    {"name":"d","after":["b","c"],"compensation":{"by":"undo"}}]}"#;

/// A saga with its journal, at a time that stands still unless it is moved.
struct Run {
    saga: Saga,
    now: Timestamp,
    journal: Vec<SavedTransition>,
    attempts: Vec<Attempt>,
    /// The signal that the last transition takes.
    takes: Option<Text>,
}

impl Run {
    fn of(definition: &str) -> Self {
        let checked = Arc::new(Definition::parse(definition).unwrap());
        let input = Json::trusted(r#"{"order":17}"#);
        let now = Timestamp(1_000_000);
        let mut saga = Saga::started(SagaId(7), checked, input, now, Sabotage::default());
        let attempts = saga.committed(now);
        Self { saga, now, journal: Vec::new(), attempts, takes: None }
    }

    fn give(&mut self, input: Input) -> Vec<String> {
        let entries = self.saga.decide(self.now, input).unwrap();
        if !entries.is_empty() {
            let next = self.saga.next_transition(0, self.now, &entries).unwrap();
            self.takes = next.takes;
            let (version, json) = (next.version, next.entries);
            self.journal.push(SavedTransition { version, time: self.now, epoch: 1, json });
        }
        self.attempts.extend(self.saga.committed(self.now));
        entries.iter().map(word).collect()
    }

    /// Ends the attempt in flight at `step`.
    fn end(&mut self, step: &str, how: Ended) -> Vec<String> {
        let index = self.saga.checked.index_of(step).unwrap();
        let at = self.attempts.iter().position(|attempt| attempt.step == index);
        let attempt = self.attempts.remove(at.unwrap_or_else(|| panic!("{step} is not attempted")));
        let Attempt { step, direction, number, .. } = attempt;
        self.give(Input::Ended { step, direction, number, how, jitter: 1.0 })
    }

    fn done(&mut self, step: &str) -> Vec<String> {
        self.end(step, Ended::Done(Json::trusted(format!("\"{step}\""))))
    }

    fn fail(&mut self, step: &str) -> Vec<String> {
        self.end(step, Ended::Unknown("no answer".into()))
    }

    /// What is in flight: `+` before an action, `-` before a compensation.
    fn flying(&self) -> Vec<String> {
        let sign = |attempt: &Attempt| match attempt.direction {
            Direction::Action => '+',
            Direction::Compensation => '-',
        };
        let name = |attempt: &Attempt| self.saga.checked.steps()[attempt.step].name.clone();
        self.attempts.iter().map(|attempt| format!("{}{}", sign(attempt), name(attempt))).collect()
    }

    fn wait(&mut self, time: Duration) -> Vec<String> {
        self.now = self.now.plus(time);
        self.give(Input::Time)
    }

    /// The owner ends; another one reads the journal and carries on.
    fn take_over(&mut self) -> Vec<String> {
        let saved = SavedSaga {
            id: self.saga.id,
            name: "s".into(),
            key: "k".into(),
            run: 0,
            partition: 0,
            definition: self.saga.checked.id().clone(),
            input: self.saga.input.clone(),
            standing: self.saga.standing.clone(),
            started_at: self.saga.started_at,
            ended_at: None,
            parent: None,
            journal: self.journal.clone(),
            unreadable: None,
        };
        let checked = Arc::clone(&self.saga.checked);
        let steps = self.saga.steps.clone();
        self.saga = Saga::recovered(&saved, checked, Sabotage::default()).unwrap();
        assert_eq!(self.saga.steps, steps, "the fold of the journal is what was known");
        self.attempts.clear();
        self.give(Input::TakenOver)
    }

    fn stands(&self) -> (State, Waits) {
        (self.saga.standing.state, self.saga.standing.waits)
    }
}

/// What an entry is called in the journal.
fn word(entry: &Entry) -> String {
    let text = serde_json::to_string(entry).unwrap();
    text.split('"').nth(1).unwrap().replace('_', " ")
}

#[test]
fn a_saga_completes_with_one_transition_for_each_step() {
    let mut run = Run::of(ORDER);
    for step in ["reserve", "charge", "book", "ship"] {
        assert_eq!(run.flying(), [format!("+{step}")]);
        assert_eq!(run.done(step), ["done"]);
    }
    assert_eq!(run.journal.len(), 4);
    assert_eq!(run.stands(), (State::Completed, Waits::Nothing));
    assert_eq!(run.saga.standing.output, Some(Json::trusted("\"ship\"")));
}

#[test]
fn a_step_is_given_what_its_mapping_says_and_its_compensation_the_output_too() {
    let mut run = Run::of(ORDER);
    run.done("reserve");
    let input = run.attempts[0].input.clone().unwrap();
    assert_eq!(input.as_str(), r#"[{"order":17},"reserve"]"#);
    run.end("charge", Ended::Aborted("no money".into()));
    assert_eq!(run.flying(), ["-charge"], "a failed step may have had an effect (S8)");
    assert_eq!(run.attempts[0].output, None);
    assert_eq!(run.attempts[0].input.clone().unwrap(), input);
    run.done("charge");
    assert_eq!(run.attempts[0].output, Some(Json::trusted("\"reserve\"")));
    assert_eq!(run.attempts[0].key.as_str(), format!("{}/reserve/compensation", SagaId(7)));
    assert_eq!(run.done("reserve"), ["compensated"]);
    assert_eq!(run.stands(), (State::Compensated, Waits::Nothing));
}

#[test]
fn an_unknown_outcome_is_tried_again_with_the_same_key_within_its_budget() {
    let mut run = Run::of(ORDER);
    run.done("reserve");
    let key = run.attempts[0].key.clone();
    assert_eq!(run.fail("charge"), ["retrying"]);
    assert_eq!(run.stands(), (State::Running, Waits::Timer));
    assert!(run.wait(Duration::from_millis(99)).is_empty());
    assert_eq!(run.wait(Duration::from_millis(1)), ["woken"]);
    assert_eq!((run.attempts[0].number, &run.attempts[0].key), (2, &key));
    assert_eq!(run.stands(), (State::Running, Waits::Lease));
    assert_eq!(run.fail("charge"), ["failed"]);
    assert_eq!(run.flying(), ["-charge"]);
}

#[test]
fn a_compensation_that_cannot_be_made_waits_for_a_person_and_is_never_reported_made() {
    let mut run = Run::of(ORDER);
    run.done("reserve");
    run.end("charge", Ended::Aborted("no".into()));
    run.fail("charge");
    run.wait(Duration::from_secs(1));
    assert_eq!(run.fail("charge"), ["held"]);
    assert_eq!(run.stands(), (State::NeedsOperator, Waits::Operator));
    assert!(run.flying().is_empty(), "what comes before waits for it");
    assert_eq!(
        run.give(Input::Wanted {
            verb: Verb::Resume,
            actor: "ann".into(),
            reason: "mended".into()
        }),
        ["resumed"]
    );
    assert_eq!(run.attempts[0].number, 1, "with a new budget");
    run.done("charge");
    run.done("reserve");
    assert_eq!(run.stands(), (State::Compensated, Waits::Nothing));
}

#[test]
fn behind_the_pivot_it_only_goes_forward() {
    let mut run = Run::of(ORDER);
    run.done("reserve");
    run.done("charge");
    assert_eq!(run.saga.can_cancel(), Cancelled::TooLate, "the pivot may have decided already");
    for _ in 0..50 {
        assert_eq!(run.fail("book"), ["retrying"]);
        assert!(!run.wait(Duration::from_secs(30)).is_empty());
        run.wait(Duration::ZERO);
    }
    run.done("book");
    assert_eq!(run.end("ship", Ended::Aborted("no".into())), ["held"], "a person decides (S12)");
    run.give(Input::Wanted {
        verb: Verb::Resume,
        actor: "ann".into(),
        reason: "called them".into(),
    });
    run.done("ship");
    assert_eq!(run.stands(), (State::Completed, Waits::Nothing));
}

#[test]
fn a_pivot_that_says_no_undoes_what_came_before() {
    let mut run = Run::of(ORDER);
    run.done("reserve");
    run.done("charge");
    run.end("book", Ended::Aborted("sold out".into()));
    assert_eq!(run.flying(), ["-charge"]);
}

#[test]
fn a_pivot_with_a_compensation_is_compensated_when_it_fails_and_never_when_it_is_done() {
    let definition = ORDER.replace(r#"{"none":"it decides"}"#, r#"{"by":"unbook"}"#);
    let mut run = Run::of(&definition);
    run.done("reserve");
    run.done("charge");
    run.fail("book");
    run.wait(Duration::from_secs(1));
    run.end("book", Ended::Aborted("sold out".into()));
    assert_eq!(run.flying(), ["-book"], "its first attempt may still take effect");
    run.done("book");
    assert_eq!(run.flying(), ["-charge"]);

    let mut run = Run::of(&definition);
    for step in ["reserve", "charge", "book"] {
        run.done(step);
    }
    run.end("ship", Ended::Aborted("no".into()));
    assert!(run.flying().is_empty(), "nothing is undone behind it");
    assert_eq!(run.saga.standing.state, State::NeedsOperator);
}

#[test]
fn what_is_told_after_the_end_changes_nothing() {
    let mut run = Run::of(
        r#"{"name":"s","steps":[{"name":"a","after":[],"compensation":{"none":"x"}},
            {"name":"b","after":[],"compensation":{"none":"x"}}]}"#,
    );
    run.end("a", Ended::Aborted("no".into()));
    assert_eq!(run.stands(), (State::Compensated, Waits::Nothing));
    assert!(run.done("b").is_empty(), "its sibling was in flight");
    assert!(
        run.give(Input::Wanted { verb: Verb::Cancel, actor: "ann".into(), reason: "so".into() })
            .is_empty()
    );
}

#[test]
fn branches_run_beside_one_another_and_are_undone_in_reverse() {
    let mut run = Run::of(DIAMOND);
    run.done("a");
    assert_eq!(run.flying(), ["+b", "+c"]);
    run.done("b");
    assert_eq!(run.end("c", Ended::Aborted("no".into())), ["failed"]);
    assert_eq!(run.flying(), ["-b", "-c"]);
    run.done("c");
    assert_eq!(run.flying(), ["-b"], "a is undone after both");
    run.done("b");
    assert_eq!(run.flying(), ["-a"]);
    run.done("a");
    assert_eq!(run.stands(), (State::Compensated, Waits::Nothing));
}

#[test]
fn a_sibling_in_flight_is_waited_for_and_its_success_is_known_to_its_compensation() {
    let mut run = Run::of(DIAMOND);
    run.done("a");
    run.end("b", Ended::Aborted("no".into()));
    assert_eq!(
        run.flying(),
        ["+c", "-b"],
        "c is not compensated while its action is in flight (S9)"
    );
    assert_eq!(run.done("c"), ["done"], "evidence (S13)");
    assert_eq!(run.flying(), ["-b", "-c"]);
    assert_eq!(run.attempts[1].output, Some(Json::trusted("\"c\"")));
}

#[test]
fn late_and_repeated_replies_change_nothing() {
    let mut run = Run::of(ORDER);
    run.done("reserve");
    let first = run.attempts[0].clone();
    run.fail("charge");
    run.wait(Duration::from_secs(1));
    let late = |how| Input::Ended {
        step: first.step,
        direction: first.direction,
        number: first.number,
        how,
        jitter: 0.0,
    };
    assert!(run.give(late(Ended::Unknown("again".into()))).is_empty());
    assert_eq!(
        run.give(late(Ended::Done(Json::NULL))),
        ["done"],
        "a success is a success, however late"
    );
    assert!(run.give(late(Ended::Done(Json::NULL))).is_empty());
    assert_eq!(run.flying(), ["+charge", "+book"], "the second attempt is still in flight");
    assert!(run.fail("charge").is_empty());
}

#[test]
fn its_time_ends_before_the_pivot_in_compensation_and_behind_it_in_an_alert() {
    let mut run = Run::of(ORDER);
    run.done("reserve");
    assert_eq!(run.saga.next_time(), Some(Timestamp(61_000_000)));
    assert_eq!(run.wait(Duration::from_secs(60)), ["expired"]);
    assert_eq!(run.flying(), ["+charge"], "its attempt is in flight");
    run.fail("charge");
    assert_eq!(run.flying(), ["-charge"]);

    let mut run = Run::of(ORDER);
    run.done("reserve");
    run.done("charge");
    assert_eq!(run.wait(Duration::from_secs(60)), ["overdue"]);
    assert!(run.wait(Duration::from_secs(60)).is_empty(), "once");
    run.done("book");
    run.done("ship");
    assert_eq!(run.stands(), (State::Completed, Waits::Nothing), "success wins (S11)");
}

#[test]
fn a_cancelled_saga_is_compensated() {
    let mut run = Run::of(ORDER);
    let cancel = || Input::Wanted {
        verb: Verb::Cancel,
        actor: "ann".into(),
        reason: "changed her mind".into(),
    };
    assert_eq!(run.give(cancel()), ["cancelled"]);
    assert!(run.give(cancel()).is_empty());
    assert_eq!(run.saga.can_cancel(), Cancelled::Already);
    run.done("reserve");
    assert_eq!(run.flying(), ["-reserve"]);
    run.done("reserve");
    assert_eq!(run.saga.can_cancel(), Cancelled::TooLate);
}

#[test]
fn another_owner_carries_on_where_the_journal_ends() {
    let mut run = Run::of(ORDER);
    run.done("reserve");
    assert_eq!(run.take_over(), ["taken over"]);
    assert_eq!(run.flying(), ["+charge"]);
    assert_eq!(run.attempts[0].number, 2, "what was in flight counts");
    assert_eq!(run.take_over(), ["taken over", "failed"], "its budget is over (S21)");
    assert_eq!(run.take_over(), ["taken over"]);
    assert_eq!(run.flying(), ["-charge"]);
    run.done("charge");
    run.done("reserve");
    assert_eq!(run.stands(), (State::Compensated, Waits::Nothing));
    assert!(run.take_over().is_empty());
}

#[test]
fn a_takeover_during_a_pause_counts_no_attempt() {
    let mut run = Run::of(ORDER);
    run.done("reserve");
    run.fail("charge");
    run.take_over();
    assert!(run.flying().is_empty(), "the pause is not over");
    run.wait(Duration::from_secs(1));
    assert_eq!(run.attempts[0].number, 2);
}

#[test]
fn what_is_handed_back_is_taken_up_and_counts_no_attempt() {
    let mut run = Run::of(ORDER);
    assert!(run.give(Input::HandBack).is_empty(), "its attempt is in flight");
    let attempts = std::mem::take(&mut run.attempts);
    let Attempt { step, direction, number, .. } = attempts[0].clone();
    let how = Ended::Done(Json::NULL);
    let entries =
        run.saga.decide(run.now, Input::Ended { step, direction, number, how, jitter: 0.0 });
    let next = run.saga.next_transition(0, run.now, &entries.unwrap()).unwrap();
    let (version, json) = (next.version, next.entries);
    run.journal.push(SavedTransition { version, time: run.now, epoch: 1, json });
    let entries = run.saga.decide(run.now, Input::HandBack).unwrap();
    assert_eq!(entries, [Entry::HandedBack]);
    let next = run.saga.next_transition(0, run.now, &entries).unwrap();
    assert_eq!(next.standing, Some(Standing::waiting(State::Running, run.now)));
    let (version, json) = (next.version, next.entries);
    run.journal.push(SavedTransition { version, time: run.now, epoch: 1, json });
    let (now, steps) = (run.now, run.saga.steps.clone());
    assert_eq!(run.wait(Duration::ZERO), ["woken"]);
    assert_eq!((run.now, &run.saga.steps), (now, &steps));
    assert_eq!(run.flying(), ["+charge"]);
    assert_eq!(run.attempts[0].number, 1);
}

#[test]
fn an_attempt_that_nobody_could_make_does_not_count() {
    let mut run = Run::of(ORDER);
    run.done("reserve");
    for _ in 0..10 {
        assert_eq!(run.end("charge", Ended::NotMade("nobody serves it".into())), ["retrying"]);
        assert_eq!(run.wait(Duration::from_secs(5)), ["woken"]);
        assert_eq!(run.attempts[0].number, 1);
    }
    run.done("charge");
    assert_eq!(run.flying(), ["+book"]);
}

#[test]
fn a_pointer_that_leads_nowhere_is_told_to_the_driver() {
    let mut run = Run::of(
        r#"{"name":"s","steps":[{"name":"a","input":"/input/nothing","compensation":{"none":"x"}}]}"#,
    );
    let why = run.attempts[0].input.clone().unwrap_err();
    assert!(why.contains("/input/nothing"), "{why}");
    assert_eq!(run.end("a", Ended::Aborted(why)), ["failed"]);
    assert_eq!(run.stands(), (State::Compensated, Waits::Nothing));
}

#[test]
fn a_journal_that_does_not_fit_is_corrupt_and_not_a_panic() {
    let checked = Arc::new(Definition::parse(ORDER).unwrap());
    for (version, json) in [
        (1, r#"[{"done":{"step":"x","attempt":1,"output":null}}]"#),
        (
            1,
            r#"[{"done":{"step":"reserve","attempt":1,"output":null}},{"done":{"step":"reserve","attempt":1,"output":null}}]"#,
        ),
        (1, "[{"),
        (2, r#"[{"done":{"step":"reserve","attempt":1,"output":null}}]"#),
        (u32::MAX, r#"[{"done":{"step":"reserve","attempt":1,"output":null}}]"#),
    ] {
        let mut run = Run::of(ORDER);
        run.journal = vec![SavedTransition { version, time: run.now, epoch: 1, json: json.into() }];
        let saved = SavedSaga {
            id: SagaId(1),
            name: "order".into(),
            key: "k".into(),
            run: 0,
            partition: 0,
            definition: checked.id().clone(),
            input: Json::NULL,
            standing: Standing::leased(State::Running),
            started_at: run.now,
            ended_at: None,
            parent: None,
            journal: run.journal,
            unreadable: None,
        };
        let error = Saga::recovered(&saved, Arc::clone(&checked), Sabotage::default()).unwrap_err();
        assert_eq!(error.code(), Code::Corrupt, "{json}: {error}");
    }
}

#[path = "steer_test.rs"]
mod steer_test;
#[path = "waiting_test.rs"]
mod waiting_test;

#[path = "under_way_test.rs"]
mod under_way_test;

/// A step that is held waits for a person, and the row says so once nothing else is under way.
#[test]
fn the_row_says_that_a_person_is_waited_for_when_the_last_attempt_has_ended() {
    let mut run = Run::of(
        r#"{"name":"trip","steps":[
            {"name":"hold","compensation":{"by":"undo"},"compensation_retry":{"attempts_max":1}},
            {"name":"ask","after":["hold"],"compensation":{"none":"asking changes nothing"}},
            {"name":"book","after":["hold"],"compensation":{"by":"undo"}}]}"#,
    );
    run.done("hold");
    assert_eq!(run.end("book", Ended::Aborted("full".into())), ["failed"]);
    assert_eq!(run.flying(), ["+ask", "-book"]);
    assert_eq!(run.done("book"), ["compensated"]);
    assert_eq!(run.fail("hold"), ["held"]);
    assert_eq!(run.stands(), (State::NeedsOperator, Waits::Lease), "`ask` is in flight");
    assert_eq!(run.fail("ask"), ["woken"]);
    assert_eq!(run.stands(), (State::NeedsOperator, Waits::Operator));
}
