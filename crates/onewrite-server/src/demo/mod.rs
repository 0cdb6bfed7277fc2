//! `onewrite demo`: the shop as real processes, killed and stalled while orders come in.

mod cast;
mod chaos;
mod databases;
mod feed;
mod interrupt;
mod orders;
mod removal;
mod run;
pub(crate) mod service;
mod stage;
mod streams;
mod verdict;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use onewrite::{Code, Error, Result};
use onewrite_shop::{Order, Role};

use crate::report;

pub(crate) use self::verdict::Verdict;
use self::{cast::Actor, interrupt::Interrupts, stage::Stage};

/// Kills unless told otherwise.
const KILLS_DEFAULT: usize = 5;

#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// How many orders to make up.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    orders: u32,
    /// Read the orders from a file of JSON lines instead.
    #[arg(long, conflicts_with = "orders")]
    input: Option<PathBuf>,
    /// What orders, kills and stalls are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many processes to kill with SIGKILL at named points: 5 unless the orders are too few; 0 for none.
    #[arg(long)]
    chaos: Option<usize>,
    /// How many processes to stall past their lease with SIGSTOP.
    #[arg(long, default_value_t = 0)]
    stalls: usize,
    /// Relays of each service.
    #[arg(long, default_value_t = 1, value_parser = few)]
    relays: usize,
    /// Receiving processes of each service.
    #[arg(long, default_value_t = 1, value_parser = few)]
    consumers: usize,
    /// The same shop with dual writes (commit, then publish), to see what is lost.
    #[arg(long)]
    dual_write: bool,
    /// The databases: `sqlite`, files in the demo's folder, or `postgres://HOST:PORT`, a new database for each
    /// service.
    #[arg(long, value_name = "URL", default_value = stage::SQLITE)]
    store: String,
    /// How events travel: `http`, from process to process, or `nats://HOST:PORT`, `amqp://HOST:PORT`,
    /// `redis://HOST:PORT` or, built with the feature `kafka`, `kafka://HOST:PORT`, a stream for each service.
    #[arg(long, value_name = "URL", default_value = onewrite_shop::broker::HTTP)]
    broker: String,
    /// Keep stores and configuration in this folder, for `flow` and `why`. It must be empty or new.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the shop running after the orders, until Ctrl-C.
    #[arg(long)]
    hold: bool,
    /// How long relays' leases hold, in milliseconds.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    lease_ms: u64,
    /// Without progress for so many seconds (60) no more orders are placed, and what has not ended is lost;
    /// 4 with --dual-write once all are placed, for it never finishes what it lost.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    patience_s: Option<u64>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

impl DemoArgs {
    /// How many processes to kill, given so many orders.
    fn kills(&self, orders: usize) -> usize {
        let room = (orders / 2).saturating_sub(self.stalls);
        self.chaos.unwrap_or(KILLS_DEFAULT.min(room))
    }
}

/// Runs the demo. The exit code is not zero when a promise was broken.
pub(crate) async fn run(args: DemoArgs) -> Result<ExitCode> {
    let orders = match &args.input {
        Some(path) => orders::read(path)?,
        None => orders::made(args.orders as usize, args.seed),
    };
    let kills = args.kills(orders.len());
    if (kills + args.stalls) * 2 > orders.len() {
        return Err(Error::new(
            Code::InvalidInput,
            format!(
                "{kills} kills and {} stalls need traffic: at most one for every two of the {} orders",
                args.stalls,
                orders.len()
            ),
        ));
    }
    let mut interrupts = Interrupts::listen()?;
    let stage = Stage::set(&args).await?;
    let mut actors = Vec::new();
    let mut played = tokio::select! {
        biased;
        code = interrupts.next() => {
            report::tell!("interrupted: the shop closes…");
            Played::Interrupted(code)
        }
        played = play(&args, orders, &stage, &mut actors) => {
            played.map_or_else(Played::Failed, Played::Judged)
        }
    };
    if let (true, Played::Judged(verdict)) = (args.hold, &played) {
        verdict.print(&args);
        if let Err(error) = hold(&mut actors, &stage, &mut interrupts).await {
            played = Played::Failed(error);
        }
    }
    // Whatever happened, nobody works on what is cleared away.
    cast::stop(&mut actors).await;
    let rest = stage.clear().await;
    let code = played.tell(&args);
    rest.tell();
    // What was played stands over what is left of it.
    Ok(if rest.why.is_some() && code == ExitCode::SUCCESS { ExitCode::FAILURE } else { code })
}

/// What the play came to.
enum Played {
    Interrupted(ExitCode),
    Failed(Error),
    Judged(Verdict),
}

impl Played {
    /// Says it, once everything is cleared away; who held the shop open knows the verdict already.
    /// Returns the exit code, which is not zero when a promise was broken.
    fn tell(&self, args: &DemoArgs) -> ExitCode {
        match self {
            Self::Interrupted(code) => *code,
            Self::Failed(error) => {
                report::print(error);
                ExitCode::FAILURE
            }
            Self::Judged(verdict) => {
                if !args.hold {
                    verdict.print(args);
                }
                // Dual writes are expected to lose: that is the point of showing them.
                let fine = verdict.is_clean() || args.dual_write;
                if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
        }
    }
}

/// The run and its verdict.
async fn play(
    args: &DemoArgs,
    orders: Vec<Order>,
    stage: &Stage,
    actors: &mut Vec<Actor>,
) -> Result<Verdict> {
    *actors = cast::lay_out(args, stage)?;
    run::perform(args, orders, stage, actors).await
}

/// Keeps the shop open until somebody closes it. What is ordered from now on is not judged.
async fn hold(actors: &mut [Actor], stage: &Stage, interrupts: &mut Interrupts) -> Result<()> {
    report::tell!("The shop stays open; Ctrl-C closes it. Place an order:");
    if let Some(shop) = actors.iter().find(|actor| actor.role == Role::Order && actor.serves) {
        report::tell!(
            "  curl -i http://{}/orders -H 'content-type: application/json' -d '{{\"id\":\"mine\",\"customer\":\"me\",\"sku\":\"book\",\"quantity\":1,\"cents\":1500,\"country\":\"Korea\"}}'",
            shop.address
        );
    }
    let configuration = stage.folder().join(crate::config::FILE);
    report::tell!("and follow it: onewrite flow mine --config {}", configuration.display());
    interrupts.next().await;
    cast::end(actors).await
}

fn few(text: &str) -> std::result::Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count| (1..=16).contains(count))
        .ok_or_else(|| "a number from 1 to 16 is needed".into())
}
