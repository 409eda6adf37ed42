//! The door for applications that speak the NATS client protocol: any NATS client, in any language, is a client of the mesh.
//!
//! Promises: what a client publishes reaches the subscribers on every node, NATS clients and others, with its headers; a request reaches
//! one member of a queue group or a Weft service wherever it runs, and its answers come to the asking node and nobody else; when there is
//! nobody to answer, the client is told at once. Between clients of one node nothing takes the way through the mesh. Every buffer, queue and
//! wait has a bound: who does not read is cut off and counted, whoever waits or sends nonsense harms nobody else. A door that other machines
//! can reach opens only with credentials.
//!
//! Of JetStream it offers what fits the streams of the mesh (`jetstream`).
//!
//! Does not promise: accounts, permissions per user, clustering with nats-server. A message to a queue group (other than a request)
//! reaches one member on each node that has some. Subjects are those of the mesh: `[A-Za-z0-9_-]` between dots.
//!
//! How: `parse` reads operations, `connection` acts on them, `router` knows who listens, `outbox` is what waits to be written, `door` is
//! between all that and the mesh, `ask` finds who answers, `peers` and `replies` carry what is for one node only.

mod ask;
mod auth;
mod connection;
mod door;
mod headers;
mod interest;
mod jetstream;
mod metrics;
mod outbox;
mod parse;
mod peers;
mod replies;
mod router;
mod server;
mod services;
mod tls;
mod words;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use weft_protocol::{
    Refusal, Subject, Verb, Wire as _,
    direct::DirectReply,
    patterns::nats::{NatsItems, NatsReached, PATTERN_ID},
};

pub use self::server::NatsServer;
use self::{
    auth::Credentials,
    door::{Door, DoorParts},
    metrics::NatsMetrics,
};
use crate::{
    config::{NatsConfig, Toggle},
    context::Context,
    error::NodeError,
    mesh::{Answers, InboundRequest, Mesh},
    pattern::Pattern,
    patterns::{event_sourcing::EventSourcingHandle, pub_sub::PubSubHandle, request_response::RequestResponseHandle},
    platform::Entropy,
    tasks::Tasks,
    telemetry::metrics::Metrics,
};

/// What a door is told by the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What clients hear as the server's name.
    pub name: String,
    /// Connections at once.
    pub connections_max: usize,
    /// Subscriptions of all connections together.
    pub subscriptions_max: u64,
    /// Bytes of a message's headers and payload.
    pub payload_bytes_max: usize,
    /// Bytes that one client may leave unread.
    pub pending_bytes_max: usize,
    /// Bytes that all clients together may leave unread.
    pub pending_bytes_total_max: usize,
    /// How long a client may take to say who it is.
    pub auth_timeout: Duration,
    /// How long a client may leave what was written to it unread.
    pub write_timeout: Duration,
    /// How often a silent client is asked whether it is there.
    pub ping_interval: Duration,
    /// How long clients have to go elsewhere when the door closes.
    pub grace: Duration,
    /// The file with the credentials.
    pub credentials: Option<PathBuf>,
    /// Where clients of other doors may come; without it they are not told of this door, nor its clients of others.
    pub advertise: Option<String>,
    /// How connections are encrypted; not at all without.
    pub tls: Option<TlsSettings>,
}

/// TLS at the door; the files are PEM.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// The door's chain, its own certificate first.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// Authorities of whom a client must have a certificate.
    pub client_authorities: Option<PathBuf>,
    /// Whether the door waits for the client's handshake before it says INFO; `Auto`: for 50 ms.
    pub first: Toggle,
}

impl Settings {
    /// From the configuration of a node.
    pub fn new(config: &NatsConfig, name: &str) -> Self {
        Settings {
            name: name.to_owned(),
            connections_max: config.connections_max as usize,
            subscriptions_max: config.subscriptions_max.into(),
            payload_bytes_max: config.payload_bytes_max.as_len(),
            pending_bytes_max: config.pending_bytes_max.as_len(),
            pending_bytes_total_max: config.pending_bytes_total_max.as_len(),
            auth_timeout: config.auth_timeout,
            write_timeout: config.write_timeout,
            ping_interval: config.ping_interval,
            grace: config.lame_duck,
            credentials: config.credentials.clone(),
            advertise: config.advertise.clone(),
            tls: config
                .tls_certificate
                .clone()
                .zip(config.tls_key.clone())
                .map(|(certificate, key)| TlsSettings {
                    certificate,
                    key,
                    client_authorities: config.tls_client_authorities.clone(),
                    first: config.tls_first,
                }),
        }
    }
}

