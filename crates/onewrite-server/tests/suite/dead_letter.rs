//! Parked keys: listed, shown, re-driven in order, discarded.

use std::process::Command;

use onewrite::sqlite::InboxOptions;
use serde_json::Value;

use crate::{
    peer::Peer,
    support::{Place, Running, emit, event, eventually, execute, number, texts},
};

const AT: [&str; 2] = ["--store", "sqlite:peer.db"];

/// A shop, a receiver that refuses the key `bad`, and a relay between them.
pub(crate) struct Shop {
    pub(crate) place: Place,
    pub(crate) relay: Running,
    _peer: Peer,
}

impl Shop {
    /// `attempts` of the receiver before it parks; `relay` settings of the sender.
    fn new(attempts: u32, relay: &str) -> Self {
        Self::with(relay, |options| options.policy.attempts_max = attempts, |_| ())
    }

    pub(crate) fn with(
        relay: &str,
        receiving: impl FnOnce(&mut InboxOptions),
        sending: impl FnOnce(&mut Command),
    ) -> Self {
        let place = Place::with_store();
        let config = format!("[relay]\nlease_ms = 300\nbackoff_cap_ms = 50\n{relay}");
        place.write("onewrite.toml", &config);
        let peer = Peer::with(&place.path("peer.db"), "127.0.0.1:0".parse().unwrap(), receiving);
        execute(&place.path("peer.db"), "INSERT INTO refused VALUES ('bad')");
        let url = peer.url();
        let args = [
            "relay",
            "--store",
            "sqlite:shop.db",
            "--sink",
            &url,
            "--name",
            "peer",
            "--allow-private",
        ];
        let mut command = place.command(&args);
        sending(&mut command);
        Self { relay: Running::of(command), place, _peer: peer }
    }

    pub(crate) fn emit(&self, key: &str, number: usize) -> String {
        emit(&self.place.path("shop.db"), &[event("Made", key, number)]).remove(0)
    }

    pub(crate) fn effects(&self) -> Vec<String> {
        texts(&self.place.path("peer.db"), "SELECT data FROM effects ORDER BY n")
    }

    pub(crate) fn list(&self, at: [&str; 2]) -> Vec<Value> {
        let listed = self.place.json(&[&["dead-letter", "list", "--json"], &at[..]].concat());
        listed.as_array().unwrap().clone()
    }

    pub(crate) fn parked(&self, at: [&str; 2], waiting: u64) -> Value {
        let is_there = || self.list(at).first().is_some_and(|key| key["waiting"] == waiting);
        eventually(&format!("{waiting} events are parked"), is_there);
        self.list(at).remove(0)
    }

    pub(crate) fn mend(&self) {
        execute(&self.place.path("peer.db"), "DELETE FROM refused");
    }
}

#[test]
fn a_key_the_handler_refuses_is_parked_and_redriven_in_order_once() {
    let shop = Shop::new(3, "");
    let first = shop.emit("bad", 1);
    let key = shop.parked(AT, 1);
    assert_eq!((&key["key"], &key["scope"]), (&"bad".into(), &"inbox/peer".into()));
    assert!(key["reason"].as_str().unwrap().contains("the account is closed"), "{key}");
    // Later events of the key queue behind it, the others flow.
    for number in 2..5 {
        shop.emit("bad", number);
        shop.emit("good", number * 10);
    }
    eventually("the others flow", || shop.effects() == ["20", "30", "40"]);
    shop.parked(AT, 4);
    let shown = shop.place.json(&[&["dead-letter", "show", "bad", "--json"], &AT[..]].concat());
    assert_eq!(
        (shown["events"].as_array().unwrap().len(), &shown["events"][0]["id"]),
        (4, &first.clone().into())
    );
    let text = shop.place.run(&[&["dead-letter", "show", "bad"], &AT[..]].concat()).ok().out;
    assert!(text.contains(&first) && text.contains("the account is closed"), "{text}");
    let why = shop.place.run(&[&["why", &first], &AT[..]].concat()).ok().out;
    assert!(why.contains("parked at inbox/peer") && why.contains("dead-letter retry"), "{why}");
    // A retry before the cause is mended changes nothing but the count.
    let retry = [&["dead-letter", "retry", "bad"], &AT[..]].concat();
    shop.place.run(&retry).ok();
    eventually("it waits again", || {
        let key = shop.parked(AT, 4);
        key["redrives"] == 1 && key["request"] == "wait"
    });
    shop.mend();
    let said = shop.place.run(&retry).ok().out;
    assert!(said.contains("4 events of `bad`"), "{said}");
    eventually("the key is free", || shop.list(AT).is_empty());
    shop.emit("bad", 5);
    let all = ["20", "30", "40", "1", "2", "3", "4", "5"];
    eventually("in order, once", || shop.effects() == all);
    shop.relay.terminate().ok();
    let effects = "SELECT count(*) FROM effects";
    assert_eq!(number(&shop.place.path("peer.db"), effects), 8, "and nothing after that");
}

