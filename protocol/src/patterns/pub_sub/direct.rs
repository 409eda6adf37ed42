//! What a publisher hands directly to a member that wants it, on one long-lived stream.
//!
//! The publisher opens the stream, and it alone speaks of its publications: the connection proves who it is, so what it
//! says there needs no signature, and is handed on to nobody. Items are numbered through for all members, each of which gets those that
//! are for it, and answers with the last one it has taken in. What it has not taken in when a stream ends comes again on the next.

use minicbor::{Decode, Encode};

use super::{DIRECT, SHARDS};
use crate::codec::{Wire, frame};
use crate::error::{DecodeError, at_most};
use crate::limits::{DIRECT_ITEM_BYTES_MAX, FRAME_BYTES_MAX};

/// What the publisher says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum DirectItem {
    /// A frame of publications, at least one of which is for the receiver.
    #[n(0)]
    Frame {
        /// The number of the item; rises.
        #[n(0)]
        ordinal: u64,
        /// The encoded [`super::Frame`].
        #[cbor(n(1), with = "minicbor::bytes")]
        data: Vec<u8>,
    },
    /// These were for the receiver, which took them too slowly, or was away for too long: the publisher has them no more.
    #[n(1)]
    Lost {
        /// The number of the last item that was lost.
        #[n(0)]
        ordinal: u64,
        /// On which line.
        #[n(1)]
        shard: u16,
        /// The number of the first publication.
        #[n(2)]
        first_seq: u64,
        /// The number of the last one.
        #[n(3)]
        last_seq: u64,
    },
}

impl DirectItem {
    /// What of the encoding of a [`DirectItem::Frame`] comes before the frame, with the length of the whole in front, as it travels: so a
    /// frame that goes to many, or stays, need not be copied.
    pub fn head_of_frame(ordinal: u64, frame_bytes: usize) -> Vec<u8> {
        let mut item = minicbor::Encoder::new(Vec::with_capacity(16));
        let written = item
            .array(2)
            .and_then(|item| item.u32(0))
            .and_then(|item| item.array(2))
            .and_then(|item| item.u64(ordinal))
            .and_then(|item| item.bytes_len(frame_bytes as u64));
        written.expect("invariant: writing to a Vec does not fail");
        let item = item.into_writer();
        let mut head = frame::prefix(item.len() + frame_bytes);
        head.extend_from_slice(&item);
        head
    }
}

impl Wire for DirectItem {
    const WHAT: &'static str = "direct publication";
    const BYTES_MAX: usize = DIRECT_ITEM_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Frame { data, .. } => at_most("frame of publications", data.len(), FRAME_BYTES_MAX),
            Self::Lost {
                shard,
                first_seq,
                last_seq,
                ..
            } => {
                if !(DIRECT..DIRECT + SHARDS).contains(shard) || *first_seq == 0 || first_seq > last_seq {
                    return Err(DecodeError::invalid(Self::WHAT, "what was lost cannot be"));
                }
                Ok(())
            }
        }
    }
}

/// What the receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct DirectTaken {
    /// The number of the last item it has taken in, and with it of all before.
    #[n(0)]
    pub ordinal: u64,
}

impl Wire for DirectTaken {
    const WHAT: &'static str = "receipt of direct publications";
    const BYTES_MAX: usize = 32;
}
