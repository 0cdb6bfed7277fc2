//! A seeded, deterministic simulation of relays and receivers with a virtual clock.
//!
//! Relays lease partitions, stall, act on old state, end and start again; the network loses, delays,
//! duplicates and reorders requests; receivers share one database and end in the middle; handlers
//! refuse records for a while or until an operator mends the cause. Then all faults end, the world
//! runs until it is quiet, and the history must be clean. The machines are the product's own.

mod inbox;
mod network;
mod relay;
#[cfg(test)]
mod saga;
mod store;
mod workload;
mod world;

use std::{fmt, ops::Range};

use onewrite_core::sabotage::Sabotage;

use self::world::World;
use crate::history::{self, Verdict};

/// How many lines of the trace a failing run shows.
const TRACE_LINES: usize = 60;

/// What a simulated world is like.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many records are committed.
    pub records: u32,
    /// Whether anything goes wrong on the way.
    pub faults: bool,
    /// Defects planted in the machines and in the world around them.
    pub sabotage: Sabotage,
}

impl Default for Options {
    fn default() -> Self {
        Self { records: 40, faults: true, sabotage: Sabotage::default() }
    }
}

/// What one run showed.
#[derive(Debug)]
pub struct Report {
    /// The seed that repeats it.
    pub seed: u64,
    /// What the history shows.
    pub verdict: Verdict,
    /// Whether everything was settled and every parked key free in the end.
    pub quiet: bool,
    /// Steps taken.
    pub steps: u64,
    /// The last steps of a run that failed.
    pub trace: Vec<String>,
}

impl Report {
    /// Whether every promise was kept.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.quiet && self.verdict.is_clean()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trace.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        write!(f, "SEED={}: {}", self.seed, self.verdict)?;
        if self.quiet { Ok(()) } else { write!(f, ", and it never became quiet") }
    }
}

/// Runs the world of one seed. A failing run is repeated with its trace: the last steps of it, or all
/// with `ONEWRITE_SIM_TRACE` set.
#[must_use]
pub fn one_seed(seed: u64, options: Options) -> Report {
    let report = run(seed, options, false);
    if report.is_clean() { report } else { run(seed, options, true) }
}

/// Runs the worlds of `seeds` until one fails. Returns the steps taken.
///
/// # Errors
/// The report of the first world that broke a promise.
pub fn many_seeds(seeds: Range<u64>, options: Options) -> Result<u64, Box<Report>> {
    let mut steps = 0;
    for seed in seeds {
        let report = one_seed(seed, options);
        if !report.is_clean() {
            return Err(Box::new(report));
        }
        steps += report.steps;
    }
    Ok(steps)
}

fn run(seed: u64, options: Options, traced: bool) -> Report {
    let mut world = World::new(seed, options, traced);
    let quiet = world.run();
    let effects = world.inbox.effects.iter().map(|(key, id)| (&**key, &**id));
    let verdict = history::check(&world.committed, effects);
    let mut trace = world.trace.take().unwrap_or_default();
    if std::env::var_os("ONEWRITE_SIM_TRACE").is_none() {
        trace.drain(..trace.len().saturating_sub(TRACE_LINES));
    }
    Report { seed, verdict, quiet, steps: world.steps, trace }
}

#[cfg(test)]
#[path = "sim_test.rs"]
mod sim_test;
