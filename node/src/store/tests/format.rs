use super::super::error::StoreError;
use super::super::format::{self, Migration};
use super::{contract, in_dir, open_memory, run};
use crate::error::ErrorKind;
use crate::platform::disk::{Disk, MemoryDisk, OpenMode};
use std::io;
use std::path::Path;

const DIR: &str = "/weft";

/// A made-up version 0 kept its state in another file.
const FROM_ZERO: &[Migration] = &[Migration {
    from: 0,
    run: rename_state,
}];

fn rename_state(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let (old, new) = (dir.join("state.zero"), dir.join("state.one"));
    if disk.exists(&old)? {
        disk.rename(&old, &new)?;
        disk.sync_dir(dir)?;
    }
    Ok(())
}

fn version_zero() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.replace(&in_dir("FORMAT"), b"weft-store 0\n").unwrap();
    disk.replace(&in_dir("state.zero"), b"old").unwrap();
    disk
}

#[test]
fn an_older_directory_is_brought_up() {
    let disk = version_zero();
    format::bring_up(&disk, Path::new(DIR), 0, 1, FROM_ZERO).unwrap();
    assert_eq!(format::read(&disk, Path::new(DIR)).unwrap(), Some(1));
    assert_eq!(disk.contents(&in_dir("state.one")).unwrap(), b"old");
}

#[test]
fn a_migration_cut_off_anywhere_is_finished_later() {
    let whole = version_zero();
    let before = whole.changes();
    format::bring_up(&whole, Path::new(DIR), 0, 1, FROM_ZERO).unwrap();
    let steps = whole.changes() - before;
    assert!(steps > 4);
    for step in 0..steps {
        let disk = version_zero();
        disk.cut_power_after(step);
        format::bring_up(&disk, Path::new(DIR), 0, 1, FROM_ZERO).unwrap_err();
        disk.crash();
        let found = format::read(&disk, Path::new(DIR)).unwrap().unwrap();
        format::bring_up(&disk, Path::new(DIR), found, 1, FROM_ZERO).unwrap();
        assert_eq!(format::read(&disk, Path::new(DIR)).unwrap(), Some(1));
        assert_eq!(disk.contents(&in_dir("state.one")).unwrap(), b"old");
    }
}

#[test]
fn a_directory_no_step_leads_up_from_is_left_alone() {
    let disk = version_zero();
    let refused = format::bring_up(&disk, Path::new(DIR), 0, 2, FROM_ZERO).unwrap_err();
    assert!(
        matches!(
            refused,
            StoreError::TooOld {
                found: 0,
                supported: 2,
                ..
            }
        ),
        "{refused}"
    );
    assert_eq!(disk.contents(&in_dir("FORMAT")).unwrap(), b"weft-store 0\n");
    assert_eq!(disk.contents(&in_dir("state.zero")).unwrap(), b"old");
}

#[test]
fn a_newer_directory_is_refused_and_left_alone() {
    let disk = MemoryDisk::new();
    run(async { open_memory(&disk).await.unwrap().close().await.unwrap() });
    disk.replace(&in_dir("FORMAT"), b"weft-store 2\n").unwrap();
    let files = disk.files();
    let refused = run(open_memory(&disk)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let text = refused.to_string();
    assert!(text.contains("version 2") && text.contains("up to version 1"), "{text}");
    assert_eq!(disk.files(), files);
}

#[test]
fn a_version_that_cannot_be_read_is_damage() {
    for text in [
        "",
        "weft-store",
        "weft-store 1",
        "weft-store one\n",
        "weft-store 1\nmore\n",
        "\u{feff}weft-store 1\n",
    ] {
        let disk = MemoryDisk::new();
        run(async { open_memory(&disk).await.unwrap().close().await.unwrap() });
        disk.replace(&in_dir("FORMAT"), text.as_bytes()).unwrap();
        assert_eq!(
            run(open_memory(&disk)).unwrap_err().kind(),
            ErrorKind::Corrupt,
            "{text:?}"
        );
    }
}

#[test]
fn a_file_that_is_missing_is_named() {
    for name in ["FORMAT", "state.redb"] {
        let disk = MemoryDisk::new();
        run(async {
            let store = open_memory(&disk).await.unwrap();
            store.keyspace("some").put("k", "v").await.unwrap();
            store.close().await.unwrap();
        });
        disk.remove_file(&in_dir(name)).unwrap();
        let refused = run(open_memory(&disk)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
        assert!(refused.to_string().contains(name), "{refused}");
    }
}

#[test]
fn making_a_store_can_be_cut_off_anywhere() {
    let whole = MemoryDisk::new();
    run(async { open_memory(&whole).await.unwrap() });
    let steps = whole.changes();
    for step in 0..steps {
        let disk = MemoryDisk::new();
        disk.cut_power_after(step);
        let _ = run(open_memory(&disk));
        disk.crash();
        let store = run(open_memory(&disk)).unwrap_or_else(|error| panic!("cut after {step}: {error}"));
        run(async {
            store.keyspace("some").put("k", "v").await.unwrap();
            store.close().await.unwrap();
        });
    }
}

#[test]
fn what_is_no_directory_is_refused() {
    let disk = MemoryDisk::new();
    disk.replace(Path::new(DIR), b"a file").unwrap();
    assert_eq!(run(open_memory(&disk)).unwrap_err().kind(), ErrorKind::Invalid);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"a file").unwrap();
    let disk = crate::platform::disk::RealDisk::shared();
    let refused = run(super::Store::open(disk, &file, contract::options())).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
}

#[test]
fn a_directory_in_a_files_place_is_refused() {
    for name in ["state.redb", "FORMAT", "LOCK"] {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            super::Store::open(
                crate::platform::disk::RealDisk::shared(),
                folder.path(),
                contract::options(),
            )
        };
        run(async { open().await.unwrap().close().await.unwrap() });
        std::fs::remove_file(folder.path().join(name)).unwrap();
        std::fs::create_dir(folder.path().join(name)).unwrap();
        let refused = run(open()).unwrap_err();
        assert!(refused.to_string().contains(name), "{refused}");
    }
}

/// A disk on which nothing may be changed.
#[derive(Debug)]
struct ReadOnly(MemoryDisk);

impl Disk for ReadOnly {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<std::sync::Arc<dyn crate::platform::disk::DiskFile>> {
        if mode.write {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        } else {
            self.0.open(path, mode)
        }
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if self.0.exists(path)? {
            Ok(())
        } else {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        }
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn remove_file(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn available_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.0.available_bytes(dir)
    }
    fn blocks(&self) -> bool {
        false
    }
}

#[test]
fn a_read_only_directory_is_denied() {
    let disk = MemoryDisk::new();
    let open = |disk| super::Store::open(std::sync::Arc::new(ReadOnly(disk)), Path::new(DIR), contract::options());
    assert_eq!(run(open(disk.clone())).unwrap_err().kind(), ErrorKind::Denied);
    run(async { open_memory(&disk).await.unwrap().close().await.unwrap() });
    assert_eq!(run(open(disk)).unwrap_err().kind(), ErrorKind::Denied);
}
