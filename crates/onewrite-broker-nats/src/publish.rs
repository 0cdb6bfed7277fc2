//! One call of publish: messages go out in a window, confirmations come back in any order.
//!
//! Each message names a subject of this call's inbox to be answered on, with its place in the batch. The
//! client's own way to publish keeps a future, a permit and a timer for each message, which costs more
//! than the message.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_nats::{
    Client, HeaderMap, Message, StatusCode, Subscriber, connection::State, jetstream::ErrorCode,
};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use onewrite_core::{
    Code, Delivery, Error, Result, Text,
    broker::{self, Receipt},
    inbox::Lane,
};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{message, stream::Layout};

/// Messages made before they are sent: the connection is woken less often.
const CHUNK: usize = 64;

/// After a stream was full, so many windows of messages are sent with care.
const CAREFUL_FOR: usize = 10;

/// How often a silent connection is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where confirmations arrive. Used again by later calls; late answers to earlier ones are passed over.
pub(crate) struct Inbox {
    prefix: String,
    replies: Subscriber,
    run: u64,
}

impl Inbox {
    pub(crate) async fn open(client: &Client) -> Result<Self> {
        let prefix = format!("{}.", client.new_inbox());
        let replies = client.subscribe(format!("{prefix}*")).await.map_err(|error| {
            Error::new(Code::SinkUnreachable, "confirmations cannot be subscribed to")
                .with_source(error)
        })?;
        Ok(Self { prefix, replies, run: 0 })
    }

    fn reply_to(&self, index: usize) -> String {
        format!("{}{:x}-{index:x}", self.prefix, self.run)
    }

    /// The place in this call's batch that an answer is for.
    fn index_of(&self, subject: &str) -> Option<usize> {
        let (run, index) = subject.strip_prefix(&self.prefix)?.split_once('-')?;
        let is_ours = u64::from_str_radix(run, 16) == Ok(self.run);
        usize::from_str_radix(index, 16).ok().filter(|_| is_ours)
    }
}

/// Where and how one call publishes.
pub(crate) struct Target<'a> {
    pub(crate) client: &'a Client,
    pub(crate) layout: &'a Layout,
    pub(crate) generations: HashMap<Lane, u64>,
    pub(crate) window: usize,
    /// How many more messages to send with care, one at a time for each partition. A full stream that gets
    /// some room takes what comes next: with many messages on their way that is not the one it refused
    /// before, but its successors, which no receiver can take, and which fill it up again.
    pub(crate) careful: &'a AtomicUsize,
    pub(crate) timeout: Duration,
}

/// The server's answer to a published message.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    duplicate: bool,
    #[serde(default)]
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// One call.
pub(crate) struct Run<'a> {
    target: Target<'a>,
    inbox: &'a mut Inbox,
    batch: &'a [Delivery],
    /// What is known of each delivery.
    outcomes: Vec<Option<Receipt>>,
    in_flight: usize,
    /// Partitions with a message on its way, of those sent with care.
    busy: HashSet<Lane>,
    /// Partitions of which something was not taken: nothing more of them is sent.
    stopped: HashSet<Lane>,
    /// Why nothing more is sent at all.
    trouble: Option<Error>,
    /// No answer can come any more for what is in flight.
    lost: bool,
    connects: u64,
    heard_at: Instant,
}

impl<'a> Run<'a> {
    pub(crate) fn new(target: Target<'a>, inbox: &'a mut Inbox, batch: &'a [Delivery]) -> Self {
        inbox.run += 1;
        Self {
            connects: target.client.statistics().connects.load(Ordering::Relaxed),
            target,
            inbox,
            batch,
            outcomes: vec![None; batch.len()],
            in_flight: 0,
            busy: HashSet::new(),
            stopped: HashSet::new(),
            trouble: None,
            lost: false,
            heard_at: Instant::now(),
        }
    }

