//! Ports to listen on.
//!
//! They lie below the range from which the system takes the ports of outgoing connections. A port of
//! that range could be taken while its server is down for a restart; a client that tries to reconnect
//! meanwhile could even be given it and be connected to itself.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
};

use crate::random::random;

const SPAN: u16 = 12_000;
const ATTEMPTS: usize = 20;

/// Calls `start` with a port that is free, and again with another one when the port was taken after
/// all (an error of the kind [`io::ErrorKind::AddrInUse`]).
pub(crate) fn on_a_free_one<T>(mut start: impl FnMut(u16) -> io::Result<T>) -> io::Result<T> {
    let mut taken = None;
    for _ in 0..ATTEMPTS {
        match start(free()?) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = Some(error),
            done => return done,
        }
    }
    Err(taken.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// A port of 127.0.0.1 that nobody listens at. Nothing holds it: it is another one with each call, as good
/// as always, and the system gives it to no outgoing connection.
///
/// # Errors
/// Those of listening at any port.
pub fn free() -> io::Result<u16> {
    let end = outgoing_min();
    if end > SPAN + 1_024 {
        for _ in 0..1_000 {
            let port = end - 1 - (random() % u64::from(SPAN)) as u16;
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(port);
            }
        }
    }
    // An unusual range: leave the choice to the system.
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The lowest port of outgoing connections; the kernel's default when it does not say.
fn outgoing_min() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_replaced() {
        let mut tried = Vec::new();
        let port = on_a_free_one(|port| {
            tried.push(port);
            if tried.len() < 3 { Err(io::ErrorKind::AddrInUse.into()) } else { Ok(port) }
        });
        assert_eq!((tried.len(), port.unwrap()), (3, tried[2]));
    }
}
