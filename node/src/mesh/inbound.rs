//! The door-keeper: nothing reaches a pattern before its greeting was read and judged.
//!
//! For each inbound stream and unary request: read [`Hello`] (bounded in size and time), check membership and right, take
//! a permit (per peer and for the whole node), open a span that continues the caller's trace, hand over. A refusal says
//! why. When a pattern is slow, its queue fills and newcomers are told `Busy`; nothing is dropped without a word.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use libp2p::{PeerId, StreamProtocol};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SetOnce, mpsc},
    time::{Instant, timeout, timeout_at},
};
use tracing::Instrument as _;
use weft_protocol::{
    Hello, HelloReply, Refusal, Wire as _,
    direct::{DirectReply, DirectRequest},
};

use super::{
    frames,
    scales::{Scales, Weighed},
    streams::MeshStream,
};
use crate::{
    tasks::Tasks,
    telemetry::{metrics::MeshCounters, trace},
    trust::{Rule, Trust},
};

/// How long a greeting may take.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams waiting for a pattern to take them.
pub(crate) const DOOR_QUEUE_MAX: usize = 256;
/// How long a pattern's full queue is waited for before the answer is `Busy`.
const QUEUE_PATIENCE: Duration = Duration::from_secs(1);
/// Inbound streams of one peer at once.
pub(crate) const STREAMS_PER_PEER_MAX: usize = 512;
/// Memory one unread stream may hold: the muxer's initial receive window.
const STREAM_WINDOW_BYTES: usize = 256 << 10;
/// Unary requests of one peer being served.
pub(crate) const REQUESTS_PER_PEER_MAX: usize = 512;
/// Lanes of one peer at once: one for each of its connections, and some that are ending.
pub(crate) const LANES_PER_PEER_MAX: usize = 12;
/// A request without a deadline of its own gets this one.
const REQUEST_DEADLINE: Duration = Duration::from_secs(60);

/// The stream protocol of a pattern.
pub(crate) fn stream_protocol(pattern: &str) -> StreamProtocol {
    StreamProtocol::try_from_owned(format!("/weft/{pattern}/1")).expect("it starts with a slash")
}

/// A stream whose greeting was accepted.
pub struct InboundStream {
    /// The member at the other end, proven.
    pub peer: PeerId,
    /// What it wants.
    pub hello: Hello,
    /// The stream, after the greeting.
    pub stream: MeshStream,
    /// The span that continues the caller's trace.
    pub span: tracing::Span,
    _permits: Permits,
}

impl fmt::Debug for InboundStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboundStream")
            .field("peer", &self.peer)
            .field("hello", &self.hello)
            .finish_non_exhaustive()
    }
}

/// A unary request whose greeting was accepted.
#[derive(Debug)]
pub struct InboundRequest {
    /// The member that asks, proven.
    pub peer: PeerId,
    /// What it wants.
    pub hello: Hello,
    /// The pattern's own bytes.
    pub payload: Vec<u8>,
    /// When the asker stops waiting.
    pub deadline: Instant,
    /// The span that continues the caller's trace.
    pub span: tracing::Span,
}

/// How a pattern answers unary requests.
pub trait Answers: Send + Sync + 'static {
    /// The answer to one request, or why there is none.
    ///
    /// It is polled in the task that reads from the connection, together with other requests: it must not block, and what takes much
    /// of a processor belongs into a task of the pattern's. Dropped when the deadline has passed or the asker is gone.
    fn answer(&self, request: InboundRequest) -> impl Future<Output = DirectReply> + Send;
}

/// The same without its type.
trait DynAnswers: Send + Sync {
    fn answer(&self, request: InboundRequest) -> BoxFuture<'_, DirectReply>;
}

impl<A: Answers> DynAnswers for A {
    fn answer(&self, request: InboundRequest) -> BoxFuture<'_, DirectReply> {
        Box::pin(Answers::answer(self, request))
    }
}

/// For patterns that take none.
struct NoRequests;

impl Answers for NoRequests {
    async fn answer(&self, _: InboundRequest) -> DirectReply {
        DirectReply::refused(Refusal::Unknown, "this pattern takes no requests")
    }
}

/// Where a pattern says how it answers unary requests. Dropped unused, there are no answers.
pub struct RequestDoor(Arc<SetOnce<Box<dyn DynAnswers>>>);

impl RequestDoor {
    /// Answers from now on, also what has come already.
    pub fn open(self, answers: impl Answers) {
        let _ = self.0.set(Box::new(answers));
    }
}

impl Drop for RequestDoor {
    fn drop(&mut self) {
        let _ = self.0.set(Box::new(NoRequests));
    }
}

impl fmt::Debug for RequestDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestDoor").finish_non_exhaustive()
    }
}

/// Held as long as a stream lives.
pub(crate) struct Permits(
    #[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit,
    #[expect(dead_code, reason = "held for its drop")] PeerPermit,
);

/// Where one pattern takes what comes. Boxed: a channel takes memory for thirty-two at once, were there ever one or none.
#[derive(Clone)]
pub(crate) struct Door {
    /// The pattern's.
    name: &'static str,
    streams: mpsc::Sender<Box<InboundStream>>,
    requests: Arc<SetOnce<Box<dyn DynAnswers>>>,
}

