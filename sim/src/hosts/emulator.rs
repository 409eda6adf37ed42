//! The thread between the hosts: takes packets from their devices and hands them over when their time has come.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{tun::Poll, wan::Wan, wan_ip4, wan_ip6};
use crate::{network::HostId, run::RunError};

/// The longest packet a device gives.
const PACKET_BYTES_MAX: usize = 65_536;
/// Packets taken from one device before the next has its turn.
const BATCH: usize = 32;
/// How long the thread sleeps at most: then it looks whether it is to end.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// The emulator; ends when dropped.
pub(super) struct Emulator {
    wan: Arc<Mutex<Wan>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    /// Starts it on the devices of the hosts, in their order.
    pub(super) fn start(wan: Wan, devices: Vec<OwnedFd>) -> Result<Self, RunError> {
        let fail = |error| RunError::io("cannot start the emulator of the links", error);
        let poll = Poll::new(&devices).map_err(fail)?;
        let wan = Arc::new(Mutex::new(wan));
        let stop = Arc::new(AtomicBool::new(false));
        let addresses = (0..devices.len())
            .flat_map(|host| {
                [
                    (IpAddr::V4(wan_ip4(host)), host as HostId),
                    (IpAddr::V6(wan_ip6(host)), host as HostId),
                ]
            })
            .collect();
        let mut forwarder = Forwarder {
            wan: wan.clone(),
            stop: stop.clone(),
            devices,
            poll,
            addresses,
            began: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("emulator".into())
            .spawn(move || forwarder.run())
            .map_err(fail)?;
        Ok(Self {
            wan,
            stop,
            thread: Some(thread),
        })
    }

    /// Looks at the links, or changes them. What is under way stays so.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Wan) -> T) -> T {
        change(&mut self.wan.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it broke, its devices are gone as well.
            let _ = thread.join();
        }
    }
}

struct Forwarder {
    wan: Arc<Mutex<Wan>>,
    stop: Arc<AtomicBool>,
    devices: Vec<OwnedFd>,
    poll: Poll,
    addresses: HashMap<IpAddr, HostId>,
    began: Instant,
}

impl Forwarder {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn run(&mut self) {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        while !self.stop.load(Ordering::Relaxed) {
            let next = self.deliver();
            let sleep = next.map_or(SLEEP_MAX, |at| {
                Duration::from_nanos(at.saturating_sub(self.now_ns())).min(SLEEP_MAX)
            });
            for host in self.poll.wait(sleep) {
                self.collect(host, &mut buffer);
            }
        }
    }

    /// Hands over what has arrived; when the next will have.
    fn deliver(&self) -> Option<u64> {
        loop {
            let now_ns = self.now_ns();
            let packet = {
                let mut wan = self.wan.lock().unwrap_or_else(PoisonError::into_inner);
                match wan.arrived(now_ns) {
                    Some(packet) => packet,
                    None => return wan.next_ns(),
                }
            };
            if let Some(device) = self.devices.get(packet.to as usize) {
                // A device whose queue is full drops it, as a network card would.
                let _ = rustix::io::write(device.as_fd(), &packet.bytes);
            }
        }
    }

    /// Takes what a host sends.
    fn collect(&self, host: usize, buffer: &mut [u8]) {
        let Some(device) = self.devices.get(host) else { return };
        for _ in 0..BATCH {
            let length = match rustix::io::read(device.as_fd(), &mut *buffer) {
                Ok(length) if length > 0 => length,
                // Nothing more for now; or the device is gone, and with it everything it could send.
                _ => return,
            };
            let packet = &buffer[..length];
            let to = destination(packet).and_then(|address| self.addresses.get(&address).copied());
            let now_ns = self.now_ns();
            if let Some(to) = to {
                let mut wan = self.wan.lock().unwrap_or_else(PoisonError::into_inner);
                wan.take(host as HostId, to, packet, now_ns);
            }
        }
    }
}

/// Where an IP packet goes.
pub(super) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => {
            let bytes: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some(Ipv4Addr::from(bytes).into())
        }
        6 => {
            let bytes: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

impl Poll {
    fn new(devices: &[OwnedFd]) -> io::Result<Self> {
        let mut poll = Self::empty()?;
        for (host, device) in devices.iter().enumerate() {
            poll.add(device.as_raw_fd(), host)?;
        }
        Ok(poll)
    }
}
