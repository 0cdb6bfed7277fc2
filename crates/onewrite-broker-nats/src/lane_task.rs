//! One leased lane: pulls its messages, hands them over, and answers the server for them.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client, Subject,
    jetstream::{
        self, AckKind, Context,
        consumer::{AckPolicy, DeliverPolicy, pull},
        stream::ConsumerErrorKind,
    },
};
use bytes::Bytes;
use onewrite_core::{
    BoxFuture, Code, Delivery, Error, Result, Text,
    broker::{Arrival, Receipt},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    gaps::gap_subject,
    lane::{Lane, Policy, Ticket},
    message,
    pull::Pull,
    stream::Layout,
};

/// The longest pause between two attempts to read a consumer.
const REOPEN_WITHIN: Duration = Duration::from_secs(2);

/// How soon a lane that waits for its last request or for its consumer looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Messages taken in between two looks at anything else.
const DRAIN_MAX: usize = 1_000;

/// What every lane of a feed shares.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) context: Context,
    pub(crate) layout: Layout,
    pub(crate) consumer: Text,
    pub(crate) policy: Policy,
    pub(crate) ack_wait: Duration,
    pub(crate) pending_max: usize,
    pub(crate) batch_max: usize,
    pub(crate) batch_bytes_max: usize,
    pub(crate) linger: Duration,
    pub(crate) timeout: Duration,
}

/// What the feed wants of a lane's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Go,
    /// Finish what is in work, hand the rest back to the server, and end.
    Release,
    /// Another process has the lease: end at once, and answer for nothing more.
    Lost,
}

impl Shared {
    fn consumer_name(&self, lane: u16) -> String {
        format!("{}-{lane}", self.consumer)
    }

    /// Creates the consumer of a lane, or finds it.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] when the server refuses it, [`Code::SinkUnreachable`].
    pub(crate) async fn create_consumer(&self, lane: u16) -> Result<()> {
        let name = self.consumer_name(lane);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            description: Some(format!("onewrite lane {lane} of {}", self.layout.lanes)),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            filter_subject: self.layout.lane_subjects(lane),
            max_ack_pending: i64::try_from(self.pending_max).unwrap_or(i64::MAX),
            ..pull::Config::default()
        };
        let stream = self.layout.stream.to_string();
        self.context.create_consumer_on_stream(config, stream).await.map(drop).map_err(|error| {
            let code = match error.kind() {
                ConsumerErrorKind::TimedOut | ConsumerErrorKind::Request => Code::SinkUnreachable,
                _ => Code::InvalidConfig,
            };
            let stream = &self.layout.stream;
            let context =
                format!("consumer `{name}` of stream `{stream}` cannot be created or changed");
            Error::new(code, context).with_source(error)
        })
    }

    async fn pull(&self, lane: u16) -> Result<Pull> {
        self.create_consumer(lane).await?;
        let consumer = self.consumer_name(lane);
        let batch = self.pending_max.min(DRAIN_MAX);
        Pull::open(&self.context, &self.layout.stream, &consumer, batch).await
    }

    /// Answers for messages. What does not get through in time is delivered again.
    async fn answer(&self, replies: Vec<Subject>, kind: AckKind) {
        let payload = Bytes::from(kind);
        let sending = async {
            for reply in replies {
                if self.client.publish(reply, payload.clone()).await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(self.timeout, sending).await.is_err() {
            tracing::debug!("answers to the NATS server wait for a connection; it delivers again");
        }
    }
}

/// A batch of one lane.
pub(crate) struct NatsArrival {
    deliveries: Vec<Delivery>,
    count: usize,
    reply: oneshot::Sender<Vec<Receipt>>,
}

impl Arrival for NatsArrival {
    fn take(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }

    /// Passes the receipts on to the lane, which answers the server. That the server hears it is not
    /// known here: if not, it delivers again.
    fn settle(self: Box<Self>, receipts: Vec<Receipt>) -> BoxFuture<'static, Result<()>> {
        let settled = if receipts.len() == self.count {
            if self.reply.send(receipts).is_err() {
                tracing::debug!("the lane has another owner by now, who gets the batch again");
            }
            Ok(())
        } else {
            let context = format!("{} receipts for {} deliveries", receipts.len(), self.count);
            Err(Error::new(Code::InvariantBroken, context))
        };
        Box::pin(std::future::ready(settled))
    }
}

/// The task of one lane.
pub(crate) struct LaneTask {
    pub(crate) shared: Arc<Shared>,
    pub(crate) number: u16,
    pub(crate) arrivals: mpsc::UnboundedSender<NatsArrival>,
    pub(crate) wish: watch::Receiver<Wish>,
    /// Until when the leases hold, by this process's clock.
    pub(crate) leased_until: watch::Receiver<Instant>,
}

/// What a lane's task has at hand.
struct Work {
    lane: Lane,
    /// When it was looked at last: what is due later is waited for.
    now: Instant,
    pull: Option<Pull>,
    reopen_at: Instant,
    failures: u32,
    in_flight: Option<oneshot::Receiver<Vec<Receipt>>>,
    /// Since when an offer waits for more to come.
    ready_since: Option<Instant>,
    tell_at: Instant,
    /// Nobody takes anything any more: the feed is gone.
    unwanted: bool,
}

