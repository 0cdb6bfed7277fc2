//! The relay driver: reads the log, publishes to one sink, moves the cursors.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use onewrite_core::{
    Code, Partition, Result, Sequence, Text, Timestamp,
    broker::{Receipt, Sink},
    failpoint,
    lease::{Fence, Scope},
    relay::{Alarm, Offer, Policy, Relay as Machine},
    retry::Backoff,
    sabotage::{Defect, Sabotage},
    store::{Batch, Claim, Durability, From, Item, Op, Outcome, Page, Read, Store, Watch},
};

use crate::{Shutdown, sweeper::pause};

/// How far a sink may fall behind before it is suspended.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// The age of its oldest record not settled.
    pub age: Duration,
    /// The bytes of data not settled.
    pub bytes: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { age: Duration::from_secs(7 * 24 * 60 * 60), bytes: 8 * 1024 * 1024 * 1024 }
    }
}

/// How a relay works.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// The sink's name: names its cursors and leases.
    pub sink: Text,
    /// Only these event types; empty for all.
    pub kinds: Vec<Text>,
    /// Where a new sink starts.
    pub from: From,
    /// Records in one batch at most.
    pub batch_max: usize,
    /// Bytes of events in one batch at most (one larger event still goes, alone).
    pub batch_bytes_max: usize,
    /// How long leases hold without renewal: the longest a dead relay's partitions wait.
    pub lease_ttl: Duration,
    /// The longest wait between two looks at the log, should a wake-up get lost.
    pub poll: Duration,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// A record refused so often parks its key.
    pub attempts_max: u32,
    /// How far the sink may fall behind.
    pub budget: Budget,
    /// Defects planted by tests.
    pub sabotage: Sabotage,
}

impl RelayOptions {
    /// The defaults for a sink of this name: all types, from the beginning, 1,000 records or 1 MiB at
    /// a time, leases of ten seconds.
    pub fn new(sink: impl Into<Text>) -> Self {
        Self {
            sink: sink.into(),
            kinds: Vec::new(),
            from: From::Beginning,
            batch_max: 1_000,
            batch_bytes_max: 1024 * 1024,
            lease_ttl: Duration::from_secs(10),
            poll: Duration::from_millis(200),
            backoff: Backoff::default(),
            attempts_max: 8,
            budget: Budget::default(),
            sabotage: Sabotage::from_env(),
        }
    }
}

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

pub(crate) struct Driver {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) machine: Machine,
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
}

fn machine(options: &RelayOptions, store: &dyn Store) -> Machine {
    let policy = Policy {
        sink: options.sink.clone(),
        backoff: options.backoff,
        attempts_max: options.attempts_max,
        sabotage: options.sabotage,
    };
    Machine::new(policy, store.source())
}

type Asked = Vec<(Partition, Sequence)>;

impl Driver {
    fn new(relay: Relay) -> Self {
        let Relay { store, sink, options, owner } = relay;
        let machine = machine(&options, &*store);
        let batch = options.batch_max.max(1);
        Self {
            store,
            sink,
            machine,
            options,
            owner,
            renew_at: Instant::now(),
            suspended: false,
            batch,
            failures: 0,
            unsure: Vec::new(),
        }
    }

    pub(crate) fn policy_scope(&self) -> Scope {
        format!("relay/{}", self.options.sink).into()
    }

