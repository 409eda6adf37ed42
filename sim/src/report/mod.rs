//! What a run found: the data, and how it is shown, to machines, in a terminal, and as a page.

mod data;
mod html;
mod table;
#[cfg(test)]
mod tests;
mod units;

pub use data::*;
pub use html::page;
pub use table::{compared, summary};
pub use units::{bytes, count, millis, seconds};
