//! The streams of a run on NATS: one for each service that receives.

use async_nats::{
    ConnectOptions,
    jetstream::{self, context::DeleteStreamErrorKind},
};
use onewrite::{
    Code, Error, Result,
    nats::{NatsSink, NatsSinkOptions, StreamOptions},
};
use onewrite_shop::Role;

use super::stage::{Run, named};

/// What a killed receiver had in its hands is delivered again after this time.
const ACK_WAIT: &str = "2s";

pub(crate) struct Streams {
    urls: Vec<(Role, String)>,
}

impl Streams {
    /// The streams of `run` at the server of `url`.
    pub(crate) fn at(url: &str, run: &Run) -> Self {
        let stream = |role: Role| {
            let url = named(url, &run.name(role));
            let joint = if url.contains('?') { '&' } else { '?' };
            (role, format!("{url}{joint}ack_wait={ACK_WAIT}"))
        };
        Self { urls: Role::ALL.map(stream).to_vec() }
    }

    /// Creates them.
    pub(crate) async fn create(&self) -> Result<()> {
        for (_, url) in &self.urls {
            NatsSink::connect(NatsSinkOptions::from_url(url)?).await?;
        }
        Ok(())
    }

    pub(crate) fn url(&self, role: Role) -> &str {
        self.urls.iter().find(|(known, _)| *known == role).map_or("", |(_, url)| url)
    }

    /// Deletes those that exist.
    pub(crate) async fn delete(&self) -> Result<()> {
        for (_, url) in &self.urls {
            delete(&NatsSinkOptions::from_url(url)?.stream).await?;
        }
        Ok(())
    }
}

async fn delete(stream: &StreamOptions) -> Result<()> {
    let failed = |error: async_nats::Error| {
        Error::new(Code::SinkUnreachable, format!("delete the stream `{}`", stream.stream))
            .with_source(error)
    };
    let mut options = ConnectOptions::new();
    if let Some((user, password)) = stream.user.clone() {
        options = options.user_and_password(user, password);
    }
    if let Some(token) = stream.token.clone() {
        options = options.token(token);
    }
    let servers = stream.servers.clone();
    let client = options.connect(servers).await.map_err(|error| failed(error.into()))?;
    match jetstream::new(client).delete_stream(&*stream.stream).await {
        Err(error) if !is_missing(error.kind()) => Err(failed(error.into())),
        _ => Ok(()),
    }
}

fn is_missing(kind: DeleteStreamErrorKind) -> bool {
    matches!(kind, DeleteStreamErrorKind::JetStream(error)
        if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND)
}
