//! The libp2p transport of one host.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::{FutureExt as _, channel::oneshot, future::BoxFuture};
use libp2p::{
    Multiaddr,
    core::{
        Endpoint, Transport,
        transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
    },
};

use super::{
    Backlog, HostId, Network, Packet,
    address::{self, PORT, Place},
    stream::{Connection, SimStream},
};
use crate::{scenario::Nat, virtual_os::split_mix};

/// Ports that a dial may come from begin here.
const PORT_FIRST: u16 = 32_768;

struct Listener {
    id: ListenerId,
    address: Multiaddr,
    backlog: Arc<Mutex<Backlog>>,
}

type Ready = futures::future::Ready<io::Result<SimStream>>;

/// See the module.
pub struct SimTransport {
    network: Arc<Network>,
    host: HostId,
    listener: Option<Listener>,
    events: VecDeque<TransportEvent<Ready, io::Error>>,
}

impl SimTransport {
    /// The transport of `host`.
    pub fn new(network: Arc<Network>, host: HostId) -> Self {
        SimTransport {
            network,
            host,
            listener: None,
            events: VecDeque::new(),
        }
    }

    fn stop_listening(&mut self) -> Option<Listener> {
        let listener = self.listener.take()?;
        let mut inner = self.network.lock();
        if let Some(host) = inner.hosts.get_mut(self.host as usize)
            && host
                .listener
                .as_ref()
                .is_some_and(|l| Arc::ptr_eq(l, &listener.backlog))
        {
            host.listener = None;
        }
        Some(listener)
    }

    /// Makes a connection that is not answered yet.
    fn begin_dial(&self, target: (Place, u16), to: HostId, options: DialOpts) -> (Arc<Connection>, Pending) {
        let (sender, receiver) = oneshot::channel();
        let now_ns = self.network.now_ns();
        let mut inner = self.network.lock();
        inner.connections += 1;
        let id = inner.connections;
        let paths = [inner.links.path(self.host, to), inner.links.path(to, self.host)];
        let generation = inner.links.generation();
        let remote_boot = inner.hosts.get(to as usize).map_or(0, |host| host.boot);
        let host = &mut inner.hosts[self.host as usize];
        let reuses = options.port_use == PortUse::Reuse && host.listener.is_some() && host.nat != Nat::Symmetric;
        host.port = host.port.wrapping_add(1) % (u16::MAX - PORT_FIRST);
        let port = if reuses { PORT } else { PORT_FIRST + host.port };
        if reuses {
            host.spoke_to.insert(to, now_ns);
        }
        let connection = Connection::new(
            id,
            [self.host, to],
            [host.boot, remote_boot],
            target,
            address::seen(self.host, host.nat != Nat::None, port),
            reuses,
            options.role == Endpoint::Listener,
            paths,
            self.network.seed,
            generation,
        );
        host.dialing.insert(id, (sender, Arc::clone(&connection)));
        let pending = Pending {
            network: Arc::clone(&self.network),
            host: self.host,
            id,
            receiver,
        };
        (connection, pending)
    }
}

/// A dial that nobody waits for any more is forgotten.
struct Pending {
    network: Arc<Network>,
    host: HostId,
    id: u64,
    receiver: oneshot::Receiver<io::Result<SimStream>>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        let removed = self
            .network
            .lock()
            .hosts
            .get_mut(self.host as usize)
            .and_then(|host| host.dialing.remove(&self.id));
        // Outside the lock: a stream in it would want the lock too.
        drop(removed);
    }
}

impl Drop for SimTransport {
    fn drop(&mut self) {
        let listener = self.stop_listening();
        // Connections that nobody took are closed, outside the lock.
        drop(listener);
    }
}

impl Transport for SimTransport {
    type Output = SimStream;
    type Error = io::Error;
    type ListenerUpgrade = Ready;
    type Dial = BoxFuture<'static, io::Result<SimStream>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let own = self.network.listen_address(self.host);
        if address::parse(&address).is_none() {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        if address != own {
            return Err(TransportError::Other(io::ErrorKind::AddrNotAvailable.into()));
        }
        let backlog = Arc::new(Mutex::new(Backlog::default()));
        {
            let mut inner = self.network.lock();
            let host = &mut inner.hosts[self.host as usize];
            if host.listener.is_some() {
                return Err(TransportError::Other(io::ErrorKind::AddrInUse.into()));
            }
            host.listener = Some(Arc::clone(&backlog));
        }
        self.listener = Some(Listener {
            id,
            address: address.clone(),
            backlog,
        });
        self.events.push_back(TransportEvent::NewAddress {
            listener_id: id,
            listen_addr: address,
        });
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        if self.listener.as_ref().is_some_and(|listener| listener.id == id) {
            drop(self.stop_listening());
            self.events.push_back(TransportEvent::ListenerClosed {
                listener_id: id,
                reason: Ok(()),
            });
            return true;
        }
        false
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let Some(target) = address::parse(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let to = match target.0 {
            Place::Host(host) | Place::Nat(host) => host,
            // Somebody else's private network: no route leads there.
            Place::Private(_) => return Ok(futures::future::err(io::ErrorKind::HostUnreachable.into()).boxed()),
        };
        if to as usize >= self.network.lock().hosts.len() || to == self.host {
            return Ok(futures::future::err(io::ErrorKind::HostUnreachable.into()).boxed());
        }
        let (connection, mut pending) = self.begin_dial(target, to, options);
        let network = Arc::clone(&self.network);
        let dial = async move {
            let at_ns = {
                let half = connection.half(0);
                let mut dice = network.seed ^ connection.id.rotate_left(32);
                split_mix(&mut dice);
                half.path.arrival_ns(network.now_ns(), 0, false, &mut dice)
            };
            network.send(1, &connection, at_ns, Packet::Syn);
            // The dialer's own half keeps the connection no longer than the dial.
            drop(connection);
            let answer = (&mut pending.receiver).await;
            answer.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionAborted.into()))
        };
        Ok(dial.boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Ready, io::Error>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        if let Some(listener) = &self.listener {
            let mut backlog = listener.backlog.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((stream, remote)) = backlog.waiting.pop_front() {
                return Poll::Ready(TransportEvent::Incoming {
                    listener_id: listener.id,
                    upgrade: futures::future::ready(Ok(stream)),
                    local_addr: listener.address.clone(),
                    send_back_addr: remote,
                });
            }
            backlog.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}
