//! The spine on a private MariaDB server, started for the run, syncing each commit.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use onewrite::{
    Shutdown, StartFrom,
    mysql::{
        Context, InboxOptions, MysqlInbox, MysqlStore, Options as StoreOptions, emit,
        mysql_async::{Conn, TxOpts, prelude::Queryable as _},
    },
};
use onewrite_testkit::server::{Mariadb, Nats};
use tokio::task::JoinSet;

use crate::{
    drain,
    latency::{Times, WARM_UP, evaluate, subscribe},
    load,
    machine::Machine,
    postgres::drain::{fill, jetstream, raw_publish},
    report::{Report, median},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object on the last line.
    #[arg(long)]
    json: bool,
    /// How long each figure that takes a time is measured.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Events of the backlog that is drained.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..=5_000_000))]
    backlog: u64,
}

/// The user's connections.
const CONNECTIONS: u64 = 16;

/// Blocks of each kind, in turn, so that both see the same machine.
const ROUNDS: u32 = 8;

const TABLES: [&str; 2] = [
    "CREATE TABLE orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, customer TEXT NOT NULL, cents BIGINT NOT NULL, note TEXT NOT NULL)",
    "CREATE TABLE plain (id BIGINT AUTO_INCREMENT PRIMARY KEY, aggregatetype TEXT NOT NULL, aggregateid TEXT NOT NULL, type TEXT NOT NULL, payload BLOB NOT NULL)",
];

/// Measures on a server of its own.
///
/// # Errors
/// When the server cannot be started, or what it says.
pub(crate) async fn run(options: Options) -> Result<()> {
    let server = Mariadb::start_with(&["--innodb-buffer-pool-size=512M"]).await;
    let server = server.context("start MariaDB")?;
    let nats = Nats::start().await.context("start NATS")?;
    let time = Duration::from_secs(options.seconds);
    let mut report = Report::new("mariadb", Machine::look(server.folder()).await?);
    for (name, keys) in [("", load::KEYS), ("_one_key", 1)] {
        emits(&server, name, keys, time, &mut report).await?;
    }
    drains(&server, &nats, options.backlog, &mut report).await?;
    for rate in [500, 2_000] {
        latency(&server, rate, time, &mut report).await?;
    }
    report.print(options.json);
    Ok(())
}

/// A new database with a store.
async fn store(server: &Mariadb, name: &str) -> Result<MysqlStore> {
    server.address().create_database(name).await.context("create a database")?;
    Ok(MysqlStore::open(StoreOptions::from_url(&server.address().url(name))?).await?)
}

async fn emits(
    server: &Mariadb,
    name: &str,
    keys: u64,
    time: Duration,
    report: &mut Report,
) -> Result<()> {
    eprintln!("emit: {CONNECTIONS} connections, {keys} keys");
    let database = format!("emit{name}");
    store(server, &database).await?;
    let mut conns = Vec::new();
    for _ in 0..CONNECTIONS {
        conns.push(Conn::from_url(server.address().url(&database)).await?);
    }
    for table in TABLES {
        conns[0].query_drop(table).await?;
    }
    let (mut raw, mut emitting, mut ratios) = (vec![], vec![], vec![]);
    for round in 0..=ROUNDS {
        let (plain, back) = rate(conns, false, keys, time / (ROUNDS * 2)).await?;
        let (events, back) = rate(back, true, keys, time / (ROUNDS * 2)).await?;
        conns = back;
        // The first round warms up.
        if round > 0 {
            raw.push(plain);
            emitting.push(events);
            ratios.push(events / plain);
        }
    }
    report.set("emit", format!("raw{name}_tx_per_s"), median(raw));
    report.set("emit", format!("emit{name}_tx_per_s"), median(emitting));
    report.set("emit", format!("ratio{name}"), median(ratios));
    Ok(())
}