    /// Publishes the batch.
    pub(crate) async fn run(mut self) -> Result<Vec<Receipt>> {
        self.look();
        let mut first = 0;
        while first < self.batch.len() && self.trouble.is_none() {
            let careful = self.target.careful.load(Ordering::Relaxed) > 0;
            let chunk = if careful { 1 } else { CHUNK.min(self.target.window) };
            let waits = careful && self.busy.contains(&Lane::of(&self.batch[first]));
            if (waits || self.in_flight + chunk > self.target.window) && !self.lost {
                self.hear().await;
                continue;
            }
            let end = (first + chunk).min(self.batch.len());
            self.send(first..end).await;
            self.hear_ready();
            first = end;
        }
        while self.in_flight > 0 && !self.lost {
            self.hear().await;
        }
        self.finish()
    }

    async fn send(&mut self, indexes: std::ops::Range<usize>) {
        if self.trouble.is_some() {
            return;
        }
        let mut made = Vec::with_capacity(indexes.len());
        for index in indexes {
            if !self.stopped.is_empty() && self.stopped.contains(&Lane::of(&self.batch[index])) {
                continue;
            }
            match self.message(index) {
                Ok((headers, payload)) => made.push((index, headers, payload)),
                Err(reason) => self.stop(index, Some(Receipt::Refused(reason))),
            }
        }
        self.in_flight += made.len();
        self.take_care(&made);
        let sending = async {
            for (index, headers, payload) in made {
                let subject = self.target.layout.subject(self.batch[index].record.partition);
                let reply = self.inbox.reply_to(index);
                let client = self.target.client;
                client.publish_with_reply_and_headers(subject, reply, headers, payload).await?;
            }
            Ok::<_, async_nats::PublishError>(())
        };
        // Without a connection the client keeps some messages and then lets nobody in.
        match tokio::time::timeout(self.target.timeout, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.lose("cannot take a message", Some(error)),
            Err(_) => self.lose("did not take a message in time", None),
        }
    }

    /// Notes what is on its way, while care is due.
    fn take_care(&mut self, made: &[(usize, HeaderMap, Bytes)]) {
        let careful = self.target.careful.load(Ordering::Relaxed);
        if careful == 0 {
            return;
        }
        self.target.careful.store(careful.saturating_sub(made.len()), Ordering::Relaxed);
        self.busy.extend(made.iter().map(|(index, _, _)| Lane::of(&self.batch[*index])));
    }

    fn message(&self, index: usize) -> Result<(HeaderMap, Bytes), Text> {
        let delivery = &self.batch[index];
        let generations = &self.target.generations;
        let generation = match generations.is_empty() {
            true => None,
            false => generations.get(&Lane::of(delivery)).copied(),
        };
        let id = message::id(delivery, generation, rand::random);
        let (headers, payload) =
            message::encode(delivery, id).map_err(|error| Text::from(error.to_string()))?;
        let bytes = message::wire_bytes(&headers) + payload.len();
        let bytes_max = self.target.client.max_payload();
        let own = self.target.layout.message_bytes_max;
        let bytes_max = own.map_or(bytes_max, |own| own.min(bytes_max));
        if bytes > bytes_max {
            return Err(format!(
                "OW0005: the event takes {bytes} bytes with its headers and the NATS server or stream accepts {bytes_max}; raise `max_payload`, or emit a reference"
            )
            .into());
        }
        Ok((headers, payload))
    }

    /// Takes in the next answer, or finds that none will come.
    async fn hear(&mut self) {
        if self.hear_ready() {
            return;
        }
        match tokio::time::timeout(LOOK_EVERY, self.inbox.replies.next()).await {
            Ok(Some(answer)) => self.take(&answer),
            Ok(None) => self.lose("is not connected any more", None),
            Err(_) => self.look(),
        }
    }

    /// Takes in the answers that are there. Says whether there were any.
    fn hear_ready(&mut self) -> bool {
        let mut any = false;
        while let Some(Some(answer)) = self.inbox.replies.next().now_or_never() {
            self.take(&answer);
            any = true;
        }
        if any {
            self.heard_at = Instant::now();
        }
        any
    }

    /// Looks whether answers can still come.
    fn look(&mut self) {
        let client = self.target.client;
        let connects = client.statistics().connects.load(Ordering::Relaxed);
        if client.connection_state() != State::Connected {
            self.lose("is not connected", None);
        } else if connects != self.connects {
            self.lose("was disconnected meanwhile", None);
        } else if self.heard_at.elapsed() >= self.target.timeout {
            self.lose("confirms nothing", None);
        }
    }

