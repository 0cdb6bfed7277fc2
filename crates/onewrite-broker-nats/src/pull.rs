//! Pulling the messages of one consumer.
//!
//! Requests live for a second only, so that a lane can be handed over without a message on its way to
//! nobody: it asks no more, waits until its last request has ended, and then gives everything back. The
//! client's own stream of messages can only be dropped, and what is on its way then is missing until the
//! server's `ack_wait` has passed. A request ends with its connection, or by the clock.

use std::{collections::VecDeque, sync::atomic::Ordering, time::Duration};

use async_nats::{
    Client, Message, StatusCode, Subscriber,
    connection::State,
    jetstream::{self, Context},
};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use onewrite_core::{Code, Error, Result};
use tokio::time::Instant;

/// How long the server keeps a request that it cannot fulfil.
const EXPIRES: Duration = Duration::from_secs(1);

/// How much later a request's end may arrive before it is taken for lost.
const GRACE: Duration = Duration::from_secs(1);

/// A request this old is followed by another: the server of version 2.9 ends some without a word, and
/// what comes meanwhile must find one.
const FOLLOWED_AFTER: Duration = Duration::from_millis(700);

/// Messages asked for at once, at most.
const BATCH_MAX: usize = 1_000;

/// Requests at the server at most.
const REQUESTS_MAX: usize = 4;

/// How often a lost connection is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

struct Request {
    left: usize,
    asked_at: Instant,
}

/// The messages of one consumer.
pub(crate) struct Pull {
    client: Client,
    context: Context,
    subject: String,
    inbox: String,
    replies: Subscriber,
    batch: usize,
    requests: VecDeque<Request>,
    /// The connection that the requests belong to, by its number.
    connects: u64,
    stopping: bool,
}

impl Pull {
    /// Subscribes; nothing is asked for before [`Self::next`], and then for `pending_max` messages at most.
    ///
    /// # Errors
    /// [`Code::SinkUnreachable`].
    pub(crate) async fn open(
        context: &Context,
        stream: &str,
        consumer: &str,
        pending_max: usize,
    ) -> Result<Self> {
        let client = context.client();
        let inbox = client.new_inbox();
        let replies = client.subscribe(inbox.clone()).await.map_err(|error| {
            Error::new(Code::SinkUnreachable, "an inbox cannot be subscribed to").with_source(error)
        })?;
        Ok(Self {
            subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            context: context.clone(),
            client,
            inbox,
            replies,
            batch: pending_max.clamp(1, BATCH_MAX),
            requests: VecDeque::new(),
            connects: 0,
            stopping: false,
        })
    }

    /// Asks for nothing more.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether nothing can be on its way any more.
    pub(crate) fn is_over(&mut self) -> bool {
        self.expire();
        self.stopping && self.requests.is_empty()
    }

    /// The next message; after [`Self::stop`], it may also wait for ever. Dropping the future loses
    /// nothing.
    ///
    /// # Errors
    /// [`Code::SinkUnreachable`] when the consumer has to be looked at: it may be gone.
    pub(crate) async fn next(&mut self) -> Result<jetstream::Message> {
        loop {
            self.expire();
            self.ask().await?;
            let pause = if self.requests.is_empty() { LOOK_EVERY } else { FOLLOWED_AFTER / 4 };
            match tokio::time::timeout(pause, self.replies.next()).await {
                Ok(Some(reply)) => {
                    if let Some(message) = self.take(reply)? {
                        return Ok(message);
                    }
                }
                Ok(None) => return Err(gone("the connection is closed")),
                Err(_) => {}
            }
        }
    }

    /// A message that is there already.
    pub(crate) fn ready(&mut self) -> Option<Result<jetstream::Message>> {
        loop {
            let reply = self.replies.next().now_or_never()??;
            match self.take(reply) {
                Ok(None) => {}
                Ok(Some(message)) => return Some(Ok(message)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Keeps the server supplied with requests. Without a connection they would only pile up.
    async fn ask(&mut self) -> Result<()> {
        let young = self.requests.iter().filter(|asked| asked.asked_at.elapsed() < FOLLOWED_AFTER);
        let left: usize = young.map(|request| request.left).sum();
        let enough = left > self.batch / 2 || self.requests.len() >= REQUESTS_MAX;
        if self.stopping || enough || self.client.connection_state() != State::Connected {
            return Ok(());
        }
        let payload = format!(r#"{{"batch":{},"expires":{}}}"#, self.batch, EXPIRES.as_nanos());
        let (subject, inbox) = (self.subject.clone(), self.inbox.clone());
        self.client
            .publish_with_reply(subject, inbox, Bytes::from(payload))
            .await
            .map_err(|error| gone("a request cannot be sent").with_source(error))?;
        self.requests.push_back(Request { left: self.batch, asked_at: Instant::now() });
        Ok(())
    }

    /// Takes a reply in, which is a message or says something about the oldest request.
    fn take(&mut self, reply: Message) -> Result<Option<jetstream::Message>> {
        let Some(status) = reply.status.filter(|status| *status != StatusCode::OK) else {
            if let Some(request) = self.requests.front_mut() {
                request.left = request.left.saturating_sub(1);
                if request.left == 0 {
                    self.requests.pop_front();
                }
            }
            return Ok(Some(jetstream::Message { message: reply, context: self.context.clone() }));
        };
        match status {
            StatusCode::IDLE_HEARTBEAT => {}
            // It has expired, or nothing is there.
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => drop(self.requests.pop_front()),
            status => {
                let why = reply.description.unwrap_or_default();
                return Err(gone(&format!("the server says {status} {why}")));
            }
        }
        Ok(None)
    }

    /// Forgets requests that no longer live: those of an earlier connection, and those out of time.
    fn expire(&mut self) {
        let connects = self.client.statistics().connects.load(Ordering::Relaxed);
        if connects != self.connects {
            self.connects = connects;
            self.requests.clear();
        }
        let is_gone = |request: &Request| request.asked_at.elapsed() > EXPIRES + GRACE;
        while self.requests.front().is_some_and(is_gone) {
            self.requests.pop_front();
        }
    }
}

fn gone(why: &str) -> Error {
    Error::new(Code::SinkUnreachable, format!("a consumer cannot be read: {why}"))
}
