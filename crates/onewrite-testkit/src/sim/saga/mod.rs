//! A seeded, deterministic simulation of sagas: the product's own runners on a virtual clock, over one store
//! in memory and participants that remember the keys they have seen.
//!
//! Runners end without a word, stall past their leases and are replaced; the way to the store refuses
//! commits, loses their answers and lets them land late; calls of participants are lost, late, repeated,
//! panic, or end the process that makes them; people cancel, send signals twice or too late, and resume what
//! is held. Then all faults end, and every saga has to come to an end that the participants agree with.

mod door;
mod judge;
mod participant;
mod people;
mod process;
mod shapes;
mod shelf;
mod tables;
mod world;

use std::{fmt, ops::Range};

use onewrite_core::sabotage::Sabotage;

use self::world::World;

/// How many lines of the trace a failing run shows.
const TRACE_LINES: usize = 60;

/// What a simulated world is like.
#[derive(Debug, Clone, Copy)]
struct Options {
    /// How many sagas are started.
    sagas: usize,
    /// Whether anything goes wrong on the way.
    faults: bool,
    /// What goes wrong in every world, besides what chance brings.
    trouble: Option<Trouble>,
    /// Defects planted in the runners, the machine and the store.
    sabotage: Sabotage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The store is not there when a process starts.
    NoStoreAtFirst,
    /// No process can read a definition at its first try.
    NoDefinitionAtFirst,
    /// Every second request that gives leases back lands late.
    LateRelease,
    /// A participant is called by one at a time, and the others wait for their turn.
    OneAtATime,
}

impl Default for Options {
    fn default() -> Self {
        Self { sagas: 12, faults: true, trouble: None, sabotage: Sabotage::default() }
    }
}

/// What one run showed.
#[derive(Debug)]
struct Report {
    /// The seed that repeats it.
    seed: u64,
    /// What is wrong.
    wrong: Vec<String>,
    /// What became of its sagas and of its runners, in words and numbers.
    counts: world::Counts,
    /// What happened, if it was asked for.
    trace: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trace.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        write!(f, "SEED={}: {:?}: {:#?}", self.seed, self.counts, self.wrong)
    }
}

/// Runs the world of one seed. A failing run is repeated with its trace: the last steps of it, or all with
/// `ONEWRITE_SIM_TRACE` set.
fn one_seed(seed: u64, options: Options) -> Report {
    let report = run(seed, options, false);
    if report.wrong.is_empty() {
        return report;
    }
    let mut report = run(seed, options, true);
    if std::env::var_os("ONEWRITE_SIM_TRACE").is_none() {
        report.trace.drain(..report.trace.len().saturating_sub(TRACE_LINES));
    }
    report
}

/// Runs the worlds of `seeds` until one fails. Returns what became of them all.
fn many_seeds(seeds: Range<u64>, options: Options) -> Result<world::Counts, Box<Report>> {
    let mut counts = world::Counts::default();
    for seed in seeds {
        let report = one_seed(seed, options);
        if !report.wrong.is_empty() {
            return Err(Box::new(report));
        }
        counts.add(&report.counts);
    }
    Ok(counts)
}

/// Runs one world on a clock that goes on when nothing else can.
fn run(seed: u64, options: Options, traced: bool) -> Report {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    let world = runtime.expect("a runtime").block_on(World::run(seed, options, traced));
    let (wrong, counts, trace) = world.verdict();
    Report { seed, wrong, counts, trace }
}

#[cfg(test)]
#[path = "saga_test.rs"]
mod saga_test;
