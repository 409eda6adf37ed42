//! The unreal network: hosts, links, walls, and streams between nodes in virtual time.
//!
//! Promises: what one host sends another on one connection arrives in order, whole and once, or the connection breaks;
//! when it arrives follows from the link ([`Links`]), from what else uses it and from the seed; packets are delivered in
//! the order of their times, those of equal times in the order of their sending, on one thread. A host can be dialled
//! by those the topology and its NAT allow. What a wall stops is sent again as TCP would, once the wall is gone.
//!
//! Datagrams, which a network that speaks QUIC carries, are lost, overtake each other and find no way through a NAT
//! as `datagram` says. Time has the runtime's resolution, a millisecond: a packet is
//! handed over at the first whole millisecond after it is due.

pub mod address;
mod datagram;
mod link;
mod quic;
mod stream;
mod transport;
mod wall;

#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Duration,
};

use address::{PORT, Place};
use datagram::{Datagram, Inbox, Mapping};
use futures::channel::oneshot;
use libp2p::Multiaddr;
pub use link::{Links, Rule};
pub(crate) use link::{ns, unit};
pub use quic::QuicTransport;
use stream::{Connection, SimStream};
use tokio::{sync::Notify, time::Instant};
pub use transport::SimTransport;
pub use wall::{HostSet, Wall};

use crate::{
    scenario::{Link, Nat},
    trace::Trace,
};

/// A host's number.
pub type HostId = u32;

/// Bytes of one connection and direction that may be under way or unread.
pub(crate) const WINDOW_BYTES: usize = 256 << 10;
/// Connections a listener has not taken yet; beyond it they are not answered.
const BACKLOG_MAX: usize = 4096;
/// The first pause after which an unanswered dial is repeated.
const DIAL_AGAIN_NS: u64 = 1_000_000_000;
/// How long a NAT remembers whom its host spoke to.
const NAT_MEMORY_NS: u64 = 240_000_000_000;
/// Bytes of a packet that the trace takes in; they are encrypted, so any of them tells of all.
const TRACED_BYTES: usize = 32;

/// What travels.
#[derive(Debug)]
enum Packet {
    /// A dial.
    Syn,
    /// It was taken.
    SynAck,
    /// It was not, for this reason.
    Refused(io::ErrorKind),
    Data(Vec<u8>),
    /// The sender has no more.
    Fin,
    /// The connection is gone.
    Reset,
    /// So many bytes were read.
    Credit(usize),
}

impl Packet {
    fn number(&self) -> u64 {
        match self {
            Packet::Syn => 1,
            Packet::SynAck => 2,
            Packet::Refused(_) => 3,
            Packet::Data(_) => 4,
            Packet::Fin => 5,
            Packet::Reset => 6,
            Packet::Credit(bytes) => 7 | (*bytes as u64) << 8,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Packet::Data(data) => data,
            _ => &[],
        }
    }
}

/// A packet on its way to one side of a connection.
#[derive(Debug)]
struct Event {
    at_ns: u64,
    sequence: u64,
    sent_ns: u64,
    /// 0: to the dialer, 1: to the listener.
    to: usize,
    connection: Arc<Connection>,
    packet: Packet,
}

impl Event {
    fn key(&self) -> (u64, u64) {
        (self.at_ns, self.sequence)
    }

    fn sending_host(&self) -> HostId {
        self.connection.hosts[1 - self.to]
    }

