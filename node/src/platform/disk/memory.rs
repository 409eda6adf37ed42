//! A disk in memory that knows what would survive a power cut, with switches for faults.
//!
//! Every file has a seen and a durable picture. A write changes the seen one; `sync_data` carries the writes since the
//! last sync over; `sync_dir` does the same for names. [`MemoryDisk::crash`] throws away what was not carried over. The
//! model is stricter than ext4 (a new file's name needs its folder synced), so what passes here passes there.

use super::pages::Pages;
use super::{Disk, DiskFile, OpenMode};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a crash tears: a sector is written whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk in memory; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    shared: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    names: Pictures<BTreeMap<PathBuf, u64>>,
    dirs: Pictures<BTreeSet<PathBuf>>,
    files: BTreeMap<u64, Contents>,
    next_file: u64,
    /// Grows with every crash; a handle of an older boot is dead.
    boot: u64,
    faults: Faults,
    syncs: u64,
    changes: u64,
}

#[derive(Debug, Default)]
struct Pictures<T> {
    seen: T,
    durable: T,
}

#[derive(Debug, Default)]
struct Contents {
    seen: Pages,
    durable: Pages,
    unsynced: Vec<Change>,
    /// A failed sync has dropped changes: what is seen is not what was durable with the unsynced changes.
    diverged: bool,
    locked: bool,
}

#[derive(Debug)]
enum Change {
    Written { offset: usize, data: Vec<u8> },
    Resized { len: usize },
}

#[derive(Debug, Default)]
struct Faults {
    syncs_to_fail: u64,
    writes_to_fail: u64,
    removals_to_fail: u64,
    capacity_bytes: Option<u64>,
    reported_bytes: Option<u64>,
    changes_until_power_cut: Option<u64>,
}

impl MemoryDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        MemoryDisk::default()
    }

    /// The power goes: everything not synced is lost and every open handle is dead.
    pub fn crash(&self) {
        self.lock().crash(|_| false);
    }

    /// The power goes while the disk was writing: of what was not synced each sector survives or not, decided by `seed`.
    pub fn crash_torn(&self, seed: u64) {
        let mut state = seed | 1;
        self.lock().crash(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state & 1 == 1
        });
    }

    /// The power goes while the disk was writing in order: the first `sectors` sectors not synced survive.
    pub fn crash_after_sectors(&self, sectors: u64) {
        self.lock().crash(|index| index < sectors);
    }

    /// The next `count` syncs of files fail with an input/output error and drop what they should have made durable.
    pub fn fail_syncs(&self, count: u64) {
        self.lock().faults.syncs_to_fail = count;
    }

    /// The next `count` writes fail with an input/output error, half written.
    pub fn fail_writes(&self, count: u64) {
        self.lock().faults.writes_to_fail = count;
    }

    /// The next `count` removals of files fail with an input/output error.
    pub fn fail_removals(&self, count: u64) {
        self.lock().faults.removals_to_fail = count;
    }

    /// Limits what the files may hold together; a write beyond it is cut short and fails with `StorageFull`.
    pub fn set_capacity(&self, capacity_bytes: Option<u64>) {
        self.lock().faults.capacity_bytes = capacity_bytes;
    }

    /// Makes `available_bytes` say this instead of the truth, as file systems with reservations do.
    pub fn report_available(&self, reported_bytes: Option<u64>) {
        self.lock().faults.reported_bytes = reported_bytes;
    }

    /// After `count` more changes (writes, cuts, syncs, names) every call fails, until a crash brings the disk back.
    pub fn cut_power_after(&self, count: u64) {
        self.lock().faults.changes_until_power_cut = Some(count);
    }

    /// Inverts one bit of a file, in the seen and in the durable picture.
    pub fn flip_bit(&self, path: &Path, offset_bytes: u64, bit: u8) -> io::Result<()> {
        let mut inner = self.lock();
        let contents = inner.contents_of(path)?;
        let offset = to_index(offset_bytes)?;
        for picture in [&mut contents.seen, &mut contents.durable] {
            picture.flip_bit(offset, bit);
        }
        Ok(())
    }

    /// The bytes of a file as seen now.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(self.lock().contents_of(path)?.seen.to_vec())
    }

    /// Puts bytes in a file's place, durably; makes the file when it is not there.
    pub fn replace(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        let id = match inner.names.seen.get(path) {
            Some(id) => *id,
            None => inner.add_file(path),
        };
        inner.names.durable.insert(path.to_path_buf(), id);
        let contents = inner.files.entry(id).or_default();
        contents.seen = Pages::from(data);
        contents.durable = contents.seen.clone();
        contents.diverged = false;
        contents.unsynced.clear();
        Ok(())
    }

    /// How many syncs of files succeeded since the disk was made.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// How many changes the disk was asked for since it was made; the scale of [`Self::cut_power_after`].
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Every file with its length, sorted by name.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let inner = self.lock();
        let length = |id: &u64| inner.files.get(id).map_or(0, |contents| contents.seen.len() as u64);
        inner
            .names
            .seen
            .iter()
            .map(|(path, id)| (path.clone(), length(id)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half way; a panic of a test that held the lock must not hide behind a second one.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn contents_of(&mut self, path: &Path) -> io::Result<&mut Contents> {
        let id = *self.names.seen.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.files.entry(id).or_default())
    }

    fn add_file(&mut self, path: &Path) -> u64 {
        self.next_file += 1;
        let id = self.next_file;
        self.files.insert(id, Contents::default());
        self.names.seen.insert(path.to_path_buf(), id);
        id
    }

    fn powered(&self) -> io::Result<()> {
        if self.faults.changes_until_power_cut == Some(0) {
            Err(power_is_off())
        } else {
            Ok(())
        }
    }

    fn change(&mut self) -> io::Result<()> {
        self.powered()?;
        self.changes += 1;
        if let Some(left) = &mut self.faults.changes_until_power_cut {
            *left -= 1;
        }
        Ok(())
    }

    fn used_bytes(&self) -> u64 {
        self.names
            .seen
            .values()
            .filter_map(|id| self.files.get(id))
            .map(|file| file.seen.len() as u64)
            .sum()
    }

    fn crash(&mut self, mut survives: impl FnMut(u64) -> bool) {
        let mut sector = 0;
        for contents in self.files.values_mut() {
            for change in std::mem::take(&mut contents.unsynced) {
                contents.harden(change, &mut sector, &mut survives);
            }
            contents.seen = contents.durable.clone();
            contents.diverged = false;
            contents.locked = false;
        }
        let (names, dirs) = (&mut self.names, &mut self.dirs);
        dirs.seen = dirs.durable.clone();
        // A durable name in a folder that is gone is gone with it.
        names.durable.retain(|path, _| {
            path.parent()
                .is_none_or(|dir| is_root(dir) || dirs.durable.contains(dir))
        });
        names.seen = names.durable.clone();
        let kept: BTreeSet<u64> = names.seen.values().copied().collect();
        self.files.retain(|id, _| kept.contains(id));
        self.boot += 1;
        self.faults.changes_until_power_cut = None;
    }
}

