//! Frames: what gossip carries for publish and subscribe, and how what it lost is asked for again.
//!
//! A subject belongs to one of [`SHARDS`] topics, by its first token. What one run of one publisher says on one shard is a [`Line`]: its
//! publications are numbered from 1 without gaps, so that whoever takes the line in notices a loss, also of the last one, from a frame
//! that carries none. Several publications share one [`Frame`], and so one signature: the gossip message's, whose signer is the
//! publisher. A capability may speak for it where its certificate does not.
//!
//! What few members want goes to them without gossip, see [`direct`]: the same frames, on lines of their own.

pub mod direct;
pub mod interest;
pub mod repair;
#[cfg(test)]
mod tests;

use libp2p_identity::PeerId;
use minicbor::{Decode, Encode};

use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::hello::{capabilities, check_capabilities};
use crate::ident::PublicKey;
use crate::limits::{
    FRAME_BYTES_MAX, FRAME_PUBLICATIONS_MAX, PICKS_MAX, PUBLICATION_BYTES_MAX, PUBLISH_BODY_BYTES_MAX,
};
use crate::message::Message;
use crate::subject::Subject;

/// The pattern's identifier in [`crate::Hello`].
pub const PATTERN_ID: &str = "pub_sub";
/// Number of gossip topics over which subjects are spread; part of the wire format.
pub const SHARDS: u16 = 8;
/// Added to a shard, it names the line of what goes directly to those who want it, and not by gossip.
pub const DIRECT: u16 = SHARDS;
/// The type of messages whose type is left out.
pub const MESSAGE_KIND: &str = "io.weft.message.v1";

/// One published message.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Publication {
    /// The message; it has a subject. Its id, source and type may be left out (be empty): then they follow from its place, see
    /// [`Publication::complete`].
    #[n(0)]
    pub message: Message,
    /// Capability tokens, encoded.
    #[cbor(n(1), with = "capabilities")]
    pub capability: Vec<Vec<u8>>,
    /// Who is to take it in each queue group that its publisher knows.
    #[n(2)]
    pub picks: Option<Picks>,
}

/// Of a queue group, the member that a publication is for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Pick {
    /// The group.
    #[n(0)]
    pub group: String,
    /// The member's key; only compared.
    #[cbor(n(1), with = "minicbor::bytes")]
    member: [u8; 32],
}

impl Pick {
    /// The pick of a member; `None` if its identity holds no Ed25519 key.
    pub fn new(group: String, member: &PeerId) -> Option<Self> {
        let member = PublicKey::bytes_in(member)?;
        Some(Self { group, member })
    }

    /// Whether it is this member.
    pub fn is(&self, member: &PeerId) -> bool {
        PublicKey::bytes_in(member) == Some(self.member)
    }
}

/// Picks of one publication.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Picks(#[cbor(n(0), decode_with = "bounded::list::<{ PICKS_MAX }, _, _>")] pub Vec<Pick>);

impl Publication {
    /// A publication of a message, for everybody.
    pub fn new(message: Message, capability: Vec<Vec<u8>>) -> Self {
        Self {
            message,
            capability,
            picks: None,
        }
    }

    /// Of a queue group, whether `member` is to take it; `None`: its publisher knew of no such group.
    pub fn is_for(&self, group: &str, member: &PeerId) -> Option<bool> {
        let picks = &self.picks.as_ref()?.0;
        picks
            .iter()
            .find(|pick| pick.group == group)
            .map(|pick| pick.is(member))
    }

    /// The subject it is published on.
    pub fn subject(&self) -> Result<&Subject, DecodeError> {
        self.message
            .subject
            .as_ref()
            .ok_or_else(|| DecodeError::invalid(Self::WHAT, "its message has no subject"))
    }

    /// Puts in what was left out because it follows from the place of the publication.
    pub fn complete(&mut self, source: &str, line: &Line, seq: u64) {
        if self.message.id.is_empty() {
            self.message.id = message_id(line, seq);
        }
        if self.message.source.is_empty() {
            self.message.source = source.to_owned();
        }
        if self.message.kind.is_empty() {
            self.message.kind = MESSAGE_KIND.to_owned();
        }
    }
}