    async fn run(&mut self, shutdown: &Shutdown) -> Result<()> {
        // What was in flight when an error ended the last run is read again from the stored cursors.
        self.machine = machine(&self.options, &*self.store);
        let op = Op::Subscribe { sink: self.options.sink.clone(), from: self.options.from };
        self.commit(vec![Item { fence: None, ops: vec![op] }], Durability::Durable).await?;
        let mut watch = self.store.watch();
        let mut ahead: Option<(Asked, Page)> = None;
        self.renew_at = Instant::now();
        while !shutdown.has_begun() {
            if self.renewal_is_due() {
                self.renew().await?;
            }
            let now = self.store.now().await?;
            let (asked, page) = match ahead.take() {
                Some(read) => read,
                None => self.read(now).await?,
            };
            let more = page.more;
            let offer = self.machine.offer(&asked, page);
            if offer.is_empty() {
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
        self.commit(parks, Durability::Durable).await?;
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
        let published = self.sink.publish(&offer.deliveries).await;
        failpoint::hit("relay.after_publish_before_cursor");
        let name = self.options.sink.to_string();
        metrics::histogram!("onewrite_relay_publish_seconds", "sink" => name.clone())
            .record(began.elapsed());
        let now = self.store.now().await?;
        let settled =
            self.machine.published(now, rand::random(), &offer, published.as_deref().ok());
        metrics::counter!("onewrite_relay_delivered_total", "sink" => name)
            .increment(settled.settled as u64);
        let parked = settled.alarms.iter().any(|alarm| matches!(alarm, Alarm::Parked(_)));
        self.tell(&settled.alarms);
        let durability = if parked { Durability::Durable } else { Durability::Relaxed };
        self.commit(settled.items, durability).await?;
        failpoint::hit("relay.after_cursor");
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
        let resume = self.machine.resume_at().map_or(self.options.poll, |time| time.since(now));
        let renew = self.renew_at.saturating_duration_since(Instant::now());
        let within = self.options.poll.min(resume).min(renew).max(Duration::from_millis(1));
        tokio::select! { () = watch.changed(within) => {}, () = shutdown.begun() => {} }
    }

    /// Whether the leases are to be renewed before anything else.
    pub(crate) fn renewal_is_due(&self) -> bool {
        Instant::now() >= self.renew_at
    }

    /// Renews the leases and does what is due now and then.
    async fn renew(&mut self) -> Result<()> {
        self.renew_at = Instant::now() + self.options.lease_ttl / 3;
        let (scope, owner) = (self.policy_scope(), self.owner.clone());
        self.release_unsure().await?;
        let claim = Claim { scope, owner, ttl: self.options.lease_ttl, take: true };
        let claimed = self.store.claim(claim).await?;
        if !self.machine.knows(&claimed.held) {
            let cursors = self.store.cursors(&self.options.sink).await?;
            let new = self.machine.leased(&claimed.held, &cursors);
            self.compare(&new).await?;
        } else {
            self.machine.leased(&claimed.held, &[]);
        }
        for (partition, sequence) in self.store.trimmed().await? {
            self.machine.trimmed(partition, sequence);
        }
        let noted = self.machine.checkpoint();
        self.commit(noted, Durability::Relaxed).await?;
        if claimed.give_back > 0 {
            let released = self.machine.give_back(claimed.give_back);
            self.commit(released, Durability::Relaxed).await?;
        }
        self.keep_budget().await?;
        self.redrive().await
    }

    /// Compares the receiver's marks with the source: one that knows more than its source must not be
    /// served, its marks would swallow new records.
    async fn compare(&mut self, new: &[Partition]) -> Result<()> {
        let source = self.store.source();
        let Some((_, life)) = source.incarnations.last().copied() else { return Ok(()) };
        let marks = match self.sink.marks(&source.name, life).await {
            Ok(Some(marks)) => marks,
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::debug!(%error, "the receiver's marks cannot be read yet");
                return Ok(());
            }
        };
        let head = self.store.head().await?;
        for mark in marks.iter().filter(|mark| new.contains(&mark.partition)) {
            let id = self.store.id_at(mark.partition, mark.sequence).await?;
            let alarm = self.machine.compare(
                mark.partition,
                (mark.sequence, &mark.last_id),
                head,
                id.as_deref(),
            );
            self.tell(alarm.as_slice());
        }
        Ok(())
    }

    /// Suspends the sink when it is over its budget.
    async fn keep_budget(&mut self) -> Result<()> {
        let now = self.store.now().await?;
        let sinks = self.store.sinks().await?;
        let Some(state) = sinks.iter().find(|state| state.name == self.options.sink) else {
            return Ok(());
        };
        self.suspended = state.suspended.is_some();
        let age = state.oldest.map_or(Duration::ZERO, |oldest| now.since(oldest));
        let name = self.options.sink.to_string();
        metrics::gauge!("onewrite_sink_lag_records", "sink" => name.clone())
            .set(state.behind as f64);
        metrics::gauge!("onewrite_sink_lag_bytes", "sink" => name.clone())
            .set(state.bytes_behind as f64);
        metrics::gauge!("onewrite_sink_lag_seconds", "sink" => name).set(age.as_secs_f64());
        let budget = self.options.budget;
        if self.suspended || (age <= budget.age && state.bytes_behind <= budget.bytes) {
            return Ok(());
        }
        let reason = format!(
            "{} records wait, the oldest for {} s, {} bytes",
            state.behind,
            age.as_secs(),
            state.bytes_behind
        );
        tracing::error!(sink = %self.options.sink, "OW0020: the sink is over its budget and is suspended: {reason}");
        let op = Op::Suspend { sink: self.options.sink.clone(), reason: Some(reason.into()) };
        self.suspended = true;
        self.commit(vec![Item { fence: None, ops: vec![op] }], Durability::Durable).await
    }

    fn tell(&self, alarms: &[Alarm]) {
        let sink = &self.options.sink;
        for alarm in alarms {
            metrics::counter!("onewrite_relay_alarms_total", "sink" => sink.to_string())
                .increment(1);
            match alarm {
                Alarm::SinkAhead(partition) => tracing::error!(
                    %sink, partition, "OW0013: the receiver knows records that this source does not have; the partition stops"
                ),
                Alarm::FellBack(partition) => tracing::warn!(
                    %sink, partition, "OW0017: the receiver fell back behind what it had accepted; its records are sent again"
                ),
                Alarm::Parked(_) => {
                    tracing::error!(%sink, "OW0019: an event was refused too often; its key is parked")
                }
            }
        }
    }

    /// Gives leases back whose last write has an unknown outcome. Taken again they have a new epoch,
    /// which refuses that write, should it still be on its way.
    async fn release_unsure(&mut self) -> Result<()> {
        let release = self
            .unsure
            .drain(..)
            .map(|fence| Item { fence: Some(fence.clone()), ops: vec![Op::Release(fence)] })
            .collect();
        self.commit(release, Durability::Durable).await
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
        let noted = self.machine.checkpoint();
        let count = self.machine.partitions().count();
        let released = self.machine.give_back(count);
        let op = Op::Leave { scope: self.policy_scope(), owner: self.owner.clone() };
        let items = noted
            .into_iter()
            .chain(released)
            .chain([Item { fence: None, ops: vec![op] }])
            .collect();
        if let Err(error) = self.commit(items, Durability::Relaxed).await {
            tracing::warn!(%error, "leases were not given back; they expire by themselves");
        }
    }
}
