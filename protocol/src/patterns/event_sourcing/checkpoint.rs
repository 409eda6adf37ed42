//! Checkpoints: what a stream's owner signs of its history, in the form of C2SP's `tlog-checkpoint` and `signed-note`.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use sha2::{Digest as _, Sha256};

use crate::error::{DecodeError, TrustError, at_most};
use crate::ident::{MeshId, PublicKey, SecretKey};
use crate::merkle::Hash;
use crate::subject::Subject;

/// A checkpoint with its signatures, as text.
pub const CHECKPOINT_BYTES_MAX: usize = 4096;
/// The algorithm byte of Ed25519 in a signed note.
const ED25519: u8 = 1;
/// The algorithm byte of a cosignature with Ed25519 (C2SP `tlog-cosignature`, `cosignature/v1`).
const COSIGNATURE: u8 = 4;
const WHAT: &str = "checkpoint";

/// Of which history it is: no other stream, owner or mesh has the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The mesh.
    pub mesh: MeshId,
    /// The stream.
    pub stream: Subject,
    /// Who keeps it.
    pub owner: PublicKey,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "weft/streams/{}/{}/{}", self.mesh, self.owner, self.stream)
    }
}

impl FromStr for Origin {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        at_most("origin", text.len(), 512)?;
        let malformed = || DecodeError::malformed("origin", "it is not weft/streams/MESH/OWNER/STREAM");
        let mut parts = text.strip_prefix("weft/streams/").ok_or_else(malformed)?.splitn(3, '/');
        let mut next = || parts.next().ok_or_else(malformed);
        Ok(Self {
            mesh: next()?.parse()?,
            owner: next()?.parse()?,
            stream: Subject::reserved(next()?)?,
        })
    }
}

/// A history's size and root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Of which history.
    pub origin: Origin,
    /// How many records it has.
    pub size: u64,
    /// The root of its tree.
    pub root: Hash,
    /// When it was signed, by the owner's calendar, Unix milliseconds: an extension line of the form.
    pub time_ms: u64,
}

/// A member that has the same history on its own disk, and said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cosigned {
    /// Who.
    pub by: PublicKey,
    /// When, by its calendar, Unix seconds.
    pub at_s: u64,
}

impl Checkpoint {
    /// What is signed.
    fn body(&self) -> String {
        let (root, time_ms) = (BASE64.encode(&self.root), self.time_ms);
        format!("{}\n{}\n{root}\ntime {time_ms}\n", self.origin, self.size)
    }

    /// Signs it: the text that travels. The key is the owner's.
    pub fn sign(&self, secret: &SecretKey) -> String {
        let (body, name) = (self.body(), self.origin.to_string());
        let mut signature = key_hash(&name, &secret.public()).to_vec();
        signature.extend_from_slice(&secret.sign_note(&body));
        format!("{body}\n\u{2014} {name} {}\n", BASE64.encode(&signature))
    }

    /// What a cosignature signs.
    fn cosigned_body(&self, at_s: u64) -> String {
        format!("cosignature/v1\ntime {at_s}\n{}", self.body())
    }

    /// Says that another member has the same history: a line that is added to the checkpoint's text.
    pub fn cosign(&self, secret: &SecretKey, at_s: u64) -> String {
        let name = self.cosigner_name(&secret.public());
        let mut signature = hash_of_key(&name, COSIGNATURE, &secret.public()).to_vec();
        signature.extend_from_slice(&at_s.to_be_bytes());
        signature.extend_from_slice(&secret.sign_note(&self.cosigned_body(at_s)));
        format!("\u{2014} {name} {}\n", BASE64.encode(&signature))
    }

    fn cosigner_name(&self, key: &PublicKey) -> String {
        format!("weft/members/{}/{key}", self.origin.mesh)
    }

