//! Every interleaving of two owners that move one partition's cursor: leases with epochs, fenced
//! writes, delivery with a chain, parking. A paused owner needs no action of its own: it is one that
//! is not chosen for a while, and goes on from what it knew.

use std::collections::BTreeSet;

use onewrite_core::lease::share;
use stateright::{Checker, Model, Property};

use crate::protocol::{
    Action, Doing, KEYS, Leave, Owner, POISON, Protocol, State, is_settled, keeps_key_order,
};

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let owner = Owner {
            doing: Doing::Nothing,
            epoch: 0,
            settled: 0,
            chain: 0,
            knows_parked: false,
            owes: None,
        };
        vec![State {
            epoch: 0,
            cursor: 0,
            chain: 0,
            parked: Vec::new(),
            in_epoch_order: true,
            written: 0,
            owners: [owner; 2],
            requests: BTreeSet::new(),
            mark: 0,
            applied: Vec::new(),
            takeovers: self.takeovers,
            crashes: self.crashes,
            losses: self.losses,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for at in 0..2 {
            let owner = &state.owners[at];
            let holds = owner.doing != Doing::Nothing && owner.epoch == state.epoch;
            let other_lives = state.owners[1 - at].doing != Doing::Nothing
                && state.owners[1 - at].epoch == state.epoch;
            // A lease of a member that seems dead is taken by one who believes to be alone.
            let wants = share(1, 1, usize::from(holds), 0).take > 0;
            if wants && owner.doing == Doing::Nothing && (!other_lives || state.takeovers > 0) {
                actions.push(Action::Claim(at));
            }
            match owner.doing {
                Doing::Sending if owner.settled < KEYS.len() as u8 => {
                    actions.push(Action::Send(at))
                }
                Doing::Settling | Doing::Parking => actions.push(Action::Commit(at)),
                Doing::Waiting => {
                    let record = owner.settled + 1;
                    let is_lost = !state
                        .requests
                        .iter()
                        .any(|request| request.owner == at && request.record == record);
                    if is_lost || state.losses > 0 {
                        actions.push(Action::GiveUp(at));
                    }
                }
                _ => {}
            }
            if owner.owes.is_some() && owner.doing != Doing::Nothing {
                actions.push(Action::PayParking(at));
            }
            if owner.doing != Doing::Nothing && state.crashes > 0 {
                actions.push(Action::Crash(at));
            }
        }
        for request in &state.requests {
            actions.push(Action::Arrive(*request, false));
            if request.record == POISON {
                actions.push(Action::Arrive(*request, true));
            }
            if state.losses > 0 {
                actions.push(Action::Lose(*request));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Claim(at) => {
                let other = &state.owners[1 - at];
                if other.doing != Doing::Nothing && other.epoch == state.epoch {
                    state.takeovers -= 1;
                }
                Self::claim(&mut state, at);
            }
            Action::Send(at) => Self::send(&mut state, at),
            Action::Arrive(request, mended) => self.arrive(&mut state, request, mended),
            Action::Lose(request) => {
                state.requests.remove(&request);
                state.losses -= 1;
            }
            Action::GiveUp(at) => {
                if state.requests.iter().any(|request| request.owner == at) {
                    state.losses = state.losses.saturating_sub(1);
                }
                state.owners[at].doing = Doing::Sending;
            }
            Action::Commit(at) => self.commit(&mut state, at),
            Action::PayParking(at) => {
                let owner = state.owners[at];
                if self.write(&mut state, owner.epoch) {
                    state.parked.extend(owner.owes);
                    state.cursor = state.cursor.max(owner.owes.unwrap_or_default());
                }
                state.owners[at].owes = None;
            }
            Action::Crash(at) => {
                state.crashes -= 1;
                state.owners[at].doing = Doing::Nothing;
                state.owners[at].owes = None;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("writes are accepted in epoch order", |_, state: &State| {
                state.in_epoch_order
            }),
            Property::always("the cursor passes settled records only", |_, state: &State| {
                (1..=state.cursor).all(|record| is_settled(state, record))
            }),
            Property::always("a key never overtakes itself", |_, state| keeps_key_order(state)),
            Property::always("nothing is applied twice", |_, state: &State| {
                let distinct: BTreeSet<_> = state.applied.iter().collect();
                distinct.len() == state.applied.len()
            }),
            Property::eventually("every record is applied or parked", |_, state: &State| {
                usize::from(state.cursor) == KEYS.len()
                    && (1..=state.cursor).all(|record| is_settled(state, record))
            }),
            Property::sometimes("an old owner is refused", |_, state: &State| {
                state.takeovers == 0
                    && state.owners.iter().any(|owner| {
                        owner.doing == Doing::Nothing
                            && owner.epoch > 0
                            && owner.epoch < state.epoch
                    })
            }),
            Property::sometimes("a key is parked with its later record", |_, state: &State| {
                state.parked == [1, 3]
            }),
        ]
    }
}

const WHOLE: Protocol = Protocol { leave: Leave::Nothing, takeovers: 2, crashes: 1, losses: 1 };

/// The names of the violated properties.
fn violated(protocol: Protocol) -> Vec<&'static str> {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    eprintln!("{:?}: {} states", protocol.leave, checker.unique_state_count());
    let mut names: Vec<_> = checker
        .discoveries()
        .into_keys()
        .filter(|name| !name.contains("old owner is refused") && !name.contains("is parked with"))
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn the_whole_protocol_keeps_every_promise() {
    let checker = WHOLE.checker().threads(2).spawn_bfs().join();
    eprintln!("{} states", checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000, "the faults are explored");
}

#[test]
fn without_the_fence_an_old_owner_writes() {
    let names = violated(Protocol { leave: Leave::Fence, ..WHOLE });
    assert!(names.contains(&"writes are accepted in epoch order"), "{names:?}");
    assert!(names.contains(&"a key never overtakes itself"), "{names:?}");
}

#[test]
fn without_the_hold_a_record_is_lost() {
    let names = violated(Protocol { leave: Leave::Hold, ..WHOLE });
    assert!(names.contains(&"the cursor passes settled records only"), "{names:?}");
}
