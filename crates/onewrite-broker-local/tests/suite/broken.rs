//! Brokers that break one promise each: the case of that promise notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use onewrite_broker_local::{MemoryFeed, MemorySink};
use onewrite_core::{
    BoxFuture, Delivery, Incarnation, Result,
    broker::{Arrival, Feed, Mark, Receipt, Sink},
};
use onewrite_testkit::conformance::{self, BrokerFixture};

/// What a broker does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Hands a batch over backwards.
    Backwards,
    /// Says accepted before the receiver has settled.
    Early,
    /// Takes the receiver's silence for consent.
    SilenceIsConsent,
    /// Turns the receipts around.
    Turned,
    /// Says that everything but the third was taken.
    Torn,
    /// Can be used no more after a publish was dropped.
    DeadAfterCancel,
    /// Tells of a mark that the receiver does not have.
    InventedMarks,
    /// Leaves out the last delivery of a batch.
    Loses,
    /// Ends when an arrival was dropped.
    EndsEarly,
    /// Loses the arrival whose `next` was dropped.
    LosesOnCancel,
    /// Hands the deliveries out again.
    TakenTwice,
}

struct Broken(Fault);

impl BrokerFixture for Broken {
    fn pair(&self) -> BoxFuture<'_, (Arc<dyn Sink>, Box<dyn Feed>)> {
        let (sink, feed) = crate::fresh();
        let sink = BrokenSink { fault: self.0, sink, dead: AtomicBool::new(false) };
        let feed = BrokenFeed { fault: self.0, feed, ended: Arc::default() };
        Box::pin(std::future::ready((Arc::new(sink) as _, Box::new(feed) as _)))
    }
}

struct BrokenSink {
    fault: Fault,
    sink: MemorySink,
    dead: AtomicBool,
}

impl Sink for BrokenSink {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        let accepted = vec![Receipt::Accepted; batch.len()];
        Box::pin(async move {
            let mut sent = batch.to_vec();
            match self.fault {
                Fault::Backwards => sent.reverse(),
                Fault::Early => {
                    let sink = self.sink.clone();
                    tokio::spawn(async move { sink.publish(&sent).await.map(drop) });
                    return Ok(accepted);
                }
                Fault::Loses if sent.len() > 1 => drop(sent.pop()),
                Fault::DeadAfterCancel if self.dead.swap(true, Ordering::SeqCst) => {
                    std::future::pending::<()>().await;
                }
                _ => {}
            }
            let receipts = self.sink.publish(&sent).await;
            self.dead.store(false, Ordering::SeqCst);
            let mut receipts = match receipts {
                Err(_) if self.fault == Fault::SilenceIsConsent => accepted,
                receipts => receipts?,
            };
            match self.fault {
                Fault::Turned | Fault::Backwards => receipts.reverse(),
                Fault::Torn => {
                    for (index, receipt) in receipts.iter_mut().enumerate() {
                        *receipt = if index == 2 { Receipt::Blocked } else { Receipt::Accepted };
                    }
                }
                _ => receipts.resize(batch.len(), Receipt::Accepted),
            }
            Ok(receipts)
        })
    }

    fn marks<'a>(&'a self, _: &'a str, _: Incarnation) -> BoxFuture<'a, Result<Option<Vec<Mark>>>> {
        let invented = Mark { partition: 0, sequence: 9, last_id: "e".into() };
        let marks = (self.fault == Fault::InventedMarks).then(|| vec![invented]);
        Box::pin(std::future::ready(Ok(marks)))
    }
}

struct BrokenFeed {
    fault: Fault,
    feed: MemoryFeed,
    ended: Arc<AtomicBool>,
}

impl Feed for BrokenFeed {
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn Arrival>>> {
        Box::pin(async {
            if self.ended.load(Ordering::SeqCst) {
                return None;
            }
            let mut arrival = self.feed.next().await?;
            let (fault, ended) = (self.fault, Arc::clone(&self.ended));
            let late = if fault == Fault::LosesOnCancel {
                // Settled before anyone has it.
                let deliveries = arrival.take();
                arrival.settle(vec![Receipt::Accepted; deliveries.len()]).await.ok()?;
                tokio::time::sleep(Duration::from_millis(2)).await;
                Late { arrival: None, deliveries, fault, ended }
            } else {
                Late { arrival: Some(arrival), deliveries: Vec::new(), fault, ended }
            };
            Some(Box::new(late) as Box<dyn Arrival>)
        })
    }
}

/// An arrival, or what is left of one that is settled already.
struct Late {
    arrival: Option<Box<dyn Arrival>>,
    deliveries: Vec<Delivery>,
    fault: Fault,
    ended: Arc<AtomicBool>,
}

impl Arrival for Late {
    fn take(&mut self) -> Vec<Delivery> {
        if let Some(arrival) = &mut self.arrival {
            let deliveries = arrival.take();
            if !deliveries.is_empty() {
                self.deliveries.clone_from(&deliveries);
            }
            let again = self.fault == Fault::TakenTwice;
            return if again { self.deliveries.clone() } else { deliveries };
        }
        std::mem::take(&mut self.deliveries)
    }

    fn settle(mut self: Box<Self>, receipts: Vec<Receipt>) -> BoxFuture<'static, Result<()>> {
        match self.arrival.take() {
            Some(arrival) => arrival.settle(receipts),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        if self.arrival.is_some() && self.fault == Fault::EndsEarly {
            self.ended.store(true, Ordering::SeqCst);
        }
    }
}

macro_rules! notices {
    ($($name:ident: $fault:ident, $half:ident::$case:ident, $complaint:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let case = async { conformance::$half::$case(&Broken(Fault::$fault)).await };
            let complaint = conformance::complaint(case).await;
            assert!(complaint.contains($complaint), "for another reason: {complaint}");
        })*
    };
}

notices! {
    a_batch_backwards: Backwards, sink::order, "order: what arrives";
    arrivals_backwards: Backwards, feed::order, "order: what arrived";
    receipts_before_the_receiver: Early, sink::durable, "durable: receipts before";
    silence_taken_for_consent: SilenceIsConsent, sink::unknown, "unknown: settled although";
    receipts_turned_around: Turned, sink::aligned, "aligned: each receipt";
    settled_behind_an_unsettled_one: Torn, sink::prefix, "prefix: ";
    dead_after_a_dropped_publish: DeadAfterCancel, sink::cancel, "did not happen";
    marks_nobody_has: InventedMarks, sink::marks, "marks: ";
    a_delivery_left_out: Loses, sink::aligned, "aligned: what arrives";
    what_was_dropped_is_not_sent_again: SilenceIsConsent, feed::redelivery, "did not happen";
    an_early_end: EndsEarly, feed::no_early_end, "no early end";
    an_arrival_lost_with_its_future: LosesOnCancel, feed::cancel, "cancel: ";
    deliveries_handed_out_twice: TakenTwice, feed::taken_once, "taken once: the second call";
}
