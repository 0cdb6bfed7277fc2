//! `cargo xtask test`: every test of the workspace in a process of its own, timed and with a limit.
//!
//! The stable test harness neither times single tests nor stops one that hangs. So the binaries are
//! built once, asked for their tests, and started anew for each of them. Documentation examples run
//! through cargo afterwards and are counted in the same total.
//!
//! All of them share one server of each kind, which runs as long as they do.

mod binaries;
mod doc;
mod process;
mod report;

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use onewrite_testservers::{KAFKA_ENV, Tansu};

use self::{process::Ending, report::Report};
use crate::{
    servers::{self, Attended},
    workspace,
};

/// Set for the tests when their long forms are wanted.
const EXTENDED: &str = "ONEWRITE_EXTENDED";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only tests whose full name contains this; leaves documentation examples out.
    filter: Option<String>,
    /// Run the long forms: sets `ONEWRITE_EXTENDED=1` and lets a test take an hour.
    #[arg(long)]
    extended: bool,
    /// Tests running at the same time. Many of them start several processes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// Seconds after which a test is killed together with the processes it started.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

/// The tests that run on Tansu as well, in the long form.
const KAFKA_TESTS: &str = "onewrite-broker-kafka/suite";

/// The tests that run whole demos on servers.
const HEAVY: [&str; 2] =
    ["onewrite-server/suite::servers::", "onewrite-server/suite::orchestration::"];

/// One test of one binary.
#[derive(Debug, Clone)]
struct Case {
    /// Which of the binaries.
    binary: usize,
    /// Its name as the binary knows it.
    name: String,
    /// Its name in the whole workspace.
    full_name: String,
}

/// Runs the tests; an error when one fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    // First, as it is the part that may need somebody's help.
    servers::install_missing(servers::ALL, true)?;
    let built = binaries::build()?;
    let mut cases = Vec::new();
    for (index, binary) in built.tests.iter().enumerate() {
        for name in binary.list()? {
            let full_name = format!("{}::{name}", binary.label);
            cases.push(Case { binary: index, name, full_name });
        }
    }
    if let Some(filter) = &options.filter {
        cases.retain(|case| case.full_name.contains(filter.as_str()));
    }
    if cases.is_empty() {
        bail!("there is no such test");
    }
    // Tests with processes of their own take longest: first in, so that none is left to run alone.
    cases.sort_by_key(|case| !built.tests[case.binary].integration);

    let limit = options.timeout.unwrap_or(if options.extended { 3_600 } else { 300 });
    let mut report = Report::of(cases.len());
    let servers = Attended::start(servers::ALL).context("cannot start the servers of the run")?;
    let mut variables = servers.variables().to_vec();
    if options.extended {
        variables.push((EXTENDED, "1".to_owned()));
    }
    let limit = Duration::from_secs(limit);
    run_all(&built, &cases, options.jobs, limit, &variables, &mut report)?;
    if options.extended {
        on_tansu(&built, &cases, limit, &variables, &mut report)?;
    }
    if options.filter.is_none() {
        eprintln!("documentation examples:");
        report.add(doc::run(&variables)?);
    }
    drop(servers);
    report.print()
}

/// The tests of Kafka once more, on a server that is no mock.
fn on_tansu(
    built: &binaries::Built,
    cases: &[Case],
    limit: Duration,
    variables: &[(&str, String)],
    report: &mut Report,
) -> Result<()> {
    let of_kafka = |case: &&Case| case.full_name.starts_with(KAFKA_TESTS);
    let cases: Vec<Case> = cases.iter().filter(of_kafka).cloned().collect();
    if cases.is_empty() {
        return Ok(());
    }
    eprintln!("the tests of Kafka on Tansu:");
    let tansu = servers::runtime()?.block_on(Tansu::start())?;
    let others = variables.iter().filter(|(name, _)| *name != KAFKA_ENV).cloned();
    let variables: Vec<_> = others.chain([(KAFKA_ENV, tansu.address().test_url())]).collect();
    report.expect(cases.len());
    run_all(built, &cases, 1, limit, &variables, report)
}

/// The tests that are still to be run, in order.
struct Queue {
    waiting: VecDeque<usize>,
    /// Whether each of them runs whole demos on servers: two of these beside one another starve each other.
    heavy: Vec<bool>,
    heavy_under_way: usize,
}

impl Queue {
    fn of(cases: &[Case]) -> Self {
        let is_heavy = |case: &Case| HEAVY.iter().any(|name| case.full_name.starts_with(name));
        Self {
            waiting: (0..cases.len()).collect(),
            heavy: cases.iter().map(is_heavy).collect(),
            heavy_under_way: 0,
        }
    }

    /// The next one that is not heavy beside another. What is left then is for who runs that other one.
    fn take(&mut self) -> Option<usize> {
        let fits = |index: &usize| self.heavy_under_way == 0 || !self.heavy[*index];
        let place = self.waiting.iter().position(fits)?;
        let index = self.waiting.remove(place)?;
        self.heavy_under_way += usize::from(self.heavy[index]);
        Some(index)
    }

    fn done(&mut self, index: usize) {
        self.heavy_under_way -= usize::from(self.heavy[index]);
    }
}

fn locked(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run_all(
    built: &binaries::Built,
    cases: &[Case],
    jobs: u16,
    limit: Duration,
    variables: &[(&str, String)],
    report: &mut Report,
) -> Result<()> {
    let outputs = workspace::root().join("target/xtask");
    std::fs::create_dir_all(&outputs)?;
    let (queue, outputs) = (&Mutex::new(Queue::of(cases)), &outputs);
    thread::scope(|scope| {
        let (sender, endings) = mpsc::channel::<(usize, Result<Ending>)>();
        for worker in 0..jobs {
            let sender = sender.clone();
            scope.spawn(move || {
                let output = outputs.join(format!("{}-{worker}.out", std::process::id()));
                loop {
                    let taken = locked(queue).take();
                    let Some(index) = taken else { break };
                    let case = &cases[index];
                    let mut command = built.command(case);
                    command.envs(variables.iter().map(|(name, value)| (name, value)));
                    let ending = process::run(&mut command, limit, &output);
                    locked(queue).done(index);
                    if sender.send((index, ending)).is_err() {
                        break;
                    }
                }
                let _ = std::fs::remove_file(output);
            });
        }
        drop(sender);
        for (index, ending) in endings {
            report.note(&cases[index].full_name, ending?);
        }
        Ok(())
    })
}
