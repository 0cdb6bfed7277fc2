//! One call of publish: messages go out in a window, confirmations come back in any order.

use std::{
    collections::{HashSet, VecDeque},
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
};

use lapin::{
    BasicProperties, Channel, Confirmation, PublisherConfirm, options::BasicPublishOptions,
    protocol::AMQPSoftError, types::ShortString,
};
use onewrite_core::{
    Code, Delivery, Error, Result,
    broker::{self, Receipt},
    inbox::Lane,
};

use crate::{
    connect::{Server, is_soft},
    message,
    stream::Layout,
};

/// Messages made before the first is waited for: the connection is woken less often.
const CHUNK: usize = 64;

/// Where and how one call publishes.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) server: &'a Server,
    pub(crate) layout: &'a Layout,
    pub(crate) channel: &'a Channel,
    pub(crate) window: usize,
    pub(crate) message_bytes_max: usize,
    /// Whether to send one message at a time. A full queue that gets some room takes what comes next: with
    /// many messages on their way that is not the one it refused before, but its successors, which no
    /// receiver can take, and which fill it up again.
    pub(crate) careful: &'a AtomicBool,
}

impl Target<'_> {
    async fn publish(
        self,
        delivery: &Delivery,
        properties: BasicProperties,
    ) -> lapin::Result<PublisherConfirm> {
        let record = &delivery.record;
        let exchange = ShortString::from(&*self.layout.stream);
        let key = ShortString::from(self.layout.lane_of(record.partition).to_string());
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        self.channel.basic_publish(exchange, key, options, &record.event.data, properties).await
    }
}

/// What came of a call.
pub(crate) struct Ran {
    pub(crate) receipts: Result<Vec<Receipt>>,
    /// Whether everything was answered, so that the channel can be used again.
    pub(crate) is_whole: bool,
}

/// One call.
pub(crate) struct Run<'a> {
    target: Target<'a>,
    batch: &'a [Delivery],
    /// What is known of each delivery.
    outcomes: Vec<Option<Receipt>>,
    in_flight: VecDeque<(usize, PublisherConfirm)>,
    /// Ids of messages that no queue took. The client gives a returned message to any of the confirmations
    /// that follow, so nothing of a window is settled before all of them are there.
    returned: HashSet<Option<ShortString>>,
    /// Partitions of which something was not taken: nothing more of them is sent.
    stopped: HashSet<Lane>,
    /// Why nothing more is sent at all.
    trouble: Option<Error>,
    /// No answer can come any more for what is in flight.
    lost: bool,
}

impl<'a> Run<'a> {
    pub(crate) fn new(target: Target<'a>, batch: &'a [Delivery]) -> Self {
        Self {
            target,
            batch,
            outcomes: vec![None; batch.len()],
            in_flight: VecDeque::new(),
            returned: HashSet::new(),
            stopped: HashSet::new(),
            trouble: None,
            lost: false,
        }
    }

    /// Publishes the batch.
    pub(crate) async fn run(mut self) -> Ran {
        let careful = self.target.careful.load(Ordering::Relaxed);
        let window = if careful { 1 } else { self.target.window };
        let mut first = 0;
        while first < self.batch.len() && self.trouble.is_none() {
            let end = (first + window).min(self.batch.len());
            for chunk in (first..end).step_by(CHUNK) {
                self.send(chunk..end.min(chunk + CHUNK)).await;
            }
            while !self.in_flight.is_empty() && !self.lost {
                self.hear().await;
            }
            self.judge(first..end);
            first = end;
        }
        let refused = self.trouble.as_ref().is_some_and(|error| error.code() == Code::SinkRefused);
        self.target.careful.store(refused, Ordering::Relaxed);
        Ran { is_whole: !self.lost, receipts: self.finish() }
    }

    async fn send(&mut self, indexes: Range<usize>) {
        if self.lost {
            return;
        }
        let (target, batch) = (self.target, self.batch);
        let mut sending = Vec::with_capacity(indexes.len());
        for index in indexes {
            let delivery = &batch[index];
            if !self.stopped.is_empty() && self.stopped.contains(&Lane::of(delivery)) {
                continue;
            }
            match message::encode(delivery, target.message_bytes_max) {
                Ok(properties) => {
                    let mut sent = Box::pin(target.publish(delivery, properties));
                    // Handed over now, in this order; whether it was written is asked later.
                    let written = futures::poll!(&mut sent);
                    sending.push((index, sent, written));
                }
                Err(why) => self.stop(index, Some(Receipt::Refused(why))),
            }
        }
        for (index, sent, written) in sending {
            let written = match written {
                Poll::Ready(written) => Ok(written),
                Poll::Pending => tokio::time::timeout(target.server.timeout(), sent).await,
            };
            match written {
                Ok(Ok(confirm)) => self.in_flight.push_back((index, confirm)),
                Ok(Err(error)) => {
                    let cause = self.cause(error).await;
                    return self.lose(Some(cause)).await;
                }
                // Through a connection that is blocked nothing is written.
                Err(_) => return self.lose(None).await,
            }
        }
    }

