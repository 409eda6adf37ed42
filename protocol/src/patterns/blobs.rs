//! Blobs: payloads too large for a message. They are named by the hash of their content, and fetched from whoever has them.
//!
//! The hash is BLAKE3's. Its tree is cut at groups of [`GROUP_BYTES`]: who has the hashes of all groups can check that together they are
//! the blob's ([`BlobId::of_groups`]), and then each group by itself, in any order and from anybody.
//!
//! Who fetches opens a stream of the pattern, with the subject on which the blob was published as the resource, and says
//! [`BlobMessage::Want`]. The answer is [`BlobMessage::Have`], the hashes if they were asked for, and the content from the group asked for to
//! the end, in parts of at most 64 KiB; or [`BlobMessage::TurnedAway`].

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use blake3::hazmat::{HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use data_encoding::HEXLOWER;
use libp2p_identity::PeerId;
use minicbor::{Decode, Encode};

use crate::codec::Wire;
use crate::error::{DecodeError, at_most};
use crate::limits::{BLOB_BYTES_MAX, REASON_BYTES_MAX, STREAM_PART_BYTES_MAX};
use crate::name::check_text;
use crate::subject::Subject;
use crate::text::serde_as_text;

/// The pattern's identifier in [`Hello`](crate::Hello).
pub const PATTERN_ID: &str = "blobs";
/// The extension attribute of a message whose data are a blob: its [`Reference`]. CloudEvents documents it as an extension.
pub const DATAREF: &str = "dataref";
/// What is checked at once; a power of two, as the tree is cut there.
pub const GROUP_BYTES: usize = 256 << 10;
/// Hashes of groups that one message carries.
pub const HASHES_PER_MESSAGE_MAX: usize = STREAM_PART_BYTES_MAX / HASH_BYTES;
/// Bytes of a hash.
pub const HASH_BYTES: usize = 32;
/// Where blobs are in the local API.
const PATH: &str = "/v1/blobs/";

/// The hash of one group: its chaining value in the tree, or the blob's own hash if it is the only one.
pub type GroupHash = [u8; HASH_BYTES];

/// What a blob is called: the BLAKE3 hash of its content, as `b3sum` prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct BlobId(#[cbor(n(0), with = "minicbor::bytes")] [u8; HASH_BYTES]);

impl BlobId {
    /// An id from its bytes.
    pub fn from_bytes(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }

    /// The id of the blob that has these groups, in their order; `None` without any.
    pub fn of_groups(groups: &[GroupHash]) -> Option<Self> {
        match groups {
            [] => None,
            [only] => Some(Self(*only)),
            _ => {
                let (left, right) = groups.split_at(left_groups(groups.len()));
                let root = merge_subtrees_root(&chaining_value(left), &chaining_value(right), Mode::Hash);
                Some(Self(root.into()))
            }
        }
    }
}

/// How many of so many groups are to the left of the tree's root.
fn left_groups(groups: usize) -> usize {
    // All groups but the last are whole, so the tree over groups has the shape of the tree over bytes.
    (left_subtree_len((groups * GROUP_BYTES) as u64) / GROUP_BYTES as u64) as usize
}

fn chaining_value(groups: &[GroupHash]) -> GroupHash {
    match groups {
        [only] => *only,
        _ => {
            let (left, right) = groups.split_at(left_groups(groups.len()));
            merge_subtrees_non_root(&chaining_value(left), &chaining_value(right), Mode::Hash)
        }
    }
}

/// How many groups so many bytes are.
pub fn groups_of(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(GROUP_BYTES as u64)).unwrap_or(usize::MAX)
}

/// The hash of the group at `index` of so many `groups`. At most [`GROUP_BYTES`], and as many but for the last one.
pub fn hash_group(index: usize, groups: usize, data: &[u8]) -> GroupHash {
    if groups == 1 {
        return blake3::hash(data).into();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset((index * GROUP_BYTES) as u64);
    hasher.update(data).finalize_non_root()
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobId({self})")
    }
}

impl FromStr for BlobId {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        const WHAT: &str = "blob's hash";
        at_most(WHAT, text.len(), HASH_BYTES * 2)?;
        let bytes = HEXLOWER
            .decode(text.as_bytes())
            .map_err(|_| DecodeError::malformed(WHAT, "it is 64 of 0-9 and a-f"))?;
        let bytes = bytes
            .try_into()
            .map_err(|_| DecodeError::malformed(WHAT, "it is 64 of 0-9 and a-f"))?;
        Ok(Self(bytes))
    }
}

