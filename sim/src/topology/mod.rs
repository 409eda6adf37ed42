//! Topologies: made, described, drawn.
//!
//! Promises: the same kind, parameters, number of nodes and seed make the same graph and the same picture, everywhere; every kind is
//! connected (but a file may not be). Not promised: that a mesh keeps to it; see `dial` in a scenario.

mod describe;
mod draw;
mod graph;
mod graphml;
mod layout;
mod make;
#[cfg(test)]
mod tests;

pub use describe::{Description, describe};
pub(crate) use draw::escape;
pub use draw::{Drawing, draw};
pub use graph::Graph;
pub use layout::{Place, layout};
pub(crate) use make::possible;
pub use make::{TopologyError, make};
