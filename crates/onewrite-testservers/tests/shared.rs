//! The servers of the test run.

use std::{
    io,
    net::{Ipv4Addr, TcpStream},
};

use onewrite_testservers::{
    shared_kafka, shared_mariadb, shared_nats, shared_postgres, shared_rabbitmq, shared_redis,
    unique,
};

#[tokio::test]
async fn all_tests_share_one_postgres() -> io::Result<()> {
    let (one, two) = tokio::try_join!(shared_postgres(), shared_postgres())?;
    assert_eq!(one.server_url(), two.server_url());
    let database = unique("shared");
    one.create_database(&database).await?;
    assert_eq!(two.psql(&database, "SELECT current_database()").await?.trim(), database);
    Ok(())
}

#[tokio::test]
async fn all_tests_share_one_mariadb() -> io::Result<()> {
    let (one, two) = tokio::try_join!(shared_mariadb(), shared_mariadb())?;
    assert_eq!(one.server_url(), two.server_url());
    let database = unique("shared");
    one.create_database(&database).await?;
    assert_eq!(two.sql(&database, "SELECT DATABASE()").await?.trim(), database);
    Ok(())
}

#[tokio::test]
async fn all_tests_share_one_nats() -> io::Result<()> {
    let (one, two) = tokio::try_join!(shared_nats(), shared_nats())?;
    assert_eq!(one.url(), two.url());
    TcpStream::connect((Ipv4Addr::LOCALHOST, one.port()))?;
    Ok(())
}

#[tokio::test]
async fn all_tests_share_one_rabbitmq() -> io::Result<()> {
    let (one, two) = tokio::try_join!(shared_rabbitmq(), shared_rabbitmq())?;
    assert_eq!(one.url(), two.url());
    TcpStream::connect((Ipv4Addr::LOCALHOST, one.port()))?;
    Ok(())
}

#[tokio::test]
async fn all_tests_share_one_redis() -> io::Result<()> {
    let (one, two) = tokio::try_join!(shared_redis(), shared_redis())?;
    assert_eq!(one.url(), two.url());
    TcpStream::connect((Ipv4Addr::LOCALHOST, one.port()))?;
    Ok(())
}

#[tokio::test]
async fn all_tests_share_one_kafka() -> io::Result<()> {
    let (one, two) = tokio::try_join!(shared_kafka(), shared_kafka())?;
    assert_eq!(one.test_url(), two.test_url());
    TcpStream::connect((Ipv4Addr::LOCALHOST, one.port()))?;
    Ok(())
}
