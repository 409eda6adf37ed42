//! Datagrams: what UDP is on the unreal network.
//!
//! Promises: each goes its own way: it is lost as often as its link says, and others may overtake it; it waits for what else
//! uses the link, and is lost when that would take too long ([`QUEUE_NS_MAX`]), when it is larger than a packet, when a wall is in its
//! way, and when its receiver does not read. A NAT lets it in as its kind says, and gives it the port its kind says.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{
    Host, HostId, NAT_MEMORY_NS, Network, TRACED_BYTES,
    address::{self, Place},
    unit,
};
use crate::scenario::Nat;

/// The longest datagram that passes: an Ethernet frame's, without headers.
const PACKET_BYTES_MAX: usize = 1472;
/// How long a datagram waits for its link at most.
const QUEUE_NS_MAX: u64 = 250_000_000;
/// Bytes that a socket keeps for a process that does not read.
const INBOX_BYTES_MAX: usize = 256 << 10;
/// Ports of sockets that name none begin here.
const PORT_FIRST: u16 = 49_152;
/// In the digest, beside the numbers of stream packets.
const TRACE_NUMBER: u64 = 9;

/// A datagram on its way.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) at_ns: u64,
    pub(super) sequence: u64,
    from: HostId,
    to: HostId,
    place: Place,
    port: u16,
    /// Where it comes from, as its receiver sees it.
    seen: SocketAddr,
    data: Vec<u8>,
}

impl Datagram {
    fn key(&self) -> (u64, u64) {
        (self.at_ns, self.sequence)
    }
}

