//! The unary protocol of all patterns: a greeting and the pattern's own request, the pattern's own answer or a refusal.
//!
//! The refusal is the node's, before the pattern saw anything; what the payloads mean is the pattern's.

use minicbor::{Decode, Encode};

use crate::codec::Wire;
use crate::error::{DecodeError, at_most};
use crate::hello::{Hello, Refusal};
use crate::limits::{CALL_BYTES_MAX, HELLO_BYTES_MAX, REASON_BYTES_MAX};
use crate::name::{check_text, reason};

/// The protocol's name in libp2p.
pub const DIRECT_PROTOCOL: &str = "/weft/direct/1";
/// The longest payload, in bytes.
pub const DIRECT_PAYLOAD_BYTES_MAX: usize = CALL_BYTES_MAX - HELLO_BYTES_MAX - 64;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DirectRequest {
    /// For whom, with which right, until when.
    #[n(0)]
    pub hello: Hello,
    /// The pattern's request.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub payload: Vec<u8>,
}

impl Wire for DirectRequest {
    const WHAT: &'static str = "direct request";
    const BYTES_MAX: usize = CALL_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        self.hello.check()?;
        at_most("payload", self.payload.len(), DIRECT_PAYLOAD_BYTES_MAX)
    }
}

/// The answer to a [`DirectRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum DirectReply {
    /// The pattern's answer.
    #[n(0)]
    Answer {
        /// The answer.
        #[cbor(n(0), with = "minicbor::bytes")]
        payload: Vec<u8>,
    },
    /// The node refused; the pattern saw nothing.
    #[n(1)]
    Refused {
        /// Why, for programs.
        #[n(0)]
        reason: Refusal,
        /// Why, for people.
        #[n(1)]
        detail: String,
    },
}

impl DirectReply {
    /// A refusal whose detail is cut to what may be sent.
    pub fn refused(why: Refusal, detail: &str) -> Self {
        Self::Refused {
            reason: why,
            detail: reason(detail),
        }
    }
}

impl Wire for DirectReply {
    const WHAT: &'static str = "direct reply";
    const BYTES_MAX: usize = CALL_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Answer { payload } => at_most("payload", payload.len(), DIRECT_PAYLOAD_BYTES_MAX),
            Self::Refused { detail, .. } => check_text("detail", detail, REASON_BYTES_MAX),
        }
    }
}

/// The protocol of a lane: a long-lived stream on which one side sends many requests and the other answers them, in any order.
///
/// It saves what a stream for each request costs. Whoever has not got it uses [`DIRECT_PROTOCOL`], which means the same.
pub const LANE_PROTOCOL: &str = "/weft/lane/1";

/// What travels on a lane: requests one way, replies the other.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LaneFrame {
    /// Chosen by the asker, another one for each request of a lane.
    #[n(0)]
    pub id: u64,
    /// An encoded [`DirectRequest`] or [`DirectReply`].
    #[cbor(n(1), with = "minicbor::bytes")]
    pub body: Vec<u8>,
}

impl Wire for LaneFrame {
    const WHAT: &'static str = "lane frame";
    const BYTES_MAX: usize = CALL_BYTES_MAX + 32;

    fn check(&self) -> Result<(), DecodeError> {
        at_most("body", self.body.len(), CALL_BYTES_MAX)
    }
}
