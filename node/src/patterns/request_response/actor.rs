//! Deeds: takes inbound calls to the services registered here, and announces them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tracing::Instrument as _;
use weft_protocol::{
    PeerId, Refusal, Wire as _,
    limits::SERVICES_MAX,
    patterns::request_response::{ANNOUNCEMENT_KEY, CallRequest, CallResponse, ServiceInfo, ServiceList},
};

use super::{
    core::Attempt,
    handle::{CallError, IncomingCall, resource},
};
use crate::{
    error::{ErrorKind, NodeError},
    mesh::{InboundRequest, Mesh, PatternDoors},
    tasks::Tasks,
};

struct Offered {
    info: ServiceInfo,
    calls: mpsc::Sender<IncomingCall>,
}

/// The services this node offers, by instance id.
pub(super) struct Registry {
    mesh: Mesh,
    offered: Mutex<BTreeMap<String, Offered>>,
    /// Tells the announcer that something changed.
    changed: tokio::sync::Notify,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("offered", &self.lock().len()).finish()
    }
}

impl Registry {
    pub(super) fn new(mesh: Mesh) -> Self {
        Registry {
            mesh,
            offered: Mutex::default(),
            changed: tokio::sync::Notify::new(),
        }
    }

    pub(super) fn offer(&self, info: ServiceInfo, calls: mpsc::Sender<IncomingCall>) -> Result<(), NodeError> {
        let mut offered = self.lock();
        if offered.len() >= SERVICES_MAX {
            return Err(NodeError::busy(format!(
                "this node offers {SERVICES_MAX} services already"
            )));
        }
        let list: Vec<ServiceInfo> = offered.values().map(|o| o.info.clone()).chain([info.clone()]).collect();
        ServiceList(list).to_checked_bytes()?;
        offered.insert(info.id.clone(), Offered { info, calls });
        Ok(())
    }

    pub(super) fn withdraw(&self, id: &str) {
        self.lock().remove(id);
        self.changed.notify_one();
    }

    pub(super) fn offered(&self) -> Vec<ServiceInfo> {
        self.lock().values().map(|o| o.info.clone()).collect()
    }

    /// Says to the mesh what this node offers.
    pub(super) async fn announce(&self) {
        let list = ServiceList(self.offered());
        if self.mesh.announce(ANNOUNCEMENT_KEY, list.to_bytes()).await.is_err() {
            tracing::debug!("not announced: the node is stopping");
        }
    }

    /// The queue of the instance here that has the most room.
    fn choose(&self, service: &str, endpoint: &str) -> Option<mpsc::Sender<IncomingCall>> {
        let offered = self.lock();
        let able = offered
            .values()
            .filter(|o| o.info.name == service && o.info.endpoints.iter().any(|e| e == endpoint));
        able.max_by_key(|o| o.calls.capacity()).map(|o| o.calls.clone())
    }

    /// Serves a call by an application of this node, without the network.
    pub(super) async fn call_local(
        &self,
        request: CallRequest,
        deadline: Instant,
    ) -> Result<CallResponse, (Attempt, CallError)> {
        let caller = self.mesh.local_peer();
        match self.hand_over(caller, request, deadline, tracing::Span::current()) {
            Ok(answer) => answer.await.map_err(|_| {
                let detail = "the service went away".to_owned();
                (Attempt::Seen, CallError::Unknown { node: caller, detail })
            }),
            Err((Refusal::Busy, detail)) => Err((Attempt::NotSeen(ErrorKind::Busy), CallError::AllBusy(detail))),
            Err((_, detail)) => Err((Attempt::NotSeen(ErrorKind::NotFound), CallError::NoneKnown(detail))),
        }
    }

    fn hand_over(
        &self,
        caller: PeerId,
        request: CallRequest,
        deadline: Instant,
        span: tracing::Span,
    ) -> Result<oneshot::Receiver<CallResponse>, (Refusal, String)> {
        let CallRequest {
            service,
            endpoint,
            headers,
            body,
        } = request;
        let Some(queue) = self.choose(&service, &endpoint) else {
            return Err((
                Refusal::Unknown,
                format!("no service {service} with endpoint {endpoint} here"),
            ));
        };
        let (reply, answer) = oneshot::channel();
        let call = IncomingCall {
            caller,
            service,
            endpoint,
            headers,
            body,
            deadline,
            span,
            reply,
        };
        match queue.try_send(call) {
            Ok(()) => Ok(answer),
            Err(mpsc::error::TrySendError::Full(call)) => Err((
                Refusal::Busy,
                format!("the service {} has too many calls waiting", call.service),
            )),
            Err(mpsc::error::TrySendError::Closed(call)) => {
                Err((Refusal::Unknown, format!("the service {} has just gone", call.service)))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Offered>> {
        self.offered.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Takes calls from the door until the node stops.
pub(super) async fn serve(mut doors: PatternDoors, registry: Arc<Registry>, tasks: Tasks) {
    loop {
        tokio::select! {
            biased;
            request = doors.requests.recv() => match request {
                Some(request) => {
                    let span = request.span.clone();
                    let registry = Arc::clone(&registry);
                    tasks.spawn("call", async move { serve_one(&registry, request).await }.instrument(span));
                }
                None => return,
            },
            stream = doors.streams.recv() => match stream {
                // Calls are unary: a stream has no meaning here yet, and says so by closing.
                Some(stream) => drop(stream),
                None => return,
            },
            () = registry.changed.notified() => registry.announce().await,
        }
    }
}

async fn serve_one(registry: &Registry, request: Box<InboundRequest>) {
    let call = match CallRequest::from_bytes(&request.payload) {
        Ok(call) => call,
        Err(error) => return request.refuse(Refusal::Malformed, &error.to_string()),
    };
    // The right was checked for what the greeting names: the request must not name something else.
    if resource(&call.service, &call.endpoint)
        .map(|r| r.as_str() != request.hello.resource)
        .unwrap_or(true)
    {
        return request.refuse(Refusal::Malformed, "the greeting names another service");
    }
    match registry.hand_over(request.peer, call, request.deadline, request.span.clone()) {
        Ok(answer) => match tokio::time::timeout_at(request.deadline, answer).await {
            Ok(Ok(response)) => match response.to_checked_bytes() {
                Ok(bytes) => request.answer(bytes),
                Err(error) => request.answer(CallResponse::failed(500, &format!("the answer: {error}")).to_bytes()),
            },
            Ok(Err(_)) => request.refuse(Refusal::Closing, "the service went away"),
            Err(_) => request.refuse(Refusal::Deadline, "the service did not answer before the deadline"),
        },
        Err((reason, detail)) => request.refuse(reason, &detail),
    }
}
