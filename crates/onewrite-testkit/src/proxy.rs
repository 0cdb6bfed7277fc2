//! A TCP proxy that stands between real processes and disturbs their connections.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::sleep,
};

/// How the proxy treats its connections, those already open included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Everything passes.
    Pass,
    /// New connections are accepted and closed at once; open ones are cut.
    Refuse,
    /// A connection is cut, in both directions, once so many bytes have passed in either.
    Cut {
        /// Counted from the start of the connection, for each direction.
        after_bytes: u64,
    },
    /// Requests pass; the first reply is swallowed and the connection is cut.
    DropReplies,
    /// Every chunk of bytes waits so long in each direction.
    Delay(Duration),
    /// Connections stay open and nothing passes.
    Blackhole,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

/// A proxy in front of one address. It stops, and cuts its connections, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    fault: watch::Sender<Fault>,
    counters: Arc<Counters>,
    // Dropping the set ends the listener, and with it every connection.
    _listener: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free local port in front of `upstream`.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let fault = watch::Sender::new(Fault::Pass);
        let counters = Arc::<Counters>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(listener, upstream, fault.subscribe(), Arc::clone(&counters)));
        Ok(Self { addr, fault, counters, _listener: tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes how connections are treated, from the next byte on.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// How many connections were accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::Relaxed)
    }

    /// How many bytes were passed on: to the upstream, and back.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.counters.bytes_up), load(&self.counters.bytes_down))
    }
}

async fn listen(
    listener: TcpListener,
    upstream: SocketAddr,
    fault: watch::Receiver<Fault>,
    counters: Arc<Counters>,
) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        counters.connections.fetch_add(1, Ordering::Relaxed);
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(client, upstream, fault.clone(), Arc::clone(&counters)));
    }
}

/// Serves one connection; when either direction ends by a fault, both are cut.
async fn serve(
    client: TcpStream,
    upstream: SocketAddr,
    mut fault: watch::Receiver<Fault>,
    counters: Arc<Counters>,
) {
    if *fault.borrow() == Fault::Refuse {
        return;
    }
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    // Small requests must not wait for one another's acknowledgement.
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return;
    }
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let up = pump(client_read, server_write, fault.clone(), &counters.bytes_up, false);
    let down = pump(server_read, client_write, fault.clone(), &counters.bytes_down, true);
    let both = async {
        tokio::pin!(up, down);
        // An orderly end of one direction leaves the other open; anything else cuts both.
        tokio::select! {
            end = &mut up => if end == End::Finished { down.await; },
            end = &mut down => if end == End::Finished { up.await; },
        }
    };
    let refused = async {
        if fault.wait_for(|fault| *fault == Fault::Refuse).await.is_err() {
            // The proxy is gone: so is this task, with its listener.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = both => {}
        () = refused => {}
    }
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Finished,
    Cut,
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
    passed: &AtomicU64,
    is_reply: bool,
) -> End {
    let mut buffer = vec![0; 16 * 1024];
    let mut total = 0_u64;
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) => {
                return if to.shutdown().await.is_ok() { End::Finished } else { End::Cut };
            }
            Ok(read) => read,
            Err(_) => return End::Cut,
        };
        if fault.wait_for(|fault| *fault != Fault::Blackhole).await.is_err() {
            return End::Cut;
        }
        let now = *fault.borrow();
        let (allowed, cut) = match now {
            Fault::DropReplies if is_reply => (0, true),
            Fault::Refuse => (0, true),
            Fault::Cut { after_bytes } => {
                let left = usize::try_from(after_bytes.saturating_sub(total)).unwrap_or(usize::MAX);
                (read.min(left), read >= left)
            }
            Fault::Delay(pause) => {
                sleep(pause).await;
                (read, false)
            }
            _ => (read, false),
        };
        if to.write_all(&buffer[..allowed]).await.is_err() {
            return End::Cut;
        }
        total += allowed as u64;
        passed.fetch_add(allowed as u64, Ordering::Relaxed);
        if cut {
            return End::Cut;
        }
    }
}

#[cfg(test)]
#[path = "proxy_test.rs"]
mod proxy_test;
