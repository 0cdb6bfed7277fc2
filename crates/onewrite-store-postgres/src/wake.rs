//! Waking a relay that sleeps: emitters notify only when somebody has said that they sleep.
//!
//! A notification for each commit would serialise all commits of the server. So who sleeps sets a sign
//! (a sequence's value: seen at once, no dead rows) with the time until which it sleeps, looks once more,
//! and waits; who places an event before that time notifies everybody with its commit. What slips through (an emitter that looked just
//! before the sign was set) still holds its partition's lock, and then the wait is short.

use std::{sync::Arc, time::Duration};

use onewrite_core::{BoxFuture, Result, store::Watch};
use tokio::sync::{Mutex, watch};
use tokio_postgres::{Row, types::ToSql};

use crate::{error::While, read::Horizon, store::PostgresStore};

/// The first and the longest wait while somebody is emitting who may not have seen the sign.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(25);

/// The listening connection of one store handle, made when it is first needed.
pub(crate) struct Listener {
    client: Mutex<Option<tokio_postgres::Client>>,
    told: Arc<watch::Sender<u64>>,
}

impl Listener {
    pub(crate) fn new() -> Self {
        Self { client: Mutex::new(None), told: Arc::new(watch::channel(0).0) }
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// Listens, unless it does. While it cannot, polling is what remains.
    async fn listen(&self, store: &PostgresStore) {
        let mut client = self.client.lock().await;
        if client.as_ref().is_some_and(|client| !client.is_closed()) {
            return;
        }
        let told = Arc::clone(&self.told);
        let tell = move || told.send_modify(|count| *count = count.wrapping_add(1));
        *client = None;
        match store.options().listen(tell).await {
            Ok(listening) => match listening.batch_execute("LISTEN onewrite").await {
                Ok(()) => *client = Some(listening),
                Err(error) => tracing::debug!(%error, "the log is polled: listening failed"),
            },
            Err(error) => tracing::debug!(%error, "the log is polled: listening failed"),
        }
    }
}

/// One reader's watch.
pub(crate) struct LogWatch {
    store: PostgresStore,
    told: watch::Receiver<u64>,
    /// What was decided when it returned last: the reader has looked since.
    last: Option<Horizon>,
    pause: Duration,
}

impl LogWatch {
    pub(crate) fn new(store: PostgresStore) -> Self {
        let told = store.listener().subscribe();
        Self { store, told, last: None, pause: PAUSE }
    }

    /// Sleeps until something may have been committed, or `within` is over.
    ///
    /// It sleeps for long only when nothing was drawn since it returned last and nothing was on its way
    /// either time: then the reader has seen everything, and what comes sees the sign.
    async fn sleep(&mut self, within: Duration) -> Result<()> {
        self.store.listener().listen(&self.store).await;
        let seconds = within.as_secs_f64();
        let asleep = self
            .look(
                "SELECT head, busy, sign FROM onewrite.sleeps(make_interval(secs => $1))",
                &[&seconds],
            )
            .await?;
        let (now, sign) = (Horizon::of(&asleep)?, asleep.get::<_, i64>(2));
        let news = self.last.as_ref().is_none_or(|last| {
            last.head != now.head || (!last.busy.is_empty() && now.busy.is_empty())
        });
        if news {
            self.pause = PAUSE;
            self.last = Some(now);
            return Ok(());
        }
        let wait = if now.busy.is_empty() {
            self.pause = PAUSE;
            within
        } else {
            let pause = self.pause;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            pause.min(within)
        };
        let woken = tokio::time::timeout(wait, self.told.changed()).await.is_ok();
        let awake =
            self.look("SELECT head, busy FROM onewrite.wakes($1, $2)", &[&sign, &woken]).await?;
        self.last = Some(Horizon::of(&awake)?);
        Ok(())
    }

    async fn look(&self, sql: &str, binds: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        let client = self.store.engine().await?;
        let statement = client.prepare_cached(sql).await.during("watch the log")?;
        client.query_one(&statement, binds).await.during("watch the log")
    }
}

impl Watch for LogWatch {
    fn changed(&mut self, within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let began = tokio::time::Instant::now();
            if let Err(error) = self.sleep(within).await {
                tracing::debug!(%error, "the watch on the log was disturbed");
                self.last = None;
                // What reads next is told what is wrong; until then there is no hurry.
                tokio::time::sleep_until(began + within).await;
            }
        })
    }
}
