//! What nodes say of themselves, and what neighbours ask each other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::wire;
use weft_protocol::{
    MeshId, NodeRecord, SecretKey, Signed,
    control::{ControlReply, ControlRequest},
};

fuzz_target!(|bytes: &[u8]| {
    if let Some(record) = wire::<NodeRecord>(bytes) {
        let _ = (record.expires_at_ms(), record.announcement("request_response"));
    }
    if let Some(signed) = wire::<Signed<NodeRecord>>(bytes) {
        let root = SecretKey::from_bytes(&[9; 32]).public();
        assert!(NodeRecord::open(&signed, &root, &MeshId::from_root(&root), false, 0, &|_| false).is_err());
    }
    wire::<ControlRequest>(bytes);
    wire::<ControlReply>(bytes);
});
