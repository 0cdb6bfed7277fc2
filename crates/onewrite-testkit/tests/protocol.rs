//! The protocol of one partition, as small as it can be: what each act of an owner, of the network or
//! of the receiver changes.

use std::collections::BTreeSet;

/// The key of each record; the first one is poison.
pub(crate) const KEYS: [char; 4] = ['a', 'b', 'a', 'b'];
pub(crate) const POISON: u8 = 1;

/// What is left out of the protocol, to show that it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    Nothing,
    /// Writes of an old epoch are accepted.
    Fence,
    /// What is behind a parked record goes out before the parking is durable.
    Hold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) leave: Leave,
    pub(crate) takeovers: u8,
    pub(crate) crashes: u8,
    /// Lost or late messages.
    pub(crate) losses: u8,
}

/// What an owner is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Doing {
    /// Ended, or told that its lease is gone.
    Nothing,
    Sending,
    Waiting,
    /// The record at hand was taken.
    Settling,
    /// The record at hand is to be parked.
    Parking,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub(crate) doing: Doing,
    pub(crate) epoch: u8,
    /// Settled up to here, as it knows.
    pub(crate) settled: u8,
    /// The last one delivered in the stream.
    pub(crate) chain: u8,
    /// Whether it knows key `a` to be parked.
    pub(crate) knows_parked: bool,
    /// A parking that it has not committed although it went on.
    pub(crate) owes: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Request {
    pub(crate) owner: usize,
    pub(crate) record: u8,
    pub(crate) previous: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) epoch: u8,
    pub(crate) cursor: u8,
    pub(crate) chain: u8,
    pub(crate) parked: Vec<u8>,
    /// The epoch of each accepted write was never lower than that of an earlier one.
    pub(crate) in_epoch_order: bool,
    pub(crate) written: u8,
    pub(crate) owners: [Owner; 2],
    pub(crate) requests: BTreeSet<Request>,
    pub(crate) mark: u8,
    pub(crate) applied: Vec<u8>,
    pub(crate) takeovers: u8,
    pub(crate) crashes: u8,
    pub(crate) losses: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Takes the lease: of an owner that has ended, or that looks as if it had.
    Claim(usize),
    Send(usize),
    /// The request arrives; the poison record's handler may have been mended.
    Arrive(Request, bool),
    Lose(Request),
    /// The owner waits no longer, whether the request is lost or only late.
    GiveUp(usize),
    Commit(usize),
    /// The late commit of a parking, by an owner that did not wait for it.
    PayParking(usize),
    Crash(usize),
}

pub(crate) fn key(record: u8) -> char {
    KEYS[usize::from(record) - 1]
}

impl Protocol {
    /// A fenced write: says whether it was accepted.
    pub(crate) fn write(&self, state: &mut State, epoch: u8) -> bool {
        if epoch < state.epoch && self.leave != Leave::Fence {
            return false;
        }
        state.in_epoch_order &= epoch >= state.written;
        state.written = state.written.max(epoch);
        true
    }

    pub(crate) fn claim(state: &mut State, at: usize) {
        state.epoch += 1;
        state.owners[at] = Owner {
            doing: Doing::Sending,
            epoch: state.epoch,
            settled: state.cursor,
            chain: state.chain,
            knows_parked: !state.parked.is_empty(),
            owes: None,
        };
    }

    pub(crate) fn send(state: &mut State, at: usize) {
        let owner = &mut state.owners[at];
        let record = owner.settled + 1;
        if owner.knows_parked && key(record) == 'a' {
            owner.doing = Doing::Parking;
            return;
        }
        owner.doing = Doing::Waiting;
        state.requests.insert(Request { owner: at, record, previous: owner.chain });
    }

    pub(crate) fn arrive(&self, state: &mut State, request: Request, mended: bool) {
        state.requests.remove(&request);
        let taken = if request.record <= state.mark {
            true
        } else if request.previous > state.mark || (request.record == POISON && !mended) {
            false
        } else {
            state.mark = request.record;
            state.applied.push(request.record);
            true
        };
        let owner = &mut state.owners[request.owner];
        if owner.doing != Doing::Waiting || owner.settled + 1 != request.record {
            return;
        }
        owner.doing = if taken { Doing::Settling } else { Doing::Parking };
        if !taken && self.leave == Leave::Hold {
            owner.owes = Some(request.record);
            owner.settled = request.record;
            owner.knows_parked = true;
            owner.doing = Doing::Sending;
        }
    }

    pub(crate) fn commit(&self, state: &mut State, at: usize) {
        let owner = state.owners[at];
        let record = owner.settled + 1;
        if !self.write(state, owner.epoch) {
            state.owners[at].doing = Doing::Nothing;
            return;
        }
        if owner.doing == Doing::Parking {
            state.parked.push(record);
            state.owners[at].knows_parked = true;
        } else {
            state.owners[at].chain = record;
            state.chain = record;
        }
        state.cursor = record;
        state.owners[at].settled = record;
        state.owners[at].doing = Doing::Sending;
    }
}

pub(crate) fn is_settled(state: &State, record: u8) -> bool {
    state.applied.contains(&record) || state.parked.contains(&record)
}

pub(crate) fn keeps_key_order(state: &State) -> bool {
    let place = |record| state.applied.iter().position(|applied| *applied == record);
    (1..=KEYS.len() as u8).all(|later| {
        place(later).is_none_or(|at| {
            (1..later)
                .filter(|earlier| key(*earlier) == key(later))
                .all(|earlier| place(earlier).is_some_and(|before| before < at))
        })
    })
}
