//! `onewrite demo`: the shop as real processes, killed and stalled while orders come in.

mod actor;
mod args;
mod cast;
mod chaos;
mod databases;
mod feed;
mod interrupt;
pub(crate) mod node;
mod orders;
mod removal;
mod run;
pub(crate) mod service;
mod stage;
mod streams;
mod verdict;
mod watch;

use std::process::ExitCode;

use onewrite::{Code, Error, Result};
use onewrite_shop::{Order, Role};

use crate::report;

use self::{actor::Actor, args::Flow, interrupt::Interrupts, stage::Stage};
pub(crate) use self::{args::DemoArgs, verdict::Verdict};

/// Runs the demo. The exit code is not zero when a promise was broken.
pub(crate) async fn run(args: DemoArgs) -> Result<ExitCode> {
    args.check()?;
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
        if let Err(error) = hold(&args, &mut actors, &stage, &mut interrupts).await {
            played = Played::Failed(error);
        }
    }
    // Whatever happened, nobody works on what is cleared away.
    actor::stop(&mut actors).await;
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
                // That is the point of showing it.
                let fine = verdict.is_clean() || args.is_to_break();
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
async fn hold(
    args: &DemoArgs,
    actors: &mut [Actor],
    stage: &Stage,
    interrupts: &mut Interrupts,
) -> Result<()> {
    report::tell!("The shop stays open; Ctrl-C closes it. Place an order:");
    if let Some(shop) = actors.iter().find(|actor| actor.role == Role::Order && actor.serves) {
        report::tell!(
            "  curl -i http://{}/orders -H 'content-type: application/json' -d '{{\"id\":\"mine\",\"customer\":\"me\",\"sku\":\"book\",\"quantity\":1,\"cents\":1500,\"country\":\"Korea\"}}'",
            shop.address
        );
    }
    if args.flow == Flow::Choreography {
        let configuration = stage.folder().join(crate::config::FILE);
        report::tell!("and follow it: onewrite flow mine --config {}", configuration.display());
    }
    interrupts.next().await;
    actor::end(actors).await
}