impl Door {
    /// A door and the pattern's side of it.
    pub(crate) fn new(name: &'static str) -> (Door, super::PatternDoors) {
        let (streams, streams_out) = mpsc::channel(DOOR_QUEUE_MAX);
        let requests = Arc::new(SetOnce::new());
        (
            Door {
                name,
                streams,
                requests: Arc::clone(&requests),
            },
            super::PatternDoors {
                streams: streams_out,
                requests: RequestDoor(requests),
            },
        )
    }
}

/// What a peer takes a place with.
#[derive(Debug, Clone, Copy)]
enum Place {
    Stream,
    Request,
    Lane,
}

impl Place {
    /// How many one peer may have.
    fn limit(self) -> usize {
        match self {
            Place::Stream => STREAMS_PER_PEER_MAX,
            Place::Request => REQUESTS_PER_PEER_MAX,
            Place::Lane => LANES_PER_PEER_MAX,
        }
    }
}

type PerPeer = Arc<Mutex<HashMap<PeerId, [usize; 3]>>>;

/// One of a peer's places; given back on drop.
struct PeerPermit {
    places: PerPeer,
    peer: PeerId,
    place: Place,
}

impl Drop for PeerPermit {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(taken) = places.get_mut(&self.peer) {
            taken[self.place as usize] -= 1;
            if *taken == [0; 3] {
                places.remove(&self.peer);
            }
        }
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct DoorKeeper {
    trust: Trust,
    doors: Arc<HashMap<String, Door>>,
    /// All inbound streams together, from the memory budget.
    streams: Arc<Semaphore>,
    places: PerPeer,
    scales: Arc<Scales>,
    counters: MeshCounters,
    /// Counts what panics.
    tasks: Tasks,
}

impl DoorKeeper {
    pub(crate) fn new(
        trust: Trust,
        doors: HashMap<String, Door>,
        memory_budget_bytes: usize,
        counters: MeshCounters,
        tasks: Tasks,
    ) -> Self {
        let streams = (memory_budget_bytes / STREAM_WINDOW_BYTES).max(64);
        DoorKeeper {
            trust,
            doors: Arc::new(doors),
            streams: Arc::new(Semaphore::new(streams)),
            places: PerPeer::default(),
            scales: Scales::new(memory_budget_bytes),
            counters,
            tasks,
        }
    }

    /// The stream protocols of all patterns.
    pub(crate) fn protocols(&self) -> Vec<StreamProtocol> {
        let mut names: Vec<&String> = self.doors.keys().collect();
        names.sort();
        names.into_iter().map(|name| stream_protocol(name)).collect()
    }

    /// Judges one stream. Runs in a task of its own.
    pub(crate) async fn admit_stream(self, peer: PeerId, protocol: StreamProtocol, mut stream: MeshStream) {
        // Without a place nothing is read at all.
        let Some(permits) = self.stream_place(peer) else {
            return self
                .refuse(&mut stream, Refusal::Busy, "too many streams are open")
                .await;
        };
        let hello = match timeout(HELLO_TIMEOUT, frames::read::<Hello>(&mut stream)).await {
            Ok(Ok(Some(hello))) => hello,
            Ok(Ok(None)) => return,
            Ok(Err(error)) => {
                let reason = if error.to_string().contains("version") {
                    Refusal::Version
                } else {
                    Refusal::Malformed
                };
                return self.refuse(&mut stream, reason, &error.to_string()).await;
            }
            Err(_) => {
                return self
                    .refuse(&mut stream, Refusal::Deadline, "the greeting took too long")
                    .await;
            }
        };
        if stream_protocol(&hello.pattern) != protocol {
            return self
                .refuse(&mut stream, Refusal::Malformed, "the greeting is for another pattern")
                .await;
        }
        let (door, span) = match self.judge(&peer, &hello) {
            Ok(judged) => judged,
            Err((reason, detail)) => return self.refuse(&mut stream, reason, &detail).await,
        };
        let Ok(Ok(slot)) = timeout(QUEUE_PATIENCE, door.streams.reserve()).await else {
            return self.refuse(&mut stream, Refusal::Busy, "the pattern is busy").await;
        };
        let accepted = HelloReply::Accepted {
            version: weft_protocol::HELLO_VERSION,
        };
        if let Ok(Ok(())) = timeout(HELLO_TIMEOUT, frames::write(&mut stream, &accepted)).await {
            slot.send(Box::new(InboundStream {
                peer,
                hello,
                stream,
                span,
                _permits: permits,
            }));
        }
    }

    /// Judges and serves one unary request; the answer, whatever it is, is returned, to be written and dropped.
    pub(crate) async fn serve_request(&self, peer: PeerId, bytes: Vec<u8>) -> Weighed {
        let mut weight = self.scales.weigh(peer, bytes.len());
        let reply = if weight.is_some() {
            self.serve_weighed(peer, bytes).await
        } else {
            drop(bytes);
            self.refused(Refusal::Busy, "too much of yours is being served, or left unread")
        };
        let bytes = reply.to_checked_bytes().unwrap_or_else(|error| {
            DirectReply::refused(Refusal::Malformed, &format!("the answer: {error}")).to_bytes()
        });
        if weight.as_mut().is_none_or(|weight| weight.grow_to(bytes.len())) {
            return Weighed { bytes, weight };
        }
        let reply = self.refused(
            Refusal::Busy,
            "the answer does not fit beside others that you leave unread",
        );
        Weighed {
            bytes: reply.to_bytes(),
            weight,
        }
    }

