//! One run: start everyone, take orders, strike, wait until the shop is quiet, judge.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use onewrite::{Code, Error, Result};
use onewrite_shop::{Books, Order, Role};
use onewrite_testkit::child::End;

use super::{
    DemoArgs, Verdict,
    cast::{self, Actor},
    chaos::{self, Blow},
    feed::Feed,
    stage::Stage,
    verdict::Blows,
};

/// Without progress for so long, what has not ended is lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// Dual writes never finish what they lost.
const PATIENCE_DUAL: Duration = Duration::from_secs(4);
/// A failpoint that is not passed within this time is struck from outside.
const STRIKE_WITHIN: Duration = Duration::from_secs(5);

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
    let mut customers = feed.start(&shops);
    let bar = progress(feed.total());
    let plan = chaos::plan(args.seed, args.kills(feed.total()), args.stalls, actors);
    let mut blows = Blows::default();
    for (number, blow) in plan.iter().enumerate() {
        let share = |number: usize| feed.total() * number / (plan.len() + 1);
        feed.allow(share(number + 1).max(1));
        let trickle = Trickle { feed: &feed, from: feed.allowed(), to: share(number + 2) };
        strike(args, blow, actors, &trickle, &mut blows, &bar).await?;
    }
    feed.allow(feed.total());
    while customers.join_next().await.is_some() {}
    let patience = if args.dual_write { PATIENCE_DUAL } else { PATIENCE };
    let patience = args.patience_s.map_or(patience, Duration::from_secs);
    let watch = Watch { books: &books, bar: &bar, patience };
    watch.until_quiet(feed.total()).await?;
    let elapsed = began.elapsed();
    bar.finish_and_clear();
    let acknowledged = feed.acknowledged().await;
    if !args.hold {
        cast::end(actors).await?;
    }
    Verdict::reach(args, &books, &acknowledged, blows, elapsed).await
}

async fn strike(
    args: &DemoArgs,
    blow: &Blow,
    actors: &mut [Actor],
    trickle: &Trickle<'_>,
    blows: &mut Blows,
    bar: &ProgressBar,
) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(Code::Stopped, "strike a process of the demo").with_source(error)
    };
    match blow {
        Blow::Kill { actor, point, hits } => {
            let actor = &mut actors[*actor];
            bar.set_message(format!("killing {} at {point}", actor.role.name()));
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
                    format!("a process of the {} service ended with {end:?}", actor.role.name()),
                ));
            }
            blows.killed(point);
            actor.start().await
        }
        Blow::Stall { actor } => {
            let actor = &mut actors[*actor];
            bar.set_message(format!("stalling {}", actor.role.name()));
            let child = actor.child()?;
            child.stall().map_err(failed)?;
            // Its leases expire while it stands still; that takes real time.
            tokio::time::sleep(Duration::from_millis(args.lease_ms * 2)).await;
            child.resume().map_err(failed)?;
            blows.stalled();
            Ok(())
        }
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

fn progress(total: usize) -> ProgressBar {
    let bar = ProgressBar::new(total as u64);
    let style =
        ProgressStyle::with_template("{elapsed_precise} {bar:32} {pos}/{len} orders ended  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

struct Watch<'a> {
    books: &'a Books,
    bar: &'a ProgressBar,
    patience: Duration,
}

impl Watch<'_> {
    /// Waits until every order has ended, or nothing has moved for too long.
    async fn until_quiet(&self, total: usize) -> Result<()> {
        let (mut last, mut moved) = (0, Instant::now());
        loop {
            let ended = self.books.ended().await?;
            self.bar.set_message("waiting for the last orders");
            self.bar.set_position(ended);
            if ended >= total as u64 {
                return Ok(());
            }
            if ended != last {
                (last, moved) = (ended, Instant::now());
            }
            if moved.elapsed() > self.patience {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }
}
