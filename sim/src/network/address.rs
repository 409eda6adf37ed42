//! Addresses of simulated hosts: which host an address means, and how one host sees another.
//!
//! A host that everybody can dial has an address in `5.0.0.0/8`. One behind a NAT has a private one in `10.0.0.0/8`, which
//! nobody else can dial, and the others see its NAT in `6.0.0.0/8`. The last three bytes are the host's number.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

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

fn ip(first: u8, host: HostId) -> Ipv4Addr {
    let [_, a, b, c] = host.to_be_bytes();
    Ipv4Addr::new(first, a, b, c)
}

fn with(first: u8, host: HostId, port: u16) -> Multiaddr {
    Multiaddr::empty()
        .with(Protocol::Ip4(ip(first, host)))
        .with(Protocol::Tcp(port))
}

/// Where a host's own socket is.
pub(crate) fn socket(host: HostId, port: u16) -> SocketAddr {
    SocketAddr::new(ip(PUBLIC, host).into(), port)
}

/// How others see a socket of a host.
pub(crate) fn seen_socket(host: HostId, behind_nat: bool, port: u16) -> SocketAddr {
    SocketAddr::new(ip(if behind_nat { NAT } else { PUBLIC }, host).into(), port)
}

/// The same address for QUIC.
pub(crate) fn quic(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip())
        .with(Protocol::Udp(socket.port()))
        .with(Protocol::QuicV1)
}

/// An address for TCP as one for QUIC.
pub(crate) fn as_quic(address: &Multiaddr) -> Multiaddr {
    let parts = address.iter().flat_map(|part| match part {
        Protocol::Tcp(port) => vec![Protocol::Udp(port), Protocol::QuicV1],
        other => vec![other],
    });
    parts.collect()
}

/// Where a socket's address leads.
pub(crate) fn place(socket: SocketAddr) -> Option<(Place, u16)> {
    match socket.ip() {
        IpAddr::V4(ip) => Some((place_of(ip)?, socket.port())),
        IpAddr::V6(_) => None,
    }
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
    Some((place_of(ip)?, port))
}

/// The same for QUIC.
pub(crate) fn parse_quic(address: &Multiaddr) -> Option<(Place, u16)> {
    let parts: Vec<Protocol<'_>> = address.iter().collect();
    match &parts[..] {
        [Protocol::Ip4(ip), Protocol::Udp(port), Protocol::QuicV1]
        | [
            Protocol::Ip4(ip),
            Protocol::Udp(port),
            Protocol::QuicV1,
            Protocol::P2p(_),
        ] => Some((place_of(*ip)?, *port)),
        _ => None,
    }
}

fn place_of(ip: Ipv4Addr) -> Option<Place> {
    let [first, a, b, c] = ip.octets();
    let host = HostId::from_be_bytes([0, a, b, c]);
    match first {
        PUBLIC => Some(Place::Host(host)),
        NAT => Some(Place::Nat(host)),
        PRIVATE => Some(Place::Private(host)),
        _ => None,
    }
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
        for host in [0, 255, 70_000] {
            let private = as_quic(&listen(host, true));
            assert_eq!(parse_quic(&private), Some((Place::Private(host), PORT)));
            assert_eq!(
                parse_quic(&quic(seen_socket(host, true, 9))),
                Some((Place::Nat(host), 9))
            );
            assert_eq!(place(socket(host, 9)), Some((Place::Host(host), 9)));
            assert_eq!((parse(&private), parse_quic(&listen(host, true))), (None, None));
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
