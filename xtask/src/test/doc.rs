//! Documentation examples: cargo runs them, their results are read from what it prints.

use std::process::Stdio;

use anyhow::{Context, Result};

use crate::workspace;

/// What became of the documentation examples.
#[derive(Debug, Default)]
pub(crate) struct Examples {
    /// How many passed.
    pub(crate) passed: usize,
    /// How many failed; at least one when they do not build.
    pub(crate) failed: usize,
    /// What was printed.
    pub(crate) output: String,
}

/// Runs every documentation example of the workspace, with these variables set.
pub(crate) fn run(variables: &[(&str, String)]) -> Result<Examples> {
    let mut command = workspace::cargo();
    command.args(["test", "--workspace", "--all-features", "--doc", "--no-fail-fast"]);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    let mut examples = Examples::read(String::from_utf8_lossy(&output.stdout).into_owned());
    if !output.status.success() {
        examples.failed = examples.failed.max(1);
    }
    Ok(examples)
}

impl Examples {
    /// Adds up the lines `test result: ok. 5 passed; 0 failed; …`.
    fn read(output: String) -> Self {
        let results = || output.lines().filter(|line| line.starts_with("test result: "));
        let sum = |word| results().filter_map(|line| number_before(line, word)).sum();
        Self { passed: sum(" passed"), failed: sum(" failed"), output }
    }
}

fn number_before(line: &str, word: &str) -> Option<usize> {
    line.split_once(word)?.0.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_the_results_of_all_crates() {
        let output = "running 2 tests\n\
            test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
            test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let examples = Examples::read(output.to_owned());
        assert_eq!((examples.passed, examples.failed), (5, 1));
    }
}
