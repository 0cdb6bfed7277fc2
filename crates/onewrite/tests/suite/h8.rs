//! H8: several workers take single rows past each other, and events of one key overtake one another.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use onewrite::{
    Delivery, Result,
    broker::{Receipt, Sink},
    other,
    sqlite::rusqlite::OptionalExtension as _,
};
use onewrite_core::BoxFuture;
use onewrite_testkit::history::Verdict;

use crate::rig::{Running, SINK, Source, effect, event, execute, judge, relaying, sound};

/// A slow service without an inbox: what it does first stays done. How long a request takes differs.
#[derive(Clone, Default)]
struct Slow(Arc<Mutex<Vec<(String, String)>>>);

impl Slow {
    async fn take(&self, done: Vec<(String, String)>) {
        for one in done {
            let turn = one.1.bytes().map(u64::from).sum::<u64>();
            tokio::time::sleep(Duration::from_micros(turn * 7919 % 3000)).await;
            self.0.lock().unwrap().push(one);
        }
    }
}

impl Sink for Slow {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(async move {
            self.take(batch.iter().map(|it| effect(&it.record)).collect()).await;
            Ok(vec![Receipt::Accepted; batch.len()])
        })
    }
}

/// Who takes the rows to the slow service.
#[derive(Clone, Copy, PartialEq)]
enum Workers {
    /// Relays, which share the partitions.
    Relays,
    /// Programs that each claim the next row that is free.
    ClaimRows,
}

async fn claim_rows(source: Source, sink: Slow) {
    let claim = "UPDATE todo SET claimed = 1 WHERE n = (SELECT min(n) FROM todo WHERE claimed = 0) RETURNING key, id";
    loop {
        let row = source.0.write(move |tx| {
            tx.query_row(claim, [], |row| Ok((row.get(0)?, row.get(1)?))).optional().map_err(other)
        });
        let Some(row) = row.await.unwrap() else { return };
        sink.take(vec![row]).await;
    }
}

async fn share_the_work(workers: Workers) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(folder.path(), 8, sound()).await;
    // Four events in a row belong together.
    source.place((0..240).map(|n| event(format!("k{}", n / 4), format!("e{n}")))).await;
    let slow = Slow::default();
    if workers == Workers::ClaimRows {
        execute(&source.0, "CREATE TABLE todo AS SELECT n, key, id, 0 AS claimed FROM ledger")
            .await;
        tokio::join!(
            claim_rows(source.clone(), slow.clone()),
            claim_rows(source.clone(), slow.clone())
        );
    } else {
        // Small batches, so that the relays take turns as the workers do.
        let options = || onewrite::RelayOptions { batch_max: 4, ..relaying(SINK, sound()) };
        let relays = ["one", "two", "three"]
            .map(|owner| Running::relay(&source, slow.clone(), options(), owner));
        source.settled(SINK).await;
        for relay in relays {
            relay.stop().await;
        }
    }
    let effects = slow.0.lock().unwrap().clone();
    judge(&source.committed().await, &effects)
}

#[tokio::test(flavor = "multi_thread")]
async fn several_relays_keep_the_order_of_each_key() {
    let verdict = share_the_work(Workers::Relays).await;
    assert_eq!((verdict.lost.count, verdict.out_of_order.count), (0, 0), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_claim_rows_overtake_one_another() {
    let verdict = share_the_work(Workers::ClaimRows).await;
    assert!(verdict.out_of_order.count > 0, "nothing noticed the workers: {verdict}");
}
