//! What members say to each other to stay a mesh: `/weft/control/1`, one request, one reply.
//!
//! Probes compare digests, pulls and pushes bring the two sides together, a renewal asks an issuer for a new certificate. A reply holds
//! what fits; `more` says that the same question would bring further answers.

mod have;
#[cfg(test)]
mod tests;

use minicbor::{Decode, Encode};

pub use have::Have;

use crate::admission::{AdmissionRefusal, check_notices};
use crate::capability::CapabilityToken;
use crate::certificate::Chain;
use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::ident::PublicKey;
use crate::limits::{
    BURST_BYTES_MAX, CONTROL_BYTES_MAX, HAVE_MAX, NOTE_BYTES_MAX, NOTES_MAX, NOTICES_PER_MESSAGE_MAX,
    PATTERN_ID_BYTES_MAX, REASON_BYTES_MAX, RECORDS_PER_MESSAGE_MAX,
};
use crate::name::{check_text, reason};
use crate::record::NodeRecord;
use crate::revocation::RevocationNotice;
use crate::signed::Signed;
use crate::ticket::Redemption;

/// The name of the request-response protocol.
pub const CONTROL_PROTOCOL: &str = "/weft/control/1";

/// What a pattern says with every probe: a few bytes by which two members see whether they have the same.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Note {
    /// The pattern's identifier.
    #[n(0)]
    pub pattern: String,
    /// What it means, the pattern knows.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
}

fn check_notes(notes: &[Note]) -> Result<(), DecodeError> {
    at_most("notes of patterns", notes.len(), NOTES_MAX)?;
    notes.iter().try_for_each(|note| {
        at_most("pattern id", note.pattern.len(), PATTERN_ID_BYTES_MAX)?;
        at_most("note of a pattern", note.bytes.len(), NOTE_BYTES_MAX)
    })
}

/// A question of one member to another.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ControlRequest {
    /// Do we know the same?
    #[n(0)]
    Probe {
        /// The asker's clock, unix milliseconds.
        #[n(0)]
        sent_at_ms: u64,
        /// The digest of the asker's records.
        #[cbor(n(1), with = "minicbor::bytes")]
        members_digest: [u8; 32],
        /// The digest of the asker's revocations.
        #[cbor(n(2), with = "minicbor::bytes")]
        revocations_digest: [u8; 32],
        /// What the asker's patterns say.
        #[cbor(n(3), default, decode_with = "bounded::list::<{ NOTES_MAX }, _, _>")]
        notes: Vec<Note>,
    },
    /// Give me your revocations.
    #[n(1)]
    PullRevocations {
        /// How many, in the order of the set, the asker has already received.
        #[n(0)]
        after: u32,
    },
    /// Give me your records: the question to those who do not say that they understand [`ControlRequest::PullLacking`].
    #[n(2)]
    PullRecords {
        /// What the asker has: of whom, and which `seq`. The keys are only compared, so they are not checked to be points of the curve.
        #[cbor(n(0), decode_with = "bounded::known::<{ HAVE_MAX }, _>")]
        have: Vec<(PublicKey, u64)>,
    },
    /// Here are records.
    #[n(3)]
    PushRecords {
        /// The records.
        #[cbor(n(0), decode_with = "bounded::list::<{ RECORDS_PER_MESSAGE_MAX }, _, _>")]
        records: Vec<Signed<NodeRecord>>,
    },
    /// Here are revocations.
    #[n(4)]
    PushRevocations {
        /// The notices.
        #[cbor(n(0), decode_with = "bounded::list::<{ NOTICES_PER_MESSAGE_MAX }, _, _>")]
        notices: Vec<RevocationNotice>,
    },
    /// Give me a new certificate in place of this one.
    #[n(5)]
    Renew {
        /// The asker's chain.
        #[n(0)]
        chain: Chain,
    },
    /// A capability that was granted to the receiver, or to a role of its. Answered with `Ok` once it is kept.
    #[n(6)]
    PushCapability {
        /// The capability.
        #[n(0)]
        token: CapabilityToken,
    },
    /// Somebody who reached only the sender wants to redeem a ticket of the receiver's. Answered with `Renewed`.
    #[n(7)]
    Redeem {
        /// The key whose connection the wish came on.
        #[n(0)]
        joiner: PublicKey,
        /// The wish.
        #[n(1)]
        redemption: Redemption,
    },
    /// Bytes to be received and acknowledged with `Ok`: how fast does this connection carry?
    #[n(8)]
    Burst {
        /// They mean nothing.
        #[cbor(n(0), with = "minicbor::bytes")]
        padding: Vec<u8>,
    },
    /// A new certificate for the receiver, with rights it did not have. Answered with `Ok` once it is kept in place of the old one.
    #[n(9)]
    PushCertificate {
        /// It replaces the receiver's chain.
        #[n(0)]
        chain: Chain,
    },
    /// Give me the records that I lack. Answered as [`ControlRequest::PullRecords`] is.
    #[n(10)]
    PullLacking {
        /// What the asker has.
        #[n(0)]
        have: Have,
    },
}

