//! A receipt: what a node says, with its signature, that one of its services answered to whom, and when.
//!
//! It carries the certificates of its signer, so that it can be verified long after and far from the mesh. It proves that a member's
//! node said so, not that the service did what it answered.

use minicbor::{Decode, Encode};

use super::service::{check_endpoint_name, check_service_name, check_version};
use crate::certificate::{Chain, Membership};
use crate::codec::Wire;
use crate::error::{DecodeError, TrustError};
use crate::ident::{MeshId, PublicKey};
use crate::limits::{CHAIN_BYTES_MAX, CLOCK_SKEW_MS_MAX};
use crate::signed::{Payload, Signed};

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Receipt {
    /// The mesh.
    #[n(0)]
    pub mesh: MeshId,
    /// The signer's certificates; empty in an open mesh.
    #[n(1)]
    pub chain: Chain,
    /// Who called.
    #[n(2)]
    pub caller: PublicKey,
    /// The service.
    #[n(3)]
    pub service: String,
    /// The endpoint.
    #[n(4)]
    pub endpoint: String,
    /// The instance.
    #[n(5)]
    pub instance: String,
    /// Its version.
    #[n(6)]
    pub version: String,
    /// What the caller chose, so that the receipt is for this call and no other.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
    /// SHA-256 of the request's body.
    #[cbor(n(8), with = "minicbor::bytes")]
    pub request_sha256: [u8; 32],
    /// SHA-256 of the answer's body, or of the reason when the service failed.
    #[cbor(n(9), with = "minicbor::bytes")]
    pub answer_sha256: [u8; 32],
    /// The code with which the service failed; none: it answered.
    #[n(10)]
    pub failed: Option<u16>,
    /// When the call came, by the signer's clock, Unix milliseconds.
    #[n(11)]
    pub received_at_ms: u64,
    /// When it was answered.
    #[n(12)]
    pub answered_at_ms: u64,
}

impl Receipt {
    /// Verifies a receipt by itself: its signature and, where it carries certificates, that its signer was a member of the mesh it names
    /// when it was made. What was revoked since is not known to it.
    pub fn open(signed: &Signed<Self>) -> Result<(Self, Option<Membership>), TrustError> {
        let receipt = signed.open()?;
        let Some(root) = receipt.chain.root() else {
            return Ok((receipt, None));
        };
        let got = MeshId::from_root(&root);
        if got != receipt.mesh {
            return Err(TrustError::WrongMesh {
                expected: receipt.mesh,
                got,
            });
        }
        let at_ms = receipt.answered_at_ms;
        let member = receipt
            .chain
            .verify(&root, &receipt.mesh, at_ms, CLOCK_SKEW_MS_MAX, &|_| false)?;
        if member.key != signed.signer() {
            return Err(TrustError::not_authorised(
                signed.signer(),
                "the receipt carries the certificates of another node",
            ));
        }
        Ok((receipt, Some(member)))
    }
}

impl Wire for Receipt {
    const WHAT: &'static str = "receipt";
    const BYTES_MAX: usize = CHAIN_BYTES_MAX + 1024;

    fn check(&self) -> Result<(), DecodeError> {
        self.chain.check()?;
        check_service_name("service", &self.service)?;
        check_endpoint_name(&self.endpoint)?;
        check_service_name("service instance", &self.instance)?;
        check_version(&self.version)
    }
}

impl Payload for Receipt {
    const DOMAIN: &'static str = "receipt";
}
