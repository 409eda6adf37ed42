//! The serving side of the handle: calls to answer, and how a service ends.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use weft_protocol::{PeerId, limits::DIRECT_BODY_BYTES_MAX, patterns::request_response::CallResponse};

use super::{
    super::body::{BodyError, BodyReader, BodyWriter, body},
    registry::{Offered, Registry},
};
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
    pub(super) over: Arc<Over>,
    /// The request, where it comes in parts.
    pub(super) input: Option<BodyReader>,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// Whether a call is over; most calls start nothing that wants to know, and have no token.
#[derive(Debug, Default)]
pub(super) struct Over {
    is_over: AtomicBool,
    token: OnceLock<CancellationToken>,
}

impl Over {
    pub(super) fn set(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(token) = self.token.get() {
            token.cancel();
        }
    }

    fn token(&self) -> CancellationToken {
        let token = self.token.get_or_init(CancellationToken::new);
        // Looked at after the token is there: whichever of the two comes last cancels it.
        if self.is_over.load(Ordering::SeqCst) {
            token.cancel();
        }
        token.clone()
    }
}

/// What a service says to a call.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) response: CallResponse,
    /// The body of an answer that comes in parts.
    pub(super) rest: Option<BodyReader>,
}

impl Reply {
    /// The answer as a whole, for a caller that takes no parts.
    pub(super) async fn whole(self) -> CallResponse {
        let Some(rest) = self.rest else { return self.response };
        let CallResponse::Answer { headers, .. } = self.response else {
            return self.response;
        };
        // Boxed: most answers are whole, and this is large.
        match Box::pin(rest.collect(DIRECT_BODY_BYTES_MAX)).await {
            Ok(body) => CallResponse::answer(headers, body),
            Err(BodyError::Failed { code, reason }) => CallResponse::failed(code, &reason),
            Err(BodyError::TooLarge(most)) => {
                let words = format!("the answer has more than {most} bytes: call with a stream (`weft call --stream`)");
                CallResponse::failed(500, &words)
            }
            Err(error) => CallResponse::failed(502, &format!("the service broke off: {error}")),
        }
    }
}

impl IncomingCall {
    /// Answers.
    pub fn answer(self, headers: Vec<(String, String)>, body: Vec<u8>) {
        let response = CallResponse::answer(headers, body);
        let _ = self.reply.send(Reply { response, rest: None });
    }

    /// Says that the service failed.
    pub fn fail(self, code: u16, reason: &str) {
        let response = CallResponse::failed(code, reason);
        let _ = self.reply.send(Reply { response, rest: None });
    }

    /// Whether the caller sends its request in parts; only for a service that takes streams.
    pub fn is_streamed(&self) -> bool {
        self.input.is_some()
    }

    /// The request in parts, whichever way it came.
    pub fn take_body(&mut self) -> BodyReader {
        match self.input.take() {
            Some(input) => input,
            None => BodyReader::of(std::mem::take(&mut self.body)),
        }
    }

    /// Begins an answer whose body follows in parts. A caller that takes no parts gets it as a whole, if it is no larger than an
    /// ordinary answer.
    pub fn stream(self, headers: Vec<(String, String)>) -> BodyWriter {
        let (writer, rest) = body();
        let response = CallResponse::answer(headers, Vec::new());
        let rest = Some(rest);
        let _ = self.reply.send(Reply { response, rest });
        writer
    }

    /// Resolves when the caller no longer waits: it cancelled, or its time is over.
    pub async fn abandoned(&mut self) {
        self.reply.closed().await;
    }

    /// Cancelled when the call is over, in whatever way: for what the call has started.
    pub fn token(&self) -> CancellationToken {
        self.over.token()
    }
}
