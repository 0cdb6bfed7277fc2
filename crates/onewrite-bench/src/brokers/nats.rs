//! NATS by its own client: confirmed publishes, a window of them in flight.

use std::{
    collections::VecDeque,
    future::IntoFuture as _,
    time::{Duration, Instant},
};

use anyhow::Result;
use async_nats::{HeaderMap, jetstream};
use onewrite::{Delivery, cloudevents};
use onewrite_testkit::server::Nats;

use super::WINDOW;

pub(crate) async fn publish(
    server: &Nats,
    deliveries: &[Delivery],
    round: usize,
) -> Result<Duration> {
    let context = jetstream::new(async_nats::connect(server.url()).await?);
    let name = format!("client{round}");
    let config = jetstream::stream::Config {
        name: name.clone(),
        subjects: vec![format!("{name}.>")],
        ..Default::default()
    };
    context.create_stream(config).await?;
    let began = Instant::now();
    let mut acks = VecDeque::with_capacity(WINDOW);
    for delivery in deliveries {
        if acks.len() >= WINDOW
            && let Some(ack) = acks.pop_front()
        {
            jetstream::context::PublishAckFuture::into_future(ack).await?;
        }
        let binary = cloudevents::encode_binary(delivery);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", delivery.record.id());
        for (name, value) in binary.headers {
            headers.insert(name, value);
        }
        let subject = format!("{name}.{}", delivery.record.partition);
        acks.push_back(context.publish_with_headers(subject, headers, binary.body).await?);
    }
    for ack in acks {
        ack.await?;
    }
    let took = began.elapsed();
    context.delete_stream(name).await?;
    Ok(took)
}
