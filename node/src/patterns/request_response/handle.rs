//! What applications ask request-response.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use weft_protocol::{
    PeerId, Refusal, Subject, Verb, Wire as _,
    limits::DIRECT_BODY_BYTES_MAX,
    patterns::request_response::{ANNOUNCEMENT_KEY, CallRequest, CallResponse, PATTERN_ID, ServiceInfo, ServiceList},
};

use super::{
    actor::Registry,
    core::{self, Attempt, Candidate},
    metrics::CallMetrics,
};
use crate::{
    context::greeting,
    error::{ErrorKind, Kind, NodeError},
    mesh::{Mesh, MeshError, streams::OpenError},
    platform::Entropy,
};

/// The endpoint of a service that names none.
pub(crate) const DEFAULT_ENDPOINT: &str = "default";
/// A call's deadline when none is given.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that has only just joined may not know every service yet.
const NEWCOMER: Duration = Duration::from_secs(5);
const NEWCOMER_PATIENCE: Duration = Duration::from_secs(2);
/// Calls waiting for one service, beyond those being served.
const SERVICE_QUEUE_MAX: usize = 64;

/// How to call.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// All of it: lookup, dial, service.
    pub timeout: Duration,
    /// One instance's node, and no other.
    pub node: Option<PeerId>,
    /// Names and values for the service.
    pub headers: Vec<(String, String)>,
}

impl Default for CallOptions {
    fn default() -> Self {
        CallOptions {
            timeout: CALL_TIMEOUT,
            node: None,
            headers: Vec::new(),
        }
    }
}

/// A service's answer.
#[derive(Debug, Clone)]
pub struct CallAnswer {
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Who answered.
    pub node: PeerId,
    /// How long it took.
    pub elapsed: Duration,
}

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No member offers it.
    #[error("no member offers the service {0}")]
    NoneKnown(String),
    /// Members offer it, none can be reached.
    #[error("the service {service} is known but unreachable: {detail}")]
    Unreachable {
        /// The service.
        service: String,
        /// What was tried.
        detail: String,
    },
    /// Members offer it, all are busy.
    #[error("every instance of the service {0} is busy")]
    AllBusy(String),
    /// The callee's node denied it.
    #[error("denied: {0}")]
    Denied(String),
    /// The service itself failed.
    #[error("the service failed with code {code}: {reason}")]
    Failed {
        /// The service's own code.
        code: u16,
        /// Its reason.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The request exceeds a limit or is malformed.
    #[error("{0}")]
    Invalid(String),
    /// The connection broke after the request was sent: it may or may not have been served.
    #[error("the connection to {node} broke; the call may or may not have been served: {detail}")]
    Unknown {
        /// The instance's node.
        node: PeerId,
        /// What happened.
        detail: String,
    },
    /// The node is stopping, or belongs to no mesh.
    #[error("this node is stopping or belongs to no mesh yet")]
    Closed,
}

impl Kind for CallError {
    fn kind(&self) -> ErrorKind {
        match self {
            CallError::NoneKnown(_) => ErrorKind::NotFound,
            CallError::Unreachable { .. } | CallError::Unknown { .. } => ErrorKind::Unreachable,
            CallError::AllBusy(_) => ErrorKind::Busy,
            CallError::Denied(_) => ErrorKind::Denied,
            CallError::Failed { code: 504, .. } => ErrorKind::Timeout,
            CallError::Failed { .. } => ErrorKind::Internal,
            CallError::Timeout(_) => ErrorKind::Timeout,
            CallError::Invalid(_) => ErrorKind::Invalid,
            CallError::Closed => ErrorKind::Closed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            CallError::NoneKnown(service) => Some(format!(
                "`weft services` lists what there is; `weft serve {service} --echo` would offer it"
            )),
            CallError::Denied(_) => {
                Some("`weft cap explain` on the called node says which right is missing".to_owned())
            }
            CallError::Timeout(_) => Some("--timeout gives it longer".to_owned()),
            _ => None,
        }
    }
}

/// What to offer.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// `[A-Za-z0-9_-]`, at most 64 bytes.
    pub name: String,
    /// A semantic version.
    pub version: String,
    /// Empty: `default`.
    pub endpoints: Vec<String>,
    /// For people and for choosing.
    pub metadata: Vec<(String, String)>,
}

impl ServiceOptions {
    /// A service with the default endpoint and nothing said about it.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        ServiceOptions {
            name: name.into(),
            version: version.into(),
            endpoints: Vec::new(),
            metadata: Vec::new(),
        }
    }
}

/// A service this node offers; it is withdrawn on drop.
#[derive(Debug)]
pub struct Serving {
    /// This instance's id.
    pub id: String,
    calls: mpsc::Receiver<IncomingCall>,
    registry: Arc<Registry>,
}

impl Serving {
    /// The next call; `None` when the node is stopping. Cancel-safe.
    pub async fn next(&mut self) -> Option<IncomingCall> {
        self.calls.recv().await
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
    pub(super) reply: oneshot::Sender<CallResponse>,
}

impl IncomingCall {
    /// Answers.
    pub fn answer(self, headers: Vec<(String, String)>, body: Vec<u8>) {
        let _ = self.reply.send(CallResponse::Answer { headers, body });
    }

