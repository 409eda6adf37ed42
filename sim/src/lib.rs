//! `weft-sim`: the unmodified node, by the thousand, in virtual time, repeatable from a seed; and the same scenario with
//! processes of the shipped program, on loopback or in network namespaces.
//!
//! One scenario file ([`scenario`]) is run in one of three ways ([`engine`], [`processes`], [`hosts`]) and gives one
//! [`report`]. What the three share is in [`run`].

pub mod attack;
pub mod chaos;
pub mod check;
pub mod cli;
mod closed;
pub mod disk;
pub mod engine;
pub mod export;
pub mod fleet;
mod gossip_metrics;
pub mod hosts;
pub mod huge_pages;
pub mod network;
pub mod oracle;
pub mod platform;
pub mod processes;
pub mod random;
pub mod report;
pub mod run;
pub mod scenario;
pub mod sharing;
pub mod shrink;
pub mod topology;
pub mod trace;
pub mod virtual_os;
pub mod workload;
