//! The scenario file: read, checked whole before anything starts, and turned into plain data.

mod data;

pub use data::*;
