//! A data directory as version 1 wrote it: what is in users' hands must open with every later program.

use super::super::{Store, StoreOptions};
use super::{in_dir, run};
use crate::platform::disk::{Disk, MemoryDisk};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

const FILES: &[(&str, &[u8])] = &[
    ("FORMAT", include_bytes!("golden/v1/FORMAT")),
    ("state.redb", include_bytes!("golden/v1/state.redb")),
    (
        "logs/events/00000000000000000000.seg",
        include_bytes!("golden/v1/events-0.seg"),
    ),
    (
        "logs/events/00000000000000000007.seg",
        include_bytes!("golden/v1/events-7.seg"),
    ),
];

const ROOT: &str = "1f9edf6cebe6653f70c717fe8ff7aa4691477f6ff8a52397adf116cbc4d7020c";

fn options() -> StoreOptions {
    StoreOptions {
        owner: [1; 32],
        segment_bytes: 700,
        reserve_bytes: 0,
        ahead_bytes: 0,
        ..StoreOptions::default()
    }
}

fn record(seq: u64) -> Bytes {
    Bytes::from(format!("golden record {seq} {}", "r".repeat(seq as usize * 3)))
}

async fn open(disk: &MemoryDisk) -> Store {
    Store::open(Arc::new(disk.clone()), Path::new("/weft"), options())
        .await
        .unwrap()
}

async fn fill(store: &Store) {
    for key in 0..20_u8 {
        store
            .keyspace("golden")
            .put([key], vec![key; usize::from(key)])
            .await
            .unwrap();
    }
    let log = store.log("events").await.unwrap();
    for seq in 0..8 {
        log.append(vec![record(seq)]).await.unwrap();
    }
}

#[test]
fn a_directory_of_version_1_opens_and_is_whole() {
    let disk = MemoryDisk::new();
    disk.create_dir_all(&in_dir("logs/events")).unwrap();
    FILES
        .iter()
        .for_each(|(name, bytes)| disk.replace(&in_dir(name), bytes).unwrap());
    run(async {
        let store = open(&disk).await;
        for key in 0..20_u8 {
            assert_eq!(
                store.keyspace("golden").get(&[key]).await.unwrap(),
                Some(vec![key; usize::from(key)])
            );
        }
        let log = store.existing_log("events").await.unwrap();
        let records = log.read(0, 100, 1 << 20).await.unwrap();
        assert_eq!(records.len(), 8);
        assert!(records.iter().all(|found| found.data == record(found.seq)));
        assert_eq!(super::super::error::hex(&log.root().unwrap()), ROOT);
        assert!(store.verify().await.unwrap().is_ok());
        assert_eq!(log.append(vec![record(8)]).await.unwrap(), 8);
        store.keyspace("golden").put("new", "value").await.unwrap();
    });
}

#[test]
fn version_1_is_still_what_is_written() {
    let disk = MemoryDisk::new();
    run(async {
        let store = open(&disk).await;
        fill(&store).await;
        store.close().await.unwrap();
    });
    for (name, bytes) in FILES.iter().filter(|(name, _)| *name != "state.redb") {
        assert!(
            disk.contents(&in_dir(name)).unwrap() == *bytes,
            "{name} is written differently: a new version?"
        );
    }
}

#[test]
#[ignore = "makes the files of a new version, once"]
fn make() {
    let disk = MemoryDisk::new();
    run(async {
        let store = open(&disk).await;
        fill(&store).await;
        store.close().await.unwrap();
    });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/tests/golden/v1");
    std::fs::create_dir_all(&folder).unwrap();
    for (path, _) in disk.files() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == "LOCK" {
            continue;
        }
        let number = name.strip_suffix(".seg").and_then(|digits| digits.parse::<u64>().ok());
        let name = number.map_or(name, |first_seq| format!("events-{first_seq}.seg"));
        std::fs::write(folder.join(name), disk.contents(&path).unwrap()).unwrap();
    }
}