#[test]
fn a_discarded_key_is_dropped_and_its_next_events_flow() {
    let shop = Shop::new(2, "");
    shop.emit("bad", 1);
    shop.emit("bad", 2);
    shop.parked(AT, 2);
    shop.mend();
    let said = shop.place.json(&[&["dead-letter", "discard", "bad", "--json"], &AT[..]].concat());
    assert!(said["done"].as_str().unwrap().contains("discard 2 events"), "{said}");
    eventually("the key is free", || shop.list(AT).is_empty());
    shop.emit("bad", 3);
    eventually("the next one flows", || shop.effects() == ["3"]);
    shop.relay.terminate().ok();
}

#[test]
fn a_key_the_sink_refuses_is_parked_at_the_relay() {
    let at = ["--store", "sqlite:shop.db"];
    let shop = Shop::new(1_000, "attempts_max = 2\n");
    shop.emit("bad", 1);
    assert!(shop.relay.says("OW0019").contains("peer"));
    let key = shop.parked(at, 1);
    assert_eq!(key["scope"], "relay/peer");
    assert!(key["reason"].as_str().unwrap().contains("the account is closed"), "{key}");
    shop.emit("bad", 2);
    shop.emit("good", 10);
    shop.parked(at, 2);
    eventually("the others flow", || shop.effects() == ["10"]);
    shop.mend();
    shop.place.run(&[&["dead-letter", "retry", "bad"], &at[..]].concat()).ok();
    eventually("in order, once", || shop.effects() == ["10", "1", "2"]);
    eventually("the key is free", || shop.list(at).is_empty());
    shop.emit("bad", 3);
    eventually("the next one flows", || shop.effects() == ["10", "1", "2", "3"]);
    shop.relay.terminate().ok();
}

#[test]
fn a_key_parked_in_two_places_is_not_guessed() {
    let shop = Shop::new(1_000, "attempts_max = 2\n");
    shop.emit("bad", 1);
    shop.parked(["--store", "sqlite:shop.db"], 1);
    // The same key at the receiver's own inbox.
    execute(
        &shop.place.path("peer.db"),
        "INSERT INTO onewrite_parked_key (scope, source, key, partition, reason, since) VALUES ('inbox/peer', 'other', 'bad', 0, 'x', 0)",
    );
    let both = ["--store", "sqlite:shop.db", "--store", "sqlite:peer.db"];
    let run = shop.place.run(&[&["dead-letter", "discard", "bad"], &both[..]].concat());
    run.refused("OW0007", &["relay/peer in store shop", "inbox/peer in store peer", "--scope"]);
    assert_eq!(number(&shop.place.path("shop.db"), "SELECT count(*) FROM onewrite_parked"), 1);
    let chosen = ["dead-letter", "discard", "bad", "--scope", "relay/peer"];
    shop.place.run(&[&chosen[..], &both].concat()).ok();
    eventually("the chosen one is dropped", || {
        number(&shop.place.path("shop.db"), "SELECT count(*) FROM onewrite_parked") == 0
    });
    assert_eq!(shop.list(AT).len(), 1, "the other one waits");
    shop.relay.terminate().ok();
}