    async fn serve_weighed(&self, peer: PeerId, bytes: Vec<u8>) -> DirectReply {
        let Some(_place) = self.place(peer, Place::Request) else {
            return self.refused(Refusal::Busy, "too many requests of yours are being served");
        };
        let DirectRequest { hello, payload } = match DirectRequest::from_vec(bytes) {
            Ok(request) => request,
            Err(error @ weft_protocol::DecodeError::Version { .. }) => {
                return self.refused(Refusal::Version, &error.to_string());
            }
            Err(error) => return self.refused(Refusal::Malformed, &error.to_string()),
        };
        let (door, span) = match self.judge(&peer, &hello) {
            Ok(judged) => judged,
            Err((reason, detail)) => return self.refused(reason, &detail),
        };
        let within = hello
            .deadline_ms
            .map_or(REQUEST_DEADLINE, |ms| Duration::from_millis(ms.into()));
        let deadline = Instant::now() + within;
        let answering = async {
            // A pattern that is just starting is waited for.
            let answers = match door.requests.get() {
                Some(answers) => answers,
                None => door.requests.wait().await,
            };
            let request = InboundRequest {
                peer,
                hello,
                payload,
                deadline,
                span: span.clone(),
            };
            answers.answer(request).await
        };
        // A pattern that breaks down over one request must not take the others of the lane with it.
        let answering = self.tasks.catch(door.name, answering.instrument(span.clone()));
        match timeout_at(deadline, answering).await {
            Ok(Some(reply)) => reply,
            Ok(None) => self.refused(Refusal::Closing, "the pattern broke down over this request"),
            Err(_) => self.refused(Refusal::Deadline, "no answer before the deadline"),
        }
    }

    fn judge(&self, peer: &PeerId, hello: &Hello) -> Result<(Door, tracing::Span), (Refusal, String)> {
        let not_member = || (Refusal::NotMember, "no membership was proven".to_owned());
        let Some(door) = self.doors.get(&hello.pattern) else {
            // What is here is nobody's business who does not belong.
            return Err(match self.trust.is_member(peer) {
                true => (Refusal::Unknown, format!("no pattern {} here", hello.pattern)),
                false => not_member(),
            });
        };
        let malformed = |e: weft_protocol::DecodeError| (Refusal::Malformed, e.to_string());
        let resource = hello.subject().map_err(malformed)?;
        let tokens = hello.capability_tokens().map_err(malformed)?;
        let decision = self.trust.check(peer, hello.verb, &resource, &tokens);
        if matches!(decision.rule, Rule::NotAMember | Rule::Revoked) {
            return Err(not_member());
        }
        if !decision.allowed {
            tracing::info!(%peer, verb = %hello.verb, resource = resource.as_str(), rule = ?decision.rule, "denied");
            return Err((Refusal::Denied, decision.because.join("; ")));
        }
        let span = tracing::info_span!(
            "inbound", %peer, pattern = %hello.pattern, verb = %hello.verb, resource = resource.as_str(),
            trace_id = tracing::field::Empty
        );
        trace::continue_from(&span, hello.traceparent.as_deref(), hello.tracestate.as_deref());
        Ok((door.clone(), span))
    }

    /// Room for one more inbound stream of a peer, held until it is dropped.
    pub(crate) fn stream_place(&self, peer: PeerId) -> Option<Permits> {
        let all = Arc::clone(&self.streams).try_acquire_owned().ok()?;
        Some(Permits(all, self.place(peer, Place::Stream)?))
    }

    /// Room for one more lane of a peer, held until it is dropped.
    pub(crate) fn lane_place(&self, peer: PeerId) -> Option<Permits> {
        let all = Arc::clone(&self.streams).try_acquire_owned().ok()?;
        Some(Permits(all, self.place(peer, Place::Lane)?))
    }

    fn place(&self, peer: PeerId, place: Place) -> Option<PeerPermit> {
        let mut places = self.places.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let taken = &mut places.entry(peer).or_default()[place as usize];
        if *taken >= place.limit() {
            return None;
        }
        *taken += 1;
        Some(PeerPermit {
            places: Arc::clone(&self.places),
            peer,
            place,
        })
    }

    fn refused(&self, reason: Refusal, detail: &str) -> DirectReply {
        self.counters.refused_greeting(reason.as_str());
        DirectReply::refused(reason, detail)
    }

    async fn refuse(&self, stream: &mut MeshStream, reason: Refusal, detail: &str) {
        self.counters.refused_greeting(reason.as_str());
        let _ = timeout(
            HELLO_TIMEOUT,
            frames::write(stream, &HelloReply::refused(reason, detail)),
        )
        .await;
    }
}
