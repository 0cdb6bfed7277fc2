//! `examples/languages/consume_….py`: consumers with the ordinary clients of the brokers, on real servers.

use std::process::Command;

#[cfg(feature = "kafka")]
use onewrite_testkit::server::shared_kafka;
use onewrite_testkit::server::{shared_nats, shared_rabbitmq, shared_redis, unique};
use tokio::task::block_in_place;

use crate::{
    services::{Services, once_and_in_order, orders_of, program, repository, script},
    support::{Run, Running, eventually},
};

/// A broker of the test run, and the example that reads from it.
#[derive(Debug, Clone, Copy)]
enum Broker {
    Nats,
    Rabbitmq,
    Redis,
    #[cfg(feature = "kafka")]
    Kafka,
}

impl Broker {
    /// A stream of its own.
    async fn stream(self) -> String {
        let name = unique("ORDERS");
        let server = match self {
            Self::Nats => shared_nats().await.unwrap().url(),
            Self::Rabbitmq => shared_rabbitmq().await.unwrap().url(),
            Self::Redis => shared_redis().await.unwrap().url(),
            #[cfg(feature = "kafka")]
            Self::Kafka => {
                let server = shared_kafka().await.unwrap();
                server.create_topic(&name, 2).await.unwrap();
                server.create_topic(&format!("{name}.gaps"), 1).await.unwrap();
                server.url()
            }
        };
        format!("{server}/{name}")
    }

    fn example(self) -> &'static str {
        match self {
            Self::Nats => "consume_nats.py",
            Self::Rabbitmq => "consume_rabbitmq.py",
            Self::Redis => "consume_redis.py",
            #[cfg(feature = "kafka")]
            Self::Kafka => "consume_kafka.py",
        }
    }
}

/// A shop, a stream of its own, and what reads it for billing.
struct Flow {
    services: Services,
    broker: Broker,
    stream: String,
}

impl Flow {
    async fn new(broker: Broker) -> Self {
        Self { services: Services::new().await, broker, stream: broker.stream().await }
    }

    fn relay(&self) -> Running {
        let options = match self.broker {
            // Nothing is kept for a receiver that was never there.
            Broker::Rabbitmq => "?lanes=2&consumers=billing",
            _ => "?lanes=2",
        };
        Running::of(self.services.relay(&format!("{}{options}", self.stream), &[]))
    }

    /// Starts the consumer, which reads once it says so.
    fn consumer(&self, more: &[&str]) -> Running {
        // What a killed one had comes again after half of that where the server does not see it die.
        let args = [&[&*self.stream, "--consumer", "billing", "--patience", "2"], more].concat();
        let consumer = Running::of(program(self.broker.example(), &self.services.billing, &args));
        consumer.lines(1);
        consumer
    }

    /// The orders of the shop from `first` on, all of which the broker has in the end.
    fn place(&self, count: usize, first: usize, more: &[&str]) {
        let (count, first) = (count.to_string(), first.to_string());
        self.services.emit(&[&["--count", &count, "--first", &first], more].concat());
        eventually("the broker has them", || self.services.is_settled());
    }

    fn invoices(&self) -> usize {
        self.services.invoices().len()
    }

    fn meddle(&self, what: &str) -> String {
        let path = repository("crates/onewrite-server/tests/suite/meddle.py");
        let command: Command = script(path.to_str().unwrap(), &[&self.stream, "billing", what]);
        Run::of(command).ok().out.trim().to_owned()
    }

    fn nothing_is_left(&self) {
        eventually("everything is acknowledged", || self.meddle("left") == "0");
    }
}

/// Orders flow to a consumer that is killed twice while it works. Between, everything that the broker has is
/// there twice, and something that is no event. Returns the invoices.
async fn killed_twice(broker: Broker, more: &[&str]) -> Vec<(String, String)> {
    let flow = Flow::new(broker).await;
    block_in_place(|| {
        let relay = flow.relay();
        let first = flow.consumer(more);
        flow.services.emit(&["--count", "40"]);
        eventually("the first orders are invoiced", || flow.invoices() > 0);
        first.kill();
        flow.place(40, 41, &["--insert"]);
        flow.meddle("repeat");
        let second = flow.consumer(more);
        eventually("half of them are invoiced", || flow.invoices() > 50);
        second.kill();
        flow.place(20, 81, &[]);
        let third = flow.consumer(more);
        eventually("all orders are invoiced", || orders_of(&flow.services.invoices()) == 100);
        flow.nothing_is_left();
        drop((third, relay));
        flow.services.invoices()
    })
}

async fn every_order_once(broker: Broker) {
    once_and_in_order(killed_twice(broker, &[]).await, 100);
}

async fn some_twice(broker: Broker) {
    let invoices = killed_twice(broker, &["--without-receive"]).await;
    assert!(invoices.len() > 100, "{} invoices", invoices.len());
}

/// It is announced in vain at first, by a consumer that is killed then with what it holds.
async fn a_lost_message_is_sent_again(broker: Broker) {
    let flow = Flow::new(broker).await;
    block_in_place(|| {
        let relay = flow.relay();
        flow.place(30, 1, &[]);
        flow.meddle("lose");
        relay.terminate().ok();
        let first = flow.consumer(&[]);
        first.says("missing, and the relay is told");
        first.kill();
        assert!(flow.invoices() < 30);
        let relay = flow.relay();
        let second = flow.consumer(&[]);
        second.says("missing, and the relay is told");
        eventually("it was sent again", || flow.invoices() == 30);
        flow.nothing_is_left();
        once_and_in_order(flow.services.invoices(), 30);
        drop((second, relay));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn over_nats_every_order_is_invoiced_once_and_in_order() {
    every_order_once(Broker::Nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_rabbitmq_every_order_is_invoiced_once_and_in_order() {
    every_order_once(Broker::Rabbitmq).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_redis_every_order_is_invoiced_once_and_in_order() {
    every_order_once(Broker::Redis).await;
}

#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn over_kafka_every_order_is_invoiced_once_and_in_order() {
    every_order_once(Broker::Kafka).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_nats_without_receive_some_orders_are_invoiced_twice() {
    some_twice(Broker::Nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_rabbitmq_without_receive_some_orders_are_invoiced_twice() {
    some_twice(Broker::Rabbitmq).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_redis_without_receive_some_orders_are_invoiced_twice() {
    some_twice(Broker::Redis).await;
}

#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn over_kafka_without_receive_some_orders_are_invoiced_twice() {
    some_twice(Broker::Kafka).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nats_lost_is_sent_again() {
    a_lost_message_is_sent_again(Broker::Nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rabbitmq_lost_is_sent_again() {
    a_lost_message_is_sent_again(Broker::Rabbitmq).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_lost_is_sent_again() {
    a_lost_message_is_sent_again(Broker::Redis).await;
}

#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_lost_is_sent_again() {
    a_lost_message_is_sent_again(Broker::Kafka).await;
}
