//! A private RabbitMQ server.

use std::{
    io,
    net::{Ipv4Addr, TcpStream},
};

use onewrite_testservers::Rabbitmq;

#[tokio::test]
async fn rabbitmq_keeps_its_data_through_a_kill() -> io::Result<()> {
    let server = Rabbitmq::start().await?;
    let (port, folder) = (server.port(), server.folder().to_path_buf());
    assert_eq!(server.url(), format!("amqp://127.0.0.1:{port}"));
    server.ctl(&["add_vhost", "kept"]).await?;
    server.kill();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    server.restart().await?;
    assert!(server.ctl(&["list_vhosts"]).await?.contains("kept"));
    let refused = server.ctl(&["no_such_command"]).await.unwrap_err().to_string();
    assert!(refused.contains("no_such_command"), "{refused}");
    drop(server);
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn rabbitmq_says_why_it_does_not_start() {
    let error = Rabbitmq::start_with("no_such_setting = 1\n").await.unwrap_err().to_string();
    assert!(error.contains("failed_to_prepare_configuration"), "{error}");
}
