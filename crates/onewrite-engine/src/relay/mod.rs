//! The relay driver: reads the log, publishes to one sink, moves the cursors.

mod options;
mod redrive;
mod upkeep;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use onewrite_core::{
    Code, Error, Partition, Result, Sequence, Text, Timestamp,
    broker::{Receipt, Sink},
    failpoint,
    lease::{Fence, Scope},
    position::Source,
    relay::{Alarm, Offer, Policy, Relay as Machine},
    sabotage::Defect,
    store::{Batch, Claim, Durability, Item, Op, Outcome, Page, Read, Store, Watch},
};

pub use self::options::{Budget, RelayOptions};
use crate::{Shutdown, sweeper::pause};

/// Delivers a store's records to one sink. Several may run for the same sink, in any number of
/// processes: they share its partitions.
pub struct Relay {
    store: Arc<dyn Store>,
    sink: Arc<dyn Sink>,
    options: RelayOptions,
    owner: Text,
}

impl Relay {
    /// A relay; `owner` must be unique for the life of the process (host, pid and a random part).
    pub fn new(
        store: Arc<dyn Store>,
        sink: Arc<dyn Sink>,
        options: RelayOptions,
        owner: impl Into<Text>,
    ) -> Self {
        Self { store, sink, options, owner: owner.into() }
    }

