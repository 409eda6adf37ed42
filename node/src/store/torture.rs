//! Breaking the store from outside: processes killed, power cut, and what must be there afterwards.
//!
//! A writer says on its standard output what was acknowledged, one line each: `ack log <n>` and `ack key <n>`. Whoever
//! breaks it keeps the highest numbers it has read and hands them to [`check`].

use super::{Log, Store, StoreError, StoreOptions};
use crate::platform::disk::RealDisk;
use bytes::Bytes;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

const LOG: &str = "torture";
const KEYSPACE: &str = "torture";
/// How many writers append at the same time, so that groups form.
const APPENDERS: u64 = 4;

/// The environment variable that turns a test binary into the writer: it holds the store's directory.
pub const WRITER_DIR: &str = "WEFT_TORTURE_DIR";

/// What a writer said before it was broken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Acked {
    /// Records of the log before this one were acknowledged.
    pub log: u64,
    /// Keys before this one were acknowledged.
    pub keys: u64,
}

impl Acked {
    /// Takes in a line of a writer; lines that say something else are passed over.
    pub fn note(&mut self, line: &str) {
        let number = |rest: &str| rest.trim().parse::<u64>().ok();
        if let Some(count) = line.strip_prefix("ack log ").and_then(number) {
            self.log = self.log.max(count);
        } else if let Some(count) = line.strip_prefix("ack key ").and_then(number) {
            self.keys = self.keys.max(count);
        }
    }
}

/// What [`check`] found to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// How many records the log has.
    pub log: u64,
    /// How many keys there are.
    pub keys: u64,
}

/// Why a round of torture did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TortureError {
    /// The store does not open or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A promise is broken.
    #[error("broken promise: {0}")]
    Broken(String),
    /// The machine refused a step.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

