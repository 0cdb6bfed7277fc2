//! What the tests share: a stream on a real server.

use std::net::{Ipv4Addr, SocketAddr};

use futures::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions,
        BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use onewrite_broker_rabbitmq::{
    Announcement, Closer, RabbitFeed, RabbitFeedOptions, RabbitSink, RabbitSinkOptions, Reading,
    gap_exchange,
};
pub(crate) use onewrite_testkit::rig::{event, unique, until};
use onewrite_testkit::{
    server::{Rabbitmq, shared_rabbitmq},
    streams::{Crash, Stream},
};
use tokio::sync::mpsc;

/// A stream whose sink makes the queues of the receiver `payments`.
pub(crate) struct Orders {
    pub(crate) port: u16,
    pub(crate) name: String,
    own: Option<Rabbitmq>,
}

impl Orders {
    /// On a server of its own, with this added to its configuration.
    pub(crate) async fn alone_with(config: &str) -> Self {
        let server = Rabbitmq::start_with(config).await.expect("a RabbitMQ server starts");
        Self { port: server.port(), name: unique("orders"), own: Some(server) }
    }

    pub(crate) fn server(&self) -> &Rabbitmq {
        self.own.as_ref().expect("a server of its own")
    }

    pub(crate) async fn channel(&self) -> Channel {
        channel(self.port).await
    }
}

/// Messages in a queue, those that somebody holds not among them.
pub(crate) async fn ready_in(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel
        .queue_declare(queue.into(), passive, FieldTable::default())
        .await
        .unwrap()
        .message_count()
}

/// A channel for looking and for disturbing.
pub(crate) async fn channel(port: u16) -> Channel {
    let url = format!("amqp://127.0.0.1:{port}/%2f");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    connection.create_channel().await.unwrap()
}

/// A sink for a stream.
pub(crate) async fn sink(url: &str) -> RabbitSink {
    RabbitSink::connect(RabbitSinkOptions::from_url(url).unwrap()).await.unwrap()
}

impl Stream for Orders {
    type Sink = RabbitSink;
    type Feed = RabbitFeed;

    async fn start() -> Self {
        let port = shared_rabbitmq().await.expect("a RabbitMQ server").port();
        Self { port, name: unique("orders"), own: None }
    }

    async fn alone() -> Self {
        Self::alone_with("").await
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    fn url_at(&self, address: SocketAddr) -> String {
        format!("amqp://{address}/{}?timeout=2&heartbeat=2&consumers=payments", self.name)
    }

    async fn sink(url: &str) -> RabbitSink {
        sink(url).await
    }

    async fn feed(url: &str, reading: Reading) -> RabbitFeed {
        let options = RabbitFeedOptions::from_url(url, reading).unwrap();
        RabbitFeed::open(options).await.unwrap()
    }

    fn closer(feed: &RabbitFeed) -> Closer {
        feed.closer()
    }

    async fn lose_one(&self) {
        let channel = self.channel().await;
        let mut queues = (0..8).map(|lane| format!("{}.payments.{lane}", self.name));
        let queue = loop {
            let queue = queues.next().expect("there is something to lose");
            if ready_in(&channel, &queue).await > 0 {
                break queue;
            }
        };
        // A queue with a single active consumer gives nothing to who only asks.
        channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
        let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
        let consuming = channel.basic_consume(queue.into(), "".into(), options, table);
        let mut consumer = consuming.await.unwrap();
        let taken = consumer.next().await.unwrap().unwrap();
        // Before it is acknowledged, so that no other comes, and goes back late.
        let end = BasicCancelOptions::default();
        channel.basic_cancel(consumer.tag(), end).await.unwrap();
        taken.ack(BasicAckOptions::default()).await.unwrap();
        channel.close(200, "OK".into()).await.unwrap();
    }

    async fn announced(&self) -> mpsc::UnboundedReceiver<Announcement> {
        let channel = self.channel().await;
        let own = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), own, FieldTable::default()).await.unwrap();
        let (name, exchange) = (queue.name().clone(), gap_exchange(&self.name));
        let (binding, table) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(name.clone(), exchange.into(), "".into(), binding, table).await.unwrap();
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let table = FieldTable::default();
        let mut consumer = channel.basic_consume(name, "".into(), options, table).await.unwrap();
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = consumer.next().await {
                let _ = sender.send(serde_json::from_slice(&message.data).unwrap());
            }
            drop(channel);
        });
        receiver
    }

    async fn foreign(&self) {
        let channel = self.channel().await;
        let json =
            r#"{"specversion":"1.0","id":"f1","type":"T","source":"elsewhere","subject":"f"}"#;
        let event =
            BasicProperties::default().with_content_type("application/cloudevents+json".into());
        let messages =
            [("no event", BasicProperties::default()), (json, event.clone()), (json, event)];
        for (body, properties) in messages {
            let options = BasicPublishOptions::default();
            let (exchange, key) = (self.name.as_str().into(), "0".into());
            let publishing =
                channel.basic_publish(exchange, key, options, body.as_bytes(), properties);
            publishing.await.unwrap();
        }
        channel.close(200, "OK".into()).await.unwrap();
    }
}

/// Version 3.10 leaves a queue without a leader now and then, when its server is killed several times within
/// seconds; this is what its operator does about it, and does nothing where there is one.
const ELECT: &str = "[begin {Name, _} = amqqueue:get_pid(Queue), \
     ra:trigger_election({Name, node()}) end \
     || Queue <- rabbit_amqqueue:list_by_type(rabbit_quorum_queue)].";

impl Crash for Orders {
    fn kill(&self) {
        self.server().kill();
    }

    async fn restart(&self) {
        self.server().restart().await.expect("the RabbitMQ server starts again");
        self.server().ctl(&["eval", ELECT]).await.unwrap();
    }
}
