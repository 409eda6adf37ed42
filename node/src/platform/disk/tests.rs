use super::*;
use std::path::PathBuf;

fn both() -> Vec<(Arc<dyn Disk>, PathBuf, Option<tempfile::TempDir>)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_path_buf();
    vec![
        (RealDisk::shared(), path, Some(folder)),
        (Arc::new(MemoryDisk::new()), PathBuf::from("/weft"), None),
    ]
}

#[test]
fn both_disks_agree_on_files_and_names() {
    for (disk, root, _keep) in both() {
        let dir = root.join("a/b");
        disk.create_dir_all(&dir).unwrap();
        disk.create_dir_all(&dir).unwrap();
        let path = dir.join("file");
        assert_eq!(
            disk.open(&path, OpenMode::WRITE).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let file = disk.open(&path, OpenMode::CREATE_NEW).unwrap();
        assert_eq!(
            disk.open(&path, OpenMode::CREATE_NEW).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        file.write_at(b"hello", 3).unwrap();
        let mut buffer = [9; 16];
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 8);
        assert_eq!(&buffer[..8], b"\0\0\0hello");
        assert_eq!(
            file.read_exact_at(&mut buffer, 0).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert_eq!(file.read_at(&mut buffer, 100).unwrap(), 0);
        file.set_len(4).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.len().unwrap(), 4);
        assert!(disk.open(&path, OpenMode::READ).unwrap().write_at(b"x", 0).is_err());
        assert!(disk.open(&dir, OpenMode::READ).is_err(), "a folder is not a file");
        assert!(disk.create_dir_all(&path).is_err(), "a file is not a folder");
        disk.rename(&path, &dir.join("other")).unwrap();
        disk.sync_dir(&dir).unwrap();
        assert_eq!(disk.list(&dir).unwrap(), ["other"]);
        assert!(disk.remove_dir(&dir).is_err());
        assert!(disk.exists(&dir.join("other")).unwrap() && !disk.exists(&path).unwrap());
        disk.remove_file(&dir.join("other")).unwrap();
        disk.remove_dir(&dir).unwrap();
        assert!(disk.list(&dir).is_err());
        assert!(disk.available_bytes(&root).unwrap() > 0);
    }
}

#[test]
fn a_lock_has_one_holder() {
    for (disk, root, _keep) in both() {
        disk.create_dir_all(&root).unwrap();
        let held = disk.open(&root.join("LOCK"), OpenMode::LOCK).unwrap();
        assert_eq!(
            disk.open(&root.join("LOCK"), OpenMode::LOCK).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(held);
        disk.open(&root.join("LOCK"), OpenMode::LOCK).unwrap();
    }
}

#[test]
fn only_what_was_synced_survives_a_crash() {
    let disk = MemoryDisk::new();
    let dir = Path::new("/d");
    disk.create_dir_all(dir).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let kept = disk.open(&dir.join("kept"), OpenMode::CREATE).unwrap();
    kept.write_at(b"durable", 0).unwrap();
    kept.sync_data().unwrap();
    disk.sync_dir(dir).unwrap();
    kept.write_at(b"DURABLE and more", 0).unwrap();
    let unnamed = disk.open(&dir.join("unnamed"), OpenMode::CREATE).unwrap();
    unnamed.write_at(b"x", 0).unwrap();
    unnamed.sync_data().unwrap();
    disk.crash();
    assert!(kept.len().is_err(), "a handle from before the crash is dead");
    assert_eq!(disk.list(dir).unwrap(), ["kept"]);
    assert_eq!(disk.contents(&dir.join("kept")).unwrap(), b"durable");
}

#[test]
fn a_torn_crash_keeps_whole_sectors_only() {
    let disk = MemoryDisk::new();
    let path = Path::new("/file");
    let file = disk.open(path, OpenMode::CREATE).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    file.write_at(&[7; 3 * SECTOR], 0).unwrap();
    disk.crash_after_sectors(2);
    assert_eq!(disk.contents(path).unwrap(), [7; 2 * SECTOR]);
}

const SECTOR: usize = 512;

#[test]
fn faults_are_shown_and_then_gone() {
    let disk = MemoryDisk::new();
    let path = Path::new("/file");
    let file = disk.open(path, OpenMode::CREATE).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    file.write_at(&[1; 10], 0).unwrap();
    disk.fail_syncs(1);
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    disk.set_capacity(Some(12));
    assert_eq!(
        file.write_at(&[2; 5], 10).unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    disk.set_capacity(None);
    disk.flip_bit(path, 0, 1).unwrap();
    assert_eq!(disk.contents(path).unwrap()[0], 3);
    disk.crash();
    assert!(
        disk.contents(path).unwrap().is_empty(),
        "what a failed sync dropped stays dropped"
    );
}
