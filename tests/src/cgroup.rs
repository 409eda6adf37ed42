//! A limit of the kernel's on the memory of a process: beyond it the process is killed.
//!
//! Both versions of control groups are known. Who may not make one (no root, no controller) is told why, and goes without.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

/// Where control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// Looks for the end of the group's processes, before the group is left behind.
const REMOVALS_MAX: usize = 100;

#[derive(Debug, Clone, Copy)]
enum Version {
    One,
    Two,
}

/// A memory control group; removed when dropped.
#[derive(Debug)]
pub struct MemoryCgroup {
    path: PathBuf,
    version: Version,
}

impl MemoryCgroup {
    /// A group whose processes together use at most so much.
    ///
    /// # Errors
    /// In words, why there can be none here.
    pub fn new(limit_bytes: u64) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = Path::new(ROOT);
        let (parent, version) = match fs::read_to_string(root.join("cgroup.controllers")) {
            Ok(controllers) if controllers.split_whitespace().any(|c| c == "memory") => (root.to_owned(), Version::Two),
            Ok(_) => return Err("no memory controller for control groups".to_owned()),
            Err(_) => (root.join("memory"), Version::One),
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("weft-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let group = MemoryCgroup { path, version };
        let limits = match version {
            // The second is refused where the kernel does not account for swap; then there is none to escape to.
            Version::One => ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
            Version::Two => ["memory.max", "memory.swap.max"],
        };
        let swap = match version {
            Version::One => limit_bytes,
            Version::Two => 0,
        };
        group
            .write(limits[0], limit_bytes)
            .map_err(|e| format!("{}: {e}", limits[0]))?;
        let _ = group.write(limits[1], swap);
        Ok(group)
    }

    /// The file that takes in the process whose number is written to it.
    pub fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Processes that were killed because of the limit.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn killed(&self) -> u64 {
        let (file, name) = match self.version {
            Version::One => ("memory.oom_control", "oom_kill "),
            Version::Two => ("memory.events", "oom_kill "),
        };
        let text = fs::read_to_string(self.path.join(file)).unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix(name));
        count.expect("the kernel counts kills").trim().parse().unwrap()
    }

    fn write(&self, file: &str, value: u64) -> io::Result<()> {
        fs::write(self.path.join(file), value.to_string())
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        for _ in 0..REMOVALS_MAX {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
