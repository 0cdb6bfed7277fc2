//! The `onewrite` program.

mod backends;
mod cli;
mod config;
mod demo;
mod http;
mod report;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("ONEWRITE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // Data goes to standard output, talk to standard error. A log that cannot be written is no reason to
    // write about it there: that would end the task that logs.
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    logs.with_ansi(std::io::stderr().is_terminal()).log_internal_errors(false).init();
    report::end(cli.run().await.unwrap_or_else(|error| {
        report::print(&error);
        ExitCode::FAILURE
    }))
}
