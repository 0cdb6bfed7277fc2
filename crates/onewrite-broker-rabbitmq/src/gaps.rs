//! Announcements of gaps over a fanout exchange.
//!
//! Each sink hears them through a queue of its own that ends with its connection: nobody stores what is
//! said there, and whoever waits says it again.

use std::{ops::Deref, sync::Arc, time::Duration};

use futures::StreamExt as _;
use lapin::{
    Consumer,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use onewrite_core::Result;
use onewrite_lanes::Announced;
use tokio::task::JoinHandle;

use crate::connect::Server;

/// The pause between two attempts to listen again.
const LISTEN_AGAIN: Duration = Duration::from_millis(500);

/// The exchange on which receivers of `stream` announce what they wait for.
#[must_use]
pub fn gap_exchange(stream: &str) -> String {
    format!("{stream}.gaps")
}

/// Listens to announcements until it is dropped.
pub(crate) struct Gaps {
    announced: Arc<Announced>,
    listener: JoinHandle<()>,
}

impl Drop for Gaps {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Deref for Gaps {
    type Target = Announced;

    fn deref(&self) -> &Announced {
        &self.announced
    }
}

impl Gaps {
    /// Subscribes to the announcements for `stream`.
    ///
    /// # Errors
    /// As [`Server::channel`].
    pub(crate) async fn listen(server: Arc<Server>, stream: &str) -> Result<Self> {
        let exchange = gap_exchange(stream);
        let mut consumer = subscribe(&server, &exchange).await?;
        let announced = Arc::<Announced>::default();
        let noted = Arc::clone(&announced);
        let listener = tokio::spawn(async move {
            loop {
                while let Some(Ok(message)) = consumer.next().await {
                    noted.note(&message.data);
                }
                tracing::debug!(exchange, "announcements are not heard now");
                consumer = loop {
                    tokio::time::sleep(LISTEN_AGAIN).await;
                    if let Ok(consumer) = subscribe(&server, &exchange).await {
                        break consumer;
                    }
                };
            }
        });
        Ok(Self { announced, listener })
    }
}

async fn subscribe(server: &Server, exchange: &str) -> Result<Consumer> {
    let channel = server.channel().await?;
    let subscribing = async {
        let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let queue = channel.queue_declare("".into(), own, FieldTable::default()).await?;
        let (binding, table) = (QueueBindOptions::default(), FieldTable::default());
        let name = queue.name().clone();
        channel.queue_bind(name.clone(), exchange.into(), "".into(), binding, table).await?;
        let consuming = BasicConsumeOptions { no_ack: true, ..Default::default() };
        channel.basic_consume(name, "".into(), consuming, FieldTable::default()).await
    };
    server.bounded("does not let announcements be heard", subscribing).await
}
