//! What a stream or a request begins with, and the frames that carry requests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::wire;
use weft_protocol::{
    Hello, HelloReply, TraceParent,
    codec::frame,
    direct::{DirectReply, DirectRequest, LaneFrame},
};

fuzz_target!(|bytes: &[u8]| {
    if let Some(hello) = wire::<Hello>(bytes) {
        look_at(&hello);
    }
    wire::<HelloReply>(bytes);
    if let Some(request) = wire::<DirectRequest>(bytes) {
        look_at(&request.hello);
    }
    wire::<DirectReply>(bytes);
    if let Some(LaneFrame { id, body }) = wire(bytes) {
        let mut appended = Vec::new();
        LaneFrame::append(id, &body, &mut appended);
        let (length, prefix) = frame::decode_prefix(&appended, usize::MAX)
            .expect("a length")
            .expect("a whole one");
        assert_eq!(appended.len(), prefix + length);
    }
    if let Ok(Some((length, prefix))) = frame::decode_prefix(bytes, 1 << 20) {
        assert!(length <= 1 << 20 && prefix <= frame::PREFIX_BYTES_MAX);
    }
});

fn look_at(hello: &Hello) {
    hello.subject().expect("it was checked");
    let _ = hello.capability_tokens();
    if let Some(parent) = hello.trace_parent() {
        assert_eq!(parent.to_string().parse::<TraceParent>().ok(), Some(parent));
    }
}
