//! What travels in pub/sub: frames of messages, their repair, what is asked of members.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::wire;
use weft_protocol::{
    Message,
    patterns::{
        presence::Presences,
        pub_sub::{
            Frame,
            direct::{DirectItem, DirectTaken},
            hop::Hop,
            interest::Interest,
            repair::{Digest, RepairReply, RepairRequest},
        },
    },
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = Frame::read(bytes) {
        let written = frame.to_bytes();
        let again = Frame::read(&written).unwrap_or_else(|error| panic!("{frame:?} is not read again: {error}"));
        assert_eq!(frame, again);
    }
    wire::<Message>(bytes);
    wire::<Interest>(bytes);
    wire::<DirectItem>(bytes);
    wire::<DirectTaken>(bytes);
    wire::<Hop>(bytes);
    wire::<Digest>(bytes);
    wire::<RepairRequest>(bytes);
    wire::<RepairReply>(bytes);
    wire::<Presences>(bytes);
});