    fn to_host(&self) -> HostId {
        self.connection.hosts[self.to]
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Connections that wait for a listener.
#[derive(Debug, Default)]
struct Backlog {
    waiting: VecDeque<(SimStream, Multiaddr)>,
    waker: Option<Waker>,
}

type Dialing = oneshot::Sender<io::Result<SimStream>>;

#[derive(Debug, Default)]
struct Host {
    nat: Nat,
    /// Grows with each crash; connections of an earlier one are unknown.
    boot: u32,
    /// Without power: sends nothing, takes nothing.
    dark: bool,
    listener: Option<Arc<Mutex<Backlog>>>,
    dialing: BTreeMap<u64, (Dialing, Arc<Connection>)>,
    port: u16,
    /// Of datagrams, by port.
    sockets: BTreeMap<u16, Arc<Mutex<Inbox>>>,
    /// The ports of a symmetric NAT.
    mappings: BTreeMap<u16, Mapping>,
    /// Whom it spoke to from the port it listens on, and when.
    spoke_to: BTreeMap<HostId, u64>,
    traffic: Traffic,
}

/// What a host has sent and received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of streams.
    pub bytes_sent: u64,
    /// Bytes of streams.
    pub bytes_received: u64,
}

#[derive(Debug)]
struct Inner {
    events: BinaryHeap<Reverse<Event>>,
    datagrams: BinaryHeap<Reverse<Datagram>>,
    /// Of datagrams.
    dice: u64,
    /// Nodes speak QUIC, not TCP.
    speaks_quic: bool,
    sequence: u64,
    connections: u64,
    hosts: Vec<Host>,
    links: Links,
    walls: BTreeMap<u64, Wall>,
    next_number: u64,
    held: Vec<Event>,
    /// Who may dial whom; none: everybody.
    edges: Option<Vec<BTreeSet<HostId>>>,
    trace: Trace,
}

/// The network. Cheap to clone through its `Arc`.
#[derive(Debug)]
pub struct Network {
    inner: Mutex<Inner>,
    earlier: Notify,
    origin: Instant,
    seed: u64,
}

impl Network {
    /// A network of so many hosts. Must be made within the runtime whose time it keeps.
    pub fn new(seed: u64, nats: &[Nat], links: Links) -> Arc<Network> {
        let host = |nat: &Nat| Host {
            nat: *nat,
            ..Host::default()
        };
        Arc::new(Network {
            inner: Mutex::new(Inner {
                events: BinaryHeap::new(),
                datagrams: BinaryHeap::new(),
                dice: seed ^ 0xDA7A_6BA3,
                speaks_quic: false,
                sequence: 0,
                connections: 0,
                hosts: nats.iter().map(host).collect(),
                links,
                walls: BTreeMap::new(),
                next_number: 0,
                held: Vec::new(),
                edges: None,
                trace: Trace::default(),
            }),
            earlier: Notify::new(),
            origin: Instant::now(),
            seed,
        })
    }

    /// Lets nodes speak QUIC instead of TCP. To be called before any starts.
    pub fn speak_quic(&self) {
        self.lock().speaks_quic = true;
    }

    /// Whether nodes speak QUIC.
    pub fn speaks_quic(&self) -> bool {
        self.lock().speaks_quic
    }

    /// What everything random comes from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Lets hosts dial each other along these pairs, in both directions, and not otherwise.
    pub fn restrict_to(&self, edges: impl IntoIterator<Item = (HostId, HostId)>) {
        let mut inner = self.lock();
        let mut allowed = vec![BTreeSet::new(); inner.hosts.len()];
        for (a, b) in edges {
            for (from, to) in [(a, b), (b, a)] {
                if let Some(allowed) = allowed.get_mut(from as usize) {
                    allowed.insert(to);
                }
            }
        }
        inner.edges = Some(allowed);
    }

    /// Where a host listens.
    pub fn listen_address(&self, host: HostId) -> Multiaddr {
        self.spoken(address::listen(host, self.nat(host) != Nat::None))
    }

    /// Where others would dial a host.
    pub fn dial_address(&self, host: HostId) -> Multiaddr {
        self.spoken(match self.nat(host) {
            Nat::None => address::listen(host, false),
            Nat::FullCone | Nat::Restricted | Nat::Symmetric => address::seen(host, true, PORT),
        })
    }

    fn spoken(&self, address: Multiaddr) -> Multiaddr {
        if self.speaks_quic() {
            address::as_quic(&address)
        } else {
            address
        }
    }

    /// Puts up a wall; it stands until [`Network::remove_wall`] with the number returned.
    pub fn add_wall(&self, wall: Wall) -> u64 {
        let mut inner = self.lock();
        inner.next_number += 1;
        let number = inner.next_number;
        inner.walls.insert(number, wall);
        number
    }

