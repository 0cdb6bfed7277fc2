//! A private Kafka server: librdkafka's mock, in a program of this workspace.
//!
//! Kafka's own broker is in no registry that these tests install from. The mock speaks the protocol of
//! clients, keeps everything in memory (5 MiB of a partition) and can be told to misbehave. It is beside
//! the running program among what cargo built; on [`Tansu`], a server of somebody else's, the same tests
//! run when they are asked for.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::{
    blocking,
    folder::Folder,
    port,
    process::{self, Process},
};

const PROGRAM: &str = "onewrite-mock-kafka";

/// Names the program of [`Tansu`] where it is not on the search path.
pub const TANSU_ENV: &str = "ONEWRITE_TANSU";

/// How Tansu is installed, outside of the workspace: it takes minutes.
const TANSU_INSTALL: &str =
    "cargo install tansu --version 0.6.0 --no-default-features --features dynostore,libsql";

/// Where a Kafka server listens, and where the mock takes commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaAddress {
    port: u16,
    commands: Option<u16>,
}

impl KafkaAddress {
    /// Reads `kafka://127.0.0.1:PORT`, with `#COMMANDS` behind it for the mock.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("kafka://127.0.0.1:")?;
        let (port, commands) = match rest.split_once('#') {
            Some((port, commands)) => (port, Some(commands.parse().ok()?)),
            None => (rest, None),
        };
        Some(Self { port: port.trim_end_matches('/').parse().ok()?, commands })
    }

    /// `kafka://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("kafka://127.0.0.1:{}", self.port)
    }

    /// The URL with which other processes of a test run find its commands as well.
    #[must_use]
    pub fn test_url(&self) -> String {
        match self.commands {
            Some(commands) => format!("{}#{commands}", self.url()),
            None => self.url(),
        }
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is the mock, which takes commands.
    #[must_use]
    pub fn is_mock(&self) -> bool {
        self.commands.is_some()
    }

    /// Creates a topic on the mock, which has no way of Kafka's own for that. Others are left to their
    /// clients.
    ///
    /// # Errors
    /// When the mock refuses it, or is gone.
    pub async fn create_topic(&self, name: &str, partitions: u16) -> io::Result<()> {
        match self.commands {
            Some(_) => self.command(&format!("topic {name} {partitions}")).await,
            None => Ok(()),
        }
    }

    /// Gives the mock a command: see its documentation.
    ///
    /// # Errors
    /// When it does not understand it, or is gone, or is no mock.
    pub async fn command(&self, words: &str) -> io::Result<()> {
        let port = self.commands.ok_or_else(|| io::Error::other("only the mock obeys"))?;
        let line = format!("{words}\n");
        let answer = blocking(move || {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.write_all(line.as_bytes())?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer)?;
            Ok(answer)
        });
        match answer.await?.trim_end() {
            "ok" => Ok(()),
            wrong => Err(io::Error::other(format!("the mock does not obey `{words}`: {wrong}"))),
        }
    }
}

/// A running mock. Stopped when this is dropped.
#[derive(Debug)]
pub struct Kafka {
    address: KafkaAddress,
    _process: Ended,
}

impl Kafka {
    /// Whether the mock's program is there.
    #[must_use]
    pub fn is_built() -> bool {
        program().is_some()
    }

    /// Starts one.
    ///
    /// # Errors
    /// When its program was not built, or does not start; the error holds the end of its log.
    pub async fn start() -> io::Result<Self> {
        blocking(|| {
            let program = program().ok_or_else(|| {
                io::Error::other(format!(
                    "the mock of Kafka is not built (`cargo build -p {PROGRAM}`)"
                ))
            })?;
            let folder = Folder::new(None)?;
            let log = folder.path().join("log");
            let mut address = None;
            let process = Process::start(process::command(&program, "KILL", None), &log, |_| {
                address = process::said(&log, 0).ok().and_then(|said| ready(&said));
                address.is_some()
            })?;
            let address = address.ok_or_else(|| io::Error::other("the mock says no address"))?;
            Ok(Self { address, _process: Ended::new(process, folder) })
        })
        .await
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &KafkaAddress {
        &self.address
    }

    /// `kafka://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        self.address.url()
    }
}

