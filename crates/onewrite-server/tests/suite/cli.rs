//! The verbs that look and set: their words and their JSON.

use std::io::Read;

use onewrite::Code;

use crate::support::{Place, Run, emit, event, execute, number};

#[test]
fn help_and_version_are_data() {
    let place = Place::new();
    let help = place.run(&["--help"]).ok().out;
    for verb in [
        "demo",
        "relay",
        "dead-letter",
        "guard",
        "flow",
        "why",
        "sink",
        "store",
        "doctor",
        "config",
    ] {
        assert!(help.contains(&format!("\n  {verb} ")), "{verb}: {help}");
    }
    assert!(!help.contains("demo-service"), "the demo's own processes are not for users: {help}");
    let version = place.run(&["--version"]).ok().out;
    assert!(version.starts_with("onewrite ") && version.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_unknown_flag_or_verb_shows_the_usage_and_exits_with_2() {
    let place = Place::new();
    for args in [&["relay", "--bogus"][..], &["fly"], &[], &["demo", "--orders", "many"]] {
        let run = place.run(args);
        assert_eq!((run.code, &*run.out), (Some(2), ""), "{run:?}");
        assert!(run.err.contains("Usage") || run.err.contains("--help"), "{run:?}");
    }
    let run = place.run(&["demo", "--orders", "0"]);
    assert!(run.code == Some(2) && run.err.contains("--orders"), "{run:?}");
}

#[test]
fn every_code_is_explained() {
    let place = Place::new();
    for code in Code::ALL {
        let page = place.run(&["explain", code.as_str()]).ok().out;
        assert!(page.starts_with(&format!("# {code}: ")), "{page}");
        assert!(page.contains("## What you do"), "{page}");
    }
    let page = place.json(&["explain", "ow0012", "--json"]);
    assert_eq!(page["code"], "OW0012");
    assert!(page["cure"].as_str().unwrap().contains("store fork"), "{page}");
    for short in ["12", "ow12"] {
        assert!(place.run(&["explain", short]).ok().out.starts_with("# OW0012: "));
    }
    place.run(&["explain", "OW9999"]).refused("OW0026", &["OW9999", "OW0001"]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let place = Place::new();
    let mut command = place.command(&["explain", "OW0001"]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), &*said), (Some(0), ""));
}

const FILE: &str = "
[relay]
batch_max = 7
lease_ms = 5000

[[service]]
name = \"shop\"
store = \"sqlite:shop.db\"

[[service.sink]]
name = \"out\"
urls = [\"stdout:\"]
";

#[test]
fn the_effective_configuration_is_file_under_environment_with_origins() {
    let place = Place::new();
    place.write("onewrite.toml", FILE);
    let effective = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("ONEWRITE_RELAY_BATCH_MAX", "9").env("ONEWRITE_RETENTION_LOG_S", "60");
        Run::of(command).ok().out
    };
    let text = effective(&["config", "--effective"]);
    for line in [
        "batch_max = 9  # ONEWRITE_RELAY_BATCH_MAX",
        "lease_ms = 5000  # onewrite.toml",
        "attempts_max = 8  # default",
        "log_s = 60  # ONEWRITE_RETENTION_LOG_S",
    ] {
        assert!(text.lines().any(|found| found == line), "`{line}` is not in: {text}");
    }
    // What it prints is itself a configuration.
    place.write("printed.toml", &text);
    let json: serde_json::Value =
        serde_json::from_str(&effective(&["config", "--effective", "--json"])).unwrap();
    assert_eq!(json["relay"]["batch_max"], 9);
    assert_eq!(json["origins"]["relay.lease_ms"], "onewrite.toml");
    let printed = place.json(&["config", "--effective", "--config", "printed.toml", "--json"]);
    assert_eq!(printed["relay"], json["relay"]);
    assert_eq!(printed["service"][0]["sink"][0]["name"], "out");
}

#[test]
fn without_a_file_the_defaults_are_in_force() {
    let json = Place::new().json(&["config", "--effective", "--json"]);
    assert_eq!(
        (&json["relay"]["batch_max"], &json["service"]),
        (&1000.into(), &[(); 0][..].into())
    );
}

#[test]
fn a_file_named_by_hand_stands_over_a_store_of_the_environment() {
    let place = Place::with_store();
    place.write("onewrite.toml", FILE);
    let listed = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("ONEWRITE_STORE", "sqlite:other.db");
        Run::of(command)
    };
    listed(&["sink", "list"]).refused("OW0002", &["other.db"]);
    listed(&["sink", "list", "--store", "sqlite:shop.db"]).ok();
    listed(&["sink", "list", "--config", "onewrite.toml"]).ok();
    place.run(&["relay", "--sink", "null:"]).refused("OW0023", &["--store"]);
}

