//! What a node says about itself: name, addresses, and what its patterns announce.
//!
//! A record is signed by the node it describes and carries the node's chain, so it can be passed on by anybody. `seq` rises strictly, so
//! of two records of one node the newer is known; `ttl_ms` bounds how long a node that is gone is remembered.

#[cfg(test)]
mod tests;

use minicbor::{Decode, Encode};
use multiaddr::Multiaddr;

use crate::certificate::{Chain, Membership, check_window};
use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, TrustError, at_most};
use crate::ident::{MeshId, PublicKey};
use crate::limits::{
    ADDRESS_BYTES_MAX, ADDRESSES_MAX, AGENT_BYTES_MAX, ANNOUNCEMENT_BYTES_MAX, ANNOUNCEMENTS_MAX, CLOCK_SKEW_MS_MAX,
    RECORD_BYTES_MAX, RECORD_TTL_MS_MAX,
};
use crate::name::{check_distinct, check_name, check_text};
use crate::signed::{ENVELOPE_BYTES_MAX, Payload, Signed};

/// A node's own description.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NodeRecord {
    /// The mesh it is in.
    #[n(0)]
    pub mesh: MeshId,
    /// Its certificates; empty in an open mesh.
    #[n(1)]
    pub chain: Chain,
    /// What people call it.
    #[n(2)]
    pub name: String,
    /// Where it can be reached.
    #[cbor(n(3), with = "bounded::addresses")]
    pub addresses: Vec<Multiaddr>,
    /// What software it runs.
    #[n(4)]
    pub agent: String,
    /// The version of that software.
    #[n(5)]
    pub version: String,
    /// Strictly rising, from the node's clock in milliseconds.
    #[n(6)]
    pub seq: u64,
    /// When it was made, unix milliseconds.
    #[n(7)]
    pub issued_at_ms: u64,
    /// For how long it holds.
    #[n(8)]
    pub ttl_ms: u64,
    /// What each pattern says about itself: its name and bytes that it understands.
    #[cbor(n(9), decode_with = "bounded::list::<{ ANNOUNCEMENTS_MAX }, _, _>")]
    pub announcements: Vec<Announcement>,
}

/// A pattern's own advertisement inside a node record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Announcement {
    /// Which pattern.
    #[n(0)]
    pub key: String,
    /// What it says; the pattern decodes it.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub value: Vec<u8>,
}

impl NodeRecord {
    /// The announcement with this key.
    pub fn announcement(&self, key: &str) -> Option<&[u8]> {
        self.announcements
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| entry.value.as_slice())
    }

    /// When it no longer holds, unix milliseconds.
    pub fn expires_at_ms(&self) -> u64 {
        self.issued_at_ms.saturating_add(self.ttl_ms)
    }

    /// Verifies a record: its signature, its time, and, unless the mesh is open and it carries no chain, that its signer is a member.
    pub fn open(
        signed: &Signed<Self>,
        root: &PublicKey,
        mesh: &MeshId,
        is_open: bool,
        now_ms: u64,
        is_revoked: &dyn Fn(&PublicKey) -> bool,
    ) -> Result<(Self, Option<Membership>), TrustError> {
        let record = signed.open()?;
        let key = signed.signer();
        if record.mesh != *mesh {
            return Err(TrustError::WrongMesh {
                expected: *mesh,
                got: record.mesh,
            });
        }
        check_window(record.issued_at_ms, record.expires_at_ms(), now_ms, CLOCK_SKEW_MS_MAX)?;
        if is_open && record.chain.is_empty() {
            return if is_revoked(&key) {
                Err(TrustError::Revoked { key })
            } else {
                Ok((record, None))
            };
        }
        let member = record.chain.verify(root, mesh, now_ms, CLOCK_SKEW_MS_MAX, is_revoked)?;
        if member.key != key {
            return Err(TrustError::not_authorised(
                key,
                "its record carries the certificates of another node",
            ));
        }
        Ok((record, Some(member)))
    }
}

impl Wire for NodeRecord {
    const WHAT: &'static str = "node record";
    const BYTES_MAX: usize = RECORD_BYTES_MAX - ENVELOPE_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        self.chain.check()?;
        check_name("name", &self.name)?;
        check_addresses(&self.addresses)?;
        check_text("agent", &self.agent, AGENT_BYTES_MAX)?;
        check_text("version", &self.version, AGENT_BYTES_MAX)?;
        if self.ttl_ms == 0 || self.ttl_ms > RECORD_TTL_MS_MAX {
            let reason = format!(
                "its life of {} ms is not between 1 and {RECORD_TTL_MS_MAX}",
                self.ttl_ms
            );
            return Err(DecodeError::invalid(Self::WHAT, reason));
        }
        at_most("announcements", self.announcements.len(), ANNOUNCEMENTS_MAX)?;
        for entry in &self.announcements {
            check_name("announcement", &entry.key)?;
            at_most("announcement", entry.value.len(), ANNOUNCEMENT_BYTES_MAX)?;
        }
        check_distinct(
            "announcements",
            self.announcements.iter().map(|entry| entry.key.as_str()),
        )
    }
}

impl Payload for NodeRecord {
    const DOMAIN: &'static str = "record";
}

/// Number and size of addresses, for values that were put together here.
pub(crate) fn check_addresses(addresses: &[Multiaddr]) -> Result<(), DecodeError> {
    at_most("addresses", addresses.len(), ADDRESSES_MAX)?;
    addresses
        .iter()
        .try_for_each(|address| at_most("address", address.len(), ADDRESS_BYTES_MAX))
}
