//! Bad input: a clear paragraph that names cause and cure, and nothing lost.

use crate::{
    peer::Peer,
    support::{Place, Run, emit, event, eventually, execute, free_address, number, texts},
};

const STORE: [&str; 4] = ["store", "show", "--store", "sqlite:shop.db"];

#[test]
fn unknown_schemes_name_the_known_ones() {
    let place = Place::with_store();
    let run = place.run(&["store", "show", "--store", "oracle:shop"]);
    run.refused("OW0001", &["`oracle:`", "sqlite:"]);
    let run = place.run(&["relay", "--store", "sqlite:shop.db", "--sink", "pigeon://loft"]);
    assert_eq!(run.err.lines().filter(|line| line.starts_with("error[")).count(), 1, "{run:?}");
    run.refused("OW0001", &["`pigeon:`", "stdout:", "http://"]);
    place.run(&["store", "show", "--store", "sqlite:"]).refused("OW0023", &["names no file"]);
}

#[test]
fn a_missing_store_is_named_and_not_created() {
    let place = Place::new();
    place.run(&STORE).refused("OW0002", &["shop.db", "does not exist"]);
    assert!(!place.path("shop.db").exists());
    let nowhere = ["store", "init", "--store", "sqlite:no/such/folder/shop.db"];
    place.run(&nowhere).refused("OW0002", &["no/such/folder"]);
    place.write("folder.db", "");
    let folder = format!("sqlite:{}", place.root().display());
    place.run(&["store", "init", "--store", &folder]).refused("OW0002", &[&folder[7..]]);
}

#[test]
fn a_database_without_a_schema_is_left_as_it_is() {
    let place = Place::new();
    execute(&place.path("shop.db"), "CREATE TABLE orders (id TEXT)");
    place.run(&STORE).refused("OW0003", &["shop.db", "store init"]);
    let tables = texts(&place.path("shop.db"), "SELECT name FROM sqlite_schema");
    assert_eq!(tables, ["orders"]);
}

#[test]
fn a_schema_of_a_later_program_is_not_touched() {
    let place = Place::with_store();
    let path = place.path("shop.db");
    emit(&path, &[event("Made", "a", 1)]);
    execute(
        &path,
        "UPDATE onewrite_meta SET value = '99' WHERE name IN ('schema_version', 'min_compatible')",
    );
    place.run(&STORE).refused("OW0004", &["version 99"]);
    place.run(&["store", "init", "--store", "sqlite:shop.db"]).refused("OW0004", &["version 99"]);
    assert_eq!(number(&path, "SELECT count(*) FROM onewrite_outbox"), 1);
    // A later schema that this program can still work with is worked with.
    execute(&path, "UPDATE onewrite_meta SET value = '1' WHERE name = 'min_compatible'");
    place.run(&STORE).ok();
    let kept = "SELECT value FROM onewrite_meta WHERE name = 'schema_version'";
    assert_eq!(texts(&path, kept), ["99"]);
}

#[test]
fn a_file_that_is_no_database_is_left_as_it_is() {
    let place = Place::new();
    let text = "this is not a database, and it is somebody's work\n".repeat(200);
    place.write("shop.db", &text);
    place.run(&STORE).refused("OW0027", &["shop.db"]);
    place.run(&["store", "init", "--store", "sqlite:shop.db"]).refused("OW0027", &["shop.db"]);
    assert_eq!(std::fs::read_to_string(place.path("shop.db")).unwrap(), text);
}

