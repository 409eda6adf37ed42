//! JetStream's API over the streams of the mesh: as much of it as fits histories that are only appended to.
//!
//! Promises: what a client publishes on a subject that a stream takes in is appended to it once, in the order of the connection, and is
//! acknowledged when it is durable; what it expected (`Nats-Expected-Last-Sequence`, `…-Last-Subject-Sequence`, `Nats-Expected-Stream`) was
//! true then, and `Nats-Msg-Id` makes publishing twice once, whenever the second time is. Streams and consumers are those of `weft stream`
//! and `weft consumer`: of any member, with its word for each record. What JetStream has and streams do not is refused by its name.
//!
//! Does not promise: consumers that push, purging and deleting of messages, filters with wildcards, limits for each subject, mirrors and
//! sources. Streams with dots in their names are not seen here. The counter of what a consumer was handed is this door's own.
//!
//! A map: `config` translates definitions, `events` messages; `api` answers requests, `record` appends, `pull` hands out and settles; `lanes`
//! keeps order and makes many small things one large.

mod api;
mod config;
mod events;
mod lanes;
mod pull;
mod record;
mod refusal;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicU64},
};

use tokio::sync::Semaphore;
use weft_protocol::Subject;

use self::{lanes::Lanes, pull::Settling, record::Waiting};
use super::{door::Door, outbox::Outbox};
use crate::{
    patterns::event_sourcing::{EventSourcingHandle, Taker},
    trust::Trust,
};

pub(super) use self::record::Message;

/// What begins a request.
const API: &str = "$JS.API.";
/// What begins the settling of a record.
const ACK: &str = "$JS.ACK.";
/// Requests for records that wait at once, of all clients and of one consumer, as nats-server has it.
const PULLS_MAX: usize = 4096;
const PULLS_OF_ONE_MAX: usize = 512;
/// What waits to be appended or settled, in units of 1 KiB: of one stream, and of all.
const LANE_MAX: usize = 8 << 10;
const LANES_MAX: usize = 64 << 10;
/// Consumers of which it is counted what they were handed.
const COUNTED_MAX: usize = 10_000;

/// A consumer: its stream and its name.
type Which = (Subject, String);

/// See the module.
pub(super) struct JetStream {
    pub(super) streams: EventSourcingHandle,
    takers: RwLock<Arc<Takers>>,
    recording: Lanes<Subject, Waiting>,
    settling: Lanes<Which, Settling>,
    pulls: Arc<Semaphore>,
    /// Requests to the API, and those of them that were refused.
    asked: AtomicU64,
    refused: AtomicU64,
    /// Of each consumer, how many requests wait and how many records were handed out here.
    counted: Mutex<HashMap<Which, Counted>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counted {
    pulls: usize,
    handed: u64,
    /// When the last one was, Unix milliseconds.
    last_ms: Option<u64>,
}

/// Which streams take in which messages, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Takers {
    version: Option<(u64, u64)>,
    list: Vec<(Subject, Taker)>,
}

impl Takers {
    /// The stream that takes in messages on this subject. Whoever keeps it gets them, and must be one who may subscribe to them.
    pub(super) fn find(&self, trust: &Trust, subject: &Subject) -> Option<&Subject> {
        let takes = |taker: &Taker| taker.subjects.iter().any(|pattern| pattern.matches(subject));
        let found = self
            .list
            .iter()
            .find(|(_, taker)| takes(taker) && taker.may_hear(trust, subject));
        found.map(|(stream, _)| stream)
    }
}

/// A request to the API, or the settling of a record.
pub(super) struct Request {
    pub(super) subject: String,
    pub(super) reply: Option<String>,
    pub(super) payload: Vec<u8>,
    /// Who asks.
    pub(super) client: Arc<Outbox>,
}

/// Whether a message on this subject is for the API.
pub(super) fn is_api(subject: &[u8]) -> bool {
    subject.starts_with(API.as_bytes()) || subject.starts_with(ACK.as_bytes())
}

impl JetStream {
    pub(super) fn new(streams: EventSourcingHandle) -> Self {
        JetStream {
            streams,
            takers: RwLock::default(),
            recording: Lanes::new(LANE_MAX, LANES_MAX),
            settling: Lanes::new(LANE_MAX, LANES_MAX),
            pulls: Arc::new(Semaphore::new(PULLS_MAX)),
            asked: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            counted: Mutex::default(),
        }
    }

    /// Which stream takes in which messages, as of now.
    pub(super) fn takers(&self) -> Arc<Takers> {
        let version = Some(self.streams.takers_version());
        {
            let known = self.takers.read().unwrap_or_else(PoisonError::into_inner);
            if known.version == version {
                return Arc::clone(&known);
            }
        }
        let fresh = Arc::new(Takers {
            version,
            list: self.streams.takers().into_iter().collect(),
        });
        *self.takers.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
        fresh
    }

    /// Appends a message to the stream that takes it in; it is acknowledged later. Waits while there is no room.
    pub(super) async fn record(&self, door: &Arc<Door>, stream: Subject, message: Message) {
        let units = message.units();
        let waiting = Waiting::new(message);
        if self.recording.put(&stream, waiting, units).await {
            record::begin(door, stream);
        }
    }

    /// Does what is asked, or has it done. Waits while there is no room.
    pub(super) async fn take(&self, door: &Arc<Door>, request: Request) {
        if let Some(rest) = request.subject.strip_prefix(ACK) {
            let Some((which, handed)) = pull::parse_ack(rest) else {
                tracing::debug!(subject = request.subject, "this settles no record");
                return;
            };
            let settling = Settling::new(handed, &request.payload, request.reply, request.client);
            if self.settling.put(&which, settling, 1).await {
                pull::begin(door, which);
            }
            return;
        }
        let (Some(reply), Some(_)) = (request.reply.clone(), request.subject.strip_prefix(API)) else {
            return;
        };
        if request.subject.starts_with(pull::NEXT) {
            pull::spawn(door, request, reply);
            return;
        }
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&door.questions).acquire_owned().await else {
            return;
        };
        let door = Arc::clone(door);
        door.tasks.clone().spawn("nats-jetstream", async move {
            let _permit = permit;
            api::answer(&door, &request, &reply).await;
        });
    }

    fn counted<T>(&self, which: &Which, change: impl FnOnce(&mut Counted) -> T) -> T {
        let mut all = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= COUNTED_MAX && !all.contains_key(which) {
            all.retain(|_, counted| counted.pulls > 0);
        }
        change(all.entry(which.clone()).or_default())
    }

    fn forget(&self, which: &Which) {
        self.counted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(which);
    }
}
