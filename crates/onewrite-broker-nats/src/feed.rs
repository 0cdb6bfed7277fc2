//! Receiving: the lanes of a stream, shared among the processes of a receiver by leases.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use onewrite_core::{
    BoxFuture, Result, Text,
    broker::{Arrival, Feed},
    lease::Fence,
    retry::Backoff,
    store::{Batch, Claim, Durability, Item, Op, Outcome, Store},
};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use crate::{
    StreamOptions, connect,
    lane::Policy,
    lane_task::{LaneTask, NatsArrival, Shared, Wish},
    stream, url,
};

/// How a receiver reads a stream.
#[derive(Clone)]
pub struct NatsFeedOptions {
    /// The stream.
    pub stream: StreamOptions,
    /// Names the durable consumers, one for each lane (`CONSUMER-LANE`), and their leases: letters, digits,
    /// `-` and `_`. The same in all processes of one receiver.
    pub consumer: Text,
    /// The receiver's database, for the leases.
    pub store: Arc<dyn Store>,
    /// Who reads: unique for the life of the process.
    pub owner: Text,
    /// How long leases hold without renewal: the longest a dead process's lanes wait (10 s).
    pub lease_ttl: Duration,
    /// How long the server waits for an answer before it delivers again (30 s). Renewed while a message
    /// is held; what a dead process held comes again only then.
    pub ack_wait: Duration,
    /// Messages of one lane that are delivered and not settled, at most (2,000): bounds the memory, and
    /// how much of a partition that is not taken fits before its lane is full.
    pub pending_max: usize,
    /// Deliveries in one arrival at most (500).
    pub batch_max: usize,
    /// Bytes of events in one arrival at most (4 MiB); one larger event still comes, alone.
    pub batch_bytes_max: usize,
    /// How long an arrival waits for more to come, once something is ready (not at all).
    pub linger: Duration,
    /// Pauses before what was not taken is tried again.
    pub backoff: Backoff,
    /// How long a missing predecessor is waited for before it is announced (twice the `ack_wait`).
    pub gap_patience: Option<Duration>,
}

impl NatsFeedOptions {
    /// The defaults for a stream.
    pub fn new(
        stream: StreamOptions,
        consumer: impl Into<Text>,
        store: Arc<dyn Store>,
        owner: impl Into<Text>,
    ) -> Self {
        Self {
            stream,
            consumer: consumer.into(),
            store,
            owner: owner.into(),
            lease_ttl: Duration::from_secs(10),
            ack_wait: Duration::from_secs(30),
            pending_max: 2_000,
            batch_max: 500,
            batch_bytes_max: 4 * 1024 * 1024,
            linger: Duration::ZERO,
            backoff: Backoff::default(),
            gap_patience: None,
        }
    }

    /// Reads `nats://[user:password@|token@]host[:4222]/STREAM[?lanes=8&ack_wait=30s&…]`. Options of the
    /// publishing half are read past.
    ///
    /// # Errors
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), naming the part; never a secret.
    pub fn from_url(
        url: &str,
        consumer: impl Into<Text>,
        store: Arc<dyn Store>,
        owner: impl Into<Text>,
    ) -> Result<Self> {
        let read = url::parse(url)?;
        let mut out = Self::new(read.stream, consumer, store, owner);
        out.ack_wait = read.ack_wait.unwrap_or(out.ack_wait);
        out.pending_max = read.pending_max.unwrap_or(out.pending_max);
        out.batch_max = read.batch_max.unwrap_or(out.batch_max);
        Ok(out)
    }

    fn check(&self) -> Result<()> {
        self.stream.check()?;
        if !stream::is_name(&self.consumer) {
            return Err(url::invalid(
                "a consumer of a NATS stream is named with 1 to 200 letters, digits, `-` and `_`",
            ));
        }
        if self.pending_max == 0 || self.batch_max == 0 {
            return Err(url::invalid("`pending_max` and `batch_max` are 1 or more"));
        }
        if self.ack_wait < Duration::from_millis(100) || self.lease_ttl < Duration::from_millis(100)
        {
            return Err(url::invalid("`ack_wait` and the lease's time are 100 ms or more"));
        }
        Ok(())
    }
}

impl fmt::Debug for NatsFeedOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsFeedOptions")
            .field("stream", &self.stream)
            .field("consumer", &self.consumer)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

