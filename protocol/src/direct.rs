//! The unary protocol of all patterns: a greeting and the pattern's own request, the pattern's own answer or a refusal.
//!
//! The refusal is the node's, before the pattern saw anything; what the payloads mean is the pattern's.

use minicbor::{Decode, Encode};

use crate::codec::{Wire, decode_around, entries, frame};
use crate::error::{DecodeError, at_most};
use crate::hello::{Hello, Refusal};
use crate::limits::{CALL_BYTES_MAX, HELLO_BYTES_MAX, REASON_BYTES_MAX};
use crate::name::{check_text, reason};

/// The protocol's name in libp2p.
pub const DIRECT_PROTOCOL: &str = "/weft/direct/1";
/// The longest payload, in bytes.
pub const DIRECT_PAYLOAD_BYTES_MAX: usize = CALL_BYTES_MAX - HELLO_BYTES_MAX - 64;

/// What a greeting takes, most often.
const OTHER_BYTES: usize = 160;

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

    fn bytes_expected(&self) -> usize {
        self.payload.len() + OTHER_BYTES
    }

    fn from_vec(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        let (hello, payload) = decode_around(bytes, Self::BYTES_MAX, Self::WHAT, |decoder, left| {
            entries(decoder, 2, |decoder| {
                let hello = decoder.decode()?;
                left.take(decoder)?;
                Ok(hello)
            })
        })?;
        let request = Self { hello, payload };
        request.check()?;
        Ok(request)
    }

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
    /// A pattern's answer.
    pub fn answer(payload: Vec<u8>) -> Self {
        Self::Answer { payload }
    }

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

    fn bytes_expected(&self) -> usize {
        match self {
            Self::Answer { payload } => payload.len() + 16,
            Self::Refused { detail, .. } => detail.len() + 16,
        }
    }

    fn from_vec(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        // An answer begins with these two, whatever comes with later versions.
        if bytes.get(1) != Some(&0) {
            return Self::from_bytes(&bytes);
        }
        let ((), payload) = decode_around(bytes, Self::BYTES_MAX, Self::WHAT, |decoder, left| {
            // A choice has two parts in every version; what is chosen may get more.
            if decoder.array()? != Some(2) {
                return Err(minicbor::decode::Error::message("it is no choice"));
            }
            decoder.u32()?;
            entries(decoder, 1, |decoder| left.take(decoder))
        })?;
        let reply = Self::Answer { payload };
        reply.check()?;
        Ok(reply)
    }

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

impl LaneFrame {
    /// Appends the frame with its length in front to `frames`, without a copy in between.
    pub fn append(id: u64, body: &[u8], frames: &mut Vec<u8>) {
        let length = 1 + head_bytes(id) + head_bytes(body.len() as u64) + body.len();
        frame::append_prefix(length, frames);
        let mut encoder = minicbor::Encoder::new(frames);
        encoder
            .array(2)
            .and_then(|encoder| encoder.u64(id))
            .and_then(|encoder| encoder.bytes(body))
            .expect("invariant: writing to a Vec does not fail");
    }
}

/// The bytes of an integer, or of what stands in front of a string, in deterministic CBOR.
fn head_bytes(argument: u64) -> usize {
    match argument {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        0x1_0000..0x1_0000_0000 => 5,
        _ => 9,
    }
}

impl Wire for LaneFrame {
    const WHAT: &'static str = "lane frame";
    const BYTES_MAX: usize = CALL_BYTES_MAX + 32;

    fn from_vec(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        let (id, body) = decode_around(bytes, Self::BYTES_MAX, Self::WHAT, |decoder, left| {
            entries(decoder, 2, |decoder| {
                let id = decoder.u64()?;
                left.take(decoder)?;
                Ok(id)
            })
        })?;
        let frame = Self { id, body };
        frame.check()?;
        Ok(frame)
    }

    fn check(&self) -> Result<(), DecodeError> {
        at_most("body", self.body.len(), CALL_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verb;

    /// Reads the same from a slice and from a vector: the same value, or from neither one.
    fn same<T: Wire + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
        let (slice, vector) = (T::from_bytes(bytes), T::from_vec(bytes.to_vec()));
        assert_eq!(
            slice.as_ref().ok(),
            vector.as_ref().ok(),
            "{bytes:02x?}: {slice:?}, {vector:?}"
        );
        slice.is_ok()
    }

    /// Every byte of `bytes` changed in some ways, some left out, some more of them.
    fn around<T: Wire + PartialEq + std::fmt::Debug>(value: &T) {
        let bytes = value.to_bytes();
        assert!(same::<T>(&bytes));
        for at in 0..bytes.len() {
            same::<T>(&bytes[..at]);
            for change in [1_u8, 2, 0x1f, 0x20, 0x40, 0x80, 0xff] {
                let mut other = bytes.clone();
                other[at] ^= change;
                same::<T>(&other);
            }
            let mut longer = bytes.clone();
            longer.insert(at, 0x00);
            same::<T>(&longer);
        }
    }

    #[test]
    fn what_is_read_in_place_is_what_is_read_with_a_copy() {
        let hello = Hello::new("request_response", Verb::Call, "orders");
        for payload in [vec![], vec![7; 23], vec![8; 300]] {
            around(&DirectRequest {
                hello: hello.clone(),
                payload: payload.clone(),
            });
            around(&DirectReply::answer(payload.clone()));
            for id in [0, 23, 24, 255, 256, 70_000, 1 << 32, u64::MAX] {
                let frame = LaneFrame {
                    id,
                    body: payload.clone(),
                };
                let mut appended = Vec::new();
                LaneFrame::append(id, &payload, &mut appended);
                assert_eq!(appended, frame::encode(&frame.to_bytes()));
                around(&frame);
            }
        }
        around(&DirectReply::refused(Refusal::Busy, "no room"));
        // A later version's further entries are passed over.
        let longer = [0x83, 0x05, 0x42, 1, 2, 0x01];
        assert!(same::<LaneFrame>(&longer));
        // Text in them must be text.
        let no_text = [0x83, 0x05, 0x42, 1, 2, 0x61, 0xf6];
        assert!(!same::<LaneFrame>(&no_text));
        let more_of_the_answer = [0x82, 0x00, 0x82, 0x40, 0x00];
        assert!(same::<DirectReply>(&more_of_the_answer));
        let more_beside_it = [0x83, 0x00, 0x82, 0x40, 0x00, 0x40];
        assert!(!same::<DirectReply>(&more_beside_it));
    }
}
