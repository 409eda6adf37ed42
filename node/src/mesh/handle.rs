//! The handle on the mesh.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, StreamProtocol, gossipsub::MessageId, identity::Keypair};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use weft_protocol::{
    Hello, HelloReply, Refusal, Wire as _,
    control::CONTROL_PROTOCOL,
    direct::{DirectReply, DirectRequest},
};

pub use super::control::Probe;
use super::{
    control,
    driver::Command,
    frames,
    gossip::Original,
    inbound::{InboundStream, RequestDoor, stream_protocol},
    lanes::Lanes,
    notes::{Noted, Notes},
    peers::PeerTable,
    streams::{MeshStream, OpenError},
};
use crate::{
    error::{ErrorKind, Kind, NodeError},
    trust::Trust,
};

/// How long a stream's opening may take, dial and negotiation included, when the caller sets no deadline.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// Why an act on the mesh failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// No stream.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The remote's door-keeper refused.
    #[error("peer {peer} refused: {detail}")]
    Refused {
        /// Who.
        peer: PeerId,
        /// Why, for programs.
        reason: Refusal,
        /// Why, for people.
        detail: String,
    },
    /// The deadline passed.
    #[error("no answer from peer {peer} within {within_ms} ms")]
    Timeout {
        /// Who.
        peer: PeerId,
        /// The budget.
        within_ms: u64,
    },
    /// The connection broke, or what came made no sense.
    #[error("the exchange with peer {peer} failed: {reason}")]
    Broken {
        /// Who.
        peer: PeerId,
        /// What happened.
        reason: String,
    },
    /// What was to be sent exceeds a limit.
    #[error("{0}")]
    Invalid(String),
    /// A bound of this node is reached.
    #[error("{0}")]
    Busy(String),
    /// The node is stopping, or belongs to no mesh yet.
    #[error("the mesh is not there: the node is stopping or not admitted yet")]
    Closed,
}

impl Kind for MeshError {
    fn kind(&self) -> ErrorKind {
        match self {
            MeshError::Open(error) => error.kind(),
            MeshError::Refused { reason, .. } => match reason {
                Refusal::NotMember | Refusal::Denied => ErrorKind::Denied,
                Refusal::Busy => ErrorKind::Busy,
                Refusal::Unknown => ErrorKind::NotFound,
                Refusal::Deadline => ErrorKind::Timeout,
                Refusal::Closing => ErrorKind::Unreachable,
                Refusal::Malformed | Refusal::Version => ErrorKind::Invalid,
            },
            MeshError::Timeout { .. } => ErrorKind::Timeout,
            MeshError::Broken { .. } => ErrorKind::Unreachable,
            MeshError::Invalid(_) => ErrorKind::Invalid,
            MeshError::Busy(_) => ErrorKind::Busy,
            MeshError::Closed => ErrorKind::Closed,
        }
    }
}

/// A gossip message that waits for its verdict: it is forwarded only if somebody says so.
#[derive(Debug)]
pub struct Gossip {
    /// Who signed it.
    pub source: PeerId,
    /// What it carries.
    pub data: Vec<u8>,
    /// What distinguishes it from its author's others.
    pub sequence_number: u64,
    /// The author's signature: with the rest and the topic it makes an [`Original`].
    pub signature: Vec<u8>,
    pub(crate) id: MessageId,
    pub(crate) from: PeerId,
}

impl Gossip {
    /// The neighbour that handed it to this node.
    pub fn from(&self) -> PeerId {
        self.from
    }
}

/// What came of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// How many connected peers are subscribed to the topic.
    pub peers: usize,
    /// The number with which the message was signed, for [`Mesh::sign`]. `None` when nobody was there to be sent it.
    pub sequence_number: Option<u64>,
}

/// What to do with a gossip message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validation {
    /// Good: forward it.
    Accept,
    /// Malformed or forged: do not forward, and hold it against the one it came from.
    Reject,
    /// Not for us to forward; nobody's fault.
    Ignore,
}

