//! A private NATS server.

use std::{
    fs, io,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream},
};

use onewrite_testservers::Nats;

/// Sends a request to JetStream, as a client does, and returns the answer.
fn ask(port: u16, subject: &str, body: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let connect = "CONNECT {\"verbose\":false,\"headers\":false}\r\nSUB answer 1\r\n";
    let size = body.len();
    write!(stream, "{connect}PUB $JS.API.{subject} answer {size}\r\n{body}\r\n")?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next().transpose()? {
        if line.starts_with("MSG answer") {
            return lines.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

#[tokio::test]
async fn nats_keeps_its_streams_through_a_kill() -> io::Result<()> {
    let server = Nats::start().await?;
    let (port, folder) = (server.port(), server.folder().to_path_buf());
    assert_eq!(server.url(), format!("nats://127.0.0.1:{port}"));
    let stream = "{\"name\":\"kept\",\"subjects\":[\"kept.>\"]}";
    let made = ask(port, "STREAM.CREATE.kept", stream)?;
    assert!(made.contains("\"did_create\":true"), "{made}");
    server.kill();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    server.restart().await?;
    server.restart().await?;
    let info = ask(port, "STREAM.INFO.kept", "")?;
    assert!(info.contains("\"name\":\"kept\""), "{info}");
    server.stop().await?;
    server.restart().await?;
    drop(server);
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn nats_is_configured_as_asked() -> io::Result<()> {
    let server = Nats::start_with("max_payload: 4096").await?;
    let mut greeting = String::new();
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port()))?;
    BufReader::new(stream).read_line(&mut greeting)?;
    assert!(greeting.contains("\"max_payload\":4096"), "{greeting}");
    assert!(fs::exists(server.folder().join("log"))?);
    Ok(())
}

#[tokio::test]
async fn nats_says_why_it_does_not_start() {
    let error = Nats::start_with("no_such_setting: 1").await.unwrap_err().to_string();
    assert!(error.contains("unknown field"), "{error}");
}
