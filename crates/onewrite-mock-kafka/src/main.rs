//! A Kafka server for tests: librdkafka's own mock, in a process that is never killed with anything
//! expected to survive.
//!
//! It keeps everything in memory, at most 5 MiB of a partition, and drops the oldest silently. Nothing of
//! it has to do with Kafka's own broker but the protocol, of which it speaks what clients need: producing
//! (idempotent, in transactions), fetching, groups and their offsets, metadata. Topics are created by a
//! command, or with 4 partitions when a client that may asks about them.
//!
//! It prints one line, `ready HOST:PORT COMMANDS`, where `COMMANDS` is a port on 127.0.0.1 that takes a line
//! for each connection and answers with `ok` or with what is wrong:
//!
//! - `topic NAME PARTITIONS` creates a topic.
//! - `fail API COUNT CODE` lets the next requests of a kind fail: `produce`, `commit` or `fetch`, with a number
//!   of Kafka's protocol, or -195 to end the connection.
//! - `rtt MILLISECONDS` answers so much later.
//! - `down` and `up` take the server away and bring it back.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

/// The only server of the cluster.
const BROKER: i32 = 1;

type Mock = MockCluster<'static, DefaultProducerContext>;

fn main() -> Result<()> {
    let mock = MockCluster::new(1).context("the mock does not start")?;
    let commands = TcpListener::bind(("127.0.0.1", 0))?;
    let port = commands.local_addr()?.port();
    println!("ready {} {port}", mock.bootstrap_servers());
    for connection in commands.incoming() {
        // One at a time: each is a line, and whoever asks waits for its answer.
        if let Err(error) = serve(&mock, &connection?) {
            eprintln!("a command was broken off: {error}");
        }
    }
    Ok(())
}

fn serve(mock: &Mock, connection: &TcpStream) -> Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut line = String::new();
    BufReader::new(connection).read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let answer = match obey(mock, &words) {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    let mut connection = connection;
    writeln!(connection, "{answer}")?;
    Ok(())
}

fn obey(mock: &Mock, words: &[&str]) -> Result<()> {
    match words {
        ["topic", name, partitions] => mock.create_topic(name, partitions.parse()?, 1)?,
        ["fail", api, count, code] => {
            let errors = vec![error(code.parse()?)?; count.parse()?];
            mock.request_errors(key(api)?, &errors);
        }
        ["rtt", millis] => {
            mock.broker_round_trip_time(BROKER, Duration::from_millis(millis.parse()?))?;
        }
        ["down"] => mock.broker_down(BROKER)?,
        ["up"] => mock.broker_up(BROKER)?,
        _ => bail!("there is no such command: {}", words.join(" ")),
    }
    Ok(())
}

fn key(api: &str) -> Result<RDKafkaApiKey> {
    Ok(match api {
        "produce" => RDKafkaApiKey::Produce,
        "fetch" => RDKafkaApiKey::Fetch,
        "commit" => RDKafkaApiKey::OffsetCommit,
        _ => bail!("there is no such request: {api}"),
    })
}

/// Those that tests provoke.
fn error(code: i32) -> Result<RDKafkaRespErr> {
    use RDKafkaRespErr as Error;
    let known = [
        Error::RD_KAFKA_RESP_ERR__TRANSPORT,
        Error::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
        Error::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        Error::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        Error::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        Error::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        Error::RD_KAFKA_RESP_ERR_POLICY_VIOLATION,
    ];
    let found = known.into_iter().find(|known| *known as i32 == code);
    found.with_context(|| format!("tests provoke no error {code}"))
}
