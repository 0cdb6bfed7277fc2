//! `cargo xtask demo-matrix`: the demo on each store over each broker, with kills and stalls.

use std::{
    process::{ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    servers::{self, Server, Servers, Signals},
    workspace,
};

/// Stores and brokers that are no servers: the demo's own words.
const SQLITE: &str = "sqlite";
const HTTP: &str = "http";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON array on standard output: the demo's results, each with its store and broker.
    #[arg(long)]
    json: bool,
    /// Run only on these stores, with commas between them.
    #[arg(long, value_delimiter = ',', default_values = [SQLITE, "postgres", "mariadb"])]
    stores: Vec<String>,
    /// Run only over these brokers, with commas between them.
    #[arg(long, value_delimiter = ',', default_values = [HTTP, "nats", "rabbitmq", "redis"])]
    brokers: Vec<String>,
    /// Orders of each run.
    #[arg(long, default_value_t = 200)]
    orders: u32,
    /// Processes that are killed in each run.
    #[arg(long, default_value_t = 8)]
    chaos: u32,
    /// Processes that are stalled in each run, for longer than a lease.
    #[arg(long, default_value_t = 1)]
    stalls: u32,
    /// Where the first run's randomness begins; the next ones count on.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// One side of a run: its name, and what the demo is told.
type Side = (String, String);

/// Runs them all; fails when one of them broke a promise.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let wanted = wanted(options)?;
    servers::install_missing(&wanted, false)?;
    let program = build()?;
    let results = servers::runtime()?.block_on(async {
        let servers = Servers::start(&wanted).await?;
        let mut signals = Signals::new()?;
        tokio::select! {
            results = all(options, &program, &servers) => results,
            _ = signals.next() => bail!("interrupted"),
        }
    })?;
    let broken = results.iter().filter(|result| !is_clean(result)).count();
    if options.json {
        println!("{}", Value::Array(results));
    } else {
        results.iter().for_each(|result| println!("{}", line(result)));
    }
    if broken > 0 {
        eprintln!("{broken} of the runs above broke a promise");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The servers that are named.
fn wanted(options: &Options) -> Result<Vec<Server>> {
    let names = options.stores.iter().chain(&options.brokers);
    let names = names.filter(|name| ![SQLITE, HTTP].contains(&name.as_str()));
    let server = |name: &String| {
        <Server as clap::ValueEnum>::from_str(name, false)
            .map_err(|why| anyhow::anyhow!("`{name}` is no store or broker: {why}"))
    };
    names.map(server).collect()
}

/// Builds the program with every broker; where it is.
fn build() -> Result<std::path::PathBuf> {
    let mut command = workspace::cargo();
    command.args(["build", "--release", "-p", "onewrite-server", "--message-format=json"]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the program does not build");
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let messages = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let programs = messages.filter(|message| message["target"]["name"] == "onewrite");
    let paths = programs.filter_map(|message| Some(message["executable"].as_str()?.into()));
    paths.last().context("cargo does not say where the program is")
}

async fn all(
    options: &Options,
    program: &std::path::Path,
    servers: &Servers,
) -> Result<Vec<Value>> {
    let side = |name: &String| -> Side {
        (name.clone(), servers.plain_url(name).unwrap_or_else(|| name.clone()))
    };
    let mut results = Vec::new();
    for store in options.stores.iter().map(side) {
        for broker in options.brokers.iter().map(side) {
            let seed = options.seed + results.len() as u64;
            let result = one(options, program, &store, &broker, seed).await?;
            eprintln!("{}", line(&result));
            results.push(result);
        }
    }
    Ok(results)
}

/// One run of the demo; what it says, with where it ran.
async fn one(
    options: &Options,
    program: &std::path::Path,
    store: &Side,
    broker: &Side,
    seed: u64,
) -> Result<Value> {
    let mut command = Command::new(program);
    command.args(["demo", "--json", "--relays", "2", "--consumers", "2"]);
    for (flag, value) in [
        ("--orders", options.orders.to_string()),
        ("--chaos", options.chaos.to_string()),
        ("--stalls", options.stalls.to_string()),
        ("--seed", seed.to_string()),
        ("--store", store.1.clone()),
        ("--broker", broker.1.clone()),
    ] {
        command.arg(flag).arg(value);
    }
    let began = Instant::now();
    let output = command.kill_on_drop(true).output().await.context("cannot start the demo")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut result = said
        .lines()
        .last()
        .and_then(|line| serde_json::from_str::<Value>(line).ok())
        .filter(Value::is_object)
        .with_context(|| {
            let why = String::from_utf8_lossy(&output.stderr);
            format!("the demo on {} over {} said nothing: {}", store.0, broker.0, why.trim())
        })?;
    result["store"] = json!(store.0);
    result["broker"] = json!(broker.0);
    result["wall_ms"] = json!(began.elapsed().as_millis() as u64);
    Ok(result)
}

fn is_clean(result: &Value) -> bool {
    let none = ["lost", "duplicated", "out_of_order"].iter().all(|name| result[name] == 0);
    none && result["balanced"] == true
}

fn line(result: &Value) -> String {
    let text = |name: &str| result[name].as_str().unwrap_or_default().to_owned();
    let verdict = if is_clean(result) { "clean" } else { "BROKEN" };
    format!(
        "{:<9} {:<9} {verdict:<7} lost {}, duplicated {}, out of order {}, balanced {}, {} kills, {} stalls, {} ms",
        text("store"),
        text("broker"),
        result["lost"],
        result["duplicated"],
        result["out_of_order"],
        result["balanced"],
        result["kills"],
        result["stalls"],
        result["elapsed_ms"]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> Value {
        json!({"lost": 0, "duplicated": 0, "out_of_order": 0, "balanced": true})
    }

    #[test]
    fn what_is_missing_or_wrong_is_not_clean() {
        assert!(is_clean(&result()));
        for (name, value) in [
            ("lost", json!(1)),
            ("duplicated", json!(1)),
            ("out_of_order", json!(1)),
            ("balanced", json!(false)),
            ("balanced", Value::Null),
            ("lost", Value::Null),
        ] {
            let mut result = result();
            result[name] = value;
            assert!(!is_clean(&result), "{name}");
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        let options = |store: &str, broker: &str| Options {
            json: false,
            stores: vec![store.into()],
            brokers: vec![broker.into()],
            orders: 1,
            chaos: 0,
            stalls: 0,
            seed: 1,
        };
        assert!(wanted(&options("sqlite", "http")).unwrap().is_empty());
        let both = wanted(&options("mariadb", "redis")).unwrap();
        assert_eq!(both, [Server::Mariadb, Server::Redis]);
        let refused = wanted(&options("oracle", "http")).unwrap_err().to_string();
        assert!(refused.contains("`oracle` is no store or broker"), "{refused}");
    }
}
