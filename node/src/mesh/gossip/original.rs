//! Messages as their authors signed them for gossip, and how such a one is told from a forged one outside gossip.
//!
//! What is signed is what the specification of libp2p's pub/sub says (StrictSign), so that an original is the same thing
//! whoever wrote it and however it came.

use std::io;

use libp2p::{
    PeerId,
    gossipsub::{DataTransform, Message, RawMessage, TopicHash},
    identity::{Keypair, PublicKey},
};

/// What precedes the message in what is signed.
const PREFIX: &[u8] = b"libp2p-pubsub:";

/// A message as its author signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// Who signed it.
    pub source: PeerId,
    /// What distinguishes it from its author's others.
    pub sequence_number: u64,
    /// The gossip topic it was published on.
    pub topic: String,
    /// What it carries.
    pub data: Vec<u8>,
    /// The author's, over all of the above.
    pub signature: Vec<u8>,
}

impl Original {
    /// Signs a message. The signature over the same message is always the same, so that of a message published before
    /// is had again by this.
    pub(crate) fn sign(key: &Keypair, topic: String, sequence_number: u64, data: Vec<u8>) -> Option<Self> {
        let source = key.public().to_peer_id();
        let signature = key.sign(&signed(&source, sequence_number, &topic, &data)).ok()?;
        Some(Original {
            source,
            sequence_number,
            topic,
            data,
            signature,
        })
    }

    /// Whether its author signed exactly this.
    ///
    /// An author whose id does not contain its key (RSA) cannot be checked, and counts as forged; no member is one.
    pub fn verify(&self) -> bool {
        let source = self.source.to_bytes();
        // An identity multihash: its code and its length, then the key.
        let Some(key) = source.get(2..).filter(|_| source[0] == 0) else {
            return false;
        };
        let Ok(key) = PublicKey::try_decode_protobuf(key) else {
            return false;
        };
        let signed = signed(&self.source, self.sequence_number, &self.topic, &self.data);
        key.to_peer_id() == self.source && key.verify(&signed, &self.signature)
    }
}

/// The bytes that are signed: the message as a protocol buffer, without signature and key.
fn signed(source: &PeerId, sequence_number: u64, topic: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREFIX.len() + data.len() + topic.len() + 96);
    bytes.extend_from_slice(PREFIX);
    let fields: [&[u8]; 4] = [
        &source.to_bytes(),
        data,
        &sequence_number.to_be_bytes(),
        topic.as_bytes(),
    ];
    for (number, field) in (1..).zip(fields) {
        bytes.push(number << 3 | super::frame::LENGTH_DELIMITED);
        super::frame::put_varint(&mut bytes, field.len());
        bytes.extend_from_slice(field);
    }
    bytes
}

/// Hands the application the signature with the data, behind it: gossipsub has no other place for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Handover;

impl DataTransform for Handover {
    fn inbound_transform(&self, message: RawMessage) -> io::Result<Message> {
        let signature = message.signature.unwrap_or_default();
        let length = u16::try_from(signature.len()).map_err(io::Error::other)?;
        let mut data = message.data;
        data.reserve_exact(signature.len() + 2);
        data.extend_from_slice(&signature);
        data.extend_from_slice(&length.to_be_bytes());
        Ok(Message {
            source: message.source,
            data,
            sequence_number: message.sequence_number,
            topic: message.topic,
        })
    }

    fn outbound_transform(&self, _: &TopicHash, data: Vec<u8>) -> io::Result<Vec<u8>> {
        Ok(data)
    }
}

/// Takes the signature off what [`Handover`] has handed up. `None` if it did not.
pub(crate) fn take_signature(data: &mut Vec<u8>) -> Option<Vec<u8>> {
    let rest = data.len().checked_sub(2)?;
    let length = u16::from_be_bytes([data[rest], data[rest + 1]]);
    let start = rest.checked_sub(length.into())?;
    let signature = data[start..rest].to_vec();
    data.truncate(start);
    Some(signature)
}
