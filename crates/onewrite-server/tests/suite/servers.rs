//! The program over PostgreSQL and NATS: the same verbs, the same demo.

use async_nats::jetstream;
use onewrite_testkit::server::{
    Nats, Postgres, Rabbitmq, Redis, shared_mariadb, shared_nats, shared_postgres, unique,
};
use rustix::process::Signal;
use tokio::task::block_in_place;

use crate::{
    demo::is_clean,
    support::{Place, Running, eventually},
};

/// An empty database on the servers of the test run: its URL, and where its statements run.
struct Database {
    name: String,
    url: String,
}

impl Database {
    async fn new() -> Self {
        let (server, name) = (shared_postgres().await.unwrap(), unique("server"));
        server.create_database(&name).await.unwrap();
        Self { url: server.url(&name), name }
    }

    /// The arguments, and this database as the store.
    fn at<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [args, &["--store", &self.url]].concat()
    }

    async fn psql(&self, sql: &str) -> String {
        let server = shared_postgres().await.unwrap();
        server.psql(&self.name, sql).await.unwrap().trim().to_owned()
    }

    /// Emits as a program in another language does.
    async fn emit(&self, kind: &str, key: &str, data: usize) {
        let sql = format!(
            "INSERT INTO onewrite.outbox (aggregatetype, aggregateid, type, payload) VALUES ('Thing', '{key}', '{kind}', '{data}')"
        );
        self.psql(&sql).await;
    }
}

