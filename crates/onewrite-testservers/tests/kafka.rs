//! A private mock of Kafka.

use std::{
    io,
    net::{Ipv4Addr, TcpStream},
};

use onewrite_testservers::Kafka;

#[tokio::test]
async fn kafka_obeys_and_is_gone_with_its_handle() -> io::Result<()> {
    let server = Kafka::start().await?;
    let address = server.address().clone();
    assert!(address.is_mock());
    assert_eq!(server.url(), format!("kafka://127.0.0.1:{}", address.port()));
    TcpStream::connect((Ipv4Addr::LOCALHOST, address.port()))?;
    address.create_topic("orders", 3).await?;
    address.command("fail produce 2 -195").await?;
    address.command("rtt 0").await?;
    let refused = address.command("jump").await.unwrap_err().to_string();
    assert!(refused.contains("jump"), "{refused}");
    drop(server);
    assert!(address.command("rtt 0").await.is_err());
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).is_err());
    Ok(())
}
