//! One leased lane: takes in its messages, hands them over, and answers the broker for them.

use std::{sync::Arc, time::Duration};

use onewrite_core::{Error, Result, broker::Receipt};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    arrival::LaneArrival,
    broker::{Answer, LaneReader, Lanes, Message},
    feed::LaneFeedOptions,
    lane::{Lane, Policy, Ticket},
    reading::Reading,
};

/// The longest pause between two attempts to read a lane.
const REOPEN_WITHIN: Duration = Duration::from_secs(2);

/// How soon a lane that waits for what is on its way, or for its reader, looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Messages taken in between two looks at anything else.
const DRAIN_MAX: usize = 1_000;

/// What every lane of a feed shares.
pub(crate) struct Shared<L> {
    pub(crate) broker: L,
    pub(crate) options: LaneFeedOptions,
}

/// What the feed wants of a lane's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Go,
    /// Finish what is in work, hand the rest back to the broker, and end.
    Release,
    /// Another process has the lease: end at once, and answer for nothing more.
    Lost,
}

/// The task of one lane.
pub(crate) struct LaneTask<L> {
    pub(crate) shared: Arc<Shared<L>>,
    pub(crate) number: u16,
    pub(crate) arrivals: mpsc::UnboundedSender<LaneArrival>,
    pub(crate) wish: watch::Receiver<Wish>,
    /// Until when the leases hold, by this process's clock.
    pub(crate) leased_until: watch::Receiver<Instant>,
}

/// What a lane's task has at hand.
struct Work<L: Lanes> {
    lane: Lane<L::Token>,
    /// When it was looked at last: what is due later is waited for.
    now: Instant,
    reader: Option<L::Reader>,
    reopen_at: Instant,
    failures: u32,
    in_flight: Option<oneshot::Receiver<Vec<Receipt>>>,
    /// Since when an offer waits for more to come.
    ready_since: Option<Instant>,
    tell_at: Instant,
    /// Nobody takes anything any more: the feed is gone.
    unwanted: bool,
}