impl Wire for ControlRequest {
    const WHAT: &'static str = "control request";
    const BYTES_MAX: usize = CONTROL_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Probe { notes, .. } => check_notes(notes),
            Self::PullRevocations { .. } => Ok(()),
            Self::PullRecords { have } => at_most("known records", have.len(), HAVE_MAX),
            Self::PullLacking { have } => have.check(),
            Self::PushRecords { records } => at_most("records", records.len(), RECORDS_PER_MESSAGE_MAX),
            Self::PushRevocations { notices } => check_notices(notices),
            Self::Renew { chain } | Self::PushCertificate { chain } => chain.check(),
            Self::PushCapability { token } => token.check(),
            Self::Redeem { redemption, .. } => redemption.check(),
            Self::Burst { padding } => at_most("padding", padding.len(), BURST_BYTES_MAX),
        }
    }
}

/// The answer to a [`ControlRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ControlReply {
    /// What this side knows.
    #[n(0)]
    Probe {
        /// This side's clock, unix milliseconds.
        #[n(0)]
        clock_ms: u64,
        /// The digest of this side's records.
        #[cbor(n(1), with = "minicbor::bytes")]
        members_digest: [u8; 32],
        /// The digest of this side's revocations.
        #[cbor(n(2), with = "minicbor::bytes")]
        revocations_digest: [u8; 32],
        /// What this side's patterns say.
        #[cbor(n(3), default, decode_with = "bounded::list::<{ NOTES_MAX }, _, _>")]
        notes: Vec<Note>,
        /// Whether this side understands [`ControlRequest::PullLacking`].
        #[n(4)]
        knows_marks: Option<bool>,
    },
    /// Revocations.
    #[n(1)]
    Revocations {
        /// Some of them.
        #[cbor(n(0), decode_with = "bounded::list::<{ NOTICES_PER_MESSAGE_MAX }, _, _>")]
        notices: Vec<RevocationNotice>,
        /// Whether there are more.
        #[n(1)]
        more: bool,
    },
    /// Records.
    #[n(2)]
    Records {
        /// Some of them.
        #[cbor(n(0), decode_with = "bounded::list::<{ RECORDS_PER_MESSAGE_MAX }, _, _>")]
        records: Vec<Signed<NodeRecord>>,
        /// Whether there are more.
        #[n(1)]
        more: bool,
    },
    /// Taken.
    #[n(3)]
    Ok,
    /// The new certificates.
    #[n(4)]
    Renewed {
        /// They replace the asker's chain, or are the new member's first.
        #[n(0)]
        chain: Chain,
    },
    /// No.
    #[n(5)]
    Refused {
        /// Why, for programs.
        #[n(0)]
        reason: AdmissionRefusal,
        /// Why, for people.
        #[n(1)]
        detail: String,
    },
}

impl ControlReply {
    /// A refusal whose detail is cut to what may be sent.
    pub fn refused(why: AdmissionRefusal, detail: &str) -> Self {
        Self::Refused {
            reason: why,
            detail: reason(detail),
        }
    }
}

impl Wire for ControlReply {
    const WHAT: &'static str = "control reply";
    const BYTES_MAX: usize = CONTROL_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Probe { notes, .. } => check_notes(notes),
            Self::Ok => Ok(()),
            Self::Revocations { notices, .. } => check_notices(notices),
            Self::Records { records, .. } => at_most("records", records.len(), RECORDS_PER_MESSAGE_MAX),
            Self::Renewed { chain } => chain.check(),
            Self::Refused { detail, .. } => check_text("detail", detail, REASON_BYTES_MAX),
        }
    }
}
