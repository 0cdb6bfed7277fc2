//! Every interleaving of two owners, their store and the participants of a small saga: actions that succeed,
//! say no, or take effect and are not answered; replies that are late or come twice; crashes, takeovers, a
//! request to cancel; a signal that comes early, late, twice, or is taken by another saga; the end of the saga's
//! time. The machine is the one that runs in production; time stands still, and passes once.

use std::sync::Arc;

use onewrite_core::{
    Timestamp,
    sabotage::{Defect, Sabotage},
    saga::{
        Attempt, Checked, Definition, Direction, Ended, Entry, Input, Json, Saga, SagaId, Step,
        Verb,
        journal::{SavedSaga, SavedTransition, Standing, State as Stands, Waits},
    },
};
use stateright::{Checker, Model, Property};

const NOW: Timestamp = Timestamp(1);

/// Behind every deadline.
const LATER: Timestamp = Timestamp(10_000_000);

/// Signals that may come for the step that waits for one.
const SIGNALS: [&str; 2] = ["s-1", "s-2"];

/// What can go wrong, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Budget {
    /// Attempts that say no.
    aborts: u8,
    /// Attempts that are not answered, with and without an effect.
    silences: u8,
    /// Replies that come twice.
    repeats: u8,
    crashes: u8,
    takeovers: u8,
    cancels: u8,
    /// A person pauses it, and lets it go on.
    pauses: u8,
    /// Signals that are sent.
    signals: u8,
    /// Signals that another saga takes.
    thefts: u8,
}

#[derive(Clone)]
struct Sagas {
    checked: Arc<Checked>,
    budget: Budget,
    sabotage: Sabotage,
    /// Whether the store looks at the epoch and at the number of a transition.
    fenced: bool,
    /// Whether attempts wait for what permits them.
    patient: bool,
}

/// What one owner knows, and what it has sent to the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Owner {
    epoch: u64,
    saga: Saga,
    /// What it was before it took a signal, until that is committed.
    before: Option<Saga>,
    sent: Option<Sent>,
}

/// A transition on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sent {
    version: u32,
    time: Timestamp,
    json: String,
    standing: Option<Standing>,
    /// Whether a signal is waited for from now on, if that changes.
    awaits: Option<bool>,
    takes: Option<String>,
}

/// A signal in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Kept {
    sent: bool,
    /// How often it was taken.
    taken: u8,
}

/// An attempt on its way to a participant, or its reply on the way back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Flight {
    owner: usize,
    epoch: u64,
    step: usize,
    compensates: bool,
    number: u32,
    reply: Option<Reply>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Reply {
    Done,
    No,
    Silence,
}

/// What became of one step at its participant, which recognises repetitions and refuses late actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Effect {
    done: bool,
    undone: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    epoch: u64,
    journal: Vec<SavedTransition>,
    row: Standing,
    owners: [Option<Owner>; 2],
    flights: Vec<Flight>,
    effects: Vec<Effect>,
    left: Budget,
    later: bool,
    /// Whether the store knows that a signal is waited for.
    awaits: bool,
    signals: [Kept; 2],
    in_order: bool,
    permitted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Claim(usize),
    Commit(usize),
    Act(usize, Reply, bool),
    Deliver(usize, bool),
    Time(usize),
    Later,
    Send(usize),
    Signal(usize, usize),
    Steal(usize),
    Cancel(usize),
    Pause(usize),
    Resume(usize),
    Crash(usize),
}

impl Sagas {
    fn of(definition: &str) -> Self {
        let checked = Arc::new(Definition::parse(definition).unwrap());
        let budget = Budget { aborts: 1, silences: 1, takeovers: 1, ..Budget::default() };
        Self { checked, budget, sabotage: Sabotage::default(), fenced: true, patient: true }
    }

    fn saved(&self, state: &State) -> SavedSaga {
        SavedSaga {
            id: SagaId(1),
            name: "s".into(),
            key: "k".into(),
            run: 0,
            partition: 0,
            definition: self.checked.id().clone(),
            input: Json::trusted("7"),
            standing: state.row.clone(),
            started_at: NOW,
            ended_at: None,
            parent: None,
            journal: state.journal.clone(),
            unreadable: None,
        }
    }

