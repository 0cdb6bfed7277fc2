//! RabbitMQ by its own client: mandatory messages to quorum queues, confirmed, a window of them in flight.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use onewrite::{Delivery, cloudevents};
use onewrite_testkit::server::Rabbitmq;

use super::{LANES, WINDOW};

pub(crate) async fn publish(
    server: &Rabbitmq,
    deliveries: &[Delivery],
    round: usize,
) -> Result<Duration> {
    let url = format!("{}/%2f", server.url());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    for lane in 0..LANES {
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(queue(round, lane).into(), durable, quorum).await?;
    }
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let began = Instant::now();
    send(&channel, deliveries, round).await?;
    let took = began.elapsed();
    for lane in 0..LANES {
        channel.queue_delete(queue(round, lane).into(), QueueDeleteOptions::default()).await?;
    }
    connection.close(200, "OK".into()).await?;
    Ok(took)
}

async fn send(channel: &Channel, deliveries: &[Delivery], round: usize) -> Result<()> {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let mut confirms = VecDeque::with_capacity(WINDOW);
    for delivery in deliveries {
        if confirms.len() >= WINDOW
            && let Some(confirm) = confirms.pop_front()
        {
            let confirmed: PublisherConfirm = confirm;
            ensure!(confirmed.await? == Confirmation::Ack(None), "not everything was taken");
        }
        let mut headers = FieldTable::default();
        for (name, value) in cloudevents::encode_attributes(delivery) {
            let value = AMQPValue::LongString(value.into());
            headers.insert(format!("cloudEvents:{name}").into(), value);
        }
        let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
        let key = queue(round, delivery.record.partition % LANES);
        let data = &delivery.record.event.data;
        let sent = channel.basic_publish("".into(), key.into(), options, data, properties);
        confirms.push_back(sent.await?);
    }
    for confirm in confirms {
        ensure!(confirm.await? == Confirmation::Ack(None), "not everything was taken");
    }
    Ok(())
}

fn queue(round: usize, lane: u16) -> String {
    format!("client{round}.{lane}")
}
