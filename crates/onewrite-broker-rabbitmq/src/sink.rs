//! Publishing: many messages on their way at the same time, each confirmed by the server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool};

use lapin::{Channel, options::ConfirmSelectOptions};
use onewrite_core::{
    BoxFuture, Delivery, Incarnation, Partition, Result, Sequence, Text,
    broker::{Receipt, Sink},
};
use onewrite_lanes::url::{invalid, is_name};

use crate::{
    StreamOptions,
    connect::Server,
    gaps::Gaps,
    publish::{Run, Target},
    stream::{self, Layout},
    url,
};

/// How many messages may be on their way unless configured otherwise.
pub const WINDOW_DEFAULT: usize = 1_000;

/// How large an event's data may be unless configured otherwise: what a server of version 4 accepts.
pub const MESSAGE_BYTES_MAX_DEFAULT: usize = 16 * 1024 * 1024;

/// Where and how to publish.
#[derive(Debug, Clone)]
pub struct RabbitSinkOptions {
    /// The stream.
    pub stream: StreamOptions,
    /// Receivers whose queues are made before anything is published (none). A receiver makes its own when
    /// it starts for the first time, and what was published before that comes to it from the log alone.
    pub consumers: Vec<Text>,
    /// How many messages may be on their way at once ([`WINDOW_DEFAULT`]).
    pub window: usize,
    /// Bytes of data above which an event is refused ([`MESSAGE_BYTES_MAX_DEFAULT`]): the server's
    /// `max_message_size`, which it says nobody, and which ends the channel of whoever exceeds it.
    pub message_bytes_max: usize,
}

impl RabbitSinkOptions {
    /// The defaults for a stream.
    #[must_use]
    pub fn new(stream: StreamOptions) -> Self {
        Self {
            stream,
            consumers: Vec::new(),
            window: WINDOW_DEFAULT,
            message_bytes_max: MESSAGE_BYTES_MAX_DEFAULT,
        }
    }

    /// Reads `amqp[s]://[user:password@]host[:5672][/vhost]/STREAM[?lanes=8&consumers=payments&…]`. Options
    /// of the receiving half are read past.
    ///
    /// # Errors
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), naming the part, never a secret;
    /// [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting) for a server far away without TLS.
    pub fn from_url(url: &str) -> Result<Self> {
        let read = url::parse(url)?;
        Ok(Self {
            consumers: read.consumers,
            window: read.window.unwrap_or(WINDOW_DEFAULT),
            message_bytes_max: read.message_bytes_max.unwrap_or(MESSAGE_BYTES_MAX_DEFAULT),
            stream: read.stream,
        })
    }
}

/// Deliveries to a stream.
///
/// A settled receipt says that every queue of the record's lane has stored the message on a majority of its
/// nodes. A record that is too large is refused; a queue that is full or missing, and a server that is short
/// of memory or disk, is the sink's trouble and parks nothing. What was not confirmed is sent again, and
/// may be there twice: the receiver's inbox recognises it.
pub struct RabbitSink {
    server: Arc<Server>,
    layout: Layout,
    gaps: Gaps,
    /// Those that no call uses now.
    channels: Mutex<Vec<Channel>>,
    window: usize,
    message_bytes_max: usize,
    careful: AtomicBool,
}

impl RabbitSink {
    /// Connects, and creates the stream if it is missing.
    ///
    /// # Errors
    /// [`SinkUnreachable`](onewrite_core::Code::SinkUnreachable); [`InvalidConfig`](onewrite_core::Code::InvalidConfig)
    /// for refused credentials, an unknown virtual host, another number of lanes, or exchanges and queues of
    /// another kind; [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting) for a server far away without TLS.
    pub async fn connect(options: RabbitSinkOptions) -> Result<Self> {
        let RabbitSinkOptions { stream: at, consumers, window, message_bytes_max } = options;
        at.check()?;
        if let Some(wrong) = consumers.iter().find(|name| !is_name(name)) {
            return Err(invalid(format!(
                "`{}` in `consumers` names no receiver",
                wrong.escape_debug()
            )));
        }
        let server = Arc::new(Server::new(&at, "onewrite sink")?);
        let layout = stream::open(&server, &at).await?;
        for consumer in &consumers {
            for lane in 0..layout.lanes {
                stream::create_queue(&server, &layout, consumer, lane).await?;
            }
        }
        let hearing = Arc::new(Server::new(&at, "onewrite sink's announcements")?);
        let gaps = Gaps::listen(hearing, &layout.stream).await?;
        let (channels, careful) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self {
            server,
            layout,
            gaps,
            channels,
            window: window.max(1),
            message_bytes_max,
            careful,
        })
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
        self.server.check_unblocked().await?;
        let channel = self.channel().await?;
        let target = Target {
            server: &self.server,
            layout: &self.layout,
            channel: &channel,
            window: self.window,
            message_bytes_max: self.message_bytes_max,
            careful: &self.careful,
        };
        let run = Run::new(target, batch).run().await;
        if run.is_whole {
            self.channels().push(channel);
        }
        run.receipts
    }

    /// A channel that confirms. It is one call's alone: what was returned is known by the end of a call.
    async fn channel(&self) -> Result<Channel> {
        loop {
            let Some(kept) = self.channels().pop() else { break };
            if kept.status().connected() {
                return Ok(kept);
            }
        }
        let channel = self.server.channel().await?;
        let confirming = channel.confirm_select(ConfirmSelectOptions::default());
        self.server.bounded("confirms nothing", confirming).await?;
        Ok(channel)
    }

    /// A panic while the lock was held leaves nothing half done here.
    fn channels(&self) -> MutexGuard<'_, Vec<Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for RabbitSink {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(self.publish_all(batch))
    }

    fn gaps(&self, source: &str, life: Incarnation) -> Vec<(Partition, Sequence)> {
        self.gaps.take(source, life)
    }
}
