//! How what gossip lost is asked for again: one request to a member, one answer, over [`crate::direct`].
//!
//! Members compare how far they have followed each line, and fetch what they lack. What is handed over is the gossip message as its
//! publisher signed it, so that nobody has to be believed but the publisher.

use minicbor::{Decode, Encode};
use sha2::{Digest as _, Sha256};

use super::{DIRECT, Line, SHARDS, hop::Hop};
use crate::Pattern;
use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::limits::{FRAME_BYTES_MAX, HEADS_MAX, NOTE_BYTES_MAX, ORIGINALS_MAX, REPAIR_BYTES_MAX};
use crate::signed::Signed;

/// How far a line is known to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Head {
    /// The line.
    #[n(0)]
    pub line: Line,
    /// The number of its last publication.
    #[n(1)]
    pub last_seq: u64,
    /// In an answer: the number of the first publication made since the asker began to follow, as far as the answerer still has it.
    #[n(2)]
    pub first_seq: u64,
}

/// What a member has of what was published in a stretch of time, as a few numbers: said with every probe, so that two that are
/// connected notice when one of them lacks something, also the last of a line, which no hole shows.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Digest {
    /// What was published in this second counts, by the publishers' calendars; Unix seconds.
    #[n(0)]
    pub from_s: u64,
    /// And up to the end of this one: long enough ago that it should be everywhere.
    #[n(1)]
    pub until_s: u64,
    /// Of each shard the sum, modulo 2^64, of [`digest_of`] of its frames; shards at the end without any are left out.
    #[cbor(n(2), decode_with = "bounded::list::<{ SHARDS as usize }, _, _>")]
    pub sums: Vec<u64>,
}

impl Wire for Digest {
    const WHAT: &'static str = "digest of publications";
    const BYTES_MAX: usize = NOTE_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        at_most("sums of shards", self.sums.len(), usize::from(SHARDS))
    }
}

/// What one frame adds to the [`Digest`] of its shard: the first eight bytes of the SHA-256 of its line and the numbers of its first
/// and last publication, big-endian.
pub fn digest_of(line: &Line, first_seq: u64, last_seq: u64) -> u64 {
    let mut hash = Sha256::new_with_prefix(b"weft-frame-v1");
    hash.update(line.publisher);
    hash.update(line.epoch.to_be_bytes());
    hash.update(line.shard.to_be_bytes());
    hash.update(first_seq.to_be_bytes());
    hash.update(last_seq.to_be_bytes());
    hash.finalize()
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// A question of one member to another.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum RepairRequest {
    /// This is how far I have followed. Answered with `Heads`: those of the answerer that go beyond.
    #[n(0)]
    Heads {
        /// When the asker began to follow publications at all, Unix milliseconds.
        #[n(0)]
        since_ms: u64,
        /// How far it has followed, the most recently changed lines first.
        #[cbor(n(1), decode_with = "bounded::list::<{ HEADS_MAX }, _, _>")]
        heads: Vec<Head>,
        /// Whether these are all; if not, they are news for the receiver, and the answer is empty.
        #[n(2)]
        whole: bool,
    },
    /// Give me these publications. Answered with `Originals`.
    #[n(1)]
    Fetch {
        /// Of which line.
        #[n(0)]
        line: Line,
        /// The first one wanted.
        #[n(1)]
        from_seq: u64,
        /// The last one wanted.
        #[n(2)]
        to_seq: u64,
    },
    /// Tell me when you have followed this line so far, or when the deadline of the request is near. Answered with `Heads`.
    #[n(2)]
    Await {
        /// The line.
        #[n(0)]
        line: Line,
        /// The number of the publication that is waited for.
        #[n(1)]
        seq: u64,
    },
    /// Give me what you have of what was published before. Answered with `Past`.
    #[n(3)]
    Past {
        /// On these subjects.
        #[n(0)]
        pattern: Pattern,
        /// Frames whose last publication was made at this time or later, Unix milliseconds by its publisher's calendar.
        #[n(1)]
        since_ms: u64,
        /// Those before this one: the last one of an answer, for the next.
        #[n(2)]
        before: Option<PastPlace>,
    },
    /// A traced message of yours came by. Answered with `Noted`.
    #[n(4)]
    Hop {
        /// What the asker says of it.
        #[n(0)]
        hop: Signed<Hop>,
    },
}

