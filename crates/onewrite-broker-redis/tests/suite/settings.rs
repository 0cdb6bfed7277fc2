//! What is wrong with a server or a stream is said at once, with its cure.

use std::path::Path;

use onewrite_broker_redis::{RedisSink, RedisSinkOptions};
use onewrite_core::{Code, Error, broker::Sink as _};
use onewrite_testkit::certificates::Certificates;

use crate::rig::{
    Consumer, Orders, Shop, Stream as _, address, ask, assert_clean, reading, server_with, sink,
    until, url,
};

async fn refusal(url: &str) -> Error {
    let options = RedisSinkOptions::from_url(url).unwrap();
    RedisSink::connect(options).await.map(drop).expect_err("it is refused")
}

fn assert_says(error: &Error, code: Code, parts: &[&str]) {
    assert_eq!(error.code(), code, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "`{part}` is missing: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_halves_create_the_same_stream() {
    let (server, folder) = (server_with(&[]).await, tempfile::tempdir().unwrap());
    let consumer = Consumer::open(folder.path()).await;
    let url = format!("{}&lanes=3", url(address(&server), "both"));
    let feed = Orders::feed(&url, reading("payments", consumer.store(), "one")).await;
    assert_eq!(ask::<u16>(&server, "HGET both lanes").await, 3);
    let sink = sink(&url.replace("&lanes=3", "")).await;
    assert_eq!(sink.lanes(), 3, "as the stream has");
    feed.closer().close().await;
    let error = refusal(&url.replace("lanes=3", "lanes=4")).await;
    assert_says(&error, Code::InvalidConfig, &["has 3 lanes and not 4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_another_type_are_refused_and_left_alone() {
    let server = server_with(&[]).await;
    let at = |name: &str| url(address(&server), name);
    for made in ["SET text 7", "HSET said n 8", "RPUSH list:3 x", "SET {last:2}:last x"] {
        ask::<redis::Value>(&server, made).await;
    }
    let cases: [(&str, &[&str]); 4] = [
        ("text", &["another type"]),
        ("said", &["HSET said lanes 8"]),
        ("list", &["`list:3` holds a list", "needs a stream"]),
        ("last", &["`{last:2}:last` holds a string", "needs a hash"]),
    ];
    for (name, parts) in cases {
        // A hash of somebody else's without the field gets it, as a stream that is made does.
        if name == "said" {
            ask::<redis::Value>(&server, "HSET said lanes many").await;
        }
        assert_says(&refusal(&at(name)).await, Code::InvalidConfig, parts);
    }
    assert_eq!(ask::<String>(&server, "GET text").await, "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_weakens_a_promise_is_told() {
    let server = server_with(&["--min-replicas-to-write", "0"]).await;
    let sink = sink(&url(address(&server), "orders")).await;
    let told = async || sink.warnings().await.unwrap();
    let warnings = told().await;
    assert!(
        matches!(&warnings[..], [one] if one.contains("min-replicas-to-write 1")),
        "{warnings:?}"
    );
    for (set, cure) in [
        ("appendfsync everysec", "CONFIG SET appendfsync always"),
        ("appendonly no", "CONFIG SET appendonly yes"),
        ("maxmemory-policy allkeys-lru", "CONFIG SET maxmemory-policy noeviction"),
    ] {
        assert!(!told().await.join("\n").contains(cure), "before it is set");
        ask::<()>(&server, &format!("CONFIG SET {set}")).await;
        assert!(told().await.join("\n").contains(cure), "{set}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_say_is_told_as_well() {
    let server = server_with(&[]).await;
    let user = "ACL SETUSER ann on >s3cret ~* &* +@all -config -info";
    ask::<()>(&server, user).await;
    let sink = sink(&format!("redis://ann:s3cret@{}/orders", address(&server))).await;
    let warnings = sink.warnings().await.unwrap();
    assert!(matches!(&warnings[..], [one] if one.contains("+config|get")), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_named_and_not_printed() {
    let server = server_with(&["--requirepass", "s3cret"]).await;
    let address = address(&server);
    for user in ["", "ann:guess4@", ":guess4@"] {
        let error = refusal(&format!("redis://{user}{address}/orders?timeout=2")).await;
        assert_says(&error, Code::InvalidConfig, &["credentials", &address.to_string()]);
        assert!(!error.to_string().contains("guess4"), "{error}");
    }
    sink(&format!("redis://:s3cret@{address}/orders")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_unreachable() {
    let error = refusal("redis://127.0.0.1:1/orders?timeout=2").await;
    assert_says(&error, Code::SinkUnreachable, &["127.0.0.1:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_named() {
    let server = server_with(&["--cluster-enabled", "yes"]).await;
    let error = refusal(&url(address(&server), "orders")).await;
    assert_says(&error, Code::InvalidConfig, &["Redis Cluster"]);
}

/// The rights that the book names are enough, and no others are needed.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_are_enough() {
    let mut shop = Shop::new().await;
    let stream = shop.broker.name.clone();
    let keys = format!("~{stream} ~{stream}:* ~{{{stream}:*}}:last &onewrite:gap:{stream}");
    let users = [
        format!("ACL SETUSER relay on >s3cret {keys} {RELAY_RIGHTS}"),
        format!("ACL SETUSER receiver on >s3cret {keys} {RECEIVER_RIGHTS}"),
    ];
    for user in &users {
        ask::<()>(&shop.broker.server, user).await;
    }
    let at = |user: &str| {
        format!(
            "redis://{user}:s3cret@{}/{stream}?timeout=1",
            shop.broker.server.url().split('/').next_back().unwrap()
        )
    };
    let publisher = sink(&at("relay")).await;
    publisher.warnings().await.unwrap();
    publisher.marks("shop", onewrite_core::Incarnation(7)).await.unwrap();
    let feed = shop.feed_at(&at("receiver")).await;
    let relay = shop.source.relay(publisher);
    shop.source.place(200, 10).await;
    until("storing", async || shop.source.is_settled().await).await;
    let receiver = shop.consumer.receive(feed);
    assert_clean(&shop.consumer.all_of(&shop.source).await);
    until("trimming", async || shop.broker.stored().await < 20).await;
    let denied: Vec<redis::Value> = ask(&shop.broker.server, "ACL LOG").await;
    assert!(denied.is_empty(), "{denied:?}");
    relay.stop().await;
    receiver.stop().await;
}

/// What a relay needs.
const RELAY_RIGHTS: &str = "+@connection +hget +hset +hsetnx +hgetall +type +eval +evalsha +xadd +subscribe +config|get +info";
/// What a receiver needs; it may announce as well.
const RECEIVER_RIGHTS: &str = "+@connection +hget +hsetnx +type +eval +xinfo +xgroup|create +xreadgroup +xack +xclaim +xautoclaim +xpending +xtrim +publish +info";

/// The book's page names the same rights.
#[test]
fn the_book_names_the_rights() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../book/src/redis.md");
    let page = std::fs::read_to_string(page).unwrap();
    for right in RELAY_RIGHTS.split(' ').chain(RECEIVER_RIGHTS.split(' ')) {
        assert!(page.contains(&format!("`{}`", right.replace('|', "\\|"))), "{right}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified() {
    let certificates = Certificates::make();
    let file = |name: &str| certificates.file(name);
    let tls_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = server_with(&[
        "--tls-port",
        &tls_port.to_string(),
        "--tls-cert-file",
        &file("server.crt"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-auth-clients",
        "no",
        "--tls-ca-cert-file",
        &file("ca.crt"),
    ])
    .await;
    let at = |more: &str| format!("rediss://localhost:{tls_port}/orders?timeout=2{more}");
    sink(&at(&format!("&tls_ca={}", file("ca.crt")))).await;
    // Not by another's certificate, not by the system's, not where nobody speaks TLS.
    let plain = format!("rediss://localhost:{}/orders?timeout=2", server.port());
    for url in [at(&format!("&tls_ca={}", file("other.crt"))), at(""), plain] {
        assert_says(&refusal(&url).await, Code::SinkUnreachable, &["localhost"]);
    }
    let missing = refusal(&at("&tls_ca=/nowhere/ca.crt")).await;
    assert_says(&missing, Code::InvalidConfig, &["`tls_ca`"]);
}