serde_as_text!(BlobId);

/// How a message names the blob that is its data. As text it is the blob's place in the local API of any member:
/// `/v1/blobs/HASH?bytes=N&subject=SUBJECT&publisher=PEER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its hash.
    pub id: BlobId,
    /// How long it is.
    pub bytes: u64,
    /// On which subject it was published: who may subscribe to that, may have it.
    pub subject: Subject,
    /// Who is asked for it first.
    pub publisher: PeerId,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            bytes,
            subject,
            publisher,
        } = self;
        write!(f, "{PATH}{id}?bytes={bytes}&subject={subject}&publisher={publisher}")
    }
}

impl FromStr for Reference {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        const WHAT: &str = "reference to a blob";
        at_most(WHAT, text.len(), 1024)?;
        let malformed = |reason: &str| DecodeError::malformed(WHAT, reason);
        let rest = text
            .strip_prefix(PATH)
            .ok_or_else(|| malformed("it does not begin with /v1/blobs/"))?;
        let (id, query) = rest
            .split_once('?')
            .ok_or_else(|| malformed("it does not say how long the blob is"))?;
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let found = pairs.find(|(key, _)| *key == name).map(|(_, value)| value);
            found.ok_or_else(|| malformed(&format!("it has no {name}")))
        };
        let reference = Self {
            id: id.parse()?,
            bytes: value("bytes")?
                .parse()
                .map_err(|_| malformed("its length is no number"))?,
            subject: value("subject")?.parse()?,
            publisher: value("publisher")?
                .parse()
                .map_err(|_| malformed("its publisher is no peer id"))?,
        };
        check_bytes(reference.bytes)?;
        Ok(reference)
    }
}

/// Whether a blob may be so long.
///
/// # Errors
/// It is empty, or longer than [`BLOB_BYTES_MAX`].
pub fn check_bytes(bytes: u64) -> Result<(), DecodeError> {
    const WHAT: &str = "blob";
    if bytes == 0 {
        return Err(DecodeError::invalid(WHAT, "it is empty"));
    }
    if bytes > BLOB_BYTES_MAX {
        let (got, limit) = (
            usize::try_from(bytes).unwrap_or(usize::MAX),
            usize::try_from(BLOB_BYTES_MAX).unwrap_or(usize::MAX),
        );
        return Err(DecodeError::TooLarge { what: WHAT, limit, got });
    }
    Ok(())
}

/// What travels on the stream that fetches a blob.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum BlobMessage {
    /// From who fetches, once.
    #[n(0)]
    Want {
        /// Which.
        #[n(0)]
        id: BlobId,
        /// The first group that is wanted; the others follow.
        #[n(1)]
        first_group: u32,
        /// Whether the hashes of all groups are wanted before them.
        #[n(2)]
        hashes: bool,
    },
    /// It is here, and follows.
    #[n(1)]
    Have {
        /// How long all of it is.
        #[n(0)]
        bytes: u64,
    },
    /// It does not follow.
    #[n(2)]
    TurnedAway {
        /// Whether it may later: it is here, or on its way to here.
        #[n(0)]
        is_busy: bool,
        /// Why, for people.
        #[n(1)]
        detail: String,
    },
    /// Hashes of groups, in their order, one behind the other.
    #[n(3)]
    Hashes(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// The next bytes; they do not go beyond their group.
    #[n(4)]
    Part(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
}

impl Wire for BlobMessage {
    const WHAT: &'static str = "message about a blob";
    const BYTES_MAX: usize = STREAM_PART_BYTES_MAX + 64;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Want { .. } => Ok(()),
            Self::Have { bytes } => check_bytes(*bytes),
            Self::TurnedAway { detail, .. } => check_text("detail", detail, REASON_BYTES_MAX),
            Self::Hashes(bytes) if bytes.is_empty() || bytes.len() % HASH_BYTES != 0 => {
                Err(DecodeError::invalid(Self::WHAT, "hashes have 32 bytes each"))
            }
            Self::Hashes(bytes) | Self::Part(bytes) => at_most("part", bytes.len(), STREAM_PART_BYTES_MAX),
        }
    }
}
