//! `memory:NAME`: a queue within one process, from any number of senders to one receiver.
//!
//! Nothing is stored here: a delivery is settled when its receiver has committed it, so the promises
//! are those of the outbox on one side and the inbox on the other.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
};

use onewrite_core::{
    BoxFuture, Code, Delivery, Error, Result, Text,
    broker::{Arrival, Feed, Receipt, Sink},
};
use tokio::sync::{mpsc, oneshot};

/// Batches that wait for the receiver at most, before senders wait.
const QUEUE_MAX: usize = 64;

struct Parcel {
    deliveries: Vec<Delivery>,
    reply: oneshot::Sender<Vec<Receipt>>,
}

struct Queue {
    sender: mpsc::Sender<Parcel>,
    receiver: Arc<tokio::sync::Mutex<mpsc::Receiver<Parcel>>>,
}

fn queues() -> &'static Mutex<HashMap<Text, Queue>> {
    static QUEUES: OnceLock<Mutex<HashMap<Text, Queue>>> = OnceLock::new();
    QUEUES.get_or_init(Mutex::default)
}

/// Both ends of the queue called `name`. Asking again gives further handles on the same queue.
pub fn memory(name: impl Into<Text>) -> (MemorySink, MemoryFeed) {
    let name = name.into();
    let mut queues = queues().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let queue = queues.entry(name.clone()).or_insert_with(|| {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        Queue { sender, receiver: Arc::new(tokio::sync::Mutex::new(receiver)) }
    });
    let sink = MemorySink { name, sender: queue.sender.clone() };
    (sink, MemoryFeed { receiver: Arc::clone(&queue.receiver) })
}

/// The sending end.
#[derive(Debug, Clone)]
pub struct MemorySink {
    name: Text,
    sender: mpsc::Sender<Parcel>,
}

impl std::fmt::Debug for Parcel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parcel({})", self.deliveries.len())
    }
}

impl Sink for MemorySink {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(async move {
            let gone = || {
                Error::new(
                    Code::SinkUnreachable,
                    format!("nobody receives from memory:{}", self.name),
                )
            };
            if batch.is_empty() {
                return Ok(Vec::new());
            }
            let (reply, receipts) = oneshot::channel();
            let parcel = Parcel { deliveries: batch.to_vec(), reply };
            self.sender.send(parcel).await.map_err(|_| gone())?;
            receipts.await.map_err(|_| gone())
        })
    }
}

/// The receiving end. Several handles share the queue; each parcel goes to one of them.
#[derive(Debug)]
pub struct MemoryFeed {
    receiver: Arc<tokio::sync::Mutex<mpsc::Receiver<Parcel>>>,
}

impl Feed for MemoryFeed {
    fn next(&mut self) -> BoxFuture<'_, Option<Box<dyn Arrival>>> {
        Box::pin(async move {
            let parcel = self.receiver.lock().await.recv().await?;
            let count = parcel.deliveries.len();
            Some(Box::new(MemoryArrival { parcel, count }) as Box<dyn Arrival>)
        })
    }
}

struct MemoryArrival {
    parcel: Parcel,
    count: usize,
}

impl Arrival for MemoryArrival {
    fn take(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.parcel.deliveries)
    }

    fn settle(self: Box<Self>, receipts: Vec<Receipt>) -> BoxFuture<'static, Result<()>> {
        let settled = if receipts.len() == self.count {
            self.parcel.reply.send(receipts).map_err(|_| {
                Error::new(Code::SinkUnreachable, "the sender no longer waits for its receipts")
            })
        } else {
            Err(Error::new(
                Code::InvariantBroken,
                format!("{} receipts for {} deliveries", receipts.len(), self.count),
            ))
        };
        Box::pin(std::future::ready(settled))
    }
}
