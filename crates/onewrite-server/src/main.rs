//! The `onewrite` program.

mod backends;
mod cli;
mod config;
mod demo;
mod http;
mod report;
mod saga;
mod serve;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Of a saga over HTTP an eighth of the time went into the allocator of the C library.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let (filter, misread) = filter();
    // Data goes to standard output, talk to standard error. A log that cannot be written is no reason to
    // write about it there: that would end the task that logs.
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    logs.with_ansi(std::io::stderr().is_terminal()).log_internal_errors(false).init();
    if let Some(misread) = misread {
        report::tell!("warning: {misread}");
    }
    report::end(cli.run().await.unwrap_or_else(|error| {
        report::print(&error);
        ExitCode::FAILURE
    }))
}

/// What is logged, by ONEWRITE_LOG or by default, and what was wrong with the former.
fn filter() -> (EnvFilter, Option<String>) {
    // What the pool of connections and the client of RabbitMQ say is said again by whoever wanted something
    // of them, with what it was for; the latter would show whole messages besides.
    let usual = EnvFilter::new("warn,deadpool=off,lapin=off");
    let Some(wanted) = std::env::var("ONEWRITE_LOG").ok().filter(|wanted| !wanted.is_empty())
    else {
        return (usual, None);
    };
    match EnvFilter::try_new(&wanted) {
        Ok(filter) => (filter, None),
        Err(error) => {
            let wanted = wanted.escape_debug();
            (usual, Some(format!("ONEWRITE_LOG is `{wanted}`, and that is no filter: {error}")))
        }
    }
}
