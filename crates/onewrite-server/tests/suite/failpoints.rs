//! Each failpoint in turn: a service of the shop is killed there, and the audit is clean.

use std::{net::SocketAddr, time::Duration};

use onewrite::failpoint;
use onewrite_shop::{Books, Order, Role, audit, model::UNREACHABLE};
use onewrite_testkit::child::{Child, End};
use tokio::{process::Command, task::JoinSet, time::timeout};

use crate::support::{PATIENCE, PROGRAM, Place, free_address, number, plain};

const ORDERS: usize = 40;

struct Shop {
    place: Place,
    addresses: Vec<SocketAddr>,
}

impl Shop {
    async fn start(&self, role: Role) -> Child {
        let mut command = std::process::Command::new(PROGRAM);
        plain(&mut command);
        let index = Role::ALL.iter().position(|other| *other == role).unwrap();
        // What it says about its neighbours' ends is expected.
        command.env("ONEWRITE_LOG", "off");
        command.args(["demo-service", "--relay", "--lease-ms", "300", "--role", role.name()]);
        command.args(["--listen", &self.addresses[index].to_string()]);
        command.args(["--store", &self.store(role)]);
        for (peer, address) in Role::ALL.into_iter().zip(&self.addresses) {
            command.args(["--peer", &format!("{}=http://{address}/events", peer.name())]);
        }
        Child::start(Command::from(command)).await.unwrap()
    }

    fn database(&self, role: Role) -> std::path::PathBuf {
        self.place.path(&format!("{}.db", role.name()))
    }

    fn store(&self, role: Role) -> String {
        format!("sqlite:{}", self.database(role).display())
    }
}

fn order(number: usize) -> Order {
    Order {
        id: format!("order-{number}"),
        customer: format!(
            "{}-{}",
            if number.is_multiple_of(9) { "poor" } else { "customer" },
            number % 7
        ),
        sku: "article".into(),
        quantity: 1,
        cents: 1_500,
        country: if number.is_multiple_of(8) { UNREACHABLE.into() } else { "Korea".into() },
    }
}

/// Places orders, each again until it is acknowledged.
fn customers(shop: SocketAddr) -> JoinSet<Vec<String>> {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let mut customers = JoinSet::new();
    for customer in 0..4 {
        let client = client.clone();
        customers.spawn(async move {
            let mut acknowledged = Vec::new();
            for number in (customer..ORDERS).step_by(4) {
                let order = order(number);
                while !placed(&client, shop, &order).await {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                acknowledged.push(order.id);
            }
            acknowledged
        });
    }
    customers
}

async fn placed(client: &reqwest::Client, shop: SocketAddr, order: &Order) -> bool {
    let request = client.post(format!("http://{shop}/orders"));
    let request = request.header("content-type", "application/json");
    let reply = request.body(serde_json::to_vec(order).unwrap()).send().await;
    reply.is_ok_and(|reply| reply.status().is_success())
}

/// Kills the service `role` at the `hits`-th passing of `point`, and judges what the shop came to.
async fn struck(point: &str, role: Role, hits: u32) {
    let addresses = Role::ALL.iter().map(|_| free_address()).collect();
    let shop = Shop { place: Place::new(), addresses };
    let mut children = Vec::new();
    for role in Role::ALL {
        children.push(shop.start(role).await);
    }
    let victim = Role::ALL.iter().position(|other| *other == role).unwrap();
    children[victim].arm(point, hits).await.unwrap();
    let customers = customers(shop.addresses[0]);
    let end = timeout(PATIENCE, children[victim].wait()).await;
    assert_eq!(end.expect("the point is passed").unwrap(), End::Killed, "{point}");
    children[victim] = shop.start(role).await;
    let acknowledged = customers.join_all().await.concat();
    let orders = shop.database(Role::Order);
    let ended = || number(&orders, "SELECT count(*) FROM orders WHERE state <> 'pending'");
    tokio::task::block_in_place(|| {
        crate::support::eventually("every order ends", || ended() == ORDERS as i64);
    });
    for child in &mut children {
        child.terminate().unwrap();
        let end = timeout(PATIENCE, child.wait()).await.expect("it drains").unwrap();
        assert_eq!(end, End::Exit(0), "{point}");
    }
    let books = Books::open(&Role::ALL.map(|role| (role, shop.store(role)))).await.unwrap();
    let verdict = audit::judge(&books, &acknowledged).await.unwrap();
    assert!(verdict.is_clean() && verdict.orders == ORDERS as u64, "{point}: {verdict:?}");
    assert!(verdict.completed > 0 && verdict.compensated > 0, "{point}: {verdict:?}");
}

macro_rules! each {
    ($($name:ident: $point:literal, $role:ident, $hits:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            struck($point, Role::$role, $hits).await;
        })*

        #[test]
        fn every_failpoint_has_its_test() {
            assert_eq!([$($point),*], failpoint::ALL);
        }
    };
}

each! {
    a_service_killed_before_its_commit_has_promised_nothing: "store.before_commit", Order, 5;
    a_service_killed_after_its_commit_has_its_order: "store.after_commit_before_reply", Order, 5;
    a_relay_killed_before_it_publishes_sends_later: "relay.after_read_before_publish", Payment, 1;
    a_relay_killed_before_its_cursor_moves_sends_again: "relay.after_publish_before_cursor", Order, 1;
    a_relay_killed_after_its_cursor_moved_goes_on: "relay.after_cursor", Stock, 1;
    a_receiver_killed_before_its_handler_handles_later: "receiver.after_attempt_before_handler", Stock, 1;
    a_receiver_killed_before_its_commit_handles_again: "receiver.after_handler_before_commit", Payment, 1;
    a_receiver_killed_before_its_reply_handles_once: "receiver.after_commit_before_reply", Shipping, 1;
}
