//! Deeds: answers inbound calls to the services registered here, questions about them, and the callers' words that they no longer
//! wait.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use weft_protocol::{
    PeerId, Refusal, Wire as _,
    direct::DirectReply,
    patterns::request_response::{CallMessage, CallRequest, CallResponse, Question},
};

use super::{
    handle::resource,
    registry::{Registry, Served},
    stream_in,
};
use crate::{
    mesh::{Answers, InboundRequest, InboundStream},
    tasks::Tasks,
};

/// Cancels that came before their call: on different streams they may overtake it.
const EARLY_MAX: usize = 64;
/// The code of a call that its caller took back; nobody reads it.
const CANCELLED: u16 = 499;

/// The calls of others that can be cancelled.
#[derive(Default)]
struct Cancellable {
    running: HashMap<(PeerId, u64), CancellationToken>,
    early: VecDeque<(PeerId, u64)>,
}

/// Answers what comes from other members.
pub(super) struct Actor {
    registry: Arc<Registry>,
    cancellable: Mutex<Cancellable>,
}

/// A call that can be cancelled as long as this lives.
struct Running<'a> {
    actor: &'a Actor,
    key: (PeerId, u64),
    token: CancellationToken,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.actor.lock().running.remove(&self.key);
    }
}

/// Takes streamed calls from the door until the node stops, and says to the mesh what changed.
pub(super) async fn serve(mut streams: mpsc::Receiver<Box<InboundStream>>, registry: Arc<Registry>, tasks: Tasks) {
    loop {
        tokio::select! {
            biased;
            stream = streams.recv() => match stream {
                Some(stream) => {
                    let span = stream.span.clone();
                    tasks.spawn("call-stream", stream_in::serve(Arc::clone(&registry), stream).instrument(span));
                }
                None => return,
            },
            () = registry.changed.notified() => registry.announce().await,
        }
    }
}

impl Answers for Actor {
    async fn answer(&self, request: InboundRequest) -> DirectReply {
        match CallMessage::from_bytes(&request.payload) {
            Ok(CallMessage::Call(call)) => self.serve_one(&request, call).await,
            Ok(CallMessage::Cancel { call }) => {
                self.cancel((request.peer, call));
                DirectReply::answer(Vec::new())
            }
            Ok(CallMessage::Ask(question)) => self.tell(&request, &question),
            Err(error) => DirectReply::refused(Refusal::Malformed, &error.to_string()),
        }
    }
}

impl Actor {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Actor {
            registry,
            cancellable: Mutex::default(),
        }
    }

    async fn serve_one(&self, request: &InboundRequest, call: CallRequest) -> DirectReply {
        if !is_about(request, &call.service, &call.endpoint) {
            return DirectReply::refused(Refusal::Malformed, "the greeting names another service");
        }
        let running = call.call.map(|id| self.running((request.peer, id)));
        let cancelled = async {
            match &running {
                Some(running) => running.token.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let serving = self
            .registry
            .serve(request.peer, call, request.deadline, request.span.clone());
        let served = tokio::select! {
            biased;
            served = serving => served,
            () = cancelled => Served::Response(Arc::new(CallResponse::failed(CANCELLED, "cancelled by its caller"))),
        };
        match served {
            Served::Response(response) => match response.to_checked_bytes() {
                Ok(bytes) => DirectReply::answer(bytes),
                Err(error) => {
                    DirectReply::answer(CallResponse::failed(500, &format!("the answer: {error}")).to_bytes())
                }
            },
            Served::Gone => DirectReply::refused(Refusal::Closing, "the service went away"),
            Served::Late => DirectReply::refused(Refusal::Deadline, "the service did not answer before the deadline"),
        }
    }

    fn tell(&self, request: &InboundRequest, question: &Question) -> DirectReply {
        if !is_about(request, &question.service, &question.endpoint) {
            return DirectReply::refused(Refusal::Malformed, "the greeting names another service");
        }
        match self.registry.answer(question).to_checked_bytes() {
            Ok(bytes) => DirectReply::answer(bytes),
            Err(error) => DirectReply::refused(Refusal::Busy, &format!("the answer: {error}")),
        }
    }

    fn running(&self, key: (PeerId, u64)) -> Running<'_> {
        let token = CancellationToken::new();
        let mut cancellable = self.lock();
        if let Some(at) = cancellable.early.iter().position(|early| *early == key) {
            cancellable.early.remove(at);
            token.cancel();
        }
        cancellable.running.insert(key, token.clone());
        Running {
            actor: self,
            key,
            token,
        }
    }

    fn cancel(&self, key: (PeerId, u64)) {
        let mut cancellable = self.lock();
        if let Some(token) = cancellable.running.get(&key) {
            return token.cancel();
        }
        if cancellable.early.len() >= EARLY_MAX {
            cancellable.early.pop_front();
        }
        cancellable.early.push_back(key);
    }

    fn lock(&self) -> MutexGuard<'_, Cancellable> {
        self.cancellable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right was checked for what the greeting names: the message must not name something else.
fn is_about(request: &InboundRequest, service: &str, endpoint: &str) -> bool {
    resource(service, endpoint).is_ok_and(|resource| resource.as_str() == request.hello.resource)
}
