//! Measures other systems on the load of `onewrite-bench serve`, on the same machine.
//!
//! Each is started privately: on loopback, on ports of its own, with its data in a folder below the target
//! directory that is removed at the end. Figures go to stdout (`--json`: one object on the last line),
//! progress to stderr.

mod load;
mod restate;

use std::process::ExitCode;

use clap::Parser;

/// Measures other systems on the load that onewrite is measured on.
#[derive(Parser)]
#[command(name = "onewrite-peers")]
enum Command {
    /// Sagas of four steps over HTTP, at a Restate server.
    Restate(restate::Options),
    /// The Restate service with the saga; `restate` starts it.
    #[command(hide = true)]
    RestateService {
        /// Who carries out the steps.
        #[arg(long)]
        shop: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Restate(options) => restate::run(options).await,
        Command::RestateService { shop } => restate::serve(shop).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