    /// What ended the channel, where that was an earlier message: the answer to that one says so, and the
    /// error only that the channel is ending.
    async fn cause(&mut self, error: lapin::Error) -> lapin::Error {
        while let Some((_, confirm)) = self.in_flight.pop_front() {
            let answer = tokio::time::timeout(self.target.server.timeout(), confirm).await;
            if let Ok(Err(said)) = answer
                && matches!(said.kind(), lapin::ErrorKind::ProtocolError(_))
            {
                return said;
            }
        }
        error
    }

    /// Takes in the answer to the oldest message on its way, or finds that none will come.
    async fn hear(&mut self) {
        let Some((index, confirm)) = self.in_flight.pop_front() else { return };
        let returned = match tokio::time::timeout(self.target.server.timeout(), confirm).await {
            Ok(Ok(Confirmation::Ack(returned))) => {
                self.outcomes[index] = Some(Receipt::Accepted);
                returned
            }
            Ok(Ok(Confirmation::Nack(returned))) => {
                self.refuse(index, self.full());
                returned
            }
            Ok(Ok(Confirmation::NotRequested)) => return self.lose(None).await,
            Ok(Err(error)) => return self.lose(Some(error)).await,
            Err(_) => return self.lose(None).await,
        };
        if let Some(returned) = returned {
            self.returned.insert(returned.delivery.properties.message_id().clone());
        }
    }

    /// What is known of a window, once its answers are there: what no queue took was confirmed all the
    /// same. Where some are missing, those messages may be among what was confirmed.
    fn judge(&mut self, window: Range<usize>) {
        if self.lost {
            let known = self.outcomes[window].iter_mut();
            known
                .filter(|known| **known == Some(Receipt::Accepted))
                .for_each(|known| *known = None);
            return;
        }
        if self.returned.is_empty() {
            return;
        }
        for index in window {
            let is_returned = self.returned.contains(&message::id(&self.batch[index]));
            if is_returned && self.outcomes[index] == Some(Receipt::Accepted) {
                self.refuse(index, self.unroutable());
            }
        }
    }

    fn full(&self) -> Error {
        let Target { server, layout, .. } = &self.target;
        let context = format!(
            "the RabbitMQ server {} takes nothing more for stream `{}`: a queue has reached the limit that a policy sets (`rabbitmqctl list_policies`), or too few of its nodes are there; delivery goes on by itself",
            server.address(),
            layout.stream
        );
        Error::new(Code::SinkRefused, context)
    }

    fn unroutable(&self) -> Error {
        let stream = &self.target.layout.stream;
        let context = format!(
            "no queue takes the messages of stream `{stream}`: start a receiver of it, or name those to come in the sink's URL (`consumers=payments,stock`), which makes their queues; delivery goes on by itself"
        );
        Error::new(Code::SinkRefused, context)
    }

    fn stop(&mut self, index: usize, outcome: Option<Receipt>) {
        self.stopped.insert(Lane::of(&self.batch[index]));
        self.outcomes[index] = outcome;
    }

    /// The sink takes nothing now; it is not about this record.
    fn refuse(&mut self, index: usize, error: Error) {
        self.stop(index, None);
        // The first says why; those behind it follow from it.
        self.trouble.get_or_insert(error);
    }

    /// Nothing is known about what is in flight, and nothing will be.
    async fn lose(&mut self, cause: Option<lapin::Error>) {
        self.lost = true;
        let error = match cause {
            Some(cause) => self.ended(cause),
            None => match self.target.server.check_unblocked().await {
                Err(error) => error,
                Ok(()) => {
                    let address = self.target.server.address();
                    let context = format!("the RabbitMQ server {address} confirms nothing");
                    Error::new(Code::SinkUnreachable, context)
                }
            },
        };
        self.trouble.get_or_insert(error);
    }

    /// Why the channel has ended.
    fn ended(&self, cause: lapin::Error) -> Error {
        let Target { server, layout, .. } = &self.target;
        let (address, stream) = (server.address(), &layout.stream);
        let (code, what) = if is_soft(&cause, &AMQPSoftError::NOTFOUND) {
            let what = format!(
                "has no exchange `{stream}`: it was deleted; start the sink again, which makes it"
            );
            (Code::SinkRefused, what)
        } else if is_soft(&cause, &AMQPSoftError::PRECONDITIONFAILED) {
            let what = "ended the channel: an event may be larger than its `max_message_size`; set the option `message_bytes_max` of the sink to that";
            (Code::SinkRefused, what.to_owned())
        } else {
            (Code::SinkUnreachable, "was disconnected".to_owned())
        };
        Error::new(code, format!("the RabbitMQ server {address} {what}")).with_source(cause)
    }

    /// What is known is reported; an error is, only when nothing is known: then nothing is parked, and
    /// the relay sends the batch again after a pause. What is stored behind something that was not taken
    /// is sent again as well, and recognised by its receivers.
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
