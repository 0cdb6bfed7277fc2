//! The store of the simulated world: log, cursors, leases and parked keys behind one door.

use std::collections::BTreeMap;

use onewrite_core::{
    Code, Error, Event, Partition, Record, Sequence, Text, Timestamp,
    lease::{Epoch, Fence, share},
    parking::Request,
    position::{START, Source, partition_of},
    sabotage::{Defect, Sabotage},
    store::{Claimed, Cursor, Item, Op, Outcome, Page},
};

/// The one sink of the simulated world.
pub(super) const SINK: &str = "sink";
/// How long a lease holds, in microseconds.
pub(super) const LEASE: i64 = 80_000;

#[derive(Debug, Default)]
struct Lease {
    owner: Option<u64>,
    epoch: Epoch,
    expires_at: i64,
}

#[derive(Debug)]
pub(super) struct Parked {
    pub(super) partition: Partition,
    pub(super) request: Request,
    pub(super) queue: BTreeMap<Sequence, Record>,
}

#[derive(Debug)]
pub(super) struct Store {
    pub(super) source: Source,
    sabotage: Sabotage,
    log: BTreeMap<Partition, BTreeMap<Sequence, Record>>,
    /// The highest sequence deleted, for each partition.
    pub(super) deleted: BTreeMap<Partition, Sequence>,
    drawn: Sequence,
    cursors: BTreeMap<Partition, Cursor>,
    leases: BTreeMap<Partition, Lease>,
    /// When each member was seen last.
    members: BTreeMap<u64, i64>,
    pub(super) parked: BTreeMap<Text, Parked>,
}

impl Store {
    pub(super) fn new(source: Source, sabotage: Sabotage) -> Self {
        let cursor = |partition| Cursor {
            partition,
            sequence: START,
            chain: START,
            attempts: 0,
            retry_at: None,
            reason: None,
            parked: Vec::new(),
        };
        let partitions = 0..source.partitions;
        Self {
            sabotage,
            log: partitions.clone().map(|partition| (partition, BTreeMap::new())).collect(),
            deleted: BTreeMap::new(),
            drawn: START,
            cursors: partitions.clone().map(|partition| (partition, cursor(partition))).collect(),
            leases: partitions.map(|partition| (partition, Lease::default())).collect(),
            members: BTreeMap::new(),
            parked: BTreeMap::new(),
            source,
        }
    }

    /// Commits an event of `key` after `holes` rolled-back numbers.
    pub(super) fn emit(&mut self, now: i64, key: &str, holes: u64) -> Record {
        self.drawn += 1 + holes;
        let mut event = Event::new("Happened", "Thing", key.to_owned());
        event.id = Some(format!("e{}", self.drawn).into());
        event.time = Some(Timestamp(now));
        let record = Record {
            source: self.source.name.clone(),
            incarnation: self.source.incarnation_at(self.drawn),
            partition: partition_of(key, self.source.partitions),
            sequence: self.drawn,
            event,
        };
        self.log.entry(record.partition).or_default().insert(self.drawn, record.clone());
        record
    }

    pub(super) fn claim(&mut self, now: i64, owner: u64) -> Claimed {
        self.members.insert(owner, now);
        self.members.retain(|_, seen| now - *seen <= LEASE);
        let mut held = self.leases.values().filter(|lease| lease.owner == Some(owner)).count();
        let wanted = share(self.leases.len(), self.members.len(), held, 0);
        let mut take = wanted.take;
        let mut fences = Vec::new();
        for (partition, lease) in &mut self.leases {
            let own = lease.owner == Some(owner);
            if !own && take > 0 && (lease.owner.is_none() || lease.expires_at < now) {
                take -= 1;
                held += 1;
                lease.owner = Some(owner);
                lease.epoch += 1;
            } else if !own {
                continue;
            }
            lease.expires_at = now + LEASE;
            fences.push(fence(*partition, lease.epoch));
        }
        Claimed {
            held: fences,
            give_back: share(self.leases.len(), self.members.len(), held, 0).give_back,
        }
    }

    pub(super) fn cursors(&self) -> Vec<Cursor> {
        let parked =
            |partition| self.parked.iter().filter(move |(_, parked)| parked.partition == partition);
        self.cursors
            .values()
            .map(|cursor| Cursor {
                parked: parked(cursor.partition).map(|(key, _)| key.clone()).collect(),
                ..cursor.clone()
            })
            .collect()
    }

