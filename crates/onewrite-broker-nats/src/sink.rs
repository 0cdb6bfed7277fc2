//! Publishing: many messages on their way at the same time, each confirmed by the server.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use async_nats::{Client, jetstream::Context};
use onewrite_core::{
    BoxFuture, Code, Delivery, Error, Incarnation, Partition, Result, Sequence, Text,
    broker::{Receipt, Sink},
};

use crate::{
    StreamOptions, connect,
    gaps::Gaps,
    publish::{Inbox, Run, Target},
    stream::{self, Layout},
    url,
};

/// How many messages may be on their way unless configured otherwise.
pub const WINDOW_DEFAULT: usize = 1_000;

/// Where and how to publish.
#[derive(Debug, Clone)]
pub struct NatsSinkOptions {
    /// The stream.
    pub stream: StreamOptions,
    /// How many messages may be on their way at once ([`WINDOW_DEFAULT`]).
    pub window: usize,
}

impl NatsSinkOptions {
    /// The defaults for a stream.
    #[must_use]
    pub fn new(stream: StreamOptions) -> Self {
        Self { stream, window: WINDOW_DEFAULT }
    }

    /// Reads `nats://[user:password@|token@]host[:4222]/STREAM[?lanes=8&window=1000&…]`. Options of the
    /// receiving half are read past.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`], naming the part; never a secret.
    pub fn from_url(url: &str) -> Result<Self> {
        let read = url::parse(url)?;
        Ok(Self { stream: read.stream, window: read.window.unwrap_or(WINDOW_DEFAULT) })
    }
}

/// Deliveries to a stream.
///
/// A settled receipt says that the server has stored the message, as durably as the stream's settings
/// make it ([`Sink::warnings`]). A record larger than the server takes is refused; a stream that is full
/// or gone is the sink's trouble and parks nothing. After a disconnect the client connects again by
/// itself, and what was not confirmed is sent again under the same id, which the server recognises for
/// two minutes.
pub struct NatsSink {
    client: Client,
    context: Context,
    layout: Layout,
    gaps: Gaps,
    /// Those that no call uses now.
    inboxes: Mutex<Vec<Inbox>>,
    window: usize,
    careful: AtomicUsize,
    timeout: Duration,
}

impl NatsSink {
    /// Connects, and creates the stream if it is missing: on disk, refusing when full.
    ///
    /// # Errors
    /// [`Code::SinkUnreachable`]; [`Code::InvalidConfig`] for refused credentials, a server without
    /// JetStream or a stream of another layout; [`Code::UnsafeSetting`] for a stream that loses messages.
    pub async fn connect(options: NatsSinkOptions) -> Result<Self> {
        let NatsSinkOptions { stream: at, window } = options;
        at.check()?;
        let (client, context) = connect::connect(&at, "onewrite sink").await?;
        let layout = stream::open(&context, &at).await?;
        let gaps = Gaps::listen(&client, &layout.stream).await?;
        let (window, timeout) = (window.max(1), at.timeout);
        let (inboxes, careful) = (Mutex::default(), AtomicUsize::new(0));
        Ok(Self { client, context, layout, gaps, inboxes, window, careful, timeout })
    }

    /// How many lanes the stream has.
    #[must_use]
    pub fn lanes(&self) -> u16 {
        self.layout.lanes
    }

    async fn publish_all(&self, batch: &[Delivery]) -> Result<Vec<Receipt>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let kept = self.inboxes().pop();
        let mut inbox = match kept {
            Some(inbox) => inbox,
            None => Inbox::open(&self.client).await?,
        };
        let target = Target {
            client: &self.client,
            layout: &self.layout,
            generations: self.gaps.generations(),
            window: self.window,
            careful: &self.careful,
            timeout: self.timeout,
        };
        let receipts = Run::new(target, &mut inbox, batch).run().await;
        self.inboxes().push(inbox);
        receipts
    }

    /// A panic while the lock was held leaves nothing half done here.
    fn inboxes(&self) -> MutexGuard<'_, Vec<Inbox>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for NatsSink {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(self.publish_all(batch))
    }

    fn gaps(&self, source: &str, life: Incarnation) -> Vec<(Partition, Sequence)> {
        self.gaps.take(source, life)
    }

    fn warnings(&self) -> BoxFuture<'_, Result<Vec<Text>>> {
        Box::pin(async {
            let stream = &self.layout.stream;
            match self.context.get_stream(&**stream).await {
                Ok(found) => {
                    let refuses = stream::refuses_when_full(&self.client);
                    Ok(stream::warnings(&found.cached_info().config, refuses))
                }
                Err(error) => {
                    let context = format!("stream `{stream}` cannot be looked at");
                    Err(Error::new(Code::SinkUnreachable, context).with_source(error))
                }
            }
        })
    }
}
