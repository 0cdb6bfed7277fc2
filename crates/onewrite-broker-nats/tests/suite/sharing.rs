//! The lanes of a stream are shared by the processes of a receiver.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use onewrite_broker_nats::{NatsFeed, NatsFeedOptions};
use onewrite_core::{Text, store::Store};

use crate::{
    rig::{Consumer, Source, lanes_of, reading, sink, unique, until, url},
    server::Nats,
};

fn options(address: SocketAddr, stream: &str, consumer: &Consumer, owner: &str) -> NatsFeedOptions {
    NatsFeedOptions {
        // What is given back must not need redelivery.
        ack_wait: Duration::from_secs(20),
        ..reading(&url(address, stream), consumer.store(), owner)
    }
}

async fn shared_by(store: &Arc<dyn Store>, wanted: &[(&'static str, usize)]) {
    let wanted: Vec<(Option<Text>, usize)> =
        wanted.iter().map(|(owner, count)| (Some(Text::from_static(owner)), *count)).collect();
    let found = async || lanes_of(store).await == wanted;
    until(&format!("sharing as {wanted:?}"), found).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_go_to_who_joins_and_come_back() {
    let (server, folder) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (mut source, stream) = (Source::open(folder.path()), unique("orders"));
    let consumer = Consumer::open(folder.path()).await;
    let store = consumer.store();
    let relay = source.relay(sink(&url(server.address(), &stream)).await);
    let one = NatsFeed::open(options(server.address(), &stream, &consumer, "one")).await.unwrap();
    shared_by(&store, &[("one", 8)]).await;
    let one_closer = one.closer();
    let first = consumer.receive(one);
    source.place(500, 40).await;
    let two = NatsFeed::open(options(server.address(), &stream, &consumer, "two")).await.unwrap();
    let two_closer = two.closer();
    let second = consumer.receive(two);
    for _ in 0..20 {
        source.place(25, 40).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shared_by(&store, &[("one", 4), ("two", 4)]).await;
    source.place(500, 40).await;
    two_closer.close().await;
    second.stop().await;
    shared_by(&store, &[("one", 8)]).await;
    source.place(100, 40).await;
    let began = std::time::Instant::now();
    let verdict = consumer.all_of(&source).await;
    assert!(verdict.is_clean(), "{verdict}");
    assert!(began.elapsed() < Duration::from_secs(10), "redelivery: {:?}", began.elapsed());
    one_closer.close().await;
    let free = lanes_of(&store).await;
    assert_eq!(free, [(None, 8)], "given back");
    first.stop().await;
    relay.stop().await;
}

#[test]
fn a_dead_process_is_taken_over() {
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let doomed = doomed.unwrap();
    let living = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let handle = doomed.handle().clone();
    living.block_on(async {
        let (server, folder) = (Nats::start().await, tempfile::tempdir().unwrap());
        let (mut source, stream) = (Source::open(folder.path()), unique("orders"));
        let consumer = Arc::new(Consumer::open(folder.path()).await);
        let store = consumer.store();
        let address = server.address();
        let relay = source.relay(sink(&url(address, &stream)).await);
        let ours = reading(&url(address, &stream), consumer.store(), "living");
        let ours = NatsFeed::open(ours).await.unwrap();
        let first = consumer.receive(ours);
        let theirs = Arc::clone(&consumer);
        handle
            .spawn(async move {
                let url = url(address, &stream);
                let feed = NatsFeed::open(reading(&url, theirs.store(), "doomed")).await.unwrap();
                let _ = theirs.receive(feed);
            })
            .await
            .unwrap();
        shared_by(&store, &[("doomed", 4), ("living", 4)]).await;
        source.place(1_000, 40).await;
        // In the middle of it, without a word: nothing is given back and nothing answered.
        until("some effects", async || consumer.effects().await.len() > 100).await;
        doomed.shutdown_background();
        source.place(200, 40).await;
        shared_by(&store, &[("living", 8)]).await;
        let verdict = consumer.all_of(&source).await;
        assert!(verdict.is_clean(), "{verdict}");
        first.stop().await;
        relay.stop().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_feed_ends_and_a_dropped_one_gives_back() {
    let (server, folder) = (Nats::start().await, tempfile::tempdir().unwrap());
    let (consumer, stream) = (Consumer::open(folder.path()).await, unique("orders"));
    let store = consumer.store();
    let feed = NatsFeed::open(options(server.address(), &stream, &consumer, "one")).await.unwrap();
    shared_by(&store, &[("one", 8)]).await;
    drop(feed);
    until("giving back", async || lanes_of(&store).await == [(None, 8)]).await;
}
