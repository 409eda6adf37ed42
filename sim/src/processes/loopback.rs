//! Processes on loopback: each node has an address of its own in 127.0.0.0/8, so that all can have the same port.

use std::{
    net::{TcpListener, UdpSocket},
    path::Path,
    process::Command,
};

use super::Ground;
use crate::{
    chaos::Step,
    report::Mode,
    run::RunError,
    scenario::{Dial, Scenario},
};

/// Ports that are looked at: below those the system gives out by itself, and not the node's own, which another node of this
/// machine may listen on at every address.
const PORTS: std::ops::Range<u32> = 10_000..30_000;
/// Places that are looked at.
const TRIES: u32 = 200;

/// Nodes at 127.NETWORK.x.y.
pub(crate) struct Loopback {
    network: u8,
    port: u16,
}

impl Loopback {
    /// A network that nobody listens in, for so many nodes.
    pub(crate) fn new(nodes: usize) -> Result<Self, RunError> {
        if nodes > 60_000 {
            return Err(RunError::Unsupported("loopback has room for 60000 nodes".into()));
        }
        // Another run on this machine looks elsewhere first.
        let first = std::process::id();
        (0..TRIES)
            .map(|off| Self {
                network: 20 + ((first + off) % 200) as u8,
                port: (PORTS.start + (first + off).wrapping_mul(37) % PORTS.len() as u32) as u16,
            })
            .find(|place| {
                let address = (place.ip(0), place.port);
                TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
            })
            .ok_or_else(|| RunError::Failed(format!("no port is free on loopback: {TRIES} were tried")))
    }

    fn ip(&self, node: usize) -> std::net::Ipv4Addr {
        // Not .0 nor .255 in the last place: some tools take them for a network.
        let (high, low) = (node / 250, node % 250 + 1);
        std::net::Ipv4Addr::new(127, self.network, high as u8, low as u8)
    }
}

impl Ground for Loopback {
    fn mode(&self) -> Mode {
        Mode::Processes
    }

    fn command(&self, _: usize, program: &Path) -> Command {
        Command::new(program)
    }

    fn listen(&self, node: usize) -> Vec<String> {
        let (ip, port) = (self.ip(node), self.port);
        vec![format!("/ip4/{ip}/tcp/{port}"), format!("/ip4/{ip}/udp/{port}/quic-v1")]
    }

    fn dial(&self, node: usize) -> Vec<String> {
        self.listen(node)
    }

    fn apply(&mut self, _: &Step) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn traffic(&self) -> Option<Vec<(u64, u64)>> {
        None
    }

    fn notes(&self, scenario: &Scenario) -> Vec<String> {
        let mut notes = vec![
            "links are this machine's loopback: latency, loss and bandwidth of the scenario do not apply".to_owned(),
        ];
        if scenario.topology.dial == Dial::Edges {
            notes.push(
                "on loopback everybody can dial everybody: the edges are whom a node knows at the start".to_owned(),
            );
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_an_address_of_its_own() {
        let loopback = Loopback {
            network: 20,
            port: 10_000,
        };
        let all: std::collections::BTreeSet<_> = (0..60_000).map(|node| loopback.ip(node)).collect();
        assert_eq!(all.len(), 60_000);
        assert!(all.iter().all(|ip| !matches!(ip.octets()[3], 0 | 255)));
    }
}
