//! One call: whom to ask, and when to ask another.
//!
//! Another instance is asked when the first surely did not see the call. What an instance may have seen is sent again only where
//! that does no harm: to any, when the endpoint is idempotent; to the same, when the call has an idempotency key, which that one
//! knows again. Further tries cost from a budget that calls earn. A second instance is asked besides the first, when that is
//! wanted and it is slow; who answers first counts, and the other is told.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::Instant;
use weft_protocol::{
    PeerId, Refusal, Subject, Verb, Wire as _,
    patterns::request_response::{CallMessage, CallRequest, CallResponse, PATTERN_ID, TurnedAway},
};

use super::{
    catalogue::Entry,
    core::{self, Attempt, Candidate, Verdict},
    handle::{Inner, resource},
    health::Ended,
    options::{CallAnswer, CallError, CallOptions},
    receipts,
    registry::Served,
};
use crate::{
    context::greeting,
    error::{ErrorKind, Kind as _},
    mesh::{MeshError, streams::OpenError},
};

/// Before a call is sent again, the first time; then twice as long each time.
const PAUSE: Duration = Duration::from_millis(20);
/// A cancel that does not arrive within it is of no use any more.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

/// How asking one instance ended.
struct End {
    entry: Arc<Entry>,
    outcome: Result<CallResponse, (Attempt, CallError)>,
}

