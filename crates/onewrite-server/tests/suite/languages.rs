//! `examples/languages` and the SQL of the book, run as their readers run them: with `psql` and Python.

use std::fs;

use onewrite_testkit::proxy::{Fault, Proxy};
use serde_json::Value;
use tokio::task::block_in_place;

use crate::{
    services::{
        Services, database, example, once_and_in_order, orders_of, program, psql, repository,
    },
    support::{Place, Running, eventually, free_address},
};

/// Orders flow from emit.py through a relay to receive.py, whose answers are lost for a while and which
/// is killed and started again. Returns the invoices.
async fn killed_in_the_middle(receive: &[&str]) -> Vec<(String, String)> {
    let services = Services::new().await;
    let address = free_address();
    let port = address.port().to_string();
    let receiver = || {
        let args = [&["--port", &port], receive].concat();
        let receiver = Running::of(program("receive.py", &services.billing, &args));
        receiver.lines(1);
        receiver
    };
    let first = block_in_place(receiver);
    let proxy = Proxy::start(address).await.unwrap();
    let relay = Running::of(services.relay(&format!("http://{}/events", proxy.addr()), &[]));
    block_in_place(|| {
        services.emit(&["--count", "40"]);
        eventually("the first orders are invoiced", || services.invoices().len() == 40);
        eventually("the relay knows that", || services.is_settled());
    });
    proxy.set(Fault::DropReplies);
    block_in_place(|| {
        services.emit(&["--count", "40", "--first", "41", "--insert"]);
        eventually("some are too, and nobody hears of it", || services.invoices().len() > 40);
        assert!(!services.is_settled());
        first.kill();
    });
    proxy.set(Fault::Pass);
    let second = block_in_place(receiver);
    block_in_place(|| {
        services.emit(&["--count", "20", "--first", "81"]);
        eventually("everything is settled", || services.is_settled());
        relay.terminate().ok();
        drop(second);
        services.invoices()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_receiver_that_is_killed_invoices_every_order_once_and_in_order() {
    once_and_in_order(killed_in_the_middle(&[]).await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_call_of_receive_it_invoices_orders_twice() {
    let invoices = killed_in_the_middle(&["--without-receive"]).await;
    let (written, orders) = (invoices.len(), orders_of(&invoices));
    assert!(orders == 100 && written > 100, "{written} invoices of {orders} orders");
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_emits_and_receives() {
    let services = Services::new().await;
    block_in_place(|| {
        for order in ["o-1", "o-2"] {
            let values = [("order", order), ("customer", "minjun"), ("cents", "4200")];
            psql(&services.shop, &example("emit.sql"), &values).ok();
        }
        let relay = Running::of(services.relay("stdout:", &[]));
        let events = relay.events(2);
        relay.terminate().ok();
        let receive = |event: &Value| {
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            let (partition, cents) = (&event["onewritepartition"], &event["data"]["cents"]);
            let values = [
                ("consumer", "billing".to_owned()),
                ("source", text("source")),
                ("id", text("id")),
                ("incarnation", text("onewriteincarnation")),
                ("partition", partition.to_string()),
                ("sequence", text("onewritesequence")),
                ("previous", text("onewriteprevious")),
                ("order", text("aggregateid")),
                ("customer", event["data"]["customer"].as_str().unwrap().to_owned()),
                ("cents", cents.to_string()),
            ];
            let values: Vec<(&str, &str)> = values.iter().map(|(n, v)| (*n, &**v)).collect();
            psql(&services.billing, &example("receive.sql"), &values)
        };
        let early = receive(&events[1]);
        assert!(
            early.code != Some(0) && early.err.contains("a predecessor is missing"),
            "{early:?}"
        );
        for event in [&events[0], &events[0], &events[1], &events[0], &events[1]] {
            receive(event).ok();
        }
        let wanted = ["o-1", "o-2"].map(|order| ("minjun".to_owned(), order.to_owned()));
        assert_eq!(services.invoices(), wanted);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_receiver_takes_only_what_is_signed() {
    let services = Services::new().await;
    let (address, secret) = (free_address(), "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=");
    let port = address.port().to_string();
    let url = format!("http://{address}/");
    let mut command =
        block_in_place(|| program("receive.py", &services.billing, &["--port", &port]));
    command.env("WEBHOOK_SECRET", secret);
    let receiver = Running::of(command);
    block_in_place(|| {
        receiver.lines(1);
        services.emit(&["--count", "3"]);
    });
    let event = r#"{"specversion":"1.0","id":"1","source":"me","type":"OrderPlaced","aggregateid":"forged","data":{"customer":"me","cents":1}}"#;
    let unsigned = reqwest::Client::new().post(&url).body(event).send().await.unwrap();
    assert_eq!(unsigned.status(), 401);
    block_in_place(|| {
        let mut relay = services.relay(&url, &["--secrets-env", "BILLING_SECRET"]);
        let relay = Running::of({
            relay.env("BILLING_SECRET", secret);
            relay
        });
        eventually("what is signed is taken", || services.invoices().len() == 3);
        relay.terminate().ok();
        assert!(services.invoices().iter().all(|(customer, _)| customer != "me"));
    });
}

/// Every block of the book's page that is marked as SQL, in order, in one database.
#[tokio::test(flavor = "multi_thread")]
async fn the_sql_of_the_book_runs() {
    let url = database("book").await;
    let page = fs::read_to_string(repository("book/src/postgres.md")).unwrap();
    let blocks: Vec<&str> = page
        .split("\n```sql\n")
        .skip(1)
        .map(|rest| rest.split("\n```").next().unwrap_or_default())
        .collect();
    assert!(blocks.len() > 3, "{blocks:?}");
    block_in_place(|| {
        let place = Place::new();
        place.run(&["store", "init", "--store", &url]).ok();
        // Roles belong to the whole server, which other tests use as well.
        let role = |name: &str| {
            format!(
                "DO $$ BEGIN CREATE ROLE {name}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;"
            )
        };
        let roles = ["shop_app", "shop_relay", "shop_billing", "shop_operator"].map(role).concat();
        for (number, sql) in [&*roles].iter().chain(&blocks).enumerate() {
            let file = place.path(&format!("{number}.sql"));
            fs::write(&file, sql).unwrap();
            let run = psql(&url, file.to_str().unwrap(), &[]);
            assert_eq!(run.code, Some(0), "{sql}\n{}", run.err);
        }
    });
}
