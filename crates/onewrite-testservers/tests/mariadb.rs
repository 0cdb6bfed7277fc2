//! A private MariaDB server.

use std::{
    io,
    net::{Ipv4Addr, TcpStream},
};

use onewrite_testservers::Mariadb;

#[tokio::test]
async fn mariadb_keeps_what_was_committed_through_a_kill() -> io::Result<()> {
    let server = Mariadb::start().await?;
    let (address, folder) = (server.address().clone(), server.folder().to_path_buf());
    address.create_database("kept").await?;
    assert_eq!(address.url("kept"), format!("{}/kept", address.server_url()));
    address.sql("kept", "CREATE TABLE row (n INT); INSERT INTO row VALUES (7)").await?;
    server.kill();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).is_err());
    assert!(address.sql("kept", "SELECT 1").await.is_err());
    server.restart().await?;
    assert_eq!(address.sql("kept", "SELECT n FROM row").await?.trim(), "7");
    drop(server);
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn mariadb_is_configured_as_asked_and_syncs_its_commits() -> io::Result<()> {
    let server = Mariadb::start_with(&["--log-bin", "--server-id=7"]).await?;
    let asked = "SELECT @@log_bin, @@server_id, @@innodb_flush_log_at_trx_commit, @@bind_address";
    assert_eq!(server.address().sql("", asked).await?.trim(), "1\t7\t1\t127.0.0.1");
    Ok(())
}

#[tokio::test]
async fn mariadb_says_why_it_does_not_start() {
    let error = Mariadb::start_with(&["--no-such-setting"]).await.unwrap_err().to_string();
    assert!(error.contains("no-such-setting"), "{error}");
}
