//! What the NATS doors of two nodes say to each other directly: deliveries that are not for everybody, and what their clients listen to.
//!
//! Ordinary messages are [publications](crate::patterns::pub_sub). A reply goes to the node that asked, under a short id that only the nodes
//! asked have seen; a request goes to one member of a queue group. Headers are the client's own block of bytes and stay as they are.

#[cfg(test)]
mod tests;

use minicbor::{Decode, Encode};

use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::limits::{
    CALL_BYTES_MAX, DIRECT_BODY_BYTES_MAX, NAME_BYTES_MAX, NATS_ADDRESS_BYTES_MAX, NATS_INTEREST_BYTES_MAX,
    NATS_INTERESTS_MAX, NATS_ITEMS_MAX, SUBJECT_BYTES_MAX,
};
use crate::subject::{Pattern, Subject};

/// The pattern's identifier in [`Hello`](crate::Hello).
pub const PATTERN_ID: &str = "nats";
/// The key of its announcement in a node record.
pub const ANNOUNCEMENT_KEY: &str = "nats";
/// What a reply is about, for the right to send one; a delivery is about its own subject.
pub const REPLY_RESOURCE: &str = "nats.reply";
/// Bytes of a reply's id.
pub const REPLY_ID_BYTES: usize = 12;

/// One message for one node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum NatsItem {
    /// An answer to something that this node asked.
    #[n(0)]
    Reply {
        /// What the asking node called the question.
        #[cbor(n(0), with = "minicbor::bytes")]
        id: [u8; REPLY_ID_BYTES],
        /// The block of headers, or nothing.
        #[cbor(n(1), with = "minicbor::bytes")]
        headers: Vec<u8>,
        /// The payload.
        #[cbor(n(2), with = "minicbor::bytes")]
        payload: Vec<u8>,
    },
    /// A message for subscribers of this node.
    #[n(1)]
    Deliver {
        /// Its subject; may be a reserved one.
        #[n(0)]
        subject: Subject,
        /// Where answers go, already under a name that leads back to the asking node.
        #[n(1)]
        reply: Option<Subject>,
        /// For one member of this queue group, and nobody else; without it, for every plain subscription and one member of each group.
        #[n(2)]
        group: Option<String>,
        /// The block of headers, or nothing.
        #[cbor(n(3), with = "minicbor::bytes")]
        headers: Vec<u8>,
        /// The payload.
        #[cbor(n(4), with = "minicbor::bytes")]
        payload: Vec<u8>,
    },
}

/// Messages for one node, in their order, all about one resource.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct NatsItems(#[cbor(n(0), decode_with = "bounded::list::<{ NATS_ITEMS_MAX }, _, _>")] pub Vec<NatsItem>);

impl NatsItem {
    /// What a right to send it is about.
    pub fn resource(&self) -> &str {
        match self {
            NatsItem::Reply { .. } => REPLY_RESOURCE,
            NatsItem::Deliver { subject, .. } => subject.as_str(),
        }
    }

    /// Bytes it takes, nearly.
    pub fn len(&self) -> usize {
        let around = 64;
        match self {
            NatsItem::Reply { headers, payload, .. } => around + headers.len() + payload.len(),
            NatsItem::Deliver { headers, payload, .. } => {
                around + 3 * SUBJECT_BYTES_MAX + headers.len() + payload.len()
            }
        }
    }

    /// Never: an item has at least its frame.
    pub fn is_empty(&self) -> bool {
        false
    }
}

impl Wire for NatsItems {
    const WHAT: &'static str = "nats items";
    const BYTES_MAX: usize = CALL_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        at_most("nats items", self.0.len(), NATS_ITEMS_MAX)?;
        let Some(first) = self.0.first() else {
            return Err(DecodeError::invalid(Self::WHAT, "there is none"));
        };
        for item in &self.0 {
            if item.resource() != first.resource() {
                return Err(DecodeError::invalid(Self::WHAT, "they are about different things"));
            }
            let (headers, payload) = match item {
                NatsItem::Reply { headers, payload, .. } => (headers, payload),
                NatsItem::Deliver {
                    headers,
                    payload,
                    group,
                    ..
                } => {
                    group.as_deref().map_or(Ok(()), check_group)?;
                    (headers, payload)
                }
            };
            at_most("nats message", headers.len() + payload.len(), DIRECT_BODY_BYTES_MAX)?;
        }
        Ok(())
    }
}

/// How many subscriptions each of the items reached.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct NatsReached(#[cbor(n(0), decode_with = "bounded::list::<{ NATS_ITEMS_MAX }, _, _>")] pub Vec<u32>);

impl Wire for NatsReached {
    const WHAT: &'static str = "nats reached";
    const BYTES_MAX: usize = 8 * NATS_ITEMS_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        at_most("nats reached", self.0.len(), NATS_ITEMS_MAX)
    }
}

/// A subscription of some client of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct NatsInterest {
    /// What it selects.
    #[n(0)]
    pub pattern: Pattern,
    /// Its queue group.
    #[n(1)]
    pub group: Option<String>,
}

/// What a node announces: what the clients at its NATS door listen to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct NatsInterests {
    /// Each once.
    #[cbor(n(0), decode_with = "bounded::list::<{ NATS_INTERESTS_MAX }, _, _>")]
    pub list: Vec<NatsInterest>,
    /// There are more than fit: any subject may have a plain subscription there.
    #[n(1)]
    pub more: bool,
    /// Where clients reach the door, `HOST:PORT`, when they may go there from another.
    #[n(2)]
    pub address: Option<String>,
}

impl Wire for NatsInterests {
    const WHAT: &'static str = "nats interests";
    const BYTES_MAX: usize = NATS_INTEREST_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        at_most("nats interests", self.list.len(), NATS_INTERESTS_MAX)?;
        self.address.as_deref().map_or(Ok(()), check_address)?;
        self.list
            .iter()
            .filter_map(|interest| interest.group.as_deref())
            .try_for_each(check_group)
    }
}

/// Checks the address of a door: a host's name or IP address, an IPv6 one in brackets, and a port.
pub fn check_address(address: &str) -> Result<(), DecodeError> {
    const WHAT: &str = "address of a NATS door";
    at_most(WHAT, address.len(), NATS_ADDRESS_BYTES_MAX)?;
    let is_host = |host: &str| match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        }
    };
    let is_right = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0));
    if !is_right {
        return Err(DecodeError::invalid(WHAT, format!("{address:?} is not HOST:PORT")));
    }
    Ok(())
}

/// Checks the name of a queue group: printable, without blanks.
pub fn check_group(name: &str) -> Result<(), DecodeError> {
    at_most("queue group", name.len(), NAME_BYTES_MAX)?;
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(DecodeError::invalid(
            "queue group",
            format!("{name:?} is empty or has blanks"),
        ));
    }
    Ok(())
}