    /// What the driver does with a fact: what follows is sent, and without that, attempts are made.
    fn tell(&self, state: &mut State, at: usize, input: Input) {
        let Some(owner) = &mut state.owners[at] else { return };
        let now = now(state.later);
        let before = matches!(input, Input::Signalled { .. }).then(|| owner.saga.clone());
        let entries = owner.saga.decide(now, input).expect("the machine follows its own entries");
        if !entries.is_empty() {
            owner.before = before;
            let next = owner.saga.next_transition(0, now, &entries).unwrap();
            owner.sent = Some(Sent {
                version: next.version,
                time: now,
                json: next.entries.to_string(),
                standing: next.standing,
                awaits: next.awaits.map(|awaits| !awaits.signals.is_empty()),
                takes: next.takes.map(|signal| signal.to_string()),
            });
        }
        if entries.is_empty() || !self.patient {
            self.attempt(state, at);
        }
    }

    fn attempt(&self, state: &mut State, at: usize) {
        let Some(owner) = &mut state.owners[at] else { return };
        let (epoch, mut flights) = (owner.epoch, Vec::new());
        for Attempt { step, direction, number, .. } in owner.saga.committed(now(state.later)) {
            let compensates = direction == Direction::Compensation;
            let flight = Flight { owner: at, epoch, step, compensates, number, reply: None };
            flights.push(flight);
        }
        state.permitted &= flights.is_empty() || !Self::is_paused(state);
        state.flights.append(&mut flights);
        state.flights.sort_unstable();
    }

    fn commit(&self, state: &mut State, at: usize) {
        let Some(owner) = &mut state.owners[at] else { return };
        let Some(sent) = owner.sent.take() else { return };
        let Sent { version, time, json, standing, awaits, takes } = sent;
        let next = state.journal.len() as u32 + 1;
        let takes = takes.and_then(|id| SIGNALS.iter().position(|known| *known == id));
        let free = takes.is_none_or(|signal| state.signals[signal].taken == 0);
        let refused = !free && !self.sabotage.has(Defect::TakeTwice);
        let accepted = owner.epoch == state.epoch && version == next;
        if !accepted && self.fenced {
            state.owners[at] = None;
            return;
        }
        let before = owner.before.take();
        if let Some(before) = before.filter(|_| refused) {
            // Another saga has the signal: it goes on as it was.
            owner.saga = before.in_place_of(&owner.saga);
            return self.attempt(state, at);
        }
        let last = state.journal.last().map_or(0, |last| last.epoch);
        state.in_order &= owner.epoch >= last;
        state.journal.truncate(version as usize - 1);
        let json = json.into();
        state.journal.push(SavedTransition { version, time, epoch: owner.epoch, json });
        if let Some(signal) = takes {
            state.signals[signal].taken += 1;
        }
        state.awaits = awaits.unwrap_or(state.awaits);
        if let Some(standing) = standing {
            state.row = standing;
        }
        self.attempt(state, at);
    }

    fn steer(&self, state: &mut State, at: usize, verb: Verb) {
        let input = Input::Wanted { verb, actor: "ann".into(), reason: "so".into() };
        self.tell(state, at, input);
    }

    /// Whether a person holds it, as the journal tells.
    fn is_paused(state: &State) -> bool {
        Self::entries(state).iter().fold(false, |paused, entry| match entry {
            Entry::Paused { .. } => true,
            Entry::Resumed { .. } | Entry::Cancelled { .. } => false,
            _ => paused,
        })
    }

    fn entries(state: &State) -> Vec<Entry> {
        state.journal.iter().flat_map(|one| one.entries().unwrap()).collect()
    }

    fn name(&self, step: usize) -> &str {
        &self.checked.steps()[step].name
    }

