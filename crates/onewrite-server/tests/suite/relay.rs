//! `onewrite relay` as a process of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Stdio,
};

use serde_json::Value;

use crate::{
    peer::Peer,
    support::{Place, Run, emit, event, eventually, free_address, number, texts},
};

const STDOUT: [&str; 7] =
    ["relay", "--store", "sqlite:shop.db", "--sink", "stdout:", "--name", "out"];

/// `count` events over five keys, as `key` and its own counter.
fn some(place: &Place, from: usize, count: usize) {
    let events: Vec<_> = (from..from + count)
        .map(|number| event("Made", &format!("key-{}", number % 5), number))
        .collect();
    emit(&place.path("shop.db"), &events);
}

/// The data of each key's events, in the order of the lines.
fn by_key(events: &[Value]) -> BTreeMap<String, Vec<u64>> {
    let mut keys = BTreeMap::<String, Vec<u64>>::new();
    for event in events {
        let key = event["partitionkey"].as_str().unwrap().to_owned();
        keys.entry(key).or_default().push(event["data"].as_u64().unwrap());
    }
    keys
}

fn sorted(numbers: &[u64]) -> bool {
    numbers.windows(2).all(|pair| pair[0] < pair[1])
}

#[test]
fn a_relay_to_standard_output_ends_with_its_reader() {
    let place = Place::with_store();
    emit(&place.path("shop.db"), &[event("Made", "a", 1)]);
    let mut command = place.command(&["relay", "--store", "sqlite:shop.db", "--sink", "stdout:"]);
    let mut relay = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(relay.stdout.take());
    let ended = relay.wait_with_output().unwrap();
    let err = String::from_utf8(ended.stderr).unwrap();
    let run = Run { code: ended.status.code(), out: String::new(), err };
    run.refused("OW0015", &["nobody reads standard output"]);
    let sinks = place.json(&["sink", "list", "--store", "sqlite:shop.db", "--json"]);
    assert_eq!(sinks[0]["behind"], 1, "{sinks}");
}

