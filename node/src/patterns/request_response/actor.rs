//! Deeds: takes inbound calls to the services registered here, questions about them, and the callers' words that they no longer
//! wait.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use weft_protocol::{
    PeerId, Refusal, Wire as _,
    patterns::request_response::{CallMessage, CallRequest, CallResponse, Question},
};

use super::{
    handle::resource,
    registry::{Registry, Served},
    stream_in,
};
use crate::{
    mesh::{InboundRequest, PatternDoors},
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

/// Takes calls from the door.
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

/// Takes calls from the door until the node stops.
pub(super) async fn serve(mut doors: PatternDoors, registry: Arc<Registry>, tasks: Tasks) {
    let actor = Arc::new(Actor {
        registry,
        cancellable: Mutex::default(),
    });
    loop {
        tokio::select! {
            biased;
            request = doors.requests.recv() => match request {
                Some(request) => {
                    let span = request.span.clone();
                    let actor = Arc::clone(&actor);
                    tasks.spawn("call", async move { actor.take(request).await }.instrument(span));
                }
                None => return,
            },
            stream = doors.streams.recv() => match stream {
                Some(stream) => {
                    let span = stream.span.clone();
                    let registry = Arc::clone(&actor.registry);
                    tasks.spawn("call-stream", stream_in::serve(registry, stream).instrument(span));
                }
                None => return,
            },
            () = actor.registry.changed.notified() => actor.registry.announce().await,
        }
    }
}

impl Actor {
    async fn take(&self, request: Box<InboundRequest>) {
        match CallMessage::from_bytes(&request.payload) {
            Ok(CallMessage::Call(call)) => self.serve_one(request, call).await,
            Ok(CallMessage::Cancel { call }) => {
                self.cancel((request.peer, call));
                request.answer(Vec::new());
            }
            Ok(CallMessage::Ask(question)) => self.answer(*request, &question),
            Err(error) => request.refuse(Refusal::Malformed, &error.to_string()),
        }
    }

    async fn serve_one(&self, request: Box<InboundRequest>, call: CallRequest) {
        if !is_about(&request, &call.service, &call.endpoint) {
            return request.refuse(Refusal::Malformed, "the greeting names another service");
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
                Ok(bytes) => request.answer(bytes),
                Err(error) => request.answer(CallResponse::failed(500, &format!("the answer: {error}")).to_bytes()),
            },
            Served::Gone => request.refuse(Refusal::Closing, "the service went away"),
            Served::Late => request.refuse(Refusal::Deadline, "the service did not answer before the deadline"),
        }
    }

    fn answer(&self, request: InboundRequest, question: &Question) {
        if !is_about(&request, &question.service, &question.endpoint) {
            return request.refuse(Refusal::Malformed, "the greeting names another service");
        }
        let reply = self.registry.answer(question);
        match reply.to_checked_bytes() {
            Ok(bytes) => request.answer(bytes),
            Err(error) => request.refuse(Refusal::Busy, &format!("the answer: {error}")),
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
