//! Random work with crashes, against a model that knows what was acknowledged.

use super::super::{Batch, Hash, Log, Store, StoreError, StoreOptions, leaf_hash};
use super::{contract, run};
use crate::platform::disk::MemoryDisk;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u16),
    Delete(u8),
    Batch(Vec<(u8, u16)>),
    Append(Vec<u16>),
    TruncateBefore(u8),
    TruncateFrom(u8),
    Reopen,
    /// The power goes after this many more changes of the disk, and takes this selection of unsynced sectors with it.
    Crash(u8, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<u8>(), 0..3000_u16).prop_map(|(key, size)| Step::Put(key % 16, size)),
        2 => any::<u8>().prop_map(|key| Step::Delete(key % 16)),
        3 => prop::collection::vec((0..16_u8, 0..500_u16), 1..8).prop_map(Step::Batch),
        8 => prop::collection::vec(0..900_u16, 1..8).prop_map(Step::Append),
        1 => any::<u8>().prop_map(Step::TruncateBefore),
        1 => any::<u8>().prop_map(Step::TruncateFrom),
        1 => Just(Step::Reopen),
        4 => (0..24_u8, any::<u64>()).prop_map(|(after, seed)| Step::Crash(after, seed)),
    ];
    prop::collection::vec(step, 1..60)
}

/// What must be there, and what may be: the one step whose answer was an error or never came.
#[derive(Debug, Clone, Default)]
struct Model {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    records: Vec<Bytes>,
    /// Records before this one may be gone.
    first_seq: u64,
    unknown: Option<Unknown>,
}

#[derive(Debug, Clone)]
enum Unknown {
    Values(BTreeMap<Vec<u8>, Vec<u8>>),
    Appended(Vec<Bytes>),
    TruncatedFrom(u64),
    TruncatedBefore(u64),
}

struct World {
    disk: MemoryDisk,
    store: Store,
    log: Log,
    model: Model,
    counter: u64,
}

fn options() -> StoreOptions {
    contract::options()
}

async fn open(disk: &MemoryDisk) -> (Store, Log) {
    let store = Store::open(Arc::new(disk.clone()), Path::new("/weft"), options())
        .await
        .expect("opens after a crash");
    let log = store.log("events").await.expect("opens after a crash");
    (store, log)
}

impl World {
    async fn new() -> World {
        let disk = MemoryDisk::new();
        let (store, log) = open(&disk).await;
        World {
            disk,
            store,
            log,
            model: Model::default(),
            counter: 0,
        }
    }

