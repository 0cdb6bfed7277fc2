//! Sending batches: CloudEvents posted to a receiver, or to one of several that stand for it.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use onewrite_core::{
    BoxFuture, Code, Delivery, Error, Incarnation, Result,
    broker::{self, Mark, Receipt, Sink},
    cloudevents::{self, BATCH_TYPE, EVENT_TYPE},
    inbox::Lane,
};
use reqwest::{Method, header::HeaderMap};
use sha2::{Digest as _, Sha256};

use crate::{
    Secret, protocol,
    target::{Reply, Request, Targets},
};

/// How long a request may take unless configured otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// How many partitions are sent to at once when each event is a request of its own.
const LANES_AT_ONCE: usize = 8;

/// How long a receiver that failed is passed over while others stand in, in milliseconds.
const AWAY_MS: u64 = 1_000;

/// How deliveries are laid out in requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// A whole batch in one request.
    #[default]
    Batch,
    /// One event for each request, as a JSON object: for webhooks that know no batches.
    Structured,
    /// One event for each request, attributes in headers and the data as the body.
    Binary,
}

/// Where and how to send.
#[derive(Clone)]
pub struct HttpSinkOptions {
    /// The receivers of one consumer, at least one. They share the partitions; when one fails, the
    /// next stands in for a while.
    pub urls: Vec<String>,
    /// Requests are signed with each of these; with none, they are not signed.
    pub secrets: Vec<Secret>,
    /// How long a request may take ([`TIMEOUT_DEFAULT`]).
    pub timeout: Duration,
    /// Whether private addresses may be reached.
    pub allow_private: bool,
    /// How deliveries are laid out.
    pub format: Format,
    /// Headers sent with each request (`authorization: Bearer …`). Their values are never printed.
    pub headers: Vec<(String, String)>,
}

impl HttpSinkOptions {
    /// Batches to one receiver, unsigned, public addresses only.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            secrets: Vec::new(),
            timeout: TIMEOUT_DEFAULT,
            allow_private: false,
            format: Format::default(),
            headers: Vec::new(),
        }
    }
}

/// Deliveries to a receiver over HTTP. Connections are kept and used again; proxies named in the
/// environment are not used, because they would hide the address that is reached.
pub struct HttpSink {
    targets: Targets,
    /// For each receiver, until when it is passed over after a failure: milliseconds since `began`.
    away_until: Vec<AtomicU64>,
    began: Instant,
    format: Format,
}

