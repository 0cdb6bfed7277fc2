//! Customers: they place orders over HTTP and repeat them until they are acknowledged.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use onewrite_shop::Order;
use tokio::sync::{Mutex, watch};

/// Customers that order at the same time.
const CUSTOMERS: usize = 16;
/// Between an order that was not acknowledged and the same again, at first and at most.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The queue of orders, and who has been served.
pub(crate) struct Feed {
    orders: Vec<Order>,
    next: AtomicUsize,
    /// Orders up to here may be placed: blows fall while there is traffic.
    allowed: watch::Sender<usize>,
    acknowledged: Mutex<Vec<String>>,
}

impl Feed {
    pub(crate) fn new(orders: Vec<Order>) -> Arc<Self> {
        Arc::new(Self {
            orders,
            next: AtomicUsize::new(0),
            allowed: watch::channel(0).0,
            acknowledged: Mutex::default(),
        })
    }

    pub(crate) fn orders(&self) -> &[Order] {
        &self.orders
    }

    pub(crate) fn total(&self) -> usize {
        self.orders.len()
    }

    /// Lets orders up to `count` be placed.
    pub(crate) fn allow(&self, count: usize) {
        self.allowed.send_modify(|allowed| *allowed = count.max(*allowed));
    }

    pub(crate) fn allowed(&self) -> usize {
        *self.allowed.borrow()
    }

    pub(crate) async fn acknowledged(&self) -> Vec<String> {
        self.acknowledged.lock().await.clone()
    }

    /// Starts the customers. They leave when the set is dropped.
    pub(crate) fn start(self: &Arc<Self>, services: &[SocketAddr]) -> tokio::task::JoinSet<()> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .build()
            .unwrap_or_default();
        let mut customers = tokio::task::JoinSet::new();
        for customer in 0..CUSTOMERS {
            customers.spawn(Arc::clone(self).shop(client.clone(), services.to_vec(), customer));
        }
        customers
    }

    async fn shop(
        self: Arc<Self>,
        client: reqwest::Client,
        services: Vec<SocketAddr>,
        customer: usize,
    ) {
        let mut allowed = self.allowed.subscribe();
        let mut service = customer;
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(order) = self.orders.get(index) else { return };
            if allowed.wait_for(|allowed| *allowed > index).await.is_err() {
                return;
            }
            let body = serde_json::to_vec(order).unwrap_or_default();
            let mut pause = PAUSE;
            // No answer says nothing: the order is placed again under the same id.
            while !placed(&client, services[service % services.len()], body.clone()).await {
                service += 1;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            self.acknowledged.lock().await.push(order.id.clone());
        }
    }
}

async fn placed(client: &reqwest::Client, service: SocketAddr, body: Vec<u8>) -> bool {
    let request =
        client.post(format!("http://{service}/orders")).header("content-type", "application/json");
    request.body(body).send().await.is_ok_and(|response| response.status().is_success())
}
