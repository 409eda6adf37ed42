//! Records put into queues, as of applications that want each of them served in the end; and a service that takes batches, but no poison.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use weft_node::{
    error::{ErrorKind, Kind as _},
    patterns::{
        batching::{BatchError, BatchingHandle, Record},
        request_response::ServiceOptions,
    },
};

use super::{Ledger, parse_key};
use crate::{
    fleet::Running,
    network::HostId,
    oracle::{self, Arrival, Outcome, Read},
    scenario::Batch,
};

/// What a service says of a batch that it does not take, besides why.
const UNPROCESSABLE: u16 = 422;

/// Defines the queue of a workload at a node that starts, if it is not on its disk already.
pub fn define(running: &Running, queue: String, batch: &Batch) {
    let Some(queues) = running.queues.clone() else { return };
    let options = batch.queue();
    running.application.spawn("queue", async move {
        if let Err(BatchError::NoQueue(_)) = queues.info(&queue) {
            // On a full disk there is none, and what is put is refused.
            let _ = queues.define(&queue, options).await;
        }
    });
}

/// Puts the next record of a workload.
pub async fn put(ledger: Arc<Ledger>, host: HostId, running: Running, workload: usize, queue: String, batch: Batch) {
    let Some(queues) = running.queues else { return };
    let item = ledger.oracle().sending(workload, host, running.boot, ledger.now_ns());
    // In turn.
    let key = item.checked_rem(batch.keys);
    let putting = oracle::Record {
        key,
        is_poison: ledger.is_poison(workload, item),
        kept_ns: None,
    };
    ledger.oracle().putting(workload, item, putting);
    let record = Record {
        key: key.map_or(String::new(), |key| key.to_string()),
        content_type: None,
        time_ms: 0,
        data: line(&ledger, workload, item).into_bytes(),
    };
    let put = queues.put(&queue, vec![record]).await;
    let at_ns = ledger.now_ns();
    ledger
        .network
        .note(&[at_ns, u64::from(host), 0xBA7C << 32 | item as u64], &[]);
    match put {
        Ok(_) => ledger.oracle().kept(workload, item, at_ns),
        Err(error) => {
            let outcome = match error.kind() {
                ErrorKind::Busy | ErrorKind::NotFound | ErrorKind::Invalid => Outcome::Refused,
                // It may be on the disk all the same.
                _ => Outcome::Unknown,
            };
            ledger.oracle().outcome(workload, item, outcome);
        }
    }
}

/// Serves the service of a workload on a node for as long as its process lives: a batch is taken whole, or, when there is poison in it, not at all.
pub fn serve_batches(ledger: &Arc<Ledger>, host: HostId, running: &Running, service: String) {
    let Some(calls) = running.calls.clone() else { return };
    let (ledger, boot) = (Arc::clone(ledger), running.boot);
    running.application.spawn("service", async move {
        let Ok(mut serving) = calls.serve(ServiceOptions::new(service, "1.0.0")).await else {
            return;
        };
        // Calls that wait for a service that hangs, each with its own end.
        let mut unanswered = Vec::new();
        while let Some(call) = serving.next().await {
            if ledger.oracle().is_hanging(host) {
                unanswered.push(call);
                continue;
            }
            let text = String::from_utf8_lossy(&call.body).into_owned();
            let named = |line: &str| line.split_once(' ').and_then(|(key, _)| parse_key(key));
            let is_poison = |line: &str| named(line).is_some_and(|(workload, item)| ledger.is_poison(workload, item));
            if let Some(poison) = text.lines().find(|line| is_poison(line)) {
                let reason = format!("cannot take {}", poison.split(' ').next().unwrap_or_default());
                call.fail(UNPROCESSABLE, &reason);
                continue;
            }
            let (at_ns, from) = (ledger.now_ns(), ledger.host(&call.caller));
            for one in text.lines() {
                let Some((workload, item)) = named(one) else { continue };
                ledger
                    .network
                    .note(&[at_ns, u64::from(host), 0xBA7D << 32 | item as u64], &[]);
                let mut oracle = ledger.oracle();
                let is_right = oracle.is_from(workload, item, from) && *one == line(&ledger, workload, item);
                let arrival = Arrival {
                    node: host,
                    boot,
                    at_ns,
                    from,
                };
                oracle.handed_over(workload, item, arrival, is_right);
            }
            call.answer(Vec::new(), Vec::new());
        }
    });
}

/// What is left in a node's queue in the end: what the oracle weighs against what was put.
pub async fn look_into(ledger: &Ledger, host: HostId, running: &Running, workload: usize, queue: &str) {
    let Some(queues) = &running.queues else { return };
    // A queue that is not there any more holds nothing, and what it had acknowledged is missed.
    let holds = queues.info(queue).is_ok_and(|info| info.standing.records > 0);
    let read = Read {
        node: host,
        is_whole: !holds,
        items: dead(queues, workload, queue).await.unwrap_or_default(),
    };
    ledger.oracle().read(workload, read);
}

/// The dead records of a queue, by their numbers in it.
async fn dead(queues: &BatchingHandle, workload: usize, queue: &str) -> Option<BTreeMap<u64, Option<usize>>> {
    let mut items = BTreeMap::new();
    loop {
        let after = items.last_key_value().map(|(seq, _)| *seq);
        let page = queues.dead(queue, after, usize::MAX).await.ok()?;
        if page.is_empty() {
            return Some(items);
        }
        for (seq, dead) in page {
            let text = String::from_utf8_lossy(&dead.record.data);
            let named = text.split_once(' ').and_then(|(key, _)| parse_key(key));
            items.insert(seq, named.filter(|(of, _)| *of == workload).map(|(_, item)| item));
        }
    }
}

/// A record: which it is, and its body in digits, for records of lines have no bytes at will.
fn line(ledger: &Ledger, workload: usize, item: usize) -> String {
    let mut line = format!("{workload}.{item} ");
    for byte in ledger.body(workload, item) {
        // Text cannot fail.
        let _ = write!(line, "{byte:02x}");
    }
    line
}