fn options() -> StoreOptions {
    // Small segments, so that sealing and making segments are hit too; no reserve, the loop device is small.
    StoreOptions {
        segment_bytes: 64 << 10,
        reserve_bytes: 1 << 20,
        ..StoreOptions::default()
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, TortureError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .map_err(io("start a runtime"))
}

fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> TortureError {
    move |source| TortureError::Io { action, source }
}

/// Appends to a log and puts keys until it is broken, and says what was acknowledged. Returns only with an error.
pub fn writer(dir: &Path) -> Result<(), TortureError> {
    runtime()?.block_on(async {
        let store = Store::open(RealDisk::shared(), dir, options()).await?;
        let log = store.log(LOG).await?;
        let highest = Arc::new(Mutex::new(0));
        let mut writers = tokio::task::JoinSet::new();
        for appender in 0..APPENDERS {
            writers.spawn(append_for_ever(log.clone(), appender, Arc::clone(&highest)));
        }
        writers.spawn(put_for_ever(store));
        match writers.join_next().await {
            Some(Ok(Err(error))) => Err(error),
            _ => Err(TortureError::Broken("a writer ended without an error".to_string())),
        }
    })
}

async fn append_for_ever(log: Log, appender: u64, highest: Arc<Mutex<u64>>) -> Result<(), TortureError> {
    for round in 0.. {
        let count = 1 + (appender + round) % 5;
        let records = (0..count).map(|index| record(appender, round, index, count)).collect();
        let next = log.append(records).await? + count;
        // Everything before an acknowledged record is durable as well, so one number says it all.
        let mut highest = highest.lock().unwrap_or_else(PoisonError::into_inner);
        if next > *highest {
            *highest = next;
            say(&format!("ack log {next}\n"))?;
        }
    }
    Ok(())
}

async fn put_for_ever(store: Store) -> Result<(), TortureError> {
    let keyspace = store.keyspace(KEYSPACE);
    let mut next = count_keys(&store).await?;
    loop {
        keyspace.put(next.to_be_bytes(), value(next)).await?;
        next += 1;
        say(&format!("ack key {next}\n"))?;
    }
}

fn say(line: &str) -> Result<(), TortureError> {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .map_err(io("write to standard output"))
}

fn record(appender: u64, round: u64, index: u64, count: u64) -> Bytes {
    let fill = "x".repeat(((appender * 31 + round * 7 + index) % 200) as usize);
    Bytes::from(format!("{appender} {round} {index} {count} {fill}"))
}

fn value(number: u64) -> Vec<u8> {
    format!("value {number} {}", "v".repeat((number % 300) as usize)).into_bytes()
}

/// Opens the store after it was broken and checks every promise: all that was acknowledged is there and right, the
/// records of one append are all there or none, the keys have no hole, and the store's own check finds nothing.
pub fn check(dir: &Path, acked: Acked) -> Result<Found, TortureError> {
    runtime()?.block_on(async {
        let store = Store::open(RealDisk::shared(), dir, options()).await?;
        let found = Found {
            log: check_log(&store).await?,
            keys: count_keys(&store).await?,
        };
        if found.log < acked.log || found.keys < acked.keys {
            return Err(TortureError::Broken(format!("acknowledged {acked:?}, found {found:?}")));
        }
        let report = store.verify().await?;
        if let Some(finding) = report.findings().next() {
            return Err(TortureError::Broken(format!("the store's own check found {finding:?}")));
        }
        store.close().await?;
        Ok(found)
    })
}

async fn check_log(store: &Store) -> Result<u64, TortureError> {
    let log = store.log(LOG).await?;
    let broken = |seq: u64, what: &str| Err(TortureError::Broken(format!("record {seq} {what}")));
    let mut seq = log.first_seq();
    let mut awaited = None;
    while seq < log.next_seq() {
        for found in log.read(seq, 1000, 1 << 20).await? {
            let text = String::from_utf8_lossy(&found.data);
            let mut numbers = text.splitn(5, ' ').filter_map(|number| number.parse::<u64>().ok());
            let (Some(appender), Some(round), Some(index), Some(count)) =
                (numbers.next(), numbers.next(), numbers.next(), numbers.next())
            else {
                return broken(found.seq, "is none of ours");
            };
            if found.seq != seq || found.data != record(appender, round, index, count) {
                return broken(found.seq, "is not what was appended");
            }
            let expected = awaited.unwrap_or((appender, round, 0));
            if (appender, round, index) != expected {
                return broken(found.seq, "follows an append that is there only in part");
            }
            awaited = (index + 1 < count).then_some((appender, round, index + 1));
            seq += 1;
        }
    }
    if awaited.is_some() {
        broken(seq, "is missing: the last append is there only in part")
    } else {
        Ok(seq)
    }
}

async fn count_keys(store: &Store) -> Result<u64, TortureError> {
    let keyspace = store.keyspace(KEYSPACE);
    let (mut count, mut after) = (0_u64, None::<Vec<u8>>);
    loop {
        let page = keyspace.scan_prefix(b"", after.as_deref(), 1000).await?;
        let Some((last, _)) = page.last() else { return Ok(count) };
        after = Some(last.clone());
        for (key, found) in page {
            if key != count.to_be_bytes() || found != value(count) {
                return Err(TortureError::Broken(format!("key {count} is missing or wrong")));
            }
            count += 1;
        }
    }
}

/// A writer in a process of its own, and what it has said so far.
#[derive(Debug)]
pub struct Victim {
    child: Child,
    acked: Arc<Mutex<Acked>>,
    reader: std::thread::JoinHandle<()>,
}

impl Victim {
    /// Starts `program`, which must call [`writer`] when it finds [`WRITER_DIR`] in its environment.
    pub fn start(program: &Path, arguments: &[&str], dir: &Path) -> Result<Victim, TortureError> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env(WRITER_DIR, dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().map_err(io("start the writer"))?;
        let output = child.stdout.take().expect("invariant: the output is piped");
        let acked = Arc::new(Mutex::new(Acked::default()));
        let shared = Arc::clone(&acked);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).note(&line);
            }
        });
        Ok(Victim { child, acked, reader })
    }

    /// What was acknowledged up to now.
    pub fn acked(&self) -> Acked {
        *self.acked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the writer is still at work.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it with SIGKILL; gives all it ever said.
    pub fn kill(mut self) -> Result<Acked, TortureError> {
        self.child.kill().map_err(io("kill the writer"))?;
        self.child.wait().map_err(io("wait for the writer"))?;
        let _ = self.reader.join();
        Ok(*self.acked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How a series of power cuts went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PowerCuts {
    /// The machine cannot do it, and why.
    Skipped(String),
    /// All rounds went well.
    Survived {
        /// How many times the power was cut.
        cuts: u64,
        /// How many records and keys had been acknowledged before the cuts.
        acked: u64,
    },
}

/// Cuts the power of a file system (`ext4` or `xfs`) on a loop device under a writer, `cycles` times, and checks after
/// each cut. Needs root, loop devices and `mkfs`; without them it says so. `program` is as in [`Victim::start`]; `pause`
/// gives how long each writer may work.
///
/// The cut is `EXT4_IOC_SHUTDOWN` without flushing the journal: everything not synced is gone.
pub fn power_cut(
    cycles: u64,
    file_system: &str,
    program: &Path,
    arguments: &[&str],
    mut pause: impl FnMut(u64) -> std::time::Duration,
) -> Result<PowerCuts, TortureError> {
    let rig = match Rig::build(file_system) {
        Ok(rig) => rig,
        Err(reason) => return Ok(PowerCuts::Skipped(reason)),
    };
    let dir = rig.mount.join("store");
    let (mut total, mut before) = (0, Acked::default());
    for cycle in 0..cycles {
        rig.mount()?;
        let victim = Victim::start(program, arguments, &dir)?;
        std::thread::sleep(pause(cycle));
        // Only what was said before the cut counts: a sync racing with it may return although nothing reached the disk.
        let said = victim.acked();
        rig.cut()?;
        victim.kill()?;
        rig.unmount()?;
        rig.mount()?;
        let acked = Acked {
            log: said.log.max(before.log),
            keys: said.keys.max(before.keys),
        };
        let found = if rig.holds_store(&dir) {
            check(&dir, acked)?
        } else {
            Found { log: 0, keys: 0 }
        };
        if found.log < acked.log || found.keys < acked.keys {
            return Err(TortureError::Broken(format!(
                "cycle {cycle}: acknowledged {acked:?}, found {found:?}"
            )));
        }
        total += (said.log.max(before.log) - before.log) + (said.keys.max(before.keys) - before.keys);
        before = Acked {
            log: found.log,
            keys: found.keys,
        };
        rig.unmount()?;
    }
    Ok(PowerCuts::Survived {
        cuts: cycles,
        acked: total,
    })
}

/// A file system in a file, and where it is mounted; both are taken away at the end.
struct Rig {
    folder: PathBuf,
    mount: PathBuf,
    image: PathBuf,
}

impl Rig {
    const IMAGE_BYTES: u64 = 400 << 20;

    fn build(file_system: &str) -> Result<Rig, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("a power cut needs root".to_string());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Err("a power cut needs loop devices".to_string());
        }
        let folder = std::env::temp_dir().join(format!("weft-power-cut-{file_system}-{}", std::process::id()));
        let rig = Rig {
            mount: folder.join("mount"),
            image: folder.join("image"),
            folder,
        };
        std::fs::create_dir_all(&rig.mount).map_err(|error| format!("cannot make {}: {error}", rig.mount.display()))?;
        let image = std::fs::File::create(&rig.image).and_then(|file| file.set_len(Rig::IMAGE_BYTES));
        image.map_err(|error| format!("cannot make {}: {error}", rig.image.display()))?;
        let made = Command::new(format!("mkfs.{file_system}"))
            .arg("-q")
            .arg(&rig.image)
            .output();
        match made {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                return Err(format!(
                    "mkfs.{file_system} failed: {}",
                    String::from_utf8_lossy(&output.stderr)
                ));
            }
            Err(error) => return Err(format!("mkfs.{file_system} cannot be run: {error}")),
        }
        rig.mount().map_err(|error| error.to_string())?;
        rig.unmount().map_err(|error| error.to_string())?;
        Ok(rig)
    }

    fn mount(&self) -> Result<(), TortureError> {
        run(
            "mount the loop device",
            Command::new("mount")
                .arg("-o")
                .arg("loop")
                .arg(&self.image)
                .arg(&self.mount),
        )
    }

    fn unmount(&self) -> Result<(), TortureError> {
        run("unmount the loop device", Command::new("umount").arg(&self.mount))
    }

    /// The store's folder may be lost with the first cut, before anything was acknowledged.
    fn holds_store(&self, dir: &Path) -> bool {
        dir.exists()
    }

    fn cut(&self) -> Result<(), TortureError> {
        /// `_IOR('X', 125, u32)`, understood by ext4 and xfs alike.
        const SHUTDOWN: u32 = 0x8004_587d;
        const WITHOUT_FLUSHING_THE_LOG: u32 = 2;
        let root = std::fs::File::open(&self.mount).map_err(io("open the mount point"))?;
        // SAFETY: the request reads one u32 from the pointer it is given, which `Setter` hands over.
        let cut = unsafe {
            let request = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(WITHOUT_FLUSHING_THE_LOG);
            rustix::ioctl::ioctl(&root, request)
        };
        cut.map_err(|error| TortureError::Io {
            action: "cut the power",
            source: error.into(),
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mount).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn run(action: &'static str, command: &mut Command) -> Result<(), TortureError> {
    let output = command.output().map_err(io(action))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(TortureError::Io {
        action,
        source: std::io::Error::other(text),
    })
}
