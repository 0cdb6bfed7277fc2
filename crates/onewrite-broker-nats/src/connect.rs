//! One connection to the servers. It reconnects by itself, for ever.

use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, jetstream};
use onewrite_core::{Code, Error, Result};

use crate::StreamOptions;

/// The longest pause between two attempts to reconnect.
const RECONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Connects, and makes a JetStream context whose requests are bounded by the timeout.
///
/// # Errors
/// [`Code::SinkUnreachable`], or [`Code::InvalidConfig`] when the server refuses the credentials.
pub(crate) async fn connect(
    options: &StreamOptions,
    name: &str,
) -> Result<(Client, jetstream::Context)> {
    let mut connecting = ConnectOptions::new()
        .name(name)
        .connection_timeout(options.timeout)
        .request_timeout(Some(options.timeout))
        .max_reconnects(None::<usize>)
        // Subjects are made of checked names and numbers.
        .skip_subject_validation(true)
        .reconnect_delay_callback(|attempts| {
            let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
            Duration::from_millis(50).saturating_mul(attempts).min(RECONNECT_WITHIN)
        })
        .event_callback(|event| async move { tell(&event) });
    if let Some((user, password)) = &options.user {
        connecting = connecting.user_and_password(user.clone(), password.clone());
    }
    if let Some(token) = &options.token {
        connecting = connecting.token(token.clone());
    }
    let servers = options.servers.join(",");
    let client = connecting
        .connect(options.servers.clone())
        .await
        .map_err(|error| refused(&servers, error))?;
    let context =
        jetstream::context::ContextBuilder::new().timeout(options.timeout).build(client.clone());
    Ok((client, context))
}

fn tell(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to a NATS server"),
        Event::Disconnected => tracing::warn!("the connection to the NATS server is gone"),
        event => tracing::debug!(%event, "NATS connection"),
    }
}

fn refused(servers: &str, error: async_nats::ConnectError) -> Error {
    let (code, what) = match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => (
            Code::InvalidConfig,
            "refuses these credentials: give its URL a valid `user:password@` or `token@`",
        ),
        ConnectErrorKind::ServerParse => (Code::InvalidConfig, "is no address of a NATS server"),
        ConnectErrorKind::Tls => (Code::SinkUnreachable, "does not agree on TLS"),
        _ => (Code::SinkUnreachable, "cannot be connected to"),
    };
    Error::new(code, format!("{servers} {what}")).with_source(error)
}