#[test]
fn a_relay_whose_log_nobody_reads_goes_on() {
    let place = Place::with_store();
    let path = place.path("shop.db");
    let url = format!("http://{}/x", free_address());
    let args = ["relay", "--store", "sqlite:shop.db", "--sink", &url, "--allow-private"];
    let mut command = place.command(&args);
    command.env("ONEWRITE_LOG", "debug").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut relay = command.spawn().unwrap();
    drop(relay.stderr.take());
    emit(&path, &[event("Made", "a", 1)]);
    let failures = "SELECT count(*) FROM onewrite_cursor WHERE retry_at IS NOT NULL";
    eventually("it tries, and logs that in vain", || number(&path, failures) > 0);
    let pid = rustix::process::Pid::from_raw(relay.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(relay.wait().unwrap().code(), Some(0));
}

#[test]
fn each_event_is_a_line_in_the_order_of_its_key() {
    let place = Place::with_store();
    some(&place, 0, 40);
    let relay = place.start(&STDOUT);
    relay.events(40);
    some(&place, 40, 10);
    let events = relay.events(50);
    let keys = by_key(&events);
    assert_eq!(keys.len(), 5);
    assert!(keys.values().all(|numbers| numbers.len() == 10 && sorted(numbers)), "{keys:?}");
    assert_eq!((&events[0]["specversion"], &events[0]["type"]), (&"1.0".into(), &"Made".into()));
    let run = relay.terminate().ok();
    assert_eq!(run.out.lines().count(), 50, "each once");
    assert!(run.err.contains("relaying") && run.err.contains("drained"), "{run:?}");
}

#[test]
fn a_relay_that_ends_gives_its_leases_back_at_once() {
    let place = Place::with_store();
    place.write("onewrite.toml", "[relay]\nlease_ms = 600000\n");
    some(&place, 0, 20);
    let first = place.start(&STDOUT);
    first.events(20);
    first.terminate().ok();
    let held = "SELECT count(*) FROM onewrite_lease WHERE owner IS NOT NULL";
    assert_eq!(number(&place.path("shop.db"), held), 0);
    some(&place, 20, 20);
    let second = place.start(&STDOUT);
    let numbers = by_key(&second.events(20));
    assert!(numbers.values().flatten().all(|number| *number >= 20), "only what is new");
    second.terminate().ok();
}

#[test]
fn a_killed_relay_repeats_at_most_its_unsettled_tail_and_loses_nothing() {
    let place = Place::with_store();
    place.write("onewrite.toml", "[relay]\nlease_ms = 300\n");
    some(&place, 0, 30);
    let first = place.start(&STDOUT);
    first.lines(30);
    let settled = "SELECT count(*) FROM onewrite_outbox o JOIN onewrite_cursor c ON c.partition = o.partition WHERE c.sequence >= o.sequence";
    eventually("the cursors are moved", || number(&place.path("shop.db"), settled) == 30);
    some(&place, 30, 30);
    let first = first.kill();
    let done: BTreeSet<u64> = by_key(&first.out.lines().map(parsed).collect::<Vec<_>>())
        .into_values()
        .flatten()
        .collect();
    let second = place.start(&STDOUT);
    eventually("all is settled", || number(&place.path("shop.db"), settled) == 60);
    let again = by_key(&second.terminate().ok().out.lines().map(parsed).collect::<Vec<_>>());
    assert!(again.values().all(|numbers| sorted(numbers)), "{again:?}");
    let again: BTreeSet<u64> = again.into_values().flatten().collect();
    assert!(again.iter().all(|number| *number >= 30), "what was settled does not come again");
    assert_eq!(done.union(&again).count(), 60, "nothing is lost");
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

#[test]
fn a_sink_gets_the_types_it_asked_for() {
    let place = Place::with_store();
    let path = place.path("shop.db");
    let events = ["Made", "Sold", "Made", "Lost", "Sold"];
    let events: Vec<_> =
        events.iter().enumerate().map(|(number, kind)| event(kind, "a", number)).collect();
    emit(&path, &events);
    let relay = place.start(&[&STDOUT[..], &["--types", "Sold,Lost"]].concat());
    let numbers = by_key(&relay.events(3));
    assert_eq!(numbers["a"], [1, 3, 4]);
    let behind = "SELECT max(sequence) FROM onewrite_cursor";
    eventually("what it did not want is passed", || number(&path, behind) == 5);
    assert_eq!(relay.terminate().ok().out.lines().count(), 3);
}

#[test]
fn a_new_sink_may_start_with_the_next_event() {
    let place = Place::with_store();
    some(&place, 0, 10);
    let args = [&STDOUT[..], &["--from", "now"]].concat();
    let relay = place.start(&args);
    relay.says("relaying");
    eventually("it is registered", || {
        number(&place.path("shop.db"), "SELECT count(*) FROM onewrite_sink") == 1
    });
    some(&place, 10, 5);
    let numbers: BTreeSet<u64> = by_key(&relay.events(5)).into_values().flatten().collect();
    assert_eq!(numbers, (10..15).collect());
    relay.terminate().ok();
}

#[test]
fn a_new_sink_may_start_at_a_time() {
    let place = Place::with_store();
    some(&place, 0, 10);
    let placed = "SELECT max(placed_at) FROM onewrite_outbox";
    let time = onewrite::Timestamp(number(&place.path("shop.db"), placed) + 1).to_string();
    eventually("time passes", || {
        let zero = onewrite::Timestamp::parse(&time).unwrap().0;
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        since.as_micros() > zero.unsigned_abs().into()
    });
    some(&place, 10, 5);
    let relay = place.start(&[&STDOUT[..], &["--from", &time]].concat());
    let numbers: BTreeSet<u64> = by_key(&relay.events(5)).into_values().flatten().collect();
    assert_eq!(numbers, (10..15).collect());
    relay.terminate().ok();
    let run = place.run(&[&STDOUT[..], &["--from", "yesterday"]].concat());
    assert!(run.code == Some(2) && run.err.contains("beginning"), "{run:?}");
}

#[test]
fn two_relays_share_the_partitions() {
    let place = Place::with_store();
    place.write("onewrite.toml", "[relay]\nlease_ms = 600\n");
    let path = place.path("shop.db");
    let (first, second) = (place.start(&STDOUT), place.start(&STDOUT));
    let shares = "SELECT count(*) || '' FROM onewrite_lease WHERE owner IS NOT NULL GROUP BY owner";
    eventually("each holds half", || texts(&path, shares) == ["128", "128"]);
    some(&place, 0, 50);
    let count = |running: &crate::support::Running| running.lines(0).len();
    eventually("all is delivered", || count(&first) + count(&second) == 50);
    first.terminate().ok();
    eventually("the other has all", || texts(&path, shares) == ["256"]);
    second.terminate().ok();
}

fn get(address: SocketAddr, route: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {route} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let status = reply.split(' ').nth(1).unwrap().parse().unwrap();
    (status, reply.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[test]
fn metrics_and_readiness_are_served_and_draining_is_not_ready() {
    let place = Place::with_store();
    // A receiver that takes the request and does not answer yet.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/events", silent.local_addr().unwrap());
    let listen = free_address();
    some(&place, 0, 3);
    let relay = place.start(&[
        "relay",
        "--store",
        "sqlite:shop.db",
        "--sink",
        &url,
        "--name",
        "slow",
        "--allow-private",
        "--listen",
        &listen.to_string(),
    ]);
    relay.says(&format!("http://{listen}/metrics"));
    assert_eq!(get(listen, "/healthz"), (200, "alive\n".to_owned()));
    assert_eq!(get(listen, "/readyz"), (200, "ready\n".to_owned()));
    let (mut request, _) = silent.accept().unwrap();
    let mut head = [0; 4];
    request.read_exact(&mut head).unwrap();
    if head == *b"GET " {
        // It asks for the marks first; this receiver keeps none.
        answer(&mut request, "404 Not Found", true);
        (request, _) = silent.accept().unwrap();
        request.read_exact(&mut head).unwrap();
    }
    assert_eq!(head, *b"POST");
    let metrics = get(listen, "/metrics").1;
    for gauge in ["records", "bytes", "seconds"] {
        let line = format!("onewrite_sink_lag_{gauge}{{sink=\"slow\"}} ");
        let value = metrics.lines().find_map(|found| found.strip_prefix(&line));
        let value: f64 = value.unwrap_or_else(|| panic!("no {line}: {metrics}")).parse().unwrap();
        assert!(gauge != "records" || value == 3.0, "{line}{value}");
    }
    relay.signal(rustix::process::Signal::TERM);
    eventually("it drains", || get(listen, "/readyz") == (503, "draining\n".to_owned()));
    assert_eq!(get(listen, "/healthz").0, 200);
    answer(&mut request, "204 No Content", false);
    relay.end().ok();
    let settled = "SELECT count(*) FROM onewrite_outbox o JOIN onewrite_cursor c ON c.partition = o.partition WHERE c.sequence >= o.sequence";
    assert_eq!(number(&place.path("shop.db"), settled), 3, "what was in flight is settled");
}

/// Answers a request whose head was begun to be read.
fn answer(stream: &mut TcpStream, status: &str, close: bool) {
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
    if close {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

#[test]
fn a_broken_sink_does_not_hold_up_another() {
    let place = Place::with_store();
    let dead = free_address();
    let peer = Peer::start(&place.path("peer.db"));
    place.write(
        "onewrite.toml",
        &format!(
            "[[service]]\nname = \"shop\"\nstore = \"sqlite:shop.db\"\n\
             [[service.sink]]\nname = \"dead\"\nurls = [\"http://{dead}/x\"]\nallow_private = true\n\
             [[service.sink]]\nname = \"well\"\nurls = [\"{}\"]\nallow_private = true\n",
            peer.url()
        ),
    );
    some(&place, 0, 1);
    let relay = place.start(&["relay"]);
    relay.says("OW0015");
    some(&place, 1, 29);
    let taken = "SELECT count(*) FROM effects";
    eventually("the healthy sink has all", || number(&place.path("peer.db"), taken) == 30);
    relay.terminate().ok();
    let sinks = place.json(&["sink", "list", "--json"]);
    let behind: Vec<_> =
        sinks.as_array().unwrap().iter().map(|sink| sink["behind"].as_u64().unwrap()).collect();
    assert_eq!(behind, [30, 0], "{sinks}");
}
