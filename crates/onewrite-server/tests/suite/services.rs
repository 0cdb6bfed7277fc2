//! Two services in other languages, a shop and billing, with the examples that work on their databases.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use onewrite_testkit::server::{shared_postgres, unique};
use tokio::task::block_in_place;

use crate::support::{PROGRAM, Place, Run, plain};

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

pub(crate) fn example(name: &str) -> String {
    repository("examples/languages").join(name).to_str().unwrap().to_owned()
}

/// Python with what the examples need, in a virtual environment that is made once below `target`.
fn python() -> PathBuf {
    let target = Path::new(PROGRAM).ancestors().nth(2).unwrap();
    let home = target.join("examples-python");
    let wanted = fs::read_to_string(example("requirements.txt")).unwrap();
    // Each test is a process of its own, and they run side by side.
    let lock = File::create(target.join("examples-python.lock")).unwrap();
    lock.lock().unwrap();
    let done = home.join("installed.txt");
    if fs::read_to_string(&done).ok().as_ref() != Some(&wanted) {
        let _ = fs::remove_dir_all(&home);
        let made = Command::new("python3").args(["-m", "venv"]).arg(&home).output();
        let well = made.as_ref().is_ok_and(|made| made.status.success());
        assert!(
            well,
            "Python cannot make a virtual environment (Debian: `apt-get install python3-venv`): {made:?}"
        );
        let mut install = Command::new(home.join("bin/python"));
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        install.args(["--no-input", "--requirement", &example("requirements.txt")]);
        let run = Run::of(install);
        assert_eq!(run.code, Some(0), "pip cannot install what the examples need: {run:?}");
        fs::write(&done, &wanted).unwrap();
    }
    home.join("bin/python")
}

/// `psql` with its variables, and the environment of nobody.
pub(crate) fn psql(url: &str, file: &str, variables: &[(&str, &str)]) -> Run {
    let mut command = Command::new("psql");
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", url]);
    for (name, value) in variables {
        command.arg("-v").arg(format!("{name}={value}"));
    }
    Run::of(plainly(command, &["-f", file]))
}

fn plainly(mut command: Command, args: &[&str]) -> Command {
    plain(&mut command);
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG"))
    {
        command.env_remove(name);
    }
    command.args(args);
    command
}

/// A program of the examples, working on the database at `url`.
pub(crate) fn program(name: &str, url: &str, args: &[&str]) -> Command {
    let mut command = script(&example(name), args);
    command.env("DATABASE_URL", url);
    command
}

/// Any file of Python.
pub(crate) fn script(path: &str, args: &[&str]) -> Command {
    let mut command = Command::new(python());
    command.arg(path);
    plainly(command, args)
}

/// The two services' databases, with onewrite's tables and the examples'.
pub(crate) struct Services {
    place: Place,
    pub(crate) shop: String,
    pub(crate) billing: String,
}

impl Services {
    pub(crate) async fn new() -> Self {
        let (shop, billing) = (database("shop").await, database("billing").await);
        let place = Place::new();
        for url in [&shop, &billing] {
            block_in_place(|| {
                place.run(&["store", "init", "--store", url]).ok();
                psql(url, &example("tables.sql"), &[]).ok();
            });
        }
        Self { place, shop, billing }
    }

    /// Customer and order of each invoice, in the order in which they were written.
    pub(crate) fn invoices(&self) -> Vec<(String, String)> {
        let sql = self.place.path("invoices.sql");
        fs::write(&sql, "SELECT customer, order_id FROM invoices ORDER BY n").unwrap();
        let found = psql(&self.billing, sql.to_str().unwrap(), &[]).ok().out;
        let pair = |line: &str| line.split_once('|').map(|(a, b)| (a.to_owned(), b.to_owned()));
        found.lines().filter_map(pair).collect()
    }

    pub(crate) fn relay(&self, sink: &str, more: &[&str]) -> Command {
        let args = ["relay", "--store", &self.shop, "--sink", sink, "--name", "billing"];
        self.place.command(&[&args[..], &["--allow-private"], more].concat())
    }

    pub(crate) fn emit(&self, args: &[&str]) {
        Run::of(program("emit.py", &self.shop, args)).ok();
    }

    pub(crate) fn is_settled(&self) -> bool {
        let sinks = self.place.json(&["sink", "list", "--store", &self.shop, "--json"]);
        sinks[0]["behind"] == 0
    }
}

/// An empty database on the server of the test run.
pub(crate) async fn database(name: &str) -> String {
    let (server, name) = (shared_postgres().await.unwrap(), unique(name));
    server.create_database(&name).await.unwrap();
    server.url(&name)
}

/// How many orders have an invoice, or several.
pub(crate) fn orders_of(invoices: &[(String, String)]) -> usize {
    invoices.iter().map(|(_, order)| order).collect::<BTreeSet<_>>().len()
}

/// Each of the orders 1 to `placed` has one invoice, and those of each customer are in order.
pub(crate) fn once_and_in_order(invoices: Vec<(String, String)>, placed: usize) {
    let mut by_customer: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (customer, order) in invoices {
        by_customer.entry(customer).or_default().push(order);
    }
    for (customer, orders) in (0..3).map(|n| (n, &by_customer[&format!("customer-{n}")])) {
        let placed = (1..=placed).filter(|number| number % 3 == customer);
        let placed: Vec<String> = placed.map(|number| format!("o-{number:06}")).collect();
        assert_eq!(*orders, placed);
    }
}