    /// Says that the service failed.
    pub fn fail(self, code: u16, reason: &str) {
        let _ = self.reply.send(CallResponse::failed(code, reason));
    }

    /// Resolves when the caller no longer waits.
    pub async fn abandoned(&mut self) {
        self.reply.closed().await;
    }
}

/// An instance of a service somewhere in the mesh.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its node.
    pub peer: PeerId,
    /// What it says of itself.
    pub info: ServiceInfo,
    /// Whether it is on this node.
    pub is_local: bool,
    /// Whether its node is connected.
    pub is_connected: bool,
}

/// A cloneable handle on request-response.
#[derive(Clone)]
pub struct RequestResponseHandle {
    mesh: Mesh,
    registry: Arc<Registry>,
    entropy: Arc<dyn Entropy>,
    metrics: CallMetrics,
    started: Instant,
}

impl RequestResponseHandle {
    pub(super) fn new(mesh: Mesh, registry: Arc<Registry>, entropy: Arc<dyn Entropy>, metrics: CallMetrics) -> Self {
        RequestResponseHandle {
            mesh,
            registry,
            entropy,
            metrics,
            started: Instant::now(),
        }
    }

    /// Offers a service until the returned [`Serving`] is dropped.
    ///
    /// # Errors
    /// `Invalid` for a name, version or size that cannot be; `Busy` when this node offers too many.
    pub async fn serve(&self, options: ServiceOptions) -> Result<Serving, NodeError> {
        let id: [u8; 8] = crate::platform::random(&*self.entropy);
        let id = data_encoding::HEXLOWER.encode(&id);
        let endpoints = if options.endpoints.is_empty() {
            vec![DEFAULT_ENDPOINT.to_owned()]
        } else {
            options.endpoints
        };
        let ServiceOptions {
            name,
            version,
            metadata,
            ..
        } = options;
        let info = ServiceInfo {
            name,
            version,
            id: id.clone(),
            metadata,
            endpoints,
        };
        ServiceList(vec![info.clone()]).check()?;
        let (calls, receiver) = mpsc::channel(SERVICE_QUEUE_MAX);
        self.registry.offer(info, calls)?;
        self.registry.announce().await;
        Ok(Serving {
            id,
            calls: receiver,
            registry: Arc::clone(&self.registry),
        })
    }

    /// Every instance the directory knows, this node's first.
    pub fn services(&self) -> Vec<Instance> {
        let local = self.mesh.local_peer();
        let mut all: Vec<Instance> = self
            .registry
            .offered()
            .into_iter()
            .map(|info| Instance {
                peer: local,
                info,
                is_local: true,
                is_connected: true,
            })
            .collect();
        for (peer, bytes) in self.mesh.trust().announcements(ANNOUNCEMENT_KEY) {
            if peer == local {
                continue;
            }
            let Ok(ServiceList(list)) = ServiceList::from_bytes(&bytes) else {
                continue;
            };
            let is_connected = self.mesh.peers().contains(&peer);
            all.extend(list.into_iter().map(|info| Instance {
                peer,
                info,
                is_local: false,
                is_connected,
            }));
        }
        all
    }