    /// A participant acts: at most once, and not behind a compensation.
    fn act(&self, state: &mut State, flight: usize, reply: Reply, with_effect: bool) {
        let Flight { step, compensates, .. } = state.flights[flight];
        let mut reply = reply;
        if with_effect {
            let known = Self::entries(state);
            let is_done = |step: usize| {
                known.iter().any(|entry| matches!(entry, Entry::Done { step: name, .. } | Entry::Signalled { step: name, .. } if **name == *self.name(step)))
            };
            if compensates {
                let turned = known.iter().any(|entry| entry.turns_back());
                state.permitted &= turned;
                let behind = self.checked.behind(step);
                let open = |step: &&usize| {
                    let effect = state.effects[**step];
                    effect.done && !effect.undone
                };
                state.in_order &= !behind.iter().any(|step| open(&step));
                state.effects[step].undone = true;
            } else if state.effects[step].undone {
                reply = Reply::No;
            } else {
                state.permitted &= self.checked.before(step).iter().all(|step| is_done(*step));
                state.effects[step].done = true;
            }
        }
        match reply {
            Reply::No => state.left.aborts = state.left.aborts.saturating_sub(1),
            Reply::Silence => state.left.silences -= 1,
            Reply::Done => {}
        }
        state.flights[flight].reply = Some(reply);
        state.flights.sort_unstable();
    }

    fn deliver(&self, state: &mut State, flight: usize, again: bool) {
        let one = state.flights[flight].clone();
        if again {
            state.left.repeats -= 1;
        } else {
            state.flights.remove(flight);
        }
        let known = state.owners[one.owner].as_ref().is_some_and(|owner| owner.epoch == one.epoch);
        let Some(reply) = one.reply.filter(|_| known) else { return };
        let how = match reply {
            Reply::Done => Ended::Done(Json::NULL),
            Reply::No => Ended::Aborted("no".into()),
            Reply::Silence => Ended::Unknown("no answer".into()),
        };
        let direction = if one.compensates { Direction::Compensation } else { Direction::Action };
        let (step, number) = (one.step, one.number);
        let input = Input::Ended { step, direction, number, how, jitter: 0.0 };
        self.tell(state, one.owner, input);
    }
}

impl Sagas {
    /// Signals come, are seen by owners that the store hands them to, and by other sagas; and time passes.
    fn signal_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let is_timed = state.awaits || self.checked.definition().timeout_ms.is_some();
        if !state.later && is_timed {
            actions.push(Action::Later);
        }
        for (signal, kept) in state.signals.iter().enumerate() {
            if !kept.sent {
                if state.left.signals > 0 {
                    actions.push(Action::Send(signal));
                }
                continue;
            }
            if kept.taken > 0 {
                continue;
            }
            if state.left.thefts > 0 {
                actions.push(Action::Steal(signal));
            }
            for at in (0..2).filter(|_| state.awaits) {
                if state.owners[at].as_ref().is_some_and(|owner| owner.sent.is_none()) {
                    actions.push(Action::Signal(at, signal));
                }
            }
        }
    }
}

/// Before the deadlines, or behind them.
fn now(later: bool) -> Timestamp {
    if later { LATER } else { NOW }
}

