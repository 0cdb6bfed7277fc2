//! A NATS server of its own for each test: most of them disturb it.

use std::net::{Ipv4Addr, SocketAddr};

use onewrite_testkit::server;

/// A running server with JetStream. It dies with this value.
pub(crate) struct Nats(server::Nats);

impl Nats {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// A server with this added to its configuration.
    pub(crate) async fn start_with(config: &str) -> Self {
        Self(server::Nats::start_with(config).await.expect("a NATS server starts"))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.0.port()).into()
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&self) {
        self.0.kill();
    }

    /// Starts it again with the same data.
    pub(crate) async fn restart(&self) {
        self.0.restart().await.expect("the NATS server starts again");
    }
}
