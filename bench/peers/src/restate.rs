//! Restate: its server, a service with the saga in a process of its own, and clients at the ingress.
//!
//! The server's settings are its defaults, durability included; it is told only where it listens and keeps
//! its data, what its log looks like, and that it sends no telemetry.

use std::{
    io::{BufRead as _, BufReader, Lines, Read as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;
use restate_sdk::prelude::*;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::load::{self, Figures};

/// The version of the server that is installed for this.
const VERSION: &str = "1.7.12";

/// How long the server may take until it listens, and then until it runs the first saga.
const START_MAX: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object on the last line.
    #[arg(long)]
    json: bool,
    /// How long each figure is measured, in seconds.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Sagas under way at the same time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    concurrency: Vec<usize>,
    /// The program `restate-server`; otherwise the one that is installed below the target directory.
    #[arg(long)]
    restate: Option<PathBuf>,
    /// Partitions of the server, instead of its default of 24.
    #[arg(long)]
    partitions: Option<u16>,
}

/// Starts everything and measures.
///
/// # Errors
/// When the server is not installed or cannot be started, or a saga ends otherwise than it should.
pub(crate) async fn run(options: Options) -> Result<()> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let target = target.join("peers");
    let program = program(options.restate, &target)?;
    std::fs::create_dir_all(&target).with_context(|| format!("create {}", target.display()))?;
    let folder = tempfile::tempdir_in(&target)?;
    let shop = load::shop().await?;
    let mut command = server(&program, folder.path())?;
    if let Some(partitions) = options.partitions {
        command.env("RESTATE_DEFAULT_NUM_PARTITIONS", partitions.to_string());
    }
    let (server, (ingress, admin)) = Process::start(&mut command, doors)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["restate-service", "--shop", &format!("http://{shop}")]);
    let (service, address) = Process::start(&mut command, |lines| lines.next()?.ok())?;
    let url = format!("{ingress}/Order/run");
    register(&admin, &address, &url).await?;
    // The first second is not measured: the server may still be starting its partitions.
    drive(&url, 16, Duration::from_secs(1)).await?;
    let mut figures = Figures::default();
    let time = Duration::from_secs(options.seconds);
    for clients in options.concurrency {
        let before = [server.cpu_seconds()?, service.cpu_seconds()?];
        let latencies = drive(&url, clients, time).await?;
        let after = [server.cpu_seconds()?, service.cpu_seconds()?];
        let (name, each) = (format!("http_{clients}"), latencies.len().max(1) as f64);
        figures.set_latencies(&name, time, &latencies);
        for (at, who) in ["server", "service"].into_iter().enumerate() {
            figures.set(format!("{name}_{who}_cpu_us"), (after[at] - before[at]) * 1e6 / each);
        }
    }
    figures.print("restate", &versions(&program)?, options.json);
    Ok(())
}

/// The program that was named, or that npm has installed.
fn program(named: Option<PathBuf>, target: &Path) -> Result<PathBuf> {
    let cpu = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let package = format!("node_modules/@restatedev/restate-server-linux-{cpu}");
    let program = named.unwrap_or_else(|| target.join(package).join("bin/restate-server"));
    if !program.is_file() {
        let (program, target) = (program.display(), target.display());
        bail!(
            "there is no restate-server at {program}; install it with `npm install --ignore-scripts \
             --prefix {target} @restatedev/restate-server@{VERSION}`, or name it with --restate PATH"
        );
    }
    let mut begins = [0; 2];
    std::fs::File::open(&program)?.read_exact(&mut begins)?;
    // It would be measured, and killed, in the place of what it starts.
    ensure!(begins != *b"#!", "{} is a script: name the program that it starts", program.display());
    // It is started in another folder.
    program.canonicalize().with_context(|| format!("find {}", program.display()))
}

fn versions(program: &Path) -> Result<Value> {
    let said = Command::new(program).arg("--version").output().context("ask for the version")?;
    let said = String::from_utf8_lossy(&said.stdout);
    let server = said.split_whitespace().last().unwrap_or("unknown");
    let lock = include_str!("../Cargo.lock");
    let sdk =
        lock.split_once("name = \"restate-sdk\"").and_then(|(_, rest)| rest.split('"').nth(1));
    Ok(json!({"restate-server": server, "restate-sdk": sdk.unwrap_or("unknown")}))
}

/// A private server in `folder`. Where it listens is said in its log.
fn server(program: &Path, folder: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    command.current_dir(folder).arg("--base-dir").arg(folder.canonicalize()?.join("data"));
    command.args(["--listen-mode", "tcp", "--bind-ip", "127.0.0.1", "--use-random-ports", "true"]);
    command.args(["--node-name", "bench", "--no-logo", "--log-format", "json"]);
    // The caller's own settings would be measured otherwise.
    let own = |name: &str| name.starts_with("RESTATE_") || name == "RUST_LOG";
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(own)) {
        command.env_remove(name);
    }
    command.env("RESTATE_DISABLE_TELEMETRY", "true");
    Ok(command)
}