impl LaneTask {
    /// Runs until it is released or lost. What is held when it is released goes back to the server.
    pub(crate) async fn run(mut self) {
        let now = Instant::now();
        let mut work = Work {
            lane: Lane::new(self.shared.policy),
            now,
            pull: None,
            reopen_at: now,
            failures: 0,
            in_flight: None,
            ready_since: None,
            tell_at: now + self.shared.ack_wait / 4,
            unwanted: false,
        };
        loop {
            work.now = Instant::now();
            let wish = match *self.wish.borrow_and_update() {
                Wish::Go if work.unwanted => Wish::Release,
                wish => wish,
            };
            match wish {
                Wish::Lost => return,
                Wish::Release if is_over(&mut work) => break,
                Wish::Go if work.pull.is_none() && work.reopen_at <= work.now => {
                    self.reopen(&mut work).await;
                }
                Wish::Go | Wish::Release => {}
            }
            if wish == Wish::Go && !self.offer(&mut work) {
                work.in_flight = None;
                work.unwanted = true;
                continue;
            }
            self.wait(&mut work).await;
        }
        self.hand_back(work).await;
    }

    /// Waits for whatever comes next, and deals with it.
    async fn wait(&mut self, work: &mut Work) {
        let now = work.now;
        let lingering = work.ready_since.map(|since| since + self.shared.linger);
        let reopening = work.pull.is_none().then_some(work.reopen_at.max(now + LOOK_AGAIN));
        let is_releasing = work.unwanted || *self.wish.borrow() == Wish::Release;
        let releasing = is_releasing.then(|| now + LOOK_AGAIN);
        let times = work.lane.wake_at(now).into_iter().chain(lingering);
        let times = times.chain(reopening).chain(releasing);
        let wake_at = times.chain([work.tell_at]).min().unwrap_or(now);
        tokio::select! {
            biased;
            _ = self.wish.changed() => {}
            receipts = settled(&mut work.in_flight) => self.settle(work, receipts.as_deref()).await,
            message = next(&mut work.pull) => self.take_in(work, message).await,
            () = tokio::time::sleep_until(wake_at) => self.chores(work).await,
        }
    }

    async fn reopen(&mut self, work: &mut Work) {
        let opened = tokio::select! {
            opened = self.shared.pull(self.number) => opened,
            _ = self.wish.changed() => {
                // Looked at first; opening goes on afterwards if need be.
                self.wish.mark_changed();
                return;
            }
        };
        match opened {
            Ok(pull) => {
                work.pull = Some(pull);
                work.failures = 0;
            }
            Err(error) => {
                tracing::warn!(%error, lane = self.number, "a lane cannot be read now");
                self.pause(work);
            }
        }
    }

    fn pause(&self, work: &mut Work) {
        work.pull = None;
        work.failures += 1;
        let pause = Duration::from_millis(50) * work.failures.min(40);
        work.reopen_at = Instant::now() + pause.min(REOPEN_WITHIN);
    }

    /// Takes in a message, and those that are there already.
    async fn take_in(&self, work: &mut Work, message: Result<jetstream::Message>) {
        let mut next = Some(message);
        for _ in 0..DRAIN_MAX {
            match next {
                Some(Ok(message)) => self.insert(work, message).await,
                Some(Err(error)) => {
                    tracing::debug!(%error, lane = self.number, "a consumer is read anew");
                    return self.pause(work);
                }
                None => return,
            }
            next = work.pull.as_mut().and_then(Pull::ready);
        }
        if let Some(Ok(message)) = next {
            self.insert(work, message).await;
        }
    }

    async fn insert(&self, work: &mut Work, message: jetstream::Message) {
        let Some(reply) = message.reply.clone() else { return };
        let Ok(info) = message.info() else {
            tracing::warn!(lane = self.number, "a message without its place in the stream is left");
            return;
        };
        let (stream_sequence, delivered) = (info.stream_sequence, info.delivered);
        match message::decode(message.headers.as_ref(), message.payload.clone()) {
            Ok(delivery) => {
                if delivered > 1 {
                    tracing::debug!(
                        lane = self.number,
                        stream_sequence,
                        delivered,
                        "delivered again"
                    );
                }
                let ticket = Ticket { stream_sequence, reply, heard_at: Instant::now() };
                work.lane.insert(delivery, ticket);
            }
            Err(error) => self.give_up(stream_sequence, reply, &error).await,
        }
    }

    /// A message that is no event stays in the stream, and is not delivered to this consumer again: it
    /// would come back for ever and be no event then either. Were it one of ours, its successor finds
    /// its predecessor missing, and its relay sends it again.
    async fn give_up(&self, stream_sequence: u64, reply: Subject, error: &Error) {
        let (stream, consumer) = (&self.shared.layout.stream, &self.shared.consumer);
        tracing::error!(
            %error, %stream, stream_sequence, lane = self.number,
            "OW0006: a message is no CloudEvent and is passed over; look at it with `nats stream get`"
        );
        metrics::counter!(
            "onewrite_feed_undecodable_total",
            "stream" => stream.to_string(), "consumer" => consumer.to_string()
        )
        .increment(1);
        self.shared.answer(vec![reply], AckKind::Term).await;
    }