/// Deliveries that come from a stream.
///
/// Of each lane at most one arrival is handed out at a time. Dropping the feed closes it, in the
/// background; [`Closer::close`] does it in the open.
pub struct NatsFeed {
    arrivals: mpsc::UnboundedReceiver<NatsArrival>,
    closer: Closer,
}

impl NatsFeed {
    /// Connects, creates the stream and the consumers if they are missing, and begins to share the lanes.
    ///
    /// # Errors
    /// As [`NatsSink::connect`](crate::NatsSink::connect), and [`InvalidConfig`](onewrite_core::Code::InvalidConfig) when the server
    /// refuses a consumer.
    pub async fn open(options: NatsFeedOptions) -> Result<Self> {
        options.check()?;
        let (client, context) = connect::connect(&options.stream, "onewrite feed").await?;
        let layout = stream::open(&context, &options.stream).await?;
        let patience = options.gap_patience.unwrap_or(options.ack_wait * 2);
        let shared = Arc::new(Shared {
            client,
            context,
            layout,
            consumer: options.consumer.clone(),
            policy: Policy { backoff: options.backoff, gap_patience: patience },
            ack_wait: options.ack_wait,
            pending_max: options.pending_max,
            batch_max: options.batch_max,
            batch_bytes_max: options.batch_bytes_max,
            linger: options.linger,
            timeout: options.stream.timeout,
        });
        for lane in 0..shared.layout.lanes {
            shared.create_consumer(lane).await?;
        }
        let (sender, arrivals) = mpsc::unbounded_channel();
        let (close, closing) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        let lanes = Lanes::new(options, shared, sender);
        tokio::spawn(async move {
            lanes.run(closing).await;
            end.send_replace(true);
        });
        Ok(Self { arrivals, closer: Closer { close: Arc::new(close), ended } })
    }

    /// A handle that closes the feed, wherever the feed itself has gone.
    #[must_use]
    pub fn closer(&self) -> Closer {
        self.closer.clone()
    }
}

impl Drop for NatsFeed {
    fn drop(&mut self) {
        self.closer.begin();
    }
}

impl Feed for NatsFeed {
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn Arrival>>> {
        Box::pin(async {
            let arrival = self.arrivals.recv().await?;
            Some(Box::new(arrival) as Box<dyn Arrival>)
        })
    }
}

/// Ends a feed.
#[derive(Debug, Clone)]
pub struct Closer {
    close: Arc<watch::Sender<bool>>,
    ended: watch::Receiver<bool>,
}

impl Closer {
    /// Begins to close: no more arrivals are made. Those that wait are still handed out by
    /// [`Feed::next`], then comes the end.
    pub fn begin(&self) {
        self.close.send_replace(true);
    }

    /// Closes, and resolves once every arrival is settled or dropped, what is left has gone back to the
    /// server, and the leases are given back. Arrivals that nobody takes must be dropped with the feed.
    pub async fn close(&self) {
        self.begin();
        let mut ended = self.ended.clone();
        // Should the task be gone, it is closed as well.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

/// A lane held here.
struct Held {
    fence: Fence,
    wish: watch::Sender<Wish>,
    task: AbortHandle,
}

impl Held {
    fn is_releasing(&self) -> bool {
        *self.wish.borrow() == Wish::Release
    }
}

/// The lanes this process reads, and their leases.
struct Lanes {
    options: NatsFeedOptions,
    shared: Arc<Shared>,
    arrivals: mpsc::UnboundedSender<NatsArrival>,
    held: BTreeMap<u16, Held>,
    tasks: JoinSet<()>,
    leased_until: watch::Sender<Instant>,
}

impl Lanes {
    fn new(
        options: NatsFeedOptions,
        shared: Arc<Shared>,
        arrivals: mpsc::UnboundedSender<NatsArrival>,
    ) -> Self {
        let leased_until = watch::Sender::new(Instant::now());
        let (held, tasks) = (BTreeMap::new(), JoinSet::new());
        Self { options, shared, arrivals, held, tasks, leased_until }
    }

    fn scope(&self) -> Text {
        format!("feed/{}/{}", self.shared.layout.stream, self.shared.consumer).into()
    }

    async fn run(mut self, mut closing: watch::Receiver<bool>) {
        let mut renew_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                // Without its handles the feed is gone too.
                changed = closing.changed() => if changed.is_err() || *closing.borrow() { break },
                Some(_) = self.tasks.join_next() => self.bury().await,
                () = tokio::time::sleep_until(renew_at) => {
                    renew_at = Instant::now() + self.options.lease_ttl / 3;
                    self.renew(true).await;
                }
            }
        }
        self.close().await;
    }

