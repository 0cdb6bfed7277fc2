//! Where connections come in: how many, for how long, and how they end.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use onewrite::Shutdown;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::handshakes::Handshakes;

/// Connections that are open at once. The others wait with the kernel, and cost nothing here.
const CONNECTIONS_MAX: usize = 4_096;
/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How long the head of a request may take. It bounds idle connections as well: hyper starts this clock when
/// the connection opens and again as soon as it falls idle (`State::idle` has the next head read, and
/// `Conn::read_head` starts it before a byte came).
const HEAD_MAX: Duration = Duration::from_secs(30);
/// The pause after the system refused a connection: it lacks files or memory, and asking on frees none.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Answers requests until the shutdown; those that were begun are answered, for as long as `patience`.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    routes: Router,
    shutdown: &Shutdown,
    patience: Duration,
) {
    // Without a state left to fill in, the routes need not be made anew for every request.
    let routes: Router = routes.with_state(());
    let tls = tls.map(|tls| Tls { acceptor: TlsAcceptor::from(tls), failed: Arc::default() });
    let mut open = accept(listener, tls, routes, shutdown, CONNECTIONS_MAX).await;
    let drained = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(patience, drained).await.is_err() {
        tracing::warn!(connections = open.len(), "the shutdown cuts off connections in use");
    }
    // What is still open ends here, with the set that holds it.
}

/// How connections are greeted, and which could not be.
#[derive(Clone)]
struct Tls {
    acceptor: TlsAcceptor,
    failed: Arc<Handshakes>,
}

/// Lets in at most `at_most` connections at once until the shutdown; returns those that are open.
async fn accept(
    listener: TcpListener,
    tls: Option<Tls>,
    routes: Router,
    shutdown: &Shutdown,
    at_most: usize,
) -> JoinSet<()> {
    let mut open = JoinSet::new();
    let mut ends = pin!(shutdown.begun());
    loop {
        let accepted = tokio::select! {
            () = &mut ends => return open,
            Some(_) = open.join_next() => continue,
            // Never accepted first and held back then: that would take a file of this process.
            accepted = listener.accept(), if open.len() < at_most => accepted,
        };
        match accepted {
            Ok(accepted) => {
                open.spawn(welcome(accepted, tls.clone(), routes.clone(), shutdown.clone()));
            }
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted; trying again");
                tokio::select! {
                    () = &mut ends => return open,
                    () = tokio::time::sleep(REFUSED_PAUSE) => {}
                }
            }
        }
    }
}

/// Whether a client went before it was let in: the next one is not concerned.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves one connection to its end. A certificate that its client showed was verified, and that is all: who
/// may do what is said by tokens.
async fn welcome(
    (stream, peer): (TcpStream, SocketAddr),
    tls: Option<Tls>,
    routes: Router,
    shutdown: Shutdown,
) {
    // Answers are whole when they are written; a system that cannot hurry sends them all the same.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return answer(stream, routes, &shutdown).await };
    let greeted = tokio::select! {
        greeted = tokio::time::timeout(HANDSHAKE_MAX, tls.acceptor.accept(stream)) => greeted,
        // Nothing was asked yet.
        () = shutdown.begun() => return,
    };
    match greeted {
        Ok(Ok(stream)) => answer(stream, routes, &shutdown).await,
        Ok(Err(error)) => tls.failed.failed(peer, &error),
        Err(_) => tls.failed.failed(peer, &"it took too long"),
    }
}

