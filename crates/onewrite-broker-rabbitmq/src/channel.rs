//! The channel through which one lane is read, and what was delivered on it.
//!
//! What is not acknowledged when it is closed goes back to its queue, to the front, in its order.

use std::{
    collections::BTreeSet,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lapin::{
    Channel, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::sync::OnceCell;

/// A channel, and the messages that came on it and are not answered.
pub(crate) struct LaneChannel {
    channel: Channel,
    open: Mutex<BTreeSet<u64>>,
    closed: OnceCell<()>,
}

impl LaneChannel {
    pub(crate) fn new(channel: Channel) -> Self {
        Self { channel, open: Mutex::default(), closed: OnceCell::new() }
    }

    /// Begins to consume, at most `held_max` messages at a time.
    pub(crate) async fn consume(&self, queue: String, held_max: u16) -> lapin::Result<Consumer> {
        self.channel.basic_qos(held_max, BasicQosOptions::default()).await?;
        let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
        self.channel.basic_consume(queue.into(), "".into(), options, table).await
    }

    /// Notes a message that came.
    pub(crate) fn came(&self, tag: u64) {
        self.open().insert(tag);
    }

    /// Acknowledges messages, with as few words as possible. What does not get through comes again.
    pub(crate) async fn acknowledge(&self, mut tags: Vec<u64>) {
        tags.sort_unstable();
        let (up_to, single) = self.settle(&tags);
        let multiple = up_to.map(|tag| (tag, BasicAckOptions { multiple: true }));
        let single = single.iter().map(|tag| (*tag, BasicAckOptions { multiple: false }));
        for (tag, options) in multiple.into_iter().chain(single) {
            if let Err(error) = self.channel.basic_ack(tag, options).await {
                tracing::debug!(%error, "what is not acknowledged comes again");
                return;
            }
        }
    }

    /// Closes it, unless somebody else does; returns when the server has everything back.
    pub(crate) async fn close(&self) {
        let closing = async || {
            if let Err(error) = self.channel.close(200, "OK".into()).await {
                tracing::debug!(%error, "a channel was closed already");
            }
        };
        self.closed.get_or_init(closing).await;
    }

    /// Strikes messages off: up to which tag nothing is open any more, and the others.
    fn settle(&self, tags: &[u64]) -> (Option<u64>, Vec<u64>) {
        let mut open = self.open();
        // Twice for one message, of which one was answered by the other's: the server would end the channel.
        let tags: Vec<u64> = tags.iter().copied().filter(|tag| open.remove(tag)).collect();
        let first_open = open.first().copied().unwrap_or(u64::MAX);
        let split = tags.partition_point(|tag| *tag < first_open);
        (tags[..split].last().copied(), tags[split..].to_vec())
    }

    /// A panic while the lock was held leaves nothing half done here.
    fn open(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads through a channel, or is about to. Once it is dropped, the channel is closed: whoever reads the lane
/// next must get what was delivered on it, also where this process lost the lane and has nothing more to say
/// about it, or gave it up while it began to read.
pub(crate) struct ReadChannel(Arc<LaneChannel>);

impl ReadChannel {
    pub(crate) fn new(channel: Arc<LaneChannel>) -> Self {
        Self(channel)
    }

    pub(crate) fn shared(&self) -> Arc<LaneChannel> {
        Arc::clone(&self.0)
    }
}

impl Deref for ReadChannel {
    type Target = LaneChannel;

    fn deref(&self) -> &LaneChannel {
        &self.0
    }
}

impl Drop for ReadChannel {
    fn drop(&mut self) {
        let channel = self.shared();
        // Without a runtime there is no connection either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { channel.close().await });
        }
    }
}