    /// Renews the leases, and follows what changed.
    async fn renew(&mut self, take: bool) {
        let asked_at = Instant::now();
        let ttl = self.options.lease_ttl;
        let claim = Claim {
            scope: self.scope(),
            leases: self.shared.layout.lanes,
            owner: self.options.owner.clone(),
            ttl,
            take,
        };
        match self.options.store.claim(claim).await {
            Ok(claimed) => {
                self.leased_until.send_replace(asked_at + ttl);
                self.follow(claimed.held);
                self.give_back(claimed.give_back);
            }
            Err(error) => {
                tracing::warn!(%error, "the leases of a feed's lanes were not renewed");
                if *self.leased_until.borrow() <= Instant::now() {
                    // Others may have them by now.
                    self.follow(Vec::new());
                }
            }
        }
    }

    /// Ends the lanes that are lost and begins those that are new.
    fn follow(&mut self, fences: Vec<Fence>) {
        let fences: BTreeMap<u16, Fence> =
            fences.into_iter().map(|fence| (fence.partition, fence)).collect();
        self.held.retain(|lane, held| {
            let is_held = fences.get(lane) == Some(&held.fence);
            if !is_held {
                tracing::info!(lane, "another process reads this lane now");
                held.wish.send_replace(Wish::Lost);
            }
            is_held
        });
        for (lane, fence) in fences {
            if lane < self.shared.layout.lanes && !self.held.contains_key(&lane) {
                let held = self.begin(lane, fence);
                self.held.insert(lane, held);
            }
        }
    }

    fn begin(&mut self, lane: u16, fence: Fence) -> Held {
        let (wish, wishes) = watch::channel(Wish::Go);
        let task = LaneTask {
            shared: Arc::clone(&self.shared),
            number: lane,
            arrivals: self.arrivals.clone(),
            wish: wishes,
            leased_until: self.leased_until.subscribe(),
        };
        Held { fence, wish, task: self.tasks.spawn(task.run()) }
    }

    /// Lets go of lanes that others should have, once what is in work there is settled.
    fn give_back(&mut self, count: usize) {
        let releasing = self.held.values().filter(|held| held.is_releasing()).count();
        let going = self.held.values().rev().filter(|held| !held.is_releasing());
        for held in going.take(count.saturating_sub(releasing)) {
            held.wish.send_replace(Wish::Release);
        }
    }

    /// Gives back the leases of lanes whose task has ended.
    async fn bury(&mut self) {
        let ended: Vec<u16> = self
            .held
            .iter()
            .filter(|(_, held)| held.task.is_finished())
            .map(|(lane, _)| *lane)
            .collect();
        let released: Vec<Item> = ended
            .into_iter()
            .filter_map(|lane| self.held.remove(&lane))
            .map(|held| Item {
                fence: Some(held.fence.clone()),
                ops: vec![Op::Release(held.fence)],
            })
            .collect();
        self.commit(released).await;
    }

    async fn close(mut self) {
        self.let_go();
        while !self.held.is_empty() {
            tokio::select! {
                ended = self.tasks.join_next() => {
                    self.bury().await;
                    if ended.is_none() {
                        break;
                    }
                }
                // A receiver may take its time over what it has in work.
                () = tokio::time::sleep(self.options.lease_ttl / 3) => {
                    self.renew(false).await;
                    // A lease whose giving back failed began its lane anew.
                    self.let_go();
                }
            }
        }
        let op = Op::Leave { scope: self.scope(), owner: self.options.owner.clone() };
        self.commit(vec![Item { fence: None, ops: vec![op] }]).await;
    }

    fn let_go(&self) {
        for held in self.held.values().filter(|held| !held.is_releasing()) {
            held.wish.send_replace(Wish::Release);
        }
    }

    async fn commit(&self, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        let batch = Batch { durability: Durability::Relaxed, items };
        let failed = match self.options.store.commit(batch).await {
            Ok(outcomes) => outcomes.into_iter().find_map(|outcome| match outcome {
                Outcome::Failed(error) => Some(error),
                Outcome::Applied(_) | Outcome::Fenced => None,
            }),
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            tracing::warn!(%error, "leases were not given back; they expire by themselves");
        }
    }
}