    /// The members whose cosignatures stand in the checkpoint's text, each once. Lines that are none, or do not hold, say nothing.
    pub fn cosigners(&self, text: &str) -> Vec<Cosigned> {
        let mut all: Vec<Cosigned> = Vec::new();
        let signatures = text.split_once("\n\n").map_or("", |(_, signatures)| signatures);
        for one in signatures.lines().filter_map(|line| self.cosigner(line)) {
            if all.iter().all(|known| known.by != one.by) {
                all.push(one);
            }
        }
        all
    }

    fn cosigner(&self, line: &str) -> Option<Cosigned> {
        let (name, encoded) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let by: PublicKey = name.rsplit_once('/')?.1.parse().ok()?;
        let bytes = BASE64.decode(encoded.as_bytes()).ok()?;
        let (hash, rest) = bytes.split_at_checked(4)?;
        let (time, signature) = rest.split_at_checked(8)?;
        let at_s = u64::from_be_bytes(time.try_into().ok()?);
        let is_its = name == self.cosigner_name(&by) && hash == hash_of_key(name, COSIGNATURE, &by);
        let holds = is_its && by.verify_note(&self.cosigned_body(at_s), signature.try_into().ok()?);
        holds.then_some(Cosigned { by, at_s })
    }

    /// Reads a signed checkpoint and verifies that its owner has signed it.
    ///
    /// # Errors
    /// It is no checkpoint, or no signature in it is its owner's.
    pub fn open(text: &str) -> Result<Self, TrustError> {
        at_most(WHAT, text.len(), CHECKPOINT_BYTES_MAX)?;
        let malformed = |reason: &str| DecodeError::malformed(WHAT, reason);
        let (lines, signatures) = text
            .split_once("\n\n")
            .ok_or_else(|| malformed("it has no signature"))?;
        let mut parts = lines.split('\n');
        let mut next = || parts.next().ok_or_else(|| malformed("it has fewer than four lines"));
        let origin: Origin = next()?.parse()?;
        let (size, root, time) = (next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(malformed("it has more lines than four").into());
        }
        let number = |text: &str| text.parse::<u64>().ok().filter(|number| number.to_string() == text);
        let time_ms = time.strip_prefix("time ").and_then(number);
        let root = BASE64
            .decode(root.as_bytes())
            .ok()
            .and_then(|root| root.try_into().ok());
        let checkpoint = Self {
            origin,
            size: number(size).ok_or_else(|| malformed("its size is no number"))?,
            root: root.ok_or_else(|| malformed("its root is no hash"))?,
            time_ms: time_ms.ok_or_else(|| malformed("its time is no number"))?,
        };
        let (body, name) = (checkpoint.body(), checkpoint.origin.to_string());
        let owner = checkpoint.origin.owner;
        let is_owners = |line: &str| {
            let signature = line.strip_prefix("\u{2014} ").and_then(|rest| rest.split_once(' '));
            let bytes = signature.filter(|(by, _)| *by == name);
            let bytes = bytes.and_then(|(_, encoded)| BASE64.decode(encoded.as_bytes()).ok());
            bytes.is_some_and(|bytes| match bytes.split_at_checked(4) {
                Some((hash, signature)) if hash == key_hash(&name, &owner) => signature
                    .try_into()
                    .is_ok_and(|signature| owner.verify_note(&body, signature)),
                _ => false,
            })
        };
        match signatures.lines().any(is_owners) {
            true => Ok(checkpoint),
            false => Err(TrustError::BadSignature { what: WHAT }),
        }
    }
}

/// How a signed note names a key.
fn key_hash(name: &str, key: &PublicKey) -> [u8; 4] {
    hash_of_key(name, ED25519, key)
}

fn hash_of_key(name: &str, algorithm: u8, key: &PublicKey) -> [u8; 4] {
    let mut hasher = Sha256::new();
    hasher.update(name);
    hasher.update([b'\n', algorithm]);
    hasher.update(key.as_bytes());
    let hash = hasher.finalize();
    [hash[0], hash[1], hash[2], hash[3]]
}