    /// Hands over what is ready, unless something is in work. Says whether anybody takes it.
    fn offer(&self, work: &mut Work) -> bool {
        let now = work.now;
        if work.in_flight.is_some() || *self.leased_until.borrow() <= now {
            return true;
        }
        let shared = &self.shared;
        if !shared.linger.is_zero() {
            if !work.lane.has_ready(now) {
                work.ready_since = None;
                return true;
            }
            let since = *work.ready_since.get_or_insert(now);
            if since + shared.linger > now && work.lane.held() < shared.batch_max {
                return true;
            }
            work.ready_since = None;
        }
        let deliveries = work.lane.offer(shared.batch_max, shared.batch_bytes_max, now);
        if deliveries.is_empty() {
            return true;
        }
        let (reply, receipts) = oneshot::channel();
        work.in_flight = Some(receipts);
        let arrival = NatsArrival { count: deliveries.len(), deliveries, reply };
        self.arrivals.send(arrival).is_ok()
    }

    async fn settle(&self, work: &mut Work, receipts: Option<&[Receipt]>) {
        work.in_flight = None;
        if receipts.is_some_and(|all| all.contains(&Receipt::Diverged)) {
            tracing::error!(
                lane = self.number,
                "OW0013: a receiver has other records than its source sends; the partition waits"
            );
        }
        let replies = work.lane.settle(receipts, Instant::now(), rand::random());
        self.shared.answer(replies, AckKind::Ack).await;
    }

    /// What is due by now: announcements, and telling the server what is still in work.
    async fn chores(&self, work: &mut Work) {
        let now = Instant::now();
        for announcement in work.lane.announce(now) {
            tracing::warn!(
                source = announcement.source,
                partition = announcement.partition,
                have = announcement.have,
                "OW0017: a predecessor is missing, and its relay is asked to send it again"
            );
            metrics::counter!("onewrite_feed_gaps_announced_total", "consumer" => self.shared.consumer.to_string())
                .increment(1);
            let Ok(payload) = serde_json::to_vec(&announcement) else { continue };
            let subject = gap_subject(&self.shared.layout.stream);
            let saying = self.shared.client.publish(subject, payload.into());
            // Said again later in any case.
            let _ = tokio::time::timeout(self.shared.timeout, saying).await;
        }
        if work.tell_at > now {
            return;
        }
        let quarter = self.shared.ack_wait / 4;
        work.tell_at = now + quarter;
        let unheard = now.checked_sub(quarter).map(|before| work.lane.unheard(before, now));
        self.shared.answer(unheard.unwrap_or_default(), AckKind::Progress).await;
        self.watch_room(work, now);
    }

    /// Tells when partitions that are not taken keep the others of their lane from coming.
    fn watch_room(&self, work: &Work, now: Instant) {
        let held = work.lane.held();
        let (stream, consumer) = (&self.shared.layout.stream, &self.shared.consumer);
        metrics::gauge!(
            "onewrite_feed_messages_held",
            "stream" => stream.to_string(), "consumer" => consumer.to_string(), "lane" => self.number.to_string()
        )
        .set(held as f64);
        let is_full = held >= self.shared.pending_max;
        if is_full && work.in_flight.is_none() && !work.lane.has_ready(now) {
            tracing::error!(
                %stream, %consumer, lane = self.number, held,
                "a lane is full of messages that are not taken, and nothing more comes through it: mend what its receiver complains of, or raise `pending_max`"
            );
        }
    }

    /// Gives everything held back to the server, for the next owner to get at once.
    async fn hand_back(&self, work: Work) {
        // Ends the pull first, should it not be over: what goes back must not come here again.
        drop(work.pull);
        self.shared.answer(work.lane.into_replies(), AckKind::Nak(None)).await;
        let flushing = self.shared.client.flush();
        let _ = tokio::time::timeout(self.shared.timeout, flushing).await;
    }
}

/// Whether a lane that is released can be handed over: nothing is in work, and nothing on its way.
fn is_over(work: &mut Work) -> bool {
    work.pull.iter_mut().for_each(Pull::stop);
    work.in_flight.is_none() && work.pull.as_mut().is_none_or(Pull::is_over)
}

/// What became of the batch in work, if there is one; `None` when it was dropped.
async fn settled(in_flight: &mut Option<oneshot::Receiver<Vec<Receipt>>>) -> Option<Vec<Receipt>> {
    match in_flight {
        Some(receipts) => receipts.await.ok(),
        None => std::future::pending().await,
    }
}

async fn next(pull: &mut Option<Pull>) -> Result<jetstream::Message> {
    match pull {
        Some(pull) => pull.next().await,
        None => std::future::pending().await,
    }
}
