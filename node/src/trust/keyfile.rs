//! Key files: how a secret key lies on disk and how it travels.
//!
//! Promises: a key file is its owner's alone (mode 0600) and refused when others can read it, when it is a link or a pipe, or when
//! it is not exactly one key; a damaged file is an error, never another key; creating never replaces a key, and a crash leaves no
//! half of one. Copies in memory are erased when they are dropped.
//!
//! A file has one of two forms. Plain: the line `weft-ed25519-secret 1 <text>`, where the text is base32 of the 32 secret bytes and
//! four bytes of checksum. Protected: the same line, encrypted by a passphrase in the format of age (armored when written here,
//! binary accepted too), so that `age -d node.key` recovers it without this program.
//!
//! Encryption draws its salt and nonce from the operating system, not from the entropy a caller passes in.

mod form;
#[cfg(test)]
mod tests;

use std::path::Path;

use weft_protocol::ident::SecretKey;
use zeroize::Zeroizing;

use super::passphrase::Passphrase;
use crate::{
    data_dir::{DataDirError, Existing, read_private, write_private},
    error::{ErrorKind, Kind},
};

/// The name of the file with the node's own key.
pub const NODE_KEY_FILE: &str = "node.key";

/// The name of the file with the mesh's root key, on the node that made the mesh.
pub const ROOT_KEY_FILE: &str = "root.key";

/// Larger files are not key files; an encrypted key takes about 500 bytes.
pub const FILE_BYTES_MAX: u64 = 8 * 1024;

/// Why a key cannot be had or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] DataDirError),
    /// The content is no key file of any kind.
    #[error("{what} is not a weft key: it does not begin with \"weft-ed25519-secret\"")]
    NotAKey {
        /// The file, or where else the text came from.
        what: String,
    },
    /// It is a key file of a version that this program does not know.
    #[error("{what} is a key file of version {version}, but this program knows version 1 only")]
    Version {
        /// The file.
        what: String,
        /// Its version.
        version: String,
    },
    /// It is another sort of key.
    #[error("{what} holds a key of type {found}, not ed25519")]
    WrongType {
        /// The file.
        what: String,
        /// The type it names.
        found: String,
    },
    /// The content is damaged.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// The file.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The key is encrypted and no passphrase was given.
    #[error("{what} is protected by a passphrase, and none was given")]
    PassphraseNeeded {
        /// The file.
        what: String,
    },
    /// The passphrase does not open it.
    #[error("the passphrase does not open {what}")]
    WrongPassphrase {
        /// The file.
        what: String,
    },
    /// Encryption failed.
    #[error("cannot encrypt the key: {reason}")]
    Encrypt {
        /// Why.
        reason: String,
    },
}

impl Kind for KeyFileError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::File(error) => error.kind(),
            Self::Version { .. } => ErrorKind::Conflict,
            Self::NotAKey { .. } | Self::WrongType { .. } | Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::PassphraseNeeded { .. } | Self::WrongPassphrase { .. } => ErrorKind::Denied,
            Self::Encrypt { .. } => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::PassphraseNeeded { .. } => {
                Some("put it into a file that WEFT_PASSPHRASE_FILE names, or run on a terminal".into())
            }
            Self::Version { .. } => Some("use a newer program".into()),
            Self::NotAKey { .. } | Self::WrongType { .. } | Self::Damaged { .. } => {
                Some("restore the file from a backup made by `weft id export`".into())
            }
            _ => None,
        }
    }
}

/// Whether [`load_or_create`] found a key or made one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The file was there.
    Loaded,
    /// The key is new.
    Created,
}

/// Reads the key in a file; the passphrase is not used when the file is not encrypted.
pub fn load(path: &Path, passphrase: Option<&Passphrase>) -> Result<SecretKey, KeyFileError> {
    let bytes = read_private(path, FILE_BYTES_MAX)?;
    form::read(&bytes, passphrase, &path.display().to_string())
}

/// Writes a key into a new file, encrypted when there is a passphrase; never replaces a file.
pub fn create(path: &Path, key: &SecretKey, passphrase: Option<&Passphrase>) -> Result<(), KeyFileError> {
    Ok(write_private(
        path,
        form::write(key, passphrase)?.as_bytes(),
        Existing::Keep,
    )?)
}

/// Reads the key in a file, or makes a new key from `entropy` and keeps it there.
pub fn load_or_create(
    path: &Path,
    passphrase: Option<&Passphrase>,
    entropy: &mut dyn FnMut(&mut [u8]),
) -> Result<(SecretKey, Outcome), KeyFileError> {
    match load(path, passphrase) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        result => return result.map(|key| (key, Outcome::Loaded)),
    }
    let mut seed = Zeroizing::new([0; 32]);
    entropy(seed.as_mut());
    let key = SecretKey::from_bytes(&seed);
    create(path, &key, passphrase)?;
    Ok((key, Outcome::Created))
}

/// Whether the key in a file is protected by a passphrase.
pub fn is_encrypted(path: &Path) -> Result<bool, KeyFileError> {
    Ok(form::is_encrypted(&read_private(path, FILE_BYTES_MAX)?))
}

/// Encrypts the key in a file anew, or for the first time, or with `new: None` no longer.
pub fn change_passphrase(path: &Path, old: Option<&Passphrase>, new: Option<&Passphrase>) -> Result<(), KeyFileError> {
    let text = form::write(&load(path, old)?, new)?;
    Ok(write_private(path, text.as_bytes(), Existing::Replace)?)
}

/// A key as text for a backup, encrypted when there is a passphrase; ends with a line end.
pub fn export(key: &SecretKey, passphrase: Option<&Passphrase>) -> Result<Zeroizing<String>, KeyFileError> {
    form::write(key, passphrase)
}

/// Reads what [`export`] wrote, or the content of a key file; `what` names it in errors.
pub fn import(bytes: &[u8], passphrase: Option<&Passphrase>, what: &str) -> Result<SecretKey, KeyFileError> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let reason = format!("longer than {FILE_BYTES_MAX} bytes");
        return Err(KeyFileError::Damaged {
            what: what.into(),
            reason,
        });
    }
    form::read(bytes, passphrase, what)
}