/// One call under way.
pub(super) struct Attempts<'a> {
    inner: &'a Arc<Inner>,
    request: CallRequest,
    resource: Subject,
    options: &'a CallOptions,
    deadline: Instant,
    started: Instant,
    asked: u32,
    retries: u32,
    ended: Vec<ErrorKind>,
    details: Vec<String>,
    retry_after: Option<Duration>,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(
        inner: &'a Arc<Inner>,
        request: CallRequest,
        options: &'a CallOptions,
        started: Instant,
    ) -> Result<Self, CallError> {
        let resource = resource(&request.service, &request.endpoint).map_err(|e| CallError::Invalid(e.to_string()))?;
        Ok(Attempts {
            inner,
            request,
            resource,
            options,
            deadline: started + options.timeout,
            started,
            asked: 0,
            retries: 0,
            ended: Vec::new(),
            details: Vec::new(),
            retry_after: None,
        })
    }

    /// Asks until somebody answers, or nobody is left to be asked. `target` is what is called, in words.
    pub(super) async fn run(mut self, found: Vec<Arc<Entry>>, target: &str) -> Result<CallAnswer, CallError> {
        let is_idempotent = found.iter().all(|entry| is_idempotent(entry, &self.request.endpoint));
        if self.options.hedge_after.is_some() && !is_idempotent && !found.is_empty() {
            return Err(CallError::Invalid(format!(
                "{target} does not say that it is idempotent: a second instance must not be asked as well"
            )));
        }
        self.note_open(&found);
        let mut order = self.order(&found).into_iter();
        let mut running = FuturesUnordered::new();
        loop {
            if running.is_empty() {
                match order.next() {
                    Some(entry) => running.push(self.ask(entry)),
                    None => {
                        let again = self.pause_when_busy(&found).await;
                        let Some(again) = again else {
                            return Err(self.nobody(target));
                        };
                        order = again.into_iter();
                        continue;
                    }
                }
            }
            let hedge = self
                .options
                .hedge_after
                .filter(|_| running.len() == 1 && order.len() > 0);
            let end = tokio::select! {
                biased;
                Some(end) = running.next() => end,
                () = until(hedge) => {
                    match order.next() {
                        Some(entry) if self.inner.spend() => {
                            self.inner.metrics.note_event("hedge");
                            running.push(self.ask(entry));
                        }
                        _ => order = Vec::new().into_iter(),
                    }
                    continue;
                }
            };
            let End { entry, outcome } = end;
            match outcome {
                Ok(response) => match self.settle(&entry, response) {
                    Some(settled) => return settled,
                    None => continue,
                },
                Err((attempt, error)) if core::may_ask_another(attempt) => self.note(entry.peer, attempt, &error),
                Err((_, error)) => {
                    if !running.is_empty() {
                        // The other one may still answer.
                        self.details.push(format!("{}: {error}", entry.peer));
                        self.ended.push(error.kind());
                        continue;
                    }
                    match self.again(&entry, is_idempotent, &error).await {
                        true if is_idempotent && order.len() > 0 => {}
                        true => running.push(self.ask(entry)),
                        false => return Err(error),
                    }
                }
            }
        }
    }

    /// Those whose breaker is open are not asked, which is told when nobody else is there.
    pub(super) fn note_open(&mut self, found: &[Arc<Entry>]) {
        for entry in found.iter().filter(|entry| !entry.is_local) {
            let known = entry.health.known();
            if known.verdict == Verdict::Open && self.request.idempotency_key.is_none() {
                let left_ms = known.open_for.unwrap_or_default().as_millis();
                self.details.push(format!(
                    "{}: it failed again and again; not asked for another {left_ms} ms",
                    entry.peer
                ));
                self.ended.push(ErrorKind::Unreachable);
            }
        }
    }

    /// The result, if a response is one; otherwise another instance is to be asked.
    pub(super) fn settle(&mut self, entry: &Entry, response: CallResponse) -> Option<Result<CallAnswer, CallError>> {
        match response {
            CallResponse::Answer {
                headers, body, receipt, ..
            } => Some(Ok(CallAnswer {
                receipt: receipt.filter(|receipt| receipts::is_right(receipt, &entry.peer, &self.request, &body)),
                headers,
                body,
                node: entry.peer,
                instance: self.request.instance.clone(),
                attempts: self.asked,
                elapsed: self.started.elapsed(),
            })),
            CallResponse::Failed { code, reason, .. } => Some(Err(CallError::Failed { code, reason })),
            CallResponse::TurnedAway {
                why,
                detail,
                retry_after_ms,
            } => {
                let kind = match why {
                    TurnedAway::Busy => ErrorKind::Busy,
                    TurnedAway::Unknown | TurnedAway::Draining => ErrorKind::NotFound,
                };
                if let Some(ms) = retry_after_ms {
                    let pause = Duration::from_millis(ms.into());
                    self.retry_after = Some(self.retry_after.map_or(pause, |known| known.min(pause)));
                }
                self.ended.push(kind);
                self.details.push(format!("{}: {detail}", entry.peer));
                None
            }
        }
    }

    pub(super) fn note(&mut self, peer: PeerId, attempt: Attempt, error: &CallError) {
        self.details.push(format!("{peer}: {error}"));
        if let Attempt::NotSeen(kind) = attempt {
            self.ended.push(kind);
        }
    }

    /// Whether what an instance may have seen is sent again; after a pause.
    async fn again(&mut self, entry: &Entry, is_idempotent: bool, error: &CallError) -> bool {
        let is_safe = is_idempotent || self.request.idempotency_key.is_some();
        let is_worth_it = matches!(error, CallError::Unknown { .. }) && self.retries < self.options.retries;
        if !is_safe || !is_worth_it || !self.inner.spend() {
            return false;
        }
        self.details.push(format!("{}: {error}", entry.peer));
        self.pause(PAUSE).await;
        true
    }

    /// When all are busy and say when they may not be, waits until then and asks all of them again.
    async fn pause_when_busy(&mut self, found: &[Arc<Entry>]) -> Option<Vec<Arc<Entry>>> {
        let is_busy = core::nobody(&self.ended) == ErrorKind::Busy;
        let pause = self.retry_after.take().filter(|_| is_busy)?;
        let fits = Instant::now() + pause < self.deadline;
        if !fits || self.retries >= self.options.retries || !self.inner.spend() {
            self.retry_after = Some(pause);
            return None;
        }
        self.pause(pause).await;
        self.ended.clear();
        Some(self.order(found))
    }

    async fn pause(&mut self, at_first: Duration) {
        self.inner.metrics.note_event("retry");
        let longer = at_first * 2_u32.pow(self.retries.min(8));
        self.retries += 1;
        // Half of it is left to chance, so that those who failed together do not come back together.
        let chance = self.inner.dice() as f64 / u64::MAX as f64;
        tokio::time::sleep(longer.mul_f64(0.5 + chance / 2.0)).await;
    }

    /// Whom to ask, in which order.
    pub(super) fn order(&self, found: &[Arc<Entry>]) -> Vec<Arc<Entry>> {
        let mut found = found.to_vec();
        if let Some(key) = &self.request.idempotency_key {
            // The same key goes to the same instance, as long as that is there.
            found.sort_by_cached_key(|entry| std::cmp::Reverse(affinity(key, entry)));
            return found;
        }
        let candidates: Vec<Candidate> = found.iter().map(|entry| self.inner.candidate(entry)).collect();
        let dice = if found.len() > 1 { self.inner.dice() } else { 0 };
        let order = core::order(&candidates, dice);
        order.into_iter().map(|at| Arc::clone(&found[at])).collect()
    }

    /// Asks one instance. The future does not borrow this.
    fn ask(&mut self, entry: Arc<Entry>) -> impl Future<Output = End> + Send + use<> {
        self.asked += 1;
        let mut request = self.request.clone();
        let (inner, resource, deadline) = (Arc::clone(self.inner), self.resource.clone(), self.deadline);
        async move {
            let health = Arc::clone(&entry.health);
            let under_way = health.begin();
            let outcome = if entry.is_local {
                inner.ask_here(request, deadline).await
            } else {
                request.call = Some(inner.next_call());
                inner.ask_there(entry.peer, &resource, request, deadline).await
            };
            under_way.end(ended(&outcome));
            if let Ok(CallResponse::Answer { load, .. } | CallResponse::Failed { load, .. }) = &outcome {
                health.note_load(*load);
            }
            if let Ok(CallResponse::TurnedAway {
                why: TurnedAway::Busy, ..
            }) = &outcome
            {
                health.note_load(Some(u16::MAX));
            }
            End { entry, outcome }
        }
    }

    pub(super) fn nobody(&self, target: &str) -> CallError {
        match core::nobody(&self.ended) {
            ErrorKind::NotFound => CallError::NoneKnown(target.to_owned()),
            ErrorKind::Busy => CallError::AllBusy {
                service: target.to_owned(),
                retry_after: self.retry_after,
            },
            _ => CallError::Unreachable {
                service: target.to_owned(),
                detail: self.details.join("; "),
            },
        }
    }
}

