//! The full forms of hazards' tests: minutes of load, and a verdict.

mod growth;
mod h1;
mod h12;
mod s33;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::machine::Machine;

pub(crate) use s33::{WriterOptions, write};

/// Which hazard, and for how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The hazard.
    #[arg(value_enum, ignore_case = true)]
    hazard: Hazard,
    /// Print one JSON object on the last line.
    #[arg(long)]
    json: bool,
    /// How long.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Hazard {
    /// Growth under a reader that holds its transaction open.
    H12,
    /// Records that become visible behind what a reader has passed.
    H1,
    /// Writes that were acknowledged and are gone.
    S33,
    /// PostgreSQL under an idle transaction and a slow sink.
    Growth,
}

/// What a soak found.
struct Verdict {
    /// Each promise with whether it held.
    held: Vec<(&'static str, bool)>,
    /// What was measured.
    figures: Value,
}

/// Runs one hazard's soak and prints its verdict.
///
/// # Errors
/// When a promise did not hold, or the soak could not run.
pub(crate) async fn run(options: Options) -> Result<()> {
    if !(0.05..=24.0 * 60.0).contains(&options.minutes) {
        bail!("--minutes is between 0.05 and 1440");
    }
    let folder = crate::folder()?;
    let machine = Machine::look(folder.path()).await?;
    let time = Duration::from_secs_f64(options.minutes * 60.0);
    let name = format!("{:?}", options.hazard);
    eprintln!("soak {name}: {} s", time.as_secs());
    let verdict = match options.hazard {
        Hazard::H12 => h12::run(folder.path(), time).await?,
        Hazard::H1 => h1::run(folder.path(), time).await?,
        Hazard::S33 => s33::run(folder.path(), time).await?,
        Hazard::Growth => growth::run(time).await?,
    };
    let mut out = json!({
        "soak": name,
        "seconds": time.as_secs(),
        "machine": machine.to_json(),
        "settings": machine.settings(),
        "versions": Machine::versions(),
        "figures": verdict.figures,
    });
    for (promise, held) in &verdict.held {
        out[*promise] = json!(held);
        if !options.json {
            println!("{promise:<24} {}", if *held { "held" } else { "BROKEN" });
        }
    }
    if options.json {
        println!("{out}");
    } else {
        println!("{}", out["figures"]);
    }
    match verdict.held.iter().find(|(_, held)| !held) {
        Some((promise, _)) => bail!("{name}: `{promise}` did not hold"),
        None => Ok(()),
    }
}
