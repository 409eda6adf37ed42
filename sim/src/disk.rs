//! The disk of one simulated node: in memory, with what would survive a power cut, and with faults.
//!
//! [`MemoryDisk`] knows what is durable. On top of it this one can lie: a sync
//! that says it succeeded and did nothing.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use weft_node::platform::disk::{Disk, DiskFile, MemoryDisk, OpenMode};

use crate::virtual_os::split_mix;

/// See the module. Clones are of one disk.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    memory: MemoryDisk,
    lies: Arc<AtomicBool>,
}

impl SimDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        SimDisk::default()
    }

    /// The power goes: what was not synced is lost.
    pub fn power_cut(&self) {
        self.memory.crash();
    }

    /// The power goes in the middle of a write: of what was not synced some sectors are there, as `seed` says.
    pub fn torn_write(&self, seed: u64) {
        self.memory.crash_torn(seed);
    }

    /// From now on syncs say that they succeeded, and do nothing; or work again.
    pub fn lie_about_syncs(&self, lies: bool) {
        self.lies.store(lies, Ordering::Relaxed);
    }

    /// There is no room for another byte; or there is again.
    pub fn fill_up(&self, full: bool) {
        let held: u64 = self.memory.files().iter().map(|(_, bytes)| bytes).sum();
        self.memory.set_capacity(full.then_some(held));
    }

    /// Inverts one bit somewhere in what the disk holds, chosen by `seed`. Says where; `None` on an empty disk.
    pub fn flip_bit(&self, seed: u64) -> Option<String> {
        let mut dice = seed;
        let files: Vec<_> = self
            .memory
            .files()
            .into_iter()
            .filter(|(_, bytes)| *bytes > 0)
            .collect();
        let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
        let mut at = split_mix(&mut dice) % total.max(1);
        for (path, bytes) in files {
            if at < bytes {
                let bit = (split_mix(&mut dice) % 8) as u8;
                self.memory.flip_bit(&path, at, bit).ok()?;
                return Some(format!("bit {bit} of byte {at} of {}", path.display()));
            }
            at -= bytes;
        }
        None
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SimFile {
            file: self.memory.open(path, mode)?,
            lies: Arc::clone(&self.lies),
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.memory.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.memory.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.memory.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.memory.remove_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.memory.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.memory.exists(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.lies.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.memory.sync_dir(dir)
    }

    fn available_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.memory.available_bytes(dir)
    }

    fn blocks(&self) -> bool {
        self.memory.blocks()
    }
}

#[derive(Debug)]
struct SimFile {
    file: Arc<dyn DiskFile>,
    lies: Arc<AtomicBool>,
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset_bytes)
    }

    fn write_at(&self, data: &[u8], offset_bytes: u64) -> io::Result<()> {
        self.file.write_at(data, offset_bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.file.set_len(len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.lies.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn written(disk: &SimDisk, data: &[u8]) -> PathBuf {
        let path = PathBuf::from("/d/file");
        disk.create_dir_all(Path::new("/d")).unwrap();
        let file = disk.open(&path, OpenMode::CREATE).unwrap();
        file.write_at(data, 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        path
    }

    fn read(disk: &SimDisk, path: &Path) -> Option<Vec<u8>> {
        let file = disk.open(path, OpenMode::READ).ok()?;
        let mut buffer = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut buffer, 0).unwrap();
        Some(buffer)
    }

    #[test]
    fn what_was_synced_survives_a_power_cut_unless_the_disk_lied() {
        let disk = SimDisk::new();
        let path = written(&disk, b"kept");
        disk.power_cut();
        assert_eq!(read(&disk, &path).as_deref(), Some(&b"kept"[..]));
        disk.lie_about_syncs(true);
        written(&disk, b"lost");
        assert_eq!(read(&disk, &path).as_deref(), Some(&b"lost"[..]));
        disk.power_cut();
        assert_eq!(read(&disk, &path).as_deref(), Some(&b"kept"[..]));
    }

    #[test]
    fn a_full_disk_takes_nothing_more_until_there_is_room() {
        let disk = SimDisk::new();
        let path = written(&disk, b"abc");
        disk.fill_up(true);
        let file = disk.open(&path, OpenMode::WRITE).unwrap();
        assert_eq!(
            file.write_at(b"abcd", 0).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        disk.fill_up(false);
        file.write_at(b"abcd", 0).unwrap();
    }

    #[test]
    fn one_bit_is_flipped_and_no_more() {
        let disk = SimDisk::new();
        assert_eq!(disk.flip_bit(1), None);
        let path = written(&disk, &[0; 100]);
        assert!(disk.flip_bit(1).unwrap().contains("/d/file"));
        let ones: u32 = read(&disk, &path).unwrap().iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(ones, 1);
    }
}
