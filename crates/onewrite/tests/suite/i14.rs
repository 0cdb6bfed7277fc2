//! I14: a copied or restored source goes on with lower numbers under its old name, and receivers drop
//! its new records.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use onewrite::{
    Code,
    inbox::Policy,
    sabotage::{Defect, Sabotage},
    sqlite::{Copied, Options, SqliteStore},
};
use onewrite_testkit::{
    history::Verdict,
    proxy::{Fault, Proxy},
};

use crate::rig::{
    Consumer, Running, SINK, Source, broken, events, http_sink, options, relaying, serve_inbox,
    sound, until,
};

/// A receiver with its address, which stays while sources come and go.
struct Town {
    folder: tempfile::TempDir,
    consumer: Consumer,
    address: SocketAddr,
    _receiver: Running,
}

impl Town {
    async fn new(sabotage: Sabotage) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let consumer = Consumer::open(folder.path()).await;
        let policy = Policy { sabotage, ..Policy::new("payments") };
        let inbox = consumer.inbox_with(policy, |_| Ok(()));
        let (address, feed) = serve_inbox(&inbox).await;
        let receiver = Running::receiver(inbox, feed);
        Self { folder, consumer, address, _receiver: receiver }
    }

    fn options(&self, name: &str, copied: Copied) -> Options {
        let source = Some("shop".into());
        Options { source, copied, ..options(self.folder.path().join(name), 1, sound()) }
    }

    async fn open(&self, name: &str, copied: Copied) -> Source {
        Source::open_with(self.options(name, copied)).await
    }

    /// Opens `shop.db`, commits `count` events, delivers them, and closes it.
    async fn live(&self, prefix: &str, count: usize) {
        let source = self.open("shop.db", Copied::Refuse).await;
        source.place(events(prefix, count, 1)).await;
        let relay = self.relay(&source, sound());
        source.settled(SINK).await;
        relay.stop().await;
    }

    fn refuses(&self, name: &str) {
        let refused = SqliteStore::open(self.options(name, Copied::Refuse)).err().unwrap();
        assert_eq!(refused.code(), Code::StoreCopied);
    }

    fn relay(&self, source: &Source, sabotage: Sabotage) -> Running {
        Running::relay(source, http_sink(self.address), relaying(SINK, sabotage), "one")
    }

    /// Relays for four renewals of the lease: time to settle everything, or to see what is wrong and
    /// stop. Says whether everything is settled.
    async fn relay_or_stop(&self, source: &Source, sabotage: Sabotage) -> bool {
        let relay = self.relay(source, sabotage);
        for _ in 0..4 {
            source.renewed().await;
        }
        let settled = source.is_settled(SINK).await;
        relay.stop().await;
        settled
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The file as a backup takes it: closed, without a log beside it.
fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    for suffix in ["-wal", "-shm"] {
        assert!(!beside(from, suffix).exists(), "the source is closed");
        let _ = fs::remove_file(beside(to, suffix));
    }
}

struct After {
    /// Whether the relay got to the end of the copy's log.
    settled: bool,
    /// What the receiver made of the copy's events.
    verdict: Verdict,
}

/// The file is copied while the service stands; then the original goes on, and so does the copy.
async fn write_to_both(copied: Copied, relay: Sabotage, inbox: Sabotage) -> After {
    let town = Town::new(inbox).await;
    town.live("a", 3).await;
    let (original, twin) = ("shop.db", "twin.db");
    copy(&town.folder.path().join(original), &town.folder.path().join(twin));
    town.live("original", 3).await;
    let source = town.open(twin, copied).await;
    source.place(events("twin", 2, 1)).await;
    let settled = town.relay_or_stop(&source, relay).await;
    let twins = source.committed().await;
    let effects = town.consumer.effects().await;
    let effects: Vec<_> =
        effects.into_iter().filter(|(_, id)| !id.starts_with("original")).collect();
    After { settled, verdict: crate::rig::judge(&twins, &effects) }
}

/// A backup is written back into the file, which keeps its inode and lacks what came since.
async fn restore(town: &Town) {
    let (file, backup) = (town.folder.path().join("shop.db"), town.folder.path().join("backup"));
    town.live("a", 3).await;
    copy(&file, &backup);
    town.live("b", 4).await;
    copy(&backup, &file);
}

/// The service goes on after [`restore`]. The receiver may be out of reach when its marks are asked
/// for.
async fn go_on_from_backup(relay: Sabotage, inbox: Sabotage, in_reach: bool) -> After {
    let mut town = Town::new(inbox).await;
    restore(&town).await;
    let _ = fs::remove_file(town.folder.path().join("shop.db-witness"));
    let source = town.open("shop.db", Copied::Refuse).await;
    source.place(events("new", 2, 1)).await;
    let proxy = Proxy::start(town.address).await.unwrap();
    town.address = proxy.addr();
    if !in_reach {
        proxy.set(Fault::Refuse);
    }
    let back_in_reach = async {
        until("a request", async || proxy.connections() > 0).await;
        proxy.set(Fault::Pass);
    };
    let (settled, ()) = tokio::join!(town.relay_or_stop(&source, relay), back_in_reach);
    let committed = source.committed().await;
    let effects = town.consumer.effects().await;
    let effects: Vec<_> = effects.into_iter().filter(|(_, id)| !id.starts_with('b')).collect();
    After { settled, verdict: crate::rig::judge(&committed, &effects) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_file_is_refused_until_a_person_says_what_it_is() {
    let town = Town::new(sound()).await;
    town.live("a", 3).await;
    copy(&town.folder.path().join("shop.db"), &town.folder.path().join("twin.db"));
    town.refuses("twin.db");
    let forked = write_to_both(Copied::Fork(None), sound(), sound()).await;
    assert!(forked.settled && forked.verdict.is_clean(), "{}", forked.verdict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_under_its_old_name_is_not_delivered() {
    // A person gave the wrong answer: the original is still there.
    let after = write_to_both(Copied::Adopt, sound(), sound()).await;
    assert!(!after.settled, "the copy's events passed for delivered: {}", after.verdict);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_incarnations_a_copy_s_events_are_swallowed() {
    let planted = broken(Defect::NoIncarnation);
    let after = write_to_both(Copied::Adopt, planted, planted).await;
    assert!(after.settled && after.verdict.lost.count == 2, "nothing noticed: {}", after.verdict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_refused_by_what_is_noted_beside_it() {
    let town = Town::new(sound()).await;
    restore(&town).await;
    town.refuses("shop.db");
    let options = town.options("shop.db", Copied::Refuse);
    let planted = Options { sabotage: broken(Defect::NoIncarnation), ..options };
    assert!(SqliteStore::open(planted).is_ok(), "the defect is not what makes the difference");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_without_that_note_stops_its_relay() {
    for in_reach in [true, false] {
        let after = go_on_from_backup(sound(), sound(), in_reach).await;
        assert!(!after.settled, "new events passed for delivered: {}", after.verdict);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_comparison_a_restored_backup_s_events_are_swallowed() {
    let planted = broken(Defect::NoIncarnation);
    let after = go_on_from_backup(planted, planted, true).await;
    assert!(after.settled && after.verdict.lost.count == 2, "nothing noticed: {}", after.verdict);
}
