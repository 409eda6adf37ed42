//! Calls with bodies of any size: frames on a stream of the pattern.
//!
//! The caller sends one [`CallMessage::Call`](super::CallMessage) with an empty body and waits for [`StreamFrame::Begin`]; then both
//! sides send at once: the caller the parts of its body and `End`, the service `Head`, the parts of its answer and `End`. The
//! muxer's window is the back-pressure. Whoever goes early resets the stream.

use minicbor::{Decode, Encode};

use super::{TurnedAway, check_headers};
use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::limits::{HEADER_BYTES_MAX, HEADERS_MAX, REASON_BYTES_MAX, STREAM_PART_BYTES_MAX};
use crate::name::{check_text, reason};

/// What travels on the stream of one call, after the call itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum StreamFrame {
    /// The next part of the body.
    #[n(0)]
    Part(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// The body is whole.
    #[n(1)]
    End {
        /// From the service: how busy it is, thousandths of what it can do at once.
        #[n(0)]
        load: Option<u16>,
    },
    /// From the service: it has the call, the body may come.
    #[n(2)]
    Begin {
        /// How busy it is, thousandths of what it can do at once.
        #[n(0)]
        load: Option<u16>,
    },
    /// From the service: its answer begins.
    #[n(3)]
    Head {
        /// Names and values.
        #[cbor(n(0), decode_with = "bounded::list::<{ HEADERS_MAX }, _, _>")]
        headers: Vec<(String, String)>,
    },
    /// From the service: it failed, whatever it has sent so far.
    #[n(4)]
    Failed {
        /// The service's own code.
        #[n(0)]
        code: u16,
        /// Why, for people.
        #[n(1)]
        reason: String,
    },
    /// Instead of `Begin`: the service saw nothing of it.
    #[n(5)]
    TurnedAway {
        /// Why, for programs.
        #[n(0)]
        why: TurnedAway,
        /// Why, for people.
        #[n(1)]
        detail: String,
        /// When it may be worth another try.
        #[n(2)]
        retry_after_ms: Option<u32>,
    },
}

impl StreamFrame {
    /// A failure whose reason is cut to what may be sent.
    pub fn failed(code: u16, why: &str) -> Self {
        Self::Failed {
            code,
            reason: reason(why),
        }
    }
}

impl Wire for StreamFrame {
    const WHAT: &'static str = "part of a call";
    const BYTES_MAX: usize = STREAM_PART_BYTES_MAX + HEADER_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Part(bytes) => at_most("part", bytes.len(), STREAM_PART_BYTES_MAX),
            Self::End { .. } | Self::Begin { .. } => Ok(()),
            Self::Head { headers } => check_headers(headers),
            Self::Failed { reason, .. } => check_text("reason", reason, REASON_BYTES_MAX),
            Self::TurnedAway { detail, .. } => check_text("detail", detail, REASON_BYTES_MAX),
        }
    }
}