/// The URLs of the ingress and of the admin API, from the server's log.
fn doors(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<(String, String)> {
    let (mut ingress, mut admin) = (None, None);
    while ingress.is_none() || admin.is_none() {
        let line = lines.next()?.ok()?;
        ingress = ingress.or_else(|| door(&line, "http-ingress-server"));
        admin = admin.or_else(|| door(&line, "admin-api-server"));
    }
    ingress.zip(admin)
}

/// Where the door of this name is, if a line of the log says so.
fn door(line: &str, name: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let said = line["fields"]["message"].as_str()?.ends_with("istening");
    let port = line["span"]["server.port"].as_u64()?;
    (said && line["span"]["server_name"] == name).then(|| format!("http://127.0.0.1:{port}"))
}

/// A child process, killed when dropped.
struct Process(Child);

impl Process {
    /// Starts it, and lets `look` read its lines until that has what it looks for.
    fn start<T: Send + 'static>(
        command: &mut Command,
        look: fn(&mut Lines<BufReader<ChildStdout>>) -> Option<T>,
    ) -> Result<(Self, T)> {
        let name = command.get_program().to_string_lossy().into_owned();
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut process = Self(started.with_context(|| format!("start {name}"))?);
        let mut lines = BufReader::new(process.0.stdout.take().context("what it says")?).lines();
        let (send, found) = mpsc::channel();
        std::thread::spawn(move || {
            let _ = send.send(look(&mut lines));
            // What it says later is read as well, or it would wait.
            lines.for_each(drop);
        });
        let found = found.recv_timeout(START_MAX).ok().flatten();
        Ok((process, found.with_context(|| format!("{name} did not say where it listens"))?))
    }

    /// The processor's time it has used, in seconds.
    fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        // User and system time, in hundredths.
        let ticks = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
        Ok(ticks.sum::<u64>() as f64 / 100.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes the service known to the server, and waits until a saga runs to its end: the ingress learns later.
async fn register(admin: &str, service: &str, url: &str) -> Result<()> {
    let body = json!({"uri": service}).to_string();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let request = client.post(format!("{admin}/deployments"));
    let answer = request.header("content-type", "application/json").body(body).send().await?;
    let (status, said) = (answer.status(), answer.text().await?);
    ensure!(status.is_success(), "the service was not registered: {status}: {said}");
    let began = Instant::now();
    while let Err(error) = saga(client.clone(), url.to_owned(), "first".to_owned()).await {
        ensure!(began.elapsed() < START_MAX, "no saga runs: {error:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn drive(url: &str, clients: usize, time: Duration) -> Result<Histogram<u64>> {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(clients).build()?;
    let url = url.to_owned();
    load::drive(clients, time, move |key| saga(client.clone(), url.clone(), key)).await
}

/// Starts a saga and waits for its end.
async fn saga(client: reqwest::Client, url: String, key: String) -> Result<()> {
    let request = client.post(&url).header("content-type", "application/json");
    let request = request.header("idempotency-key", key).body(load::input().to_string());
    let answer = request.send().await?;
    let (status, said) = (answer.status(), answer.text().await?);
    ensure!(said == "\"completed\"", "a saga ended otherwise than it should: {status}: {said}");
    Ok(())
}

/// Serves the saga to Restate; the first line on stdout says where.
///
/// # Errors
/// When no port can be listened on.
pub(crate) async fn serve(shop: String) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    // Connections have it from their listener. The SDK leaves it off, and each step would take 40 ms more.
    socket.set_nodelay(true)?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let listener = socket.listen(1024)?;
    println!("http://{}", listener.local_addr()?);
    let order = Order { shop, client: reqwest::Client::builder().no_proxy().build()? };
    HttpServer::new(Endpoint::builder().bind(order).build()).serve(listener).await;
    Ok(())
}

/// The saga as Restate runs it: each step is journaled when the shop has answered.
struct Order {
    client: reqwest::Client,
    shop: String,
}

#[restate_sdk::service]
impl Order {
    #[handler]
    async fn run(&self, context: Context<'_>, input: Json<Value>) -> HandlerResult<String> {
        let key = context.idempotency_key().unwrap_or_else(|| context.invocation_id());
        let input = input.into_inner().to_string();
        for step in load::STEPS {
            let request = self.client.post(format!("{}/{step}", self.shop));
            let request = request.header("content-type", "application/json");
            let request = request.header("idempotency-key", format!("\"{key}/{step}\""));
            let request = request.body(input.clone());
            let carry_out = || async move {
                // Read to its end, or the connection could not be used again.
                request.send().await?.error_for_status()?.bytes().await?;
                Ok(())
            };
            context.run(carry_out).name(step).await?;
        }
        Ok("completed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_server_is_answered_with_what_to_do() {
        let nowhere = tempfile::tempdir().unwrap();
        for named in [None, Some(nowhere.path().join("restate-server"))] {
            let said = program(named, nowhere.path()).unwrap_err().to_string();
            assert!(said.contains("`npm install") && said.contains(VERSION), "{said}");
        }
        let script = nowhere.path().join("script");
        std::fs::write(&script, "#!/usr/bin/env node").unwrap();
        let said = program(Some(script), nowhere.path()).unwrap_err().to_string();
        assert!(said.contains("is a script"), "{said}");
    }
}