/// The id of a message that has none of its own: unique among those of one publisher.
pub fn message_id(line: &Line, seq: u64) -> String {
    format!("{:x}-{}-{seq}", line.epoch, line.shard)
}

impl Wire for Publication {
    const WHAT: &'static str = "publication";
    const BYTES_MAX: usize = PUBLICATION_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        self.message.check_partial()?;
        self.subject()?;
        at_most("message data", self.message.data.len(), PUBLISH_BODY_BYTES_MAX)?;
        if let Some(Picks(picks)) = &self.picks {
            at_most("picks", picks.len(), PICKS_MAX)?;
            picks.iter().try_for_each(|pick| interest::check_group(&pick.group))?;
        }
        check_capabilities(&self.capability)
    }
}

/// What one run of one publisher says on one shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Line {
    /// The publisher's key; only compared, so not checked to be a point of the curve.
    #[cbor(n(0), with = "minicbor::bytes")]
    publisher: [u8; 32],
    /// Tells two runs of one publisher apart; rises with each. Unix milliseconds of its start, unless its calendar went back.
    #[n(1)]
    pub epoch: u64,
    /// The shard; beyond [`DIRECT`], what of it goes directly.
    #[n(2)]
    pub shard: u16,
}

impl Line {
    /// The line of a publisher; `None` if its identity holds no Ed25519 key.
    pub fn new(publisher: &PeerId, epoch: u64, shard: u16) -> Option<Self> {
        let publisher = PublicKey::bytes_in(publisher)?;
        Some(Self {
            publisher,
            epoch,
            shard,
        })
    }

    /// Who publishes.
    pub fn publisher(&self) -> PeerId {
        PublicKey::unchecked(self.publisher).peer_id()
    }

    /// The first and the last place in the order of lines that a publisher's lines can have.
    pub fn bounds(&self) -> (Self, Self) {
        let first = Self {
            epoch: 0,
            shard: 0,
            ..*self
        };
        let last = Self {
            epoch: u64::MAX,
            shard: u16::MAX,
            ..*self
        };
        (first, last)
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Line({}/{:x}/{})", self.publisher(), self.epoch, self.shard)
    }
}

/// What one gossip message carries: publications of one publisher on one shard, in their order. None: it says how far the line goes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Frame {
    /// Which run of the publisher.
    #[n(0)]
    pub epoch: u64,
    /// The shard that all its publications belong to; with [`DIRECT`] added where it does not go by gossip.
    #[n(1)]
    pub shard: u16,
    /// The number of the first publication; without publications, the number that the next one will have.
    #[n(2)]
    pub first_seq: u64,
    /// When the publication before the first one was made, Unix milliseconds; 0: there was none. So whoever begins to follow knows
    /// whether something of its own time is missing.
    #[n(3)]
    pub before_ms: u64,
    /// The publications.
    #[cbor(n(4), decode_with = "bounded::list::<{ FRAME_PUBLICATIONS_MAX }, _, _>")]
    pub publications: Vec<Publication>,
}

impl Frame {
    /// The number of the last publication there is; 0: there is none yet.
    pub fn last_seq(&self) -> u64 {
        (self.first_seq - 1).saturating_add(self.publications.len() as u64)
    }
}

impl Wire for Frame {
    const WHAT: &'static str = "frame of publications";
    const BYTES_MAX: usize = FRAME_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        if self.first_seq == 0 {
            return Err(DecodeError::invalid(Self::WHAT, "numbers begin with 1"));
        }
        if self.first_seq.checked_add(self.publications.len() as u64).is_none() {
            return Err(DecodeError::invalid(Self::WHAT, "its numbers do not fit"));
        }
        if self.shard >= SHARDS + DIRECT {
            return Err(DecodeError::invalid(Self::WHAT, "there is no such shard"));
        }
        self.publications.iter().try_for_each(|publication| {
            publication.check()?;
            if publication.subject()?.shard(SHARDS) == self.shard % SHARDS {
                return Ok(());
            }
            Err(DecodeError::invalid(Self::WHAT, "a subject belongs to another shard"))
        })
    }
}

/// The name of the gossip topic of one shard.
pub fn topic(mesh: &crate::MeshId, shard: u16) -> String {
    format!("/weft/{}/pub_sub/2/{shard}", mesh.short())
}