/// Whether this node can be reached from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reachability {
    /// Not known yet.
    Unknown,
    /// Only from the local network, or through relays.
    Private,
    /// An address of ours was confirmed.
    Public,
}

/// A place reserved at a relay.
#[derive(Debug, Clone)]
pub struct RelayInfo {
    /// The relay.
    pub peer: PeerId,
    /// The address under which we are reached through it.
    pub address: Multiaddr,
}

/// What the driver publishes of itself.
#[derive(Debug, Clone)]
pub struct MeshState {
    /// Where we listen, without `/p2p/ID`.
    pub listen: Vec<Multiaddr>,
    /// Where we are reachable from outside.
    pub external: Vec<Multiaddr>,
    /// Whether anybody can reach us.
    pub reachability: Reachability,
    /// Our places at relays.
    pub relays: Vec<RelayInfo>,
    /// Whether we answer the DHT's questions.
    pub kad_server: bool,
    /// Whether every listener is up.
    pub listening: bool,
    /// Why the last peer that would not have us would not.
    pub refusal: Option<String>,
    /// Why the ticket this node came with is worth nothing, for people. No other try would end otherwise.
    pub ticket_refusal: Option<String>,
    /// Hole punches tried and succeeded.
    pub hole_punches: (u64, u64),
}

/// Where a pattern's inbound streams and requests come out.
#[derive(Debug)]
pub struct PatternDoors {
    /// Streams whose greeting was accepted.
    pub streams: mpsc::Receiver<Box<InboundStream>>,
    /// How unary requests whose greeting was accepted are answered.
    pub requests: RequestDoor,
}

/// A cloneable handle on the mesh.
#[derive(Debug, Clone)]
pub struct Mesh {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) inner: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(super) key: Keypair,
    pub(super) local: PeerId,
    pub(super) zone: Option<String>,
    pub(super) trust: Trust,
    pub(super) peers: PeerTable,
    pub(super) lanes: Lanes,
    pub(super) notes: Notes,
    pub(super) state: watch::Receiver<MeshState>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh")
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

impl Mesh {
    /// This node.
    pub fn local_peer(&self) -> PeerId {
        self.inner.local
    }

    /// Where this node is, if that was said.
    pub fn zone(&self) -> Option<&str> {
        self.inner.zone.as_deref()
    }

    /// Who belongs, and who may what.
    pub fn trust(&self) -> &Trust {
        &self.inner.trust
    }

    /// The connected members.
    pub fn peers(&self) -> &PeerTable {
        &self.inner.peers
    }

    /// Lets a pattern say a few bytes to every connected member with each probe, and hear what its like there says, for as long
    /// as `noted` is there.
    pub fn attach_note(&self, pattern: &'static str, noted: &Arc<impl Noted + 'static>) {
        let noted: Weak<dyn Noted> = Arc::downgrade(noted) as Weak<dyn Noted>;
        self.inner.notes.attach(pattern, noted);
    }

    /// Addresses, reachability, relays.
    pub fn state(&self) -> MeshState {
        self.inner.state.borrow().clone()
    }

    /// Follows [`Mesh::state`].
    pub fn watch_state(&self) -> watch::Receiver<MeshState> {
        self.inner.state.clone()
    }

    /// Opens a stream to a pattern on another node and shows `hello` at its door. Dials if need be.
    ///
    /// Cancel-safe: a stream that nobody waits for any more is closed.
    ///
    /// # Errors
    /// No stream, a refusal at the door, or no answer in time.
    pub async fn open(&self, peer: PeerId, hello: &Hello) -> Result<MeshStream, MeshError> {
        let within = hello
            .deadline_ms
            .map_or(OPEN_TIMEOUT, |ms| Duration::from_millis(ms.into()));
        let exchange = async {
            let mut stream = self.open_raw(peer, stream_protocol(&hello.pattern)).await?;
            let broken = |e: frames::FrameError| MeshError::Broken {
                peer,
                reason: e.to_string(),
            };
            frames::write(&mut stream, hello).await.map_err(broken)?;
            match frames::expect::<HelloReply>(&mut stream).await.map_err(broken)? {
                HelloReply::Accepted { .. } => Ok(stream),
                HelloReply::Refused { reason, detail } => Err(MeshError::Refused { peer, reason, detail }),
            }
        };
        timeout(within, exchange).await.unwrap_or(Err(timed_out(peer, within)))
    }

