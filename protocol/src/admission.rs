//! How a connection becomes a member's: `/weft/admission/1`.
//!
//! The prover opens a stream and sends one [`AdmissionRequest`]: it proves its membership, redeems a ticket, or asks to be let in. The
//! verifier answers with [`AdmissionReply`]s, revocations first if the prover lacks some. That the prover holds the key is shown by the
//! connection's handshake, so nothing here signs anything.

#[cfg(test)]
mod tests;

use minicbor::{Decode, Encode};

use crate::certificate::Chain;
use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::ident::{MeshId, PublicKey};
use crate::limits::{ADMISSION_BYTES_MAX, AGENT_BYTES_MAX, NOTICES_PER_MESSAGE_MAX, REASON_BYTES_MAX};
use crate::name::{check_name, check_text, reason};
use crate::revocation::RevocationNotice;
use crate::ticket::Redemption;

/// The name of the stream protocol.
pub const ADMISSION_PROTOCOL: &str = "/weft/admission/1";

/// What the prover wants.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum AdmissionRequest {
    /// To show that it is a member.
    #[n(0)]
    Prove {
        /// The mesh.
        #[n(0)]
        mesh: MeshId,
        /// Its certificates; empty in an open mesh.
        #[n(1)]
        chain: Chain,
        /// What people call it.
        #[n(2)]
        name: String,
        /// What software it runs.
        #[n(3)]
        agent: String,
        /// The prover has made this connection only to try an address and will close it soon: nothing else is to use it.
        #[n(4)]
        test_only: bool,
        /// Another number with each start of the node: its connections with another one are what an earlier process left behind. `None`:
        /// it does not say.
        #[n(5)]
        run: Option<u64>,
    },
    /// To become a member by a ticket.
    #[n(1)]
    Redeem(#[n(0)] Redemption),
    /// To be let in by a person.
    #[n(2)]
    Ask {
        /// The mesh; `None`: whichever it is.
        #[n(0)]
        mesh: Option<MeshId>,
        /// What people shall call it.
        #[n(1)]
        name: String,
        /// What software it runs.
        #[n(2)]
        agent: String,
    },
}

impl Wire for AdmissionRequest {
    const WHAT: &'static str = "admission request";
    const BYTES_MAX: usize = ADMISSION_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        let (name, agent) = match self {
            Self::Prove { chain, name, agent, .. } => {
                chain.check()?;
                (name, agent)
            }
            Self::Redeem(redemption) => return redemption.check(),
            Self::Ask { name, agent, .. } => (name, agent),
        };
        check_name("name", name)?;
        check_text("agent", agent, AGENT_BYTES_MAX)
    }
}

/// Why the verifier said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "snake_case")]
pub enum AdmissionRefusal {
    /// It is in another mesh.
    #[n(0)]
    WrongMesh,
    /// The certificates do not show membership.
    #[n(1)]
    NotMember,
    /// A key of the chain is revoked.
    #[n(2)]
    Revoked,
    /// The certificates have expired.
    #[n(3)]
    Expired,
    /// There is no such ticket.
    #[n(4)]
    BadTicket,
    /// The ticket was redeemed by somebody else.
    #[n(5)]
    UsedTicket,
    /// This node cannot issue certificates.
    #[n(6)]
    NotIssuer,
    /// Too much at once; try again later.
    #[n(7)]
    Busy,
    /// The request could not be read.
    #[n(8)]
    Malformed,
    /// The clocks are too far apart.
    #[n(9)]
    ClockSkew,
    /// The request has another version.
    #[n(10)]
    Version,
}

impl AdmissionRefusal {
    /// Whether it says that a ticket is worth nothing, now or later.
    pub fn is_of_ticket(self) -> bool {
        matches!(self, Self::BadTicket | Self::UsedTicket | Self::Expired | Self::Revoked)
    }

    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WrongMesh => "wrong_mesh",
            Self::NotMember => "not_member",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::BadTicket => "bad_ticket",
            Self::UsedTicket => "used_ticket",
            Self::NotIssuer => "not_issuer",
            Self::Busy => "busy",
            Self::Malformed => "malformed",
            Self::ClockSkew => "clock_skew",
            Self::Version => "version",
        }
    }
}

/// The verifier's answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum AdmissionReply {
    /// The prover is a member.
    #[n(0)]
    Admitted {
        /// The mesh.
        #[n(0)]
        mesh: MeshId,
        /// Its root key.
        #[n(1)]
        root: PublicKey,
        /// Whether members need no certificate.
        #[n(2)]
        open: bool,
        /// The digest of the verifier's revocations.
        #[cbor(n(3), with = "minicbor::bytes")]
        revocations_digest: [u8; 32],
    },
    /// The prover has become a member.
    #[n(1)]
    Issued {
        /// The mesh.
        #[n(0)]
        mesh: MeshId,
        /// Its root key.
        #[n(1)]
        root: PublicKey,
        /// The new member's certificates.
        #[n(2)]
        chain: Chain,
        /// Whether members need no certificate.
        #[n(3)]
        open: bool,
    },
    /// A person has yet to decide.
    #[n(2)]
    Pending {
        /// The mesh.
        #[n(0)]
        mesh: MeshId,
    },
    /// Revocations the prover should know.
    #[n(3)]
    Revocations {
        /// Some of them.
        #[cbor(n(0), decode_with = "bounded::list::<{ NOTICES_PER_MESSAGE_MAX }, _, _>")]
        notices: Vec<RevocationNotice>,
        /// Whether another message with more follows.
        #[n(1)]
        more: bool,
    },
    /// No.
    #[n(4)]
    Refused {
        /// Why, for programs.
        #[n(0)]
        reason: AdmissionRefusal,
        /// Why, for people.
        #[n(1)]
        detail: String,
    },
}

impl AdmissionReply {
    /// A refusal whose detail is cut to what may be sent.
    pub fn refused(why: AdmissionRefusal, detail: &str) -> Self {
        Self::Refused {
            reason: why,
            detail: reason(detail),
        }
    }
}

impl Wire for AdmissionReply {
    const WHAT: &'static str = "admission reply";
    const BYTES_MAX: usize = ADMISSION_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Issued { chain, .. } => chain.check(),
            Self::Revocations { notices, .. } => check_notices(notices),
            Self::Refused { detail, .. } => check_text("detail", detail, REASON_BYTES_MAX),
            Self::Admitted { .. } | Self::Pending { .. } => Ok(()),
        }
    }
}

/// Number and shape of the notices in one message.
pub(crate) fn check_notices(notices: &[RevocationNotice]) -> Result<(), DecodeError> {
    at_most("revocation notices", notices.len(), NOTICES_PER_MESSAGE_MAX)?;
    notices.iter().try_for_each(Wire::check)
}
