//! Publications: what gossip carries for publish and subscribe.
//!
//! A subject belongs to one of [`SHARDS`] topics, by its first token. `boot` and `publisher_seq` number a publisher's messages without
//! gaps between two of its starts, so that a subscriber notices a loss. The publisher is the signer of the gossip message; a
//! capability may speak for it where its certificate does not.

#[cfg(test)]
mod tests;

use minicbor::{Decode, Encode};

use crate::codec::Wire;
use crate::error::{DecodeError, at_most};
use crate::hello::{capabilities, check_capabilities};
use crate::limits::{PUBLICATION_BYTES_MAX, PUBLISH_BODY_BYTES_MAX};
use crate::message::Message;
use crate::subject::Subject;

/// The pattern's identifier in [`crate::Hello`].
pub const PATTERN_ID: &str = "pub_sub";
/// Number of gossip topics over which subjects are spread; part of the wire format.
pub const SHARDS: u16 = 8;

/// One published message.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Publication {
    /// The message; it has a subject.
    #[n(0)]
    pub message: Message,
    /// Rises by one with each message of this boot, from 1.
    #[n(1)]
    pub publisher_seq: u64,
    /// Tells two starts of one publisher apart; rises.
    #[n(2)]
    pub boot: u64,
    /// Capability tokens, encoded.
    #[cbor(n(3), with = "capabilities")]
    pub capability: Vec<Vec<u8>>,
}

impl Publication {
    /// The subject it is published on.
    pub fn subject(&self) -> Result<&Subject, DecodeError> {
        self.message
            .subject
            .as_ref()
            .ok_or_else(|| DecodeError::invalid(Self::WHAT, "its message has no subject"))
    }
}

impl Wire for Publication {
    const WHAT: &'static str = "publication";
    const BYTES_MAX: usize = PUBLICATION_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        self.message.check()?;
        self.subject()?;
        at_most("message data", self.message.data.len(), PUBLISH_BODY_BYTES_MAX)?;
        check_capabilities(&self.capability)
    }
}

/// The name of the gossip topic of one shard.
pub fn topic(mesh: &crate::MeshId, shard: u16) -> String {
    format!("/weft/{}/pub_sub/1/{shard}", mesh.short())
}