/// A running Tansu with its engine in memory: a Kafka server that is nobody's mock. Stopped when this is
/// dropped.
#[derive(Debug)]
pub struct Tansu {
    address: KafkaAddress,
    _process: Ended,
}

impl Tansu {
    /// Starts one.
    ///
    /// # Errors
    /// When it is not installed, or does not start; the error holds the end of its log.
    pub async fn start() -> io::Result<Self> {
        blocking(|| {
            let program = tansu().ok_or_else(|| {
                io::Error::other(format!(
                    "Tansu is not installed: `{TANSU_INSTALL}`, and name its program in {TANSU_ENV} where it is not on the search path"
                ))
            })?;
            let folder = Folder::new(None)?;
            let (address, process) = port::on_a_free_one(|port| {
                let address = KafkaAddress { port, commands: None };
                Ok((address, start_tansu(&program, folder.path(), port)?))
            })?;
            Ok(Self { address, _process: Ended::new(process, folder) })
        })
        .await
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &KafkaAddress {
        &self.address
    }
}

fn start_tansu(program: &Path, folder: &Path, port: u16) -> io::Result<Process> {
    let url = format!("tcp://127.0.0.1:{port}");
    let mut command = process::command(program, "KILL", None);
    command.args(["broker", "--cluster-id", "onewrite", "--storage-engine", "memory://tansu/"]);
    command.args(["--listener-url", &url, "--advertised-listener-url", &url]);
    command.current_dir(folder);
    Process::start(command, &folder.join("log"), |_| {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    })
}

/// A process that ends with this value, and then its folder.
#[derive(Debug)]
struct Ended {
    process: Mutex<Process>,
    _folder: Folder,
}

impl Ended {
    fn new(process: Process, folder: Folder) -> Self {
        Self { process: Mutex::new(process), _folder: folder }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.process.get_mut().unwrap_or_else(PoisonError::into_inner).crash();
    }
}

/// What the mock says when it is ready.
fn ready(said: &str) -> Option<KafkaAddress> {
    let line = said.lines().find(|line| line.starts_with("ready ") && said.ends_with('\n'))?;
    let mut words = line.split(' ').skip(1);
    let port = words.next()?.rsplit_once(':')?.1.parse().ok()?;
    Some(KafkaAddress { port, commands: Some(words.next()?.parse().ok()?) })
}

/// Named by `cargo xtask test`, or beside what runs: tests run in a folder below that of programs.
fn program() -> Option<PathBuf> {
    let named = env::var_os(format!("CARGO_BIN_EXE_{PROGRAM}")).map(PathBuf::from);
    if let Some(named) = named.filter(|named| named.is_file()) {
        return Some(named);
    }
    let own = env::current_exe().ok()?;
    own.ancestors().skip(1).take(3).map(|folder| folder.join(PROGRAM)).find(|place| place.is_file())
}

fn tansu() -> Option<PathBuf> {
    let named = env::var_os(TANSU_ENV).filter(|named| !named.is_empty()).map(PathBuf::from);
    named.or_else(|| process::find("tansu", &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_back() {
        for commands in [None, Some(7)] {
            let address = KafkaAddress { port: 9092, commands };
            assert_eq!(KafkaAddress::parse(&address.test_url()), Some(address));
        }
        assert_eq!(KafkaAddress::parse("kafka://example.com:9092"), None);
    }

    #[test]
    fn what_the_mock_says_is_read_when_it_is_said_to_the_end() {
        let address = KafkaAddress { port: 9092, commands: Some(77) };
        assert_eq!(ready("ready 127.0.0.1:9092 77\n"), Some(address));
        assert_eq!(ready("ready 127.0.0.1:9092 7"), None);
    }
}
