//! The hosts: namespaces, and routers with NAT before those that have one.
//!
//! Named after this process, so that several runs do not meet, and taken away when dropped. Nothing outside them is touched.

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use super::{
    LAN_IP4,
    tun::{self, DEVICE},
};
use crate::{run::RunError, scenario::Nat};

/// What the names of our namespaces begin with.
const PREFIX: &str = "wsim";
/// Where `ip netns` keeps namespaces.
const FOLDER: &str = "/var/run/netns";
/// The router's own address in the network behind it.
const ROUTER_IP4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Whether hosts can be made here at all; why not.
pub(super) fn check() -> Result<(), RunError> {
    if !rustix::process::geteuid().is_root() {
        return Err(RunError::Denied(
            "mode hosts makes network namespaces, which needs root: run it as root, or with --mode processes".into(),
        ));
    }
    for (tool, package) in [("ip", "iproute2"), ("nft", "nftables")] {
        let found = Command::new(tool)
            .arg("-V")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err() {
            return Err(RunError::Missing(format!(
                "mode hosts needs the program {tool}: install the package {package}"
            )));
        }
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return Err(RunError::Failed(
            "mode hosts needs /dev/net/tun, which this machine does not have".into(),
        ));
    }
    Ok(())
}

/// The namespaces of a run.
pub(super) struct Namespaces {
    tag: String,
    nats: Vec<Nat>,
    made: Vec<String>,
    ip6: bool,
}

impl Namespaces {
    /// Makes a host for each, and a router before those behind NAT.
    pub(super) fn make(nats: &[Nat]) -> Result<Self, RunError> {
        sweep();
        let mut spaces = Self {
            tag: format!("{PREFIX}{}", std::process::id()),
            nats: nats.to_vec(),
            made: Vec::new(),
            ip6: std::path::Path::new("/proc/net/if_inet6").exists(),
        };
        for (host, nat) in nats.iter().enumerate() {
            spaces.add(spaces.host(host))?;
            if *nat != Nat::None {
                spaces.add(spaces.router(host))?;
                spaces.put_behind(host, *nat)?;
            }
        }
        Ok(spaces)
    }

    pub(super) fn host(&self, host: usize) -> String {
        format!("{}-{host}", self.tag)
    }

    fn router(&self, host: usize) -> String {
        format!("{}-{host}r", self.tag)
    }

    /// The namespace whose device is on the WAN.
    fn outer(&self, host: usize) -> String {
        match self.nats[host] {
            Nat::None => self.host(host),
            _ => self.router(host),
        }
    }

    pub(super) fn has_ip6(&self) -> bool {
        self.ip6
    }

    fn add(&mut self, name: String) -> Result<(), RunError> {
        run(Command::new("ip").args(["netns", "add", &name]), "")?;
        self.made.push(name.clone());
        ip(&name, &["link", "set", "lo", "up"])
    }

    /// A cable from the host to its router, and the router's rules.
    fn put_behind(&self, host: usize, nat: Nat) -> Result<(), RunError> {
        let (inner, router) = (self.host(host), self.router(host));
        let link = [
            "link", "add", "eth0", "netns", &inner, "type", "veth", "peer", "name", "lan", "netns", &router,
        ];
        run(Command::new("ip").args(link), "")?;
        ip(&inner, &["addr", "add", &format!("{LAN_IP4}/24"), "dev", "eth0"])?;
        ip(&inner, &["link", "set", "eth0", "up"])?;
        ip(&router, &["addr", "add", &format!("{ROUTER_IP4}/24"), "dev", "lan"])?;
        ip(&router, &["link", "set", "lan", "up"])?;
        ip(&inner, &["route", "add", "default", "via", &ROUTER_IP4.to_string()])?;
        within(&router, &["sysctl", "-qw", "net.ipv4.ip_forward=1"], "")?;
        within(&router, &["nft", "-f", "-"], &rules(nat))
    }

    /// Opens the device by which a host is on the WAN.
    pub(super) fn device(&self, host: usize) -> Result<OwnedFd, RunError> {
        let name = self.outer(host);
        let fail = |error| RunError::io(format!("cannot make a device in the namespace {name}"), error);
        tun::open(tun::space(&name).map_err(fail)?).map_err(fail)
    }

    /// Gives the device its addresses.
    pub(super) fn bring_up(&self, host: usize, ip4: Ipv4Addr, ip6: Ipv6Addr) -> Result<(), RunError> {
        let name = self.outer(host);
        ip(&name, &["addr", "add", &format!("{ip4}/15"), "dev", DEVICE])?;
        if self.ip6 && self.nats[host] == Nat::None {
            ip(&name, &["addr", "add", &format!("{ip6}/64"), "dev", DEVICE, "nodad"])?;
        }
        ip(
            &name,
            &["link", "set", DEVICE, "mtu", "1500", "txqueuelen", "2000", "up"],
        )
    }

    /// The namespace of a host, for a process to enter.
    pub(super) fn open(&self, host: usize) -> Result<OwnedFd, io::ErrorKind> {
        tun::space(&self.host(host)).map_err(|error| error.kind())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.made {
            remove(name);
        }
    }
}

fn remove(name: &str) {
    // One that is gone already is what is wanted.
    let _ = Command::new("ip")
        .args(["netns", "del", name])
        .stderr(Stdio::null())
        .status();
}

/// Takes away what runs that were killed left behind: namespaces of ours whose process is no more.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(FOLDER) else { return };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&name);
        }
    }
}

/// The rules of a router.
///
/// Without the chain `inp` an early packet of the other side would be answered by the router itself, and the mapping that follows
/// would get another port: no hole could ever be punched.
pub(super) fn rules(nat: Nat) -> String {
    let masquerade = match nat {
        Nat::Symmetric => "masquerade random,fully-random",
        _ => "masquerade",
    };
    let (inward, policy) = match nat {
        Nat::FullCone => (
            format!(
                " chain pre {{\n  type nat hook prerouting priority -100;\n  iifname \"{DEVICE}\" ip protocol {{ tcp, udp }} dnat to {LAN_IP4}\n }}\n"
            ),
            "accept",
        ),
        _ => (String::new(), "drop"),
    };
    format!(
        "table ip nat {{\n chain post {{\n  type nat hook postrouting priority 100; policy accept;\n  oifname \"{DEVICE}\" {masquerade}\n }}\n{inward}}}\n\
         table ip fw {{\n chain inp {{\n  type filter hook input priority 0; policy accept;\n  iifname \"{DEVICE}\" ct state new,invalid drop\n }}\n \
         chain forw {{\n  type filter hook forward priority 0; policy {policy};\n  ct state established,related accept\n  iifname \"lan\" accept\n }}\n}}\n"
    )
}

fn ip(space: &str, args: &[&str]) -> Result<(), RunError> {
    run(Command::new("ip").args(["-n", space]).args(args), "")
}

fn within(space: &str, args: &[&str], input: &str) -> Result<(), RunError> {
    run(Command::new("ip").args(["netns", "exec", space]).args(args), input)
}

/// Runs a command to its end; what it said when it failed.
fn run(command: &mut Command, input: &str) -> Result<(), RunError> {
    let words = format!("{command:?}").replace('"', "");
    let fail = |error| RunError::io(format!("cannot run `{words}`"), error);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing has closed it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(fail)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let hint = if said.contains("Operation not permitted") || said.contains("mount") {
        ": this container may not make network namespaces"
    } else {
        ""
    };
    Err(RunError::Failed(format!("`{words}` failed: {said}{hint}")))
}
