//! Reading one lane, on a connection of its own: the server answers when something comes.
//!
//! There is one question at a time. It waits in here until it is answered, whoever stops listening
//! meanwhile: an answer that nobody takes would be entries that nobody holds.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use onewrite_core::{BoxFuture, Code, Error, Result};
use onewrite_lanes::{LaneReader, Message};
use redis::{Cmd, RedisResult, Value, aio::MultiplexedConnection, cmd};
use tokio::time::Instant;

use crate::{
    connect::Server,
    held::Held,
    lanes::RedisLanes,
    message::{self, Entry, EntryId},
};

/// How long the server waits for an entry before it says that there is none: the longest that handing
/// over a lane waits.
const BLOCK: Duration = Duration::from_millis(500);

/// Entries asked for at once, at most.
const COUNT_MAX: usize = 500;

/// How often acknowledged entries are removed.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// How often a full lane is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const TRIM: &str = include_str!("trim.lua");

/// Where a search for entries that nobody holds begins and ends.
const START: &str = "0-0";

/// What a question was about.
#[derive(Debug, Clone, Copy)]
enum About {
    Held,
    New,
    Trim,
}

type Question = BoxFuture<'static, (About, RedisResult<Value>)>;

/// Reads one lane.
pub(crate) struct RedisReader {
    server: Arc<Server>,
    line: MultiplexedConnection,
    key: String,
    group: String,
    held: Arc<Held>,
    pending_max: usize,
    ack_wait: Duration,
    question: Option<Question>,
    entries: VecDeque<Entry>,
    /// From where on entries are taken over that the group has read and nobody acknowledged.
    claim_from: Option<String>,
    /// For how long nothing must have been heard of them: at first they are taken whoever holds them.
    claim_idle: Duration,
    claim_at: Instant,
    trim_at: Instant,
    stopping: bool,
}

impl RedisReader {
    /// Connects; nothing is asked for before [`LaneReader::next`].
    ///
    /// # Errors
    /// As [`Server::connect`].
    pub(crate) async fn open(lanes: &RedisLanes, lane: u16, held: Arc<Held>) -> Result<Self> {
        let now = Instant::now();
        Ok(Self {
            line: lanes.server.line(BLOCK).await?,
            server: Arc::clone(&lanes.server),
            key: lanes.layout.key(lane),
            group: lanes.group.to_string(),
            held,
            pending_max: lanes.pending_max,
            ack_wait: lanes.ack_wait,
            question: None,
            entries: VecDeque::new(),
            claim_from: Some(START.to_owned()),
            claim_idle: Duration::ZERO,
            claim_at: now + lanes.ack_wait,
            trim_at: now,
            stopping: false,
        })
    }

    /// What is asked for next; nothing while the lane is full.
    fn ask(&mut self) -> Option<(About, Cmd)> {
        let now = Instant::now();
        if self.claim_from.is_none() && self.claim_at <= now {
            // What another process read before it lost the lane, or an acknowledgement that was lost.
            (self.claim_from, self.claim_idle) = (Some(START.to_owned()), self.ack_wait);
        }
        if let Some(from) = &self.claim_from {
            let mut claim = cmd("XAUTOCLAIM");
            claim.arg(&self.key).arg(&self.group).arg(&self.group);
            claim.arg(millis(self.claim_idle)).arg(from).arg("COUNT").arg(COUNT_MAX);
            return Some((About::Held, claim));
        }
        if self.trim_at <= now && self.held.take_acknowledged() {
            self.trim_at = now + TRIM_EVERY;
            return Some((About::Trim, cmd("EVAL").arg(TRIM).arg(1).arg(&self.key).to_owned()));
        }
        let room = self.held.room(self.pending_max).min(COUNT_MAX);
        if room == 0 {
            return None;
        }
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.group).arg(&self.group).arg("COUNT").arg(room);
        read.arg("BLOCK").arg(millis(BLOCK)).arg("STREAMS").arg(&self.key).arg(">");
        Some((About::New, read))
    }

    fn put(&self, about: About, asked: Cmd) -> Question {
        let mut line = self.line.clone();
        Box::pin(async move { (about, asked.query_async(&mut line).await) })
    }

    /// Takes an answer in.
    fn take(&mut self, about: About, answer: RedisResult<Value>) -> Result<()> {
        let answer = match (about, answer) {
            (_, Ok(answer)) => answer,
            (About::Trim, Err(error)) if !error.is_unrecoverable_error() => {
                tracing::warn!(%error, key = self.key, "acknowledged entries cannot be removed");
                return Ok(());
            }
            (_, Err(error)) => {
                return Err(self.server.failed("does not let a lane be read", error));
            }
        };
        let entries = match about {
            About::Trim => return Ok(()),
            About::Held => self.claimed(answer)?,
            About::New => {
                let read: Option<Vec<(String, Vec<Entry>)>> = parsed(answer)?;
                read.into_iter().flatten().flat_map(|(_, entries)| entries).collect()
            }
        };
        entries.iter().for_each(|entry| self.held.add(entry.id));
        self.entries.extend(entries);
        Ok(())
    }

    fn claimed(&mut self, answer: Value) -> Result<Vec<Entry>> {
        let (next, entries, _gone): (String, Vec<Entry>, Vec<String>) = parsed(answer)?;
        if !entries.is_empty() {
            tracing::debug!(key = self.key, count = entries.len(), "delivered again");
        }
        let is_over = next == START;
        if is_over {
            self.claim_at = Instant::now() + self.ack_wait / 2;
        }
        self.claim_from = Some(next).filter(|_| !is_over);
        Ok(entries)
    }

    fn message(entry: Entry) -> Message<EntryId> {
        let Entry { id, fields } = entry;
        Message { place: id.place(), token: id, delivery: message::decode(fields) }
    }
}

impl LaneReader for RedisReader {
    type Token = EntryId;

    async fn next(&mut self) -> Result<Message<EntryId>> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                return Ok(Self::message(entry));
            }
            if self.question.is_none() && !self.stopping {
                self.question = self.ask().map(|(about, asked)| self.put(about, asked));
            }
            match &mut self.question {
                Some(question) => {
                    let (about, answer) = question.await;
                    self.question = None;
                    self.take(about, answer)?;
                }
                None if self.stopping => std::future::pending().await,
                // Full: until something is acknowledged, or it is time to look for what was left.
                None => drop(tokio::time::timeout(LOOK_EVERY, self.held.changed()).await),
            }
        }
    }

    fn ready(&mut self) -> Option<Result<Message<EntryId>>> {
        Some(Ok(Self::message(self.entries.pop_front()?)))
    }

    fn stop(&mut self) -> bool {
        self.stopping = true;
        self.question.is_none() && self.entries.is_empty()
    }
}

fn parsed<T: redis::FromRedisValue>(answer: Value) -> Result<T> {
    redis::from_redis_value(answer).map_err(|error| {
        let context = "entries of a lane cannot be read";
        Error::new(Code::SinkUnreachable, context).with_source(error)
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