    pub(super) fn read(&self, after: &[(Partition, Sequence)], limit: usize) -> Page {
        let mut page = Page::default();
        for (partition, after) in after {
            let Some(log) = self.log.get(partition) else { continue };
            let room = limit - page.records.len();
            let behind = log.range(after + 1..).map(|(_, record)| record);
            page.records.extend(behind.clone().take(room).cloned());
            let cut = behind.count() > room;
            let last = page.records.last().filter(|last| cut && last.partition == *partition);
            let upto = if cut { last.map_or(*after, |last| last.sequence) } else { self.drawn };
            page.upto.push((*partition, upto));
            page.more |= cut;
        }
        page
    }

    /// Each item applies as a whole or not at all: its operations are checked before the first one
    /// changes anything.
    pub(super) fn commit(&mut self, items: &[Item]) -> Vec<Outcome> {
        items.iter().map(|item| self.apply(item)).collect()
    }

    fn apply(&mut self, item: &Item) -> Outcome {
        let old = item.fence.as_ref().is_some_and(|fence| {
            self.leases.get(&fence.partition).is_none_or(|lease| fence.epoch < lease.epoch)
        });
        if old && !self.sabotage.has(Defect::NoFence) {
            return Outcome::Fenced;
        }
        for op in &item.ops {
            if let Op::Park { partition, sequence, .. } = op
                && self.record(*partition, *sequence).is_none()
            {
                let why = "the record to park is not in the log";
                return Outcome::Failed(Error::new(Code::InvalidEvent, why));
            }
        }
        Outcome::Applied(item.ops.iter().map(|op| self.write(op)).sum())
    }

    fn record(&self, partition: Partition, sequence: Sequence) -> Option<&Record> {
        self.log.get(&partition).and_then(|log| log.get(&sequence))
    }

    fn write(&mut self, op: &Op) -> u64 {
        match op {
            Op::MoveCursor { partition, sequence, chain, .. } => {
                self.cursors.entry(*partition).and_modify(|cursor| {
                    (cursor.sequence, cursor.chain) = (*sequence, *chain);
                    (cursor.attempts, cursor.retry_at, cursor.reason) = (0, None, None);
                });
            }
            Op::FailCursor { partition, attempts, retry_at, reason, .. } => {
                self.cursors.entry(*partition).and_modify(|cursor| {
                    (cursor.attempts, cursor.retry_at) = (*attempts, Some(*retry_at));
                    cursor.reason = Some(reason.clone());
                });
            }
            Op::Park { partition, sequence, .. } => {
                let Some(record) = self.record(*partition, *sequence).cloned() else { return 0 };
                let key = record.event.order_key().clone();
                let parked = self.parked.entry(key).or_insert_with(|| Parked {
                    partition: *partition,
                    request: Request::Wait,
                    queue: BTreeMap::new(),
                });
                parked.queue.insert(*sequence, record);
            }
            Op::Unpark { key, position, .. } => {
                let Some(parked) = self.parked.get_mut(key) else { return 0 };
                parked.queue.remove(position);
                if parked.queue.is_empty() {
                    self.parked.remove(key);
                }
            }
            Op::Request { key, request, .. } => {
                let Some(parked) = self.parked.get_mut(key) else { return 0 };
                parked.request = *request;
            }
            Op::Release(fence) => {
                let Some(lease) = self.leases.get_mut(&fence.partition) else { return 0 };
                if lease.epoch == fence.epoch {
                    lease.owner = None;
                }
            }
            _ => return 0,
        }
        1
    }

    /// Deletes what the sink has settled.
    pub(super) fn trim(&mut self) {
        for (partition, log) in &mut self.log {
            let Some(cursor) = self.cursors.get(partition) else { continue };
            let kept = log.split_off(&(cursor.sequence + 1));
            if let Some(last) = log.last_key_value() {
                self.deleted.insert(*partition, *last.0);
            }
            *log = kept;
        }
    }

    /// Whether every record is settled and no key is parked.
    pub(super) fn is_settled(&self) -> bool {
        let behind = |cursor: &Cursor| {
            let log = self.log.get(&cursor.partition);
            log.is_some_and(|log| log.range(cursor.sequence + 1..).next().is_some())
        };
        self.parked.is_empty() && !self.cursors.values().any(behind)
    }
}

pub(super) fn fence(partition: Partition, epoch: Epoch) -> Fence {
    Fence { scope: format!("relay/{SINK}").into(), partition, epoch }
}
