//! Frames of gossip as they come from a stream, and the messages in them.
//!
//! Reads what is written plainly, as every implementation writes it: each field once, at its place or not. Of anything else it says
//! that it does not know, and gossipsub decides.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::AsyncRead;
use libp2p::{
    PeerId,
    gossipsub::{RawMessage, TopicHash},
};
use sha2::{Digest as _, Sha256};

/// The wire type of everything that has a length.
pub(super) const LENGTH_DELIMITED: u8 = 2;
/// Messages of one frame that are looked at; in one with more gossipsub verifies all.
const MESSAGES_MAX: usize = 64;
/// Read from a stream at once.
const CHUNK_BYTES: usize = 2048;
/// The longest length of a frame: that of 2^63 bytes.
const VARINT_BYTES_MAX: usize = 9;

/// Writes a number as protocol buffers do.
pub(super) fn put_varint(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A number at the head of `bytes`, and how long it is; `None` if it is not all there.
fn varint(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((usize::try_from(value).map_err(io::Error::other)?, at + 1)));
        }
    }
    if bytes.len() < VARINT_BYTES_MAX {
        return Ok(None);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "the length of a frame has no end",
    ))
}

/// The frames of a stream. Holds memory only while half a frame is there.
pub(super) struct Frames<S> {
    stream: S,
    limit: usize,
    /// What has come of the frames to come.
    begun: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Frames<S> {
    /// Frames of `limit` bytes at most.
    pub(super) fn new(stream: S, limit: usize) -> Self {
        Frames {
            stream,
            limit,
            begun: Vec::new(),
        }
    }

    /// The stream itself.
    pub(super) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The next frame with its length before it; `None` at a clean end.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Frame>>> {
        loop {
            if let Some(frame) = self.complete()? {
                return Poll::Ready(Ok(Some(frame)));
            }
            let mut chunk = [0; CHUNK_BYTES];
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut chunk))?;
            if read == 0 {
                return Poll::Ready(match self.begun.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                });
            }
            self.begun.extend_from_slice(&chunk[..read]);
        }
    }

    fn complete(&mut self) -> io::Result<Option<Frame>> {
        let Some((length, prefix)) = varint(&self.begun)? else {
            return Ok(None);
        };
        if length > self.limit {
            let message = format!("a frame of {length} bytes is longer than {}", self.limit);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        if self.begun.len() < prefix + length {
            return Ok(None);
        }
        let next = self.begun.split_off(prefix + length);
        let bytes = mem::replace(&mut self.begun, next);
        Ok(Some(Frame { bytes, prefix }))
    }
}

/// A whole frame.
pub(super) struct Frame {
    bytes: Vec<u8>,
    prefix: usize,
}

impl Frame {
    /// Its bytes, with the length before them.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The messages in it; `None` if something is not as it is usually written.
    pub(super) fn messages(&self) -> Option<Vec<Parts<'_>>> {
        let mut messages = Vec::new();
        for field in Fields(&self.bytes[self.prefix..]) {
            let field = field?;
            if field.number == PUBLISH {
                messages.push(Parts::read(field.content).filter(|_| messages.len() < MESSAGES_MAX)?);
            }
        }
        Some(messages)
    }

    /// Whether there is anything in it besides messages.
    pub(super) fn has_more_than_messages(&self) -> bool {
        Fields(&self.bytes[self.prefix..]).any(|field| field.is_none_or(|field| field.number != PUBLISH))
    }

    /// The same frame without messages.
    pub(super) fn without_messages(&self) -> Vec<u8> {
        let rest = || {
            Fields(&self.bytes[self.prefix..])
                .flatten()
                .filter(|field| field.number != PUBLISH)
        };
        let length = rest().map(|field| field.whole.len()).sum();
        let mut bytes = Vec::with_capacity(length + VARINT_BYTES_MAX);
        put_varint(&mut bytes, length);
        rest().for_each(|field| bytes.extend_from_slice(field.whole));
        bytes
    }
}

/// The field of a frame that holds a message.
const PUBLISH: usize = 2;

struct Field<'a> {
    number: usize,
    whole: &'a [u8],
    content: &'a [u8],
}

/// Fields that have a length, one after the other; `None` at another one, and then the end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn split(bytes: &'a [u8]) -> Option<(Field<'a>, &'a [u8])> {
        let (tag, tag_bytes) = varint(bytes).ok()??;
        if tag & 7 != usize::from(LENGTH_DELIMITED) {
            return None;
        }
        let (length, length_bytes) = varint(&bytes[tag_bytes..]).ok()??;
        let start = tag_bytes + length_bytes;
        let (whole, rest) = bytes.split_at_checked(start.checked_add(length)?)?;
        let field = Field {
            number: tag >> 3,
            whole,
            content: &whole[start..],
        };
        Some((field, rest))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<Field<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let split = Self::split(self.0);
        self.0 = split.as_ref().map_or(&[], |(_, rest)| rest);
        Some(split.map(|(field, _)| field))
    }
}

/// What a message consists of.
pub(super) struct Parts<'a> {
    source: &'a [u8],
    data: &'a [u8],
    sequence_number: [u8; 8],
    topic: &'a [u8],
    signature: &'a [u8],
    key: Option<&'a [u8]>,
}

impl<'a> Parts<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut parts = [None; 6];
        for field in Fields(bytes) {
            let field = field?;
            let part = parts.get_mut(field.number.checked_sub(1)?)?;
            if part.replace(field.content).is_some() {
                return None;
            }
        }
        let [source, data, sequence_number, topic, signature, key] = parts;
        Some(Parts {
            source: source?,
            data: data?,
            sequence_number: sequence_number?.try_into().ok()?,
            topic: topic?,
            signature: signature?,
            key,
        })
    }

    /// What gossip calls it: its author and its number.
    pub(super) fn id(&self) -> Vec<u8> {
        [self.source, &self.sequence_number].concat()
    }

    /// One and the same for the same message only.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.sequence_number);
        digest.update([u8::from(self.key.is_some())]);
        let key = self.key.unwrap_or_default();
        for part in [self.source, self.topic, self.signature, key, self.data] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    /// As gossipsub has it once it has read it.
    pub(super) fn to_message(&self) -> Option<RawMessage> {
        Some(RawMessage {
            source: Some(PeerId::from_bytes(self.source).ok()?),
            data: self.data.to_vec(),
            sequence_number: Some(u64::from_be_bytes(self.sequence_number)),
            topic: TopicHash::from_raw(std::str::from_utf8(self.topic).ok()?),
            signature: Some(self.signature.to_vec()),
            key: self.key.map(<[u8]>::to_vec),
            validated: false,
        })
    }
}

/// The digest of a message that gossipsub has read; `None` if something is not there.
pub(super) fn digest(message: &RawMessage) -> Option<[u8; 32]> {
    let parts = Parts {
        source: &message.source?.to_bytes(),
        data: &message.data,
        sequence_number: message.sequence_number?.to_be_bytes(),
        topic: message.topic.as_str().as_bytes(),
        signature: message.signature.as_deref()?,
        key: message.key.as_deref(),
    };
    Some(parts.digest())
}
