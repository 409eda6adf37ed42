//! Receipts on request: made by the node that served, verified by the one that called.

use sha2::{Digest as _, Sha256};
use weft_protocol::{
    PeerId, PublicKey, Signed, Wire as _,
    patterns::request_response::{CallRequest, CallResponse, Receipt, ServiceInfo},
};

use crate::mesh::Mesh;

/// A receipt to be: what is known of the call before it is served.
pub(super) struct Pending {
    caller: PublicKey,
    nonce: [u8; 16],
    service: String,
    endpoint: String,
    request_sha256: [u8; 32],
    received_at_ms: u64,
}

impl Pending {
    /// For a call that asks for one.
    pub(super) fn of(mesh: &Mesh, caller: PeerId, request: &CallRequest) -> Option<Self> {
        Some(Pending {
            nonce: request.receipt_nonce?,
            caller: PublicKey::from_peer_id(&caller)?,
            service: request.service.clone(),
            endpoint: request.endpoint.clone(),
            request_sha256: Sha256::digest(&request.body).into(),
            received_at_ms: mesh.trust().now_ms(),
        })
    }

    /// Signs it into the response.
    pub(super) fn sign(self, mesh: &Mesh, by: &ServiceInfo, response: &mut CallResponse) {
        let (hash, failed) = match &*response {
            CallResponse::Answer { body, .. } => (Sha256::digest(body), None),
            CallResponse::Failed { code, reason, .. } => (Sha256::digest(reason), Some(*code)),
            CallResponse::TurnedAway { .. } => return,
        };
        let trust = mesh.trust();
        let Some(info) = trust.mesh() else { return };
        let signed = trust.sign(&Receipt {
            mesh: info.id,
            chain: trust.chain(),
            caller: self.caller,
            service: self.service,
            endpoint: self.endpoint,
            instance: by.id.clone(),
            version: by.version.clone(),
            nonce: self.nonce,
            request_sha256: self.request_sha256,
            answer_sha256: hash.into(),
            failed,
            received_at_ms: self.received_at_ms,
            answered_at_ms: trust.now_ms(),
        });
        if let CallResponse::Answer { receipt, .. } | CallResponse::Failed { receipt, .. } = response {
            *receipt = signed.ok().map(|signed| signed.to_bytes());
        }
    }
}

/// Whether a receipt is of this node, for this call and this answer.
pub(super) fn is_right(bytes: &[u8], node: &PeerId, request: &CallRequest, answer: &[u8]) -> bool {
    let Ok(signed) = Signed::<Receipt>::from_bytes(bytes) else {
        return false;
    };
    let Ok((receipt, _)) = Receipt::open(&signed) else {
        return false;
    };
    signed.signer().peer_id() == *node
        && Some(receipt.nonce) == request.receipt_nonce
        && (receipt.service.as_str(), receipt.endpoint.as_str()) == (&*request.service, &*request.endpoint)
        && receipt.request_sha256 == <[u8; 32]>::from(Sha256::digest(&request.body))
        && receipt.answer_sha256 == <[u8; 32]>::from(Sha256::digest(answer))
}
