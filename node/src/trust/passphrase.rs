//! The passphrase that protects a key file, and where it may come from.
//!
//! A passphrase is never taken from the command line or from the value of an environment variable: both can be seen by others and
//! end up in logs. It comes from a file (`WEFT_PASSPHRASE_FILE`), from a systemd credential named `weft-passphrase`, or from a
//! person, whom the command line asks. One that is to replace it comes from a file of its own (`WEFT_NEW_PASSPHRASE_FILE`), or
//! from a person. It is erased from memory when it is dropped and never shown.

#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    fmt,
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::error::{ErrorKind, Kind};

/// Longer texts are not passphrases but mistakes.
const BYTES_MAX: usize = 1024;

/// The variable that names a file with the passphrase in it.
pub const PASSPHRASE_FILE_VARIABLE: &str = "WEFT_PASSPHRASE_FILE";

/// The variable that names a file with the passphrase to be.
pub const NEW_PASSPHRASE_FILE_VARIABLE: &str = "WEFT_NEW_PASSPHRASE_FILE";

/// The name of the systemd credential (`LoadCredential=weft-passphrase:/path`).
pub const CREDENTIAL_NAME: &str = "weft-passphrase";

/// A secret text that protects a key.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// A passphrase as a person typed it; one line end is cut off.
    pub fn new(text: impl Into<Zeroizing<String>>) -> Result<Self, PassphraseError> {
        let mut text = text.into();
        for end in ['\n', '\r'] {
            if text.ends_with(end) {
                text.pop();
            }
        }
        match text.len() {
            0 => Err(PassphraseError::Empty),
            1..=BYTES_MAX => Ok(Self(text)),
            _ => Err(PassphraseError::TooLong),
        }
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// Why there is no passphrase where one was promised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassphraseError {
    /// It has no characters.
    #[error("the passphrase is empty")]
    Empty,
    /// It is too long to be one.
    #[error("the passphrase is longer than {BYTES_MAX} bytes")]
    TooLong,
    /// It is not text.
    #[error("the passphrase is not valid UTF-8")]
    NotText,
    /// Everybody can read the file.
    #[error("the passphrase file {} can be read by every user (mode {mode:04o})", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file cannot be read.
    #[error("cannot read the passphrase file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Kind for PassphraseError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Empty | Self::TooLong | Self::NotText => ErrorKind::Invalid,
            Self::TooOpen { .. } => ErrorKind::Denied,
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::Unreadable { .. } => ErrorKind::Denied,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::TooOpen { path, .. } => Some(format!("chmod 600 {}", path.display())),
            _ => None,
        }
    }
}

/// The passphrase that the surroundings of the process supply, if they supply one: the file named by `WEFT_PASSPHRASE_FILE`, else
/// the systemd credential. A variable that names a file that is not there is an error, not the absence of a passphrase.
pub fn from_surroundings(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Passphrase>, PassphraseError> {
    if let Some(file) = path(&variable, PASSPHRASE_FILE_VARIABLE) {
        return read(&file, Openness::Checked).map(Some);
    }
    let Some(credential) = path(&variable, "CREDENTIALS_DIRECTORY").map(|dir| dir.join(CREDENTIAL_NAME)) else {
        return Ok(None);
    };
    match read(&credential, Openness::LeftToSystemd) {
        Err(PassphraseError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// The passphrase to be, if the surroundings of the process supply one: the file named by `WEFT_NEW_PASSPHRASE_FILE`.
pub fn new_from_surroundings(
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Passphrase>, PassphraseError> {
    let file = path(&variable, NEW_PASSPHRASE_FILE_VARIABLE);
    file.map(|file| read(&file, Openness::Checked)).transpose()
}

fn path(variable: &impl Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    variable(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[derive(PartialEq)]
enum Openness {
    Checked,
    LeftToSystemd,
}

/// Links are followed: secrets mounted into a container usually are links.
fn read(path: &Path, openness: Openness) -> Result<Passphrase, PassphraseError> {
    let unreadable = |source| PassphraseError::Unreadable {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if openness == Openness::Checked && metadata.is_file() && metadata.mode() & 0o007 != 0 {
        return Err(PassphraseError::TooOpen {
            path: path.into(),
            mode: metadata.mode() & 0o7777,
        });
    }
    // Room for one byte too many and a line end, so that the buffer never moves and leaves a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES_MAX + 3));
    file.take(BYTES_MAX as u64 + 3)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| PassphraseError::NotText)?;
    Passphrase::new(text.to_owned())
}
