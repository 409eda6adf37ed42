use super::super::error::StoreError;
use super::super::{Batch, Store, StoreOptions};
use super::{contract, in_dir, open_memory, run};
use crate::error::ErrorKind;
use crate::platform::disk::{Disk, MemoryDisk};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn segment(log: &str, first_seq: u64) -> PathBuf {
    in_dir(&format!("logs/{log}/{first_seq:020}.seg"))
}

fn numbered(number: u64) -> Vec<Bytes> {
    vec![Bytes::from(format!("record {number:08}"))]
}

async fn read_all(store: &Store, name: &str) -> Vec<String> {
    let log = store.log(name).await.unwrap();
    let mut records = Vec::new();
    let mut seq = log.first_seq();
    while seq < log.next_seq() {
        for record in log.read(seq, 100, 1 << 20).await.unwrap() {
            records.push(String::from_utf8(record.data.to_vec()).unwrap());
            seq = record.seq + 1;
        }
    }
    records
}

#[test]
fn a_failed_sync_of_a_log_stops_all_writes_and_no_reads() {
    let disk = MemoryDisk::new();
    run(async {
        let store = open_memory(&disk).await.unwrap();
        let (log, keyspace) = (store.log("events").await.unwrap(), store.keyspace("some"));
        log.append(numbered(0)).await.unwrap();
        keyspace.put("k", "v").await.unwrap();
        let syncs = disk.syncs();
        disk.fail_syncs(1);
        let failed = log.append(numbered(1)).await.unwrap_err();
        assert!(matches!(failed, StoreError::Failed { .. }), "{failed}");
        assert_eq!(failed.kind(), ErrorKind::Internal);
        assert!(failed.to_string().contains("00000000000000000000.seg"), "{failed}");
        assert!(matches!(log.append(numbered(1)).await, Err(StoreError::Failed { .. })));
        assert!(matches!(keyspace.put("k", "w").await, Err(StoreError::Failed { .. })));
        assert!(matches!(store.log("another").await, Err(StoreError::Failed { .. })));
        assert_eq!(disk.syncs(), syncs, "a failed sync is never tried again");
        assert_eq!(read_all(&store, "events").await, ["record 00000000"]);
        assert_eq!(keyspace.get(b"k").await.unwrap().unwrap(), b"v");
        assert!(store.stats().await.unwrap().failure.is_some());
        store.close().await.unwrap();
        disk.crash();
        let store = open_memory(&disk).await.unwrap();
        assert_eq!(read_all(&store, "events").await, ["record 00000000"]);
        assert_eq!(store.log("events").await.unwrap().append(numbered(1)).await.unwrap(), 1);
    });
}

#[test]
fn a_failed_sync_of_the_state_stops_all_writes_and_no_reads() {
    let disk = MemoryDisk::new();
    run(async {
        let store = open_memory(&disk).await.unwrap();
        let (log, keyspace) = (store.log("events").await.unwrap(), store.keyspace("some"));
        log.append(numbered(0)).await.unwrap();
        for number in 0..100 {
            keyspace.put(format!("key {number}"), vec![number; 1000]).await.unwrap();
        }
        disk.fail_syncs(1);
        let failed = keyspace.put("key 7", "never acknowledged").await.unwrap_err();
        assert!(
            matches!(&failed, StoreError::Failed { reason } if reason.contains("state.redb")),
            "{failed}"
        );
        assert!(matches!(
            keyspace.put("key 8", "x").await,
            Err(StoreError::Failed { .. })
        ));
        assert!(matches!(log.append(numbered(1)).await, Err(StoreError::Failed { .. })));
        let size = disk.contents(&in_dir("state.redb")).unwrap();
        for number in 0..100 {
            let value = keyspace.get(format!("key {number}").as_bytes()).await.unwrap();
            assert_eq!(
                value,
                Some(vec![number; 1000]),
                "the last durable state is what is read"
            );
        }
        assert_eq!(keyspace.scan_prefix(b"key", None, 1000).await.unwrap().len(), 100);
        assert_eq!(read_all(&store, "events").await.len(), 1);
        assert!(store.verify().await.unwrap().is_ok());
        store.close().await.unwrap();
        assert_eq!(
            disk.contents(&in_dir("state.redb")).unwrap(),
            size,
            "no byte is written after the failure"
        );
        disk.crash();
        let store = open_memory(&disk).await.unwrap();
        assert_eq!(store.keyspace("some").get(b"key 7").await.unwrap(), Some(vec![7; 1000]));
    });
}

