//! What applications do: publish, subscribe, call, serve, append, put into queues. Each in the process of its node, as far as a crash is concerned.
//!
//! Promises: what is sent is told to the [`Oracle`] before it is sent, and every answer and arrival is told with its time;
//! bodies follow from the seed, so that an arrival can be compared with what was sent without keeping it.

mod append;
mod batch;
mod call;
mod publish;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use append::{Look, append, look, make, read_all};
pub use batch::{define, follow, look_into, look_through, put, serve_batches};
pub use call::{call, serve};
pub use publish::{last_values, publish, subscribe};
use weft_protocol::PeerId;

use crate::{
    network::{HostId, Network},
    oracle::Oracle,
    scenario::Workload,
    virtual_os::split_mix,
};

/// The name of the header and the extension that say which item of which workload it is.
const KEY: &str = "weftsim";
/// Dice for poison, apart from those for bodies.
const POISON: u64 = 0x0DEA_D000 << 16;

/// What all workloads share.
pub struct Ledger {
    oracle: Mutex<Oracle>,
    network: Arc<Network>,
    hosts: HashMap<PeerId, HostId>,
    seed: u64,
    /// Bytes of a body, by workload.
    sizes: Vec<usize>,
    /// Of how many of its records no service takes one, by workload: as a share.
    poison: Vec<f64>,
}

impl Ledger {
    /// A ledger for the hosts with these ids, in order.
    pub fn new(
        oracle: Oracle,
        network: Arc<Network>,
        peers: &[PeerId],
        seed: u64,
        workloads: &[Workload],
    ) -> Arc<Ledger> {
        let hosts = peers
            .iter()
            .enumerate()
            .map(|(host, peer)| (*peer, host as HostId))
            .collect();
        Arc::new(Ledger {
            oracle: Mutex::new(oracle),
            network,
            hosts,
            seed,
            sizes: workloads.iter().map(|workload| workload.size).collect(),
            poison: workloads.iter().map(Workload::poison).collect(),
        })
    }

    /// The oracle. Not to be held across an await.
    pub fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host with this id.
    pub fn host(&self, peer: &PeerId) -> Option<HostId> {
        self.hosts.get(peer).copied()
    }

    /// Virtual nanoseconds from the start.
    pub fn now_ns(&self) -> u64 {
        self.network.now_ns()
    }

    /// Whether no service takes this record.
    pub fn is_poison(&self, workload: usize, item: usize) -> bool {
        let mut dice = self.seed ^ (workload as u64) << 48 ^ item as u64 ^ POISON;
        let share = split_mix(&mut dice) as f64 / u64::MAX as f64;
        self.poison.get(workload).is_some_and(|poison| share < *poison)
    }

    /// The body of an item.
    fn body(&self, workload: usize, item: usize) -> Vec<u8> {
        let mut dice = self.seed ^ (workload as u64) << 48 ^ item as u64;
        split_mix(&mut dice);
        let mut body = vec![0; self.sizes.get(workload).copied().unwrap_or(0)];
        for chunk in body.chunks_mut(8) {
            chunk.copy_from_slice(&split_mix(&mut dice).to_le_bytes()[..chunk.len()]);
        }
        body
    }
}

/// `workload.item`, for a header.
fn key(workload: usize, item: usize) -> (String, String) {
    (KEY.to_owned(), format!("{workload}.{item}"))
}

/// Reads [`key`].
fn parse_key(value: &str) -> Option<(usize, usize)> {
    let (workload, item) = value.split_once('.')?;
    Some((workload.parse().ok()?, item.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_can_be_read_back() {
        assert_eq!(parse_key(&key(3, 14).1), Some((3, 14)));
        for wrong in ["", "3", "3.", ".3", "3.x", "3.4.5"] {
            assert_eq!(parse_key(wrong), None, "{wrong}");
        }
    }
}
