//! A sink over its budget: suspended, passed by retention, resumed with a gap that is told.

use crate::{
    peer::Peer,
    support::{Place, emit, event, eventually, free_address, number, texts},
};

const LIST: [&str; 3] = ["sink", "list", "--json"];

fn configured(place: &Place, url: &str, budget: &str) {
    place.write(
        "onewrite.toml",
        &format!(
            "[relay]\nlease_ms = 300\nbackoff_cap_ms = 100\n{budget}\n[retention]\nlog_s = 0\n\
             [[service]]\nname = \"shop\"\nstore = \"sqlite:shop.db\"\n\
             [[service.sink]]\nname = \"peer\"\nurls = [\"{url}\"]\nallow_private = true\n"
        ),
    );
}

fn suspended(place: &Place) -> String {
    place.json(&LIST)[0]["suspended"]["why"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_sink_over_its_budget_is_suspended_passed_and_told_of_the_gap() {
    let place = Place::with_store();
    let (shop, peer) = (place.path("shop.db"), place.path("peer.db"));
    let address = free_address();
    configured(&place, &format!("http://{address}/events"), "budget_age_s = 1");
    // What is delivered before shows the gap afterwards.
    let receiver = Peer::with(&peer, address, |_| ());
    emit(&shop, &[event("Made", "a", 0)]);
    let relay = place.start(&["relay"]);
    let taken = || texts(&peer, "SELECT data FROM effects ORDER BY n");
    let settled = "SELECT max(sequence) FROM onewrite_cursor";
    eventually("the first is delivered", || number(&shop, settled) == 1);
    drop(receiver);
    emit(&shop, &[event("Made", "a", 1), event("Made", "a", 2)]);
    let said = relay.says("OW0020");
    assert!(said.contains("peer") && said.contains("2 records wait"), "{said}");
    eventually("it is suspended", || suspended(&place).contains("2 records wait"));
    eventually("retention passes it", || {
        number(&shop, "SELECT count(*) FROM onewrite_outbox") == 0
    });
    assert_eq!(number(&shop, "SELECT count(*) FROM onewrite_history"), 3, "its story is kept");
    // The receiver is back, and refuses to go on over a gap unawares.
    let receiver = Peer::with(&peer, address, |_| ());
    place.run(&["sink", "resume", "peer"]).ok();
    assert_eq!(suspended(&place), "");
    emit(&shop, &[event("Made", "a", 3)]);
    let waits = "SELECT coalesce(max(reason), '') FROM onewrite_cursor";
    eventually("the gap is told", || texts(&shop, waits)[0].contains("OW0017"));
    assert_eq!(taken(), ["0"], "nothing is handled behind the gap");
    let why = place.run(&["why", "a"]).ok().out;
    assert!(why.contains("OW0017") && why.contains("tried"), "{why}");
    // An operator sees it at the receiver, and accepts it after comparing both sides.
    let at = ["--store", "sqlite:peer.db"];
    let listed = || place.json(&[&["gap", "list", "--json"], &at[..]].concat());
    let gap = listed()[0].clone();
    assert_eq!((&gap["consumer"], &gap["source"]), (&"peer".into(), &"shop".into()), "{gap}");
    assert_eq!((&gap["mark"], &gap["gone_upto"]), (&1.into(), &3.into()), "{gap}");
    let accept = |source| {
        let asked = ["gap", "accept", "--consumer", "peer", "--source", source];
        place.run(&[&asked[..], &at].concat())
    };
    accept("nobody").refused("OW0026", &["nobody"]);
    accept("shop").ok();
    eventually("it goes on behind the gap", || taken() == ["0", "3"]);
    assert_eq!(listed(), serde_json::json!([]));
    drop(receiver);
    relay.terminate().ok();
}

#[test]
fn a_sink_with_too_many_bytes_waiting_is_suspended_and_others_go_on() {
    let place = Place::with_store();
    let shop = place.path("shop.db");
    configured(&place, &format!("http://{}/events", free_address()), "budget_bytes = 10");
    let mut config = std::fs::read_to_string(place.path("onewrite.toml")).unwrap();
    let receiver = Peer::start(&place.path("peer.db"));
    config += &format!(
        "[[service.sink]]\nname = \"well\"\nurls = [\"{}\"]\nallow_private = true\n",
        receiver.url()
    );
    place.write("onewrite.toml", &config);
    let relay = place.start(&["relay"]);
    let taken = || number(&place.path("peer.db"), "SELECT count(*) FROM effects");
    for done in 0..10 {
        emit(&shop, &[event("Made", "a", 100)]);
        eventually("the other takes it", || taken() == done + 1);
    }
    assert!(relay.says("OW0020").contains("peer"));
    eventually("it is suspended", || suspended(&place).contains("bytes"));
    emit(&shop, &[event("Made", "a", 100)]);
    eventually("the other goes on", || taken() == 11);
    let why = place.run(&["why", "a"]).ok().out;
    assert!(why.contains("suspended since") && why.contains("sink resume peer"), "{why}");
    relay.terminate().ok();
}
