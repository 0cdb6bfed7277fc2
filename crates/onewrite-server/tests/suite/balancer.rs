//! A load balancer in front of servers: HAProxy, which takes them in turn and asks each whether it is ready.

use std::{
    net::{SocketAddr, TcpStream},
    process::Command,
};

use crate::support::{Place, Running, eventually, free_address};

/// It ends when it is dropped.
pub(crate) struct Balancer {
    _process: Running,
    address: SocketAddr,
}

impl Balancer {
    pub(crate) fn before(place: &Place, servers: impl Iterator<Item = SocketAddr>) -> Self {
        let address = free_address();
        let servers: Vec<String> = servers
            .enumerate()
            .map(|(number, server)| format!("    server s{number} {server} check inter 200ms"))
            .collect();
        let servers = servers.join("\n");
        place.write(
            "haproxy.cfg",
            &format!(
                "global\n    maxconn 1000\n\
                 defaults\n    mode http\n    retries 3\n    option redispatch\n    timeout connect 2s\n    timeout client 30s\n    timeout server 10s\n\
                 frontend sagas\n    bind {address}\n    default_backend nodes\n\
                 backend nodes\n    balance roundrobin\n    option httpchk GET /readyz\n{servers}\n"
            ),
        );
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]).arg(place.path("haproxy.cfg"));
        let _process = Running::of(command);
        let balancer = Self { _process, address };
        eventually("the balancer listens", || TcpStream::connect(address).is_ok());
        balancer
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
