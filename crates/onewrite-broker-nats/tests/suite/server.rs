//! A NATS server of its own for each test.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

/// A running server. It dies with this value.
pub(crate) struct Nats {
    address: SocketAddr,
    data: TempDir,
    more: Vec<String>,
    child: Child,
}

impl Nats {
    /// A server with JetStream.
    pub(crate) async fn start() -> Self {
        Self::start_with(true, &[]).await
    }

    /// A server with these options.
    pub(crate) async fn start_with(jetstream: bool, more: &[&str]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let data = tempfile::tempdir().unwrap();
        let mut more: Vec<String> = more.iter().map(ToString::to_string).collect();
        if jetstream {
            more.extend(["-js".into(), "-sd".into(), data.path().display().to_string()]);
        }
        let child = spawn(address, &more);
        let server = Self { address, data, more, child };
        server.is_up().await;
        server
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills it with SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts it again with the same data.
    pub(crate) async fn restart(&mut self) {
        assert!(self.data.path().exists());
        self.child = spawn(self.address, &self.more);
        self.is_up().await;
    }

    async fn is_up(&self) {
        for _ in 0..1000 {
            if TcpStream::connect(self.address).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the NATS server does not start");
    }
}

fn spawn(address: SocketAddr, more: &[String]) -> Child {
    Command::new("nats-server")
        .args(["-a", "127.0.0.1", "-p", &address.port().to_string()])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("nats-server is installed (package `nats-server`)")
}
