//! What is done to a node, by the means of the operating system alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use super::Host;
use crate::until;

/// How long a killed node stays away.
const AWAY: Duration = Duration::from_secs(1);
/// How long a process is stopped: longer than its neighbours take it for alive.
const STOPPED: Duration = Duration::from_secs(20);
/// How long anything else lasts.
const LASTS: Duration = Duration::from_secs(6);
/// By how much a clock jumps.
const CLOCK_JUMP: [&str; 2] = ["+300s", "-300s"];
/// Descriptors that are left: nobody new is let in.
const DESCRIPTORS_LEFT: u64 = 0;
/// Where a library that lies about the time of day is, below a folder of the architecture's (package libfaketime).
const FAKETIME: &str = "faketime/libfaketimeMT.so.1";

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9`, and started again after a second.
    Kill,
    /// SIGSTOP, and SIGCONT after twenty seconds.
    Stop,
    /// No byte is free on its disk for six seconds.
    DiskFull,
    /// Each fsync fails with EIO for six seconds; then the node is killed and started again, for what was written meanwhile nobody can know.
    FsyncFails,
    /// Killed, started on a disk that takes no writes, which it must refuse with a reason, and started again on one that does.
    ReadOnly,
    /// No descriptor is left for six seconds.
    Descriptors,
    /// No page more is given for six seconds. If that ends it, it is started again.
    Memory,
    /// Its clock is five minutes ahead for six seconds, then five minutes late.
    Clock,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 8] = [
        Fault::Kill,
        Fault::Stop,
        Fault::DiskFull,
        Fault::FsyncFails,
        Fault::ReadOnly,
        Fault::Descriptors,
        Fault::Memory,
        Fault::Clock,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Stop => "stop",
            Fault::DiskFull => "disk-full",
            Fault::FsyncFails => "fsync-fails",
            Fault::ReadOnly => "read-only",
            Fault::Descriptors => "descriptors",
            Fault::Memory => "memory",
            Fault::Clock => "clock",
        }
    }

    /// Why it cannot be done here, in words.
    ///
    /// # Errors
    /// What is missing.
    pub fn possible(self) -> Result<(), String> {
        let root = rustix::process::geteuid().is_root();
        match self {
            Fault::DiskFull | Fault::ReadOnly if !root => Err("a file system of its own needs root".to_owned()),
            Fault::FsyncFails => {
                let version = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
                version
                    .map(drop)
                    .map_err(|_| "strace is missing (package strace)".to_owned())
            }
            Fault::Clock => faketime().map(drop),
            _ => Ok(()),
        }
    }

    /// Whether it needs a disk of the node's own.
    pub fn needs_disk(self) -> bool {
        matches!(self, Fault::DiskFull | Fault::ReadOnly)
    }

    /// Whether connections are away for more than 3 s by it, though the process goes on.
    pub fn breaks_connections(self) -> bool {
        self == Fault::Stop
    }

    /// Does it, to its end. Afterwards the node runs; whether as another process is the answer. `gone` is called when one process has
    /// ended and the next is not there yet.
    pub(super) fn strike(self, host: &mut Host, gone: &mut dyn FnMut()) -> bool {
        match self {
            Fault::Kill => {
                host.node.kill();
                return_of(host, gone)
            }
            Fault::Stop => {
                host.node.signal(Signal::STOP);
                thread::sleep(STOPPED);
                host.node.signal(Signal::CONT);
                false
            }
            Fault::DiskFull => {
                let disk = host.disk.as_ref().expect("it has a disk");
                disk.fill();
                thread::sleep(LASTS);
                disk.free();
                false
            }
            Fault::FsyncFails => {
                let liar = failing_fsync(host.node.pid());
                thread::sleep(LASTS);
                drop(liar);
                host.node.end();
                return_of(host, gone)
            }
            Fault::ReadOnly => {
                host.node.kill();
                refuses_read_only(host);
                return_of(host, gone)
            }
            Fault::Descriptors => {
                let left = host.node.open_fds() as u64 + DESCRIPTORS_LEFT;
                limited(host, Resource::Nofile, left, gone)
            }
            Fault::Memory => limited(host, Resource::As, 0, gone),
            Fault::Clock => {
                for jump in CLOCK_JUMP {
                    set_clock(&host.clock, jump);
                    thread::sleep(LASTS);
                }
                set_clock(&host.clock, "+0");
                false
            }
        }
    }
}

fn faketime() -> Result<PathBuf, String> {
    let folders = fs::read_dir("/usr/lib").map_err(|e| e.to_string())?;
    let mut found = folders.flatten().map(|folder| folder.path().join(FAKETIME));
    let missing = || format!("{FAKETIME} is missing (package libfaketime)");
    found.find(|path| path.is_file()).ok_or_else(missing)
}

/// The environment in which the time of day is what the file says.
pub(super) fn clock_environment(file: &Path) -> [(&'static str, String); 4] {
    set_clock(file, "+0");
    [
        ("LD_PRELOAD", faketime().unwrap_or_default().display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

fn set_clock(file: &Path, to: &str) {
    // In one step: the library may read it at any moment.
    let next: PathBuf = file.with_extension("next");
    fs::write(&next, to).unwrap();
    fs::rename(next, file).unwrap();
}

/// A tracer that makes each fsync of a process fail; it lets go of it when dropped.
struct Tracer(Child);

fn failing_fsync(pid: u32) -> Tracer {
    let calls = "fsync,fdatasync,sync_file_range,syncfs";
    let child = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string()])
        .args([
            "-e",
            &format!("trace={calls}"),
            "-e",
            &format!("inject={calls}:error=EIO"),
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Tracer(child)
}

impl Drop for Tracer {
    fn drop(&mut self) {
        crate::background::signal_to(self.0.id(), Signal::INT);
        let _ = self.0.wait();
    }
}

/// A node on a disk that takes no writes ends with a reason; then the disk takes them again.
fn refuses_read_only(host: &mut Host) {
    let disk = host.disk.as_ref().expect("it has a disk");
    until("the disk is read-only", || disk.set_read_only(true).ok());
    host.node.spawn();
    let (code, log) = host.node.wait_ended();
    assert!(
        code.is_some_and(|c| c != 0),
        "on a read-only disk it ended with {code:?}\n{log}"
    );
    let said = log.lines().last().unwrap_or_default();
    assert!(
        log.to_lowercase().contains("read-only"),
        "no word of the read-only disk: {said}"
    );
    let disk = host.disk.as_ref().expect("it has a disk");
    until("the disk takes writes", || disk.set_read_only(false).ok());
}

/// Starts a node whose process has ended, a moment later: what it had said has been heard by then.
fn return_of(host: &mut Host, gone: &mut dyn FnMut()) -> bool {
    thread::sleep(AWAY);
    gone();
    host.node.start();
    true
}

/// Lowers a limit of the process for a while; whether it had to be started again.
fn limited(host: &mut Host, resource: Resource, to: u64, gone: &mut dyn FnMut()) -> bool {
    let pid = i32::try_from(host.node.pid()).ok().and_then(Pid::from_raw);
    let before = rustix::process::getrlimit(resource);
    let lowered = Rlimit {
        current: Some(to),
        maximum: before.maximum,
    };
    let was = prlimit(pid, resource, lowered).unwrap();
    thread::sleep(LASTS);
    if host.node.has_ended() {
        return return_of(host, gone);
    }
    prlimit(pid, resource, was).unwrap();
    false
}