#[test]
fn an_unreachable_peer_is_waited_for_and_then_delivered_to() {
    let place = Place::with_store();
    let path = place.path("shop.db");
    let ids = emit(&path, &[event("Made", "a", 1), event("Made", "a", 2)]);
    let address = free_address();
    let url = format!("http://{address}/events");
    let args =
        ["relay", "--store", "sqlite:shop.db", "--sink", &url, "--name", "peer", "--allow-private"];
    let mut relay = place.start(&args);
    let said = relay.says("OW0015");
    assert!(said.contains("peer"), "{said}");
    assert!(relay.is_running(), "it tries again");
    let run = relay.terminate().ok();
    assert!(run.err.contains("drained"), "{run:?}");
    let sinks = place.json(&["sink", "list", "--store", "sqlite:shop.db", "--json"]);
    assert_eq!(sinks[0]["behind"], 2, "nothing was lost");
    let relay = place.start(&args);
    relay.says("OW0015");
    let _peer = Peer::with(&place.path("peer.db"), address, |_| ());
    let delivered = || texts(&place.path("peer.db"), "SELECT id FROM effects ORDER BY n");
    eventually("the peer is delivered to", || delivered().len() == 2);
    assert_eq!(delivered(), ids);
    relay.terminate().ok();
}

#[test]
fn a_private_address_is_refused_unless_it_is_allowed() {
    let place = Place::with_store();
    let run = place.run(&["relay", "--store", "sqlite:shop.db", "--sink", "http://127.0.0.1:9/x"]);
    run.refused("OW0024", &["127.0.0.1", "--allow-private", "allow_private = true"]);
    let run = place.run(&["relay", "--store", "sqlite:shop.db", "--sink", "http://10.0.0.1/x"]);
    run.refused("OW0024", &["10.0.0.1"]);
    let run = place.run(&["relay", "--store", "sqlite:shop.db", "--sink", "http://"]);
    run.refused("OW0023", &[]);
}

#[test]
fn the_permission_for_a_private_address_may_stand_in_the_url() {
    let place = Place::with_store();
    emit(&place.path("shop.db"), &[event("Made", "a", 1)]);
    let peer = Peer::start(&place.path("peer.db"));
    let url = format!("{}?allow_private=true", peer.url());
    let relay = place.start(&["relay", "--store", "sqlite:shop.db", "--sink", &url]);
    let delivered = || texts(&place.path("peer.db"), "SELECT id FROM effects").len();
    eventually("the peer is delivered to", || delivered() == 1);
    relay.terminate().ok();
}

#[test]
fn a_sink_that_would_be_ignored_and_a_type_that_no_event_has_are_refused() {
    let place = Place::with_store();
    emit(&place.path("shop.db"), &[event("Made", "a", 1)]);
    let with = |args: &[&str]| place.run(&[&["relay", "--store", "sqlite:shop.db"], args].concat());
    with(&["--sink", "null:", "--sink", "nats://me:hunter2@b/S"]).refused("OW0023", &["`null:`"]);
    for types in ["", "A,", "A, B"] {
        let run = with(&["--sink", "null:", "--types", types]);
        assert!(run.code == Some(2) && run.err.contains("--types"), "{run:?}");
    }
    let sink = "[[service.sink]]\nname = \"x\"\nurls = [\"null:\"]\ntypes = [\"\"]\n";
    let text = format!("[[service]]\nname = \"shop\"\nstore = \"sqlite:shop.db\"\n{sink}");
    place.write("onewrite.toml", &text);
    place.run(&["relay"]).refused("OW0023", &["`x`", "`shop`", "types"]);
    let sinks = "SELECT count(*) FROM onewrite_sink";
    assert_eq!(number(&place.path("shop.db"), sinks), 0, "nothing was settled");
}

#[test]
fn a_store_that_is_no_url_is_not_shown() {
    let place = Place::new();
    let store = "host=db.example.org user=me password=hunter:2 dbname=shop";
    let run = place.run(&["store", "show", "--store", store]);
    run.refused("OW0001", &["is not a URL", "key=value", "postgres://"]);
    let doctor = place.run(&["doctor", "--json", "--store", store]);
    for said in [&run.err, &doctor.err, &doctor.out] {
        assert!(!said.contains("hunter"), "{said}");
    }
}

