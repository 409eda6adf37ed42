//! Capability tokens, as bytes and as text: none verifies under a root that did not sign it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::wire;
use weft_protocol::{Capability, CapabilityToken, MeshId, SecretKey};

fuzz_target!(|bytes: &[u8]| {
    wire::<Capability>(bytes);
    if let Some(token) = wire::<CapabilityToken>(bytes) {
        look_at(&token);
    }
    if let Some(token) = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| CapabilityToken::from_text(text).ok())
    {
        assert_eq!(
            CapabilityToken::from_text(&token.to_string()).ok().as_ref(),
            Some(&token)
        );
        look_at(&token);
    }
});

fn look_at(token: &CapabilityToken) {
    let root = SecretKey::from_bytes(&[9; 32]).public();
    assert!(token.verify(&root, &MeshId::from_root(&root), 0, &|_| false).is_err());
}
