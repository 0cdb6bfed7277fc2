//! Every interleaving of a step that is a saga with that saga: its start, its end and the message of it, a process
//! that ends, a parent that is cancelled, and starts that come late. The parent's machine is the one that runs in
//! production; time stands still, so nobody looks at a child but who has reason to.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    Text, Timestamp,
    sabotage::Sabotage,
    saga::{
        Checked, Definition, Direction, Ended, Input, Json, Saga, SagaId, Verb,
        journal::{SavedSaga, SavedTransition, Standing, State as Stands, Waits},
    },
};
use stateright::{Checker, Model, Property};

const NOW: Timestamp = Timestamp(1);

const ORDER: &str = r#"{"name":"order","steps":[{"name":"ship","compensation":{"by":"recall"}}]}"#;

#[derive(Clone)]
struct Ship {
    checked: Arc<Checked>,
    /// Whether a message that comes while an attempt looks is noted.
    notes: bool,
    /// Whether a compensation that finds no child keeps one from starting.
    bars: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Child {
    None,
    Runs,
    Completed,
    Compensated,
}

/// What an attempt found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Found {
    UnderWay,
    Done,
    No,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Flight {
    epoch: u64,
    compensates: bool,
    number: u32,
    found: Option<Found>,
}

/// A transition on its way to the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sent {
    version: u32,
    json: Text,
    standing: Option<Standing>,
    takes: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    epoch: u64,
    journal: Vec<SavedTransition>,
    row: Standing,
    owner: Option<(Saga, Option<Sent>)>,
    flights: Vec<Flight>,
    child: Child,
    /// The message of the child's end stands in the store.
    message: bool,
    /// The completed child is made good.
    recalled: bool,
    crashes: u8,
    cancels: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Recover,
    Commit,
    Act(usize),
    Deliver(usize),
    End(Child),
    Message,
    Time,
    Cancel,
    Crash,
}

impl Ship {
    fn sound() -> Self {
        Self { checked: Arc::new(Definition::parse(ORDER).unwrap()), notes: true, bars: true }
    }

    fn tell(&self, state: &mut State, input: Input, takes: bool) {
        let Some((saga, sent)) = &mut state.owner else { return };
        let entries = saga.decide(NOW, input).expect("the machine follows its own entries");
        if entries.is_empty() {
            state.message &= !takes;
            return self.attempt(state);
        }
        let next = saga.next_transition(0, NOW, &entries).unwrap();
        let (version, json, standing) = (next.version, next.entries, next.standing);
        *sent = Some(Sent { version, json, standing, takes });
    }

    fn attempt(&self, state: &mut State) {
        let Some((saga, _)) = &mut state.owner else { return };
        for attempt in saga.committed(NOW) {
            let compensates = attempt.direction == Direction::Compensation;
            let (epoch, number) = (state.epoch, attempt.number);
            state.flights.push(Flight { epoch, compensates, number, found: None });
        }
        state.flights.sort_unstable();
    }

    fn commit(&self, state: &mut State) {
        let Some(Sent { version, json, standing, takes }) =
            state.owner.as_mut().and_then(|(_, sent)| sent.take())
        else {
            return;
        };
        let epoch = state.epoch;
        state.journal.push(SavedTransition { version, time: NOW, epoch, json });
        state.row = standing.unwrap_or_else(|| state.row.clone());
        state.message &= !takes;
        self.attempt(state);
    }

    /// What the step's participant does: the store decides between those who start, bar and end a child.
    fn act(&self, state: &mut State, flight: usize) {
        let found = match (state.flights[flight].compensates, state.child) {
            (false, Child::None) => {
                state.child = Child::Runs;
                Found::UnderWay
            }
            (_, Child::Runs) => Found::UnderWay,
            (false, Child::Completed) => Found::Done,
            (false, Child::Compensated) => Found::No,
            (true, Child::None) => {
                if self.bars {
                    state.child = Child::Compensated;
                }
                Found::Done
            }
            (true, Child::Completed) => {
                state.recalled = true;
                Found::Done
            }
            (true, Child::Compensated) => Found::Done,
        };
        state.flights[flight].found = Some(found);
        state.flights.sort_unstable();
    }

    fn deliver(&self, state: &mut State, flight: usize) {
        let Flight { epoch, compensates, number, found } = state.flights.remove(flight);
        let Some(found) = found.filter(|_| epoch == state.epoch) else { return };
        let how = match found {
            Found::UnderWay => {
                let look_in = Duration::from_secs(3_600);
                Ended::UnderWay { look_in, reason: "it sails".into() }
            }
            Found::Done => Ended::Done(Json::NULL),
            Found::No => Ended::Aborted("it sank".into()),
        };
        let direction = if compensates { Direction::Compensation } else { Direction::Action };
        let ended = Input::Ended { step: 0, direction, number, how, jitter: 0.0 };
        self.tell(state, ended, false);
    }

    fn message(&self, state: &mut State) {
        let looks = state.flights.iter().any(|flight| flight.epoch == state.epoch);
        if looks && !self.notes {
            state.message = false;
            return;
        }
        let (actor, reason) = ("the ship".into(), "ended".into());
        self.tell(
            state,
            Input::Wanted { verb: Verb::Look { step: "ship".into() }, actor, reason },
            true,
        );
    }

