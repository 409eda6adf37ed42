//! What travels between callers and services, in streams, between NATS doors, and with large bodies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::wire;
use weft_protocol::patterns::{
    blobs::BlobMessage,
    nats::{NatsInterests, NatsItems, NatsReached},
    request_response::{CallMessage, CallRequest, CallResponse, QuestionReply, Receipt, ServiceList, StreamFrame},
};

fuzz_target!(|bytes: &[u8]| {
    if let Some(CallMessage::Call(call)) = wire(bytes) {
        assert_eq!(
            CallMessage::call_bytes(&call),
            weft_protocol::Wire::to_bytes(&CallMessage::Call(call))
        );
    }
    wire::<CallRequest>(bytes);
    wire::<CallResponse>(bytes);
    wire::<StreamFrame>(bytes);
    wire::<QuestionReply>(bytes);
    wire::<ServiceList>(bytes);
    wire::<Receipt>(bytes);
    wire::<BlobMessage>(bytes);
    wire::<NatsItems>(bytes);
    wire::<NatsInterests>(bytes);
    wire::<NatsReached>(bytes);
});