impl Wire for RepairRequest {
    const WHAT: &'static str = "repair request";
    const BYTES_MAX: usize = REPAIR_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Heads { heads, .. } => heads.iter().try_for_each(|head| check_line(&head.line)),
            Self::Fetch { line, from_seq, to_seq } => {
                if *from_seq == 0 || from_seq > to_seq {
                    return Err(DecodeError::invalid(Self::WHAT, "it asks for nothing"));
                }
                check_line(line)
            }
            Self::Await { line, .. } => check_line(line),
            Self::Past {
                since_ms,
                before: Some(before),
                ..
            } if *since_ms > before.made_ms => Err(DecodeError::invalid(Self::WHAT, "it asks for nothing")),
            Self::Past { .. } | Self::Hop { .. } => Ok(()),
        }
    }
}

/// A gossip message as its publisher signed it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Original {
    /// Gossip's own number, which is signed too.
    #[n(0)]
    pub gossip_seq: u64,
    /// The encoded [`super::Frame`].
    #[cbor(n(1), with = "minicbor::bytes")]
    pub data: Vec<u8>,
    /// The publisher's signature.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub signature: Vec<u8>,
}

/// Where a frame has its place among all of before; they have an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct PastPlace {
    /// When its last publication was made, Unix milliseconds.
    #[n(0)]
    pub made_ms: u64,
    /// Its line.
    #[n(1)]
    pub line: Line,
    /// The number of its first publication.
    #[n(2)]
    pub first_seq: u64,
}

/// A frame of before.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PastFrame {
    /// Its line. One that goes directly is the answerer's own.
    #[n(0)]
    pub line: Line,
    /// It; not signed, and without a number of gossip's, if it went directly.
    #[n(1)]
    pub original: Original,
}

impl PastFrame {
    /// Whether it went to those who wanted it directly.
    pub fn is_direct(&self) -> bool {
        self.line.shard >= DIRECT
    }

    fn check(&self) -> Result<(), DecodeError> {
        self.original.check()?;
        if !self.is_direct() {
            return check_line(&self.line);
        }
        if self.line.shard >= DIRECT + SHARDS || !self.original.signature.is_empty() {
            return Err(DecodeError::invalid("frame of before", "it is on no line"));
        }
        Ok(())
    }
}

impl Original {
    fn check(&self) -> Result<(), DecodeError> {
        at_most("signature", self.signature.len(), 64)?;
        at_most("frame of publications", self.data.len(), FRAME_BYTES_MAX)
    }
}

/// The answer to a [`RepairRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum RepairReply {
    /// How far the answerer has followed.
    #[n(0)]
    Heads {
        /// The most recently changed lines first.
        #[cbor(n(0), decode_with = "bounded::list::<{ HEADS_MAX }, _, _>")]
        heads: Vec<Head>,
    },
    /// What the answerer has of what was wanted, in order.
    #[n(1)]
    Originals {
        /// As many as fit.
        #[cbor(n(0), decode_with = "bounded::list::<{ ORIGINALS_MAX }, _, _>")]
        originals: Vec<Original>,
    },
    /// What the answerer has of what was published before: the latest frames first.
    #[n(2)]
    Past {
        /// As many as fit.
        #[cbor(n(0), decode_with = "bounded::list::<{ ORIGINALS_MAX }, _, _>")]
        frames: Vec<PastFrame>,
        /// Whether there are earlier ones.
        #[n(1)]
        more: bool,
    },
    /// It was taken note of.
    #[n(3)]
    Noted,
}

impl Wire for RepairReply {
    const WHAT: &'static str = "repair reply";
    const BYTES_MAX: usize = REPAIR_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Heads { heads } => heads.iter().try_for_each(|head| check_line(&head.line)),
            Self::Originals { originals } => originals.iter().try_for_each(Original::check),
            Self::Past { frames, .. } => frames.iter().try_for_each(PastFrame::check),
            Self::Noted => Ok(()),
        }
    }
}

fn check_line(line: &Line) -> Result<(), DecodeError> {
    if line.shard < SHARDS {
        return Ok(());
    }
    Err(DecodeError::invalid(
        "line",
        format!("there is no shard {}", line.shard),
    ))
}