async fn streams(url: &str) -> Vec<String> {
    use futures::TryStreamExt as _;
    let context = jetstream::new(async_nats::connect(url).await.unwrap());
    context.stream_names().try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_keeps_its_promises_on_postgres_and_nats_and_leaves_nothing_there() {
    let (postgres, nats) = (Postgres::start().await.unwrap(), Nats::start().await.unwrap());
    let (store, broker) = (postgres.url("postgres"), nats.url());
    let place = Place::new();
    let demo = ["demo", "--store", &store, "--broker", &broker, "--seed", "5"];
    let flags = ["--orders", "120", "--chaos", "4", "--relays", "2", "--consumers", "2"];
    let run = block_in_place(|| {
        place.run(&[&demo[..], &flags[..], &["--stalls", "1", "--json"]].concat())
    });
    is_clean(&run, 4);
    assert_no_rest(&postgres, &nats).await;
    // Nor does one that is interrupted.
    let mut command = place.command(&[&demo[..], &["--orders", "100000"]].concat());
    command.env("TMPDIR", place.root());
    let demo = Running::of(command);
    let tables = "SELECT count(*) FROM pg_database WHERE datname LIKE 'onewrite_demo_%'";
    while postgres.psql("postgres", tables).await.unwrap().trim() != "4" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    demo.signal(Signal::TERM);
    let run = block_in_place(|| demo.end());
    assert_eq!(run.code, Some(143), "{run:?}");
    assert_no_rest(&postgres, &nats).await;
    assert_eq!(std::fs::read_dir(place.root()).unwrap().count(), 0);
}

async fn assert_no_rest(postgres: &Postgres, nats: &Nats) {
    let databases = "SELECT datname FROM pg_database WHERE datname LIKE 'onewrite_demo_%'";
    assert_eq!(postgres.psql("postgres", databases).await.unwrap(), "");
    assert_eq!(streams(&nats.url()).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_on_postgres_over_http_and_one_on_files_over_nats_keep_their_promises() {
    let (postgres, nats) = (shared_postgres().await.unwrap(), shared_nats().await.unwrap());
    let flags = ["demo", "--orders", "100", "--chaos", "3", "--seed", "9", "--json"];
    for backend in [["--store", &*postgres.server_url()], ["--broker", &*nats.url()]] {
        let run = block_in_place(|| Place::new().run(&[&flags[..], &backend[..]].concat()));
        is_clean(&run, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_keeps_its_promises_on_mariadb() {
    let (mariadb, nats) = (shared_mariadb().await.unwrap(), shared_nats().await.unwrap());
    let (store, broker) = (mariadb.server_url(), nats.url());
    let flags = ["demo", "--orders", "100", "--chaos", "4", "--seed", "9", "--json"];
    let several = ["--relays", "2", "--consumers", "2", "--stalls", "1"];
    let over_http = ["--store", &store, "--broker", "http"];
    let over_nats = [&["--store", &*store, "--broker", &*broker], &several[..]].concat();
    for backends in [&over_http[..], &over_nats[..]] {
        let run = block_in_place(|| Place::new().run(&[&flags[..], backends].concat()));
        is_clean(&run, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_keeps_its_promises_over_redis_and_leaves_nothing_there() {
    let (postgres, redis) = (shared_postgres().await.unwrap(), Redis::start().await.unwrap());
    let (store, broker) = (postgres.server_url(), redis.url());
    let demo = ["demo", "--orders", "100", "--chaos", "4", "--seed", "9", "--json"];
    let several = ["--relays", "2", "--consumers", "2", "--stalls", "1"];
    let on_files = [&demo[..], &["--broker", &*broker]].concat();
    let on_postgres = [&on_files[..], &["--store", &*store], &several[..]].concat();
    for arguments in [on_files, on_postgres] {
        let run = block_in_place(|| Place::new().run(&arguments));
        is_clean(&run, 4);
        let port = redis.port().to_string();
        let keys =
            std::process::Command::new("redis-cli").args(["-p", &port, "KEYS", "*"]).output();
        assert_eq!(String::from_utf8_lossy(&keys.unwrap().stdout).trim(), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_keeps_its_promises_over_rabbitmq_and_leaves_nothing_there() {
    let (postgres, rabbitmq) = (shared_postgres().await.unwrap(), Rabbitmq::start().await.unwrap());
    let (store, broker) = (postgres.server_url(), rabbitmq.url());
    let demo = ["demo", "--orders", "100", "--chaos", "4", "--seed", "9", "--json"];
    let several = ["--relays", "2", "--consumers", "2", "--stalls", "1"];
    let on_files = [&demo[..], &["--broker", &*broker]].concat();
    let on_postgres = [&on_files[..], &["--store", &*store], &several[..]].concat();
    for arguments in [on_files, on_postgres] {
        let run = block_in_place(|| Place::new().run(&arguments));
        is_clean(&run, 4);
        assert_eq!(rabbitmq.ctl(&["list_queues", "name"]).await.unwrap().trim(), "");
        let exchanges = rabbitmq.ctl(&["list_exchanges", "name"]).await.unwrap();
        assert!(
            exchanges
                .lines()
                .all(|name| name.is_empty() || name == "name" || name.starts_with("amq.")),
            "{exchanges}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_work_on_mariadb() {
    let (server, name, place) = (shared_mariadb().await.unwrap(), unique("server"), Place::new());
    server.create_database(&name).await.unwrap();
    let url = server.url(&name);
    let json = |args: &[&str]| {
        block_in_place(|| place.json(&[args, &["--store", &url, "--json"]].concat()))
    };
    assert_eq!(json(&["store", "init"])["head"], 0);
    let emit = "INSERT INTO onewrite_outbox (aggregatetype, aggregateid, type, payload) VALUES ('Thing', 'a', 'Made', '1')";
    server.sql(&name, emit).await.unwrap();
    block_in_place(|| {
        let guard = ["guard", "add", "orders", "--store", &url];
        place.run(&guard).refused("OW0021", &["cannot be guarded"]);
        place.run(&["doctor", "--store", &url]).ok();
    });
    assert_eq!(json(&["sink", "list"]), serde_json::json!([]));
    let placed = server.sql(&name, "SELECT COUNT(*) FROM onewrite_log").await.unwrap();
    assert_eq!(placed.trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn dual_writes_break_there_too() {
    let (postgres, nats) = (shared_postgres().await.unwrap(), shared_nats().await.unwrap());
    let (store, broker) = (postgres.server_url(), nats.url());
    let flags =
        ["demo", "--dual-write", "--orders", "200", "--chaos", "6", "--seed", "7", "--json"];
    let backends = ["--store", &store, "--broker", &broker];
    let run = block_in_place(|| Place::new().run(&[&flags[..], &backends[..]].concat())).ok();
    let found = crate::demo::verdict(&run);
    assert_eq!(found["balanced"], false, "{found}");
    let faults = found["lost"].as_u64().unwrap() + found["duplicated"].as_u64().unwrap();
    assert!(faults > 0, "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_work_on_postgres() {
    let (database, place) = (Database::new().await, Place::new());
    block_in_place(|| {
        place.run(&database.at(&["store", "show"])).refused("OW0003", &["store init"]);
        let made = place.json(&database.at(&["store", "init", "--json"]));
        assert_eq!(made["head"], 0, "{made}");
    });
    database.psql("CREATE TABLE orders (id TEXT)").await;
    block_in_place(|| {
        place.run(&database.at(&["guard", "add", "orders"])).ok();
        let listed = place.json(&database.at(&["guard", "list", "--json"]));
        assert!(listed[0]["table"].as_str().unwrap().contains("orders"), "{listed}");
        place.run(&database.at(&["guard", "remove", "orders"])).ok();
        place.run(&database.at(&["guard", "remove", "orders"])).refused("OW0026", &["orders"]);
        let doctor = place.run(&database.at(&["doctor"])).ok();
        assert!(doctor.out.contains("store postgres://127.0.0.1:"), "{doctor:?}");
    });
    for number in 0..5 {
        database.emit("Made", "a", number).await;
    }
    block_in_place(|| {
        let relay = place.start(&database.at(&["relay", "--sink", "stdout:", "--name", "out"]));
        let data: Vec<_> = relay.events(5).iter().map(|event| event["data"].clone()).collect();
        assert_eq!(data, [0, 1, 2, 3, 4]);
        relay.terminate().ok();
        let sinks = place.json(&database.at(&["sink", "list", "--json"]));
        assert_eq!((&sinks[0]["sink"], &sinks[0]["behind"]), (&"out".into(), &0.into()));
        let why = place.run(&database.at(&["why", "a"])).ok().out;
        assert!(why.contains("is settled for sink out"), "{why}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_takes_events_from_postgres_to_nats_and_says_what_weakens_its_promise() {
    let (database, place) = (Database::new().await, Place::new());
    let (server, stream) = (shared_nats().await.unwrap().url(), unique("server"));
    let sink = format!("{server}/{stream}");
    block_in_place(|| place.run(&["store", "init", "--store", &database.url]).ok());
    for number in 0..5 {
        database.emit("Made", "a", number).await;
    }
    let relay = place.start(&["relay", "--store", &database.url, "--sink", &sink]);
    let context = jetstream::new(async_nats::connect(&server).await.unwrap());
    block_in_place(|| relay.says("relaying"));
    let mut found = context.get_stream(&stream).await.unwrap();
    while found.info().await.unwrap().state.messages < 5 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let run = block_in_place(|| relay.terminate().ok());
    assert_eq!(run.err.matches("has one replica").count(), 1, "{run:?}");
    assert!(!run.err.contains("postgres:") || !run.err.contains('@'), "{run:?}");
    let sinks = place.json(&["sink", "list", "--store", &database.url, "--json"]);
    assert_eq!(sinks[0]["behind"], 0, "{sinks}");
    eventually("doctor says it too", || {
        place.run(&["doctor", "--sink", &sink]).ok().out.contains("has one replica")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_reached_is_named_without_its_password() {
    let place = Place::new();
    let nowhere = "postgres://me:hunter2@127.0.0.1:1/shop";
    let run = block_in_place(|| place.run(&["store", "show", "--store", nowhere]));
    assert!(!run.err.contains("hunter2"), "{run:?}");
    run.refused("OW0002", &[]);
    let run = block_in_place(|| place.run(&["demo", "--store", nowhere, "--orders", "5"]));
    assert!(!run.err.contains("hunter2"), "{run:?}");
    run.refused("OW0002", &["PostgreSQL"]);
    let nowhere = "nats://me:hunter2@127.0.0.1:1";
    let run = block_in_place(|| place.run(&["demo", "--broker", nowhere, "--orders", "5"]));
    assert!(!run.err.contains("hunter2"), "{run:?}");
    run.refused("OW0015", &["127.0.0.1:1"]);
}

/// The mock does not let a topic be removed; what is left there is named with the command that does it.
#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_keeps_its_promises_over_kafka() {
    let kafka = onewrite_testkit::server::Kafka::start().await.unwrap();
    let demo = ["demo", "--orders", "60", "--chaos", "3", "--seed", "9", "--json"];
    let run = block_in_place(|| {
        Place::new().run(&[&demo[..], &["--broker", &*kafka.url(), "--consumers", "2"]].concat())
    });
    let found: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    for fault in ["lost", "duplicated", "out_of_order"] {
        assert_eq!(found[fault], 0, "{run:?}");
    }
    assert_eq!((&found["balanced"], &found["kills"]), (&true.into(), &3.into()), "{run:?}");
    assert!(run.code == Some(1) && run.err.contains("kafka-topics.sh"), "{run:?}");
}
