//! The chores of this repository: `cargo xtask test`, `with`, `demo-matrix`, `lint`, `tidy`,
//! `bench`, `soak`.
//!
//! Everything but the command of `with` runs at the workspace's root, with the toolchain that built this
//! program. Data goes to stdout, talk to stderr.

mod bench;
mod lint;
mod matrix;
mod servers;
mod test;
mod tidy;
mod with;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// The chores of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Run every test of the workspace, each in a process of its own, and name the slowest.
    Test(test::Options),
    /// Run a command beside private servers (`cargo xtask with postgres,nats -- env`).
    With(with::Options),
    /// Run the demo on each store over each broker (`cargo xtask demo-matrix --json`).
    DemoMatrix(matrix::Options),
    /// Check format, lints and house rules. Changes nothing.
    Lint,
    /// Check the house rules alone.
    Tidy,
    /// Run a benchmark in a release build (`cargo xtask bench spine --json`).
    Bench(bench::Options),
    /// Run the full form of a hazard's test in a release build (`cargo xtask soak h12`).
    Soak(bench::Options),
}

fn main() -> ExitCode {
    run(Arguments::parse().verb).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::With(options) => return with::run(&options),
        Verb::DemoMatrix(options) => return matrix::run(&options),
        Verb::Test(options) => test::run(&options)?,
        Verb::Lint => lint::run()?,
        Verb::Tidy => tidy::run()?,
        Verb::Bench(options) => bench::run(&options)?,
        Verb::Soak(options) => bench::soak(&options)?,
    }
    Ok(ExitCode::SUCCESS)
}
