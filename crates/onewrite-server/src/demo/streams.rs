//! The streams of a run at a broker: one for each service that receives.

use async_nats::{
    ConnectOptions,
    jetstream::{self, context::DeleteStreamErrorKind},
};
use onewrite::{
    Code, Error, Result, nats,
    nats::{NatsSink, NatsSinkOptions},
    redis,
    redis::{RedisSink, RedisSinkOptions},
};
use onewrite_shop::Role;

use super::{
    removal::{self, Rest},
    stage::{Run, named},
};
use crate::backends::scheme;

/// What a killed receiver had in its hands is delivered again after this time.
const ACK_WAIT: &str = "2s";

/// Kafka delivers what was not committed without waiting; this is when a gap is announced there.
const GAP_PATIENCE: &str = "2s";

pub(crate) struct Streams {
    urls: Vec<(Role, String)>,
    /// Those that were begun with: there may be such a stream.
    made: Vec<Stream>,
}

/// A stream at one of the brokers.
enum Stream {
    Nats(nats::StreamOptions),
    Redis(redis::StreamOptions),
    #[cfg(feature = "kafka")]
    Kafka(onewrite::kafka::StreamOptions),
}

impl Streams {
    /// The streams of `run` at the server of `url`.
    pub(crate) fn at(url: &str, run: &Run) -> Self {
        let stream = |role: Role| {
            let url = named(url, &run.name(role));
            let joint = if url.contains('?') { '&' } else { '?' };
            let option = match scheme(&url) {
                "kafka" | "kafka+ssl" => format!("gap_patience={GAP_PATIENCE}"),
                _ => format!("ack_wait={ACK_WAIT}"),
            };
            (role, format!("{url}{joint}{option}"))
        };
        Self { urls: Role::ALL.map(stream).to_vec(), made: Vec::new() }
    }

    /// Creates them.
    pub(crate) async fn create(&mut self) -> Result<()> {
        for (_, url) in &self.urls {
            #[cfg(feature = "kafka")]
            if scheme(url).starts_with("kafka") {
                use onewrite::kafka::{KafkaSink, KafkaSinkOptions};
                let options = KafkaSinkOptions::from_url(url)?;
                self.made.push(Stream::Kafka(options.stream.clone()));
                KafkaSink::connect(options).await?;
                continue;
            }
            if scheme(url).starts_with("redis") {
                let options = RedisSinkOptions::from_url(url)?;
                self.made.push(Stream::Redis(options.stream.clone()));
                RedisSink::connect(options).await?;
                continue;
            }
            let options = NatsSinkOptions::from_url(url)?;
            // Looked at first: where nobody answers there is nothing to remove.
            connect(&options.stream).await?;
            self.made.push(Stream::Nats(options.stream.clone()));
            NatsSink::connect(options).await?;
        }
        Ok(())
    }

    pub(crate) fn url(&self, role: Role) -> &str {
        self.urls.iter().find(|(known, _)| *known == role).map_or("", |(_, url)| url)
    }

    /// Deletes those that were made.
    pub(crate) async fn delete(&self) -> Rest {
        removal::each(&self.made, delete, command).await
    }

    /// Those that were made, when they are to stay.
    pub(crate) fn kept(&self) -> Rest {
        Rest { commands: self.made.iter().map(command).collect(), why: None }
    }
}

async fn connect(stream: &nats::StreamOptions) -> Result<async_nats::Client> {
    let mut options = ConnectOptions::new();
    if let Some((user, password)) = stream.user.clone() {
        options = options.user_and_password(user, password);
    }
    if let Some(token) = stream.token.clone() {
        options = options.token(token);
    }
    let servers = stream.servers.clone();
    options.connect(servers).await.map_err(|error| {
        let servers = stream.servers.join(", ");
        Error::new(Code::SinkUnreachable, format!("connect to NATS at {servers}"))
            .with_source(error)
    })
}

async fn delete(stream: &Stream) -> Result<()> {
    let stream = match stream {
        Stream::Redis(stream) => return redis::remove(stream).await,
        #[cfg(feature = "kafka")]
        Stream::Kafka(stream) => return onewrite::kafka::remove(stream).await,
        Stream::Nats(stream) => stream,
    };
    match jetstream::new(connect(stream).await?).delete_stream(&*stream.stream).await {
        Err(error) if !is_missing(error.kind()) => {
            let what = format!("delete the stream `{}`", stream.stream);
            Err(Error::new(Code::SinkUnreachable, what).with_source(error))
        }
        _ => Ok(()),
    }
}

/// What deletes one by hand.
fn command(stream: &Stream) -> String {
    match stream {
        Stream::Nats(stream) => format!("nats stream rm {} --force", stream.stream),
        #[cfg(feature = "kafka")]
        Stream::Kafka(stream) => {
            let topic = &stream.stream;
            format!("kafka-topics.sh --bootstrap-server … --delete --topic '{topic}(\\.gaps)?'")
        }
        Stream::Redis(stream) => {
            format!("redis-cli --scan --pattern '*{}*' | xargs redis-cli DEL", stream.stream)
        }
    }
}

fn is_missing(kind: DeleteStreamErrorKind) -> bool {
    matches!(kind, DeleteStreamErrorKind::JetStream(error)
        if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND)
}
