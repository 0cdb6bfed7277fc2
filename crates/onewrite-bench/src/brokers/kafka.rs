//! Kafka by its own client: idempotent, all replicas asked, a window of messages in flight.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use onewrite::{Delivery, cloudevents, stream};
use onewrite_testkit::server::KafkaAddress;
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};

use super::{LANES, WINDOW};

pub(crate) async fn publish(
    server: &KafkaAddress,
    deliveries: &[Delivery],
    round: usize,
) -> Result<Duration> {
    let topic = format!("client{round}");
    if server.is_mock() {
        server.create_topic(&topic, LANES).await?;
    } else {
        // The sink creates what is missing.
        stream::sink(&format!("{}/{topic}?lanes={LANES}", server.url())).await?;
    }
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", format!("127.0.0.1:{}", server.port()));
    config.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "1");
    let producer: FutureProducer = config.create()?;
    let began = Instant::now();
    let mut sent = VecDeque::with_capacity(WINDOW);
    for delivery in deliveries {
        if sent.len() >= WINDOW
            && let Some(answer) = sent.pop_front()
        {
            confirmed(answer).await?;
        }
        let mut headers = OwnedHeaders::new();
        for (name, value) in cloudevents::encode_attributes(delivery) {
            let key = format!("ce_{name}");
            headers = headers.insert(Header { key: &key, value: Some(&value) });
        }
        let record = FutureRecord::to(&topic)
            .partition(i32::from(delivery.record.partition % LANES))
            .key(&**delivery.record.event.order_key())
            .payload(&delivery.record.event.data[..])
            .headers(headers);
        let answer = producer.send_result(record).map_err(|(error, _)| error)?;
        sent.push_back(answer);
    }
    for answer in sent {
        confirmed(answer).await?;
    }
    Ok(began.elapsed())
}

async fn confirmed(answer: rdkafka::producer::DeliveryFuture) -> Result<()> {
    let outcome = answer.await.context("the client has ended")?;
    outcome.map(drop).map_err(|(error, _)| anyhow!(error))
}