impl HttpSink {
    /// A sink for `options`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig) for a URL or header that cannot be used,
    /// [`PrivateAddress`](onewrite_core::Code::PrivateAddress) for
    /// a private address that is not allowed.
    pub fn new(options: HttpSinkOptions) -> Result<Self> {
        let format = options.format;
        let targets = Targets::new(options)?;
        let away_until = (0..targets.len()).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { targets, away_until, began: Instant::now(), format })
    }

    /// Sends to the receiver `home`, and to the next when it cannot be connected to. After any other
    /// failure the outcome is unknown; for a while the next receiver stands in.
    async fn send(&self, home: usize, request: &Request) -> Result<Reply> {
        let mut refused = None;
        for index in self.turn(home) {
            let failed = match self.targets.send(index, request).await {
                Ok(reply) => {
                    // A receiver that is overloaded or going away lets the next one try.
                    if matches!(reply.status, 502..=504) {
                        self.leave_out(index);
                    }
                    return Ok(reply);
                }
                Err(failed) => failed,
            };
            self.leave_out(index);
            if !failed.unsent {
                return Err(failed.error);
            }
            refused = Some(failed.error);
        }
        Err(refused.unwrap_or_else(|| Error::new(Code::SinkUnreachable, "there is no receiver")))
    }

    /// The receivers in the order to try: from `home` on, those that failed lately last.
    fn turn(&self, home: usize) -> Vec<usize> {
        let count = self.targets.len();
        let now = self.now_ms();
        let mut turn: Vec<usize> = (0..count).map(|step| (home + step) % count).collect();
        turn.sort_by_key(|index| self.away_until[*index].load(Ordering::Relaxed) > now);
        turn
    }

    fn leave_out(&self, index: usize) {
        self.away_until[index].store(self.now_ms() + AWAY_MS, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Shares a batch out among the receivers by partition, side by side. What is known is reported;
    /// an error only when nothing is.
    async fn post_shared(&self, batch: &[Delivery]) -> Result<Vec<Receipt>> {
        let count = self.targets.len();
        let share_of = |home: usize| -> Vec<usize> {
            (0..batch.len())
                .filter(|index| usize::from(batch[*index].record.partition) % count == home)
                .collect()
        };
        let sent = futures::future::join_all((0..count).map(|home| async move {
            let indexes = share_of(home);
            let share: Vec<Delivery> = indexes.iter().map(|index| batch[*index].clone()).collect();
            let receipts =
                if share.is_empty() { Ok(Vec::new()) } else { self.post(home, &share).await };
            (indexes, receipts)
        }))
        .await;
        let mut receipts = vec![Receipt::Blocked; batch.len()];
        let (mut known, mut failed) = (false, None);
        for (indexes, result) in sent {
            match result {
                Ok(share) => {
                    known |= !share.is_empty();
                    indexes
                        .into_iter()
                        .zip(share)
                        .for_each(|(index, receipt)| receipts[index] = receipt);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) if !known => Err(error),
            _ => Ok(receipts),
        }
    }

    async fn post(&self, home: usize, batch: &[Delivery]) -> Result<Vec<Receipt>> {
        let (headers, body) = match (self.format, batch) {
            (Format::Structured, [one]) => {
                (content_type(EVENT_TYPE), cloudevents::encode_event(one).into())
            }
            (Format::Binary, [one]) => {
                let binary = cloudevents::encode_binary(one);
                let Some(headers) = binary_headers(binary.headers) else {
                    let why = "an attribute cannot stand in a header";
                    return Ok(vec![Receipt::Refused(why.into())]);
                };
                (headers, binary.body)
            }
            _ => (content_type(BATCH_TYPE), cloudevents::encode_batch(batch).into()),
        };
        let request =
            Request { method: Method::POST, query: Vec::new(), id: batch_id(batch), headers, body };
        let reply = self.send(home, &request).await?;
        let receipts = match reply.status {
            200..=299 => protocol::read_receipts(&reply.body, batch.len()),
            status => protocol::read_refusal(status, batch.len()),
        };
        receipts.map_err(|error| {
            Error::new(error.code(), format!("{}: {}", reply.from, error.context()))
        })
    }

    /// Sends one event for each request: partitions side by side, each in order up to its first
    /// event that is not taken. An error stops all of them; what is known by then is reported, and
    /// the error only when nothing is.
    async fn post_singly(&self, batch: &[Delivery]) -> Result<Vec<Receipt>> {
        let stopped = AtomicBool::new(false);
        let sent: Vec<_> = futures::stream::iter(lanes(batch))
            .map(|lane| self.post_lane(batch, lane, &stopped))
            .buffer_unordered(LANES_AT_ONCE)
            .collect()
            .await;
        let mut receipts = vec![Receipt::Blocked; batch.len()];
        let (mut known, mut failed) = (false, None);
        for (lane, error) in sent {
            known |= !lane.is_empty();
            for (index, receipt) in lane {
                receipts[index] = receipt;
            }
            failed = failed.or(error);
        }
        match failed {
            Some(error) if !known => Err(error),
            _ => Ok(receipts),
        }
    }

    async fn post_lane(
        &self,
        batch: &[Delivery],
        lane: Vec<usize>,
        stopped: &AtomicBool,
    ) -> (Vec<(usize, Receipt)>, Option<Error>) {
        let mut known = Vec::with_capacity(lane.len());
        for index in lane {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            let home = usize::from(batch[index].record.partition) % self.targets.len();
            match self.post(home, &batch[index..=index]).await {
                Ok(receipts) => {
                    let settled = receipts.iter().all(Receipt::is_settled);
                    known.extend(receipts.into_iter().map(|receipt| (index, receipt)));
                    if !settled {
                        break;
                    }
                }
                Err(error) => {
                    stopped.store(true, Ordering::Relaxed);
                    return (known, Some(error));
                }
            }
        }
        (known, None)
    }
}

impl Sink for HttpSink {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(async move {
            if batch.is_empty() {
                return Ok(Vec::new());
            }
            let mut receipts = match self.format {
                Format::Batch if self.targets.len() == 1 => self.post(0, batch).await?,
                Format::Batch => self.post_shared(batch).await?,
                Format::Structured | Format::Binary => self.post_singly(batch).await?,
            };
            // A receiver may say that it took something behind what it did not take.
            broker::keep_prefix(batch, &mut receipts);
            Ok(receipts)
        })
    }

    fn marks<'a>(
        &'a self,
        source: &'a str,
        life: Incarnation,
    ) -> BoxFuture<'a, Result<Option<Vec<Mark>>>> {
        Box::pin(async move {
            let life = life.to_string();
            let request = Request {
                method: Method::GET,
                id: message_id(&[b"marks", source.as_bytes(), life.as_bytes()]),
                query: vec![("source", source.to_owned()), ("incarnation", life)],
                headers: HeaderMap::new(),
                body: bytes::Bytes::new(),
            };
            let reply = self.send(0, &request).await?;
            match reply.status {
                200 => Ok(protocol::read_marks(&reply.body)),
                // It may keep marks, and cannot say now: that must not pass for keeping none.
                401 | 403 | 429 | 502..=504 => Err(Error::new(
                    Code::SinkUnreachable,
                    format!("{} answered with HTTP {}", reply.from, reply.status),
                )),
                _ => Ok(None),
            }
        })
    }
}

