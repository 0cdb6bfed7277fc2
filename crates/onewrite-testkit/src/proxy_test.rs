//! Each fault on real sockets.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::timeout,
};

use super::{Fault, Proxy};

/// Long enough for anything that is going to happen, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server that echoes, and tells what it has received.
#[derive(Default)]
struct Echo {
    received: AtomicU64,
    changed: Notify,
}

impl Echo {
    async fn start() -> (Arc<Self>, Proxy) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
        let echo = Arc::<Self>::default();
        tokio::spawn({
            let echo = Arc::clone(&echo);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(Arc::clone(&echo).serve(stream));
                }
            }
        });
        (echo, proxy)
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            self.received.fetch_add(read as u64, Ordering::SeqCst);
            self.changed.notify_one();
            if stream.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }

    async fn has_received(&self, bytes: u64) {
        let enough = async {
            while self.received.load(Ordering::SeqCst) < bytes {
                self.changed.notified().await;
            }
        };
        timeout(PATIENCE, enough).await.expect("the server receives");
    }
}

async fn ask(stream: &mut TcpStream, question: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(question).await?;
    let mut answer = vec![0; question.len()];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("an answer or an end")?;
    Ok(answer)
}

/// Everything that still arrives before the connection ends.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A cut connection may end in a reset: what arrived before counts.
    let _end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end");
    rest
}

#[tokio::test]
async fn passes_both_ways_and_counts() {
    let (_echo, proxy) = Echo::start().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(ask(&mut stream, b"hello").await.unwrap(), b"hello");
    assert_eq!((proxy.connections(), proxy.bytes()), (1, (5, 5)));
}

#[tokio::test]
async fn refuses_new_connections_and_cuts_open_ones() {
    let (echo, proxy) = Echo::start().await;
    let mut open = TcpStream::connect(proxy.addr()).await.unwrap();
    ask(&mut open, b"hello").await.unwrap();
    proxy.set(Fault::Refuse);
    assert!(rest(&mut open).await.is_empty());
    let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(rest(&mut new).await.is_empty());
    assert_eq!(echo.received.load(Ordering::SeqCst), 5);
    proxy.set(Fault::Pass);
    let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(ask(&mut new, b"again").await.unwrap(), b"again");
}

#[tokio::test]
async fn cuts_after_so_many_bytes() {
    let (echo, proxy) = Echo::start().await;
    proxy.set(Fault::Cut { after_bytes: 3 });
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    assert!(rest(&mut stream).await.len() <= 3);
    echo.has_received(3).await;
    assert_eq!(proxy.bytes().0, 3);
}

#[tokio::test]
async fn drops_replies_after_the_request_has_passed() {
    let (echo, proxy) = Echo::start().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    ask(&mut stream, b"one").await.unwrap();
    proxy.set(Fault::DropReplies);
    stream.write_all(b"two").await.unwrap();
    assert!(rest(&mut stream).await.is_empty());
    echo.has_received(6).await;
}

#[tokio::test]
async fn delays_each_direction() {
    let (_echo, proxy) = Echo::start().await;
    proxy.set(Fault::Delay(Duration::from_millis(30)));
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let begun = Instant::now();
    assert_eq!(ask(&mut stream, b"hello").await.unwrap(), b"hello");
    assert!(begun.elapsed() >= Duration::from_millis(60));
}

#[tokio::test]
async fn a_blackhole_holds_everything_until_it_ends() {
    let (echo, proxy) = Echo::start().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    ask(&mut stream, b"one").await.unwrap();
    proxy.set(Fault::Blackhole);
    stream.write_all(b"two").await.unwrap();
    let mut answer = [0; 3];
    let early = timeout(Duration::from_millis(50), stream.read_exact(&mut answer)).await;
    assert!(early.is_err(), "nothing passes");
    assert_eq!(echo.received.load(Ordering::SeqCst), 3);
    proxy.set(Fault::Pass);
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"two");
}

#[tokio::test]
async fn stops_when_dropped() {
    let (_echo, proxy) = Echo::start().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    ask(&mut stream, b"hello").await.unwrap();
    let addr = proxy.addr();
    drop(proxy);
    assert!(rest(&mut stream).await.is_empty());
    assert!(TcpStream::connect(addr).await.is_err());
}
