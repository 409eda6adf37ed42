//! Public and secret keys.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use libp2p_identity::{Keypair, PeerId};
use minicbor::decode::{Decode, Decoder, Error};
use minicbor::encode::{self, Encode, Encoder, Write};
use zeroize::Zeroizing;

use crate::error::DecodeError;
use crate::text::serde_as_text;

/// In front of a key in a peer identity: identity multihash of 36 bytes, then the protobuf fields "Ed25519" and "32 bytes".
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The public key of a node or of a mesh's root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Checks that the bytes are a canonical point of the curve that is not of small order.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, DecodeError> {
        if is_known(&bytes) {
            return Ok(Self(bytes));
        }
        let refuse = |reason: &str| DecodeError::invalid("public key", reason);
        if !is_canonical(&bytes) {
            return Err(refuse("it is not in its canonical form"));
        }
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| refuse("it is not a point of the curve"))?;
        if key.is_weak() {
            return Err(refuse("it is a point of small order"));
        }
        KNOWN.with_borrow_mut(|known| {
            known.resize(KNOWN_MAX, NONE);
            known[slot(&bytes)] = bytes;
        });
        Ok(Self(bytes))
    }

    /// A key to compare with others; as it may be no point of the curve, it may verify nothing.
    pub(crate) fn unchecked(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The libp2p identity of the node with this key.
    pub fn peer_id(&self) -> PeerId {
        let mut bytes = [0; 38];
        bytes[..6].copy_from_slice(&PEER_ID_PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        PeerId::from_bytes(&bytes).expect("invariant: an identity multihash of 36 bytes is a peer id")
    }

    /// The key inside a peer identity; `None` if the identity is a hash or of another kind of key.
    pub fn from_peer_id(peer: &PeerId) -> Option<Self> {
        Self::from_bytes(Self::bytes_in(peer)?).ok()
    }

    /// What stands for the key inside a peer identity; it may be no point of the curve.
    pub(crate) fn bytes_in(peer: &PeerId) -> Option<[u8; 32]> {
        let hash = peer.as_ref();
        let is_key = hash.code() == u64::from(PEER_ID_PREFIX[0]);
        hash.digest()
            .strip_prefix(&PEER_ID_PREFIX[2..])
            .filter(|_| is_key)?
            .try_into()
            .ok()
    }

    /// Whether `signature` is this key's over `bytes` in `domain`; strict, so that no two signatures or keys can stand for one.
    pub fn verify(&self, domain: &str, bytes: &[u8], signature: &[u8; 64]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.0) else {
            return false;
        };
        key.verify_strict(&in_domain(domain, bytes), &Signature::from_bytes(signature))
            .is_ok()
    }

    /// Whether `signature` is this key's over a text in a form that others have specified, which has no domain: C2SP's `signed-note`.
    pub fn verify_note(&self, text: &str, signature: &[u8; 64]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.0) else {
            return false;
        };
        let signature = Signature::from_bytes(signature);
        is_note(text) && key.verify_strict(text.as_bytes(), &signature).is_ok()
    }
}

/// What is signed in another form than ours must not be one of ours, nor libp2p's.
fn is_note(text: &str) -> bool {
    ["weft-v1:", "libp2p", "noise-libp2p"]
        .iter()
        .all(|ours| !text.starts_with(ours))
}

/// Keys a thread remembers to have found good; a mesh has few, and meets them with every message.
const KNOWN_MAX: usize = 1024;
/// What is at a slot without a key: no good key, for it is of small order.
const NONE: [u8; 32] = [0; 32];

thread_local! {
    /// Each good key at its slot; of those that share one, the last.
    static KNOWN: RefCell<Vec<[u8; 32]>> = const { RefCell::new(Vec::new()) };
}

fn slot(bytes: &[u8; 32]) -> usize {
    // Keys are random. Who makes one to share a slot with another makes that be checked again, and nothing else.
    usize::from(u16::from_le_bytes([bytes[0], bytes[1]])) % KNOWN_MAX
}

fn is_known(bytes: &[u8; 32]) -> bool {
    *bytes != NONE && KNOWN.with_borrow(|known| known.get(slot(bytes)) == Some(bytes))
}

/// A value of y below the prime 2^255 - 19; the top bit is the sign of x.
fn is_canonical(bytes: &[u8; 32]) -> bool {
    let above = bytes[0] >= 0xed && bytes[1..31].iter().all(|byte| *byte == 0xff) && bytes[31] & 0x7f == 0x7f;
    !above
}

/// What is signed: a prefix per kind of payload, so that a signature over one kind never counts for another.
fn in_domain(domain: &str, bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(domain.len() + bytes.len() + 9);
    whole.extend_from_slice(b"weft-v1:");
    whole.extend_from_slice(domain.as_bytes());
    whole.push(0);
    whole.extend_from_slice(bytes);
    whole
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peer_id().fmt(f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        // A peer id is 52 characters; base58 is quadratic in its length, so longer text is not even tried.
        crate::error::at_most("peer id", text.len(), 128)?;
        let peer = PeerId::from_str(text).map_err(|error| DecodeError::malformed("peer id", error.to_string()))?;
        Self::from_peer_id(&peer).ok_or_else(|| DecodeError::invalid("peer id", "it does not contain an Ed25519 key"))
    }
}

serde_as_text!(PublicKey);

impl<C> Encode<C> for PublicKey {
    fn encode<W: Write>(&self, encoder: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        encoder.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for PublicKey {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
        let bytes = decoder
            .bytes()?
            .try_into()
            .map_err(|_| Error::message("a public key of other than 32 bytes"))?;
        Self::from_bytes(bytes).map_err(Error::custom)
    }
}

/// The secret key of a node or of a mesh's root; wiped from memory when dropped, never shown.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key with this seed. Any 32 bytes are one; they must come from a good source of randomness.
    pub fn from_bytes(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, to be stored.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `bytes` in `domain`, see [`PublicKey::verify`].
    pub fn sign(&self, domain: &str, bytes: &[u8]) -> [u8; 64] {
        self.0.sign(&in_domain(domain, bytes)).to_bytes()
    }

    /// Signs a text in a form that others have specified, see [`PublicKey::verify_note`].
    pub fn sign_note(&self, text: &str) -> [u8; 64] {
        debug_assert!(is_note(text), "a note must not be taken for something else");
        self.0.sign(text.as_bytes()).to_bytes()
    }

    /// The same key as libp2p wants it.
    pub fn to_keypair(&self) -> Keypair {
        Keypair::ed25519_from_bytes(*self.to_bytes()).expect("invariant: any 32 bytes are an Ed25519 seed")
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}
