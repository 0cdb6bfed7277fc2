//! I14: a source that went back in time under its old name is found out by what was appended last.

use std::time::Duration;

use onewrite_core::sabotage::{Defect, Sabotage};
use onewrite_store_sqlite::{Copied, Options, SqliteStore, emit};
use onewrite_testkit::rig::{PARTITIONS, is_settled, relay};

use crate::rig::{Shop, Stream as _, event, sink, until, within};

/// A backup goes on in place of its original, whose later events were published. Says whether its own
/// events passed for delivered, and how many entries there are.
async fn go_on_from_backup(sabotage: Sabotage) -> (bool, u64) {
    let mut shop = Shop::new().await;
    let relaying = shop.source.relay(sink(&shop.broker.url()).await);
    shop.source.place(20, 5).await;
    until("the end of the log", async || shop.source.is_settled().await).await;
    let backup = shop.folder().join("backup.db");
    let original = rusqlite::Connection::open(shop.folder().join("shop.db")).unwrap();
    original.execute("VACUUM INTO ?1", [backup.display().to_string()]).unwrap();
    shop.source.place(20, 5).await;
    until("the end of the log", async || shop.source.is_settled().await).await;
    relaying.stop().await;
    // A person says that the file was moved, which is wrong.
    let options = Options { partitions: PARTITIONS, copied: Copied::Adopt, ..Options::new(backup) };
    let twin = SqliteStore::open(options).unwrap();
    let new = |tx: &rusqlite::Connection| {
        (0..5).try_for_each(|n| emit(tx, &event(format!("k{n}"), format!("new{n}"))).map(drop))
    };
    twin.write(new).await.unwrap();
    let relaying = relay(&twin, sink(&shop.broker.url()).await, sabotage);
    // Four times as long as a lease: time to settle everything, or to see what is wrong and stop.
    let settled = within(Duration::from_secs(2), async || is_settled(&twin).await).await;
    relaying.stop().await;
    (settled, shop.broker.stored().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_source_stops_its_relay() {
    assert_eq!(go_on_from_backup(Sabotage::default()).await, (false, 40));
}

/// The control: without the comparison its events are swallowed.
#[tokio::test(flavor = "multi_thread")]
async fn without_comparison_its_events_are_swallowed() {
    let blind = Sabotage::default().with(Defect::NoIncarnation);
    assert_eq!(go_on_from_backup(blind).await, (true, 40));
}
