//! Publishing: a window of records at a time, each answered by the script that appends it.

use std::sync::Arc;

use onewrite_core::{
    BoxFuture, Delivery, Incarnation, Partition, Result, Sequence, Text,
    broker::{Mark, Receipt, Sink},
};
use redis::pipe;

use crate::{
    StreamOptions,
    connect::Server,
    gaps::Gaps,
    publish::{Run, Target},
    stream::{self, Layout},
    url, warnings,
};

/// How many records are sent before an answer is waited for, unless configured otherwise.
pub const WINDOW_DEFAULT: usize = 1_000;

/// Where and how to publish.
#[derive(Debug, Clone)]
pub struct RedisSinkOptions {
    /// The stream.
    pub stream: StreamOptions,
    /// How many records are sent before an answer is waited for ([`WINDOW_DEFAULT`]). Those of one lane
    /// are appended by one script, during which the server does nothing else.
    pub window: usize,
}

impl RedisSinkOptions {
    /// The defaults for a stream.
    #[must_use]
    pub fn new(stream: StreamOptions) -> Self {
        Self { stream, window: WINDOW_DEFAULT }
    }

    /// Reads `redis[s]://[user:password@]host[:6379][/database]/STREAM[?lanes=8&window=1000&…]`. Options of
    /// the receiving half are read past.
    ///
    /// # Errors
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), naming the part, never a secret;
    /// [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting) for a server far away without TLS.
    pub fn from_url(url: &str) -> Result<Self> {
        let read = url::parse(url)?;
        Ok(Self { stream: read.stream, window: read.window.unwrap_or(WINDOW_DEFAULT) })
    }
}

/// Deliveries to a stream.
///
/// A settled receipt says that the server has stored the entry, as durably as its settings make it
/// ([`Sink::warnings`]). A server whose memory or disk is full is the sink's trouble and parks nothing. One
/// that lost what it had stored answers with a gap, and is sent it again.
pub struct RedisSink {
    server: Arc<Server>,
    layout: Layout,
    gaps: Gaps,
    window: usize,
}

impl RedisSink {
    /// Connects, and creates the stream if it is missing.
    ///
    /// # Errors
    /// [`SinkUnreachable`](onewrite_core::Code::SinkUnreachable), [`SinkRefused`](onewrite_core::Code::SinkRefused);
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig) for refused credentials, another number of lanes,
    /// keys of another type, or a server before 7.0; [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting)
    /// for one far away without TLS.
    pub async fn connect(options: RedisSinkOptions) -> Result<Self> {
        let RedisSinkOptions { stream: at, window } = options;
        at.check()?;
        let server = Arc::new(Server::connect(&at).await?);
        let layout = stream::open(&server, &at).await?;
        let gaps = Gaps::listen(Arc::clone(&server), &layout.stream).await?;
        Ok(Self { server, layout, gaps, window: window.max(1) })
    }

    /// How many lanes the stream has.
    #[must_use]
    pub fn lanes(&self) -> u16 {
        self.layout.lanes
    }

    async fn publish_all(&self, batch: &[Delivery]) -> Result<Vec<Receipt>> {
        let target = Target {
            server: &self.server,
            layout: &self.layout,
            generations: self.gaps.generations(),
            window: self.window,
        };
        Run::new(target, batch).run().await
    }

    /// What was appended last in each partition, as the script noted it.
    async fn lasts(&self, source: &str, life: Incarnation) -> Result<Vec<Mark>> {
        let mut asked = pipe();
        for lane in 0..self.layout.lanes {
            asked.cmd("HGETALL").arg(self.layout.last_key(lane));
        }
        let what = "does not say what was appended last";
        let lanes: Vec<Vec<(String, String)>> = self.server.ask_all(what, &asked).await?;
        let wanted = format!("{source}/{life}/");
        let mark = |(place, last): &(String, String)| {
            let partition = place.strip_prefix(&wanted)?.parse().ok()?;
            let mut parts = last.splitn(3, ' ');
            let sequence = parts.next()?.parse().ok()?;
            Some(Mark { partition, sequence, last_id: parts.nth(1)?.into() })
        };
        let mut marks: Vec<Mark> = lanes.iter().flatten().filter_map(mark).collect();
        marks.sort_by_key(|mark| mark.partition);
        Ok(marks)
    }
}

impl Sink for RedisSink {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(self.publish_all(batch))
    }

    /// What was appended last in each partition: a source that went back in time is found out by it, before
    /// its new records are taken for repeats.
    fn marks<'a>(
        &'a self,
        source: &'a str,
        life: Incarnation,
    ) -> BoxFuture<'a, Result<Option<Vec<Mark>>>> {
        Box::pin(async move { self.lasts(source, life).await.map(Some) })
    }

    fn gaps(&self, source: &str, life: Incarnation) -> Vec<(Partition, Sequence)> {
        self.gaps.take(source, life)
    }

    fn warnings(&self) -> BoxFuture<'_, Result<Vec<Text>>> {
        Box::pin(warnings::look(&self.server))
    }
}
