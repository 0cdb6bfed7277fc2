//! One call of publish: messages are handed to the client, confirmations come back in any order.
//!
//! The client sends them in batches to each of Kafka's partitions, numbered, so that what it sends again by
//! itself is stored once and in order.

use std::{collections::HashSet, time::Duration};

use onewrite_core::{
    Code, Delivery, Error, Result, Text,
    broker::{self, Receipt},
    inbox::Lane,
    record::Order,
};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::BaseRecord,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{
    KafkaSinkOptions, message,
    producer::{Outcome, Producer, Ticket},
    sink::PartitionBy,
    stream::Layout,
};

/// How long room in the client is waited for before it is looked for again.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where and how one call publishes.
pub(crate) struct Target<'a> {
    pub(crate) producer: &'a Producer,
    pub(crate) layout: &'a Layout,
    pub(crate) options: &'a KafkaSinkOptions,
}

/// One call.
pub(crate) struct Run<'a> {
    target: Target<'a>,
    batch: &'a [Delivery],
    outcomes: UnboundedReceiver<Outcome>,
    reply_to: UnboundedSender<Outcome>,
    /// What is known of each delivery.
    known: Vec<Option<Receipt>>,
    in_flight: usize,
    /// Keys with a message on its way, where the key decides the partition.
    busy: HashSet<&'a str>,
    /// Partitions of which something was not taken: nothing more of them is sent.
    stopped: HashSet<Lane>,
    /// Messages that were refused together with others for their size: each is sent once more, alone.
    suspects: Vec<usize>,
    /// Whether what is sent now is alone.
    alone: bool,
    /// Why nothing more is sent at all.
    trouble: Option<Error>,
    /// Whether the end of the call was reached: if not, something may still be on its way.
    done: bool,
}

impl<'a> Run<'a> {
    pub(crate) fn new(target: Target<'a>, batch: &'a [Delivery]) -> Self {
        let (reply_to, outcomes) = unbounded_channel();
        Self {
            target,
            batch,
            outcomes,
            reply_to,
            known: vec![None; batch.len()],
            in_flight: 0,
            busy: HashSet::new(),
            stopped: HashSet::new(),
            suspects: Vec::new(),
            alone: false,
            trouble: None,
            done: false,
        }
    }

    /// Publishes the batch.
    pub(crate) async fn run(mut self) -> Result<Vec<Receipt>> {
        for index in 0..self.batch.len() {
            self.wait_for_turn(index).await;
            self.send(index).await;
            if self.trouble.is_some() {
                break;
            }
        }
        self.hear_all().await;
        self.send_suspects().await;
        self.done = self.in_flight == 0;
        self.finish()
    }

    fn by_key(&self) -> bool {
        self.target.options.partition_by == PartitionBy::Key
    }

    /// Waits until a message may go: there is room, and where the key decides, the one before it of its
    /// key is confirmed.
    async fn wait_for_turn(&mut self, index: usize) {
        self.hear_ready();
        let key = &**self.batch[index].record.event.order_key();
        while self.trouble.is_none()
            && (self.in_flight >= self.target.options.window.max(1)
                || (self.by_key() && self.busy.contains(key)))
        {
            self.hear().await;
        }
    }

    /// Hands a message to the client.
    async fn send(&mut self, index: usize) {
        let batch: &'a [Delivery] = self.batch;
        let delivery = &batch[index];
        let is_stopped = !self.stopped.is_empty() && self.stopped.contains(&Lane::of(delivery));
        if self.trouble.is_some() || (is_stopped && !self.alone) {
            return;
        }
        let by_key = self.by_key();
        let (mut headers, value) = match by_key {
            true => message::encode(&Delivery { order: Order::ById, ..delivery.clone() }),
            false => message::encode(delivery),
        };
        let key: &'a str = delivery.record.event.order_key();
        loop {
            match self.enqueue(index, headers, &value) {
                Ok(()) => break,
                Err((RDKafkaErrorCode::QueueFull, returned)) => {
                    headers = returned;
                    self.hear().await;
                    if self.trouble.is_some() {
                        return;
                    }
                }
                Err((RDKafkaErrorCode::MessageSizeTooLarge, _)) => {
                    return self.refuse(index);
                }
                Err((code, _)) => {
                    return self.refuse_all(index, KafkaError::MessageProduction(code));
                }
            }
        }
        self.in_flight += 1;
        if by_key {
            self.busy.insert(key);
        }
    }