/// Answers the requests of one connection. After the shutdown began, the one in flight is the last; a connection
/// without one is closed.
async fn answer<S>(stream: S, routes: Router, shutdown: &Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    let serving = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.begun() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use onewrite_testkit::certificates::Certificates;
    use rustls::pki_types::ServerName;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Notify,
        task::JoinHandle,
    };

    use super::*;
    use crate::serve::tls;

    /// Longer than any drain here takes, and shorter than every limit that would end a connection anyway.
    const SOON: Duration = Duration::from_secs(5);
    const LONG: Duration = Duration::from_secs(3_600);

    #[derive(Clone, Default)]
    struct Gate {
        entered: Arc<Notify>,
        released: Arc<Notify>,
    }

    /// `/` is answered at once, `/slow` when the gate is released.
    fn routes(gate: &Gate) -> Router {
        let gate = gate.clone();
        let slow = move || async move {
            gate.entered.notify_one();
            gate.released.notified().await;
            "answered"
        };
        Router::new().route("/", get(|| std::future::ready("answered"))).route("/slow", get(slow))
    }

    struct Door {
        address: SocketAddr,
        shutdown: Shutdown,
        serving: JoinHandle<()>,
    }

    impl Door {
        async fn open(tls: Option<Arc<ServerConfig>>, gate: &Gate, patience: Duration) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::default());
            let (routes, ends) = (routes(gate), shutdown.clone());
            let serving =
                tokio::spawn(async move { serve(listener, tls, routes, &ends, patience).await });
            Self { address, shutdown, serving }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        async fn drain(self) {
            self.shutdown.begin();
            let drained = tokio::time::timeout(SOON, self.serving).await;
            drained.expect("something holds the drain").unwrap();
        }
    }

    async fn ask(client: &mut (impl AsyncWrite + Unpin), path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        client.flush().await.unwrap();
    }

    async fn read(client: &mut (impl AsyncRead + Unpin)) -> String {
        let mut read = Vec::new();
        while !read.ends_with(b"answered") {
            assert_ne!(client.read_buf(&mut read).await.unwrap(), 0, "closed without an answer");
        }
        String::from_utf8(read).unwrap()
    }

    #[tokio::test]
    async fn an_idle_connection_does_not_hold_the_drain() {
        let door = Door::open(None, &Gate::default(), LONG).await;
        // FIFO: who is answered last was let in last.
        let (mut silent, mut client) = (door.connect().await, door.connect().await);
        for _ in 0..2 {
            ask(&mut client, "/").await;
            assert!(read(&mut client).await.starts_with("HTTP/1.1 200"));
        }
        door.drain().await;
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_request_in_flight_is_answered_to_its_end() {
        let gate = Gate::default();
        let door = Door::open(None, &gate, LONG).await;
        let mut client = door.connect().await;
        ask(&mut client, "/slow").await;
        gate.entered.notified().await;
        door.shutdown.begin();
        // Until nobody is let in any more.
        while TcpStream::connect(door.address).await.is_ok() {}
        assert!(!door.serving.is_finished());
        gate.released.notify_one();
        let answer = read(&mut client).await;
        assert!(answer.contains("connection: close"), "{answer}");
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        door.drain().await;
    }

    #[tokio::test]
    async fn patience_ends() {
        let gate = Gate::default();
        let door = Door::open(None, &gate, Duration::ZERO).await;
        let mut client = door.connect().await;
        ask(&mut client, "/slow").await;
        gate.entered.notified().await;
        door.drain().await;
        assert!(!matches!(client.read(&mut [0]).await, Ok(1..)));
    }

    #[tokio::test]
    async fn who_is_one_too_many_waits_outside() {
        let gate = Gate::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::default());
        let (routes, ends) = (routes(&gate), shutdown.clone());
        let accepting = tokio::spawn(async move { accept(listener, None, routes, &ends, 1).await });
        let mut first = TcpStream::connect(address).await.unwrap();
        ask(&mut first, "/slow").await;
        gate.entered.notified().await;
        let mut second = TcpStream::connect(address).await.unwrap();
        ask(&mut second, "/").await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(second.try_read(&mut [0]).is_err(), "answered beside the first");
        gate.released.notify_one();
        read(&mut first).await;
        drop(first);
        read(&mut second).await;
        shutdown.begin();
        accepting.await.unwrap();
    }

    #[tokio::test]
    async fn an_unfinished_handshake_holds_nobody() {
        let certificates = Certificates::make();
        let tls = tls::tests::server(&certificates, false);
        let door = Door::open(Some(tls), &Gate::default(), LONG).await;
        let (mut silent, client) = (door.connect().await, door.connect().await);
        let name = ServerName::try_from("localhost").unwrap();
        let connector = tls::tests::client(&certificates, false);
        let mut client = connector.connect(name, client).await.unwrap();
        ask(&mut client, "/").await;
        read(&mut client).await;
        door.drain().await;
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    }
}