impl Contents {
    fn carry_over(&mut self) {
        if !self.diverged {
            // The same as below, and the two pictures share their pages.
            self.unsynced = Vec::new();
            self.durable = self.seen.clone();
            return;
        }
        for change in std::mem::take(&mut self.unsynced) {
            self.harden(change, &mut 0, &mut |_| true);
        }
    }

    fn harden(&mut self, change: Change, sector: &mut u64, survives: &mut impl FnMut(u64) -> bool) {
        match change {
            Change::Resized { len } => {
                if survives(*sector) {
                    self.durable.resize(len);
                }
                *sector += 1;
            }
            Change::Written { offset, data } => {
                let mut done = 0;
                while done < data.len() {
                    let start = offset + done;
                    let count = (SECTOR_BYTES - start % SECTOR_BYTES).min(data.len() - done);
                    if survives(*sector) {
                        self.durable.write(&data[done..done + count], start);
                    }
                    *sector += 1;
                    done += count;
                }
            }
        }
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.lock();
        inner.powered()?;
        if inner.dirs.seen.contains(path) {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a folder"));
        }
        let id = match inner.names.seen.get(path) {
            Some(_) if mode.create_new => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(id) => *id,
            None if !mode.create && !mode.create_new => return Err(io::ErrorKind::NotFound.into()),
            None => {
                let parent = path.parent().unwrap_or(Path::new(""));
                if !is_root(parent) && !inner.dirs.seen.contains(parent) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                inner.change()?;
                inner.add_file(path)
            }
        };
        let boot = inner.boot;
        if mode.lock {
            let contents = inner.files.entry(id).or_default();
            if contents.locked {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            contents.locked = true;
        }
        Ok(Arc::new(MemoryFile {
            disk: self.clone(),
            id,
            boot,
            writable: mode.write,
            locks: mode.lock,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        inner.powered()?;
        let mut missing = Vec::new();
        for dir in path.ancestors().filter(|dir| !is_root(dir)) {
            if inner.names.seen.contains_key(dir) {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file has this name"));
            }
            if !inner.dirs.seen.contains(dir) {
                missing.push(dir.to_path_buf());
            }
        }
        for dir in missing {
            inner.change()?;
            inner.dirs.seen.insert(dir);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        if let Some(id) = inner.names.seen.remove(from) {
            inner.names.seen.insert(to.to_path_buf(), id);
            return Ok(());
        }
        if !inner.dirs.seen.contains(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let moved = |path: &PathBuf| match path.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => to.to_path_buf(),
            Ok(rest) => to.join(rest),
            Err(_) => path.clone(),
        };
        inner.dirs.seen = inner.dirs.seen.iter().map(moved).collect();
        inner.names.seen = inner.names.seen.iter().map(|(path, id)| (moved(path), *id)).collect();
        // A folder keeps what was durable in it under its new name.
        inner.dirs.durable = inner.dirs.durable.iter().map(moved).collect();
        inner.names.durable = inner
            .names
            .durable
            .iter()
            .map(|(path, id)| (moved(path), *id))
            .collect();
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        if inner.faults.removals_to_fail > 0 {
            inner.faults.removals_to_fail -= 1;
            return Err(io::Error::other("the removal failed"));
        }
        inner
            .names
            .seen
            .remove(path)
            .map(|_| ())
            .ok_or(io::ErrorKind::NotFound.into())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        let inside = |other: &PathBuf| other.parent() == Some(path);
        if inner.names.seen.keys().any(inside) || inner.dirs.seen.iter().any(inside) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        if inner.dirs.seen.remove(path) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.lock();
        inner.powered()?;
        if !is_root(dir) && !inner.dirs.seen.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = |path: &&PathBuf| path.parent() == Some(dir);
        let paths = inner
            .names
            .seen
            .keys()
            .filter(inside)
            .chain(inner.dirs.seen.iter().filter(inside));
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let mut names: Vec<String> = paths.filter_map(name).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let inner = self.lock();
        inner.powered()?;
        Ok(is_root(path) || inner.names.seen.contains_key(path) || inner.dirs.seen.contains(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        inner.change()?;
        let inner = &mut *inner;
        let inside = |path: &Path| path.parent() == Some(dir);
        inner.names.durable.retain(|path, _| !inside(path));
        let seen = inner
            .names
            .seen
            .iter()
            .filter(|(path, _)| inside(path))
            .map(|(path, id)| (path.clone(), *id));
        inner.names.durable.extend(seen);
        inner.dirs.durable.retain(|path| !inside(path));
        inner
            .dirs
            .durable
            .extend(inner.dirs.seen.iter().filter(|path| inside(path)).cloned());
        Ok(())
    }

    fn available_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let inner = self.lock();
        inner.powered()?;
        let capacity_bytes = inner.faults.capacity_bytes.unwrap_or(u64::MAX);
        let truth = capacity_bytes.saturating_sub(inner.used_bytes());
        Ok(inner.faults.reported_bytes.unwrap_or(truth))
    }

    fn blocks(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    id: u64,
    boot: u64,
    writable: bool,
    locks: bool,
}

impl MemoryFile {
    fn live(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.disk.lock();
        if inner.boot != self.boot {
            return Err(power_is_off());
        }
        inner.powered()?;
        Ok(inner)
    }

    fn changing(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.live()?;
        if !self.writable {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "opened for reading only",
            ));
        }
        inner.change()?;
        Ok(inner)
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        let mut inner = self.live()?;
        let seen = &inner.files.entry(self.id).or_default().seen;
        Ok(seen.read(buffer, to_index(offset_bytes)?))
    }

    fn write_at(&self, data: &[u8], offset_bytes: u64) -> io::Result<()> {
        let mut inner = self.changing()?;
        let offset = to_index(offset_bytes)?;
        let fails = inner.faults.writes_to_fail > 0;
        let used_bytes = inner.used_bytes();
        let held = inner.files.entry(self.id).or_default().seen.len();
        let grows = (offset + data.len()).saturating_sub(held);
        let room = inner
            .faults
            .capacity_bytes
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(used_bytes));
        let missing = (grows as u64).saturating_sub(room);
        let kept = if fails {
            data.len() / 2
        } else {
            data.len().saturating_sub(missing as usize)
        };
        if fails {
            inner.faults.writes_to_fail -= 1;
        }
        let contents = inner.files.entry(self.id).or_default();
        contents.seen.write(&data[..kept], offset);
        contents.unsynced.push(Change::Written {
            offset,
            data: data[..kept].to_vec(),
        });
        match (fails, missing) {
            (true, _) => Err(io::Error::other("injected write failure")),
            (false, 0) => Ok(()),
            (false, _) => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.live()?.files.entry(self.id).or_default().seen.len() as u64)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        let mut inner = self.changing()?;
        let len = to_index(len_bytes)?;
        // No holes on this disk: what a file grows by is taken at once.
        let grows = len.saturating_sub(inner.files.entry(self.id).or_default().seen.len());
        if inner
            .faults
            .capacity_bytes
            .is_some_and(|capacity| capacity < inner.used_bytes() + grows as u64)
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let contents = inner.files.entry(self.id).or_default();
        contents.seen.resize(len);
        contents.unsynced.push(Change::Resized { len });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.changing()?;
        let fails = inner.faults.syncs_to_fail > 0;
        if fails {
            inner.faults.syncs_to_fail -= 1;
            // As Linux does: the pages are marked clean although they never reached the disk.
            let contents = inner.files.entry(self.id).or_default();
            contents.unsynced.clear();
            contents.diverged = true;
            return Err(io::Error::other("injected sync failure"));
        }
        inner.syncs += 1;
        inner.files.entry(self.id).or_default().carry_over();
        Ok(())
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        if self.locks {
            let mut inner = self.disk.lock();
            if inner.boot == self.boot {
                inner.files.entry(self.id).or_default().locked = false;
            }
        }
    }
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.parent().is_none()
}

fn to_index(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn power_is_off() -> io::Error {
    io::Error::other("the disk lost its power")
}