    /// Registers the sink, so that retention keeps what it has not settled. [`Self::run`] does it too;
    /// a program that sweeps with a short retention does it before the first sweep.
    ///
    /// # Errors
    /// What the store says.
    pub async fn subscribe(&self) -> Result<()> {
        let batch =
            Batch { durability: Durability::Durable, items: vec![subscription(&self.options)] };
        match self.store.commit(batch).await?.pop() {
            Some(Outcome::Failed(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Relays until the shutdown begins, then settles what is in flight and gives its leases back.
    /// Trouble with store or sink is retried for ever, with pauses.
    pub async fn run(self, shutdown: Shutdown) {
        let mut driver = Driver::new(self);
        let mut failures = 0;
        while !shutdown.has_begun() {
            match driver.run(&shutdown).await {
                Ok(()) => break,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, sink = %driver.options.sink, "the relay starts over");
                    let wait = driver.options.backoff.pause(failures.min(8), rand::random());
                    pause(wait, &shutdown).await;
                }
            }
        }
        driver.leave().await;
    }
}

struct Driver {
    store: Arc<dyn Store>,
    sink: Arc<dyn Sink>,
    machine: Machine,
    /// The source as the machine knows it.
    source: Source,
    options: RelayOptions,
    owner: Text,
    renew_at: Instant,
    suspended: bool,
    /// Records in the next batch at most: shrinks while a batch as a whole is refused, so that a
    /// record nobody can take ends up alone.
    batch: usize,
    /// Batches in a row that nothing is known about.
    failures: u32,
    /// Leases of writes with an unknown outcome.
    unsure: Vec<Fence>,
    /// Partitions whose receiver was not asked for its marks since they were leased.
    unheard: Vec<Partition>,
    /// Cursors that moved and are not stored yet, and since when.
    moved: Vec<Item>,
    moved_since: Instant,
}

/// Moved cursors are stored together, after so long or so many: a commit for each event would take the
/// database's lock from those who write. Until then a crash repeats deliveries, which receivers know.
/// A lane whose cursor waits sends nothing more before it is stored: a sender that lost its lease must
/// hear so from its fence. And only plain acceptance waits: see where it is decided.
const STORE_CURSORS_WITHIN: Duration = Duration::from_millis(20);
const STORE_CURSORS_AT: usize = 64;

/// The machine knows that nothing is known; the driver knows why, and `why` shall say so.
fn explain(items: &mut [Item], error: &Error) {
    for op in items.iter_mut().flat_map(|item| &mut item.ops) {
        if let Op::FailCursor { reason, .. } = op {
            *reason = error.to_string().into();
        }
    }
}

fn subscription(options: &RelayOptions) -> Item {
    let op = Op::Subscribe { sink: options.sink.clone(), from: options.from };
    Item { fence: None, ops: vec![op] }
}

fn machine(options: &RelayOptions, source: Source) -> Machine {
    let policy = Policy {
        sink: options.sink.clone(),
        backoff: options.backoff,
        attempts_max: options.attempts_max,
        sabotage: options.sabotage,
    };
    Machine::new(policy, source)
}

type Asked = Vec<(Partition, Sequence)>;

impl Driver {
    fn new(relay: Relay) -> Self {
        let Relay { store, sink, options, owner } = relay;
        let source = store.source();
        let machine = machine(&options, source.clone());
        let batch = options.batch_max.max(1);
        Self {
            store,
            sink,
            machine,
            source,
            options,
            owner,
            renew_at: Instant::now(),
            suspended: false,
            batch,
            failures: 0,
            unsure: Vec::new(),
            unheard: Vec::new(),
            moved: Vec::new(),
            moved_since: Instant::now(),
        }
    }

    fn policy_scope(&self) -> Scope {
        format!("relay/{}", self.options.sink).into()
    }

    async fn run(&mut self, shutdown: &Shutdown) -> Result<()> {
        // What was in flight when an error ended the last run is read again from the stored cursors.
        self.source = self.store.source();
        self.machine = machine(&self.options, self.source.clone());
        self.moved.clear();
        self.unheard.clear();
        self.commit(vec![subscription(&self.options)], Durability::Durable).await?;
        let mut watch = self.store.watch();
        let mut ahead: Option<(Asked, Page)> = None;
        self.renew_at = Instant::now();
        while !shutdown.has_begun() {
            if self.renewal_is_due() {
                self.renew().await?;
            }
            self.fall_back().await?;
            let now = self.store.now().await?;
            let (asked, page) = match ahead.take() {
                Some(read) => read,
                None => self.read(now).await?,
            };
            if self.store.source() != self.source {
                let why = "the source began a new incarnation, its partitions start over from their cursors";
                return Err(Error::new(Code::Fenced, why));
            }
            for (partition, sequence) in &page.trimmed {
                self.machine.trimmed(*partition, *sequence);
            }
            if self.waits_for_cursor(&page) {
                self.store_cursors(Durability::Relaxed).await?;
            }
            let more = page.more;
            let offer = self.machine.offer(&asked, page);
            if offer.is_empty() {
                if !self.moved.is_empty() && self.moved_since.elapsed() >= STORE_CURSORS_WITHIN {
                    self.store_cursors(Durability::Relaxed).await?;
                }
                if !more {
                    self.wait(&mut *watch, now, shutdown).await;
                }
                continue;
            }
            ahead = self.deliver(offer, more, now, shutdown).await?;
        }
        Ok(())
    }

    /// Publishes an offer and commits what became of it, while the next page is read.
    async fn deliver(
        &mut self,
        mut offer: Offer,
        more: bool,
        now: Timestamp,
        shutdown: &Shutdown,
    ) -> Result<Option<(Asked, Page)>> {
        let parks = std::mem::take(&mut offer.items);
        if !parks.is_empty() {
            self.moved.extend(parks);
            self.store_cursors(Durability::Durable).await?;
        }
        if self.options.sabotage.has(Defect::CursorBeforePublish) {
            let accepted = vec![Receipt::Accepted; offer.deliveries.len()];
            let settled = self.machine.published(now, 0.5, &offer, Some(&accepted));
            self.commit(settled.items, Durability::Relaxed).await?;
        }
        if offer.deliveries.is_empty() {
            self.machine.published(now, 0.5, &offer, Some(&[]));
            return Ok(None);
        }
        if !more {
            self.publish(offer, shutdown).await?;
            return Ok(None);
        }
        let ahead = self.read(now);
        let (published, ahead) = tokio::join!(self.publish(offer, shutdown), ahead);
        Ok(if published? { Some(ahead?) } else { None })
    }

    /// Publishes an offer and commits what became of it. Says whether anything is known about it.
    async fn publish(&mut self, offer: Offer, shutdown: &Shutdown) -> Result<bool> {
        failpoint::hit("relay.after_read_before_publish");
        let began = Instant::now();
        let published = match self.compare().await? {
            Ok(()) => self.publish_holding_leases(&offer).await,
            Err(error) => Err(error),
        };
        failpoint::hit("relay.after_publish_before_cursor");
        let name = self.options.sink.to_string();
        metrics::histogram!("onewrite_relay_publish_seconds", "sink" => name.clone())
            .record(began.elapsed());
        let now = self.store.now().await?;
        let mut settled =
            self.machine.published(now, rand::random(), &offer, published.as_deref().ok());
        if let Err(error) = &published {
            explain(&mut settled.items, error);
        }
        metrics::counter!("onewrite_relay_delivered_total", "sink" => name)
            .increment(settled.settled as u64);
        let parked = settled.alarms.iter().any(|alarm| matches!(alarm, Alarm::Parked(_)));
        // Anything but plain acceptance may be the work of a successor that has the lease by now: its
        // fence has to be heard before more goes out. And a receiver that takes one record at a time
        // because the last claim killed it must not see that record again after the next death.
        let plain = published
            .as_ref()
            .is_ok_and(|receipts| receipts.iter().all(|receipt| *receipt == Receipt::Accepted));
        self.tell(&settled.alarms);
        if self.moved.is_empty() {
            self.moved_since = Instant::now();
        }
        self.moved.extend(settled.items);
        if parked {
            self.store_cursors(Durability::Durable).await?;
        } else if !plain
            || self.moved.len() >= STORE_CURSORS_AT
            || self.moved_since.elapsed() >= STORE_CURSORS_WITHIN
        {
            self.store_cursors(Durability::Relaxed).await?;
        }
        let Err(error) = published else {
            self.failures = 0;
            self.batch = (self.batch * 2).min(self.options.batch_max.max(1));
            return Ok(true);
        };
        self.failures += 1;
        if error.code() == Code::SinkRefused {
            self.batch = (self.batch / 2).max(1);
        }
        metrics::counter!("onewrite_relay_failures_total", "sink" => self.options.sink.to_string())
            .increment(1);
        tracing::warn!(%error, sink = %self.options.sink, failures = self.failures, "a batch was not taken");
        let wait = self.options.backoff.pause(self.failures, rand::random());
        pause(wait.min(self.renew_at.saturating_duration_since(Instant::now())), shutdown).await;
        Ok(false)
    }

    /// Whether a record of `page` belongs to a lane whose cursor is not stored yet.
    fn waits_for_cursor(&self, page: &Page) -> bool {
        let waiting: HashSet<Partition> = self
            .moved
            .iter()
            .filter_map(|item| item.fence.as_ref())
            .map(|fence| fence.partition)
            .collect();
        !waiting.is_empty() && page.records.iter().any(|record| waiting.contains(&record.partition))
    }

    /// Publishes, and renews the leases meanwhile: a slow sink must not cost them.
    async fn publish_holding_leases(&self, offer: &Offer) -> Result<Vec<Receipt>> {
        let publishing = self.sink.publish(&offer.deliveries);
        tokio::pin!(publishing);
        loop {
            tokio::select! {
                receipts = &mut publishing => return receipts,
                () = tokio::time::sleep(self.options.lease_ttl / 3) => {
                    let (scope, owner) = (self.policy_scope(), self.owner.clone());
                    let leases = self.source.partitions;
                    let ttl = self.options.lease_ttl;
                    let claim = Claim { scope, leases, owner, ttl, take: false };
                    if let Err(error) = self.store.claim(claim).await {
                        tracing::warn!(%error, "leases were not renewed during a long publish");
                    }
                }
            }
        }
    }

    async fn store_cursors(&mut self, durability: Durability) -> Result<()> {
        let items = std::mem::take(&mut self.moved);
        if items.is_empty() {
            return Ok(());
        }
        self.commit(items, durability).await?;
        failpoint::hit("relay.after_cursor");
        Ok(())
    }

    /// Reads what is wanted now. Holds nothing of the driver, so that it may go on meanwhile.
    fn read(&self, now: Timestamp) -> impl Future<Output = Result<(Asked, Page)>> + Send + use<> {
        let asked = if self.suspended { Vec::new() } else { self.machine.wanted(now) };
        let read = Read {
            after: asked.clone(),
            limit: self.batch,
            bytes_max: self.options.batch_bytes_max,
            kinds: self.options.kinds.clone(),
        };
        let store = Arc::clone(&self.store);
        async move {
            if asked.is_empty() {
                return Ok((asked, Page::default()));
            }
            let page = store.read(read).await?;
            Ok((asked, page))
        }
    }

    async fn wait(&self, watch: &mut dyn Watch, now: Timestamp, shutdown: &Shutdown) {
        let resume = self.machine.resume_at().filter(|_| !self.suspended);
        let resume = resume.map_or(self.options.poll, |time| time.since(now));
        let renew = self.renew_at.saturating_duration_since(Instant::now());
        let stored = if self.moved.is_empty() { self.options.poll } else { STORE_CURSORS_WITHIN };
        let within =
            self.options.poll.min(resume).min(renew).min(stored).max(Duration::from_millis(1));
        tokio::select! { () = watch.changed(within) => {}, () = shutdown.begun() => {} }
    }

    /// Whether the leases are to be renewed before anything else.
    fn renewal_is_due(&self) -> bool {
        Instant::now() >= self.renew_at
    }

    /// Commits items and tells the machine what became of each.
    async fn commit(&mut self, items: Vec<Item>, durability: Durability) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        let fences: Vec<Option<Fence>> = items.iter().map(|item| item.fence.clone()).collect();
        let outcomes = match self.store.commit(Batch { durability, items }).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                // Nothing is assumed: each lane starts over from what is stored.
                fences.iter().flatten().for_each(|fence| self.machine.lost(fence.partition));
                self.unsure.extend(fences.into_iter().flatten());
                return Err(error);
            }
        };
        for (fence, outcome) in fences.into_iter().zip(outcomes) {
            match (fence.map(|fence| fence.partition), outcome) {
                (Some(partition), Outcome::Applied(_)) => self.machine.committed(partition),
                (Some(partition), Outcome::Fenced) => self.machine.lost(partition),
                (Some(partition), Outcome::Failed(error)) => {
                    tracing::warn!(%error, partition, "a cursor was not moved");
                    self.machine.lost(partition);
                    self.renew_at = Instant::now();
                }
                (None, Outcome::Failed(error)) => return Err(error),
                (None, _) => {}
            }
        }
        Ok(())
    }

    /// Gives everything back, so that others go on at once.
    async fn leave(&mut self) {
        let moved = std::mem::take(&mut self.moved);
        let noted = self.machine.checkpoint();
        let count = self.machine.partitions().count();
        let released = self.machine.give_back(count);
        let op = Op::Leave { scope: self.policy_scope(), owner: self.owner.clone() };
        let items = moved
            .into_iter()
            .chain(noted)
            .chain(released)
            .chain([Item { fence: None, ops: vec![op] }])
            .collect();
        if let Err(error) = self.commit(items, Durability::Relaxed).await {
            tracing::warn!(%error, "leases were not given back; they expire by themselves");
        }
    }
}
