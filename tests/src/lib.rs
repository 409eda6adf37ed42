//! What the whole-system tests and benchmarks share: processes of the built `weft`, a raw HTTP client, attackers.
//!
//! Everything here treats `weft` as a user or an attacker would: by its command line, its local API and its wire. Nothing
//! sleeps and then asserts: [`wait::until`] looks until a condition holds, with a deadline far beyond what is usual, because
//! the machine may be busy.

#![allow(
    clippy::unwrap_used,
    reason = "this crate is test code: a failure must stop the test where it happens"
)]

pub mod attacker;
pub mod background;
pub mod cgroup;
pub mod collector;
pub mod command;
pub mod faults;
pub mod http;
pub mod mesh;
pub mod node;
pub mod pressure;
pub mod soak;
pub mod terminal;
pub mod wait;

pub use background::Background;
pub use command::{Outcome, weft};
pub use mesh::Mesh;
pub use node::Node;
pub use terminal::Terminal;
pub use wait::{until, until_within};
