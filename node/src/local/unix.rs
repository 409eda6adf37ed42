//! The Unix socket of the local API.
//!
//! Promises: only the node's user can connect (mode 0600; besides, [`auth`](super::auth) asks the system who calls); the socket of
//! a node that lives is never taken away, that of one that died is; a path too long for a socket is replaced by a short one in a
//! folder of the user's own, the same at every start.

#[cfg(test)]
mod tests;

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use tokio::net::UnixListener;

use crate::{
    data_dir::{self, DataDirError},
    error::{ErrorKind, Kind},
};

/// The name of the socket in the data folder.
pub const SOCKET_FILE: &str = "api.sock";

/// The longest path of a socket: `sun_path` has 108 bytes, one of them for the end.
pub const PATH_BYTES_MAX: usize = 107;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Somebody listens on it.
    #[error("another process listens on {}", .0.display())]
    InUse(PathBuf),
    /// There is something else in its place.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The path the user chose is too long.
    #[error("{} is longer than {PATH_BYTES_MAX} bytes, the longest path of a socket", .0.display())]
    TooLong(PathBuf),
    /// The folder for a short path is not the user's own.
    #[error(transparent)]
    Folder(#[from] DataDirError),
    /// The system refused.
    #[error("cannot listen on {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Kind for SocketError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::InUse(_) | Self::NotASocket(_) => ErrorKind::Conflict,
            Self::TooLong(_) => ErrorKind::Invalid,
            Self::Folder(error) => error.kind(),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            Self::Io { .. } => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Folder(error) => error.hint(),
            Self::NotASocket(path) => Some(format!("remove {} or choose another api.socket", path.display())),
            _ => None,
        }
    }
}

/// What tells a file from another of the same name; with the time, for a number is soon given out again.
type Identity = (u64, u64, i64, i64);

fn identity(found: &fs::Metadata) -> Identity {
    (found.dev(), found.ino(), found.ctime(), found.ctime_nsec())
}

/// A socket that is listened on; its file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    identity: Identity,
}

impl Socket {
    /// Where it is: what clients must be told.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another node may have put its own there since.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where a socket is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its path.
    pub path: PathBuf,
    /// Whether its folder is for it alone and is to be made.
    own_folder: bool,
}

/// Where the socket of a data folder is: in it, or, when that path is too long, at a short path below `runtime_dir`
/// (`$XDG_RUNTIME_DIR`) or else below `/tmp`. A path the user chose is taken as it is.
pub fn place(data_dir: &Path, chosen: Option<&Path>, runtime_dir: Option<&Path>) -> Result<Place, SocketError> {
    let fits = |path: &Path| path.as_os_str().len() <= PATH_BYTES_MAX;
    let preferred = chosen.map_or_else(|| data_dir.join(SOCKET_FILE), Into::into);
    if fits(&preferred) {
        return Ok(Place {
            path: preferred,
            own_folder: false,
        });
    }
    if chosen.is_some() {
        return Err(SocketError::TooLong(preferred));
    }
    let absolute = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.into());
    let hash = HEXLOWER.encode(&Sha256::digest(absolute.as_os_str().as_bytes())[..8]);
    let user = rustix::process::geteuid().as_raw();
    let shared = PathBuf::from(format!("/tmp/weft-{user}-{hash}"));
    let mut folders = runtime_dir
        .map(|dir| dir.join(format!("weft-{hash}")))
        .into_iter()
        .chain([shared]);
    let short = folders.find_map(|folder| Some(folder.join(SOCKET_FILE)).filter(|path| fits(path)));
    short
        .map(|path| Place { path, own_folder: true })
        .ok_or(SocketError::TooLong(preferred))
}

/// Listens at a place found by [`place`]; must be called inside a tokio runtime.
pub fn bind(place: &Place) -> Result<(UnixListener, Socket), SocketError> {
    let path = place.path.as_path();
    let failed = |source| SocketError::Io {
        path: path.into(),
        source,
    };
    if place.own_folder {
        private_folder(path)?;
    }
    remove_dead(path)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    let restrict = || {
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        fs::symlink_metadata(path)
    };
    let found = restrict().map_err(failed)?;
    Ok((
        listener,
        Socket {
            path: path.into(),
            identity: identity(&found),
        },
    ))
}

/// In a folder that everybody may write to, the name could have been taken by somebody else.
fn private_folder(path: &Path) -> Result<(), SocketError> {
    let Some(dir) = path.parent() else { return Ok(()) };
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(SocketError::Io {
                path: dir.into(),
                source: error,
            });
        }
        _ => {}
    }
    Ok(data_dir::check(dir)?)
}

/// Removes a socket on which nobody listens any more.
fn remove_dead(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io {
        path: path.into(),
        source,
    };
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(failed)?,
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.into()));
    }
    match UnixStream::connect(path) {
        // Only this answer says that nobody is there; a full queue, for one, does not.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(SocketError::InUse(path.into())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(SocketError::InUse(path.into())),
        Err(error) => Err(failed(error)),
    }
}
