//! `cargo xtask bench NAME` and `cargo xtask soak HAZARD`: the release build of `onewrite-bench`.

use anyhow::Result;

use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which one; without a name, the benchmark program lists them.
    name: Option<String>,
    /// Handed on as they are: `--json` and the like.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs the benchmark named.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.name.as_deref() == Some("brokers") {
        // Found beside the benchmark's own program.
        let words = ["build", "--release", "-q", "-p", "onewrite-mock-kafka"];
        workspace::run(workspace::cargo().args(words))?;
    }
    if options.name.as_deref() == Some("serve") {
        let words = ["build", "--release", "-q", "-p", "onewrite-server"];
        workspace::run(workspace::cargo().args(words))?;
    }
    start(&[], options)
}

/// Runs the full form of a hazard's test.
pub(crate) fn soak(options: &Options) -> Result<()> {
    start(&["soak"], options)
}

fn start(before: &[&str], options: &Options) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["run", "--release", "-q", "-p", "onewrite-bench", "--"]);
    command.args(before).args(&options.name).args(&options.args);
    workspace::run(&mut command)
}
