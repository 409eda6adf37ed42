//! What applications ask pub/sub.

use std::sync::Arc;

use tokio::sync::mpsc;
use weft_protocol::{
    Message, Pattern, PeerId, Subject, Verb, Wire as _, limits::PUBLISH_BODY_BYTES_MAX, patterns::pub_sub::Publication,
};

use super::actor::Hub;
pub use super::core::Received;
use crate::{
    error::{ErrorKind, Kind},
    mesh::{Mesh, MeshError},
    platform::{Clock, Entropy},
    telemetry::trace,
};

/// Why a message could not be published.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// It exceeds a limit, or its subject is malformed.
    #[error("{0}")]
    Invalid(String),
    /// Every neighbour's queue is full.
    #[error("{0}")]
    Busy(String),
    /// The node is stopping, or belongs to no mesh yet.
    #[error("this node is stopping or belongs to no mesh yet")]
    Closed,
}

impl Kind for PublishError {
    fn kind(&self) -> ErrorKind {
        match self {
            PublishError::Invalid(_) => ErrorKind::Invalid,
            PublishError::Busy(_) => ErrorKind::Busy,
            PublishError::Closed => ErrorKind::Closed,
        }
    }
}

/// What goes with a message's data.
#[derive(Debug, Clone, Default)]
pub struct PublishOptions {
    /// The media type of the data.
    pub content_type: Option<String>,
    /// CloudEvents extensions: lower-case letters and digits.
    pub extensions: Vec<(String, String)>,
}

/// What is known once a message is on its way.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// The message's id.
    pub id: String,
    /// This publisher's sequence.
    pub sequence: u64,
    /// Connected members it was sent towards.
    pub peers: usize,
}

/// What a subscriber gets.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// A message.
    Message(Arc<Received>),
    /// So many were lost because the subscriber was too slow, or away for too long.
    Dropped(u64),
}

/// A subscription; it ends on drop.
#[derive(Debug)]
pub struct Subscription {
    pub(super) id: u64,
    pub(super) deliveries: mpsc::Receiver<Delivery>,
    pub(super) hub: Arc<Hub>,
}

impl Subscription {
    /// The next delivery; `None` when the node is stopping. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.deliveries.recv().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.unsubscribe(self.id);
    }
}

/// A cloneable handle on pub/sub.
#[derive(Clone)]
pub struct PubSubHandle {
    mesh: Mesh,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl PubSubHandle {
    pub(super) fn new(mesh: Mesh, hub: Arc<Hub>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        PubSubHandle {
            mesh,
            hub,
            clock,
            entropy,
        }
    }

    /// Publishes a message. Messages of one node keep their order up to its neighbours.
    ///
    /// Not cancel-safe: a cancelled publication may have been sent.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish(
        &self,
        subject: &Subject,
        data: Vec<u8>,
        options: PublishOptions,
    ) -> Result<Receipt, PublishError> {
        let mesh = self.mesh.trust().mesh().ok_or(PublishError::Closed)?;
        if data.len() > PUBLISH_BODY_BYTES_MAX {
            let detail = format!(
                "the message has {} bytes, at most {PUBLISH_BODY_BYTES_MAX} travel",
                data.len()
            );
            return Err(PublishError::Invalid(detail));
        }
        let id: [u8; 12] = crate::platform::random(&*self.entropy);
        let id = data_encoding::HEXLOWER.encode(&id);
        let source = format!("mesh://{}/{}", mesh.id, self.mesh.local_peer());
        let mut message = Message::new(&id, source, "io.weft.message.v1");
        message.subject = Some(subject.clone());
        message.time_ms = Some(self.clock.now_unix_ms());
        message.datacontenttype = options.content_type;
        message.data = data;
        for (name, value) in options.extensions {
            message.set_extension(&name, value);
        }
        if let Some(traceparent) = trace::traceparent() {
            message.set_extension("traceparent", traceparent);
        }
        let capability = self.mesh.trust().to_present(Verb::Publish, subject);
        let publication = Publication {
            message,
            publisher_seq: 0,
            boot: 0,
            capability,
        };
        publication.check().map_err(|e| PublishError::Invalid(e.to_string()))?;
        let (sequence, peers) = self
            .hub
            .publish(&mesh.id, publication)
            .await
            .map_err(|error| match error {
                MeshError::Busy(detail) => PublishError::Busy(detail),
                MeshError::Invalid(detail) => PublishError::Invalid(detail),
                _ => PublishError::Closed,
            })?;
        Ok(Receipt { id, sequence, peers })
    }

    /// Subscribes. With `resume`, a [`PubSubHandle::cursor`] of before, what came since is delivered first, as far as the
    /// replay window reaches; what is gone from it is told as [`Delivery::Dropped`].
    pub fn subscribe(&self, pattern: Pattern, resume: Option<&str>) -> Subscription {
        self.hub.subscribe(pattern, resume)
    }

    /// Subscriptions that there are now.
    pub(crate) fn subscriptions(&self) -> usize {
        self.hub.subscriptions()
    }

    /// Names a received message so that a subscriber can come back after it.
    pub fn cursor(&self, received: &Received) -> String {
        self.hub.cursor(received.number)
    }

    /// This node.
    pub fn local_peer(&self) -> PeerId {
        self.mesh.local_peer()
    }
}
