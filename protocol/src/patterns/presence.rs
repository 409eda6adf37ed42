//! Presence: what a node says is there, and what is to be said when it is gone.
//!
//! It stands in the node's own signed record, announcement [`ANNOUNCEMENT_KEY`], so everybody knows it, and knows it is the node's own word.
//! What leaves the list while the [`epoch`](Presences::epoch) stays was withdrawn, or is [`gone`](Presences::gone); what leaves with it was cut off.

#[cfg(test)]
mod tests;

use minicbor::{Decode, Encode};

use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::limits::{ANNOUNCEMENT_BYTES_MAX, MESSAGE_ATTRIBUTE_BYTES_MAX, PRESENCES_MAX, WILL_BYTES_MAX};
use crate::name::check_text;
use crate::subject::Subject;

/// The pattern's identifier in [`Hello`](crate::Hello).
pub const PATTERN_ID: &str = "presence";
/// The key of its announcement in a node record.
pub const ANNOUNCEMENT_KEY: &str = "presence";

/// What names runs of nodes is smaller.
pub const EPOCH_MAX: u64 = 1 << 62;

/// A message that is given to subscribers when who left it is gone without a word.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Will {
    /// Its subject.
    #[n(0)]
    pub subject: Subject,
    /// The media type of its data.
    #[n(1)]
    pub datacontenttype: Option<String>,
    /// Its data.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub data: Vec<u8>,
}

/// Something that is there.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Presence {
    /// What it is called. Several may be called the same.
    #[n(0)]
    pub subject: Subject,
    /// Tells it from the node's others, also of the same subject: they are counted within an epoch.
    #[n(1)]
    pub number: u64,
    /// Since when, unix milliseconds.
    #[n(2)]
    pub since_ms: u64,
    /// What is to be said when it is gone without a word.
    #[n(3)]
    pub will: Option<Will>,
}

/// All that is there at a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Presences {
    /// The run of the node: a random number below [`EPOCH_MAX`], because a clock may say the same after a restart.
    #[n(0)]
    pub epoch: u64,
    /// What is there, in the order of its numbers.
    #[cbor(n(1), decode_with = "bounded::list::<{ PRESENCES_MAX }, _, _>")]
    pub list: Vec<Presence>,
    /// The numbers of those that went without a word in this run, the last ones: their wills have been said.
    #[cbor(n(2), decode_with = "bounded::list::<{ PRESENCES_MAX }, _, _>")]
    pub gone: Vec<u64>,
}

impl Wire for Presences {
    const WHAT: &'static str = "presences";
    const BYTES_MAX: usize = ANNOUNCEMENT_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        at_most("presences", self.list.len(), PRESENCES_MAX)?;
        if self.epoch >= EPOCH_MAX {
            return Err(DecodeError::invalid(Self::WHAT, "their epoch is too large"));
        }
        at_most("presences that went", self.gone.len(), PRESENCES_MAX)?;
        if !self.list.is_sorted_by(|a, b| a.number < b.number) {
            return Err(DecodeError::invalid(
                Self::WHAT,
                "they are not in the order of their numbers",
            ));
        }
        for will in self.list.iter().filter_map(|presence| presence.will.as_ref()) {
            at_most("bytes of a will", will.data.len(), WILL_BYTES_MAX)?;
            if let Some(media) = &will.datacontenttype {
                check_text("media type of a will", media, MESSAGE_ATTRIBUTE_BYTES_MAX)?;
            }
        }
        Ok(())
    }
}
