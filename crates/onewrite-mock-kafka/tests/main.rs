//! The mock as its own program: what it says and what it refuses. Cargo builds the program for this test,
//! and so for every test that starts it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
};

fn ask(port: u16, line: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    writeln!(stream, "{line}").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer.trim_end().to_owned()
}

#[test]
fn commands_are_obeyed_or_refused() {
    let program = env!("CARGO_BIN_EXE_onewrite-mock-kafka");
    let mut mock = Command::new(program).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(mock.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    let ["ready", address, commands] = words[..] else { panic!("{said}") };
    assert!(TcpStream::connect(address).is_ok());
    let commands = commands.parse().unwrap();
    for line in ["topic orders 3", "fail produce 2 -195", "rtt 10", "rtt 0", "down", "up"] {
        assert_eq!(ask(commands, line), "ok", "{line}");
    }
    for line in ["topic orders many", "fail sleep 1 10", "fail produce 1 4711", "sing"] {
        assert_ne!(ask(commands, line), "ok", "{line}");
    }
    mock.kill().unwrap();
    mock.wait().unwrap();
}
