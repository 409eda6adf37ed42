//! The store on a disk that was changed behind its back: it opens or says what is wrong, and serves nothing that was not written.
#![no_main]

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use weft_node::{
    platform::disk::MemoryDisk,
    store::{Store, StoreOptions},
};

const DIR: &str = "/store";
const LOG: &str = "orders";
const RECORDS: u64 = 40;
const VALUES: u8 = 30;
/// Changes of one run.
const CHANGES_MAX: usize = 8;
/// Bytes of one change.
const CHANGE_BYTES: usize = 8;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));
/// The files of a store that was filled and closed.
static FILES: LazyLock<Vec<(PathBuf, Vec<u8>)>> = LazyLock::new(|| {
    let disk = Arc::new(MemoryDisk::new());
    RUNTIME.block_on(fill(Arc::clone(&disk)));
    let files = disk.files().into_iter();
    let files = files.map(|(path, _)| (path.clone(), disk.contents(&path).expect("it is there")));
    files.filter(|(path, _)| !path.ends_with("LOCK")).collect()
});

fn options() -> StoreOptions {
    StoreOptions {
        cache_bytes: 64 << 10,
        // Several segments.
        segment_bytes: 2 << 10,
        reserve_bytes: 0,
        ahead_bytes: 0,
        ..StoreOptions::default()
    }
}

fn record(n: u64) -> Vec<u8> {
    format!("record {n} {}", "x".repeat(n as usize * 7 % 200)).into_bytes()
}

fn value(n: u8) -> Vec<u8> {
    vec![n; usize::from(n) * 11]
}

async fn fill(disk: Arc<MemoryDisk>) {
    let store = Store::open(disk, Path::new(DIR), options())
        .await
        .expect("an empty store");
    let log = store.log(LOG).await.expect("a log");
    for n in 0..RECORDS {
        log.append(vec![record(n).into()]).await.expect("appended");
    }
    let keyspace = store.keyspace("trust");
    for n in 0..VALUES {
        keyspace.put(vec![n], value(n)).await.expect("put");
    }
    store.close().await.expect("closed");
}

fuzz_target!(|bytes: &[u8]| {
    let disk = Arc::new(MemoryDisk::new());
    let mut files = FILES.clone();
    for change in bytes.chunks(CHANGE_BYTES).take(CHANGES_MAX) {
        apply(&mut files, change);
    }
    RUNTIME.block_on(async {
        // The folders are made as the store makes them, then the files are what they are.
        let made = Store::open(Arc::clone(&disk) as _, Path::new(DIR), options())
            .await
            .expect("an empty store");
        made.log(LOG).await.expect("a log");
        made.close().await.expect("closed");
        for (path, data) in &files {
            disk.replace(path, data).expect("replaced");
        }
        look(Arc::clone(&disk)).await;
    });
});

/// `[file, kind, place, place, bytes…]`.
fn apply(files: &mut [(PathBuf, Vec<u8>)], change: &[u8]) {
    let [file, kind, high, low, rest @ ..] = change else {
        return;
    };
    let count = files.len();
    let data = &mut files[usize::from(*file) % count].1;
    let at = usize::from(u16::from_be_bytes([*high, *low])) % (data.len() + 1);
    match kind % 5 {
        0 => data.truncate(at),
        1 => data.iter_mut().skip(at).take(4096).for_each(|byte| *byte = 0),
        2 => data
            .iter_mut()
            .skip(at)
            .zip(rest)
            .for_each(|(byte, change)| *byte ^= change),
        3 => data
            .iter_mut()
            .skip(at)
            .zip(rest)
            .for_each(|(byte, change)| *byte = *change),
        _ => data.extend_from_slice(rest),
    }
}

async fn look(disk: Arc<MemoryDisk>) {
    let Ok(store) = Store::open(disk, Path::new(DIR), options()).await else {
        return;
    };
    let keyspace = store.keyspace("trust");
    for n in 0..VALUES {
        if let Ok(Some(found)) = keyspace.get(&[n]).await {
            assert_eq!(found, value(n), "the value of {n}");
        }
    }
    let _ = keyspace.scan_prefix(&[], None, 100).await;
    if let Ok(log) = store.existing_log(LOG).await {
        let mut next = 0;
        while let Ok(records) = log.read(next, 7, 1 << 20).await {
            let Some(last) = records.last() else { break };
            next = last.seq + 1;
            for found in records {
                assert_eq!(found.data, record(found.seq), "record {}", found.seq);
            }
        }
        assert!(next <= RECORDS, "a record that nobody wrote");
        let _ = log.append(vec![b"one more".as_slice().into()]).await;
    }
    let _ = store.verify().await;
    let _ = store.close().await;
}