/// The half of the door that other nodes see. It is there on every node; whether clients can come in is another matter.
#[derive(Debug, Default)]
pub struct Nats;

/// Opens the door.
#[derive(Clone)]
pub struct NatsHandle {
    inner: Arc<Inner>,
}

struct Inner {
    mesh: Mesh,
    tasks: Tasks,
    entropy: Arc<dyn Entropy>,
    metrics: Metrics,
    door: OnceLock<Weak<Door>>,
}

impl Pattern for Nats {
    const ID: &'static str = PATTERN_ID;
    type Handle = NatsHandle;

    async fn start(self, context: Context) -> Result<Self::Handle, NodeError> {
        let Context {
            mesh,
            doors,
            tasks,
            entropy,
            metrics,
            ..
        } = context;
        let inner = Arc::new(Inner {
            mesh,
            tasks: tasks.child(),
            entropy,
            metrics,
            door: OnceLock::new(),
        });
        doors.requests.open(TakesItems(Arc::clone(&inner)));
        Ok(NatsHandle { inner })
    }
}

impl NatsHandle {
    /// Listens on `address`. Once per node.
    ///
    /// # Errors
    /// `Invalid` when the address is not this machine's own and there are no credentials, or when credentials, certificate or key cannot be
    /// used; `Conflict` when the address is in use or the door is open.
    pub async fn open(
        &self,
        address: SocketAddr,
        settings: Settings,
        messages: PubSubHandle,
        calls: RequestResponseHandle,
        streams: Option<EventSourcingHandle>,
    ) -> Result<NatsServer, NodeError> {
        let credentials = settings.credentials.as_deref().map(Credentials::load).transpose()?;
        if credentials.is_none() && !address.ip().is_loopback() {
            return Err(NodeError::invalid(format!(
                "the NATS door would be open to everybody who reaches {address}"
            ))
            .with_hint("set nats.credentials to a file with `token SECRET`, `user NAME PASSWORD` or `nkey PUBLIC_KEY`, or listen on 127.0.0.1"));
        }
        if !address.ip().is_loopback() && settings.tls.is_none() {
            tracing::warn!(%address, "NATS clients on other machines send their messages unencrypted: set nats.tls_certificate and nats.tls_key");
        }
        let parts = DoorParts {
            settings,
            credentials,
            mesh: self.inner.mesh.clone(),
            calls,
            messages,
            streams,
            tasks: self.inner.tasks.clone(),
            entropy: Arc::clone(&self.inner.entropy),
            metrics: NatsMetrics::register(&self.inner.metrics),
        };
        let door = Door::new(parts);
        if self.inner.door.set(Arc::downgrade(&door)).is_err() {
            return Err(NodeError::conflict("the NATS door of this node was opened before"));
        }
        NatsServer::start(address, door).await
    }
}

/// Takes in what other nodes' doors send.
struct TakesItems(Arc<Inner>);

impl Answers for TakesItems {
    async fn answer(&self, request: InboundRequest) -> DirectReply {
        let Some(door) = self.0.door.get().and_then(Weak::upgrade) else {
            return DirectReply::refused(Refusal::Unknown, "no NATS door is open here");
        };
        let items = match NatsItems::from_bytes(&request.payload) {
            Ok(items) => items,
            Err(error) => return DirectReply::refused(Refusal::Malformed, &error.to_string()),
        };
        // The right was checked for what the greeting names: the items must not be about something else. They are about one thing.
        let is_named = items
            .0
            .first()
            .is_some_and(|item| item.resource() == request.hello.resource);
        if !is_named || request.hello.verb != Verb::Publish {
            return DirectReply::refused(Refusal::Malformed, "the greeting is about something else");
        }
        let reached = items.0.iter().map(|item| door.take_item(request.peer, item)).collect();
        DirectReply::answer(NatsReached(reached).to_bytes())
    }
}

/// The error of a subject that the mesh does not carry, checked here in one place. Text that is not UTF-8 is none.
fn subject(text: &[u8]) -> Option<Subject> {
    Subject::reserved(std::str::from_utf8(text).ok()?).ok()
}
