//! What peers agree on within each pattern.

pub mod blobs;
pub mod event_sourcing;
pub mod nats;
pub mod presence;
pub mod pub_sub;
pub mod request_response;
