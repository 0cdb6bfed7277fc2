//! One run: start everyone, take orders, strike, wait until the shop is quiet, judge.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use onewrite::{Code, Error, Result};
use onewrite_shop::{Books, Order, Role};
use onewrite_testkit::child::End;

use super::{
    DemoArgs, Verdict,
    actor::{self, Actor},
    chaos::{self, Blow},
    feed::Feed,
    stage::Stage,
    verdict::{Blows, Orders},
    watch::Watch,
};
use crate::report;

/// A failpoint that is not passed within this time is struck from outside.
const STRIKE_WITHIN: Duration = Duration::from_secs(5);
/// The longest pause between two attempts to start a process again.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Runs it and says what it came to. The processes go on when they are to be held.
pub(crate) async fn perform(
    args: &DemoArgs,
    orders: Vec<Order>,
    stage: &Stage,
    actors: &mut [Actor],
) -> Result<Verdict> {
    for actor in &mut *actors {
        actor.start().await?;
    }
    let books = Books::open(stage.stores()).await?;
    let began = Instant::now();
    let shops: Vec<_> = actors
        .iter()
        .filter(|actor| actor.role == Role::Order && actor.serves)
        .map(|actor| actor.address)
        .collect();
    let feed = Feed::new(orders);
    let customers = feed.start(&shops);
    let watch = Watch::new(&books, &feed, args);
    let mut blows = Blows::default();
    let mut quiet = pin!(watch.until_quiet());
    tokio::select! {
        struck = strike_all(args, actors, &watch, &feed, &mut blows) => {
            struck?;
            quiet.await?;
        }
        over = quiet.as_mut() => over?,
    }
    // Who was not served by now leaves the shop.
    drop(customers);
    let elapsed = began.elapsed();
    let acknowledged = feed.acknowledged().await;
    let orders = Orders { all: feed.orders(), acknowledged: &acknowledged };
    let ended = if args.hold { Ok(()) } else { actor::end(actors).await };
    let verdict = Verdict::reach(args, &books, &orders, blows, elapsed).await?;
    match ended {
        // What broke says more than how its processes ended.
        Err(error) if !verdict.is_clean() => report::print(&error),
        ended => ended?,
    }
    Ok(verdict)
}

/// Deals out the blows while orders come in, and lets in the rest of the orders afterwards.
async fn strike_all(
    args: &DemoArgs,
    actors: &mut [Actor],
    watch: &Watch<'_>,
    feed: &Feed,
    blows: &mut Blows,
) -> Result<()> {
    let plan = chaos::plan(args.flow, args.seed, args.kills(feed.total()), args.stalls, actors);
    for (number, blow) in plan.iter().enumerate() {
        let share = |number: usize| feed.total() * number / (plan.len() + 1);
        feed.allow(share(number + 1).max(1));
        // One order is left to the end: a shop that is done with all of them is not struck any more.
        let to = share(number + 2).min(feed.total().saturating_sub(1));
        let trickle = Trickle { feed, from: feed.allowed(), to };
        strike(args, blow, actors, &trickle, blows, watch).await?;
    }
    feed.allow(feed.total());
    Ok(())
}

async fn strike(
    args: &DemoArgs,
    blow: &Blow,
    actors: &mut [Actor],
    trickle: &Trickle<'_>,
    blows: &mut Blows,
    watch: &Watch<'_>,
) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(Code::Stopped, "strike a process of the demo").with_source(error)
    };
    match blow {
        Blow::Kill { actor, point, hits } => {
            let actor = &mut actors[*actor];
            watch.say(format!("killing {} at {point}", actor.who));
            watch.excuse(STRIKE_WITHIN);
            let child = actor.child()?;
            child.arm(point, *hits).await.map_err(failed)?;
            let armed = Instant::now();
            let mut point = *point;
            let end = loop {
                match tokio::time::timeout(Duration::from_millis(20), child.wait()).await {
                    Ok(end) => break end.map_err(failed)?,
                    Err(_) if armed.elapsed() > STRIKE_WITHIN => {
                        point = "anywhere";
                        child.kill().map_err(failed)?;
                    }
                    Err(_) => trickle.after(armed.elapsed()),
                }
            };
            if end != End::Killed {
                return Err(Error::new(
                    Code::InvariantBroken,
                    format!("{} ended with {end:?}", actor.who),
                ));
            }
            blows.killed(point);
            restart(actor).await;
            Ok(())
        }
        Blow::Stall { actor } => {
            let actor = &mut actors[*actor];
            watch.say(format!("stalling {}", actor.who));
            let time = Duration::from_millis(args.lease_ms * 2);
            watch.excuse(time);
            let child = actor.child()?;
            child.stall().map_err(failed)?;
            // Its leases expire while it stands still; that takes real time.
            tokio::time::sleep(time).await;
            child.resume().map_err(failed)?;
            blows.stalled();
            Ok(())
        }
    }
}

/// Starts it again, as often as it takes: its database may be away for a while. The watch limits the
/// patience with that.
async fn restart(actor: &mut Actor) {
    let mut pause = Duration::from_millis(100);
    while actor.start().await.is_err() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
    }
}

/// Orders that come in one by one, so that there is traffic to pass an armed point: no more than the
/// blow's share, or none would be left for the next ones.
struct Trickle<'a> {
    feed: &'a Feed,
    from: usize,
    to: usize,
}

impl Trickle<'_> {
    fn after(&self, elapsed: Duration) {
        let share = elapsed.as_secs_f64() / STRIKE_WITHIN.as_secs_f64();
        let more = self.to.saturating_sub(self.from) as f64 * share;
        self.feed.allow((self.from + 1 + more as usize).min(self.to));
    }
}