    fn take(&mut self, answer: &Message) {
        let Some(index) = self.inbox.index_of(&answer.subject) else { return };
        let Some(None) = self.outcomes.get(index) else { return };
        self.in_flight = self.in_flight.saturating_sub(1);
        if !self.busy.is_empty() {
            self.busy.remove(&Lane::of(&self.batch[index]));
        }
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            let stream = &self.target.layout.stream;
            let context = format!(
                "nothing stores what is published for stream `{stream}`: it was deleted, or its server has no JetStream now; it is created again when this sink is opened again"
            );
            return self.refuse_all(index, Error::new(Code::SinkRefused, context));
        }
        match serde_json::from_slice::<Answer>(&answer.payload) {
            Ok(Answer { error: Some(refusal), .. }) => self.refused(index, &refusal),
            Ok(answer) => {
                let kind = if answer.duplicate { Receipt::Duplicate } else { Receipt::Accepted };
                self.outcomes[index] = Some(kind);
            }
            Err(error) => {
                let context = "an answer of the NATS server cannot be read";
                let error = Error::new(Code::SinkUnreachable, context).with_source(error);
                self.refuse_all(index, error);
            }
        }
    }

    fn refused(&mut self, index: usize, refusal: &Refusal) {
        let stream = &self.target.layout.stream;
        let why = &refusal.description;
        match ErrorCode(refusal.err_code) {
            ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM
            | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
                let reason = format!("OW0005: the NATS server says: {why}");
                self.stop(index, Some(Receipt::Refused(reason.into())));
            }
            ErrorCode::STREAM_STORE_FAILED => {
                self.target.careful.store(CAREFUL_FOR * self.target.window, Ordering::Relaxed);
                let context = format!(
                    "stream `{stream}` is full ({why}); raise its limits (`nats stream edit {stream} --max-bytes …`) or remove what was received (`nats stream purge {stream} --seq …`); delivery goes on by itself"
                );
                self.refuse_all(index, Error::new(Code::SinkRefused, context));
            }
            _ => {
                let context =
                    format!("the NATS server refuses messages for stream `{stream}` ({why})");
                self.refuse_all(index, Error::new(Code::SinkRefused, context));
            }
        }
    }

    fn stop(&mut self, index: usize, outcome: Option<Receipt>) {
        self.stopped.insert(Lane::of(&self.batch[index]));
        self.outcomes[index] = outcome;
    }

    /// The sink takes nothing now; it is not about this record.
    fn refuse_all(&mut self, index: usize, error: Error) {
        self.stop(index, None);
        // The first says why; those behind it follow from it.
        self.trouble.get_or_insert(error);
    }

    /// Nothing is known about what is in flight, and nothing will be.
    fn lose(&mut self, what: &str, cause: Option<async_nats::PublishError>) {
        self.lost = true;
        let stream = &self.target.layout.stream;
        let context = format!("the NATS server of stream `{stream}` {what}");
        let error = Error::new(Code::SinkUnreachable, context);
        self.trouble.get_or_insert(match cause {
            Some(cause) => error.with_source(cause),
            None => error,
        });
    }

    /// What is known is reported; an error is, only when nothing is known: then nothing is parked, and
    /// the relay sends the batch again after a pause. What is stored behind something that was not taken
    /// is sent again as well, and recognised.
    fn finish(self) -> Result<Vec<Receipt>> {
        if let Some(error) = self.trouble
            && self.outcomes.iter().all(Option::is_none)
        {
            // A refusal says that nothing was taken, and that is not known of what got no answer.
            let unsure = self.lost && error.code() != Code::SinkUnreachable;
            return Err(match unsure {
                true => Error::new(Code::SinkUnreachable, error.context()),
                false => error,
            });
        }
        let mut receipts: Vec<Receipt> =
            self.outcomes.into_iter().map(|known| known.unwrap_or(Receipt::Blocked)).collect();
        broker::keep_prefix(self.batch, &mut receipts);
        Ok(receipts)
    }
}
