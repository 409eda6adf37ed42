//! Frames: what gossip carries for publish and subscribe, and how what it lost is asked for again.
//!
//! A subject belongs to one of [`SHARDS`] topics, by its first token. What one run of one publisher says on one shard is a [`Line`]: its
//! publications are numbered from 1 without gaps, so that whoever takes the line in notices a loss, also of the last one, from a frame
//! that carries none. Several publications share one [`Frame`], and so one signature: the gossip message's, whose signer is the
//! publisher; those in a row that differ in nothing but their data are a [`Run`] of it. A capability may speak for it where its
//! certificate does not.
//!
//! What few members want goes to them without gossip, see [`direct`]: the same frames, on lines of their own.

pub mod direct;
pub mod hop;
pub mod interest;
pub mod repair;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use libp2p_identity::PeerId;
use minicbor::{Decode, Decoder, Encode};

use crate::codec::{self, bounded};
use crate::error::{DecodeError, at_most};
use crate::hello::{capabilities, check_capabilities};
use crate::ident::PublicKey;
use crate::limits::{
    EXTENSIONS_MAX, FRAME_BYTES_MAX, FRAME_PUBLICATIONS_MAX, MESSAGE_ATTRIBUTE_BYTES_MAX, MESSAGE_ATTRIBUTES_BYTES_MAX,
    PICKS_MAX, PUBLISH_BODY_BYTES_MAX,
};
use crate::message::{check_extensions, extension, set_extension};
use crate::name::check_text;
use crate::subject::Subject;

/// The pattern's identifier in [`crate::Hello`].
pub const PATTERN_ID: &str = "pub_sub";
/// Number of gossip topics over which subjects are spread; part of the wire format.
pub const SHARDS: u16 = 8;
/// Added to a shard, it names the line of what goes directly to those who want it, and not by gossip.
pub const DIRECT: u16 = SHARDS;
/// The type of all published messages.
pub const MESSAGE_KIND: &str = "io.weft.message.v1";

/// What a published message is besides its data: its context attributes, as CloudEvents calls them, and what its way needs. Its id,
/// source and type follow from its place: see [`message_id`] and [`MESSAGE_KIND`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Attributes {
    /// The subject it is published on.
    #[n(0)]
    pub subject: Subject,
    /// When it was made, unix milliseconds.
    #[n(1)]
    pub time_ms: Option<u64>,
    /// The media type of the data.
    #[n(2)]
    pub datacontenttype: Option<String>,
    /// Extension attributes: name and value.
    #[cbor(n(3), decode_with = "bounded::list::<{ EXTENSIONS_MAX }, _, _>")]
    pub extensions: Vec<(String, String)>,
    /// Capability tokens, encoded.
    #[cbor(n(4), with = "capabilities")]
    pub capability: Vec<Vec<u8>>,
    /// Who is to take it in each queue group that its publisher knows.
    #[n(5)]
    pub picks: Option<Picks>,
}

impl Attributes {
    const WHAT: &'static str = "attributes of a publication";

    /// Those of a message on a subject, with nothing optional.
    pub fn new(subject: Subject) -> Self {
        Self {
            subject,
            time_ms: None,
            datacontenttype: None,
            extensions: Vec::new(),
            capability: Vec::new(),
            picks: None,
        }
    }

    /// The value of an extension attribute.
    pub fn extension(&self, name: &str) -> Option<&str> {
        extension(&self.extensions, name)
    }

    /// Sets an extension attribute, replacing one of the same name.
    pub fn set_extension(&mut self, name: &str, value: impl Into<String>) {
        set_extension(&mut self.extensions, name, value.into());
    }

    /// Of a queue group, whether `member` is to take it; `None`: its publisher knew of no such group.
    pub fn is_for(&self, group: &str, member: &PeerId) -> Option<bool> {
        let picks = &self.picks.as_ref()?.0;
        picks
            .iter()
            .find(|pick| pick.group == group)
            .map(|pick| pick.is(member))
    }

    /// About how many bytes they take.
    pub fn bytes(&self) -> usize {
        let extensions = self.extensions.iter().map(|(name, value)| name.len() + value.len() + 4);
        let content = self.datacontenttype.as_deref().map_or(0, str::len);
        let capability = self.capability.iter().map(|token| token.len() + 4);
        let picks = self.picks.iter().flat_map(|picks| &picks.0);
        let picks = picks.map(|pick| pick.group.len() + 40);
        let lists = extensions.sum::<usize>() + capability.sum::<usize>() + picks.sum::<usize>();
        self.subject.as_str().len() + content + lists + 32
    }

