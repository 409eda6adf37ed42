//! The operating system's disk.

use super::{Disk, DiskFile, OpenMode};
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The operating system's disk. Files are made with mode 0600, folders with 0700.
#[derive(Debug, Clone, Copy)]
pub struct RealDisk {
    made: Instant,
}

impl Default for RealDisk {
    fn default() -> Self {
        RealDisk { made: Instant::now() }
    }
}

impl RealDisk {
    /// The disk, ready to be handed to a store.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(RealDisk::default())
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = std::fs::OpenOptions::new();
        options
            .read(true)
            .write(mode.write)
            .create(mode.create)
            .create_new(mode.create_new);
        own_alone(&mut options);
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if mode.lock {
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(Arc::new(RealFile { file }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::DirBuilderExt;
            builder.mode(0o700);
        }
        builder.create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        // A dangling symbolic link is a name too: it must not pass for "nothing there".
        match std::fs::symlink_metadata(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // Windows has no handle on a folder to sync; there NTFS journals names by itself.
        #[cfg(unix)]
        File::open(dir)?.sync_all()?;
        #[cfg(not(unix))]
        let _ = dir;
        Ok(())
    }

    #[cfg(unix)]
    fn available_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    #[cfg(not(unix))]
    fn available_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn blocks(&self) -> bool {
        true
    }

    fn stopwatch(&self) -> Duration {
        self.made.elapsed()
    }
}

#[cfg(unix)]
fn own_alone(options: &mut std::fs::OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    // Non-blocking, so that opening a FIFO put in a file's place cannot hang; it has no effect on regular files.
    options
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
}

#[cfg(not(unix))]
fn own_alone(_options: &mut std::fs::OpenOptions) {}

#[derive(Debug)]
struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match positioned::read(&self.file, &mut buffer[filled..], offset_bytes + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, data: &[u8], offset_bytes: u64) -> io::Result<()> {
        let mut written = 0;
        while written < data.len() {
            match positioned::write(&self.file, &data[written..], offset_bytes + written as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.file.set_len(len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(unix)]
mod positioned {
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;

    pub(super) fn read(file: &File, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        file.read_at(buffer, offset_bytes)
    }

    pub(super) fn write(file: &File, data: &[u8], offset_bytes: u64) -> io::Result<usize> {
        file.write_at(data, offset_bytes)
    }
}

#[cfg(windows)]
mod positioned {
    use std::fs::File;
    use std::io;
    use std::os::windows::fs::FileExt;

    pub(super) fn read(file: &File, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        file.seek_read(buffer, offset_bytes)
    }

    pub(super) fn write(file: &File, data: &[u8], offset_bytes: u64) -> io::Result<usize> {
        file.seek_write(data, offset_bytes)
    }
}
