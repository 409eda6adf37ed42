//! Files that only their owner may read, written so that a crash leaves the old file or the new one.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, OFlags, RenameFlags, renameat_with},
    io::Errno,
};
use zeroize::Zeroizing;

use super::{DataDirError, mode_of};

const TEMPORARY_SUFFIX: &str = ".tmp";

/// What to do when the file that is to be written exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Put the new one in its place.
    Replace,
    /// Leave it as it is and fail with [`DataDirError::Exists`].
    Keep,
}

/// Writes a file with mode 0600, durable on return; after a crash there is the old file or the new one. One writer at a time per path.
pub fn write_private(path: &Path, bytes: &[u8], existing: Existing) -> Result<(), DataDirError> {
    let temporary = temporary_path(path);
    // A leftover of a crash would be refused by `create_new` for ever.
    remove_if_present(&temporary)?;
    let written = write_new(&temporary, bytes)
        .and_then(|()| put_in_place(&temporary, path, existing))
        .and_then(|()| sync_dir(path.parent().unwrap_or(Path::new("."))));
    if written.is_err() {
        // The write's own error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(TEMPORARY_SUFFIX);
    path.with_file_name(name)
}

fn remove_if_present(path: &Path) -> Result<(), DataDirError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DataDirError::io("remove", path, error)),
        _ => Ok(()),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), DataDirError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| DataDirError::io("write", path, error))
}

fn put_in_place(temporary: &Path, path: &Path, existing: Existing) -> Result<(), DataDirError> {
    let moved = match existing {
        Existing::Replace => fs::rename(temporary, path),
        Existing::Keep => match renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
            // Not every file system knows the flag; a hard link does not replace either.
            Err(Errno::INVAL | Errno::NOSYS) => {
                fs::hard_link(temporary, path).and_then(|()| fs::remove_file(temporary))
            }
            result => result.map_err(Into::into),
        },
    };
    moved.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => DataDirError::Exists(path.into()),
        _ => DataDirError::io("write", path, error),
    })
}

fn sync_dir(dir: &Path) -> Result<(), DataDirError> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| DataDirError::io("write", dir, error))
}

/// Removes what an interrupted [`write_private`] may have left.
pub(super) fn remove_leftovers(dir: &Path) -> Result<(), DataDirError> {
    let list = fs::read_dir(dir).map_err(|error| DataDirError::io("list", dir, error))?;
    for entry in list.flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file
            && entry
                .file_name()
                .as_encoded_bytes()
                .ends_with(TEMPORARY_SUFFIX.as_bytes())
        {
            remove_if_present(&entry.path())?;
        }
    }
    Ok(())
}

/// Reads a secret file: a regular file of this user that nobody else may read, at most `bytes_max` long.
pub fn read_private(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, DataDirError> {
    // Not blocking, or a pipe without a writer would hold the start up for ever.
    let flags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error().map(Errno::from_raw_os_error) == Some(Errno::LOOP) => {
            return Err(DataDirError::Symlink {
                path: path.into(),
                target: fs::read_link(path).unwrap_or_default(),
            });
        }
        Err(error) if error.raw_os_error().map(Errno::from_raw_os_error) == Some(Errno::NXIO) => {
            return Err(DataDirError::NotAFile {
                path: path.into(),
                found: "a socket or device",
            });
        }
        result => result.map_err(|error| DataDirError::io("read", path, error))?,
    };
    let metadata = file.metadata().map_err(|error| DataDirError::io("read", path, error))?;
    if !metadata.is_file() {
        return Err(DataDirError::NotAFile {
            path: path.into(),
            found: sort_of(&metadata),
        });
    }
    check_owner_and_mode(path, &metadata, 0o600)?;
    // The whole room at once: a growing buffer would leave copies of the secret behind.
    let room = usize::try_from(metadata.len().min(bytes_max)).unwrap_or_default() + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| DataDirError::io("read", path, error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(DataDirError::TooLarge {
            path: path.into(),
            bytes_max,
        });
    }
    Ok(bytes)
}

fn sort_of(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}

/// That a file or folder belongs to this user and nobody else has any right to it.
pub(super) fn check_owner_and_mode(path: &Path, metadata: &Metadata, wanted: u32) -> Result<(), DataDirError> {
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(DataDirError::WrongOwner {
            path: path.into(),
            owner: metadata.uid(),
            user,
        });
    }
    let mode = mode_of(metadata);
    if mode & 0o077 != 0 {
        return Err(DataDirError::TooOpen {
            path: path.into(),
            mode,
            wanted,
        });
    }
    Ok(())
}
