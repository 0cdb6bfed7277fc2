//! What is wrong with a server or a stream is said at once, with its cure.

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::FieldTable,
};
use onewrite_broker_rabbitmq::{RabbitSink, RabbitSinkOptions, StreamOptions, remove};
use onewrite_core::{Code, Error};
use onewrite_testkit::{
    certificates::Certificates,
    server::Rabbitmq,
    streams::{Shop, Stream as _},
};

use crate::rig::{Orders, sink};

async fn refusal(url: &str) -> Error {
    let options = RabbitSinkOptions::from_url(url).unwrap();
    RabbitSink::connect(options).await.map(drop).expect_err("it is refused")
}

fn assert_says(error: &Error, code: Code, parts: &[&str]) {
    assert_eq!(error.code(), code, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "`{part}` is missing: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_halves_create_the_same_stream() {
    let shop = Shop::<Orders>::new().await;
    let url = format!("{}&lanes=3", shop.broker.url());
    let feed = shop.feed_at(&url).await;
    assert_eq!(sink(&shop.broker.url()).await.lanes(), 3, "as the stream has");
    feed.closer().close().await;
    let error = refusal(&url.replace("lanes=3", "lanes=4")).await;
    assert_says(&error, Code::InvalidConfig, &["has 3 lanes and not 4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_can_be_made_anew() {
    let orders = Orders::start().await;
    let url = format!("{}&lanes=3", orders.url());
    sink(&url).await;
    let options =
        StreamOptions { port: orders.port, ..StreamOptions::new("127.0.0.1", orders.name.clone()) };
    remove(&options, &["payments"]).await.unwrap();
    remove(&options, &["payments"]).await.unwrap();
    assert_eq!(sink(&url.replace("lanes=3", "lanes=5")).await.lanes(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_others_is_refused_and_left_alone() {
    let orders = Orders::start().await;
    let (name, channel) = (&orders.name, orders.channel().await);
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let (exchange, table) = (format!("{name}-a"), FieldTable::default());
    channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, table).await.unwrap();
    for queue in [format!("{name}-b.lanes"), format!("{name}-c.payments.2")] {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
    }
    let cases: [(&str, &[&str]); 3] = [
        ("a", &["is no durable direct exchange", "name the stream otherwise"]),
        ("b", &["is not one of a stream's lanes", "remove the queue"]),
        ("c", &["payments.2` is no quorum queue", "name the consumer otherwise"]),
    ];
    for (suffix, parts) in cases {
        let url = orders.url().replace(name, &format!("{name}-{suffix}"));
        assert_says(&refusal(&url).await, Code::InvalidConfig, parts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_said() {
    let orders = Orders::start().await;
    let at = format!("127.0.0.1:{}", orders.port);
    let wrong = refusal(&format!("amqp://ann:secret@{at}/S")).await;
    assert_says(&wrong, Code::InvalidConfig, &["refuses these credentials", "user:password@"]);
    assert!(!wrong.to_string().contains("secret"), "{wrong}");
    let unknown = refusal(&format!("amqp://{at}/nowhere/S")).await;
    assert_says(&unknown, Code::InvalidConfig, &["virtual host", "add_vhost"]);
    let none = refusal("amqp://127.0.0.1:1/S?timeout=2").await;
    assert_says(&none, Code::SinkUnreachable, &["127.0.0.1:1 cannot be connected to"]);
    let nobody =
        refusal(&format!("{}&consumers=a.b", orders.url().replace("&consumers=payments", "")))
            .await;
    assert_says(&nobody, Code::InvalidConfig, &["`a.b`", "names no receiver"]);
}

/// The rights that the book's page names are enough, and a user without them hears what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_the_least_rights_can_work() {
    let mut shop = Shop::on(Orders::alone().await).await;
    let (server, name) = (shop.broker.server(), &shop.broker.name);
    let rights = format!("^({name}(\\..*)?|amq\\.gen.*)$");
    for words in [
        vec!["add_user", "ann", "secret"],
        vec!["set_permissions", "ann", &rights, &rights, &rights],
        vec!["add_user", "eve", "secret"],
        vec!["set_permissions", "eve", "^$", "^$", "^$"],
    ] {
        server.ctl(&words).await.unwrap();
    }
    let plain = shop.broker.url();
    let url = |user: &str| plain.replace("amqp://", &format!("amqp://{user}:secret@"));
    shop.source.place(20, 5).await;
    let relay = shop.source.relay(sink(&url("ann")).await);
    let receiver = shop.consumer.receive(shop.feed_at(&url("ann")).await);
    onewrite_testkit::streams::assert_clean(&shop.consumer.all_of(&shop.source).await);
    relay.stop().await;
    receiver.stop().await;
    assert_says(&refusal(&url("eve")).await, Code::InvalidConfig, &["lacks a right"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified() {
    let certificates = Certificates::make();
    let file = |name: &str| certificates.file(name);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = [
        format!("listeners.ssl.1 = 127.0.0.1:{port}"),
        format!("ssl_options.cacertfile = {}", file("ca.crt")),
        format!("ssl_options.certfile = {}", file("server.crt")),
        format!("ssl_options.keyfile = {}\n", file("server.key")),
    ];
    let server = Rabbitmq::start_with(&settings.join("\n")).await.expect("a server with TLS");
    let at = |more: &str| format!("amqps://localhost:{port}/orders?timeout=5{more}");
    sink(&at(&format!("&tls_ca={}", file("ca.crt")))).await;
    let plain = format!("amqps://localhost:{}/orders?timeout=5", server.port());
    for url in [at(&format!("&tls_ca={}", file("other.crt"))), at(""), plain] {
        assert_says(&refusal(&url).await, Code::SinkUnreachable, &["localhost"]);
    }
    let missing = refusal(&at("&tls_ca=/nowhere/ca.crt")).await;
    assert_says(&missing, Code::InvalidConfig, &["`tls_ca`"]);
}