    /// What must hold of them.
    ///
    /// # Errors
    /// What exceeds a limit or is malformed.
    pub fn check(&self) -> Result<(), DecodeError> {
        let content = self.datacontenttype.as_deref().unwrap_or_default();
        check_text("datacontenttype", content, MESSAGE_ATTRIBUTE_BYTES_MAX)?;
        check_extensions(&self.extensions)?;
        let extensions = self.extensions.iter().map(|(name, value)| name.len() + value.len());
        let bytes = self.subject.as_str().len() + content.len() + extensions.sum::<usize>();
        at_most(Self::WHAT, bytes, MESSAGE_ATTRIBUTES_BYTES_MAX)?;
        if let Some(Picks(picks)) = &self.picks {
            at_most("picks", picks.len(), PICKS_MAX)?;
            picks.iter().try_for_each(|pick| interest::check_group(&pick.group))?;
        }
        check_capabilities(&self.capability)
    }
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

/// The id of a message: unique among those of one publisher.
pub fn message_id(line: &Line, seq: u64) -> String {
    format!("{:x}-{}-{seq}", line.epoch, line.shard)
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

/// Publications in a row that have everything in common but their data.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Run<'a> {
    /// What they have in common.
    #[n(0)]
    pub attributes: Cow<'a, Attributes>,
    /// The data of each, in their order; at least one.
    #[cbor(
        b(1),
        encode_with = "bounded::encode_slices",
        decode_with = "bounded::slices::<{ FRAME_PUBLICATIONS_MAX }, _>"
    )]
    pub data: Vec<&'a [u8]>,
}

/// What one gossip message carries: publications of one publisher on one shard, in their order. None: it says how far the line goes.
///
/// Their data stay where they were read.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Frame<'a> {
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
    #[cbor(b(4), decode_with = "bounded_runs")]
    pub runs: Vec<Run<'a>>,
}

/// Runs of at most [`FRAME_PUBLICATIONS_MAX`] publications together.
fn bounded_runs<'b, Ctx>(
    decoder: &mut Decoder<'b>,
    context: &mut Ctx,
) -> Result<Vec<Run<'b>>, minicbor::decode::Error> {
    let count = bounded::count(decoder, FRAME_PUBLICATIONS_MAX)?;
    let (mut runs, mut publications) = (Vec::with_capacity(count), 0);
    for _ in 0..count {
        let run = Run::decode(decoder, context)?;
        publications += run.data.len();
        if publications > FRAME_PUBLICATIONS_MAX {
            let error = at_most("frame of publications", publications, FRAME_PUBLICATIONS_MAX);
            return Err(error.map_or_else(minicbor::decode::Error::custom, |()| {
                minicbor::decode::Error::message("too many")
            }));
        }
        runs.push(run);
    }
    Ok(runs)
}

impl<'a> Frame<'a> {
    const WHAT: &'static str = "frame of publications";

    /// Reads and checks what a peer sent.
    ///
    /// # Errors
    /// What is malformed or exceeds a limit.
    pub fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let frame: Self = codec::decode(bytes, FRAME_BYTES_MAX, Self::WHAT)?;
        frame.check()?;
        Ok(frame)
    }

    /// The encoding, without checks: of a frame that is known to be valid.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The encoding of a frame that may hold what an application put together.
    ///
    /// # Errors
    /// What receivers would refuse.
    pub fn to_checked_bytes(&self) -> Result<Vec<u8>, DecodeError> {
        self.check()?;
        let mut bytes = Vec::with_capacity(self.bytes_about());
        codec::append(self, &mut bytes);
        at_most(Self::WHAT, bytes.len(), FRAME_BYTES_MAX)?;
        Ok(bytes)
    }

    fn bytes_about(&self) -> usize {
        let data = |run: &Run<'_>| run.data.iter().map(|data| data.len() + 5).sum::<usize>();
        let run = |run: &Run<'_>| run.attributes.bytes() + data(run) + 8;
        self.runs.iter().map(run).sum::<usize>() + 32
    }

    /// How many publications it has.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|run| run.data.len()).sum()
    }

    /// Whether it only says how far the line goes.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The number of the last publication there is; 0: there is none yet.
    pub fn last_seq(&self) -> u64 {
        (self.first_seq - 1).saturating_add(self.len() as u64)
    }

    /// When the last publication was made; 0: there is none.
    pub fn made_ms(&self) -> u64 {
        self.runs.last().and_then(|run| run.attributes.time_ms).unwrap_or(0)
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.first_seq == 0 {
            return Err(DecodeError::invalid(Self::WHAT, "numbers begin with 1"));
        }
        if self.first_seq.checked_add(self.len() as u64).is_none() {
            return Err(DecodeError::invalid(Self::WHAT, "its numbers do not fit"));
        }
        if self.shard >= SHARDS + DIRECT {
            return Err(DecodeError::invalid(Self::WHAT, "there is no such shard"));
        }
        at_most("publications", self.len(), FRAME_PUBLICATIONS_MAX)?;
        self.runs.iter().try_for_each(|run| {
            if run.data.is_empty() {
                return Err(DecodeError::invalid(Self::WHAT, "a run has no publications"));
            }
            let longest = run.data.iter().map(|data| data.len()).max().unwrap_or(0);
            at_most("message data", longest, PUBLISH_BODY_BYTES_MAX)?;
            run.attributes.check()?;
            if run.attributes.subject.shard(SHARDS) == self.shard % SHARDS {
                return Ok(());
            }
            Err(DecodeError::invalid(Self::WHAT, "a subject belongs to another shard"))
        })
    }
}

/// The name of the gossip topic of one shard.
pub fn topic(mesh: &crate::MeshId, shard: u16) -> String {
    format!("/weft/{}/pub_sub/3/{shard}", mesh.short())
}
