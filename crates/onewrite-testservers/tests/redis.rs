//! A private Redis server.

use std::{
    io,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
};

use onewrite_testservers::Redis;

/// Sends commands, as words with spaces between, and returns all that is answered.
fn ask(port: u16, commands: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.write_all(commands.replace('\n', "\r\n").as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test]
async fn redis_keeps_what_it_answered_through_a_kill() -> io::Result<()> {
    let server = Redis::start().await?;
    let (port, folder) = (server.port(), server.folder().to_path_buf());
    assert_eq!(server.url(), format!("redis://127.0.0.1:{port}"));
    assert_eq!(server.address().url(), server.url());
    assert_eq!(ask(port, "SET kept 7\n")?, "+OK\r\n");
    server.kill();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    server.restart().await?;
    server.restart().await?;
    assert_eq!(ask(port, "GET kept\n")?, "$1\r\n7\r\n");
    drop(server);
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn redis_is_configured_as_asked_and_syncs_what_it_answers() -> io::Result<()> {
    let server = Redis::start_with(&["--maxmemory", "20mb", "--databases", "3"]).await?;
    let said = ask(server.port(), "CONFIG GET appendfsync\nCONFIG GET maxmemory\nSELECT 3\n")?;
    assert!(said.contains("always") && said.contains("20971520"), "{said}");
    assert!(said.contains("out of range"), "{said}");
    Ok(())
}

/// The control for what is kept: without its file nothing is.
#[tokio::test]
async fn redis_forgets_where_it_is_told_to() -> io::Result<()> {
    let server = Redis::start_with(&["--appendonly", "no"]).await?;
    assert_eq!(ask(server.port(), "SET kept 7\n")?, "+OK\r\n");
    server.restart().await?;
    assert_eq!(ask(server.port(), "GET kept\n")?, "$-1\r\n");
    Ok(())
}

#[tokio::test]
async fn redis_says_why_it_does_not_start() {
    let error = Redis::start_with(&["--no-such-setting", "1"]).await.unwrap_err().to_string();
    assert!(error.contains("no-such-setting"), "{error}");
}