    fn enqueue(
        &self,
        index: usize,
        headers: OwnedHeaders,
        value: &[u8],
    ) -> Result<(), (RDKafkaErrorCode, OwnedHeaders)> {
        let Target { producer, layout, options } = &self.target;
        let record = &self.batch[index].record;
        let ticket = Box::new(Ticket { outcomes: self.reply_to.clone(), index });
        let mut message = BaseRecord::with_opaque_to(&layout.stream, ticket);
        message = message.key(&**record.event.order_key()).payload(value).headers(headers);
        if options.partition_by == PartitionBy::Partition {
            message = message.partition(i32::from(layout.lane_of(record.partition)));
        }
        producer
            .send(message)
            .map_err(|(code, message)| (code, message.headers.unwrap_or_default()))
    }

    /// Sends what was refused for its size once more, each message alone: a batch is refused as a whole.
    async fn send_suspects(&mut self) {
        self.alone = true;
        let mut suspects = std::mem::take(&mut self.suspects);
        suspects.sort_unstable();
        for index in suspects {
            self.send(index).await;
            self.hear_all().await;
        }
    }

    async fn hear_all(&mut self) {
        while self.in_flight > 0 && self.target.producer.is_usable() {
            self.hear().await;
        }
    }

    /// Takes in the next outcome. Each message has one in the end, if only that its time is over.
    async fn hear(&mut self) {
        if self.in_flight == 0 {
            // Other calls have filled the client.
            tokio::time::sleep(LOOK_EVERY).await;
            return;
        }
        let limit = 3 * self.target.producer.timeout();
        match tokio::time::timeout(limit, self.outcomes.recv()).await {
            Ok(Some(outcome)) => self.take(outcome),
            Ok(None) | Err(_) => {
                self.target.producer.end();
                self.trouble.get_or_insert_with(|| {
                    Error::new(Code::SinkUnreachable, "the Kafka client confirms nothing")
                });
            }
        }
        self.hear_ready();
    }

    /// Takes in the outcomes that are there.
    fn hear_ready(&mut self) {
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.take(outcome);
        }
    }

    fn take(&mut self, outcome: Outcome) {
        let Outcome { index, error } = outcome;
        self.in_flight -= 1;
        if !self.busy.is_empty() {
            self.busy.remove(&**self.batch[index].record.event.order_key());
        }
        let Some(error) = error else {
            self.known[index] = Some(Receipt::Accepted);
            return;
        };
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) if self.alone => self.refuse(index),
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                self.suspects.push(index);
                if self.by_key() {
                    // Nothing else would keep what follows of its key behind it.
                    self.stopped.insert(Lane::of(&self.batch[index]));
                }
            }
            _ => self.refuse_all(index, error),
        }
    }

    /// The record itself is not taken.
    fn refuse(&mut self, index: usize) {
        let bytes = self.batch[index].record.event.size();
        let max = self.target.options.message_bytes_max;
        let reason: Text = format!(
            "OW0005: the event takes {bytes} bytes and the sink sends up to {max} in a message (`message_bytes_max`), the topic may take less; raise that and the topic's `max.message.bytes`, or emit a reference"
        )
        .into();
        self.stopped.insert(Lane::of(&self.batch[index]));
        self.known[index] = Some(Receipt::Refused(reason));
    }

    /// The sink takes nothing now; it is not about this record.
    fn refuse_all(&mut self, index: usize, error: KafkaError) {
        self.stopped.insert(Lane::of(&self.batch[index]));
        let trouble = self.target.producer.trouble(&self.target.layout.stream, error);
        // The first says why; those behind it follow from it.
        self.trouble.get_or_insert(trouble);
    }

    /// What is known is reported; an error is, only when nothing is known: then nothing is parked, and
    /// the relay sends the batch again after a pause. What is stored behind something that was not taken
    /// is sent again as well, and recognised by its receiver.
    fn finish(mut self) -> Result<Vec<Receipt>> {
        if self.known.iter().all(Option::is_none)
            && let Some(error) = self.trouble.take()
        {
            return Err(error);
        }
        let known = std::mem::take(&mut self.known);
        let mut receipts: Vec<Receipt> =
            known.into_iter().map(|known| known.unwrap_or(Receipt::Blocked)).collect();
        broker::keep_prefix(self.batch, &mut receipts);
        Ok(receipts)
    }
}

/// A call that is given up leaves messages on their way: their client is not used again, and throws them
/// away.
impl Drop for Run<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.target.producer.end();
        }
    }
}