    /// Takes a wall away. What it stopped is sent again, when TCP would have tried next.
    pub fn remove_wall(&self, number: u64) {
        let held = {
            let mut inner = self.lock();
            if inner.walls.remove(&number).is_none() {
                return;
            }
            std::mem::take(&mut inner.held)
        };
        let now_ns = self.now_ns();
        for mut event in held {
            let (first_ns, path_ns) = if matches!(event.packet, Packet::Syn | Packet::SynAck) {
                (DIAL_AGAIN_NS, 0)
            } else {
                let half = event.connection.half(1 - event.to);
                (half.path.retransmit_ns(), half.path.latency_ns)
            };
            event.at_ns = next_try_ns(event.sent_ns, first_ns, now_ns) + path_ns;
            if !matches!(event.packet, Packet::Syn | Packet::SynAck | Packet::Refused(_)) {
                let mut half = event.connection.half(1 - event.to);
                half.last_arrival_ns = half.last_arrival_ns.max(event.at_ns);
                event.at_ns = half.last_arrival_ns;
            }
            self.enqueue(event);
        }
        self.earlier.notify_one();
    }

    /// Makes the links of some hosts like `link`, until [`Network::restore_links`] with the number returned.
    pub fn degrade_links(&self, hosts: Vec<HostId>, link: Link) -> u64 {
        let mut inner = self.lock();
        inner.next_number += 1;
        let number = inner.next_number;
        inner.links.degrade(number, hosts, link);
        number
    }

    /// Ends what [`Network::degrade_links`] began.
    pub fn restore_links(&self, number: u64) {
        self.lock().links.restore(number);
    }

    /// The power of a host goes: nobody hears of it. The caller drops the node afterwards, and calls
    /// [`Network::power_on`] before it starts another one there.
    pub fn power_off(&self, host: HostId) {
        let mut inner = self.lock();
        if let Some(host) = inner.hosts.get_mut(host as usize) {
            host.dark = true;
            host.boot += 1;
            host.listener = None;
            host.sockets.clear();
            host.mappings.clear();
            host.spoke_to.clear();
        }
    }

    /// The power is back: who speaks to the host of before learns that it is another one.
    pub fn power_on(&self, host: HostId) {
        if let Some(host) = self.lock().hosts.get_mut(host as usize) {
            host.dark = false;
        }
    }

    /// What a host has sent and received.
    pub fn traffic(&self, host: HostId) -> Traffic {
        self.lock()
            .hosts
            .get(host as usize)
            .map(|h| h.traffic)
            .unwrap_or_default()
    }

    /// Whether packets pass from one host to the other: no wall, and not without power.
    pub fn passes(&self, from: HostId, to: HostId) -> bool {
        let inner = self.lock();
        let is_dark = |host: HostId| inner.hosts.get(host as usize).is_some_and(|h| h.dark);
        !is_dark(from) && !is_dark(to) && !inner.walls.values().any(|wall| wall.stops(from, to))
    }

    /// The digest of everything delivered so far.
    pub fn trace(&self) -> Trace {
        self.lock().trace
    }

    /// Mixes something that is not a packet into the digest.
    pub fn note(&self, numbers: &[u64], bytes: &[u8]) {
        self.lock().trace.event(numbers, bytes);
    }

    /// Virtual nanoseconds since the network was made.
    pub fn now_ns(&self) -> u64 {
        ns(Instant::now().duration_since(self.origin))
    }

