//! `bench serve`: sagas of four steps over HTTP. The server, the service that carries them out and the clients that
//! wait for the end of each share the machine.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use axum::{Router, routing::post};
use onewrite_testkit::server::{Mariadb, Postgres};
use serde_json::{Value, json};

use crate::{load::Latencies, machine::Machine, report::Report};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object on the last line.
    #[arg(long)]
    json: bool,
    /// How long each figure is measured, in seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Sagas under way at the same time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    concurrency: Vec<usize>,
    /// Only on this store; may be given several times.
    #[arg(long, value_enum)]
    only: Vec<On>,
}

/// The stores that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum On {
    /// A file below the target directory.
    Sqlite,
    /// A private PostgreSQL.
    Postgres,
    /// A private MariaDB.
    Mariadb,
}

/// Measures on each store in turn.
///
/// # Errors
/// When a server cannot be started, or answers otherwise than it should.
pub(crate) async fn run(options: Options) -> Result<()> {
    let folder = crate::folder()?;
    let mut report = Report::new("serve", Machine::look(folder.path()).await?);
    let service = service().await?;
    let every = [On::Sqlite, On::Postgres, On::Mariadb];
    for on in every.into_iter().filter(|on| options.only.is_empty() || options.only.contains(on)) {
        match on {
            On::Sqlite => {
                let store = format!("sqlite:{}", folder.path().join("sagas.db").display());
                measure(&mut report, "sqlite", &store, service, &options).await?;
            }
            On::Postgres => {
                let server = Postgres::start().await.context("start PostgreSQL")?;
                server.create_database("sagas").await.context("create a database")?;
                measure(&mut report, "postgres", &server.url("sagas"), service, &options).await?;
            }
            On::Mariadb => {
                let server = Mariadb::start_with(&["--innodb-buffer-pool-size=512M"]).await;
                let server = server.context("start MariaDB")?;
                server.address().create_database("sagas").await.context("create a database")?;
                let url = server.address().url("sagas");
                measure(&mut report, "mariadb", &url, service, &options).await?;
            }
        }
    }
    report.print(options.json);
    Ok(())
}

/// Carries out every step at once.
async fn service() -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let done = || std::future::ready([("onewrite-outcome", "done")]);
    let routes = Router::new().route("/{step}", post(done));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(address)
}

/// `onewrite serve`, killed when dropped.
struct Server(Child);

impl Server {
    fn start(store: &str, service: SocketAddr, folder: &Path) -> Result<(Self, String)> {
        let definition = folder.join("order.json");
        std::fs::write(&definition, order().to_string())?;
        let program = std::env::current_exe()?.with_file_name("onewrite");
        let mut command = Command::new(&program);
        command.args(["serve", "--store", store, "--listen", "127.0.0.1:0", "--allow-private"]);
        command.args(["--participant", &format!("shop=http://{service}")]);
        command.arg("--definitions").arg(definition);
        let started = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut child = started.with_context(|| format!("start {}", program.display()))?;
        let mut lines = BufReader::new(child.stderr.take().context("what it says")?).lines();
        let server = Self(child);
        let said = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("serving sagas at ").map(str::to_owned));
        // What it says later is read as well, or it would wait.
        std::thread::spawn(move || lines.for_each(drop));
        Ok((server, said.context("the server did not begin to listen")?))
    }

    /// The processor's time it has used, in seconds.
    fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        // User and system time, in hundredths.
        let ticks: u64 =
            fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(ticks as f64 / 100.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn measure(
    report: &mut Report,
    section: &'static str,
    store: &str,
    service: SocketAddr,
    options: &Options,
) -> Result<()> {
    let folder = crate::folder()?;
    let (server, url) = Server::start(store, service, folder.path())?;
    let time = Duration::from_secs(options.seconds);
    for clients in &options.concurrency {
        let before = server.cpu_seconds()?;
        let latencies = drive(&url, *clients, time).await?;
        let cpu = server.cpu_seconds()? - before;
        let (name, each) = (format!("http_{clients}"), latencies.count().max(1) as f64);
        report.set(section, format!("{name}_per_s"), latencies.count() as f64 / time.as_secs_f64());
        report.set_latencies(section, &name, &latencies);
        report.set(section, format!("{name}_server_cpu_us"), cpu * 1e6 / each);
    }
    Ok(())
}

/// Starts sagas from so many clients, each waiting for the end of its own.
async fn drive(url: &str, clients: usize, time: Duration) -> Result<Latencies> {
    static KEY: AtomicU64 = AtomicU64::new(0);
    let until = Instant::now() + time;
    let client = reqwest::Client::builder().pool_max_idle_per_host(clients).build()?;
    let mut work = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (client, url) = (client.clone(), format!("{url}/v1/sagas"));
        work.spawn(async move {
            let mut latencies = Latencies::new()?;
            while Instant::now() < until {
                let body = start(KEY.fetch_add(1, Ordering::Relaxed)).to_string();
                let request = client.post(&url).header("content-type", "application/json");
                let began = Instant::now();
                let answer: Value =
                    serde_json::from_slice(&request.body(body).send().await?.bytes().await?)?;
                latencies.add(began.elapsed());
                if answer["state"] != "completed" {
                    bail!("a saga ended otherwise than it should: {answer}");
                }
            }
            Ok(latencies)
        });
    }
    let mut all = Latencies::new()?;
    while let Some(done) = work.join_next().await {
        all.merge(&done??)?;
    }
    Ok(all)
}

fn start(number: u64) -> Value {
    let order = json!({"customer": "customer-17", "sku": "book", "quantity": 1, "cents": 1_500});
    json!({"definition": "order", "key": format!("order-{number}"), "input": order, "wait_ms": 60_000})
}

/// What is run.
fn order() -> Value {
    let step = |name: &str| {
        let (action, undo) = (format!("shop.{name}"), format!("shop.undo_{name}"));
        json!({"name": name, "action": action, "compensation": {"by": undo}})
    };
    let steps = ["pay", "reserve", "schedule", "confirm"].map(step);
    json!({"name": "order", "steps": steps})
}
