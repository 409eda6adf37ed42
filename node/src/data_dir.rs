//! The folder that holds everything a node must not lose or show: its key, its store, its token.
//!
//! Promises: the folder and every file written here can be read by its owner only, and a folder or secret file that others can
//! read is refused, with the command that repairs it; one process at a time owns a folder, and the second is told who the first
//! is; a file written here is, after a crash at any moment, either the old one or the new one, whole.
//!
//! Not promised: protection against root, or against another process of the same user.

mod private;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

use crate::error::{ErrorKind, Kind};

pub use private::{Existing, read_private, write_private};

const LOCK_FILE: &str = "lock";

/// What can go wrong with the data folder and the files in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Nothing says where the folder should be.
    #[error("cannot tell where the node's data belongs: there is no home directory")]
    NoHome,
    /// The folder does not exist.
    #[error("there is no data directory {}", .0.display())]
    Missing(PathBuf),
    /// The path names something that is not a folder.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The path names something that is not a plain file.
    #[error("{} is not a regular file but {found}", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is instead.
        found: &'static str,
    },
    /// The path is a symbolic link: whoever may change the link could exchange the node's identity.
    #[error("{} is a symbolic link to {}", path.display(), target.display())]
    Symlink {
        /// The link.
        path: PathBuf,
        /// Where it points.
        target: PathBuf,
    },
    /// Others than the owner have access.
    #[error("{} can be accessed by other users (mode {mode:04o})", path.display())]
    TooOpen {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The permission bits it should have.
        wanted: u32,
    },
    /// It belongs to another user.
    #[error("{} belongs to user {owner}, not to user {user}", path.display())]
    WrongOwner {
        /// The file or folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who this process is.
        user: u32,
    },
    /// Another process uses the folder.
    #[error("the data directory {} is in use by {}", path.display(), pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}")))]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The other process, as far as it has said so.
        pid: Option<u32>,
    },
    /// A file that must be new exists already.
    #[error("{} already exists", .0.display())]
    Exists(PathBuf),
    /// A file is larger than anything this program would have written there.
    #[error("{} is larger than {bytes_max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        bytes_max: u64,
    },
    /// The disk is full.
    #[error("no space left on the disk to write {}", .0.display())]
    Full(PathBuf),
    /// The folder or its file system does not allow writing.
    #[error("cannot write {}: {reason}", path.display())]
    ReadOnly {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The file system failed otherwise.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Kind for DataDirError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoHome | Self::NotADirectory(_) | Self::NotAFile { .. } | Self::Symlink { .. } => ErrorKind::Invalid,
            Self::Missing(_) => ErrorKind::NotFound,
            Self::TooOpen { .. } | Self::WrongOwner { .. } | Self::ReadOnly { .. } => ErrorKind::Denied,
            Self::InUse { .. } | Self::Exists(_) => ErrorKind::Conflict,
            Self::TooLarge { .. } => ErrorKind::Corrupt,
            Self::Full(_) => ErrorKind::Busy,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                _ => ErrorKind::Internal,
            },
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoHome => Some("name one with --data-dir DIR or WEFT_DATA_DIR".into()),
            Self::TooOpen { path, wanted, .. } => Some(format!("chmod {wanted:o} {}", shell_quote(path))),
            Self::WrongOwner { path, user, .. } => Some(format!("chown {user} {}", shell_quote(path))),
            Self::Full(_) => Some("make room on that disk, or choose a --data-dir on another".into()),
            Self::ReadOnly { .. } => Some("choose a --data-dir that this user can write".into()),
            Self::Symlink { target, .. } => Some(format!("name {} itself", target.display())),
            Self::InUse { path, .. } => Some(format!(
                "stop that process, or give this node its own folder instead of {}",
                path.display()
            )),
            _ => None,
        }
    }
}

impl DataDirError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::Full(path.into()),
            Some(Errno::ROFS) => Self::ReadOnly {
                path: path.into(),
                reason: source.to_string(),
            },
            Some(Errno::ACCESS | Errno::PERM) if action != "read" => Self::ReadOnly {
                path: path.into(),
                reason: source.to_string(),
            },
            _ => Self::Io {
                action,
                path: path.into(),
                source,
            },
        }
    }
}

