//! Tickets, as bytes and as people paste them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::wire;
use weft_protocol::{MeshId, PublicKey, Ticket};

fuzz_target!(|bytes: &[u8]| {
    wire::<Ticket>(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(ticket) = Ticket::from_text(text) {
        assert_eq!(Ticket::from_text(&ticket.to_string()).ok().as_ref(), Some(&ticket));
        let _ = ticket.check_time(0);
    }
    if let Ok(mesh) = text.parse::<MeshId>() {
        assert_eq!(mesh.to_string().parse().ok(), Some(mesh));
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string().parse().ok(), Some(key));
    }
});