    fn data(&mut self, size: u16) -> Vec<u8> {
        self.counter += 1;
        let mut data = self.counter.to_le_bytes().to_vec();
        data.resize(8 + usize::from(size), self.counter as u8);
        data
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Put(key, size) => self.batch(vec![(key, size)]).await,
            Step::Batch(entries) => self.batch(entries).await,
            Step::Delete(key) => {
                let mut after = self.model.values.clone();
                after.remove(&vec![key]);
                let done = self.store.keyspace("some").delete(vec![key]).await;
                self.settle_values(done, after);
            }
            Step::Append(sizes) => self.append(sizes).await,
            Step::TruncateBefore(part) => {
                let seq = self.model.records.len() as u64 * u64::from(part) / 255;
                match self.log.truncate_before(seq).await {
                    Ok(first_seq) => self.model.first_seq = first_seq,
                    Err(error) => self.doubt(error, Unknown::TruncatedBefore(seq)),
                }
            }
            Step::TruncateFrom(part) => {
                let (first, len) = (self.log.first_seq(), self.model.records.len() as u64);
                let seq = first + (len - first) * u64::from(part) / 255;
                match self.log.truncate_from(seq).await {
                    Ok(()) => self.model.records.truncate(seq as usize),
                    Err(error) => self.doubt(error, Unknown::TruncatedFrom(seq)),
                }
            }
            Step::Reopen => {
                self.store.close().await.expect("closes");
                self.reopen().await;
            }
            Step::Crash(after, seed) => {
                self.disk.cut_power_after(u64::from(after));
                for round in 0..8 {
                    if self.model.unknown.is_none() {
                        self.append(vec![10; 3]).await;
                    }
                    if self.model.unknown.is_none() {
                        self.batch(vec![(round, 700), (round + 1, 30)]).await;
                    }
                }
                self.disk.crash_torn(seed);
                self.reopen().await;
                self.disk.cut_power_after(u64::from(after / 2));
                // Also while recovering the power may go.
                let _ = Store::open(Arc::new(self.disk.clone()), Path::new("/weft"), options()).await;
                self.disk.crash_torn(seed >> 1);
                self.reopen().await;
            }
        }
    }

    async fn batch(&mut self, entries: Vec<(u8, u16)>) {
        let (mut batch, mut after) = (Batch::new(), self.model.values.clone());
        for (key, size) in entries {
            let value = self.data(size);
            batch = batch.put(vec![key], value.clone());
            after.insert(vec![key], value);
        }
        let done = self.store.keyspace("some").commit(batch).await;
        self.settle_values(done, after);
    }

    fn settle_values(&mut self, done: Result<(), StoreError>, after: BTreeMap<Vec<u8>, Vec<u8>>) {
        match done {
            Ok(()) => self.model.values = after,
            Err(error) => self.doubt(error, Unknown::Values(after)),
        }
    }

    async fn append(&mut self, sizes: Vec<u16>) {
        let records: Vec<Bytes> = sizes.into_iter().map(|size| Bytes::from(self.data(size))).collect();
        match self.log.append(records.clone()).await {
            Ok(first) => {
                assert_eq!(first, self.model.records.len() as u64);
                self.model.records.extend(records);
            }
            Err(error) => self.doubt(error, Unknown::Appended(records)),
        }
    }

    fn doubt(&mut self, error: StoreError, unknown: Unknown) {
        assert!(
            !matches!(error, StoreError::Corrupt { .. } | StoreError::Conflict { .. }),
            "{error}"
        );
        self.model.unknown.get_or_insert(unknown);
    }

    async fn reopen(&mut self) {
        (self.store, self.log) = open(&self.disk).await;
        self.check().await;
    }

    /// Compares with the model, and settles what was unknown by what is found.
    async fn check(&mut self) {
        let page = self.store.keyspace("some").scan_prefix(b"", None, 1000).await.unwrap();
        let values: BTreeMap<_, _> = page.into_iter().collect();
        let (first, next) = (self.log.first_seq(), self.log.next_seq());
        match self.model.unknown.take() {
            Some(Unknown::Values(after)) if values == after => self.model.values = after,
            Some(Unknown::Appended(records)) if next > self.model.records.len() as u64 => {
                self.model.records.extend(records)
            }
            Some(Unknown::TruncatedFrom(seq)) if next < self.model.records.len() as u64 => {
                assert!(next >= seq);
                self.model.records.truncate(next as usize);
            }
            Some(Unknown::TruncatedBefore(seq)) if first > self.model.first_seq => {
                assert!(first <= seq);
                self.model.first_seq = first;
            }
            _ => {}
        }
        assert_eq!(values, self.model.values);
        assert_eq!((first, next), (self.model.first_seq, self.model.records.len() as u64));
        assert!(self.log.damage().is_empty(), "{:?}", self.log.damage());
        let mut seq = first;
        while seq < next {
            for record in self.log.read(seq, 50, 10_000).await.unwrap() {
                assert_eq!((record.seq, &record.data), (seq, &self.model.records[seq as usize]));
                seq += 1;
            }
        }
        assert_eq!(self.log.root().unwrap(), root(&self.model.records));
    }
}

fn root(records: &[Bytes]) -> Hash {
    let mut frontier = super::super::Frontier::default();
    records.iter().for_each(|record| frontier.push(leaf_hash(record)));
    frontier.root()
}

proptest! {
    #[test]
    fn nothing_acknowledged_is_lost_and_nothing_is_there_in_part(steps in steps()) {
        run(async {
            let mut world = World::new().await;
            for step in steps {
                world.take(step).await;
            }
            world.disk.crash();
            world.reopen().await;
            let report = world.store.verify().await.unwrap();
            assert!(report.is_ok(), "{:?}", report.findings().collect::<Vec<_>>());
        });
    }
}