    /// Delivers packets for as long as the network is needed.
    pub async fn run(self: Arc<Network>) {
        loop {
            let earlier = self.earlier.notified();
            let next_ns = self.next_ns();
            match next_ns {
                None => earlier.await,
                Some(next_ns) if next_ns > self.now_ns() => {
                    let due = self.origin + Duration::from_nanos(next_ns);
                    tokio::select! {
                        biased;
                        () = earlier => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
                Some(_) => {
                    self.deliver_due();
                    // Whom this woke comes first, so that an answer without delay is no endless loop in here.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// When the next packet is due.
    fn next_ns(&self) -> Option<u64> {
        let inner = self.lock();
        let packet = inner.events.peek().map(|event| event.0.at_ns);
        let datagram = inner.datagrams.peek().map(|datagram| datagram.0.at_ns);
        packet.into_iter().chain(datagram).min()
    }

    /// The first datagram, if it is due and no stream's packet comes before it.
    fn due_datagram(&self, now_ns: u64) -> Option<Datagram> {
        let mut inner = self.lock();
        let first = inner.datagrams.peek().map(|first| (first.0.at_ns, first.0.sequence))?;
        let is_first = inner.events.peek().is_none_or(|event| first < event.0.key());
        if first.0 > now_ns || !is_first {
            return None;
        }
        inner.datagrams.pop().map(|datagram| datagram.0)
    }

    fn deliver_due(self: &Arc<Network>) {
        let now_ns = self.now_ns();
        loop {
            if let Some(datagram) = self.due_datagram(now_ns) {
                self.deliver_datagram(datagram);
                continue;
            }
            let event = {
                let mut inner = self.lock();
                match inner.events.peek() {
                    Some(Reverse(event)) if event.at_ns <= now_ns => {}
                    _ => return,
                }
                let Some(Reverse(event)) = inner.events.pop() else {
                    return;
                };
                let (from, to) = (event.sending_host(), event.to_host());
                if inner.walls.values().any(|wall| wall.stops(from, to)) {
                    inner.held.push(event);
                    continue;
                }
                let traced = event.packet.bytes();
                let numbers = [
                    event.at_ns,
                    u64::from(from) << 32 | u64::from(to),
                    event.packet.number(),
                    traced.len() as u64,
                ];
                inner
                    .trace
                    .event(&numbers, &traced[traced.len().saturating_sub(TRACED_BYTES)..]);
                if let Some(host) = inner.hosts.get_mut(to as usize) {
                    host.traffic.bytes_received += event.packet.bytes().len() as u64;
                }
                event
            };
            self.deliver(event);
        }
    }

    fn deliver(self: &Arc<Network>, event: Event) {
        let (is_dark, is_known) = {
            let inner = self.lock();
            let host = inner.hosts.get(event.to_host() as usize);
            let known = host.is_some_and(|host| host.boot == event.connection.boots[event.to]);
            (host.is_none_or(|host| host.dark), known)
        };
        if is_dark {
            return;
        }
        if !is_known && !matches!(event.packet, Packet::Syn) {
            if !matches!(event.packet, Packet::Reset | Packet::Refused(_)) {
                self.answer(&event, Packet::Reset);
            }
            return;
        }
        match event.packet {
            Packet::Syn => self.on_dial(&event),
            Packet::SynAck => {
                match self.take_dialing(&event) {
                    // Whoever gave up this moment drops the stream, which tells the other side.
                    Some((dialing, connection)) => {
                        let _ = dialing.send(Ok(SimStream::new(Arc::clone(self), connection, 0)));
                    }
                    None => self.answer(&event, Packet::Reset),
                }
            }
            Packet::Refused(reason) => {
                if let Some((dialing, _)) = self.take_dialing(&event) {
                    let _ = dialing.send(Err(reason.into()));
                }
            }
            packet => {
                if matches!(packet, Packet::Reset)
                    && let Some((dialing, _)) = self.lock().hosts[event.connection.hosts[event.to] as usize]
                        .dialing
                        .remove(&event.connection.id)
                {
                    let _ = dialing.send(Err(io::ErrorKind::ConnectionReset.into()));
                }
                event.connection.half(event.to).take(packet);
            }
        }
    }

    fn take_dialing(&self, event: &Event) -> Option<(Dialing, Arc<Connection>)> {
        let mut inner = self.lock();
        let host = inner.hosts.get_mut(event.to_host() as usize)?;
        host.dialing.remove(&event.connection.id)
    }

    /// Somebody dials a host of this network.
    fn on_dial(self: &Arc<Network>, event: &Event) {
        let connection = &event.connection;
        let [from, to] = connection.hosts;
        let now_ns = self.now_ns();
        let (place, port) = connection.target;
        let verdict = {
            let mut inner = self.lock();
            let along_edge = inner
                .edges
                .as_ref()
                .is_none_or(|edges| edges.get(from as usize).is_some_and(|allowed| allowed.contains(&to)));
            let Some(host) = inner.hosts.get_mut(to as usize) else {
                return;
            };
            let lets_in = |host: &Host| match host.nat {
                Nat::None | Nat::FullCone => true,
                Nat::Restricted => host.spoke_to.get(&from).is_some_and(|at| now_ns < at + NAT_MEMORY_NS),
                Nat::Symmetric => false,
            };
            let exists = match place {
                Place::Host(_) => host.nat == Nat::None,
                Place::Nat(_) => host.nat != Nat::None,
                Place::Private(_) => false,
            };
            if !along_edge || !exists {
                Err(Some(io::ErrorKind::HostUnreachable))
            } else if !lets_in(host) {
                // Not even an answer.
                Err(None)
            } else if let Some(other) = punched(host, connection) {
                Ok(Taken::Punched(other))
            } else if port != PORT {
                Err(Some(io::ErrorKind::ConnectionRefused))
            } else {
                match &host.listener {
                    Some(listener) => Ok(Taken::Listener(Arc::clone(listener))),
                    None => Err(Some(io::ErrorKind::ConnectionRefused)),
                }
            }
        };
        let stream = || SimStream::new(Arc::clone(self), Arc::clone(connection), 1);
        match verdict {
            Err(None) | Ok(Taken::Punched(None)) => {}
            Err(Some(reason)) => self.answer(event, Packet::Refused(reason)),
            Ok(Taken::Punched(Some(dialing))) => {
                self.answer(event, Packet::SynAck);
                let _ = dialing.send(Ok(stream()));
            }
            Ok(Taken::Listener(listener)) => {
                let mut backlog = listener.lock().unwrap_or_else(PoisonError::into_inner);
                if backlog.waiting.len() >= BACKLOG_MAX {
                    return;
                }
                self.answer(event, Packet::SynAck);
                backlog.waiting.push_back((stream(), connection.dialer_seen.clone()));
                if let Some(waker) = backlog.waker.take() {
                    waker.wake();
                }
            }
        }
    }

    /// Sends something back to where a packet came from, outside any stream.
    fn answer(&self, event: &Event, packet: Packet) {
        let at_ns = self.now_ns() + event.connection.half(event.to).path.latency_ns;
        self.send(1 - event.to, &event.connection, at_ns, packet);
    }

    /// Puts a packet on its way to a side of a connection.
    fn send(&self, to: usize, connection: &Arc<Connection>, at_ns: u64, packet: Packet) {
        {
            let mut inner = self.lock();
            let Some(host) = inner.hosts.get_mut(connection.hosts[1 - to] as usize) else {
                return;
            };
            if host.dark {
                return;
            }
            host.traffic.bytes_sent += packet.bytes().len() as u64;
        }
        let event = Event {
            at_ns,
            sequence: 0,
            sent_ns: self.now_ns(),
            to,
            connection: Arc::clone(connection),
            packet,
        };
        if self.enqueue(event) {
            self.earlier.notify_one();
        }
    }

    /// Returns whether it is now the first.
    fn enqueue(&self, mut event: Event) -> bool {
        let mut inner = self.lock();
        inner.sequence += 1;
        event.sequence = inner.sequence;
        let is_first = inner.events.peek().is_none_or(|first| event.at_ns < first.0.at_ns);
        inner.events.push(Reverse(event));
        is_first
    }

    fn nat(&self, host: HostId) -> Nat {
        self.lock()
            .hosts
            .get(host as usize)
            .map(|host| host.nat)
            .unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // One thread: a poisoned lock means that it panicked, and the run with it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who takes a dial.
enum Taken {
    Listener(Arc<Mutex<Backlog>>),
    /// Both dialled each other from the ports they listen on; the connection with the lower number stays. `None`: it is
    /// the other one, and this one is not answered.
    Punched(Option<Dialing>),
}

fn punched(host: &mut Host, connection: &Connection) -> Option<Option<Dialing>> {
    if !connection.from_listen_port {
        return None;
    }
    let other = host
        .dialing
        .values()
        .map(|(_, other)| other)
        .find(|other| {
            other.hosts[1] == connection.hosts[0] && other.from_listen_port && (other.punches || connection.punches)
        })?
        .id;
    if connection.id > other {
        return Some(None);
    }
    Some(host.dialing.remove(&other).map(|(dialing, _)| dialing))
}

/// When a sender tries again for the first time after `now_ns`, doubling its pauses since `sent_ns`.
fn next_try_ns(sent_ns: u64, first_ns: u64, now_ns: u64) -> u64 {
    let (mut at_ns, mut pause_ns) = (sent_ns + first_ns, first_ns);
    while at_ns < now_ns {
        // As Linux: never more than two minutes.
        pause_ns = (pause_ns * 2).min(120_000_000_000);
        at_ns += pause_ns;
    }
    at_ns
}
