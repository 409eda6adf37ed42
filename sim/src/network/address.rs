//! Addresses of simulated hosts: which host an address means, and how one host sees another.
//!
//! A host that everybody can dial has an address in `5.0.0.0/8`. One behind a NAT has a private one in `10.0.0.0/8`, which
//! nobody else can dial, and the others see its NAT in `6.0.0.0/8`. The last three bytes are the host's number.

use std::net::Ipv4Addr;

use libp2p::{Multiaddr, multiaddr::Protocol};

use super::HostId;

const PUBLIC: u8 = 5;
const NAT: u8 = 6;
const PRIVATE: u8 = 10;
/// Where every node listens.
pub(crate) const PORT: u16 = 7400;
/// Hosts there can be.
pub const HOSTS_MAX: u32 = 1 << 24;

/// What an address leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A host that has this address itself.
    Host(HostId),
    /// The NAT in front of a host.
    Nat(HostId),
    /// A private network: only the host itself is there.
    Private(HostId),
}

fn with(first: u8, host: HostId, port: u16) -> Multiaddr {
    let [_, a, b, c] = host.to_be_bytes();
    Multiaddr::empty()
        .with(Protocol::Ip4(Ipv4Addr::new(first, a, b, c)))
        .with(Protocol::Tcp(port))
}

/// Where a host listens.
pub fn listen(host: HostId, behind_nat: bool) -> Multiaddr {
    with(if behind_nat { PRIVATE } else { PUBLIC }, host, PORT)
}

/// How others see a host that speaks to them from one of its ports.
pub(crate) fn seen(host: HostId, behind_nat: bool, port: u16) -> Multiaddr {
    with(if behind_nat { NAT } else { PUBLIC }, host, port)
}

/// Reads an address. Only a plain IPv4 and TCP address, perhaps followed by a peer, is one.
pub(crate) fn parse(address: &Multiaddr) -> Option<(Place, u16)> {
    let mut parts = address.iter();
    let Some(Protocol::Ip4(ip)) = parts.next() else {
        return None;
    };
    let Some(Protocol::Tcp(port)) = parts.next() else {
        return None;
    };
    match (parts.next(), parts.next()) {
        (None | Some(Protocol::P2p(_)), None) => {}
        _ => return None,
    }
    let [first, a, b, c] = ip.octets();
    let host = HostId::from_be_bytes([0, a, b, c]);
    let place = match first {
        PUBLIC => Place::Host(host),
        NAT => Place::Nat(host),
        PRIVATE => Place::Private(host),
        _ => return None,
    };
    Some((place, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_back_to_its_host() {
        for host in [0, 1, 255, 256, 70_000, HOSTS_MAX - 1] {
            assert_eq!(parse(&listen(host, false)), Some((Place::Host(host), PORT)));
            assert_eq!(parse(&listen(host, true)), Some((Place::Private(host), PORT)));
            assert_eq!(parse(&seen(host, true, 9)), Some((Place::Nat(host), 9)));
        }
        for other in [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/5.0.0.1/udp/1",
            "/ip4/5.0.0.1/tcp/1/ws",
            "/dns/a/tcp/1",
        ] {
            assert_eq!(parse(&other.parse().unwrap()), None, "{other}");
        }
    }
}