/// Transactions a second over all connections, with an event or with a plain row.
async fn rate(
    conns: Vec<Conn>,
    emits: bool,
    keys: u64,
    time: Duration,
) -> Result<(f64, Vec<Conn>)> {
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for (caller, mut conn) in (0_u64..).zip(conns) {
        tasks.spawn(async move {
            let payload = load::payload();
            let mut count = 0_u64;
            while began.elapsed() < time {
                let number = (caller + CONNECTIONS * count) % keys;
                let mut tx = conn.start_transaction(TxOpts::default()).await?;
                let order = "INSERT INTO orders (customer, cents, note) VALUES (?, ?, ?)";
                let values = (format!("c-{number}"), 4200, "to be delivered before noon");
                tx.exec_drop(order, values).await?;
                if emits {
                    emit(&mut tx, &load::event(number, &payload)).await?;
                } else {
                    let plain = "INSERT INTO plain (aggregatetype, aggregateid, type, payload) VALUES (?, ?, ?, ?)";
                    let values = ("Order", format!("o-{number}"), "OrderPlaced", &payload[..]);
                    tx.exec_drop(plain, values).await?;
                }
                tx.commit().await?;
                count += 1;
            }
            Ok::<_, anyhow::Error>((count, conn))
        });
    }
    let (mut total, mut conns) = (0, Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (count, conn) = done.context("a connection")??;
        total += count;
        conns.push(conn);
    }
    Ok((total as f64 / began.elapsed().as_secs_f64(), conns))
}

async fn drains(server: &Mariadb, nats: &Nats, backlog: u64, report: &mut Report) -> Result<()> {
    eprintln!("drain: {backlog} events");
    let store = store(server, "drain").await?;
    fill(&store, backlog).await?;
    let began = Instant::now();
    onewrite::Store::sinks(&store).await?;
    report.set("drain", "placed_per_s", backlog as f64 / began.elapsed().as_secs_f64());
    drain::null(&store, "warm", backlog).await?;
    report.set("drain", "null_per_s", drain::null(&store, "null", backlog).await?);
    report.set("drain", "http_per_s", drain::http(&store, backlog).await?);
    let raw = raw_publish(nats, backlog).await?;
    let rate = jetstream(&store, nats, backlog).await?;
    report.set("drain", "raw_nats_per_s", raw);
    report.set("drain", "nats_per_s", rate);
    report.set("drain", "nats_ratio", rate / raw);
    Ok(())
}

/// From commit to handler over HTTP; the receiver has a database of its own on the same server.
async fn latency(server: &Mariadb, rate: u64, time: Duration, report: &mut Report) -> Result<()> {
    eprintln!("latency: {rate} events a second over http");
    let name = format!("latency_{rate}");
    let source = store(server, &name).await?;
    let sink = store(server, &format!("{name}_inbox")).await?;
    subscribe(&source, "latency", StartFrom::Now).await?;
    let times = Arc::new(Times::new((time + WARM_UP).as_secs() * rate));
    let (mut tasks, shutdown) = (JoinSet::new(), Shutdown::default());
    let (receiver, end) = (load::receiver(noting(&sink, Arc::clone(&times))?), shutdown.clone());
    let receive = move |feed| receiver.run(Box::new(feed), end);
    let url = load::serve(&mut tasks, &shutdown, receive).await?;
    let relay = drain::relay(&source, load::http_sink(url)?, "latency").run(shutdown.clone());
    let relay = tokio::spawn(relay);
    let payload = load::payload();
    load::open_loop(rate, time + WARM_UP, |number, due| {
        let (store, times, payload) = (source.clone(), Arc::clone(&times), payload.clone());
        times.note(&times.due, number, due);
        async move {
            let event = load::event(number, &payload);
            store
                .write(move |tx| Box::pin(async move { emit(tx, &event).await.map(drop) }))
                .await?;
            times.note(&times.committed, number, Instant::now());
            Ok(())
        }
    })
    .await?;
    times.until_handled().await?;
    shutdown.begin();
    relay.await.context("the relay")?;
    tasks.shutdown().await;
    let measured = evaluate(&times, rate)?;
    report.set_latencies("latency", &format!("http_{rate}"), &measured.since_commit);
    report.set_latencies("latency", &format!("http_{rate}_write"), &measured.write);
    Ok(())
}

fn noting(store: &MysqlStore, times: Arc<Times>) -> Result<MysqlInbox> {
    Ok(MysqlInbox::new(store, InboxOptions::new("latency"), move |cx: &mut Context<'_>| {
        let now = Instant::now();
        if let Some(Ok(number)) = cx.event().aggregate_id.strip_prefix("o-").map(str::parse) {
            times.note(&times.handled, number, now);
        }
        Box::pin(async { Ok(()) })
    })?)
}
