//! A connection between two hosts, and the stream each of them holds.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::Multiaddr;

use super::{HostId, Network, Packet, WINDOW_BYTES, address::Place, link::Path};

/// The most that one packet carries.
const PACKET_BYTES: usize = 64 << 10;

/// Both halves of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    /// The dialer, the listener.
    pub(super) hosts: [HostId; 2],
    /// Of the hosts when it was made.
    pub(super) boots: [u32; 2],
    pub(super) target: (Place, u16),
    /// How the listener sees the dialer.
    pub(super) dialer_seen: Multiaddr,
    pub(super) from_listen_port: bool,
    pub(super) punches: bool,
    halves: [Mutex<Half>; 2],
}

impl Connection {
    #[expect(clippy::too_many_arguments, reason = "what a connection is, each once")]
    pub(super) fn new(
        id: u64,
        hosts: [HostId; 2],
        boots: [u32; 2],
        target: (Place, u16),
        dialer_seen: Multiaddr,
        from_listen_port: bool,
        punches: bool,
        paths: [Path; 2],
        seed: u64,
        generation: u32,
    ) -> Arc<Connection> {
        let half = |side: usize| {
            let mut dice = seed ^ (id << 1 | side as u64);
            crate::virtual_os::split_mix(&mut dice);
            Mutex::new(Half::new(paths[side], generation, dice))
        };
        Arc::new(Connection {
            id,
            hosts,
            boots,
            target,
            dialer_seen,
            from_listen_port,
            punches,
            halves: [half(0), half(1)],
        })
    }

    /// The half of one side: what it has received, and how it sends.
    pub(super) fn half(&self, side: usize) -> MutexGuard<'_, Half> {
        self.halves[side].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct Half {
    received: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that were read.
    read: usize,
    /// Bytes read that the other side does not know of.
    unreported: usize,
    ended: bool,
    reset: bool,
    reader: Option<Waker>,
    /// Bytes that may still be sent.
    credit: usize,
    closed: bool,
    writer: Option<Waker>,
    pub(super) path: Path,
    generation: u32,
    dice: u64,
    /// Nothing sent later arrives earlier.
    pub(super) last_arrival_ns: u64,
}

impl Half {
    fn new(path: Path, generation: u32, dice: u64) -> Self {
        Half {
            received: VecDeque::new(),
            read: 0,
            unreported: 0,
            ended: false,
            reset: false,
            reader: None,
            credit: WINDOW_BYTES,
            closed: false,
            writer: None,
            path,
            generation,
            dice,
            last_arrival_ns: 0,
        }
    }

    /// Takes in what the other side has sent.
    pub(super) fn take(&mut self, packet: Packet) {
        if self.reset {
            // Nobody is there any more.
            return;
        }
        match packet {
            Packet::Data(data) => self.received.push_back(data),
            Packet::Fin => self.ended = true,
            Packet::Credit(bytes) => self.credit += bytes,
            Packet::Reset => self.reset = true,
            Packet::Syn | Packet::SynAck | Packet::Refused(_) => return,
        }
        let wakes_reader = self.reset || self.ended || !self.received.is_empty();
        if let Some(waker) = wakes_reader.then(|| self.reader.take()).flatten() {
            waker.wake();
        }
        let wakes_writer = self.reset || self.credit > 0;
        if let Some(waker) = wakes_writer.then(|| self.writer.take()).flatten() {
            waker.wake();
        }
    }
}

/// What a node reads from and writes to.
#[derive(Debug)]
pub struct SimStream {
    network: Arc<Network>,
    connection: Arc<Connection>,
    side: usize,
}

impl SimStream {
    pub(super) fn new(network: Arc<Network>, connection: Arc<Connection>, side: usize) -> Self {
        SimStream {
            network,
            connection,
            side,
        }
    }

    fn half(&self) -> MutexGuard<'_, Half> {
        self.connection.half(self.side)
    }

    /// Sends a packet behind everything sent before.
    fn send(&self, half: &mut Half, packet: Packet) {
        let (from, to) = (self.connection.hosts[self.side], self.connection.hosts[1 - self.side]);
        let (now_ns, len) = (self.network.now_ns(), packet.bytes().len());
        let departure_ns = {
            let mut inner = self.network.lock();
            if half.generation != inner.links.generation() {
                half.generation = inner.links.generation();
                half.path = inner.links.path(from, to);
            }
            inner.links.departure_ns(&half.path, from, to, len, now_ns)
        };
        let busy = half.credit + 4 * 1448 < WINDOW_BYTES;
        let (path, mut dice) = (half.path, half.dice);
        let at_ns = path.arrival_ns(departure_ns, len, busy, &mut dice);
        half.dice = dice;
        half.last_arrival_ns = half.last_arrival_ns.max(at_ns);
        self.network
            .send(1 - self.side, &self.connection, half.last_arrival_ns, packet);
    }
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut guard = self.half();
        let half = &mut *guard;
        if half.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut taken = 0;
        while taken < buffer.len() {
            let Some(chunk) = half.received.front() else { break };
            let count = (chunk.len() - half.read).min(buffer.len() - taken);
            buffer[taken..taken + count].copy_from_slice(&chunk[half.read..half.read + count]);
            taken += count;
            half.read += count;
            if half.read == chunk.len() {
                half.received.pop_front();
                half.read = 0;
            }
        }
        if half.received.is_empty() && half.received.capacity() > 8 {
            half.received = VecDeque::new();
        }
        if taken > 0 {
            half.unreported += taken;
            if half.unreported >= WINDOW_BYTES / 2 {
                let credit = std::mem::take(&mut half.unreported);
                self.send(half, Packet::Credit(credit));
            }
            return Poll::Ready(Ok(taken));
        }
        if half.ended || buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        remember(&mut half.reader, cx);
        Poll::Pending
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut guard = self.half();
        let half = &mut *guard;
        if half.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if half.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if half.credit == 0 {
            remember(&mut half.writer, cx);
            return Poll::Pending;
        }
        let count = data.len().min(half.credit).min(PACKET_BYTES);
        half.credit -= count;
        self.send(half, Packet::Data(data[..count].to_vec()));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was written is on its way already, as with TCP without delay.
        if self.half().reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut half = self.half();
        if !half.closed && !half.reset {
            half.closed = true;
            self.send(&mut half, Packet::Fin);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut guard = self.connection.half(self.side);
        let half = &mut *guard;
        half.reader = None;
        half.writer = None;
        if half.reset {
            return;
        }
        if !half.closed {
            half.closed = true;
            self.send(half, Packet::Fin);
        }
        // What still comes finds nobody, as the kernel would say.
        if !half.ended {
            self.send(half, Packet::Reset);
        }
        half.reset = true;
        half.received = VecDeque::new();
    }
}

fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}
