//! What openraft asks of whatever it stands on, by its own suite; and a log that is cut off and begun anew while the power goes.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use openraft::{
    EntryPayload, StorageError,
    storage::{IOFlushed, RaftLogStorage as _},
    testing::log::{StoreBuilder, Suite},
    type_config::TypeConfigExt as _,
};
use weft_protocol::consensus::{GroupId, Mark};

use super::{
    Types, Voter, Words,
    convert::{LogId, RaftEntry},
    journal::Journal,
    machine::{Applier, At, Machine},
};
use crate::{
    platform::disk::MemoryDisk,
    store::{Store, StoreOptions},
    tasks::Tasks,
};

const GROUP: GroupId = GroupId(7);

impl From<u64> for Voter {
    fn from(number: u64) -> Self {
        let mut key = [0; 32];
        key[24..].copy_from_slice(&number.to_be_bytes());
        Voter(key)
    }
}

/// One whose commands mean nothing, and of which everything is durable at once.
#[derive(Default)]
struct Nothing(Mutex<Option<Mark>>);

impl Machine for Nothing {
    async fn mark(&self) -> Result<Option<Mark>, io::Error> {
        Ok(self.0.lock().unwrap().clone())
    }

    async fn apply(&self, _: At, _: Bytes) -> Result<Vec<u8>, io::Error> {
        Ok(Vec::new())
    }

    fn reached(&self, mark: Mark) {
        *self.0.lock().unwrap() = Some(mark);
    }

    async fn install(&self, mark: Mark) -> Result<(), io::Error> {
        self.reached(mark);
        Ok(())
    }
}

async fn store(disk: &MemoryDisk) -> Store {
    let options = StoreOptions {
        segment_bytes: 4096,
        reserve_bytes: 0,
        ahead_bytes: 0,
        ..StoreOptions::default()
    };
    Store::open(Arc::new(disk.clone()), Path::new("/weft"), options)
        .await
        .unwrap()
}

async fn journal(store: &Store, tasks: &Tasks) -> Journal {
    Journal::open(GROUP, store, store.keyspace("groups"), tasks)
        .await
        .unwrap()
}

struct OnDisksInMemory(Tasks);

impl StoreBuilder<Types, Journal, Applier<Nothing>, Store> for OnDisksInMemory {
    async fn build(&self) -> Result<(Store, Journal, Applier<Nothing>), StorageError<Types>> {
        let store = store(&MemoryDisk::new()).await;
        let journal = journal(&store, &self.0).await;
        let machine = Applier::open(Arc::new(Nothing::default())).await;
        Ok((store, journal, machine.unwrap()))
    }
}

#[tokio::test]
async fn openraft_can_stand_on_it() {
    let tasks = Tasks::new();
    Suite::test_all(OnDisksInMemory(tasks)).await.unwrap();
}

fn id(index: u64) -> LogId {
    LogId {
        leader_id: openraft::impls::leader_id_adv::LeaderId {
            term: 1,
            node_id: Voter::from(1),
        },
        index,
    }
}

async fn append(journal: &mut Journal, indices: std::ops::Range<u64>) {
    let entry = |index: u64| RaftEntry {
        log_id: id(index),
        payload: EntryPayload::Normal(Words(vec![index as u8; 300].into())),
    };
    for index in indices {
        let (flushed, is_flushed) = Types::oneshot();
        journal
            .append([entry(index)], IOFlushed::signal(flushed))
            .await
            .unwrap();
        is_flushed.await.unwrap().unwrap();
    }
}

async fn indices(journal: &Journal) -> Vec<u64> {
    use openraft::RaftLogReader as _;
    let entries = journal.clone().try_get_log_entries(0..1000).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

#[tokio::test]
async fn a_log_that_ends_before_what_was_got_otherwise_begins_behind_it() {
    let (disk, tasks) = (MemoryDisk::new(), Tasks::new());
    let first = store(&disk).await;
    let mut held = journal(&first, &tasks).await;
    append(&mut held, 0..40).await;
    // What is left of it is what is behind, also where a part of the disk holds both.
    assert!(held.shortened().is_some());
    held.purge(id(30)).await.unwrap();
    assert_eq!(indices(&held).await, (31..40).collect::<Vec<_>>());
    // The member was away for long: it has everything up to 500, but not by its log.
    held.purge(id(500)).await.unwrap();
    assert!(indices(&held).await.is_empty());
    append(&mut held, 501..510).await;
    held.purge(id(504)).await.unwrap();
    drop(held);
    first.close().await.unwrap();
    let again = store(&disk).await;
    let mut held = journal(&again, &tasks).await;
    assert_eq!(indices(&held).await, (505..510).collect::<Vec<_>>());
    let state = held.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(id(504)), Some(id(509)))
    );
    held.truncate_after(Some(id(506))).await.unwrap();
    append(&mut held, 507..508).await;
    assert_eq!(indices(&held).await, (505..508).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_log_is_begun_anew_whenever_the_power_goes() {
    let tasks = Tasks::new();
    let mut was_cut_off = 0;
    for after in 0..60 {
        let disk = MemoryDisk::new();
        let first = store(&disk).await;
        let mut held = journal(&first, &tasks).await;
        append(&mut held, 0..20).await;
        disk.cut_power_after(after);
        let purged = held.purge(id(100)).await;
        was_cut_off += u32::from(purged.is_err());
        drop((held, first));
        disk.crash_torn(after);
        let again = store(&disk).await;
        let mut held = journal(&again, &tasks).await;
        let state = held.get_log_state().await.unwrap();
        let next = match state.last_purged_log_id {
            Some(purged) => {
                assert_eq!(purged, id(100));
                assert!(indices(&held).await.is_empty());
                101
            }
            // It was not said yet: whoever begins again has it said again.
            None => {
                assert_eq!(indices(&held).await, (0..20).collect::<Vec<_>>());
                20
            }
        };
        assert_eq!(state.last_log_id.map(|last| last.index), Some(next - 1));
        append(&mut held, next..next + 5).await;
        drop((held, again));
        let again = store(&disk).await;
        let held = journal(&again, &tasks).await;
        let last = indices(&held).await.last().copied();
        assert_eq!(last, Some(next + 4), "after {after}");
    }
    assert!(was_cut_off > 5, "the power never went: {was_cut_off}");
}
