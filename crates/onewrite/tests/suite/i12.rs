//! I12: a record is lost or overtaken on the way; in a sequence with holes that looks like an ordinary
//! hole, and the record is dropped when it does arrive.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, extract::State, routing::post};
use onewrite::{
    Delivery, RelayOptions,
    broker::{Receipt, Sink as _},
    cloudevents,
    http::{HttpSink, protocol},
    sabotage::{Defect, Sabotage},
};
use onewrite_testkit::history::Verdict;

use crate::rig::{
    Consumer, Running, SINK, Source, broken, event, events, http_sink, relaying, serve,
    serve_inbox, sound,
};

const EVENTS: usize = 240;
const KEYS: usize = 12;

/// A mailman that takes batches over, and loses, delays or swaps single events of them.
struct Mailman {
    onward: HttpSink,
    state: Mutex<Bag>,
}

#[derive(Default)]
struct Bag {
    /// Moves on with each event: decides what happens to it.
    dice: u64,
    /// Said to be delivered, and still in the bag.
    late: Vec<Delivery>,
    faults: u32,
    honest: bool,
}

impl Bag {
    /// What is handed on of `batch`: positions in it, in this order, after what was late.
    fn shuffle(&mut self, batch: &[Delivery]) -> Vec<usize> {
        let mut onward: Vec<usize> = Vec::new();
        for (index, delivery) in batch.iter().enumerate() {
            self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            match self.dice >> 59 {
                _ if self.honest => onward.push(index),
                0 => {}
                1 => self.late.push(delivery.clone()),
                2 if !onward.is_empty() => onward.insert(onward.len() - 1, index),
                _ => {
                    onward.push(index);
                    continue;
                }
            }
            self.faults += u32::from(!self.honest);
        }
        onward
    }
}

async fn carry(State(mailman): State<Arc<Mailman>>, body: Bytes) -> String {
    let batch = cloudevents::decode_batch(&body).unwrap();
    let (late, onward) = {
        let mut state = mailman.state.lock().unwrap();
        (std::mem::take(&mut state.late), state.shuffle(&batch))
    };
    for delivery in late {
        mailman.onward.publish(&[delivery]).await.unwrap();
    }
    // What never arrives is said to be accepted.
    let mut receipts = vec![Receipt::Accepted; batch.len()];
    let handed: Vec<Delivery> = onward.iter().map(|index| batch[*index].clone()).collect();
    if !handed.is_empty() {
        let answer = mailman.onward.publish(&handed).await.unwrap();
        onward.into_iter().zip(answer).for_each(|(index, receipt)| receipts[index] = receipt);
    }
    protocol::write_receipts(&receipts)
}

/// Returns the verdict, and how many events the mailman mistreated.
async fn deliver(sabotage: Sabotage) -> (Verdict, u32) {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 4, sound()).await;
    let consumer = Consumer::open(folder.path()).await;
    let inbox = consumer.inbox(sabotage);
    let (address, feed) = serve_inbox(&inbox).await;
    let receiver = Running::receiver(inbox, feed);
    let mailman = Arc::new(Mailman { onward: http_sink(address), state: Mutex::default() });
    let router = Router::new().route("/", post(carry)).with_state(Arc::clone(&mailman));
    let options = RelayOptions { batch_max: 16, ..relaying(SINK, sound()) };
    let relay = Running::relay(&source, http_sink(serve(router).await), options, "one");
    source.place(events("e", EVENTS, KEYS)).await;
    source.settled(SINK).await;
    // The last one of a stream has no successor that tells of it: each key gets one, honestly.
    mailman.state.lock().unwrap().honest = true;
    source.place((0..KEYS).map(|n| event(format!("k{n}"), format!("last-{n}")))).await;
    source.settled(SINK).await;
    relay.stop().await;
    receiver.stop().await;
    let faults = mailman.state.lock().unwrap().faults;
    (consumer.verdict(&source).await, faults)
}

#[tokio::test(flavor = "multi_thread")]
async fn records_lost_or_overtaken_on_the_way_are_sent_again() {
    let (verdict, faults) = deliver(sound()).await;
    assert!(faults >= 10, "only {faults} events were mistreated");
    assert!(verdict.is_clean(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_chain_a_loss_passes_for_a_hole() {
    let (verdict, _) = deliver(broken(Defect::NoChain)).await;
    assert!(verdict.lost.count > 0, "nothing noticed: {verdict}");
}
