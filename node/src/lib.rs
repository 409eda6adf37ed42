//! The Weft node.
//!
//! One task owns the libp2p swarm ([`mesh`]); patterns sit side by side on its handle ([`patterns`]); applications on
//! the same machine come in through [`local`], NATS clients through [`nats`]. The only seam to the outside is [`platform::Platform`].

#[expect(
    clippy::disallowed_methods,
    reason = "a command is a process of its own, without a node's tasks"
)]
pub mod cli;
pub mod config;
mod consensus;
pub mod context;
pub mod data_dir;
pub mod error;
pub mod launch;
pub mod local;
pub mod mesh;
pub mod nats;
pub mod node;
pub mod pattern;
pub mod patterns;
pub mod platform;
pub mod store;
pub mod tasks;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod trust;

pub use context::Context;
pub use error::{ErrorKind, NodeError};
pub use node::{Node, NodeBuilder, NodeOptions};
pub use pattern::Pattern;
pub use platform::Platform;