/// The positions of each partition's deliveries, in order.
fn lanes(batch: &[Delivery]) -> Vec<Vec<usize>> {
    let mut lanes: Vec<(Lane, Vec<usize>)> = Vec::new();
    let mut known = std::collections::HashMap::new();
    for (index, delivery) in batch.iter().enumerate() {
        let lane = Lane::of(delivery);
        let at = *known.entry(lane.clone()).or_insert_with(|| {
            lanes.push((lane, Vec::new()));
            lanes.len() - 1
        });
        lanes[at].1.push(index);
    }
    lanes.into_iter().map(|(_, indexes)| indexes).collect()
}

fn content_type(kind: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(
        reqwest::header::CONTENT_TYPE,
        reqwest::header::HeaderValue::from_static(kind),
    )])
}

fn binary_headers(headers: Vec<(String, String)>) -> Option<HeaderMap> {
    headers
        .into_iter()
        .map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?)))
        .collect::<Option<Vec<(reqwest::header::HeaderName, _)>>>()
        .map(HeaderMap::from_iter)
}

/// The id of a batch: the same whenever the same deliveries are sent again.
fn batch_id(batch: &[Delivery]) -> String {
    let mut parts = Vec::with_capacity(12);
    for delivery in batch.first().into_iter().chain(batch.last()) {
        let record = &delivery.record;
        parts.push(record.source.to_string().into_bytes());
        parts.push(record.incarnation.0.to_be_bytes().to_vec());
        parts.push(record.partition.to_be_bytes().to_vec());
        parts.push(record.sequence.to_be_bytes().to_vec());
        parts.push(record.id().as_bytes().to_vec());
    }
    parts.push(batch.len().to_be_bytes().to_vec());
    message_id(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn message_id(parts: &[&[u8]]) -> String {
    use std::fmt::Write as _;
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).fold("msg_".to_owned(), |mut id, byte| {
        // Writing to a text cannot fail.
        let _ = write!(id, "{byte:02x}");
        id
    })
}