impl Model for Sagas {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            epoch: 0,
            journal: Vec::new(),
            row: Standing::leased(Stands::Running),
            owners: [None, None],
            flights: Vec::new(),
            effects: vec![Effect::default(); self.checked.steps().len()],
            left: self.budget,
            later: false,
            awaits: false,
            signals: [Kept::default(); 2],
            in_order: true,
            permitted: true,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let ended = matches!(state.row.waits, Waits::Nothing | Waits::Operator);
        for at in 0..2 {
            let other = &state.owners[1 - at];
            let other_owns = other.as_ref().is_some_and(|owner| owner.epoch == state.epoch);
            match &state.owners[at] {
                None if !ended && (!other_owns || state.left.takeovers > 0) => {
                    actions.push(Action::Claim(at));
                }
                None => {}
                Some(owner) => {
                    if owner.sent.is_some() {
                        actions.push(Action::Commit(at));
                    } else if owner.saga.next_time().is_some() {
                        actions.push(Action::Time(at));
                    }
                    if owner.sent.is_none() && state.left.cancels > 0 {
                        actions.push(Action::Cancel(at));
                    }
                    if owner.sent.is_none() && state.left.pauses > 0 {
                        actions.push(Action::Pause(at));
                    }
                    if owner.sent.is_none() && Self::is_paused(state) {
                        actions.push(Action::Resume(at));
                    }
                    if state.left.crashes > 0 && !ended {
                        actions.push(Action::Crash(at));
                    }
                }
            }
        }
        self.signal_actions(state, actions);
        for (index, flight) in state.flights.iter().enumerate() {
            if flight.reply.is_none() {
                actions.push(Action::Act(index, Reply::Done, true));
                // What took effect under this key is recognised: it does not say no afterwards.
                let may_say_no = !flight.compensates && !state.effects[flight.step].done;
                if state.left.aborts > 0 && may_say_no {
                    actions.push(Action::Act(index, Reply::No, false));
                    // It says no, and had an effect all the same.
                    actions.push(Action::Act(index, Reply::No, true));
                }
                if state.left.silences > 0 {
                    actions.push(Action::Act(index, Reply::Silence, true));
                    actions.push(Action::Act(index, Reply::Silence, false));
                }
                continue;
            }
            let owner = state.owners[flight.owner].as_ref();
            if owner.is_none_or(|owner| owner.sent.is_none()) {
                actions.push(Action::Deliver(index, false));
                if state.left.repeats > 0 {
                    actions.push(Action::Deliver(index, true));
                }
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Claim(at) => {
                let other = state.owners[1 - at].as_ref();
                if other.is_some_and(|owner| owner.epoch == state.epoch) {
                    state.left.takeovers -= 1;
                }
                state.epoch += 1;
                let saved = self.saved(&state);
                let saga = Saga::recovered(&saved, Arc::clone(&self.checked), self.sabotage);
                // Without fences a journal may contradict itself; nobody can go on from it.
                let saga = saga.ok()?;
                let epoch = state.epoch;
                state.owners[at] = Some(Owner { epoch, saga, before: None, sent: None });
                let leased = saved.standing.waits == Waits::Lease;
                self.tell(&mut state, at, if leased { Input::TakenOver } else { Input::Time });
            }
            Action::Commit(at) => self.commit(&mut state, at),
            Action::Act(flight, reply, effect) => self.act(&mut state, flight, reply, effect),
            Action::Deliver(flight, again) => self.deliver(&mut state, flight, again),
            Action::Time(at) => self.tell(&mut state, at, Input::Time),
            Action::Later => state.later = true,
            Action::Send(signal) => {
                state.left.signals -= 1;
                state.signals[signal].sent = true;
            }
            Action::Signal(at, signal) => {
                let step = self.checked.steps().iter().position(|step| step.wait.is_some())?;
                let (signal, payload) = (SIGNALS[signal].into(), Json::NULL);
                self.tell(&mut state, at, Input::Signalled { step, signal, payload });
            }
            Action::Steal(signal) => {
                state.left.thefts -= 1;
                state.signals[signal].taken += 1;
            }
            Action::Cancel(at) => {
                state.left.cancels -= 1;
                self.steer(&mut state, at, Verb::Cancel);
            }
            Action::Pause(at) => {
                state.left.pauses -= 1;
                self.steer(&mut state, at, Verb::Pause);
            }
            Action::Resume(at) => self.steer(&mut state, at, Verb::Resume),
            Action::Crash(at) => {
                state.left.crashes -= 1;
                state.owners[at] = None;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "completed means done, and nothing undone",
                |model: &Self, state: &State| {
                    let mut steps = state.effects.iter().zip(model.checked.steps());
                    let is_done = |(effect, step): (&Effect, &Step)| {
                        step.wait.is_some() || (effect.done && !effect.undone)
                    };
                    state.row.state != Stands::Completed || steps.all(is_done)
                },
            ),
            Property::always("a signal is taken once", |_, state: &State| {
                state.signals.iter().all(|kept| kept.taken <= 1)
            }),
            Property::always(
                "compensated means that nothing is left",
                |model: &Self, state: &State| {
                    let left = state.effects.iter().zip(model.checked.steps());
                    state.row.state != Stands::Compensated
                        || left.into_iter().all(|(effect, step)| {
                            !effect.done || effect.undone || step.compensated_by().is_none()
                        })
                },
            ),
            Property::always("owners and compensations keep their order", |_, state: &State| {
                state.in_order
            }),
            Property::always("nothing is done before its permission", |_, state: &State| {
                state.permitted
            }),
            Property::eventually("it ends, or a person looks", |_, state: &State| {
                matches!(state.row.waits, Waits::Nothing | Waits::Operator)
            }),
            Property::sometimes("it completes", |_, state: &State| {
                state.row.state == Stands::Completed
            }),
            Property::sometimes("it is taken over", |_, state: &State| {
                Self::entries(state).contains(&Entry::TakenOver)
            }),
        ]
    }
}

