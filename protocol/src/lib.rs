//! What Weft's peers and clients must agree on: identities, certificates, capabilities, messages.
//!
//! Promises: decoding is total (an error, never a panic), bounded in size before anything is allocated and in nesting; encoding is
//! deterministic, so equal values have equal bytes; what is signed is verified over the bytes received, never over a re-encoding.
//!
//! Not here: no I/O, no clock, no source of randomness. The time (`now_unix_ms`) and random bytes are passed in by the caller.
//!
//! How it fits together: [`codec`] is strict CBOR and its limits are in [`limits`]; [`signed`] puts a signature around a payload;
//! [`certificate`] says who belongs to a mesh, [`capability`] who may do what, [`revocation`] whose key no longer counts. The rest are
//! messages: [`hello`] opens every stream, [`admission`] and [`control`] keep the mesh together, [`patterns`] are what applications use.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admission;
pub mod capability;
pub mod certificate;
pub mod codec;
pub mod consensus;
pub mod control;
pub mod direct;
pub mod error;
pub mod hello;
pub mod ident;
pub mod limits;
pub mod merkle;
pub mod message;
pub mod name;
pub mod patterns;
pub mod record;
pub mod revocation;
pub mod signed;
pub mod subject;
pub mod text;
pub mod ticket;
pub mod trace;

pub use capability::{Audience, Capability, CapabilityRequest, CapabilityToken, Effective, Grant, Verb, Verbs};
pub use certificate::{Certificate, CertificateRequest, Chain, Membership};
pub use codec::Wire;
pub use error::{DecodeError, TrustError};
pub use hello::{HELLO_VERSION, Hello, HelloReply, Refusal};
pub use ident::{MeshId, PeerId, PublicKey, SecretKey};
pub use message::Message;
pub use multiaddr::Multiaddr;
pub use record::NodeRecord;
pub use revocation::{Revocation, RevocationNotice, RevocationSet};
pub use signed::{Payload, Signed};
pub use subject::{Pattern, Shards, Subject};
pub use ticket::{Redemption, Ticket, TicketKey, TicketSecret};
pub use trace::TraceParent;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod testing;
