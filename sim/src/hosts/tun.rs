//! The system calls that no library here has: entering a network namespace, opening a TUN device, waiting with nanoseconds.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

/// Name of the device in its namespace.
pub(super) const DEVICE: &str = "wan0";

/// From `linux/if_tun.h`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// `struct ifreq` with flags in its union.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// Moves the calling thread into a network namespace. Async-signal-safe: for use between fork and exec, too.
pub(super) fn enter(space: &OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is open; the call changes nothing but the thread's namespace.
    match unsafe { libc::setns(space.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens a TUN device in a namespace. It is gone when the descriptor is closed.
pub(super) fn open(space: OwnedFd) -> io::Result<OwnedFd> {
    // On a thread of its own, which ends: this one stays where it is.
    let opened = std::thread::Builder::new().name("tun".into()).spawn(move || {
        enter(&space)?;
        open_here()
    })?;
    opened
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that opens a device broke")))
}

fn open_here() -> io::Result<OwnedFd> {
    let path = CString::new("/dev/net/tun")?;
    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: the path ends with a zero; the descriptor is owned from here on.
    let device = unsafe {
        let raw = libc::open(path.as_ptr(), flags);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(raw)
    };
    let mut request = InterfaceRequest {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short,
        rest: [0; 22],
    };
    request.name[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    // SAFETY: the request is as long as the kernel reads and writes it.
    match unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) } {
        0 => Ok(device),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for any of many descriptors, with the precision of nanoseconds.
pub(super) struct Poll {
    epoll: OwnedFd,
}

/// Events taken at once.
const EVENTS: usize = 64;

impl Poll {
    pub(super) fn empty() -> io::Result<Self> {
        // SAFETY: the descriptor is owned from here on.
        unsafe {
            match libc::epoll_create1(libc::EPOLL_CLOEXEC) {
                raw if raw >= 0 => Ok(Self {
                    epoll: OwnedFd::from_raw_fd(raw),
                }),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    /// Adds a descriptor, by the number that [`Poll::wait`] gives back. It must stay open as long as this.
    pub(super) fn add(&mut self, descriptor: RawFd, number: usize) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: number as u64,
        };
        // SAFETY: both descriptors are open, and the event is read during the call only.
        let result =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, descriptor, &raw mut event) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// The numbers of those that can be read, after at most so long.
    pub(super) fn wait(&self, at_most: Duration) -> Vec<usize> {
        let span = libc::timespec {
            tv_sec: at_most.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(at_most.subsec_nanos() as i32),
        };
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // SAFETY: the list has room for as many events as is said, and no signal mask is given.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS as libc::c_int,
                &raw const span,
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        // Interrupted by a signal, or nothing came: the caller looks again.
        let count = usize::try_from(count).unwrap_or(0);
        events[..count].iter().map(|event| event.u64 as usize).collect()
    }
}

/// A namespace by its name.
pub(super) fn space(name: &str) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/var/run/netns/{name}"))?.into())
}