    fn recover(&self, state: &mut State) {
        state.epoch += 1;
        let saved = SavedSaga {
            id: SagaId(1),
            name: "order".into(),
            key: "k".into(),
            run: 0,
            partition: 0,
            definition: self.checked.id().clone(),
            input: Json::NULL,
            standing: state.row.clone(),
            started_at: NOW,
            ended_at: None,
            parent: None,
            journal: state.journal.clone(),
            unreadable: None,
        };
        let saga = Saga::recovered(&saved, Arc::clone(&self.checked), Sabotage::default());
        state.owner = Some((saga.expect("the journal fits"), None));
        let leased = state.row.waits == Waits::Lease;
        self.tell(state, if leased { Input::TakenOver } else { Input::Time }, false);
    }
}

fn is_due(saga: &Saga) -> bool {
    saga.next_time().is_some_and(|time| time <= NOW)
}

/// Nothing is under way, and nothing will come that the step could be told.
fn waits_in_vain(state: &State) -> bool {
    let idle = state.owner.as_ref().is_some_and(|(saga, sent)| sent.is_none() && !is_due(saga));
    let in_flight = state.flights.iter().any(|flight| flight.epoch == state.epoch);
    let open = state.row.waits != Waits::Nothing;
    open && idle && !in_flight && !state.message && state.child != Child::Runs
}

impl Model for Ship {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            epoch: 0,
            journal: Vec::new(),
            row: Standing::leased(Stands::Running),
            owner: None,
            flights: Vec::new(),
            child: Child::None,
            message: false,
            recalled: false,
            crashes: 2,
            cancels: 1,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (at, flight) in state.flights.iter().enumerate() {
            actions.push(if flight.found.is_none() {
                Action::Act(at)
            } else {
                Action::Deliver(at)
            });
        }
        if state.child == Child::Runs {
            actions.extend([Action::End(Child::Completed), Action::End(Child::Compensated)]);
        }
        match &state.owner {
            None if state.row.waits != Waits::Nothing => actions.push(Action::Recover),
            None => {}
            Some((_, Some(_))) => actions.push(Action::Commit),
            Some((saga, None)) => {
                actions.extend(state.message.then_some(Action::Message));
                actions.extend(is_due(saga).then_some(Action::Time));
                actions.extend((state.cancels > 0).then_some(Action::Cancel));
            }
        }
        if state.owner.is_some() && state.crashes > 0 {
            actions.push(Action::Crash);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Recover => self.recover(&mut state),
            Action::Commit => self.commit(&mut state),
            Action::Act(flight) => self.act(&mut state, flight),
            Action::Deliver(flight) => {
                // What waits for a transition is heard afterwards.
                let busy = state.owner.as_ref().is_some_and(|(_, sent)| sent.is_some());
                if busy && state.flights[flight].epoch == state.epoch {
                    return None;
                }
                self.deliver(&mut state, flight);
            }
            Action::End(how) => (state.child, state.message) = (how, true),
            Action::Message => self.message(&mut state),
            Action::Time => self.tell(&mut state, Input::Time, false),
            Action::Cancel => {
                state.cancels -= 1;
                let cancel =
                    Input::Wanted { verb: Verb::Cancel, actor: "ann".into(), reason: "so".into() };
                self.tell(&mut state, cancel, false);
            }
            Action::Crash => {
                state.crashes -= 1;
                state.owner = None;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("completed means with its child", |_, state: &State| {
                state.row.state != Stands::Completed
                    || (state.child == Child::Completed && !state.recalled)
            }),
            Property::always("compensated means that no child goes on", |_, state: &State| {
                let left = state.child == Child::Completed && !state.recalled;
                state.row.state != Stands::Compensated || (state.child != Child::Runs && !left)
            }),
            Property::always("nobody waits in vain", |_, state: &State| !waits_in_vain(state)),
            Property::sometimes("it completes", |_, state: &State| {
                state.row.state == Stands::Completed
            }),
            Property::sometimes("a completed child is made good", |_, state: &State| {
                state.row.state == Stands::Compensated && state.recalled
            }),
        ]
    }
}

fn violated(model: Ship) -> Vec<&'static str> {
    let checker = model.checker().threads(2).spawn_bfs().join();
    let sometimes = ["it completes", "a completed child is made good"];
    let found = checker.discoveries().into_keys().filter(|name| !sometimes.contains(name));
    found.collect()
}

#[test]
fn a_saga_with_a_child_keeps_every_promise() {
    let checker = Ship::sound().checker().threads(2).spawn_bfs().join();
    eprintln!("{} states", checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 1_000, "the faults are explored");
}

#[test]
fn a_message_that_is_dropped_while_an_attempt_looks_is_missed() {
    assert_eq!(violated(Ship { notes: false, ..Ship::sound() }), ["nobody waits in vain"]);
}

#[test]
fn a_child_that_is_not_barred_starts_behind_its_compensation() {
    let names = violated(Ship { bars: false, ..Ship::sound() });
    assert_eq!(names, ["compensated means that no child goes on"]);
}
