//! A private PostgreSQL server.

use std::{
    io,
    net::{Ipv4Addr, TcpStream},
    process::Command,
};

use onewrite_testservers::Postgres;

#[tokio::test]
async fn postgres_starts_as_it_is_asked_to() -> io::Result<()> {
    let server = Postgres::start_with(&[("cluster_name", "it's me")]).await?;
    server.create_database("sh\"op").await?;
    let ask = "SHOW wal_level; SHOW max_prepared_transactions; SHOW fsync; SHOW cluster_name;";
    assert_eq!(server.psql("sh\"op", ask).await?, "logical\n64\non\nit's me\n");
    let (folder, port) = (server.folder().to_path_buf(), server.port());
    drop(server);
    assert!(!folder.exists());
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    Ok(())
}

#[tokio::test]
async fn postgres_refuses_a_wrong_password() -> io::Result<()> {
    let server = Postgres::start().await?;
    let psql = |url: &str| Command::new("psql").args(["-X", "-w", "-c", "SELECT 1", url]).output();
    assert!(psql(&server.url("postgres"))?.status.success());
    let refused = psql(&format!("postgres://postgres:wrong@127.0.0.1:{}/postgres", server.port()))?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("password authentication failed"), "{said}");
    Ok(())
}

#[tokio::test]
async fn postgres_keeps_what_was_committed_through_a_kill() -> io::Result<()> {
    let server = Postgres::start().await?;
    let port = server.port();
    server.psql("postgres", "CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)").await?;
    server.kill();
    assert!(server.psql("postgres", "SELECT 1").await.is_err());
    for _ in 0..2 {
        server.restart().await?;
        assert_eq!(server.psql("postgres", "SELECT id FROM kept").await?, "7\n");
    }
    server.stop().await?;
    server.stop().await?;
    server.restart().await?;
    assert_eq!(server.psql("postgres", "SELECT id FROM kept").await?, "7\n");
    assert_eq!(server.port(), port);
    Ok(())
}

#[tokio::test]
async fn postgres_is_followed_by_a_standby_that_can_be_promoted() -> io::Result<()> {
    let primary = Postgres::start().await?;
    let standby = primary.standby().await?;
    primary.psql("postgres", "CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)").await?;
    let end = primary.psql("postgres", "SELECT pg_current_wal_lsn()").await?;
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", end.trim());
    for attempt in 0.. {
        assert!(attempt < 1_000, "the standby does not follow");
        if standby.psql("postgres", &replayed).await? == "t\n" {
            break;
        }
    }
    let insert = "INSERT INTO kept VALUES (8)";
    let refused = standby.psql("postgres", insert).await.unwrap_err().to_string();
    assert!(refused.contains("read-only"), "{refused}");
    primary.kill();
    standby.promote().await?;
    standby.psql("postgres", insert).await?;
    assert_eq!(standby.psql("postgres", "SELECT id FROM kept").await?, "7\n8\n");
    Ok(())
}

#[tokio::test]
async fn postgres_says_why_it_does_not_start() {
    let error = Postgres::start_with(&[("no_such_setting", "1")]).await.unwrap_err().to_string();
    assert!(error.contains("unrecognized configuration parameter"), "{error}");
}