/// One step, and two behind it beside one another.
const BRANCHES: &str = r#"{"name":"s","steps":[
    {"name":"a","compensation":{"by":"-a"},"retry":{"attempts_max":2},"compensation_retry":{"attempts_max":2}},
    {"name":"b","after":["a"],"compensation":{"by":"-b"},"retry":{"attempts_max":2},"compensation_retry":{"attempts_max":2}},
    {"name":"c","after":["a"],"compensation":{"by":"-c"},"retry":{"attempts_max":2},"compensation_retry":{"attempts_max":2}}]}"#;

/// One step to be undone, the decision, and one that only goes forward.
const PIVOT: &str = r#"{"name":"s","steps":[
    {"name":"a","compensation":{"by":"-a"},"retry":{"attempts_max":2},"compensation_retry":{"attempts_max":2}},
    {"name":"p","kind":"pivot","compensation":{"by":"-p"},"retry":{"attempts_max":2},"compensation_retry":{"attempts_max":2}},
    {"name":"r","kind":"retriable","compensation":{"none":"forward only"},"retry":{"attempts_max":2}}]}"#;

/// The same with a time for the whole.
const TIMED: &str = r#"{"name":"s","timeout_ms":1000,"steps":[
    {"name":"a","compensation":{"by":"-a"},"retry":{"attempts_max":2},"compensation_retry":{"attempts_max":2}},
    {"name":"p","kind":"pivot","compensation":{"by":"-p"},"retry":{"attempts_max":2},"compensation_retry":{"attempts_max":2}},
    {"name":"r","kind":"retriable","compensation":{"none":"forward only"},"retry":{"attempts_max":2}}]}"#;

/// A signal that is waited for until a time, between a step to be undone and one that only goes forward.
const WAITING: &str = r#"{"name":"s","steps":[
    {"name":"a","compensation":{"by":"-a"},"retry":{"attempts_max":2},"compensation_retry":{"attempts_max":2}},
    {"name":"s","wait":{"signal":{"name":"paid","correlation":"/input"}},"compensation":{"none":"waits"},"step_timeout_ms":1000},
    {"name":"r","kind":"retriable","compensation":{"none":"forward only"},"retry":{"attempts_max":2}}]}"#;

/// The same behind the decision, beside another step: without the signal a person has to look.
const HELD: &str = r#"{"name":"s","steps":[
    {"name":"p","kind":"pivot","compensation":{"by":"-p"},"retry":{"attempts_max":2},"compensation_retry":{"attempts_max":2}},
    {"name":"s","after":["p"],"kind":"retriable","wait":{"signal":{"name":"paid","correlation":"/input"}},"compensation":{"none":"waits"},"step_timeout_ms":1000},
    {"name":"r","after":["p"],"kind":"retriable","compensation":{"none":"forward only"},"retry":{"attempts_max":2}}]}"#;

/// The names of the violated properties.
fn violated(model: Sagas) -> Vec<&'static str> {
    let checker = model.checker().threads(2).spawn_bfs().join();
    eprintln!("{} states", checker.unique_state_count());
    let sometimes = ["it completes", "it is taken over"];
    let found = checker.discoveries().into_keys().filter(|name| !sometimes.contains(name));
    let mut names: Vec<_> = found.collect();
    names.sort_unstable();
    names
}

fn holds(model: Sagas) {
    let checker = model.checker().threads(2).spawn_bfs().join();
    eprintln!("{} states", checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000, "the faults are explored");
}

/// With a defect planted, and nothing else that goes wrong but what shows it.
fn planted(defect: Defect) -> Sagas {
    let sabotage = Sabotage::default().with(defect);
    let mut model = Sagas { sabotage, ..Sagas::of(BRANCHES) };
    model.budget.takeovers = 0;
    model
}

#[test]
fn a_saga_with_branches_keeps_every_promise() {
    holds(Sagas::of(BRANCHES));
}