async fn until(hedge: Option<Duration>) {
    match hedge {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

fn is_idempotent(entry: &Entry, endpoint: &str) -> bool {
    entry
        .info
        .endpoint(endpoint)
        .is_some_and(|endpoint| endpoint.is_idempotent())
}

/// How much a key belongs to an instance: the greatest gets it (rendezvous hashing).
fn affinity(key: &str, entry: &Entry) -> [u8; 32] {
    use sha2::{Digest as _, Sha256};
    let hash = Sha256::new_with_prefix(key)
        .chain_update([0])
        .chain_update(&entry.info.id);
    hash.chain_update(entry.peer.to_bytes()).finalize().into()
}

fn ended(outcome: &Result<CallResponse, (Attempt, CallError)>) -> Ended {
    match outcome {
        Ok(CallResponse::TurnedAway { .. }) => Ended::Unclear,
        // What stands before the service says so when there is nothing behind it.
        Ok(CallResponse::Failed { code: 502..=504, .. }) => Ended::Failed,
        Ok(_) => Ended::Answered,
        Err((_, CallError::Unreachable { .. } | CallError::Unknown { .. } | CallError::Timeout(_))) => Ended::Failed,
        Err(_) => Ended::Unclear,
    }
}

/// Tells an instance that nobody waits for its answer, unless the answer came or its time is over.
struct Cancel {
    inner: Arc<Inner>,
    peer: PeerId,
    resource: Subject,
    call: u64,
    deadline: Instant,
    is_over: bool,
}

impl Drop for Cancel {
    fn drop(&mut self) {
        if self.is_over || Instant::now() >= self.deadline {
            return;
        }
        let (inner, peer, call) = (Arc::clone(&self.inner), self.peer, self.call);
        let resource = self.resource.clone();
        self.inner.tasks.spawn("call-cancel", async move {
            let hello = greeting(PATTERN_ID, inner.mesh.trust(), Verb::Call, &resource);
            let payload = CallMessage::Cancel { call }.to_bytes();
            if let Err(error) = inner.mesh.request(peer, hello, payload, CANCEL_PATIENCE).await {
                tracing::debug!(%peer, %error, "a cancel did not arrive");
            }
        });
    }
}

impl Inner {
    /// What is known of an instance.
    fn candidate(&self, entry: &Entry) -> Candidate {
        let known = entry.health.known();
        let info = self.mesh.peers().get(&entry.peer);
        let is_connected = entry.is_local || info.is_some();
        Candidate {
            is_local: entry.is_local,
            is_connected,
            same_zone: entry.info.zone.as_deref() == self.mesh.zone(),
            rtt: info.and_then(|info| info.rtt()),
            service_time: known.service_time,
            load: if entry.is_local {
                self.registry.load(&entry.info.id)
            } else {
                known.load
            },
            in_flight: known.in_flight,
            verdict: if entry.is_local { Verdict::Good } else { known.verdict },
        }
    }

    async fn ask_here(&self, request: CallRequest, deadline: Instant) -> Result<CallResponse, (Attempt, CallError)> {
        let here = self.mesh.local_peer();
        match self
            .registry
            .serve(here, request, deadline, tracing::Span::current())
            .await
        {
            Served::Response(response) => Ok(Arc::unwrap_or_clone(response)),
            Served::Gone => {
                let detail = "the service went away".to_owned();
                Err((Attempt::Seen, CallError::Unknown { node: here, detail }))
            }
            Served::Late => Err((Attempt::Seen, CallError::Timeout(Duration::ZERO))),
        }
    }

    async fn ask_there(
        self: &Arc<Self>,
        peer: PeerId,
        resource: &Subject,
        request: CallRequest,
        deadline: Instant,
    ) -> Result<CallResponse, (Attempt, CallError)> {
        let hello = greeting(PATTERN_ID, self.mesh.trust(), Verb::Call, resource);
        let left = deadline.saturating_duration_since(Instant::now());
        let mut cancel = request.call.map(|call| Cancel {
            inner: Arc::clone(self),
            peer,
            resource: resource.clone(),
            call,
            deadline,
            is_over: false,
        });
        let payload = CallMessage::Call(request).to_bytes();
        let answer = self.mesh.request(peer, hello, payload, left).await;
        if let Some(cancel) = &mut cancel {
            cancel.is_over = true;
        }
        match answer {
            Ok(bytes) => CallResponse::from_bytes(&bytes).map_err(|error| {
                let detail = error.to_string();
                (Attempt::Seen, CallError::Unknown { node: peer, detail })
            }),
            Err(error) => Err(judge(peer, error)),
        }
    }
}

pub(super) fn judge(peer: PeerId, error: MeshError) -> (Attempt, CallError) {
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
        MeshError::Refused { .. } => (
            Attempt::NotSeen(kind),
            CallError::AllBusy {
                service: text,
                retry_after: None,
            },
        ),
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
        MeshError::Busy(_) => (
            Attempt::NotSeen(ErrorKind::Busy),
            CallError::AllBusy {
                service: text,
                retry_after: None,
            },
        ),
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
