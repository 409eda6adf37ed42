//! What applications do: subscribe and publish, call. Everything is told to the oracle.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::api::{self, Api, key, read_event};
use crate::{
    oracle::{Arrival, Oracle, Outcome},
    random::Random,
    scenario::{Workload, WorkloadKind},
};

/// A subscription that broke is made anew after this.
const RESUBSCRIBE_AFTER: Duration = Duration::from_millis(200);

/// What all applications of a run share.
pub(super) struct Ledger {
    oracle: Mutex<Oracle>,
    began: Instant,
    seed: u64,
    workloads: Vec<Workload>,
    /// Numbers of nodes by their ids.
    nodes: Mutex<HashMap<String, u32>>,
}

impl Ledger {
    pub(super) fn new(oracle: Oracle, seed: u64, workloads: Vec<Workload>, nodes: HashMap<String, u32>) -> Arc<Self> {
        Arc::new(Self {
            oracle: Mutex::new(oracle),
            began: Instant::now(),
            seed,
            workloads,
            nodes: Mutex::new(nodes),
        })
    }

    /// The oracle. Not to be held across an await.
    pub(super) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has said who it is.
    pub(super) fn know(&self, peer_id: &str, node: usize) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.insert(peer_id.to_owned(), node as u32);
    }

    /// The number of the node with this id.
    pub(super) fn node(&self, peer_id: &str) -> Option<u32> {
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(peer_id)
            .copied()
    }

    /// Time since the run began.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The same in nanoseconds.
    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The body of an item: text that follows from the seed, so that an arrival can be compared without keeping it.
    fn body(&self, workload: usize, item: usize) -> String {
        let mut random = Random::new(self.seed ^ (workload as u64) << 48 ^ item as u64, "body");
        let size = self.workloads[workload].size;
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
        let mut body = String::with_capacity(size + 10);
        while body.len() < size {
            let bits = random.bits();
            body.extend((0..10).map(|at| LETTERS[(bits >> (6 * at)) as usize % 64] as char));
        }
        body.truncate(size);
        body
    }
}

/// Takes in the messages of one workload at one start of one node, until it is aborted.
pub(super) async fn subscriber(ledger: Arc<Ledger>, api: Api, workload: usize, node: u32, boot: u32) {
    let WorkloadKind::Publish { subject, .. } = &ledger.workloads[workload].kind else {
        return;
    };
    loop {
        if let Some(mut subscription) = api.subscribe(subject).await {
            while let Some(event) = subscription.next().await {
                take(&ledger, &event, workload, node, boot);
            }
        }
        tokio::time::sleep(RESUBSCRIBE_AFTER).await;
    }
}

fn take(ledger: &Ledger, event: &serde_json::Value, subscribed: usize, node: u32, boot: u32) {
    let at_ns = ledger.now_ns();
    let (key, body) = read_event(event);
    let Some((workload, item)) = key.filter(|(workload, _)| *workload < ledger.workloads.len()) else {
        ledger.oracle().impossible(subscribed);
        return;
    };
    if workload != subscribed {
        // Two workloads share a subject: the other subscription takes it in.
        return;
    }
    let is_whole = body == ledger.body(workload, item);
    let arrival = Arrival {
        node,
        boot,
        at_ns,
        from: api::via(event).and_then(|peer| ledger.node(peer)),
    };
    ledger.oracle().arrived(workload, item, arrival, is_whole);
}

/// Sends the next message or call of a workload, and waits for what the node says.
pub(super) async fn send(ledger: Arc<Ledger>, api: Api, workload: usize, node: u32, boot: u32) {
    let item = ledger.oracle().sending(workload, node, boot, ledger.now_ns());
    let body = ledger.body(workload, item);
    match &ledger.workloads[workload].kind {
        WorkloadKind::Publish { subject, .. } => {
            let outcome = api.publish(subject, key(workload, item), body).await;
            ledger.oracle().outcome(workload, item, outcome);
        }
        // Refused before the run begins.
        WorkloadKind::Append { .. } | WorkloadKind::Batch(_) => {
            ledger.oracle().outcome(workload, item, Outcome::Refused)
        }
        WorkloadKind::Call { service, timeout, .. } => {
            let called = api.call(service, body, *timeout).await;
            let at_ns = ledger.now_ns();
            match called.answer {
                Some((server, is_whole)) => {
                    let server = ledger.node(&server);
                    let mut oracle = ledger.oracle();
                    match server {
                        // The server is a process of the program: that it was asked is known from its answer.
                        Some(server) if is_whole => {
                            let arrival = Arrival {
                                node: server,
                                boot: 0,
                                at_ns,
                                from: None,
                            };
                            oracle.arrived(workload, item, arrival, true);
                            oracle.answered(workload, item, server, at_ns);
                        }
                        // An answer from nobody, or another one than the question's, must not be.
                        _ => {
                            oracle.impossible(workload);
                            oracle.outcome(workload, item, Outcome::Unknown);
                        }
                    }
                }
                None => ledger.oracle().outcome(workload, item, called.outcome),
            }
        }
    }
}