#[test]
fn a_failed_write_stops_all_writes() {
    for state in [false, true] {
        let disk = MemoryDisk::new();
        run(async {
            let store = open_memory(&disk).await.unwrap();
            let (log, keyspace) = (store.log("events").await.unwrap(), store.keyspace("some"));
            log.append(numbered(0)).await.unwrap();
            keyspace.put("k", "v").await.unwrap();
            disk.fail_writes(1);
            if state {
                keyspace.put("k", "w").await.unwrap_err();
            } else {
                log.append(numbered(1)).await.unwrap_err();
            }
            assert!(matches!(keyspace.put("k", "w").await, Err(StoreError::Failed { .. })));
            assert!(matches!(log.append(numbered(1)).await, Err(StoreError::Failed { .. })));
            assert_eq!(keyspace.get(b"k").await.unwrap().unwrap(), b"v");
            assert_eq!(read_all(&store, "events").await.len(), 1);
        });
    }
}

#[test]
fn a_full_disk_refuses_and_takes_writes_again_once_there_is_room() {
    // The disk tells in advance, or it does not and the write itself finds out.
    for tells in [true, false] {
        let disk = MemoryDisk::new();
        run(async {
            let store = open_memory(&disk).await.unwrap();
            let (log, keyspace) = (store.log("events").await.unwrap(), store.keyspace("some"));
            let used: u64 = disk.files().iter().map(|(_, bytes)| bytes).sum();
            disk.set_capacity(Some(used + (3 << 20)));
            disk.report_available((!tells).then_some(u64::MAX));
            let (mut appended, mut put) = (0, 0);
            let big = || vec![Bytes::from(vec![1; 100_000])];
            let full = loop {
                match log.append(big()).await {
                    Ok(_) => appended += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(full, StoreError::Full { .. }), "tells {tells}: {full}");
            assert_eq!(full.kind(), ErrorKind::Busy);
            let full = loop {
                match keyspace.put(format!("key {put}"), vec![2; 100_000]).await {
                    Ok(()) => put += 1,
                    Err(error) => break error,
                }
                assert!(put < 1000, "the disk is never full");
            };
            assert!(matches!(full, StoreError::Full { .. }), "tells {tells}: {full}");
            assert_eq!(log.next_seq(), appended);
            let keys = keyspace.scan_prefix(b"key", None, 1000).await.unwrap();
            assert_eq!(keys.len(), put, "nothing is half written");
            disk.set_capacity(None);
            assert_eq!(log.append(big()).await.unwrap(), appended);
            keyspace.put(format!("key {put}"), vec![2; 100_000]).await.unwrap();
            store.close().await.unwrap();
            disk.crash();
            let store = open_memory(&disk).await.unwrap();
            let log = store.log("events").await.unwrap();
            assert_eq!(log.next_seq(), appended + 1);
            assert_eq!(
                store
                    .keyspace("some")
                    .scan_prefix(b"key", None, 1000)
                    .await
                    .unwrap()
                    .len(),
                put + 1
            );
            assert!(store.verify().await.unwrap().is_ok());
        });
    }
}

#[test]
fn the_reserve_is_left_free() {
    let disk = MemoryDisk::new();
    run(async {
        let options = StoreOptions {
            reserve_bytes: 1 << 30,
            ..contract::options()
        };
        disk.set_capacity(Some(2 << 30));
        let store = Store::open(Arc::new(disk.clone()), Path::new("/weft"), options)
            .await
            .unwrap();
        let (log, keyspace) = (store.log("events").await.unwrap(), store.keyspace("some"));
        log.append(numbered(0)).await.unwrap();
        disk.report_available(Some(1 << 30));
        let full = log.append(numbered(1)).await.unwrap_err();
        assert!(
            matches!(full, StoreError::Full { available_bytes, .. } if available_bytes == 1 << 30),
            "{full}"
        );
        assert!(matches!(keyspace.put("k", "v").await, Err(StoreError::Full { .. })));
        disk.report_available(None);
        log.append(numbered(1)).await.unwrap();
        keyspace.put("k", "v").await.unwrap();
    });
}

/// A store with 40 records in one large segment, closed in good order.
async fn forty_records(disk: &MemoryDisk) -> StoreOptions {
    let options = StoreOptions {
        segment_bytes: 1 << 20,
        ..contract::options()
    };
    let store = Store::open(Arc::new(disk.clone()), Path::new("/weft"), options.clone())
        .await
        .unwrap();
    let log = store.log("events").await.unwrap();
    for number in 0..40 {
        log.append(numbered(number)).await.unwrap();
    }
    store.close().await.unwrap();
    options
}

/// Where record `number` of [`forty_records`] begins: header of 60 bytes, records of 56 + 15.
fn offset_of(number: u64) -> u64 {
    60 + number * 71
}

#[test]
fn damage_before_the_tail_is_told_and_the_rest_stays_readable() {
    let disk = MemoryDisk::new();
    run(async {
        let options = forty_records(&disk).await;
        let path = segment("events", 0);
        disk.flip_bit(&path, offset_of(10) + 60, 3).unwrap();
        let store = Store::open(Arc::new(disk.clone()), Path::new("/weft"), options)
            .await
            .unwrap();
        let log = store.log("events").await.unwrap();
        let damage = log.damage();
        assert_eq!(damage.len(), 1);
        let StoreError::Corrupt {
            file,
            offset_bytes,
            lost_records,
            ..
        } = &damage[0]
        else {
            panic!("{}", damage[0])
        };
        assert_eq!(
            (file, *offset_bytes, *lost_records),
            (&path, Some(offset_of(10)), Some((10, 10)))
        );
        let text = damage[0].to_string();
        assert!(
            text.contains("byte 770") && text.contains("record 10 of log events"),
            "{text}"
        );
        assert_eq!(
            log.read(0, 100, 1 << 20).await.unwrap().len(),
            10,
            "an answer ends before the damage"
        );
        let bad = log.read(10, 100, 1 << 20).await.unwrap_err();
        assert!(
            matches!(
                bad,
                StoreError::Corrupt {
                    lost_records: Some((10, 10)),
                    ..
                }
            ),
            "{bad}"
        );
        let rest = log.read(11, 100, 1 << 20).await.unwrap();
        assert_eq!(
            rest.iter().map(|record| record.seq).collect::<Vec<_>>(),
            (11..40).collect::<Vec<_>>()
        );
        assert_eq!(
            log.root().unwrap_err().kind(),
            ErrorKind::Corrupt,
            "no root over a record that is gone"
        );
        assert_eq!(log.append(numbered(40)).await.unwrap_err().kind(), ErrorKind::Corrupt);
        store
            .keyspace("some")
            .put("k", "v")
            .await
            .expect("other parts of the store go on");
        let report = store.verify().await.unwrap();
        let findings: Vec<_> = report.findings().collect();
        assert_eq!(
            (findings.len(), findings[0].offset_bytes, findings[0].lost_records),
            (1, Some(770), Some((10, 10)))
        );
    });
}

#[test]
fn damage_in_the_last_record_of_a_closed_log_is_no_torn_tail() {
    let disk = MemoryDisk::new();
    run(async {
        let options = forty_records(&disk).await;
        disk.flip_bit(&segment("events", 0), offset_of(39) + 60, 0).unwrap();
        let store = Store::open(Arc::new(disk.clone()), Path::new("/weft"), options)
            .await
            .unwrap();
        let log = store.log("events").await.unwrap();
        let damage = log.damage();
        assert!(
            matches!(
                &damage[..],
                [StoreError::Corrupt {
                    lost_records: Some((39, 39)),
                    ..
                }]
            ),
            "{damage:?}"
        );
        assert_eq!(log.next_seq(), 40);
    });
}

#[test]
fn a_closed_log_cut_short_is_no_torn_tail() {
    let disk = MemoryDisk::new();
    run(async {
        let options = forty_records(&disk).await;
        let path = segment("events", 0);
        let whole = disk.contents(&path).unwrap();
        disk.replace(&path, &whole[..offset_of(30) as usize]).unwrap();
        let store = Store::open(Arc::new(disk.clone()), Path::new("/weft"), options)
            .await
            .unwrap();
        let log = store.log("events").await.unwrap();
        let damage = log.damage();
        assert!(
            matches!(
                &damage[..],
                [StoreError::Corrupt {
                    lost_records: Some((30, 39)),
                    ..
                }]
            ),
            "{damage:?}"
        );
        assert_eq!(log.read(0, 100, 1 << 20).await.unwrap().len(), 30);
        let gone = log.read(30, 1, 1).await.unwrap_err();
        assert!(
            matches!(
                gone,
                StoreError::Corrupt {
                    lost_records: Some((30, 39)),
                    ..
                }
            ),
            "{gone}"
        );
    });
}

#[test]
fn a_torn_tail_is_cut_and_the_log_goes_on() {
    let disk = MemoryDisk::new();
    run(async {
        let options = forty_records(&disk).await;
        let path = segment("events", 0);
        let whole = disk.contents(&path).unwrap();
        let store = Store::open(Arc::new(disk.clone()), Path::new("/weft"), options.clone())
            .await
            .unwrap();
        store
            .log("events")
            .await
            .unwrap()
            .append((40..50).flat_map(numbered).collect())
            .await
            .unwrap();
        let longer = disk.contents(&path).unwrap();
        // The power goes while the append is written: every length from none of it to all but its last byte.
        for kept in offset_of(40) as usize..offset_of(50) as usize {
            disk.crash();
            let mut torn = whole[..offset_of(40) as usize].to_vec();
            torn.extend_from_slice(&longer[offset_of(40) as usize..kept]);
            disk.replace(&path, &torn).unwrap();
            let store = Store::open(Arc::new(disk.clone()), Path::new("/weft"), options.clone())
                .await
                .unwrap();
            let log = store.log("events").await.unwrap();
            assert!(log.damage().is_empty(), "{kept}: {:?}", log.damage());
            assert_eq!(log.next_seq(), 40, "{kept}: an append is there whole or not at all");
            if kept % 50 == 0 {
                assert_eq!(log.append(numbered(40)).await.unwrap(), 40);
                assert_eq!(read_all(&store, "events").await.len(), 41);
                assert!(store.verify().await.unwrap().is_ok());
            }
        }
    });
}

#[test]
fn records_seen_after_a_failed_sync_are_made_durable_before_they_are_served() {
    let disk = MemoryDisk::new();
    run(async {
        let options = forty_records(&disk).await;
        let store = Store::open(Arc::new(disk.clone()), Path::new("/weft"), options.clone())
            .await
            .unwrap();
        disk.fail_syncs(1);
        store
            .log("events")
            .await
            .unwrap()
            .append(numbered(40))
            .await
            .unwrap_err();
        store.close().await.unwrap();
        drop(store);
        // The process restarts, the machine does not: the system still shows what never reached the disk.
        let store = Store::open(Arc::new(disk.clone()), Path::new("/weft"), options.clone())
            .await
            .unwrap();
        let shown = read_all(&store, "events").await;
        drop(store);
        disk.crash();
        let store = Store::open(Arc::new(disk.clone()), Path::new("/weft"), options)
            .await
            .unwrap();
        assert_eq!(read_all(&store, "events").await, shown);
    });
}

#[test]
fn damage_in_a_sealed_segment_leaves_the_log_writable() {
    let disk = MemoryDisk::new();
    run(async {
        let store = open_memory(&disk).await.unwrap();
        let log = store.log("events").await.unwrap();
        for number in 0..200 {
            log.append(numbered(number)).await.unwrap();
        }
        let root = log.root().unwrap();
        store.close().await.unwrap();
        drop((log, store));
        let sealed: Vec<_> = disk
            .files()
            .into_iter()
            .filter(|(path, _)| path.extension().is_some())
            .collect();
        let sealed: Vec<_> = sealed
            .iter()
            .filter(|(path, _)| path.to_string_lossy().ends_with(".seg"))
            .collect();
        assert!(sealed.len() > 3);
        // In turn: a record, the header, the footer, the trailer of the second segment.
        let (path, bytes) = sealed[1];
        for offset in [200, 20, bytes - 100, bytes - 30] {
            disk.flip_bit(path, offset, 2).unwrap();
            let store = open_memory(&disk).await.unwrap();
            let log = store.log("events").await.unwrap();
            assert_eq!(log.root().unwrap(), root);
            let report = store.verify().await.unwrap();
            let finding = report
                .findings()
                .next()
                .unwrap_or_else(|| panic!("byte {offset} is not missed"));
            assert_eq!(&finding.file, path);
            let (mut seq, mut lost) = (0, 0);
            while seq < log.next_seq() {
                match log.read(seq, 1, 1).await {
                    Ok(page) => {
                        assert_eq!(page[0].data, numbered(seq)[0]);
                        seq += 1;
                    }
                    Err(StoreError::Corrupt {
                        lost_records: Some((first, last)),
                        ..
                    }) => {
                        assert_eq!(first, seq);
                        lost += last - first + 1;
                        seq = last + 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(lost, u64::from(offset == 200), "byte {offset}");
            store.close().await.unwrap();
            drop((log, store));
            disk.flip_bit(path, offset, 2).unwrap();
        }
        let store = open_memory(&disk).await.unwrap();
        let log = store.log("events").await.unwrap();
        assert_eq!(log.append(numbered(200)).await.unwrap(), 200);
    });
}

#[test]
fn a_segment_that_is_missing_or_another_logs_is_told() {
    let disk = MemoryDisk::new();
    run(async {
        let store = open_memory(&disk).await.unwrap();
        for name in ["events", "others"] {
            let log = store.log(name).await.unwrap();
            for number in 0..200 {
                log.append(numbered(number)).await.unwrap();
            }
        }
        store.close().await.unwrap();
        drop(store);
        let firsts: Vec<u64> = {
            let prefix = in_dir("logs/events");
            let names = disk.files().into_iter().filter(|(path, _)| path.starts_with(&prefix));
            names
                .map(|(path, _)| path.file_stem().unwrap().to_str().unwrap().parse().unwrap())
                .collect()
        };
        let whole: Vec<_> = firsts
            .iter()
            .map(|first| disk.contents(&segment("events", *first)).unwrap())
            .collect();
        for (at, first) in firsts.iter().enumerate() {
            let next = firsts.get(at + 1).copied().unwrap_or(200);
            let expected = Some((*first, next - 1));
            disk.remove_file(&segment("events", *first)).unwrap();
            let store = open_memory(&disk).await.unwrap();
            let damage = store.log("events").await.unwrap().damage();
            let lost = damage.iter().find_map(|damage| match damage {
                StoreError::Corrupt { lost_records, .. } => *lost_records,
                _ => None,
            });
            assert_eq!(lost, expected, "segment {first} is missing");
            store.close().await.unwrap();
            drop(store);
            let foreign = disk.contents(&segment("others", *first)).unwrap();
            disk.replace(&segment("events", *first), &foreign).unwrap();
            let store = open_memory(&disk).await.unwrap();
            let log = store.log("events").await.unwrap();
            assert!(!log.damage().is_empty(), "segment {first} is another log's");
            assert!(
                log.read(*first, 1, 1).await.is_err(),
                "nothing of another log is served"
            );
            assert!(!store.verify().await.unwrap().is_ok());
            store.close().await.unwrap();
            drop((log, store));
            disk.replace(&segment("events", *first), &whole[at]).unwrap();
        }
        let store = open_memory(&disk).await.unwrap();
        assert!(store.verify().await.unwrap().is_ok(), "all is well again");
    });
}

#[test]
fn a_log_whose_folder_is_gone_is_told() {
    let disk = MemoryDisk::new();
    run(async {
        forty_records(&disk).await;
        disk.remove_file(&segment("events", 0)).unwrap();
        let store = open_memory(&disk).await.unwrap();
        let gone = store.log("events").await.unwrap_err();
        assert!(
            matches!(
                gone,
                StoreError::Corrupt {
                    lost_records: Some((0, 39)),
                    ..
                }
            ),
            "{gone}"
        );
        assert!(!store.verify().await.unwrap().is_ok());
        store.remove_log("events").await.unwrap();
        assert_eq!(store.log("events").await.unwrap().next_seq(), 0);
    });
}

#[test]
fn a_removal_that_failed_half_way_is_finished_by_the_next() {
    let disk = MemoryDisk::new();
    run(async {
        let store = open_memory(&disk).await.unwrap();
        store.log("events").await.unwrap().append(numbered(0)).await.unwrap();
        disk.fail_removals(1);
        assert!(store.remove_log("events").await.is_err());
        // The name is free; what the first one's files left behind is not in the way of removing the second.
        let log = store.log("events").await.unwrap();
        assert_eq!(log.append(numbered(7)).await.unwrap(), 0);
        drop(log);
        store.remove_log("events").await.unwrap();
        assert_eq!(store.log("events").await.unwrap().next_seq(), 0);
        assert!(
            disk.files()
                .iter()
                .all(|(path, _)| !path.display().to_string().contains('~'))
        );
    });
}

#[test]
fn removing_and_shortening_can_be_cut_off_anywhere() {
    for kind in 0..3 {
        let mut step = 0;
        loop {
            let disk = MemoryDisk::new();
            let done = run(async {
                let store = open_memory(&disk).await.unwrap();
                let log = store.log("events").await.unwrap();
                for number in 0..200 {
                    log.append(numbered(number)).await.unwrap();
                }
                disk.cut_power_after(step);
                let done = match kind {
                    0 => log.truncate_before(100).await.map(|_| ()),
                    1 => log.truncate_from(60).await,
                    _ => store.remove_log("events").await,
                };
                done.is_ok()
            });
            disk.crash_torn(step);
            run(async {
                let store = open_memory(&disk)
                    .await
                    .unwrap_or_else(|error| panic!("{kind} cut after {step}: {error}"));
                let log = store.log("events").await.unwrap();
                assert!(log.damage().is_empty(), "{kind} cut after {step}: {:?}", log.damage());
                let records = read_all(&store, "events").await;
                match (kind, done) {
                    (0, false) => assert_eq!(records.last().unwrap(), "record 00000199"),
                    (0, true) => assert!(log.first_seq() > 0 && log.next_seq() == 200),
                    (1, false) => assert!(records.len() >= 60),
                    (1, true) => assert_eq!(records.len(), 60),
                    (_, false) => assert!([0, 200].contains(&records.len()), "{}", records.len()),
                    (_, true) => assert_eq!(records.len(), 0),
                }
                let next = log.next_seq();
                assert_eq!(log.append(numbered(next)).await.unwrap(), next);
                assert!(store.verify().await.unwrap().is_ok());
            });
            if done {
                break;
            }
            step += 1;
        }
        assert!(step > 2, "the power was cut in the middle");
    }
}

#[test]
fn a_group_is_one_sync() {
    let disk = MemoryDisk::new();
    run(async {
        let store = open_memory(&disk).await.unwrap();
        let log = store.log("events").await.unwrap();
        let keyspace = store.keyspace("some");
        keyspace.put("k", "v").await.unwrap();
        let before = disk.syncs();
        keyspace
            .commit((0..50_u8).fold(Batch::new(), |batch, key| batch.put([key], "v")))
            .await
            .unwrap();
        assert_eq!(disk.syncs(), before + 1);
        log.append((0..20).flat_map(numbered).collect()).await.unwrap();
        assert_eq!(disk.syncs(), before + 2);
        keyspace
            .commit(Batch::new().require("k", None).put("k", "w"))
            .await
            .unwrap_err();
        assert_eq!(disk.syncs(), before + 2, "a refused batch costs no sync");
    });
}