#[test]
fn what_is_secret_in_a_url_is_not_shown() {
    let place = Place::new();
    let store = "postgres://me:hunter2@127.0.0.1:1/shop?password=hunter2";
    let sink = "https://me:hunter2@example.org/hook?token=hunter2";
    place.write(
        "onewrite.toml",
        &format!("[[service]]\nname = \"shop\"\nstore = \"{store}\"\n[[service.sink]]\nname = \"out\"\nurls = [\"{sink}\"]\n"),
    );
    let config = ["config", "--effective"];
    let text = place.run(&config).ok().out;
    assert!(text.contains("postgres://127.0.0.1:1/shop") && text.contains("//example.org/hook"));
    let json = place.run(&[&config[..], &["--json"]].concat()).ok().out;
    let mut runs = vec![text, json];
    for args in
        [&["doctor"][..], &["relay"], &["sink", "list"], &["store", "show", "--store", store]]
    {
        let run = place.run(args);
        assert_eq!(run.code, Some(1), "{run:?}");
        runs.extend([run.out, run.err]);
    }
    let mut help = place.command(&["relay", "--help"]);
    help.env("ONEWRITE_STORE", store).env("ONEWRITE_SINK", sink);
    runs.push(Run::of(help).ok().out);
    for said in runs {
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn the_doctor_looks_at_everything_and_fails_for_what_it_cannot_reach() {
    let place = Place::with_store();
    let doctor = ["doctor", "--store", "sqlite:shop.db", "--sink", "stdout:"];
    let text = place.run(&doctor).ok().out;
    assert!(text.contains("store sqlite:shop.db: nothing to mend"), "{text}");
    let json = place.json(&[&doctor[..], &["--json"]].concat());
    let place_of = |index: usize| (json[index]["what"].clone(), json[index]["name"].clone());
    assert_eq!(place_of(0), ("store".into(), "sqlite:shop.db".into()));
    assert_eq!(place_of(1), ("sink".into(), "stdout:".into()));
    assert_eq!(json[0]["warnings"], serde_json::json!([]));
    let run = place.run(&["doctor", "--store", "sqlite:gone.db", "--store", "sqlite:shop.db"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.contains("error[OW0002]") && run.out.contains("shop.db: nothing"), "{run:?}");
    place.run(&["doctor"]).refused("OW0023", &["--store"]);
}

#[test]
fn the_doctor_fails_for_a_receiver_that_does_not_answer() {
    let place = Place::with_store();
    let peer = crate::peer::Peer::start(&place.path("peer.db"));
    let doctor = |sink: &str| place.run(&["doctor", "--allow-private", "--sink", sink]);
    let said = doctor(&peer.url()).ok().out;
    assert!(said.contains("nothing to mend"), "{said}");
    let nowhere = format!("http://{}/x", crate::support::free_address());
    doctor(&nowhere).refused("OW0015", &["cannot be connected to"]);
}

#[test]
fn a_variable_that_is_empty_or_cannot_be_read_is_named() {
    let place = Place::with_store();
    let mut command = place.command(&["sink", "list", "--store", "sqlite:shop.db"]);
    let said = Run::of_ref(command.env("ONEWRITE_LOG", "warn,=x=")).ok().err;
    assert!(said.contains("ONEWRITE_LOG is `warn,=x=`"), "{said}");
    let mut command = place.command(&["store", "show"]);
    let run = Run::of_ref(command.env("ONEWRITE_STORE", ""));
    assert!(run.code == Some(2) && run.err.contains("--store"), "{run:?}");
}

#[test]
fn a_guard_is_added_listed_and_removed_and_works_in_between() {
    let place = Place::with_store();
    let path = place.path("shop.db");
    execute(&path, "CREATE TABLE orders (id TEXT)");
    let guard = |args: &[&str]| {
        place.json(&[&["guard"], args, &["--store", "sqlite:shop.db", "--json"]].concat())
    };
    assert!(guard(&["add", "Orders"])["done"].as_str().unwrap().contains("must emit"));
    let listed = serde_json::json!([{ "store": "shop", "table": "orders" }]);
    assert_eq!(guard(&["list"]), listed);
    place.run(&["store", "init", "--store", "sqlite:other.db"]).ok();
    assert_eq!(guard(&["list", "--store", "sqlite:other.db"]), listed, "of every store named");
    let change = "INSERT INTO orders VALUES ('o-1')";
    let refused = crate::support::open(&path).execute(change, []).unwrap_err();
    assert!(refused.to_string().contains("FOREIGN KEY"), "{refused}");
    guard(&["remove", "orders"]);
    execute(&path, change);
    assert_eq!(guard(&["list"]), serde_json::json!([]));
    let again = ["guard", "remove", "orders", "--store", "sqlite:shop.db"];
    place.run(&again).refused("OW0026", &["`orders` is not guarded"]);
    let ours = ["guard", "add", "onewrite_outbox", "--store", "sqlite:shop.db"];
    place.run(&ours).refused("OW0021", &["onewrite_outbox"]);
}

#[test]
fn a_store_is_made_once_and_shown() {
    let place = Place::new();
    let store = |verb: &str| place.json(&["store", verb, "--store", "sqlite:shop.db", "--json"]);
    let made = store("init");
    assert_eq!(
        (&made["source"], &made["partitions"], &made["head"]),
        (&"shop".into(), &256.into(), &0.into())
    );
    emit(&place.path("shop.db"), &[event("Made", "a", 1)]);
    let shown = store("show");
    assert_eq!(shown["head"], 1);
    assert_eq!(shown["incarnations"], made["incarnations"], "showing changes nothing");
    assert_eq!(store("init")["incarnations"], made["incarnations"], "made once");
    let text = place.run(&["store", "show", "--store", "sqlite:shop.db"]).ok().out;
    assert!(text.contains("source shop, 256 partitions, head at 1"), "{text}");
}

#[test]
fn a_copied_store_is_refused_until_a_person_says_what_it_is() {
    let place = Place::with_store();
    emit(&place.path("shop.db"), &[event("Made", "a", 1)]);
    execute(&place.path("shop.db"), "PRAGMA wal_checkpoint(TRUNCATE)");
    for copy in ["adopted.db", "forked.db"] {
        std::fs::copy(place.path("shop.db"), place.path(copy)).unwrap();
        let url = format!("sqlite:{copy}");
        let run = place.run(&["store", "show", "--store", &url]);
        run.refused("OW0012", &[copy, "store adopt", "store fork"]);
        assert_eq!(number(&place.path(copy), "SELECT count(*) FROM onewrite_outbox"), 1);
    }
    let lives = |verb: &str, url: &str| {
        place.json(&["store", verb, "--store", url, "--json"])["incarnations"].clone()
    };
    let original = lives("show", "sqlite:shop.db");
    assert_eq!(lives("adopt", "sqlite:adopted.db"), original, "a moved file lives on");
    assert_eq!(lives("show", "sqlite:adopted.db"), original);
    let forked = lives("fork", "sqlite:forked.db");
    assert_eq!((forked.as_array().unwrap().len(), &forked[0]), (2, &original[0]));
    assert_eq!(forked[1]["first_sequence"], 2, "what was emitted keeps its life");
    assert_eq!(lives("show", "sqlite:forked.db"), forked);
}

#[test]
fn sinks_are_listed_with_what_waits_for_them() {
    let place = Place::with_store();
    let listed = ["sink", "list", "--store", "sqlite:shop.db", "--json"];
    assert_eq!(place.json(&listed), serde_json::json!([]));
    emit(&place.path("shop.db"), &[event("Made", "a", 1), event("Made", "b", 2)]);
    let relay =
        place.start(&["relay", "--store", "sqlite:shop.db", "--sink", "stdout:", "--name", "out"]);
    relay.events(2);
    relay.terminate().ok();
    emit(&place.path("shop.db"), &[event("Made", "a", 3)]);
    let sinks = place.json(&listed);
    assert_eq!((&sinks[0]["sink"], &sinks[0]["behind"]), (&"out".into(), &1.into()), "{sinks}");
    assert!(sinks[0]["suspended"].is_null() && sinks[0]["bytes_behind"].as_u64() == Some(1));
    let text = place.run(&listed[..4]).ok().out;
    assert!(text.contains("behind") && text.contains("out"), "{text}");
    let resume = ["sink", "resume", "nobody", "--store", "sqlite:shop.db"];
    place.run(&resume).refused("OW0026", &["`nobody`"]);
}

/// Whoever reads a pipe gets all columns and whole keys; fractions of seconds are for programs.
#[test]
fn a_list_for_a_pipe_is_whole_and_tells_times_to_the_second() {
    let place = Place::with_store();
    let nap = "name: nap\nsteps:\n  - {name: rest, wait: {for_ms: 1}, compensation: {none: x}}\n";
    place.write("nap.yaml", nap);
    let key = "a-key-that-is-far-longer-than-any-column-of-a-terminal-would-be";
    let store = ["--store", "sqlite:shop.db"];
    place.run(&[&["saga", "start", "nap.yaml", "--key", key][..], &store].concat()).ok();
    let list = ["saga", "list"];
    let told = place.json(&[&list[..], &store, &["--json"]].concat());
    let started = told["sagas"][0]["started_at"].as_str().unwrap();
    let (second, fraction) = started.split_once('.').unwrap();
    assert_eq!(fraction.len(), "123456Z".len(), "{started}");
    let table = place.run(&[&list[..], &store].concat()).ok().out;
    assert!(table.contains(key) && table.contains(&format!("{second}Z")), "{table}");
    assert!(!table.contains(&format!("{second}.")), "{table}");
    for column in ["waits for", "due", "ended"] {
        assert!(table.lines().next().unwrap().contains(column), "{table}");
    }
}
