//! What is wrong with a server or a stream is said at once, with its cure.

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use onewrite_broker_nats::{NatsFeed, NatsFeedOptions, NatsSink, NatsSinkOptions};
use onewrite_core::{Code, Error, broker::Sink as _};

use crate::{
    rig::{Consumer, client, reading, unique, url},
    server::Nats,
};

async fn refusal(url: &str) -> Error {
    let options = NatsSinkOptions::from_url(url).unwrap();
    NatsSink::connect(options).await.map(drop).expect_err("it is refused")
}

fn assert_says(error: &Error, code: Code, parts: &[&str]) {
    assert_eq!(error.code(), code, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "`{part}` is missing: {error}");
    }
}

/// A stream that is fine but for what the tests change.
fn stream(name: &str) -> Config {
    Config {
        name: name.into(),
        subjects: vec![format!("{name}.>")],
        description: Some("onewrite lanes=8".into()),
        ..Config::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_memory_is_refused_and_can_be_allowed() {
    let server = Nats::start().await;
    let (name, folder) = (unique("memory"), tempfile::tempdir().unwrap());
    let config = Config { storage: StorageType::Memory, ..stream(&name) };
    client(server.address()).await.create_stream(config).await.unwrap();
    let url = url(server.address(), &name);
    let cure = ["in memory", "--storage file", "allow_memory=true"];
    assert_says(&refusal(&url).await, Code::UnsafeSetting, &cure);
    let consumer = Consumer::open(folder.path()).await;
    let feed = NatsFeed::open(
        NatsFeedOptions::from_url(&url, reading("payments", consumer.store(), "one")).unwrap(),
    )
    .await;
    assert_says(&feed.map(drop).unwrap_err(), Code::UnsafeSetting, &cure);
    let allowed = crate::rig::sink(&format!("{url}&allow_memory=true")).await;
    let warnings = allowed.warnings().await.unwrap();
    assert!(warnings.iter().any(|warning| warning.contains("in memory")), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_another_layout_are_refused() {
    let server = Nats::start().await;
    let context = client(server.address()).await;
    let cases: [(Config, &str, Code, &[&str]); 4] = [
        (stream("lanes"), "&lanes=4", Code::InvalidConfig, &["has 8 lanes and not 4"]),
        (
            Config { subjects: vec!["other.*".into()], ..stream("subjects") },
            "",
            Code::InvalidConfig,
            &["subjects.>", "nats stream edit"],
        ),
        (
            Config { description: Some("ours".into()), ..stream("said") },
            "",
            Code::InvalidConfig,
            &["onewrite lanes=8"],
        ),
        (
            Config { retention: RetentionPolicy::Interest, ..stream("interest") },
            "",
            Code::UnsafeSetting,
            &["--retention limits"],
        ),
    ];
    for (config, more, code, parts) in cases {
        let name = config.name.clone();
        context.create_stream(config).await.unwrap();
        let error = refusal(&format!("{}{more}", url(server.address(), &name))).await;
        assert_says(&error, code, parts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_weakens_a_promise_is_told() {
    let server = Nats::start().await;
    let plain = crate::rig::sink(&url(server.address(), "plain")).await;
    let warnings = plain.warnings().await.unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("power cut") && warnings[0].contains("replicas"), "{warnings:?}");

    let config = Config {
        discard: DiscardPolicy::Old,
        max_bytes: 1_000_000,
        max_age: std::time::Duration::from_secs(3600),
        duplicate_window: std::time::Duration::from_secs(10),
        max_messages_per_subject: 1000,
        ..stream("weak")
    };
    client(server.address()).await.create_stream(config).await.unwrap();
    let weak = crate::rig::sink(&url(server.address(), "weak")).await;
    let warnings = weak.warnings().await.unwrap().join("\n");
    for cure in ["--discard new", "--max-age 7d", "--dupe-window 2m", "--max-msgs-per-subject=-1"] {
        assert!(warnings.contains(cure), "`{cure}` is missing: {warnings}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_jetstream_is_named() {
    let server = Nats::start_with("jetstream: disabled").await;
    let error = refusal(&url(server.address(), "orders")).await;
    assert_says(&error, Code::InvalidConfig, &["no JetStream", "--jetstream"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_named_and_not_printed() {
    let server = Nats::start_with("authorization { user: ann, password: s3cret }").await;
    let address = server.address();
    for user in ["", "ann:guess4@", "guess4@"] {
        let error = refusal(&format!("nats://{user}{address}/orders?timeout=2")).await;
        assert_says(&error, Code::InvalidConfig, &["credentials", &address.to_string()]);
        assert!(!error.to_string().contains("guess4"), "{error}");
    }
    crate::rig::sink(&format!("nats://ann:s3cret@{address}/orders")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_unreachable() {
    let error = refusal("nats://127.0.0.1:1/orders?timeout=2").await;
    assert_says(&error, Code::SinkUnreachable, &["127.0.0.1:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_halves_create_the_same_stream() {
    let server = Nats::start().await;
    let folder = tempfile::tempdir().unwrap();
    let consumer = Consumer::open(folder.path()).await;
    let url = format!("{}&lanes=3&max_age=2d&max_bytes=1000000", url(server.address(), "both"));
    let feed = NatsFeed::open(
        NatsFeedOptions::from_url(&url, reading("payments", consumer.store(), "one")).unwrap(),
    )
    .await
    .unwrap();
    let context = client(server.address()).await;
    let config = context.get_stream("both").await.unwrap().cached_info().config.clone();
    assert_eq!((config.storage, config.discard), (StorageType::File, DiscardPolicy::New));
    assert_eq!(config.max_age, std::time::Duration::from_secs(2 * 24 * 3600));
    assert_eq!((config.max_bytes, config.duplicate_window.as_secs()), (1_000_000, 120));
    let sink = crate::rig::sink(&url.replace("lanes=3&", "")).await;
    assert_eq!(sink.lanes(), 3, "as the stream has");
    feed.closer().close().await;
}