#[test]
fn metrics_are_served_on_loopback_only() {
    let place = Place::with_store();
    let relay = ["relay", "--store", "sqlite:shop.db", "--sink", "null:", "--listen"];
    let run = place.run(&[&relay[..], &["0.0.0.0:0"]].concat());
    run.refused("OW0031", &["0.0.0.0", "loopback"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = place.run(&[&relay[..], &[&address]].concat());
    run.refused("OW0031", &[&address, "because"]);
}

#[test]
fn a_relay_without_work_says_what_is_missing() {
    let place = Place::with_store();
    place.run(&["relay"]).refused("OW0023", &["--store"]);
    let run = place.run(&["relay", "--store", "sqlite:shop.db"]);
    run.refused("OW0023", &["--sink"]);
    place.write("onewrite.toml", "[[service]]\nname = \"shop\"\nstore = \"sqlite:shop.db\"\n[[service.sink]]\nname = \"out\"\nurls = [\"null:\"]\n");
    let run = place.run(&["relay", "--service", "shoop"]);
    run.refused("OW0023", &["shoop"]);
}

#[test]
fn a_wrong_configuration_names_file_line_and_key() {
    let place = Place::new();
    let cases = [
        ("[relay]\nlease_mss = 5\n", &["onewrite.toml", "line 2", "lease_mss"][..]),
        ("[relay]\nlease_ms = \"soon\"\n", &["onewrite.toml", "line 2", "lease_ms"]),
        ("[relay]\nlease_ms = 0\n", &["relay.lease_ms", "onewrite.toml", "100"]),
        ("[relay\n", &["onewrite.toml", "line 1"]),
        ("[[service]]\nname = \"shop\"\n", &["onewrite.toml", "store"]),
        (
            "[[service]]\nname = \"shop\"\nstore = \"sqlite:a\"\n[[service]]\nname = \"shop\"\nstore = \"sqlite:b\"\n",
            &["two services `shop`"],
        ),
    ];
    for (text, words) in cases {
        place.write("onewrite.toml", text);
        place.run(&["config", "--effective"]).refused("OW0023", words);
    }
    let run = place.run(&["config", "--effective", "--config", "gone.toml"]);
    run.refused("OW0023", &["gone.toml", "because"]);
    place.write("onewrite.toml", "");
    for (name, value) in [("ONEWRITE_RELAY_LEASE", "5"), ("ONEWRITE_RELAY_LEASE_MS", "soon")] {
        let mut command = place.command(&["config", "--effective"]);
        command.env(name, value);
        Run::of(command).refused("OW0023", &[name]);
    }
}

#[test]
fn a_secret_that_is_not_set_or_not_valid_is_not_ignored() {
    let place = Place::with_store();
    let args = [
        "relay",
        "--store",
        "sqlite:shop.db",
        "--sink",
        "http://example.com/x",
        "--secrets-env",
        "SHOP_SECRET",
    ];
    place.run(&args).refused("OW0023", &["SHOP_SECRET", "not set"]);
    let mut command = place.command(&args);
    command.env("SHOP_SECRET", "hunter2-is-not-a-secret");
    let run = Run::of(command);
    assert!(!run.err.contains("hunter2"), "secrets are not printed: {run:?}");
    run.refused("OW0023", &["secret"]);
}

#[test]
fn orders_that_cannot_be_read_are_named_by_line() {
    let place = Place::new();
    let good = |id: &str| {
        format!(
            "{{\"id\":\"{id}\",\"customer\":\"c\",\"sku\":\"s\",\"quantity\":1,\"cents\":100,\"country\":\"Korea\"}}\n"
        )
    };
    let huge = good(&"x".repeat(2 << 20));
    let cases = [
        (good("a") + "{\"id\":\n", "OW0007", &["orders.jsonl line 2", "because"][..]),
        (good("a") + "\n" + &good("b").replace("sku", "article"), "OW0007", &["line 3", "article"]),
        (good("a") + &good("a"), "OW0007", &["line 2", "`a`", "twice"]),
        (good("a").replace(":1,", ":0,"), "OW0007", &["line 1", "quantity"]),
        (String::new(), "OW0007", &["orders.jsonl", "no order"]),
        (good("a") + &huge, "OW0005", &["line 2"]),
    ];
    for (text, code, words) in cases {
        place.write("orders.jsonl", &text);
        let run = place.run(&["demo", "--input", "orders.jsonl", "--dir", "kept"]);
        run.refused(code, words);
        assert!(run.err.len() < 4_000, "no payload is printed: {} bytes", run.err.len());
        assert!(!place.path("kept").exists(), "nothing was begun");
    }
    let run = place.run(&["demo", "--input", "gone.jsonl"]);
    run.refused("OW0007", &["gone.jsonl", "because"]);
}

#[test]
fn the_demo_does_not_touch_a_folder_in_use() {
    let place = Place::with_store();
    let before = std::fs::read(place.path("shop.db")).unwrap();
    let run = place.run(&["demo", "--orders", "5", "--dir", "."]);
    run.refused("OW0007", &["is not empty"]);
    assert_eq!(std::fs::read(place.path("shop.db")).unwrap(), before);
}

#[test]
fn what_is_not_known_is_said_to_be_unknown() {
    let place = Place::with_store();
    let with = |args: &[&str]| place.run(&[args, &["--store", "sqlite:shop.db"]].concat());
    with(&["flow", "order-0"]).refused("OW0026", &["order-0"]);
    with(&["why", "order-0"]).refused("OW0026", &["order-0"]);
    with(&["dead-letter", "show", "a"]).refused("OW0026", &["`a`"]);
    with(&["dead-letter", "retry", "a"]).refused("OW0026", &["`a`"]);
    place.run(&["why", "order-0"]).refused("OW0023", &["--store"]);
}

/// One code has several causes, and what helps against one is no help against another.
#[test]
fn what_to_do_fits_what_happened() {
    let place = Place::with_store();
    place.write("text.db", &"this is not a database\n".repeat(200));
    place.write("onewrite.toml", "[relay]\nlease_mss = 5\n");
    std::fs::create_dir(place.path("empty")).unwrap();
    let order = "name: o\nsteps:\n  - {name: a, action: bank.pay, compensation: {none: x}}\n";
    place.write("order.yaml", order);
    let saga = "01964b2e-7d1c-7a00-8000-0123456789ab";
    for (args, code, cure) in [
        (&["config", "--effective"][..], "OW0023", "onewrite config --effective"),
        (&["serve", "--definitions", "empty"], "OW0023", "`--definitions`"),
        (&["serve", "--participant", "bank"], "OW0023", "an option"),
        (&["serve", "--definitions", "order.yaml"], "OW0034", "`--participant NAME=URL`"),
        (&["saga", "show", saga], "OW0026", "onewrite saga list"),
        (&["dead-letter", "show", "a"], "OW0026", "onewrite dead-letter list"),
        (&["sink", "resume", "a"], "OW0026", "onewrite sink list"),
        (&["guard", "remove", "a"], "OW0026", "onewrite guard list"),
        (&["why", "a"], "OW0026", "the history's retention"),
        (&["store", "show", "--store", "sqlite:text.db"], "OW0027", "Check the path"),
        (&["saga", "check", "gone.yaml"], "OW0007", "Check the path"),
    ] {
        let mut command = place.command(args);
        if code != "OW0027" {
            command.env("ONEWRITE_STORE", "sqlite:shop.db");
        }
        let run = Run::of(command);
        run.refused(code, &[]);
        let said = run.err.lines().find(|line| line.contains("  what to do: ")).unwrap();
        assert!(said.contains(cure), "{args:?}: {said}");
    }
    place.write("onewrite.toml", "");
    for verb in [["saga", "list"], ["sink", "list"]] {
        let run = place.run(&verb);
        run.refused("OW0023", &["what to do: Name it with `--store URL`"]);
    }
    let run = place.run(&["serve", "--store", "sqlite:s.db", "--definitions", "order.yaml"]);
    run.refused("OW0034", &["--participant bank=URL", "`bank.pay`"]);
}
