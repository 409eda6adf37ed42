//! The API of a running node: whatever is written to it, what is answered is HTTP, no fault of the node's own, and it goes on.
#![no_main]

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use libfuzzer_sys::fuzz_target;
use weft_fuzz::{ask_how_it_is, say_to_api};

/// What answers at all answers within it on an idle machine; who waits for something is left.
const SILENCE: Duration = Duration::from_millis(50);
/// So often the node is asked how it is.
const ASKED_EVERY: u32 = 64;

static COUNT: AtomicU32 = AtomicU32::new(0);

fuzz_target!(|bytes: &[u8]| {
    let answer = say_to_api(bytes, SILENCE);
    if !answer.is_empty() {
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(b"HTTP/1."), "{text}");
        assert!(answer.get(9..12) != Some(b"500"), "{text}");
    }
    if COUNT.fetch_add(1, Ordering::Relaxed).is_multiple_of(ASKED_EVERY) {
        ask_how_it_is();
    }
});
