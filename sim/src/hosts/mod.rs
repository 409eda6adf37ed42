//! Real time and real kernels: a scenario with processes of the shipped program in network namespaces.
//!
//! Promises: TCP, UDP, NAT and routing are the kernel's; latency, jitter, bandwidth, loss, reordering and cuts between the hosts are
//! those of the scenario and change while it runs. What is made is taken away, also after Ctrl-C; what a killed run left behind is
//! taken away by the next.
//!
//! Needs root, `ip` and `nft`, and says so. The kernel's own emulator (netem) is not needed, because many kernels come without it.
//!
//! How: each host has a TUN device instead of a network card (`tun`). One thread takes packets from all of them and hands each to
//! the one it is for when its time has come (`emulator`); when that is, is decided without I/O (`wan`).

mod emulator;
mod namespace;
#[cfg(test)]
mod tests;
mod tun;
mod wan;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    sync::Arc,
};

use emulator::Emulator;
use namespace::Namespaces;
use wan::Wan;

use crate::{
    chaos::Step,
    engine,
    network::{HostSet, Wall},
    processes::{Ground, drive, find_binary, refuse},
    report::{Mode, Report},
    run::{Cancel, RunError, Watch},
    scenario::{Dial, Nat, Scenario},
    topology,
};

/// The port of every node.
const PORT: u16 = 7400;
/// Hosts of one run: what a machine takes before it is the emulator that is measured.
const HOSTS_MAX: usize = 1_000;

/// Where a host is on the WAN: 198.18.0.0/15 is set aside for measuring networks (RFC 2544).
fn wan_ip4(host: usize) -> Ipv4Addr {
    let (high, low) = (host / 250, host % 250 + 1);
    Ipv4Addr::new(198, 18, high as u8, low as u8)
}

/// The same for IPv6, in a network of our own.
fn wan_ip6(host: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0x7766, 0, 0, 0, 0, 0, host as u16 + 1)
}

/// The address of a host behind its NAT.
const LAN_IP4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Runs a scenario in network namespaces.
///
/// # Errors
/// [`RunError`]: no root, no tools, no devices; or the scenario wants what no process can be made to do from outside.
pub fn run(
    scenario: &Scenario,
    seed: u64,
    weft: Option<&Path>,
    watch: Arc<dyn Watch>,
    cancel: &Cancel,
) -> Result<Report, RunError> {
    refuse(scenario, Mode::Hosts)?;
    if scenario.nodes() > HOSTS_MAX {
        return Err(RunError::Unsupported(format!(
            "mode hosts has room for {HOSTS_MAX} hosts, the scenario has {}",
            scenario.nodes()
        )));
    }
    namespace::check()?;
    let binary = find_binary(weft)?;
    let mut hosts = Hosts::new(scenario, seed)?;
    drive(scenario, seed, &binary, &mut hosts, watch, cancel)
}

/// Hosts in namespaces, and the WAN between them.
struct Hosts {
    // Dropped in this order: first nobody reads the devices any more, then they go with their namespaces.
    emulator: Emulator,
    namespaces: Namespaces,
    nats: Vec<Nat>,
}

impl Hosts {
    fn new(scenario: &Scenario, seed: u64) -> Result<Self, RunError> {
        let groups = scenario.group_of_node();
        let nats: Vec<Nat> = groups.iter().map(|group| scenario.fleet[*group].nat).collect();
        let mut wan = Wan::new(seed, nats.len(), engine::links(scenario, seed, &groups));
        if scenario.topology.dial == Dial::Edges {
            let topology = &scenario.topology;
            let graph = topology::make(&topology.kind, nats.len(), topology.seed.unwrap_or(seed), Path::new(""))?;
            wan.restrict_to(graph.edges());
        }
        let namespaces = Namespaces::make(&nats)?;
        let devices = (0..nats.len())
            .map(|host| namespaces.device(host))
            .collect::<Result<_, _>>()?;
        for host in 0..nats.len() {
            namespaces.bring_up(host, wan_ip4(host), wan_ip6(host))?;
        }
        Ok(Self {
            emulator: Emulator::start(wan, devices)?,
            namespaces,
            nats,
        })
    }
}

impl Ground for Hosts {
    fn mode(&self) -> Mode {
        Mode::Hosts
    }

    fn command(&self, node: usize, program: &Path) -> Command {
        let mut command = Command::new(program);
        let space = self.namespaces.open(node);
        // SAFETY: between fork and exec only one system call is made, which allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || match &space {
                Ok(space) => tun::enter(space),
                Err(kind) => Err((*kind).into()),
            });
        }
        command
    }

    fn listen(&self, node: usize) -> Vec<String> {
        if self.nats[node] != Nat::None {
            return vec![
                format!("/ip4/{LAN_IP4}/tcp/{PORT}"),
                format!("/ip4/{LAN_IP4}/udp/{PORT}/quic-v1"),
            ];
        }
        let (ip4, ip6) = (wan_ip4(node), wan_ip6(node));
        let mut listen = vec![
            format!("/ip4/{ip4}/tcp/{PORT}"),
            format!("/ip4/{ip4}/udp/{PORT}/quic-v1"),
        ];
        if self.namespaces.has_ip6() {
            listen.push(format!("/ip6/{ip6}/tcp/{PORT}"));
        }
        listen
    }

    fn dial(&self, node: usize) -> Vec<String> {
        let ip4 = wan_ip4(node);
        match self.nats[node] {
            Nat::None | Nat::FullCone => vec![
                format!("/ip4/{ip4}/tcp/{PORT}"),
                format!("/ip4/{ip4}/udp/{PORT}/quic-v1"),
            ],
            Nat::Restricted | Nat::Symmetric => Vec::new(),
        }
    }

    fn apply(&mut self, step: &Step) -> std::io::Result<()> {
        self.emulator.change(|wan| {
            match step {
                Step::Islands(number, parts) => wan.add_wall(*number, Wall::Islands(parts.clone())),
                Step::Apart(number, hosts) => wan.add_wall(*number, Wall::Apart(HostSet::of(hosts.iter().copied()))),
                Step::OneWay(number, from, to) => {
                    let (from, to) = (HostSet::of(from.iter().copied()), HostSet::of(to.iter().copied()));
                    wan.add_wall(*number, Wall::OneWay(from, to));
                }
                Step::Join(number) => wan.remove_wall(*number),
                Step::Degrade(number, hosts, link) => wan.degrade(*number, hosts.clone(), link.clone()),
                Step::Restore(number) => wan.restore(*number),
                _ => return Err(std::io::ErrorKind::Unsupported.into()),
            }
            Ok(())
        })
    }

    fn admit(&mut self, node: usize, on: bool) {
        self.emulator.change(|wan| wan.admit(node as u32, on));
    }

    fn traffic(&self) -> Option<Vec<(u64, u64)>> {
        Some(self.emulator.change(|wan| wan.traffic()))
    }

    fn notes(&self, _: &Scenario) -> Vec<String> {
        let (dropped, overflown) = self.emulator.change(|wan| wan.dropped());
        vec![format!(
            "packets lost between the hosts: {dropped} as the scenario says (loss, cuts, no link), {overflown} because a queue was full"
        )]
    }
}
