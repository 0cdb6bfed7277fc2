//! What a demo is told.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use onewrite::{Code, Error, Result};

use super::stage;

/// Kills unless told otherwise.
const KILLS_DEFAULT: usize = 5;

/// How the services of the shop work together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Flow {
    /// Each reacts to the others' events.
    Choreography,
    /// A saga calls one after the other.
    Orchestration,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// How many orders to make up.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) orders: u32,
    /// Read the orders from a file of JSON lines instead.
    #[arg(long, conflicts_with = "orders")]
    pub(super) input: Option<PathBuf>,
    /// What orders, kills and stalls are drawn from.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// How many processes to kill with SIGKILL at named points: 5 unless the orders are too few; 0 for none.
    #[arg(long)]
    pub(super) chaos: Option<usize>,
    /// How many processes to stall past their lease with SIGSTOP.
    #[arg(long, default_value_t = 0)]
    pub(super) stalls: usize,
    /// Relays of each service.
    #[arg(long, default_value_t = 1, value_parser = few)]
    pub(super) relays: usize,
    /// Receiving processes of each service.
    #[arg(long, default_value_t = 1, value_parser = few)]
    pub(super) consumers: usize,
    /// How the services work together: by reacting to each other's events, or in sagas that one place states.
    #[arg(long, value_enum, default_value = "choreography")]
    pub(super) flow: Flow,
    /// Processes that run the sagas, with --flow orchestration: 1, or 2 or 3 to see each take over from another.
    #[arg(long, value_parser = few)]
    pub(super) nodes: Option<usize>,
    /// The same sagas with participants that keep no barrier, to see what is doubled.
    #[arg(long)]
    pub(super) without_barrier: bool,
    /// The same shop with dual writes (commit, then publish), to see what is lost.
    #[arg(long)]
    pub(super) dual_write: bool,
    /// The databases: `sqlite`, files in the demo's folder, or `postgres://HOST:PORT`, a new database for each
    /// service.
    #[arg(long, value_name = "URL", default_value = stage::SQLITE)]
    pub(super) store: String,
    /// How events travel: `http`, from process to process, or `nats://HOST:PORT`, `amqp://HOST:PORT`,
    /// `redis://HOST:PORT` or, built with the feature `kafka`, `kafka://HOST:PORT`, a stream for each service.
    #[arg(long, value_name = "URL", default_value = onewrite_shop::broker::HTTP)]
    pub(super) broker: String,
    /// Keep stores and configuration in this folder, for `flow` and `why`. It must be empty or new.
    #[arg(long)]
    pub(super) dir: Option<PathBuf>,
    /// Keep the shop running after the orders, until Ctrl-C.
    #[arg(long)]
    pub(super) hold: bool,
    /// How long leases hold, of relays or of the nodes that run sagas, in milliseconds.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub(super) lease_ms: u64,
    /// Without progress for so many seconds (60) no more orders are placed, and what has not ended is lost;
    /// 4 with --dual-write once all are placed, for it never finishes what it lost.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(super) patience_s: Option<u64>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub(super) json: bool,
}

impl DemoArgs {
    /// Looks whether the settings go together.
    pub(super) fn check(&self) -> Result<()> {
        let misplaced = match self.flow {
            Flow::Choreography => {
                [("--nodes", self.nodes.is_some()), ("--without-barrier", self.without_barrier)]
                    .to_vec()
            }
            Flow::Orchestration => vec![
                ("--relays", self.relays > 1),
                ("--consumers", self.consumers > 1),
                ("--dual-write", self.dual_write),
                ("--broker", self.broker != onewrite_shop::broker::HTTP),
            ],
        };
        let Some((flag, _)) = misplaced.into_iter().find(|(_, given)| *given) else {
            return Ok(());
        };
        let other = match self.flow {
            Flow::Choreography => "orchestration",
            Flow::Orchestration => "choreography",
        };
        let what = format!("{flag} has no meaning here: it belongs to `--flow {other}`");
        Err(Error::new(Code::InvalidInput, what))
    }

    /// How many processes run sagas.
    pub(super) fn nodes(&self) -> usize {
        self.nodes.unwrap_or(1)
    }

    /// What is shown.
    pub(super) fn mode(&self) -> &'static str {
        match self.flow {
            Flow::Choreography if self.dual_write => "dual-write",
            Flow::Choreography => "outbox",
            Flow::Orchestration if self.without_barrier => "no-barrier",
            Flow::Orchestration => "sagas",
        }
    }

    /// Whether promises are expected to break.
    pub(super) fn is_to_break(&self) -> bool {
        self.dual_write || self.without_barrier
    }

    /// How many processes to kill, given so many orders.
    pub(super) fn kills(&self, orders: usize) -> usize {
        let room = (orders / 2).saturating_sub(self.stalls);
        self.chaos.unwrap_or(KILLS_DEFAULT.min(room))
    }
}

fn few(text: &str) -> std::result::Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count| (1..=16).contains(count))
        .ok_or_else(|| "a number from 1 to 16 is needed".into())
}
