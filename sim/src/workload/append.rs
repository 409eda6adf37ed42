//! Appends to a stream, as of an application that wants to know where each event is; and readers that look for what was answered.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::mpsc;
use weft_node::{
    error::{ErrorKind, Kind as _},
    patterns::event_sourcing::{EventSourcingHandle, Read, Recorded, StreamOptions},
};
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{Append, Event, From, ReadRequest},
};

use super::{Ledger, parse_key};
use crate::{
    fleet::Running,
    network::HostId,
    oracle::{Outcome, Read as Seen},
};

/// Looks of one node that wait.
const LOOKS_MAX: usize = 4096;

/// Makes the stream of a workload, if it is not there.
pub async fn make(running: Running, stream: Subject, replicas: u8) {
    let Some(streams) = running.streams else { return };
    let options = StreamOptions {
        replicas: Some(replicas),
        ..StreamOptions::default()
    };
    // Members may not have met yet; who appends finds out what became of it.
    for _ in 0..30 {
        match streams.create(&stream, options.clone()).await {
            Err(error) if error.kind() == ErrorKind::Unreachable => {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            _ => return,
        }
    }
}

/// Appends the next event of a workload, and has somebody else look for it once it is answered.
pub async fn append(
    ledger: Arc<Ledger>,
    host: HostId,
    running: Running,
    workload: usize,
    stream: Subject,
    looker: Option<mpsc::Sender<Look>>,
) {
    let Some(streams) = running.streams else { return };
    let item = ledger.oracle().sending(workload, host, running.boot, ledger.now_ns());
    let event = Event {
        id: Some(format!("{workload}.{item}")),
        ..Event::new("sim", ledger.body(workload, item))
    };
    let append = Append {
        events: vec![event],
        ..Append::default()
    };
    let appended = streams.append(&stream, append).await;
    let at_ns = ledger.now_ns();
    let position = match appended {
        Ok(appended) => appended.last,
        Err(error) => {
            let outcome = match error.kind() {
                ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Closed => Outcome::Unknown,
                _ => Outcome::Refused,
            };
            ledger.oracle().outcome(workload, item, outcome);
            return;
        }
    };
    ledger
        .network
        .note(&[at_ns, u64::from(host), 0xA99E << 32 | item as u64, position], &[]);
    ledger.oracle().appended(workload, item, position, at_ns);
    // Who does not run any more looks for nothing.
    if let Some(looker) = looker {
        let _ = looker.try_send(Look {
            stream,
            workload,
            item,
            position,
            host,
            at_ns,
        });
    }
}

/// What somebody is to look for.
pub struct Look {
    stream: Subject,
    workload: usize,
    item: usize,
    position: u64,
    /// Where it was answered, and when.
    host: HostId,
    at_ns: u64,
}

/// Has a node look for what is answered elsewhere, for as long as its process lives.
pub fn look(ledger: &Arc<Ledger>, host: HostId, running: &Running) -> Option<mpsc::Sender<Look>> {
    let streams = running.streams.clone()?;
    let (looker, mut looks) = mpsc::channel::<Look>(LOOKS_MAX);
    let (ledger, application) = (Arc::clone(ledger), running.application.clone());
    running.application.spawn("looker", async move {
        while let Some(look) = looks.recv().await {
            let looking = look_for(Arc::clone(&ledger), host, streams.clone(), look);
            application.spawn("looking", looking);
        }
    });
    Some(looker)
}

/// Who reads after the answer finds it, wherever. Who is not answered cannot say.
async fn look_for(ledger: Arc<Ledger>, reads_at: HostId, streams: EventSourcingHandle, look: Look) {
    let Look {
        stream,
        workload,
        item,
        position,
        host,
        at_ns,
    } = look;
    let request = reading(From::Position(position), Some(1));
    let Ok(mut reading) = streams.read(&stream, request).await else {
        return;
    };
    while let Ok(read) = reading.next().await {
        match read {
            Some(Read::Records(records)) => {
                if records.first().and_then(item_of) != Some((workload, item)) {
                    let what = format!("the event {item} is not where it was said to be, at {position}");
                    ledger.oracle().broken(what);
                }
                return;
            }
            Some(Read::CaughtUp(_)) => {}
            None => {
                let what = format!(
                    "the event {item}, at {position}, was answered at node {host} after {:.3} s, and node {reads_at}, which looked then, did not find it",
                    at_ns as f64 / 1e9
                );
                return ledger.oracle().broken(what);
            }
        }
    }
}

/// Reads the whole stream of a workload at a node that runs: what the oracle compares in the end.
pub async fn read_all(ledger: &Ledger, host: HostId, running: &Running, workload: usize, stream: &Subject) {
    let Some(streams) = &running.streams else { return };
    let mut seen = BTreeMap::new();
    let whole = async {
        let mut reading = streams.read(stream, reading(From::Position(1), None)).await.ok()?;
        while let Some(read) = reading.next().await.ok()? {
            let Read::Records(records) = read else { continue };
            for one in &records {
                let item = item_of(one).filter(|(of, item)| {
                    let data = &one.record.event.data;
                    *of == workload && *data == ledger.body(workload, *item)
                });
                seen.insert(one.position, item.map(|(_, item)| item));
            }
        }
        Some(())
    };
    let is_whole = whole.await.is_some();
    ledger.oracle().read(
        workload,
        Seen {
            node: host,
            is_whole,
            items: seen,
        },
    );
}

fn reading(from: From, limit: Option<u64>) -> ReadRequest {
    ReadRequest {
        limit,
        ..ReadRequest::from(from)
    }
}

fn item_of(recorded: &Recorded) -> Option<(usize, usize)> {
    parse_key(recorded.record.event.id.as_deref()?)
}
