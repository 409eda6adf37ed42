mod faults;
mod format;
mod golden;
mod measure;
mod model;
mod mutation;
mod torture;

use super::contract;
use super::{Store, StoreOptions};
use crate::platform::disk::{Disk, MemoryDisk, RealDisk};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Runs on a thread of its own runtime, as on a disk that does not block.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

async fn open_memory(disk: &MemoryDisk) -> super::Result<Store> {
    Store::open(Arc::new(disk.clone()), Path::new("/weft"), contract::options()).await
}

fn in_dir(name: &str) -> PathBuf {
    Path::new("/weft").join(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_on_the_real_disk() {
    let folder = tempfile::tempdir().unwrap();
    contract::run(RealDisk::shared(), folder.path()).await;
}

#[test]
fn the_contract_holds_on_the_real_disk_with_one_thread() {
    let folder = tempfile::tempdir().unwrap();
    run(contract::run(RealDisk::shared(), folder.path()));
}

#[test]
fn the_contract_holds_in_memory() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    run(contract::run(disk, Path::new("/weft")));
}

#[test]
fn the_default_options_are_the_documented_ones() {
    let options = StoreOptions::default();
    assert_eq!(
        (options.cache_bytes, options.segment_bytes, options.reserve_bytes),
        (8 << 20, 64 << 20, 64 << 20)
    );
    assert!(options.check_state);
}