impl<L: Lanes> LaneTask<L> {
    /// Runs until it is released or lost. What is held when it is released goes back to the broker.
    pub(crate) async fn run(mut self) {
        let (now, options) = (Instant::now(), &self.shared.options);
        let mut work = Work {
            lane: Lane::new(Policy {
                backoff: options.reading.backoff,
                gap_patience: options.reading.gap_patience.unwrap_or(options.gap_patience),
            }),
            now,
            reader: None,
            reopen_at: now,
            failures: 0,
            in_flight: None,
            ready_since: None,
            tell_at: now + options.tell_every,
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
                Wish::Go if work.reader.is_none() && work.reopen_at <= work.now => {
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
    async fn wait(&mut self, work: &mut Work<L>) {
        let now = work.now;
        let lingering = work.ready_since.map(|since| since + self.shared.options.reading.linger);
        let reopening = work.reader.is_none().then_some(work.reopen_at.max(now + LOOK_AGAIN));
        let is_releasing = work.unwanted || *self.wish.borrow() == Wish::Release;
        let releasing = is_releasing.then(|| now + LOOK_AGAIN);
        let times = work.lane.wake_at(now).into_iter().chain(lingering);
        let times = times.chain(reopening).chain(releasing);
        let wake_at = times.chain([work.tell_at]).min().unwrap_or(now);
        tokio::select! {
            biased;
            _ = self.wish.changed() => {}
            receipts = settled(&mut work.in_flight) => self.settle(work, receipts.as_deref()).await,
            message = next(&mut work.reader) => self.take_in(work, message).await,
            () = tokio::time::sleep_until(wake_at) => self.chores(work).await,
        }
    }

    async fn reopen(&mut self, work: &mut Work<L>) {
        let opened = tokio::select! {
            opened = self.shared.broker.open(self.number) => opened,
            _ = self.wish.changed() => {
                // Looked at first; opening goes on afterwards if need be.
                self.wish.mark_changed();
                return;
            }
        };
        match opened {
            Ok(reader) => {
                work.reader = Some(reader);
                work.failures = 0;
            }
            Err(error) => {
                tracing::warn!(%error, lane = self.number, "a lane cannot be read now");
                self.pause(work);
            }
        }
    }

    fn pause(&self, work: &mut Work<L>) {
        work.reader = None;
        work.failures += 1;
        let pause = Duration::from_millis(50) * work.failures.min(40);
        work.reopen_at = Instant::now() + pause.min(REOPEN_WITHIN);
    }

    /// Takes in a message, and those that are there already.
    async fn take_in(&self, work: &mut Work<L>, message: Result<Message<L::Token>>) {
        let mut next = Some(message);
        let mut taken = 0;
        while let Some(message) = next {
            match message {
                Ok(message) => self.insert(work, message).await,
                Err(error) => {
                    tracing::debug!(%error, lane = self.number, "a consumer is read anew");
                    return self.pause(work);
                }
            }
            taken += 1;
            let reader = work.reader.as_mut().filter(|_| taken < DRAIN_MAX);
            next = reader.and_then(LaneReader::ready);
        }
    }

    async fn insert(&self, work: &mut Work<L>, message: Message<L::Token>) {
        let Message { place, token, delivery } = message;
        match delivery {
            Ok(delivery) => {
                work.lane.insert(delivery, Ticket { place, token, heard_at: Instant::now() });
            }
            Err(error) => self.give_up(place, token, &error).await,
        }
    }

    /// A message that is no event is not delivered to this consumer again: it would come back for ever
    /// and be no event then either. Were it one of ours, its successor finds its predecessor missing, and
    /// its relay sends it again.
    async fn give_up(&self, place: u64, token: L::Token, error: &Error) {
        let LaneFeedOptions { stream, look_with, reading, .. } = &self.shared.options;
        let consumer = &reading.consumer;
        tracing::error!(
            %error, %stream, stream_sequence = place, lane = self.number,
            "OW0006: a message is no CloudEvent and is passed over; look at it with `{look_with}`"
        );
        metrics::counter!(
            "onewrite_feed_undecodable_total",
            "stream" => stream.to_string(), "consumer" => consumer.to_string()
        )
        .increment(1);
        self.answer(Answer::GiveUp, vec![token]).await;
    }

    /// Hands over what is ready, unless something is in work. Says whether anybody takes it.
    fn offer(&self, work: &mut Work<L>) -> bool {
        let now = work.now;
        if work.in_flight.is_some() || *self.leased_until.borrow() <= now {
            return true;
        }
        let options = &self.shared.options.reading;
        if !options.linger.is_zero() {
            if !work.lane.has_ready(now) {
                work.ready_since = None;
                return true;
            }
            let since = *work.ready_since.get_or_insert(now);
            if since + options.linger > now && work.lane.held() < options.batch_max {
                return true;
            }
            work.ready_since = None;
        }
        let deliveries = work.lane.offer(options.batch_max, options.batch_bytes_max, now);
        if deliveries.is_empty() {
            return true;
        }
        let (arrival, receipts) = LaneArrival::new(deliveries);
        work.in_flight = Some(receipts);
        self.arrivals.send(arrival).is_ok()
    }

    async fn settle(&self, work: &mut Work<L>, receipts: Option<&[Receipt]>) {
        work.in_flight = None;
        if receipts.is_some_and(|all| all.contains(&Receipt::Diverged)) {
            tracing::error!(
                lane = self.number,
                "OW0013: a receiver has other records than its source sends; the partition waits"
            );
        }
        let done = work.lane.settle(receipts, Instant::now(), rand::random());
        self.answer(Answer::Done, done).await;
    }

    async fn answer(&self, answer: Answer, tokens: Vec<L::Token>) {
        if !tokens.is_empty() {
            self.shared.broker.answer(self.number, answer, tokens).await;
        }
    }

    /// What is due by now: announcements, and telling the broker what is still in work.
    async fn chores(&self, work: &mut Work<L>) {
        let now = Instant::now();
        for announcement in work.lane.announce(now) {
            tracing::warn!(
                source = announcement.source,
                partition = announcement.partition,
                have = announcement.have,
                "OW0017: a predecessor is missing, and its relay is asked to send it again"
            );
            metrics::counter!("onewrite_feed_gaps_announced_total", "consumer" => self.shared.options.reading.consumer.to_string())
                .increment(1);
            self.shared.broker.announce(&announcement).await;
        }
        if work.tell_at > now {
            return;
        }
        let tell_every = self.shared.options.tell_every;
        work.tell_at = now + tell_every;
        let unheard = now.checked_sub(tell_every).map(|before| work.lane.unheard(before, now));
        self.answer(Answer::InWork, unheard.unwrap_or_default()).await;
        self.watch_room(work, now);
    }

    /// Tells when partitions that are not taken keep the others of their lane from coming.
    fn watch_room(&self, work: &Work<L>, now: Instant) {
        let held = work.lane.held();
        let LaneFeedOptions { stream, reading, .. } = &self.shared.options;
        let Reading { consumer, pending_max, .. } = reading;
        metrics::gauge!(
            "onewrite_feed_messages_held",
            "stream" => stream.to_string(), "consumer" => consumer.to_string(), "lane" => self.number.to_string()
        )
        .set(held as f64);
        let is_full = held >= *pending_max;
        if is_full && work.in_flight.is_none() && !work.lane.has_ready(now) {
            tracing::error!(
                %stream, %consumer, lane = self.number, held,
                "a lane is full of messages that are not taken, and nothing more comes through it: mend what its receiver complains of, or raise `pending_max`"
            );
        }
    }

    /// Gives everything held back to the broker, for the next owner to get at once.
    async fn hand_back(&self, work: Work<L>) {
        // Ends the reader first, should it not be over: what goes back must not come here again.
        drop(work.reader);
        self.shared.broker.answer(self.number, Answer::Back, work.lane.into_tokens()).await;
    }
}

/// Whether a lane that is released can be handed over: nothing is in work, and nothing on its way.
fn is_over<L: Lanes>(work: &mut Work<L>) -> bool {
    work.reader.as_mut().is_none_or(LaneReader::stop) && work.in_flight.is_none()
}

/// What became of the batch in work, if there is one; `None` when it was dropped.
async fn settled(in_flight: &mut Option<oneshot::Receiver<Vec<Receipt>>>) -> Option<Vec<Receipt>> {
    match in_flight {
        Some(receipts) => receipts.await.ok(),
        None => std::future::pending().await,
    }
}

async fn next<R: LaneReader>(reader: &mut Option<R>) -> Result<Message<R::Token>> {
    match reader {
        Some(reader) => reader.next().await,
        None => std::future::pending().await,
    }
}
