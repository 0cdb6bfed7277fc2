//! The chores of this repository: `cargo xtask test`, `lint`, `tidy`, `bench`, `soak`.
//!
//! Everything runs at the workspace's root with the toolchain that built this program. Data goes to
//! stdout, talk to stderr.

mod bench;
mod lint;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

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
    let done = match Arguments::parse().verb {
        Verb::Test(options) => test::run(&options),
        Verb::Lint => lint::run(),
        Verb::Tidy => tidy::run(),
        Verb::Bench(options) => bench::run(&options),
        Verb::Soak(options) => bench::soak(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
