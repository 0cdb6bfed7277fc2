//! I6: event n+1 is acknowledged before n in a cumulative position, and n is lost with the next
//! restart.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use onewrite::{
    Delivery, Result,
    broker::{Receipt, Sink},
    sabotage::{Defect, Sabotage},
};
use onewrite_core::BoxFuture;
use onewrite_testkit::history::Verdict;

use crate::rig::{Running, SINK, Source, broken, effect, events, judge, relaying, sound, until};

/// A service that handles a batch's events side by side and says of each whether it is done. Which
/// ones are done differs from request to request.
#[derive(Clone, Default)]
struct SideBySide {
    done: Arc<Mutex<Vec<(String, String)>>>,
    requests: Arc<AtomicU64>,
}

impl Sink for SideBySide {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        let request = self.requests.fetch_add(1, Ordering::SeqCst);
        let mut done = self.done.lock().unwrap();
        let receipts = batch.iter().enumerate().map(|(index, delivery)| {
            let effect = effect(&delivery.record);
            // The service knows its own; only the first answer is at stake.
            if done.contains(&effect) {
                return Receipt::Duplicate;
            }
            if (request * 3 + index as u64 * 5) % 7 < 3 {
                return Receipt::Retry("still at it".into());
            }
            done.push(effect);
            Receipt::Accepted
        });
        let receipts = receipts.collect();
        Box::pin(std::future::ready(Ok(receipts)))
    }
}

/// The relay dies after each few answers; the next one goes on from the cursor.
async fn complete_in_any_order(sabotage: Sabotage) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 1, sound()).await;
    source.place(events("e", 30, 4)).await;
    let service = SideBySide::default();
    for _ in 0..3 {
        let seen = service.requests.load(Ordering::SeqCst);
        let options = onewrite::RelayOptions { attempts_max: u32::MAX, ..relaying(SINK, sabotage) };
        let relay = Running::relay(&source, service.clone(), options, "one");
        until("a few answers", async || {
            let few = service.requests.load(Ordering::SeqCst) >= seen + 3;
            few || source.is_settled(SINK).await
        })
        .await;
        relay.crash().await;
    }
    let options = onewrite::RelayOptions { attempts_max: u32::MAX, ..relaying(SINK, sabotage) };
    let relay = Running::relay(&source, service.clone(), options, "one");
    source.settled(SINK).await;
    relay.stop().await;
    let done = service.done.lock().unwrap().clone();
    judge(&source.committed().await, &done)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_stops_before_the_first_event_that_is_not_done() {
    let verdict = complete_in_any_order(sound()).await;
    assert_eq!((verdict.lost.count, verdict.duplicated.count), (0, 0), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_passes_a_failure_loses_it() {
    let verdict = complete_in_any_order(broken(Defect::AckPastFailure)).await;
    assert!(verdict.lost.count > 0, "nothing noticed: {verdict}");
}
