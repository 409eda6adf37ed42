//! Streams of events: what members ask and answer, what is stored, checkpoints, proofs and evidence of forks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::wire;
use weft_protocol::{
    merkle::{check_consistency, leaf_hash, root_of_inclusion},
    patterns::event_sourcing::{
        KeptStreams, Query, ReadReply, ReadRequest, Record, StreamReply, StreamRequest,
        checkpoint::Checkpoint,
        fork::Fork,
        proof::{Enclosed, Proof},
    },
};

fuzz_target!(|bytes: &[u8]| {
    wire::<StreamRequest>(bytes);
    if let Some(StreamReply::Proof(proof)) = wire::<StreamReply>(bytes) {
        let _ = proof.verify();
        // What is no proof may be no text of one either; what is one is the same.
        assert!(Proof::from_text(&proof.to_text()).is_ok_and(|read| read == proof) || proof.verify().is_err());
    }
    wire::<ReadReply>(bytes);
    wire::<KeptStreams>(bytes);
    wire::<Enclosed>(bytes);
    if let Some(read) = wire::<ReadRequest>(bytes)
        && let Some(record) = wire::<Record>(bytes)
    {
        let _ = (read.query.matches(&record.event), read.query.is_all());
    }
    if let Some(record) = wire::<Record>(bytes) {
        assert!(Query::default().matches(&record.event));
        let _ = record.event.key();
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Checkpoint::open(text);
        if let Ok(proof) = Proof::from_text(text) {
            let _ = proof.verify();
        }
        if let Ok(fork) = Fork::from_text(text) {
            // What holds is written as it was read.
            assert!(Fork::from_text(&fork.to_text()).is_ok_and(|read| read == fork) || fork.verify().is_err());
        }
    }
    // Any sizes and hashes.
    let mut numbers = bytes.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number));
    if let (Some(old), Some(new)) = (numbers.next(), numbers.next()) {
        let hashes = bytes.get(16..).unwrap_or_default().as_chunks::<32>().0;
        let _ = root_of_inclusion(&leaf_hash(bytes), old, new, hashes);
        let _ = check_consistency((old, &leaf_hash(b"a")), (new, &leaf_hash(b"b")), hashes);
    }
});
