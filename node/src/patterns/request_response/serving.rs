//! The serving side of the handle: calls to answer, and how a service ends.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use weft_protocol::{PeerId, patterns::request_response::CallResponse};

use super::registry::{Offered, Registry};
use crate::error::NodeError;

/// A service this node offers; it is withdrawn on drop.
#[derive(Debug)]
pub struct Serving {
    /// This instance's id.
    pub id: String,
    pub(super) calls: mpsc::Receiver<IncomingCall>,
    pub(super) offered: Arc<Offered>,
    pub(super) registry: Arc<Registry>,
}

impl Serving {
    /// The next call; `None` when the node is stopping, or when the service was drained and has answered everything. Cancel-safe.
    pub async fn next(&mut self) -> Option<IncomingCall> {
        tokio::select! {
            biased;
            call = self.calls.recv() => call,
            () = self.offered.drained() => None,
        }
    }

    /// Says to the mesh that this instance takes nothing new. What it has is still handed out and answered; then
    /// [`Serving::next`] ends.
    pub async fn drain(&self) {
        self.registry.drain(&self.offered).await;
    }

    /// Resolves when somebody has asked this instance to drain.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        let offered = Arc::clone(&self.offered);
        async move { offered.draining().await }
    }

    /// Resolves when the instance drains and has answered everything.
    pub async fn drained(&self) {
        self.offered.drained().await;
    }

    /// Gives an endpoint its JSON Schema.
    ///
    /// # Errors
    /// `NotFound` when there is no such endpoint; `Invalid` for what is no JSON object, or too large.
    pub async fn set_schema(&self, endpoint: &str, schema: String) -> Result<(), NodeError> {
        self.offered.set_schema(endpoint, schema)?;
        self.registry.announce().await;
        Ok(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.registry.withdraw(&self.id);
    }
}

/// A call to serve. Dropped unanswered, it is refused.
#[derive(Debug)]
pub struct IncomingCall {
    /// The calling member, proven.
    pub caller: PeerId,
    /// The service.
    pub service: String,
    /// The endpoint.
    pub endpoint: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// Continues the caller's trace.
    pub span: tracing::Span,
    pub(super) cancelled: CancellationToken,
    pub(super) reply: oneshot::Sender<CallResponse>,
}

impl IncomingCall {
    /// Answers.
    pub fn answer(self, headers: Vec<(String, String)>, body: Vec<u8>) {
        let _ = self.reply.send(CallResponse::answer(headers, body));
    }

    /// Says that the service failed.
    pub fn fail(self, code: u16, reason: &str) {
        let _ = self.reply.send(CallResponse::failed(code, reason));
    }

    /// Resolves when the caller no longer waits: it cancelled, or its time is over.
    pub async fn abandoned(&mut self) {
        self.reply.closed().await;
    }

    /// Cancelled when the call is over, in whatever way: for what the call has started.
    pub fn token(&self) -> CancellationToken {
        self.cancelled.clone()
    }
}
