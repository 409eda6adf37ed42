//! What a run found: the data, and how it is shown.

mod data;

pub use data::*;
