//! What users and operators of the simulated world do.

use std::collections::HashMap;

use onewrite_core::{Record, Text, parking};
use rand::Rng;

use super::{
    inbox::{Verdict, id},
    world::{Event, HEAL, MS, World},
};

/// How a record behaves until some time, or until an operator mends it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Temper {
    verdict: Verdict,
    until: i64,
}

impl World {
    pub(super) fn emit(&mut self) {
        if self.emitted >= self.options.records {
            if self.now <= HEAL {
                return self.after(HEAL - self.now + 1, Event::Emit);
            }
            // One more for each partition: a loss at the end of a stream shows with the next record.
            let mut missing: Vec<u16> = (0..self.store.source.partitions).collect();
            for key in (0..).map(|n| format!("flush-{n}")) {
                let record = self.commit(&key);
                missing.retain(|partition| *partition != record.partition);
                if missing.is_empty() {
                    break;
                }
            }
            self.emitted += 1;
            return;
        }
        self.emitted += 1;
        let key = format!("k{}", self.below(self.keys));
        let record = self.commit(&key);
        let (verdict, until) = match self.below(100) {
            0..12 => (Verdict::Refuse, self.now + self.below(150) as i64 * MS),
            12..16 => (Verdict::Refuse, i64::MAX),
            16..18 => (Verdict::Kill, i64::MAX),
            18..22 => (Verdict::Kill, self.now + self.below(60) as i64 * MS),
            _ => (Verdict::Fine, 0),
        };
        if verdict != Verdict::Fine {
            self.tempers.insert(id(&record), Temper { verdict, until });
        }
        self.note(|| format!("committed {key}/{} {verdict:?} until {until}", record.sequence));
        let pause = self.below(2 * HEAL as u64 * 8 / 10 / u64::from(self.options.records));
        self.after(1 + pause as i64, Event::Emit);
    }

    fn commit(&mut self, key: &str) -> Record {
        let holes = self.below(8).saturating_sub(5);
        let record = self.store.emit(self.now, key, holes);
        self.committed.push(key, &*id(&record));
        record
    }

    /// An operator asks for retries: in hope while faults last, with the cause mended afterwards.
    pub(super) fn operate(&mut self) {
        let healed = self.now > HEAL;
        let store =
            self.store.parked.values_mut().map(|parked| {
                (&mut parked.request, parked.queue.values().map(id).collect::<Vec<_>>())
            });
        let mut mended = Vec::new();
        for (request, ids) in store {
            if healed || self.rng.random_bool(0.5) {
                *request = parking::Request::Retry;
                mended.extend(ids);
            }
        }
        for queue in self.inbox.parked.values_mut() {
            if healed || self.rng.random_bool(0.5) {
                queue.retry = true;
                mended.extend(queue.records.iter().map(id));
            }
        }
        for id in mended {
            if healed || self.rng.random_bool(0.3) {
                self.tempers.remove(&id);
            }
        }
        self.after(40 * MS, Event::Operator);
    }
}

/// What the handler does with `record` now.
pub(super) fn verdict(tempers: &HashMap<Text, Temper>, now: i64, record: &Record) -> Verdict {
    let temper = record.event.id.as_ref().and_then(|id| tempers.get(id));
    temper.filter(|temper| now < temper.until).map_or(Verdict::Fine, |temper| temper.verdict)
}