/// Quotes a path for a POSIX shell when it needs it: the line is meant to be pasted.
fn shell_quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/._-+:@".contains(&b));
    if plain {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Where the data of a node belongs: the flag, else `WEFT_DATA_DIR`, else `$XDG_DATA_HOME/weft`, else `~/.local/share/weft`, else,
/// for root without a home, `/var/lib/weft`. Empty variables count as absent.
pub fn resolve(
    flag: Option<&Path>,
    variable: impl Fn(&str) -> Option<OsString>,
    is_root: bool,
) -> Result<PathBuf, DataDirError> {
    let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The XDG specification has relative paths ignored.
    let absolute = |name: &str| path(name).filter(|path| path.is_absolute());
    flag.map(Into::into)
        .or_else(|| path("WEFT_DATA_DIR"))
        .or_else(|| absolute("XDG_DATA_HOME").map(|base| base.join("weft")))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share/weft")))
        .or_else(|| is_root.then(|| "/var/lib/weft".into()))
        .ok_or(DataDirError::NoHome)
}

/// As [`resolve`], for this process.
pub fn resolve_for_process(flag: Option<&Path>) -> Result<PathBuf, DataDirError> {
    resolve(
        flag,
        |name| std::env::var_os(name),
        rustix::process::geteuid().is_root(),
    )
}

/// A data folder that this process owns until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Holds the lock; the system gives it back when the process ends, however it ends.
    _lock: File,
}

impl DataDir {
    /// Creates the folder when it is missing, checks it, and takes its lock.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DataDirError> {
        let path = path.into();
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(&path)?,
            _ => {}
        }
        check(&path)?;
        let lock = lock(&path)?;
        private::remove_leftovers(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file in it, readable by the owner only, durable on return, in place of any earlier one.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
        write_private(&self.file(name), bytes, Existing::Replace)
    }
}

fn create(path: &Path) -> Result<(), DataDirError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => DataDirError::NotADirectory(path.into()),
            _ => DataDirError::io("create the data directory", path, error),
        })
}

/// Checks that a folder exists and that it is its owner's alone; takes no lock, so that a client may do it beside the node.
pub fn check(path: &Path) -> Result<(), DataDirError> {
    let metadata = fs::symlink_metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => DataDirError::Missing(path.into()),
        io::ErrorKind::NotADirectory => DataDirError::NotADirectory(path.into()),
        _ => DataDirError::io("read", path, error),
    })?;
    if metadata.is_symlink() {
        return Err(DataDirError::Symlink {
            path: path.into(),
            target: fs::read_link(path).unwrap_or_default(),
        });
    }
    if !metadata.is_dir() {
        return Err(DataDirError::NotADirectory(path.into()));
    }
    private::check_owner_and_mode(path, &metadata, 0o700)
}

fn lock(dir: &Path) -> Result<File, DataDirError> {
    let path = dir.join(LOCK_FILE);
    let no_follow = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits().cast_signed();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(no_follow)
        .open(&path)
        .map_err(|error| DataDirError::io("open the lock", &path, error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(DataDirError::InUse {
                path: dir.into(),
                pid: read_pid(&mut file),
            });
        }
        Err(errno) => return Err(DataDirError::io("lock", &path, errno.into())),
    }
    let pid = std::process::id();
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(format!("{pid}\n").as_bytes()))
        .map_err(|error| DataDirError::io("write", &path, error))?;
    Ok(file)
}

/// The process that holds the lock; absent in the instant before it has written its number.
fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// The process that owns a data folder, when there is one.
pub fn owner_pid(dir: &Path) -> Option<u32> {
    let mut file = File::open(dir.join(LOCK_FILE)).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => read_pid(&mut file),
        _ => None,
    }
}

/// Permission bits of a file or folder.
fn mode_of(metadata: &fs::Metadata) -> u32 {
    metadata.mode() & 0o7777
}
