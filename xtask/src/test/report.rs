//! What is said about a run: progress, failures, the slowest tests, the total.

use std::time::Duration;

use anyhow::{Result, bail};

use super::{doc::Examples, process::Ending};

const SLOWEST: usize = 10;

/// The run so far.
#[derive(Debug)]
pub(crate) struct Report {
    total: usize,
    times: Vec<(Duration, String)>,
    failures: Vec<(String, String)>,
    examples: Examples,
}

impl Report {
    /// A run of `total` tests.
    pub(crate) fn of(total: usize) -> Self {
        Self { total, times: Vec::new(), failures: Vec::new(), examples: Examples::default() }
    }

    /// There are so many more.
    pub(crate) fn expect(&mut self, more: usize) {
        self.total += more;
    }

    /// Takes in how one test ended.
    pub(crate) fn note(&mut self, name: &str, ending: Ending) {
        self.times.push((ending.took, name.to_owned()));
        let verdict = if ending.failure.is_some() { "FAILED" } else { "ok" };
        let (done, total, width) = (self.times.len(), self.total, self.total.to_string().len());
        let seconds = ending.took.as_secs_f64();
        eprintln!("[{done:>width$}/{total}] {seconds:>8.3} s  {verdict:<6}  {name}");
        if let Some(failure) = ending.failure {
            self.failures.push((name.to_owned(), failure));
        }
    }

    /// Takes in how the documentation examples ended.
    pub(crate) fn add(&mut self, examples: Examples) {
        self.examples = examples;
    }

    /// Prints failures, the slowest tests and, as the last line, the total.
    pub(crate) fn print(mut self) -> Result<()> {
        for (name, output) in &self.failures {
            eprintln!("\n──── {name} ────\n{}", output.trim_end());
        }
        if self.examples.failed > 0 {
            eprintln!("\n──── documentation examples ────\n{}", self.examples.output.trim_end());
        }
        self.times.sort_by(|a, b| b.cmp(a));
        println!("\nthe slowest tests:");
        for (took, name) in self.times.iter().take(SLOWEST) {
            println!("{:>8.3} s  {name}", took.as_secs_f64());
        }
        for (name, _) in &self.failures {
            println!("failed: {name}");
        }
        let failed = self.failures.len() + self.examples.failed;
        let passed = self.times.len() - self.failures.len() + self.examples.passed;
        println!("{passed} passed, {failed} failed");
        if failed > 0 {
            bail!("tests failed");
        }
        Ok(())
    }
}
