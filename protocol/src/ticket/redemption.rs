//! How a ticket is redeemed: its secret is proven, never shown.
//!
//! A newcomer that cannot reach the issuer itself, because that one is behind a router say, hands its redemption to another member, which
//! passes it on. So what is handed over must be of no use to whoever sees it: it holds an HMAC (RFC 2104, SHA-256) that binds the
//! secret to the one key that may become a member.

use hmac::{Hmac, KeyInit as _, Mac as _};
use minicbor::{Decode, Encode};
use sha2::{Digest as _, Sha256};

use super::{Ticket, TicketSecret};
use crate::{
    error::DecodeError,
    ident::{MeshId, PublicKey},
    limits::AGENT_BYTES_MAX,
    name::{check_name, check_text},
};

const DOMAIN: &[u8] = b"weft-ticket-v1";

/// What the issuer keeps of a ticket's secret: its SHA-256. Whoever has it can redeem the ticket.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey([u8; 32]);

impl TicketKey {
    /// The key that was kept.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be kept.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// By what the issuer finds the invitation: the first six bytes, which help nobody to guess the rest.
    pub fn invitation(&self) -> [u8; 6] {
        let mut id = [0; 6];
        id.copy_from_slice(&self.0[..6]);
        id
    }

    fn mac(&self, mesh: &MeshId, issuer: &PublicKey, joiner: &PublicKey, nonce: &[u8; 16]) -> Hmac<Sha256> {
        Hmac::<Sha256>::new_from_slice(&self.0)
            .expect("HMAC takes keys of any length")
            .chain_update(DOMAIN)
            .chain_update(mesh.as_bytes())
            .chain_update(issuer.as_bytes())
            .chain_update(joiner.as_bytes())
            .chain_update(nonce)
    }
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketKey(…)")
    }
}

impl TicketSecret {
    /// What the issuer keeps.
    pub fn key(&self) -> TicketKey {
        TicketKey(Sha256::digest(self.expose()).into())
    }
}

/// The wish to become a member by a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Redemption {
    /// The mesh.
    #[n(0)]
    pub mesh: MeshId,
    /// Who issued the ticket; whoever else gets this passes it on.
    #[n(1)]
    pub issuer: PublicKey,
    /// [`TicketKey::invitation`].
    #[cbor(n(2), with = "minicbor::bytes")]
    pub invitation: [u8; 6],
    /// HMAC-SHA-256 under the [`TicketKey`] of `weft-ticket-v1`, mesh id, issuer, the new member's key and the nonce.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub proof: [u8; 32],
    /// What people shall call the new member.
    #[n(4)]
    pub name: String,
    /// What software it runs.
    #[n(5)]
    pub agent: String,
    /// Drawn at random.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

impl Redemption {
    /// Redeems `ticket` for `joiner`.
    pub fn new(ticket: &Ticket, joiner: &PublicKey, name: &str, agent: &str, nonce: [u8; 16]) -> Self {
        let key = ticket.secret.key();
        let proof = key.mac(&ticket.mesh, &ticket.issuer, joiner, &nonce);
        Self {
            mesh: ticket.mesh,
            issuer: ticket.issuer,
            invitation: key.invitation(),
            proof: proof.finalize().into_bytes().into(),
            name: name.to_owned(),
            agent: agent.to_owned(),
            nonce,
        }
    }

    /// Whether it was made by somebody who has the ticket, for `joiner`. Takes the same time whatever differs.
    pub fn is_proven(&self, key: &TicketKey, joiner: &PublicKey) -> bool {
        key.mac(&self.mesh, &self.issuer, joiner, &self.nonce)
            .verify_slice(&self.proof)
            .is_ok()
    }

    /// Whether its texts keep their limits.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        check_name("name", &self.name)?;
        check_text("agent", &self.agent, AGENT_BYTES_MAX)
    }
}
