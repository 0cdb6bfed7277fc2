//! Servers end with the process that started them, however it ends.

use std::{
    env, future, io,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use onewrite_testservers::{Nats, Postgres};

const CHILD: &str = "ONEWRITE_TEST_ORPHANS";
const NAME: &str = "orphans::servers_end_with_a_process_that_is_killed";

#[tokio::test]
async fn servers_end_with_a_process_that_is_killed() -> io::Result<()> {
    if env::var_os(CHILD).is_some() {
        return be_the_child().await;
    }
    let mut child = Command::new(env::current_exe()?)
        .args([NAME, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().map(BufReader::new).expect("it is piped");
    let said: Vec<String> = output
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("server ").map(str::to_owned))
        .take(2)
        .collect();
    child.kill()?;
    child.wait()?;
    assert_eq!(said.len(), 2, "the child starts both servers");
    let servers = said.iter().map(|line| line.split_once(' ').expect("a port and a folder"));
    for (port, folder) in servers {
        let port: u16 = port.parse().expect("a port");
        wait_until(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
        // Whoever starts a server next clears up, another test at the same time included.
        drop(Nats::start().await?);
        wait_until(|| !Path::new(folder).exists());
    }
    Ok(())
}

async fn be_the_child() -> io::Result<()> {
    let (postgres, nats) = tokio::try_join!(Postgres::start(), Nats::start())?;
    let mut out = io::stdout();
    writeln!(out, "\nserver {} {}", postgres.port(), postgres.folder().display())?;
    writeln!(out, "server {} {}", nats.port(), nats.folder().display())?;
    out.flush()?;
    future::pending().await
}

fn wait_until(done: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("not within 10 s");
}