impl PartialEq for Datagram {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Datagram {}

impl PartialOrd for Datagram {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Datagram {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// What a symmetric NAT remembers of one of its ports.
#[derive(Debug)]
pub(super) struct Mapping {
    /// The port behind it.
    own: u16,
    /// For whom it is, and at which port.
    with: (HostId, u16),
    used_ns: u64,
}

/// What has come for a socket.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    bytes: usize,
    reader: Option<Waker>,
}

fn lock(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket of a host; gone when dropped.
#[derive(Debug)]
pub(crate) struct SimUdp {
    network: Arc<Network>,
    host: HostId,
    port: u16,
    inbox: Arc<Mutex<Inbox>>,
}

impl SimUdp {
    /// A socket at this port, or at any.
    pub(super) fn bind(network: &Arc<Network>, host: HostId, port: Option<u16>) -> io::Result<Arc<SimUdp>> {
        let inbox: Arc<Mutex<Inbox>> = Arc::default();
        let mut inner = network.lock();
        let place = inner.hosts.get_mut(host as usize).ok_or(io::ErrorKind::NotFound)?;
        let port = match port {
            Some(port) if place.sockets.contains_key(&port) => return Err(io::ErrorKind::AddrInUse.into()),
            Some(port) => port,
            None => (PORT_FIRST..u16::MAX)
                .find(|port| !place.sockets.contains_key(port))
                .ok_or(io::ErrorKind::AddrInUse)?,
        };
        place.sockets.insert(port, Arc::clone(&inbox));
        drop(inner);
        Ok(Arc::new(SimUdp {
            network: Arc::clone(network),
            host,
            port,
            inbox,
        }))
    }

    /// Where it is bound.
    pub(super) fn address(&self) -> SocketAddr {
        address::socket(self.host, self.port)
    }

    pub(super) fn send(&self, to: SocketAddr, data: &[u8]) {
        self.network.send_datagram(self.host, self.port, to, data);
    }

    /// The next datagram: who it is from.
    pub(super) fn poll_receive(&self, cx: &Context<'_>) -> Poll<(SocketAddr, Vec<u8>)> {
        let mut inbox = lock(&self.inbox);
        match inbox.waiting.pop_front() {
            Some((from, data)) => {
                inbox.bytes -= data.len();
                Poll::Ready((from, data))
            }
            None => {
                inbox.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for SimUdp {
    fn drop(&mut self) {
        let mut inner = self.network.lock();
        if let Some(host) = inner.hosts.get_mut(self.host as usize)
            && host
                .sockets
                .get(&self.port)
                .is_some_and(|inbox| Arc::ptr_eq(inbox, &self.inbox))
        {
            host.sockets.remove(&self.port);
        }
    }
}

impl Host {
    /// The port from which others see what is sent from `own` to them.
    fn seen_port(&mut self, own: u16, with: (HostId, u16), now_ns: u64) -> u16 {
        self.spoke_to.insert(with.0, now_ns);
        if self.nat != Nat::Symmetric {
            return own;
        }
        let known = self
            .mappings
            .iter_mut()
            .find(|(_, mapping)| mapping.own == own && mapping.with == with);
        if let Some((port, mapping)) = known {
            mapping.used_ns = now_ns;
            return *port;
        }
        self.mappings
            .retain(|_, mapping| now_ns < mapping.used_ns + NAT_MEMORY_NS);
        while self.mappings.contains_key(&(PORT_FIRST + self.port)) {
            self.port = (self.port + 1) % (u16::MAX - PORT_FIRST);
        }
        let port = PORT_FIRST + self.port;
        let used_ns = now_ns;
        self.mappings.insert(port, Mapping { own, with, used_ns });
        port
    }

    /// The socket's port behind the port at which a datagram arrives; none: it is not let in.
    fn own_port(&self, arrived: &Datagram, now_ns: u64) -> Option<u16> {
        let is_fresh = |at: u64| now_ns < at + NAT_MEMORY_NS;
        match (self.nat, arrived.place) {
            (Nat::None, Place::Host(_)) | (Nat::FullCone, Place::Nat(_)) => Some(arrived.port),
            (Nat::Restricted, Place::Nat(_)) => {
                let spoke = self.spoke_to.get(&arrived.from).is_some_and(|at| is_fresh(*at));
                spoke.then_some(arrived.port)
            }
            (Nat::Symmetric, Place::Nat(_)) => {
                let mapping = self.mappings.get(&arrived.port)?;
                let is_with = mapping.with == (arrived.from, arrived.seen.port()) && is_fresh(mapping.used_ns);
                is_with.then_some(mapping.own)
            }
            _ => None,
        }
    }
}

impl Network {
    /// Whether a way leads from one host to the other: an edge, where there are edges.
    pub(super) fn leads(&self, from: HostId, to: HostId) -> bool {
        let inner = self.lock();
        let exists = from != to && (to as usize) < inner.hosts.len();
        let edges = inner.edges.as_ref();
        exists && edges.is_none_or(|edges| edges.get(from as usize).is_some_and(|to_them| to_them.contains(&to)))
    }

    fn send_datagram(&self, from: HostId, port: u16, to: SocketAddr, data: &[u8]) {
        let Some((place, to_port)) = address::place(to) else {
            return;
        };
        let (Place::Host(to) | Place::Nat(to)) = place else {
            return;
        };
        if !self.leads(from, to) || data.len() > PACKET_BYTES_MAX {
            return;
        }
        let now_ns = self.now_ns();
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some(host) = inner.hosts.get_mut(from as usize).filter(|host| !host.dark) else {
            return;
        };
        host.traffic.bytes_sent += data.len() as u64;
        let behind_nat = host.nat != Nat::None;
        let seen_port = host.seen_port(port, (to, to_port), now_ns);
        let path = inner.links.path(from, to);
        let waits_ns = inner.links.busy_ns(from, to, now_ns);
        let is_lost = path.loss > 0.0 && unit(&mut inner.dice) < path.loss;
        if is_lost || waits_ns > QUEUE_NS_MAX {
            return;
        }
        let departure_ns = inner.links.departure_ns(&path, from, to, data.len(), now_ns);
        let at_ns = path.datagram_arrival_ns(departure_ns, &mut inner.dice);
        inner.sequence += 1;
        let datagram = Datagram {
            at_ns,
            sequence: inner.sequence,
            from,
            to,
            place,
            port: to_port,
            seen: address::seen_socket(from, behind_nat, seen_port),
            data: data.to_vec(),
        };
        inner.datagrams.push(std::cmp::Reverse(datagram));
        drop(guard);
        self.earlier.notify_one();
    }

    /// Hands a datagram over whose time has come.
    pub(super) fn deliver_datagram(&self, datagram: Datagram) {
        let now_ns = self.now_ns();
        let mut guard = self.lock();
        let inner = &mut *guard;
        let (from, to) = (datagram.from, datagram.to);
        if inner.walls.values().any(|wall| wall.stops(from, to)) {
            return;
        }
        let numbers = [
            datagram.at_ns,
            u64::from(from) << 32 | u64::from(to),
            TRACE_NUMBER,
            datagram.data.len() as u64,
        ];
        let traced = datagram.data.len().saturating_sub(TRACED_BYTES);
        inner.trace.event(&numbers, &datagram.data[traced..]);
        let Some(host) = inner.hosts.get_mut(to as usize).filter(|host| !host.dark) else {
            return;
        };
        let inbox = host
            .own_port(&datagram, now_ns)
            .and_then(|port| host.sockets.get(&port).cloned());
        let Some(inbox) = inbox else { return };
        host.traffic.bytes_received += datagram.data.len() as u64;
        drop(guard);
        let mut inbox = lock(&inbox);
        if inbox.bytes + datagram.data.len() > INBOX_BYTES_MAX {
            return;
        }
        inbox.bytes += datagram.data.len();
        inbox.waiting.push_back((datagram.seen, datagram.data));
        if let Some(reader) = inbox.reader.take() {
            reader.wake();
        }
    }
}
