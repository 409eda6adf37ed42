//! Hops: what the nodes that a message comes by say of it, with their signatures, when its publisher asks.
//!
//! A message whose extension [`TRACE`] is understood is traced: whoever takes it in says so to its publisher, once. With `-only` behind the
//! number it is for nobody's subscribers, and only its way is of interest.

use minicbor::{Decode, Encode};

use super::{Attributes, DIRECT, Line, SHARDS};
use crate::codec::Wire;
use crate::error::DecodeError;
use crate::ident::PublicKey;
use crate::limits::HOP_BYTES_MAX;
use crate::signed::Payload;
use crate::subject::Subject;

/// The extension attribute of a traced message: 32 hexadecimal digits that its publisher chose, and `-only` for one that is for no subscriber.
pub const TRACE: &str = "wefttrace";
const ONLY: &str = "-only";

/// That a message is traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// What its publisher knows it by.
    pub nonce: [u8; 16],
    /// Whether it is for no subscriber.
    pub is_only: bool,
}

impl Trace {
    /// What a message's attributes say of it.
    pub fn of(attributes: &Attributes) -> Option<Self> {
        let value = attributes.extension(TRACE)?;
        let (digits, is_only) = match value.strip_suffix(ONLY) {
            Some(digits) => (digits, true),
            None => (value, false),
        };
        let nonce = data_encoding::HEXLOWER.decode(digits.as_bytes()).ok()?;
        Some(Self {
            nonce: nonce.try_into().ok()?,
            is_only,
        })
    }

    /// The value of the extension attribute.
    pub fn value(&self) -> String {
        let only = if self.is_only { ONLY } else { "" };
        format!("{}{only}", data_encoding::HEXLOWER.encode(&self.nonce))
    }
}

/// What one node says of a traced message.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Hop {
    /// What its publisher knows it by.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
    /// Its line: whose it is, and which way it went.
    #[n(1)]
    pub line: Line,
    /// Its number.
    #[n(2)]
    pub seq: u64,
    /// Its subject.
    #[n(3)]
    pub subject: Subject,
    /// Who handed it to this node.
    #[n(4)]
    pub from: PublicKey,
    /// When it came, Unix milliseconds by this node's calendar.
    #[n(5)]
    pub received_at_ms: u64,
    /// Subscriptions of this node that it selects.
    #[n(6)]
    pub subscriptions: u32,
}

impl Wire for Hop {
    const WHAT: &'static str = "hop";
    const BYTES_MAX: usize = HOP_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        if self.seq == 0 || self.line.shard >= SHARDS + DIRECT {
            return Err(DecodeError::invalid(Self::WHAT, "it is of no message"));
        }
        Ok(())
    }
}

impl Payload for Hop {
    const DOMAIN: &'static str = "pub_sub-hop";
}
