//! The lanes of a stream are shared by the processes of a receiver.

use std::{
    env,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use onewrite_core::{Text, store::Store};
use rustix::process::{Pid, Signal, kill_process};

use super::{Shop, Stream, assert_clean, reading};
use crate::{
    child::stands_still,
    rig::{Consumer, PATIENCE, lanes_of, until},
};

/// What is given back, or was held by one that died, must not need to time out at the broker.
async fn feed<B: Stream>(shop: &Shop<B>, owner: &str) -> B::Feed {
    let reading = reading("payments", shop.consumer.store(), owner);
    B::feed(&shop.broker.patient_url(), reading).await
}

async fn shared_by(store: &Arc<dyn Store>, wanted: &[(&'static str, usize)]) {
    let wanted: Vec<(Option<Text>, usize)> =
        wanted.iter().map(|(owner, count)| (Some(Text::from_static(owner)), *count)).collect();
    let found = async || lanes_of(store).await == wanted;
    until(&format!("sharing as {wanted:?}"), found).await;
}

/// Who joins gets half of the lanes, and who leaves gives his back, with what they hold.
pub async fn lanes_go_to_who_joins_and_come_back<B: Stream>() {
    let mut shop = Shop::<B>::new().await;
    let store = shop.consumer.store();
    let one = feed(&shop, "one").await;
    let relay = shop.source.relay(shop.sink().await);
    shared_by(&store, &[("one", 8)]).await;
    let one_closer = B::closer(&one);
    let first = shop.consumer.receive(one);
    shop.source.place(500, 40).await;
    let two = feed(&shop, "two").await;
    let two_closer = B::closer(&two);
    let second = shop.consumer.receive(two);
    for _ in 0..20 {
        shop.source.place(25, 40).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shared_by(&store, &[("one", 4), ("two", 4)]).await;
    shop.source.place(500, 40).await;
    two_closer.close().await;
    second.stop().await;
    shared_by(&store, &[("one", 8)]).await;
    shop.source.place(100, 40).await;
    let began = Instant::now();
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    assert!(began.elapsed() < Duration::from_secs(10), "redelivery: {:?}", began.elapsed());
    one_closer.close().await;
    assert_eq!(lanes_of(&store).await, [(None, 8)], "given back");
    first.stop().await;
    relay.stop().await;
}

/// Who comes and goes while lanes are on their way to him keeps nothing of them.
pub async fn who_comes_and_goes_at_once_keeps_nothing<B: Stream>() {
    let mut shop = Shop::<B>::new().await;
    let receiver = shop.consumer.receive(feed(&shop, "one").await);
    let relay = shop.source.relay(shop.sink().await);
    for round in 0..10 {
        shop.source.place(50, 40).await;
        let two = feed(&shop, "two").await;
        let closer = B::closer(&two);
        // The first looks after its leases every 200 ms, and lets go of half of them then.
        tokio::time::sleep(Duration::from_millis(180 + 20 * round)).await;
        drop(two);
        closer.close().await;
    }
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    receiver.stop().await;
    relay.stop().await;
}

/// Names the URL of the stream to the process that is killed.
const DOOMED_URL: &str = "ONEWRITE_TEST_DOOMED_URL";
/// And the folder of its database.
const DOOMED_FOLDER: &str = "ONEWRITE_TEST_DOOMED_FOLDER";

/// A process that receives; `module` says where its test is, which runs itself as this process.
struct Doomed(Child);

impl Doomed {
    fn start<B: Stream>(shop: &Shop<B>, url: &str, module: &str, test: &str) -> Self {
        let path = module.split_once("::").map_or("", |(_, path)| path);
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([&format!("{path}::{test}"), "--exact", "--nocapture"]);
        command.env(DOOMED_URL, url);
        command.env(DOOMED_FOLDER, shop.folder()).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Stops it, and waits until each of its threads stands still.
    async fn stop(&self) {
        self.signal(Signal::STOP);
        while !stands_still(self.0.id()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A receiver is killed with messages in its hands; what it held comes to the next one `within` this time.
pub async fn a_killed_process_is_taken_over<B: Stream>(within: Duration, module: &str) {
    if let Ok(url) = env::var(DOOMED_URL) {
        return be_doomed::<B>(&url).await;
    }
    let mut shop = Shop::<B>::new().await;
    let url = shop.broker.takeover_url();
    let doomed = Doomed::start(&shop, &url, module, "a_killed_process_is_taken_over");
    let relay = shop.source.relay(shop.sink().await);
    shop.source.place(3_000, 40).await;
    until("some effects", async || shop.consumer.effects().await.len() > 100).await;
    drop(doomed);
    take_over(shop, &url, within).await;
    relay.stop().await;
}

/// A receiver stalls with messages in its hands for longer than its leases hold, and then goes on: what it
/// held comes to who has the lanes now, while it is alive.
pub async fn a_stalled_process_holds_nothing_back<B: Stream>(within: Duration, module: &str) {
    if let Ok(url) = env::var(DOOMED_URL) {
        return be_doomed::<B>(&url).await;
    }
    let mut shop = Shop::<B>::new().await;
    // What is delivered to it while it stalls may have to time out.
    let url = shop.broker.url();
    let doomed = Doomed::start(&shop, &url, module, "a_stalled_process_holds_nothing_back");
    let relay = shop.source.relay(shop.sink().await);
    shop.source.place(3_000, 40).await;
    until("some effects", async || shop.consumer.effects().await.len() > 100).await;
    // Not in the middle of a transaction: that would stop everybody, database and broker alike.
    loop {
        doomed.stop().await;
        let writing = shop.consumer.0.write(|_| Ok(()));
        if tokio::time::timeout(Duration::from_millis(300), writing).await.is_ok() {
            break;
        }
        doomed.signal(Signal::CONT);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let store = shop.consumer.store();
    let waking = tokio::spawn(async move {
        // Its leases run out, and then it finds itself without them.
        while lanes_of(&store).await.iter().any(|(owner, _)| *owner != living()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        doomed.signal(Signal::CONT);
        doomed
    });
    take_over(shop, &url, within).await;
    drop(waking.await.unwrap());
    relay.stop().await;
}

fn living() -> Option<Text> {
    Some(Text::from_static("living"))
}

async fn take_over<B: Stream>(shop: Shop<B>, url: &str, within: Duration) {
    let before = shop.consumer.effects().await.len();
    assert!(before < 3_000, "in the middle of it");
    let reading = reading("payments", shop.consumer.store(), "living");
    let receiver = shop.consumer.receive(B::feed(url, reading).await);
    let began = Instant::now();
    let verdict = shop.consumer.all_of(&shop.source).await;
    if !verdict.is_clean() {
        println!("lanes: {:?}", lanes_of(&shop.consumer.store()).await);
        println!("settled: {}", shop.source.is_settled().await);
    }
    assert_clean(&verdict);
    assert!(began.elapsed() < within, "redelivery: {:?}", began.elapsed());
    receiver.stop().await;
}

async fn be_doomed<B: Stream>(url: &str) {
    let folder = env::var(DOOMED_FOLDER).unwrap();
    let consumer = Consumer::open(Path::new(&folder)).await;
    let feed = B::feed(url, reading("payments", consumer.store(), "doomed")).await;
    let _receiver = consumer.receive(feed);
    // The parent sees to its end; should it be gone, so is the reason to live.
    tokio::time::sleep(2 * PATIENCE).await;
}

/// A feed that is dropped gives its lanes back.
pub async fn a_dropped_feed_gives_back<B: Stream>() {
    let shop = Shop::<B>::new().await;
    let store = shop.consumer.store();
    let feed = feed(&shop, "one").await;
    shared_by(&store, &[("one", 8)]).await;
    drop(feed);
    until("giving back", async || lanes_of(&store).await == [(None, 8)]).await;
}

/// Receivers of the same stream do not take anything from one another.
pub async fn each_receiver_gets_everything<B: Stream>() {
    let mut shop = Shop::<B>::new().await;
    let folder = tempfile::tempdir().unwrap();
    let other = Consumer::open(folder.path()).await;
    let options = reading("stock", other.store(), "other");
    let theirs = other.receive(B::feed(&shop.broker.url(), options).await);
    let ours = shop.consumer.receive(shop.feed().await);
    let relay = shop.source.relay(shop.sink().await);
    shop.source.place(500, 40).await;
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    assert_clean(&other.all_of(&shop.source).await);
    for running in [theirs, ours, relay] {
        running.stop().await;
    }
}
