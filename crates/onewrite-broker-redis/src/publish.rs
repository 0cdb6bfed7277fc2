//! One call of publish: window after window, and of each window one script for each lane.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    sync::LazyLock,
};

use onewrite_core::{
    Code, Delivery, Error, Result,
    broker::{self, Receipt},
    inbox::Lane,
};
use onewrite_lanes::url::invalid;
use redis::{Pipeline, RedisResult, Script, Value, cmd};

use crate::{
    connect::Server,
    message,
    stream::{LANES_FIELD, Layout},
};

/// Bytes of events in one window, about: the server works on what one call brought before anything else.
const WINDOW_BYTES_MAX: usize = 4 * 1024 * 1024;

const APPEND: &str = include_str!("append.lua");

/// What the server calls the script once it has seen it.
static APPEND_HASH: LazyLock<String> = LazyLock::new(|| Script::new(APPEND).get_hash().to_owned());

/// Where and how one call publishes.
pub(crate) struct Target<'a> {
    pub(crate) server: &'a Server,
    pub(crate) layout: &'a Layout,
    pub(crate) generations: HashMap<Lane, u64>,
    pub(crate) window: usize,
}

/// One call.
pub(crate) struct Run<'a> {
    target: Target<'a>,
    batch: &'a [Delivery],
    /// What is known of each delivery.
    outcomes: Vec<Option<Receipt>>,
    /// Partitions of which something was not taken: nothing more of them is sent.
    stopped: HashSet<Lane>,
    /// Why nothing more is sent at all.
    trouble: Option<Error>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(target: Target<'a>, batch: &'a [Delivery]) -> Self {
        let outcomes = vec![None; batch.len()];
        Self { target, batch, outcomes, stopped: HashSet::new(), trouble: None }
    }

    /// Publishes the batch.
    pub(crate) async fn run(mut self) -> Result<Vec<Receipt>> {
        let mut first = 0;
        while first < self.batch.len() && self.trouble.is_none() {
            let end = self.window_end(first);
            if let Err(error) = self.send(first..end).await {
                self.trouble = Some(error);
            }
            first = end;
        }
        self.finish()
    }

    fn window_end(&self, first: usize) -> usize {
        let mut bytes_left = WINDOW_BYTES_MAX;
        let fits = |delivery: &&Delivery| {
            let fits = bytes_left > 0;
            bytes_left = bytes_left.saturating_sub(delivery.record.event.size());
            fits
        };
        let window = self.batch[first..].iter().take(self.target.window);
        first + window.take_while(fits).count().max(1)
    }

    /// Sends a window and takes in its answers.
    async fn send(&mut self, window: Range<usize>) -> Result<()> {
        let Target { server, layout, .. } = self.target;
        let mut lanes: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for index in window {
            let delivery = &self.batch[index];
            if self.stopped.is_empty() || !self.stopped.contains(&Lane::of(delivery)) {
                lanes.entry(layout.lane_of(delivery.record.partition)).or_default().push(index);
            }
        }
        let asked = self.question(&lanes);
        let answers: Vec<RedisResult<Value>> =
            server.ask_all("does not say what it stored", &asked).await?;
        // The first two are about the stream itself.
        let mut answers = answers.into_iter().skip(1);
        self.check_lanes(answers.next())?;
        for (indexes, answer) in lanes.into_values().zip(answers) {
            match answer.and_then(|said| Ok(redis::from_redis_value::<Vec<String>>(said)?)) {
                Ok(said) if said.len() == indexes.len() => {
                    for (index, said) in indexes.into_iter().zip(said) {
                        self.take(index, &said);
                    }
                }
                Ok(_) => return Err(unreadable()),
                Err(error) => {
                    // Of one lane, and perhaps of the others as well; what these took still counts.
                    let error = server.failed("takes nothing for its stream", error);
                    self.trouble.get_or_insert(error);
                }
            }
        }
        Ok(())
    }

    /// The script travels with its first call, so that a server that was restarted knows it again.
    fn question(&self, lanes: &BTreeMap<u16, Vec<usize>>) -> Pipeline {
        let layout = self.target.layout;
        let mut asked = Pipeline::with_capacity(lanes.len() + 2);
        asked.ignore_errors();
        asked.cmd("HSETNX").arg(&*layout.stream).arg(LANES_FIELD).arg(layout.lanes);
        asked.cmd("HGET").arg(&*layout.stream).arg(LANES_FIELD);
        for (nth, (lane, indexes)) in lanes.iter().enumerate() {
            let mut append = match nth {
                0 => cmd("EVAL").arg(APPEND).to_owned(),
                _ => cmd("EVALSHA").arg(&*APPEND_HASH).to_owned(),
            };
            append.arg(2).arg(layout.key(*lane)).arg(layout.last_key(*lane));
            for index in indexes {
                let delivery = &self.batch[*index];
                message::encode(delivery, self.generation(delivery), &mut append);
            }
            asked.add_command(append);
        }
        asked
    }

    fn generation(&self, delivery: &Delivery) -> Option<u64> {
        let generations = &self.target.generations;
        if generations.is_empty() { None } else { generations.get(&Lane::of(delivery)).copied() }
    }

    /// Whether the stream still has the lanes that were found when it was opened. It may have been removed,
    /// which made it anew, and even been made by somebody else.
    fn check_lanes(&self, found: Option<RedisResult<Value>>) -> Result<()> {
        let Layout { stream, lanes } = self.target.layout;
        let found = found.unwrap_or(Ok(Value::Nil));
        let found =
            found.map_err(|error| self.target.server.failed("has no such stream", error))?;
        match redis::from_redis_value::<Option<u16>>(found) {
            // Full memory keeps it from being made anew; then nothing is appended either.
            Ok(found) if found.is_none_or(|found| found == *lanes) => Ok(()),
            _ => Err(invalid(format!(
                "stream `{stream}` had {lanes} lanes and was replaced by one with another number; open it again"
            ))),
        }
    }

    fn take(&mut self, index: usize, said: &str) {
        let receipt = match said {
            "accepted" => Receipt::Accepted,
            "duplicate" => Receipt::Duplicate,
            "diverged" => Receipt::Diverged,
            "blocked" => Receipt::Blocked,
            have => match have.parse() {
                Ok(have) => Receipt::Gap { have },
                Err(_) => {
                    self.trouble.get_or_insert_with(unreadable);
                    return;
                }
            },
        };
        if !receipt.is_settled() {
            self.stopped.insert(Lane::of(&self.batch[index]));
        }
        self.outcomes[index] = Some(receipt);
    }

    /// What is known is reported; an error is, only when nothing is known: then nothing is parked, and
    /// the relay sends the batch again after a pause.
    fn finish(self) -> Result<Vec<Receipt>> {
        if let Some(error) = self.trouble
            && self.outcomes.iter().all(Option::is_none)
        {
            return Err(error);
        }
        let mut receipts: Vec<Receipt> =
            self.outcomes.into_iter().map(|known| known.unwrap_or(Receipt::Blocked)).collect();
        broker::keep_prefix(self.batch, &mut receipts);
        Ok(receipts)
    }
}

fn unreadable() -> Error {
    Error::new(Code::SinkUnreachable, "an answer of the Redis server cannot be read")
}
