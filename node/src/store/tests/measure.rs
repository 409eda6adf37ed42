//! What the store costs, side by side with the disk itself. Run in release, alone:
//! `cargo test --release -p weft-node store::tests::measure -- --ignored --nocapture --test-threads 1`.

#![expect(clippy::print_stdout, reason = "figures are what these are for")]

use super::super::{Batch, Keyspace, Log, RECORD_HEADER_BYTES, Store, StoreOptions};
use crate::platform::disk::{Disk, OpenMode, RealDisk};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const RECORD_BYTES: usize = 128;
const ROUND: Duration = Duration::from_millis(400);
const ROUNDS: usize = 9;

fn folder() -> tempfile::TempDir {
    // Not /tmp where that is memory: a sync there costs nothing and says nothing.
    let place = std::env::var_os("WEFT_MEASURE_DIR").unwrap_or_else(|| std::env::temp_dir().into());
    tempfile::tempdir_in(place).unwrap()
}

/// Records a second when the disk is synced after every `group` records, with nothing else done.
fn disk_alone(dir: &Path, group: usize) -> f64 {
    let file = RealDisk::default()
        .open(&dir.join(format!("raw-{group}")), OpenMode::CREATE)
        .unwrap();
    let bytes = vec![7; group * (RECORD_BYTES + RECORD_HEADER_BYTES)];
    let (mut end, mut records, start) = (0, 0, Instant::now());
    while start.elapsed() < ROUND {
        file.write_at(&bytes, end).unwrap();
        file.sync_data().unwrap();
        end += bytes.len() as u64;
        records += group;
    }
    records as f64 / start.elapsed().as_secs_f64()
}

async fn appends(log: &Log, depth: usize) -> f64 {
    let count = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..depth {
        let (log, count) = (log.clone(), Arc::clone(&count));
        clients.spawn(async move {
            let data = Bytes::from(vec![7; RECORD_BYTES]);
            while start.elapsed() < ROUND {
                log.append(vec![data.clone()]).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    clients.join_all().await;
    count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a measurement, not a check"]
fn appends_against_the_disk() {
    let folder = folder();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let store = runtime.block_on(Store::open(
        RealDisk::shared(),
        &folder.path().join("store"),
        StoreOptions::default(),
    ));
    let log = runtime.block_on(store.as_ref().unwrap().log("measured")).unwrap();
    for depth in [1, 64, 512] {
        // In turns, because a shared machine's disk changes its mind from second to second; the median says most.
        let mut rounds: Vec<(f64, f64)> = (0..ROUNDS)
            .map(|_| (disk_alone(folder.path(), depth), runtime.block_on(appends(&log, depth))))
            .collect();
        rounds.sort_by(|one, two| (one.1 / one.0).total_cmp(&(two.1 / two.0)));
        let ratios: Vec<String> = rounds.iter().map(|(disk, log)| format!("{:.2}", log / disk)).collect();
        let (disk, log) = rounds[ROUNDS / 2];
        println!(
            "depth {depth:>3}: median disk {disk:>8.0}/s, log {log:>8.0}/s; ratios {}",
            ratios.join(" ")
        );
    }
}

#[test]
#[ignore = "a measurement, not a check"]
fn cost_of_an_append_and_a_replay() {
    let folder = folder();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::open(RealDisk::shared(), folder.path(), StoreOptions::default())
            .await
            .unwrap();
        let log = store.log("measured").await.unwrap();
        let records: Vec<Bytes> = (0..256).map(|_| Bytes::from(vec![7; 256])).collect();
        let (start, cpu) = (Instant::now(), cpu_seconds());
        for _ in 0..4000 {
            log.append(records.clone()).await.unwrap();
        }
        let count = log.next_seq() as f64;
        let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        println!(
            "append 256 x 256 B: {:.0} records/s, {:.2} us CPU each",
            count / wall,
            cpu / count * 1e6
        );
        store.close().await.unwrap();
        drop((log, store));
        let start = Instant::now();
        let store = Store::open(RealDisk::shared(), folder.path(), StoreOptions::default())
            .await
            .unwrap();
        let log = store.log("measured").await.unwrap();
        println!("reopen: {:.3} s", start.elapsed().as_secs_f64());
        let (start, mut seq) = (Instant::now(), 0);
        while seq < log.next_seq() {
            seq += log.read(seq, 4096, 1 << 20).await.unwrap().len() as u64;
        }
        println!("replay: {:.0} records/s", count / start.elapsed().as_secs_f64());
        let (start, reads) = (Instant::now(), 20_000);
        for index in 0..reads {
            log.read(index * 7_919 % seq, 1, 1).await.unwrap();
        }
        println!("random reads: {:.0}/s", reads as f64 / start.elapsed().as_secs_f64());
        let start = Instant::now();
        assert!(store.verify().await.unwrap().is_ok());
        println!(
            "verify: {:.0} MB/s; memory {} MB",
            count * 312.0 / start.elapsed().as_secs_f64() / 1e6,
            resident_mb()
        );
    });
}

#[test]
#[ignore = "a measurement, not a check"]
fn cost_of_the_state() {
    let folder = folder();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        println!("memory before: {} MB", resident_mb());
        let store = Store::open(RealDisk::shared(), folder.path(), StoreOptions::default())
            .await
            .unwrap();
        println!("memory with an empty store: {} MB", resident_mb());
        let keyspace = store.keyspace("measured");
        let (start, keys) = (Instant::now(), 200_000_u64);
        for first in (0..keys).step_by(1000) {
            let put = |batch: Batch, key: u64| batch.put(key.wrapping_mul(0x9E37_79B9).to_be_bytes(), vec![7; 256]);
            keyspace
                .commit((first..first + 1000).fold(Batch::new(), put))
                .await
                .unwrap();
        }
        let wall = start.elapsed().as_secs_f64();
        println!(
            "load {keys} values of 256 B in batches of 1000: {:.0}/s, {} MB",
            keys as f64 / wall,
            resident_mb()
        );
        for depth in [1, 64, 512] {
            println!("commits at depth {depth}: {:.0}/s", commits(&keyspace, depth).await);
        }
        let start = Instant::now();
        for key in 0..20_000_u64 {
            keyspace
                .get(&(key * 7 % keys).wrapping_mul(0x9E37_79B9).to_be_bytes())
                .await
                .unwrap()
                .unwrap();
        }
        println!(
            "random gets: {:.0}/s, {} MB",
            20_000.0 / start.elapsed().as_secs_f64(),
            resident_mb()
        );
        println!("file: {} MB", store.stats().await.unwrap().state_bytes >> 20);
        store.close().await.unwrap();
        drop((keyspace, store));
        for check_state in [true, false] {
            let start = Instant::now();
            let options = StoreOptions {
                check_state,
                ..StoreOptions::default()
            };
            let store = Store::open(RealDisk::shared(), folder.path(), options).await.unwrap();
            println!(
                "reopen, check_state {check_state}: {:.3} s, {} MB",
                start.elapsed().as_secs_f64(),
                resident_mb()
            );
            store.close().await.unwrap();
        }
    });
}

async fn commits(keyspace: &Keyspace, depth: usize) -> f64 {
    let (count, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..depth {
        let (keyspace, count) = (keyspace.clone(), Arc::clone(&count));
        clients.spawn(async move {
            while start.elapsed() < ROUND {
                keyspace.put(format!("client {client}"), vec![7; 128]).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    clients.join_all().await;
    count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: f64 = [11, 12]
        .iter()
        .filter_map(|at| fields.get(*at)?.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

fn resident_mb() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or("");
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}
