//! Which process is killed where, and which is stalled: a list drawn from the seed.

use onewrite::failpoint;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{actor::Actor, args::Flow};

/// The failpoints of sagas between a durable act and its journal or acknowledgement.
const SAGA_BETWEEN: &[&str] =
    &["saga.after_attempt_before_journal", "store.after_commit_before_reply"];

impl Flow {
    /// The last passing of `point` at which one of so many processes may be killed. Nodes share the sagas; each
    /// saga passes the point of its start once, and the others at each step, which are all to have their turn.
    fn hits_max(self, point: &str, processes: usize) -> u32 {
        match self {
            Self::Choreography => 5,
            Self::Orchestration if point == "saga.after_start_before_attempt" => 1,
            Self::Orchestration => (10 / u32::try_from(processes).unwrap_or(1).max(1)).max(1),
        }
    }

    /// The failpoints that its processes pass, and those of them between a durable act and its acknowledgement.
    fn points(self) -> (Vec<&'static str>, &'static [&'static str]) {
        match self {
            Self::Choreography => (failpoint::ALL.to_vec(), failpoint::BETWEEN_ACT_AND_ACK),
            Self::Orchestration => {
                let store = failpoint::ALL.iter().filter(|point| point.starts_with("store."));
                (failpoint::SAGA.iter().chain(store).copied().collect(), SAGA_BETWEEN)
            }
        }
    }
}

/// One blow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Blow {
    /// SIGKILL at the `hits`-th passing of `point`.
    Kill {
        /// Which process.
        actor: usize,
        /// Where.
        point: &'static str,
        /// At which passing.
        hits: u32,
    },
    /// SIGSTOP for longer than its lease.
    Stall {
        /// Which process.
        actor: usize,
    },
}

/// The blows of a run, in order. Every other kill falls between a durable act and its
/// acknowledgement, where naive programs lose and double.
pub(crate) fn plan(
    flow: Flow,
    seed: u64,
    kills: usize,
    stalls: usize,
    actors: &[Actor],
) -> Vec<Blow> {
    let (all, between) = flow.points();
    // A seed of its own, so that the same blows fall whatever the orders are.
    let mut random = StdRng::seed_from_u64(seed ^ 0x6f6e_6577_7269_7465);
    let mut blows: Vec<Blow> = (0..kills)
        .filter_map(|number| {
            let points = if number % 2 == 0 { between } else { &all };
            let point = points.choose(&mut random).copied()?;
            let able: Vec<usize> =
                (0..actors.len()).filter(|actor| passes(&actors[*actor], point)).collect();
            let actor = able.choose(&mut random).copied()?;
            let hits_max = flow.hits_max(point, actors.len());
            Some(Blow::Kill { actor, point, hits: random.random_range(1..=hits_max) })
        })
        .collect();
    let owners: Vec<usize> =
        (0..actors.len()).filter(|actor| actors[*actor].holds_leases()).collect();
    for number in 0..stalls {
        let Some(actor) = owners.choose(&mut random).copied() else { break };
        let place = (number + 1) * (blows.len() + 1) / (stalls + 1);
        blows.insert(place.min(blows.len()), Blow::Stall { actor });
    }
    blows
}

/// Whether a process ever passes `point`.
fn passes(actor: &Actor, point: &str) -> bool {
    match point.split('.').next() {
        Some("relay") => actor.relays,
        _ => actor.serves,
    }
}
