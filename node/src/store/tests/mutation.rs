//! Files of a closed store, changed at random: never a panic, never a wrong value, and nothing lost in silence.

use super::super::{Store, StoreError};
use super::{in_dir, open_memory, run};
use crate::platform::disk::{Disk, MemoryDisk};
use bytes::Bytes;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

const KEYS: u64 = 60;
const RECORDS: u64 = 120;

#[derive(Debug, Clone)]
enum Mutation {
    Flip(u64, u8),
    Zero(u64, u64),
    Truncate(u64),
    Extend(u16),
    Delete,
    Empty,
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        8 => (any::<u64>(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        3 => (any::<u64>(), 1..5000_u64).prop_map(|(at, count)| Mutation::Zero(at, count)),
        4 => any::<u64>().prop_map(Mutation::Truncate),
        2 => (1..9000_u16).prop_map(Mutation::Extend),
        1 => Just(Mutation::Delete),
        1 => Just(Mutation::Empty),
    ]
}

fn value(key: u64) -> Vec<u8> {
    vec![key as u8; 50 + (key * 37 % 900) as usize]
}

fn record(seq: u64) -> Bytes {
    Bytes::from(format!("record {seq} {}", "r".repeat((seq % 100) as usize)))
}

/// The files of a closed store; made once, copied for every case.
fn files() -> Vec<(PathBuf, Vec<u8>)> {
    let disk = MemoryDisk::new();
    run(async {
        let store = open_memory(&disk).await.unwrap();
        let keyspace = store.keyspace("some");
        for key in 0..KEYS {
            keyspace.put(key.to_be_bytes(), value(key)).await.unwrap();
        }
        let log = store.log("events").await.unwrap();
        for seq in 0..RECORDS {
            log.append(vec![record(seq)]).await.unwrap();
        }
        store.close().await.unwrap();
    });
    disk.files()
        .into_iter()
        .map(|(path, _)| (path.clone(), disk.contents(&path).unwrap()))
        .collect()
}

fn restore(files: &[(PathBuf, Vec<u8>)]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(&in_dir("logs/events")).unwrap();
    files
        .iter()
        .for_each(|(path, bytes)| disk.replace(path, bytes).unwrap());
    disk
}

fn mutate(disk: &MemoryDisk, path: &Path, bytes: &[u8], mutation: &Mutation) {
    let len = bytes.len() as u64;
    let mut bytes = bytes.to_vec();
    match mutation {
        Mutation::Flip(at, bit) if len > 0 => bytes[(at % len) as usize] ^= 1 << bit,
        Mutation::Zero(at, count) if len > 0 => {
            let at = at % len;
            bytes[at as usize..(at + count).min(len) as usize].fill(0);
        }
        Mutation::Truncate(at) if len > 0 => bytes.truncate((at % len) as usize),
        Mutation::Extend(count) => bytes.resize(bytes.len() + usize::from(*count), 0),
        Mutation::Delete => return disk.remove_file(path).unwrap(),
        _ => bytes.clear(),
    }
    disk.replace(path, &bytes).unwrap();
}

/// Reads everything. Gives whether anything was told to be damaged; panics over anything wrong or silently missing.
async fn inspect(store: &Store) -> bool {
    let mut told = !store.verify().await.unwrap().is_ok();
    for key in 0..KEYS {
        match store.keyspace("some").get(&key.to_be_bytes()).await {
            Ok(found) => assert_eq!(found, Some(value(key)), "key {key}"),
            Err(StoreError::Corrupt { .. }) => told = true,
            Err(error) => panic!("{error}"),
        }
    }
    let log = match store.log("events").await {
        Ok(log) => log,
        Err(StoreError::Corrupt { .. }) => return true,
        Err(error) => panic!("{error}"),
    };
    let mut seq = 0;
    while seq < RECORDS {
        match log.read(seq, 1, 1).await {
            Ok(page) => {
                let found = page
                    .first()
                    .unwrap_or_else(|| panic!("record {seq} is missing and nobody says so"));
                assert_eq!((found.seq, &found.data), (seq, &record(seq)));
                seq += 1;
            }
            Err(StoreError::Corrupt { lost_records, .. }) => {
                told = true;
                seq = lost_records.map_or(seq, |(_, last)| last) + 1;
            }
            Err(StoreError::Truncated { first_seq, .. }) => {
                assert!(
                    !log.damage().is_empty(),
                    "records before {first_seq} are missing and nobody says so"
                );
                seq = first_seq;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(log.read(RECORDS, 1, 1).await.is_ok_and(|page| page.is_empty()));
    told
}

proptest! {
    #[test]
    fn damage_is_told_and_nothing_wrong_is_served(choice in any::<prop::sample::Index>(), mutation in mutation()) {
        thread_local!(static FILES: Vec<(PathBuf, Vec<u8>)> = files());
        let files = FILES.with(Clone::clone);
        let (path, bytes) = choice.get(&files);
        let disk = restore(&files);
        mutate(&disk, path, bytes, &mutation);
        let harmless = disk.contents(path).is_ok_and(|now| now == *bytes);
        run(async {
            match open_memory(&disk).await {
                Ok(store) => {
                    let told = inspect(&store).await;
                    // Behind the last byte, in the lock, or in a hint there is nothing to damage.
                    let matters = matches!(mutation, Mutation::Flip(..)) && path.to_string_lossy().ends_with(".seg");
                    let in_hint = bytes.ends_with(&[0; 4]) && matters && in_mark(bytes, &mutation);
                    assert!(told || harmless || in_hint || !matters, "{mutation:?} of {} is missed", path.display());
                }
                // A digit of the version changed; the error names both versions instead of a file.
                Err(StoreError::TooNew { .. } | StoreError::TooOld { .. }) => assert!(path.ends_with("FORMAT")),
                Err(error) => {
                    let text = error.to_string();
                    let name = path.file_name().unwrap().to_string_lossy();
                    assert!(text.contains(&*name), "{text} does not name {name}");
                }
            }
        });
    }
}

/// Whether a flip hit the mark behind the last record of the segment being written.
fn in_mark(bytes: &[u8], mutation: &Mutation) -> bool {
    let Mutation::Flip(at, _) = mutation else { return false };
    at % bytes.len() as u64 >= bytes.len() as u64 - 24
}
