//! Redis by its own client: a pipeline of appends for each window.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use onewrite::{Delivery, cloudevents};
use onewrite_testkit::server::Redis;

use super::{LANES, WINDOW};

pub(crate) async fn publish(
    server: &Redis,
    deliveries: &[Delivery],
    round: usize,
) -> Result<Duration> {
    let client = redis::Client::open(server.url())?;
    let config =
        redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
    let mut line = client.get_multiplexed_async_connection_with_config(&config).await?;
    let began = Instant::now();
    for batch in deliveries.chunks(WINDOW) {
        let mut adds = redis::Pipeline::with_capacity(batch.len());
        for delivery in batch {
            adds.cmd("XADD").arg(key(round, delivery.record.partition % LANES)).arg("*");
            for (name, value) in cloudevents::encode_attributes(delivery) {
                adds.arg(name).arg(value);
            }
            adds.arg("data").arg(&delivery.record.event.data[..]);
        }
        let ids: Vec<String> = adds.query_async(&mut line).await?;
        ensure!(ids.len() == batch.len(), "not everything was answered");
    }
    let took = began.elapsed();
    for lane in 0..LANES {
        redis::cmd("DEL").arg(key(round, lane)).exec_async(&mut line).await?;
    }
    Ok(took)
}

fn key(round: usize, lane: u16) -> String {
    format!("client{round}:{lane}")
}