    /// Calls a service and waits for its answer.
    ///
    /// Cancel-safe in that nothing is left behind here; the call may have been served.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        service: &str,
        endpoint: &str,
        body: Vec<u8>,
        options: CallOptions,
    ) -> Result<CallAnswer, CallError> {
        let endpoint = if endpoint.is_empty() {
            DEFAULT_ENDPOINT
        } else {
            endpoint
        };
        if body.len() > DIRECT_BODY_BYTES_MAX {
            return Err(CallError::Invalid(format!(
                "the request has {} bytes, a call carries at most {DIRECT_BODY_BYTES_MAX}",
                body.len()
            )));
        }
        let request = CallRequest {
            service: service.to_owned(),
            endpoint: endpoint.to_owned(),
            headers: options.headers.clone(),
            body,
        };
        request.check().map_err(|e| CallError::Invalid(e.to_string()))?;
        let started = Instant::now();
        let within = options.timeout;
        let attempts = self.attempts(request, &options, started);
        let result = tokio::time::timeout(within, attempts)
            .await
            .unwrap_or(Err(CallError::Timeout(within)));
        self.metrics.note(&result, started.elapsed());
        result
    }

    async fn attempts(
        &self,
        request: CallRequest,
        options: &CallOptions,
        started: Instant,
    ) -> Result<CallAnswer, CallError> {
        let service = request.service.clone();
        let order = self.known(&service, &request.endpoint, options).await;
        let resource = resource(&service, &request.endpoint).map_err(|e| CallError::Invalid(e.to_string()))?;
        let payload = request.to_bytes();
        let mut ended = Vec::new();
        let mut details = Vec::new();
        for peer in order {
            let left = options.timeout.saturating_sub(started.elapsed());
            let outcome = if peer == self.mesh.local_peer() {
                self.registry
                    .call_local(request.clone(), started + options.timeout)
                    .await
            } else {
                self.ask(peer, &resource, payload.clone(), left).await
            };
            match outcome {
                Ok(CallResponse::Answer { headers, body }) => {
                    return Ok(CallAnswer {
                        headers,
                        body,
                        node: peer,
                        elapsed: started.elapsed(),
                    });
                }
                Ok(CallResponse::Failed { code, reason }) => return Err(CallError::Failed { code, reason }),
                Err((attempt, error)) => {
                    if !core::may_ask_another(attempt) {
                        return Err(error);
                    }
                    details.push(format!("{peer}: {error}"));
                    if let Attempt::NotSeen(kind) = attempt {
                        ended.push(kind);
                    }
                }
            }
        }
        Err(match core::nobody(&ended) {
            ErrorKind::NotFound => CallError::NoneKnown(service),
            ErrorKind::Busy => CallError::AllBusy(service),
            _ => CallError::Unreachable {
                service,
                detail: details.join("; "),
            },
        })
    }

    async fn ask(
        &self,
        peer: PeerId,
        resource: &Subject,
        payload: Vec<u8>,
        left: Duration,
    ) -> Result<CallResponse, (Attempt, CallError)> {
        let hello = greeting(PATTERN_ID, self.mesh.trust(), Verb::Call, resource);
        match self.mesh.request(peer, hello, payload, left).await {
            Ok(bytes) => CallResponse::from_bytes(&bytes).map_err(|error| {
                (
                    Attempt::Seen,
                    CallError::Unknown {
                        node: peer,
                        detail: error.to_string(),
                    },
                )
            }),
            Err(error) => Err(judge(peer, error)),
        }
    }

    /// The instances to ask, in order. A newcomer waits a little for what it cannot know yet.
    async fn known(&self, service: &str, endpoint: &str, options: &CallOptions) -> Vec<PeerId> {
        let mut records = self.mesh.trust().watch_records();
        let patience = if self.started.elapsed() < NEWCOMER {
            NEWCOMER_PATIENCE
        } else {
            Duration::ZERO
        };
        let give_up = Instant::now() + patience;
        loop {
            records.mark_unchanged();
            let found = self.candidates(service, endpoint, options);
            if !found.is_empty() {
                return core::order(found);
            }
            if tokio::time::timeout_at(give_up, records.changed()).await.is_err() {
                return Vec::new();
            }
        }
    }

    fn candidates(&self, service: &str, endpoint: &str, options: &CallOptions) -> Vec<Candidate> {
        self.services()
            .into_iter()
            .filter(|i| i.info.name == service && i.info.endpoints.iter().any(|e| e == endpoint))
            .filter(|i| options.node.is_none_or(|node| node == i.peer))
            .map(|i| Candidate {
                peer: i.peer,
                is_local: i.is_local,
                is_connected: i.is_connected,
                rtt: self.mesh.peers().get(&i.peer).and_then(|p| p.rtt()),
            })
            .collect()
    }
}

/// The subject a right to call is about: `service`, or `service.endpoint` where it is not the default one.
pub(super) fn resource(service: &str, endpoint: &str) -> Result<Subject, weft_protocol::DecodeError> {
    if endpoint == DEFAULT_ENDPOINT {
        service.parse()
    } else {
        format!("{service}.{endpoint}").parse()
    }
}

fn judge(peer: PeerId, error: MeshError) -> (Attempt, CallError) {
    let kind = error.kind();
    let text = error.to_string();
    match error {
        MeshError::Refused {
            reason: Refusal::Denied | Refusal::NotMember,
            detail,
            ..
        } => (Attempt::NotSeen(ErrorKind::Denied), CallError::Denied(detail)),
        MeshError::Refused {
            reason: Refusal::Deadline,
            ..
        }
        | MeshError::Timeout { .. } => (Attempt::Seen, CallError::Timeout(Duration::ZERO)),
        MeshError::Refused {
            reason: Refusal::Malformed | Refusal::Version,
            detail,
            ..
        } => (Attempt::NotSeen(ErrorKind::Invalid), CallError::Invalid(detail)),
        // The door-keeper's word: the service saw nothing. `Closing` may come after it was handed over.
        MeshError::Refused {
            reason: Refusal::Closing,
            detail,
            ..
        } => (Attempt::Seen, CallError::Unknown { node: peer, detail }),
        MeshError::Refused { .. } => (Attempt::NotSeen(kind), CallError::AllBusy(text)),
        MeshError::Open(OpenError::Denied { reason, .. }) => {
            (Attempt::NotSeen(ErrorKind::Unreachable), CallError::Denied(reason))
        }
        MeshError::Open(_) => (
            Attempt::NotSeen(kind),
            CallError::Unreachable {
                service: String::new(),
                detail: text,
            },
        ),
        MeshError::Invalid(text) => (Attempt::NotSeen(ErrorKind::Invalid), CallError::Invalid(text)),
        MeshError::Busy(_) => (Attempt::NotSeen(ErrorKind::Busy), CallError::AllBusy(text)),
        MeshError::Closed => (Attempt::Seen, CallError::Closed),
        _ => (
            Attempt::Seen,
            CallError::Unknown {
                node: peer,
                detail: text,
            },
        ),
    }
}
