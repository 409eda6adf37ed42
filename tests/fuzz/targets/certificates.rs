//! Certificates, chains of them, revocations: nothing verifies that nobody signed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::wire;
use weft_protocol::{
    Certificate, Chain, MeshId, PublicKey, Revocation, RevocationNotice, RevocationSet, SecretKey, Signed,
    admission::{AdmissionReply, AdmissionRequest},
};

fuzz_target!(|bytes: &[u8]| {
    wire::<Certificate>(bytes);
    wire::<Revocation>(bytes);
    if let Some(signed) = wire::<Signed<Certificate>>(bytes) {
        let _ = (signed.open(), signed.peek(), signed.id());
    }
    if let Some(chain) = wire::<Chain>(bytes) {
        must_not_verify(&chain);
    }
    if let Some(notice) = wire::<RevocationNotice>(bytes) {
        let root = stranger();
        assert!(notice.verify(&root, &MeshId::from_root(&root), &|_| false).is_err());
        let mut set = RevocationSet::new(root);
        assert!(set.insert(notice).is_err() && set.is_empty());
    }
    if let Some(AdmissionRequest::Prove { chain, .. }) = wire(bytes) {
        must_not_verify(&chain);
    }
    wire::<AdmissionReply>(bytes);
});

/// A root that has signed nothing.
fn stranger() -> PublicKey {
    SecretKey::from_bytes(&[9; 32]).public()
}

fn must_not_verify(chain: &Chain) {
    let root = stranger();
    assert!(
        chain
            .verify(&root, &MeshId::from_root(&root), 0, u64::MAX, &|_| false)
            .is_err()
    );
    let _ = (chain.root(), chain.peek_leaf());
}
