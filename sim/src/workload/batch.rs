//! Records put into queues, as of applications that want each of them served in the end; a service that takes batches, but no poison; and
//! readers of a stream into which they go.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use weft_node::{
    error::{ErrorKind, Kind as _},
    patterns::{
        batching::{BatchError, BatchingHandle, Record},
        event_sourcing::{EventSourcingHandle, Read as Page, Recorded},
        request_response::ServiceOptions,
    },
};
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{From, ReadRequest},
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
    let (Some(queues), Some(options)) = (running.queues.clone(), batch.queue()) else {
        return;
    };
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
        salt: None,
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

/// How long a reader waits before it asks again for a stream that broke off, or is not there yet.
const AGAIN: Duration = Duration::from_millis(500);

/// Reads the stream of a workload on a node for as long as its process lives, from its beginning.
pub fn follow(ledger: &Arc<Ledger>, host: HostId, running: &Running, stream: Subject) {
    let Some(streams) = running.streams.clone() else { return };
    let (ledger, boot) = (Arc::clone(ledger), running.boot);
    running.application.spawn("follower", async move {
        let mut next = 1;
        loop {
            let _ = pages(&streams, &stream, next, true, |recorded| {
                next = recorded.position + 1;
                let at_ns = ledger.now_ns();
                let Some((workload, item, is_right)) = item_of(&ledger, recorded) else {
                    return;
                };
                ledger
                    .network
                    .note(&[at_ns, u64::from(host), 0xBA7E << 32 | item as u64], &[]);
                let arrival = Arrival {
                    node: host,
                    boot,
                    at_ns,
                    from: None,
                };
                ledger.oracle().handed_over(workload, item, arrival, is_right);
            })
            .await;
            tokio::time::sleep(AGAIN).await;
        }
    });
}

/// Reads the whole stream of a workload in the end: each record is in it once, and what somebody has read of it still is.
pub async fn look_through(ledger: &Ledger, host: HostId, running: &Running, workload: usize, stream: &Subject) {
    let Some(streams) = &running.streams else { return };
    let (mut found, mut wrong) = (BTreeSet::new(), Vec::new());
    let whole = pages(streams, stream, 1, false, |recorded| {
        let position = recorded.position;
        match item_of(ledger, recorded) {
            Some((of, item, true)) if of == workload => {
                if !found.insert(item) {
                    wrong.push(format!(
                        "the record {item} is in the stream {stream} twice, again at {position}"
                    ));
                }
            }
            _ => wrong.push(format!(
                "what is at {position} of the stream {stream} is no record of its queues"
            )),
        }
    });
    let is_whole = whole.await.is_some();
    let mut oracle = ledger.oracle();
    if !is_whole {
        wrong.push(format!(
            "the stream {stream} could not be read at node {host} in the end"
        ));
    }
    let read = oracle.logs().get(workload).map(|log| log.items.iter().enumerate());
    let gone = read
        .into_iter()
        .flatten()
        .filter(|(number, item)| !item.arrivals.is_empty() && !found.contains(number));
    let gone = gone.map(|(number, _)| format!("the record {number} was in the stream {stream}, and is not any more"));
    let gone: Vec<String> = gone.filter(|_| is_whole).collect();
    wrong.into_iter().chain(gone).for_each(|what| oracle.broken(what));
}

/// Reads a stream from a position on; `None`: it broke off.
async fn pages(
    streams: &EventSourcingHandle,
    stream: &Subject,
    from: u64,
    follow: bool,
    mut each: impl FnMut(&Recorded),
) -> Option<()> {
    let request = ReadRequest {
        follow,
        ..ReadRequest::from(From::Position(from))
    };
    let mut reading = streams.read(stream, request).await.ok()?;
    while let Some(page) = reading.next().await.ok()? {
        if let Page::Records(records) = page {
            records.iter().for_each(&mut each);
        }
    }
    Some(())
}

/// Which record an event is, and whether it has its bytes.
fn item_of(ledger: &Ledger, recorded: &Recorded) -> Option<(usize, usize, bool)> {
    let text = String::from_utf8_lossy(&recorded.record.event.data);
    let (workload, item) = text.split_once(' ').and_then(|(key, _)| parse_key(key))?;
    Some((workload, item, *text == line(ledger, workload, item)))
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
