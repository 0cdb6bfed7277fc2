//! When to read again: these servers have no notifications, so the log is looked at, often while something
//! happens and less often while nothing does.

use std::time::Duration;

use mysql_async::{Row, prelude::Queryable};
use onewrite_core::{BoxFuture, Result, Sequence, store::Watch};

use crate::{error::While, row, store::MysqlStore};

/// The pause after something came, and the longest.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// One reader's watch.
pub(crate) struct LogWatch {
    store: MysqlStore,
    /// The highest sequence when it returned last: the reader has looked since.
    last: Option<Sequence>,
    pause: Duration,
}

impl LogWatch {
    pub(crate) fn new(store: MysqlStore) -> Self {
        Self { store, last: None, pause: PAUSE }
    }

    /// Whether there is something that was not there when it returned last.
    async fn news(&mut self) -> Result<bool> {
        let sql = "SELECT sequence, EXISTS (SELECT 1 FROM onewrite_outbox) FROM onewrite_counter";
        let mut conn = self.store.engine().await?;
        let found: Option<Row> = conn.query_first(sql).await.during("watch the log")?;
        let Some(mut found) = found else { return Ok(false) };
        let (head, waits) = (row::number(&mut found, 0)?, row::get::<bool>(&mut found, 1)?);
        Ok(self.last.replace(head) != Some(head) || waits)
    }

    async fn sleep(&mut self, end: tokio::time::Instant) -> Result<()> {
        while !self.news().await? {
            if tokio::time::Instant::now() >= end {
                return Ok(());
            }
            tokio::time::sleep_until(end.min(tokio::time::Instant::now() + self.pause)).await;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
        self.pause = PAUSE;
        Ok(())
    }
}

impl Watch for LogWatch {
    fn changed(&mut self, within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let end = tokio::time::Instant::now() + within;
            if let Err(error) = self.sleep(end).await {
                tracing::debug!(%error, "the watch on the log was disturbed");
                // What reads next is told what is wrong; until then there is no hurry.
                tokio::time::sleep_until(end).await;
            }
        })
    }
}
