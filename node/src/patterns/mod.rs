//! The patterns of data and communication flow: rooms of one shape.
//!
//! Removing a pattern's line here, and where `crate::node` lists it, removes it completely.

pub mod batching;
pub mod blobs;
pub mod body;
pub(crate) mod cloud_event;
pub mod event_sourcing;
pub mod presence;
pub mod projections;
pub mod pub_sub;
pub mod request_response;
pub mod schedules;
