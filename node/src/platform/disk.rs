//! The only way the store touches files, so that a simulator can supply a disk that fails.
//!
//! **Promises.** Every call is blocking and says what became of it; a [`DiskFile::write_at`] that returns `Ok` has
//! taken every byte; after [`DiskFile::sync_data`] returns `Ok` the file's bytes and length survive a power cut, and
//! after [`Disk::sync_dir`] the names in that folder do.
//!
//! **Does not promise.** Nothing survives a power cut before its sync. What an unsuccessful write or sync left behind is
//! unknown; the store never repeats a sync that failed, because the kernel may have dropped the pages already.
//!
//! [`RealDisk`] is the operating system's; [`MemoryDisk`] keeps two pictures of every file, the seen and the durable one,
//! and has switches for the faults a real disk shows once in a year.

mod memory;
mod pages;
mod real;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use memory::MemoryDisk;
pub use real::RealDisk;

/// How to open a file; the default opens an existing one for reading and writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenMode {
    /// Ask for write access.
    pub write: bool,
    /// Make the file when it is not there.
    pub create: bool,
    /// Fail with `AlreadyExists` when it is there; implies `create`.
    pub create_new: bool,
    /// Hold an exclusive lock as long as the file is open; `WouldBlock` when another holder has it.
    pub lock: bool,
}

impl OpenMode {
    /// An existing file, to be read only.
    pub const READ: OpenMode = OpenMode {
        write: false,
        create: false,
        create_new: false,
        lock: false,
    };
    /// An existing file, to be read and written.
    pub const WRITE: OpenMode = OpenMode {
        write: true,
        create: false,
        create_new: false,
        lock: false,
    };
    /// A file to be read and written, made when it is not there.
    pub const CREATE: OpenMode = OpenMode {
        write: true,
        create: true,
        create_new: false,
        lock: false,
    };
    /// A file that must not be there yet.
    pub const CREATE_NEW: OpenMode = OpenMode {
        write: true,
        create: true,
        create_new: true,
        lock: false,
    };
    /// A lock file: made when it is not there, held exclusively while open.
    pub const LOCK: OpenMode = OpenMode {
        write: true,
        create: true,
        create_new: false,
        lock: true,
    };
}

impl Default for OpenMode {
    fn default() -> Self {
        OpenMode::WRITE
    }
}

/// A disk: folders, names, files. Every method blocks.
pub trait Disk: Send + Sync + Debug + 'static {
    /// Opens a file. A new file is readable by its owner alone.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a folder and its parents; a folder that is there already is no error. New folders are their owner's alone.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Gives a file or folder another name, replacing a file of that name at once.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file's name away; whoever has it open can go on reading.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Takes an empty folder away.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in a folder, sorted; a name that is not UTF-8 is given with replacement characters.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Whether anything has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// How many bytes can still be written below this folder.
    fn available_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// Whether calls may wait for hardware. `true`: a caller on an async runtime goes through
    /// `tokio::task::spawn_blocking`. `false`: call inline, as in a simulator with one thread and virtual time.
    fn blocks(&self) -> bool;

    /// Time since some fixed moment, for weighing how long a sync takes. A disk that does not block says zero.
    fn stopwatch(&self) -> Duration {
        Duration::ZERO
    }
}

/// An open file; positions are given with each call, so one handle can be shared.
pub trait DiskFile: Send + Sync + Debug + 'static {
    /// Reads up to `buffer.len()` bytes from `offset_bytes`; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize>;

    /// Writes all of `data` at `offset_bytes`, or fails; after a failure any part of it may have been written.
    fn write_at(&self, data: &[u8], offset_bytes: u64) -> io::Result<()>;

    /// The length of the file.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file holds no byte.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;

    /// Makes what was written durable, with the length needed to read it.
    fn sync_data(&self) -> io::Result<()>;

    /// Fills `buffer` from `offset_bytes`, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<()> {
        let read = self.read_at(buffer, offset_bytes)?;
        if read < buffer.len() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file ends before the bytes asked for",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
