//! Who may come in: the credentials of the NATS door.
//!
//! They lie in one file that only the node's user can read, a line each:
//!
//! ```text
//! token SECRET
//! user NAME PASSWORD
//! nkey UD…                  the public half; its owner signs the door's nonce
//! ```
//!
//! Promises: passwords and tokens are compared in the same time whatever is presented; a damaged line is an error at the start, not a
//! credential that never fits. Whoever comes in may do what the local API may do; there are no permissions per user.

use std::{collections::BTreeMap, path::Path};

use data_encoding::{BASE64URL, BASE64URL_NOPAD};
use nkeys::{KeyPair, KeyPairType};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::words::Connect;
use crate::{data_dir::read_private, error::NodeError};

const FILE_BYTES_MAX: u64 = 256 << 10;
const LINES_MAX: usize = 1024;
/// An encoded Ed25519 signature, with room for padding.
const SIGNATURE_BYTES_MAX: usize = 128;

/// Everybody who may come in. Secrets are kept as hashes.
#[derive(Default)]
pub(super) struct Credentials {
    tokens: Vec<[u8; 32]>,
    users: BTreeMap<String, [u8; 32]>,
    nkeys: BTreeMap<String, KeyPair>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("tokens", &self.tokens.len())
            .field("users", &self.users.len())
            .field("nkeys", &self.nkeys.len())
            .finish()
    }
}

impl Credentials {
    /// Reads the file.
    pub(super) fn load(path: &Path) -> Result<Self, NodeError> {
        let bytes = read_private(path, FILE_BYTES_MAX)?;
        let text =
            std::str::from_utf8(&bytes).map_err(|_| NodeError::invalid(format!("{} is not text", path.display())))?;
        Self::parse(text).map_err(|(line, reason)| {
            NodeError::invalid(format!("{}, line {line}: {reason}", path.display()))
                .with_hint("a line is `token SECRET`, `user NAME PASSWORD` or `nkey PUBLIC_KEY`")
        })
    }

    /// The line and the reason when there is something else than credentials; never the line's own text.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut found = Credentials::default();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let words: Vec<&str> = line.split_whitespace().collect();
            if number > LINES_MAX {
                return Err((number, format!("there are more than {LINES_MAX} lines")));
            }
            match words[..] {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                ["token", secret] => found.tokens.push(hash(secret)),
                ["user", name, password] => {
                    if found.users.insert(name.to_owned(), hash(password)).is_some() {
                        return Err((number, format!("the user {name} is there twice")));
                    }
                }
                ["nkey", public] => {
                    let key = KeyPair::from_public_key(public)
                        .ok()
                        .filter(|key| matches!(key.key_pair_type(), KeyPairType::User));
                    let key = key.ok_or((number, "it is not the public key of a user (U…)".to_owned()))?;
                    found.nkeys.insert(public.to_owned(), key);
                }
                _ => return Err((number, "it is none of the known forms".to_owned())),
            }
        }
        if found.tokens.is_empty() && found.users.is_empty() && found.nkeys.is_empty() {
            return Err((1, "there are no credentials in the file".to_owned()));
        }
        Ok(found)
    }

    /// Whether a nonce has to be signed by somebody.
    pub(super) fn wants_nonce(&self) -> bool {
        !self.nkeys.is_empty()
    }

    /// Whether the client may come in.
    pub(super) fn admit(&self, connect: &Connect, nonce: &str) -> bool {
        if let (Some(public), Some(signature)) = (&connect.nkey, &connect.sig) {
            return self.admit_nkey(public, signature, nonce);
        }
        if let (Some(user), Some(password)) = (&connect.user, &connect.pass) {
            let presented = hash(password);
            // An unknown name takes as long as a known one.
            let known = self.users.get(user);
            let fits: bool = known.unwrap_or(&[0; 32]).ct_eq(&presented).into();
            return fits && known.is_some();
        }
        // Some clients put the token where the user's name goes.
        let Some(token) = connect.auth_token.as_ref().or(connect.user.as_ref()) else {
            return false;
        };
        let presented = hash(token);
        self.tokens
            .iter()
            .fold(false, |found, known| found | bool::from(known.ct_eq(&presented)))
    }

    fn admit_nkey(&self, public: &str, signature: &str, nonce: &str) -> bool {
        if signature.len() > SIGNATURE_BYTES_MAX {
            return false;
        }
        let bytes = BASE64URL_NOPAD
            .decode(signature.as_bytes())
            .or_else(|_| BASE64URL.decode(signature.as_bytes()))
            .or_else(|_| data_encoding::BASE64.decode(signature.as_bytes()));
        let Ok(bytes) = bytes else { return false };
        self.nkeys
            .get(public)
            .is_some_and(|key| key.verify(nonce.as_bytes(), &bytes).is_ok())
    }
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(set: impl FnOnce(&mut Connect)) -> Connect {
        let mut connect = Connect::default();
        set(&mut connect);
        connect
    }

    #[test]
    fn a_token_a_password_and_a_signature_open_it() {
        let pair = KeyPair::new_user();
        let public = pair.public_key();
        let text = format!("# who\ntoken t0p\n\nuser ann pa55\nnkey {public}\n");
        let credentials = Credentials::parse(&text).unwrap();
        assert!(credentials.wants_nonce());
        let admit = |c: &Connect| credentials.admit(c, "nonce");
        assert!(admit(&connect(|c| c.auth_token = Some("t0p".into()))));
        assert!(admit(&connect(|c| c.user = Some("t0p".into()))));
        assert!(!admit(&connect(|c| c.auth_token = Some("t0".into()))));
        let user = |name: &str, password: &str| {
            connect(|c| (c.user, c.pass) = (Some(name.to_owned()), Some(password.to_owned())))
        };
        assert!(admit(&user("ann", "pa55")));
        assert!(!admit(&user("ann", "pa5")) && !admit(&user("bob", "pa55")) && !admit(&user("bob", "")));
        let signed = |text: &str| {
            let sig = BASE64URL_NOPAD.encode(&pair.sign(text.as_bytes()).unwrap());
            connect(|c| (c.nkey, c.sig) = (Some(public.clone()), Some(sig)))
        };
        assert!(admit(&signed("nonce")));
        assert!(!admit(&signed("another")));
        assert!(!admit(&Connect::default()));
    }

    #[test]
    fn a_damaged_file_is_an_error_that_shows_no_secret() {
        for (text, line) in [
            ("", 1),
            ("# nobody\n", 1),
            ("token\n", 1),
            ("token a\nuser b\n", 2),
            ("user a s3cret extra\n", 1),
            ("nkey s3cret\n", 1),
            ("user a s3cret\nuser a other\n", 2),
        ] {
            let (found, reason) = Credentials::parse(text).unwrap_err();
            assert_eq!(found, line, "{text:?}");
            assert!(!reason.contains("s3cret"), "{reason}");
        }
    }
}
