//! The user's transaction on 16 connections: with a plain insert, and with an event placed either way.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use onewrite::postgres::{deadpool_postgres::Client, emit, emit_at_once};
use onewrite_testkit::server::Postgres;
use tokio::task::JoinSet;

use super::{connect, store};
use crate::{
    load,
    report::{Report, median},
};

/// The user's connections.
const CONNECTIONS: u64 = 16;

/// Blocks of each kind, in turn, so that all see the same machine.
const ROUNDS: u32 = 12;

const TABLES: &str = "CREATE TABLE orders (id bigserial PRIMARY KEY, customer text NOT NULL, cents bigint NOT NULL, note text NOT NULL);
    CREATE TABLE plain (id bigserial PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload bytea NOT NULL)";

/// What follows the user's row in the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Second {
    /// Five columns and nothing else.
    Plain,
    /// An event that takes its place with the commit.
    AtCommit,
    /// An event that takes its place at once.
    AtOnce,
}

/// Measures the three in turn, with many keys and with a single one.
///
/// # Errors
/// What the server says.
pub(crate) async fn run(server: &Postgres, time: Duration, report: &mut Report) -> Result<()> {
    for (name, keys) in [("", load::KEYS), ("_one_key", 1)] {
        eprintln!("emit: {CONNECTIONS} connections, {keys} keys");
        let database = format!("emit{name}");
        let store = store(server, &database).await?;
        connect(server, &database).await?.batch_execute(TABLES).await?;
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(store.work().await?);
        }
        let (mut rates, mut ratios) = ([vec![], vec![], vec![]], [vec![], vec![]]);
        for round in 0..=ROUNDS {
            let mut found = [0.0; 3];
            for (index, second) in
                [Second::Plain, Second::AtCommit, Second::AtOnce].into_iter().enumerate()
            {
                let (rate, back) = rate(clients, second, keys, time / (ROUNDS * 3)).await?;
                (found[index], clients) = (rate, back);
            }
            // The first round warms up.
            if round > 0 {
                found.into_iter().zip(&mut rates).for_each(|(rate, all)| all.push(rate));
                ratios[0].push(found[1] / found[0]);
                ratios[1].push(found[2] / found[0]);
            }
        }
        let [raw, commit, once] = rates.map(median);
        let [at_commit, at_once] = ratios.map(median);
        report.set("emit", format!("raw{name}_tx_per_s"), raw);
        report.set("emit", format!("at_commit{name}_tx_per_s"), commit);
        report.set("emit", format!("at_once{name}_tx_per_s"), once);
        report.set("emit", format!("ratio{name}"), at_commit);
        report.set("emit", format!("ratio_at_once{name}"), at_once);
    }
    Ok(())
}

/// Transactions a second over all connections.
async fn rate(
    clients: Vec<Client>,
    second: Second,
    keys: u64,
    time: Duration,
) -> Result<(f64, Vec<Client>)> {
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for (caller, mut client) in (0_u64..).zip(clients) {
        tasks.spawn(async move {
            let payload = load::payload();
            let order = client
                .prepare_cached("INSERT INTO orders (customer, cents, note) VALUES ($1, $2, $3)")
                .await?;
            let plain = client
                .prepare_cached("INSERT INTO plain (aggregatetype, aggregateid, type, payload) VALUES ($1, $2, $3, $4)")
                .await?;
            let mut count = 0_u64;
            while began.elapsed() < time {
                let number = (caller + CONNECTIONS * count) % keys;
                let tx = client.transaction().await?;
                let customer = format!("c-{number}");
                tx.execute(&order, &[&customer, &4200_i64, &"to be delivered before noon"]).await?;
                match second {
                    Second::Plain => {
                        let id = format!("o-{number}");
                        tx.execute(&plain, &[&"Order", &id, &"OrderPlaced", &&*payload]).await?;
                    }
                    Second::AtCommit => {
                        emit(&tx, &load::event(number, &payload)).await?;
                    }
                    Second::AtOnce => {
                        emit_at_once(&tx, &load::event(number, &payload)).await?;
                    }
                }
                tx.commit().await?;
                count += 1;
            }
            Ok::<_, anyhow::Error>((count, client))
        });
    }
    let (mut total, mut clients) = (0, Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (count, client) = done.context("a connection")??;
        total += count;
        clients.push(client);
    }
    Ok((total as f64 / began.elapsed().as_secs_f64(), clients))
}
