//! Who watches the shop: how far it is, and when there is no use in waiting any longer.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use onewrite::{Result, error::Retry};
use onewrite_shop::Books;

use super::{
    args::{DemoArgs, Flow},
    feed::Feed,
};

/// Without progress for so long, what has not ended is lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// Dual writes never finish what they lost.
const PATIENCE_DUAL: Duration = Duration::from_secs(4);

pub(crate) struct Watch<'a> {
    books: &'a Books,
    feed: &'a Feed,
    args: &'a DemoArgs,
    bar: ProgressBar,
    /// Nothing has to move before: something is being done to the shop on purpose.
    excused_until: Mutex<Instant>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(books: &'a Books, feed: &'a Feed, args: &'a DemoArgs) -> Self {
        let excused_until = Mutex::new(Instant::now());
        Self { books, feed, args, bar: progress(feed.total()), excused_until }
    }

    /// Shows what is being done.
    pub(crate) fn say(&self, what: String) {
        self.bar.set_message(what);
    }

    /// Does not hold it against the shop that nothing moves for so long.
    pub(crate) fn excuse(&self, time: Duration) {
        *self.excused_until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + time;
    }

    /// Waits until every order was acknowledged and has ended, or nothing has moved for too long.
    pub(crate) async fn until_quiet(&self) -> Result<()> {
        let total = self.feed.total();
        let (mut ended, mut last, mut moved) = (0, 0, Instant::now());
        loop {
            let served = self.feed.acknowledged().await.len();
            ended = self.ended(ended).await?;
            self.bar.set_position(ended);
            if served == total {
                self.say("waiting for the last orders".into());
            }
            if served == total && ended >= total as u64 {
                break;
            }
            let progress = served as u64 + ended;
            if progress != last {
                (last, moved) = (progress, Instant::now());
            }
            if self.waited_since(moved) > self.patience(served) {
                break;
            }
            // While orders come in, counting them often would only slow them down.
            let pause = if served == total { 25 } else { 200 };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.bar.finish_and_clear();
        Ok(())
    }

    /// How many orders have ended. A database that cannot be asked now shows no progress.
    async fn ended(&self, last: u64) -> Result<u64> {
        let ended = match self.args.flow {
            Flow::Choreography => self.books.ended().await,
            Flow::Orchestration => self.books.sagas_ended().await,
        };
        match ended {
            Err(error) if error.retry() != Retry::Never => Ok(last),
            ended => ended,
        }
    }

    fn waited_since(&self, moved: Instant) -> Duration {
        let excused = *self.excused_until.lock().unwrap_or_else(PoisonError::into_inner);
        moved.max(excused).elapsed()
    }

    fn patience(&self, served: usize) -> Duration {
        let loses = self.args.dual_write && served == self.feed.total();
        let usual = if loses { PATIENCE_DUAL } else { PATIENCE };
        self.args.patience_s.map_or(usual, Duration::from_secs)
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
