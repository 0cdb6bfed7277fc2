//! `cargo xtask lint`: format, lints, house rules. All are run, so that one pass names everything.

use anyhow::{Result, bail};

use crate::{tidy, workspace};

const CLIPPY: &[&str] =
    &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];

/// Checks everything and changes nothing.
pub(crate) fn run() -> Result<()> {
    let checks = [
        ("tidy", tidy::run()),
        ("format", workspace::run(workspace::cargo().args(["fmt", "--all", "--check"]))),
        ("clippy", workspace::run(workspace::cargo().args(CLIPPY))),
    ];
    let mut failed = Vec::new();
    for (name, done) in checks {
        if let Err(error) = done {
            eprintln!("{name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("not clean: {}", failed.join(", "));
    }
    Ok(())
}