    /// Sends one request to a pattern on another node and waits for its answer. Dials if need be.
    ///
    /// Cancel-safe: the answer to a request that nobody waits for any more is dropped; the request may have been served.
    ///
    /// # Errors
    /// No connection, a refusal at the door, or no answer within `within`.
    pub async fn request(
        &self,
        peer: PeerId,
        mut hello: Hello,
        payload: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, MeshError> {
        if within.is_zero() {
            // Sent all the same, it would be served for nobody.
            return Err(timed_out(peer, within));
        }
        hello.deadline_ms = Some(u32::try_from(within.as_millis()).unwrap_or(u32::MAX));
        let request = DirectRequest { hello, payload };
        let bytes = request
            .to_checked_bytes()
            .map_err(|e| MeshError::Invalid(e.to_string()))?;
        let exchange = async {
            let bytes = match self.inner.lanes.get(&peer) {
                Some(lane) => match lane.request(bytes).await {
                    Ok(answer) => answer?,
                    // The lane ended at this very moment, before it took the request.
                    Err(bytes) => Box::pin(self.request_without_lane(peer, bytes)).await?,
                },
                // Seldom, and large.
                None => Box::pin(self.request_without_lane(peer, bytes)).await?,
            };
            match DirectReply::from_vec(bytes) {
                Ok(DirectReply::Answer { payload }) => Ok(payload),
                Ok(DirectReply::Refused { reason, detail }) => Err(MeshError::Refused { peer, reason, detail }),
                Err(error) => Err(MeshError::Broken {
                    peer,
                    reason: error.to_string(),
                }),
            }
        };
        timeout(within, exchange).await.unwrap_or(Err(timed_out(peer, within)))
    }

    async fn request_without_lane(&self, peer: PeerId, bytes: Vec<u8>) -> Result<Vec<u8>, MeshError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Request { peer, bytes, reply }).await?;
        answer.await.map_err(|_| MeshError::Closed)?
    }

    /// Publishes on a gossip topic.
    ///
    /// # Errors
    /// `Busy` when every neighbour's queue is full; `Invalid` when it is too large.
    pub async fn publish(&self, topic: String, data: Vec<u8>) -> Result<Published, MeshError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Publish { topic, data, reply }).await?;
        answer.await.map_err(|_| MeshError::Closed)?
    }

    /// Signs a message of this node's as gossip does. Of one that was published, with its topic and number, this is the original.
    pub fn sign(&self, topic: String, sequence_number: u64, data: Vec<u8>) -> Option<Original> {
        Original::sign(&self.inner.key, topic, sequence_number, data)
    }

    /// Takes in a gossip topic. Every message needs [`Mesh::validate`]; when `sink` is full, messages are ignored and
    /// counted.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn subscribe(&self, topic: String, sink: mpsc::Sender<Box<Gossip>>) -> Result<(), MeshError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Subscribe { topic, sink, reply }).await?;
        answer.await.map_err(|_| MeshError::Closed)
    }

    /// The members this node exchanges a topic's messages with: its neighbours in the gossip mesh.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn gossip_neighbours(&self, topic: String) -> Result<Vec<PeerId>, MeshError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::GossipNeighbours { topic, reply }).await?;
        answer.await.map_err(|_| MeshError::Closed)
    }

    /// Says what to do with a gossip message.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn validate(&self, gossip: &Gossip, verdict: Validation) -> Result<(), MeshError> {
        self.send(Command::Verdict {
            id: gossip.id.clone(),
            from: gossip.from,
            verdict,
        })
        .await
    }

    /// Makes `value` part of what this node says of itself to every member.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn announce(&self, key: &'static str, value: Vec<u8>) -> Result<(), MeshError> {
        self.send(Command::Announce { key, value }).await
    }

    /// Says in the DHT that this node has what `key` names.
    ///
    /// # Errors
    /// `Closed`; `Busy` when the table is full.
    pub async fn provide(&self, key: Vec<u8>) -> Result<(), MeshError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Provide { key, reply }).await?;
        answer.await.map_err(|_| MeshError::Closed)?
    }

    /// Asks the DHT who has what `key` names.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn providers(&self, key: Vec<u8>) -> Result<Vec<PeerId>, MeshError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Providers { key, reply }).await?;
        answer.await.map_err(|_| MeshError::Closed)?
    }

    /// Measures one round trip. Dials if need be.
    ///
    /// # Errors
    /// No connection, or no answer within `within`.
    pub async fn ping(&self, peer: PeerId, within: Duration) -> Result<Probe, MeshError> {
        let exchange = async {
            let mut stream = self.open_raw(peer, StreamProtocol::new(CONTROL_PROTOCOL)).await?;
            control::probe(&self.inner.trust, &self.inner.notes, &peer, &mut stream)
                .await
                .map_err(|e| MeshError::Broken {
                    peer,
                    reason: e.to_string(),
                })
        };
        timeout(within, exchange).await.unwrap_or(Err(timed_out(peer, within)))
    }

    /// Asks a member for a fresh certificate of ours.
    ///
    /// # Errors
    /// No connection, or its refusal.
    pub(crate) async fn renew_at(&self, peer: PeerId) -> Result<(), NodeError> {
        let mut stream = self
            .open_raw(peer, StreamProtocol::new(CONTROL_PROTOCOL))
            .await
            .map_err(MeshError::from)?;
        control::renew(&self.inner.trust, &mut stream)
            .await
            .map_err(|e| match e {
                control::ControlError::Trust(error) => error,
                other => NodeError::unreachable(other.to_string()),
            })
    }

    /// Adds addresses to begin with.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn add_bootstrap(&self, addresses: Vec<Multiaddr>) -> Result<(), MeshError> {
        self.send(Command::Bootstrap { addresses }).await
    }

    /// Where a peer may be found; it is dialled when somebody wants it.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn hint(&self, peer: PeerId, addresses: Vec<Multiaddr>) -> Result<(), MeshError> {
        self.send(Command::Hint { peer, addresses }).await
    }

    /// A ticket to redeem, for a node that belongs to no mesh yet.
    pub(crate) async fn use_ticket(&self, ticket: weft_protocol::Ticket) -> Result<(), MeshError> {
        self.send(Command::Ticket {
            ticket: Box::new(ticket),
        })
        .await
    }

    /// Stops the driver: connections are closed.
    pub(crate) async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        if self.send(Command::Stop { reply }).await.is_ok() {
            let _ = done.await;
        }
    }

    pub(super) async fn open_raw(&self, peer: PeerId, protocol: StreamProtocol) -> Result<MeshStream, OpenError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Open { peer, protocol, reply })
            .await
            .map_err(|_| OpenError::Closed)?;
        let reason = || "the connection closed".to_owned();
        let answer = timeout(OPEN_TIMEOUT, answer)
            .await
            .map_err(|_| OpenError::Timeout { peer })?;
        answer.unwrap_or_else(|_| Err(OpenError::Unreachable { peer, reason: reason() }))
    }

    async fn send(&self, command: Command) -> Result<(), MeshError> {
        self.commands.send(command).await.map_err(|_| MeshError::Closed)
    }
}

fn timed_out(peer: PeerId, within: Duration) -> MeshError {
    MeshError::Timeout {
        peer,
        within_ms: within.as_millis() as u64,
    }
}