#[test]
fn a_saga_with_branches_bears_crashes_and_repeated_replies() {
    let mut model = Sagas::of(BRANCHES);
    model.budget = Budget { aborts: 1, crashes: 1, repeats: 1, ..Budget::default() };
    holds(model);
}

#[test]
fn a_saga_with_branches_is_cancelled() {
    let mut model = Sagas::of(BRANCHES);
    model.budget = Budget { cancels: 1, crashes: 1, ..Budget::default() };
    holds(model);
}

#[test]
fn a_saga_whose_time_ends_keeps_every_promise() {
    let mut model = Sagas::of(TIMED);
    model.budget = Budget { aborts: 0, crashes: 1, ..model.budget };
    holds(model);
}

#[test]
fn a_saga_with_a_pivot_keeps_every_promise() {
    let mut model = Sagas::of(PIVOT);
    model.budget = Budget { crashes: 1, repeats: 1, ..model.budget };
    holds(model);
}

#[test]
fn a_request_to_cancel_keeps_every_promise() {
    let mut model = Sagas::of(PIVOT);
    model.budget = Budget { cancels: 1, aborts: 0, crashes: 1, ..model.budget };
    holds(model);
}

/// A person holds it at any time, and lets it go on at any later one.
fn paused() -> Sagas {
    let mut model = Sagas::of(PIVOT);
    model.budget = Budget { pauses: 1, crashes: 1, cancels: 1, aborts: 1, ..Budget::default() };
    model
}

#[test]
fn a_saga_that_is_paused_begins_nothing_and_keeps_every_promise() {
    holds(paused());
}

#[test]
fn a_saga_that_goes_on_while_it_is_paused_is_noticed() {
    let sabotage = Sabotage::default().with(Defect::IgnorePause);
    let names = violated(Sagas { sabotage, ..paused() });
    assert!(names.contains(&"nothing is done before its permission"), "{names:?}");
}

/// Two signals for one step, of which another saga may take one.
fn signalled(definition: &str) -> Sagas {
    let mut model = Sagas::of(definition);
    model.budget = Budget { signals: 2, thefts: 1, silences: 0, ..model.budget };
    model
}

#[test]
fn a_saga_that_waits_for_a_signal_keeps_every_promise() {
    let mut model = signalled(WAITING);
    model.budget.crashes = 1;
    holds(model);
}

#[test]
fn a_saga_that_is_held_without_a_signal_keeps_every_promise() {
    let mut model = signalled(HELD);
    model.budget = Budget { aborts: 0, signals: 1, ..model.budget };
    holds(model);
}

#[test]
fn signals_that_are_taken_twice_are_noticed() {
    let sabotage = Sabotage::default().with(Defect::TakeTwice);
    let names = violated(Sagas { sabotage, ..signalled(WAITING) });
    assert!(names.contains(&"a signal is taken once"), "{names:?}");
}

#[test]
fn compensations_that_fail_and_are_forgotten_are_noticed() {
    let mut model = planted(Defect::ForgetCompensation);
    model.budget.silences = 2;
    let names = violated(model);
    assert!(names.contains(&"compensated means that nothing is left"), "{names:?}");
}

#[test]
fn hidden_effects_that_are_not_compensated_are_noticed() {
    let names = violated(planted(Defect::SkipUnknown));
    assert!(names.contains(&"compensated means that nothing is left"), "{names:?}");
}

#[test]
fn compensations_in_the_order_of_the_steps_are_noticed() {
    let names = violated(planted(Defect::ForwardOrder));
    assert!(names.contains(&"owners and compensations keep their order"), "{names:?}");
}

#[test]
fn two_owners_without_fence_are_noticed() {
    let names = violated(Sagas { fenced: false, ..Sagas::of(PIVOT) });
    assert!(names.contains(&"owners and compensations keep their order"), "{names:?}");
}

#[test]
fn attempts_that_do_not_wait_are_noticed() {
    let mut model = Sagas { patient: false, ..Sagas::of(BRANCHES) };
    model.budget.takeovers = 0;
    let names = violated(model);
    assert!(names.contains(&"nothing is done before its permission"), "{names:?}");
}
