//! One call: whom to ask, and when to ask another.
//!
//! Another instance is asked when the first surely did not see the call. What an instance may have seen is sent again only where
//! that does no harm: to any, when the endpoint is idempotent; to the same, when the call has an idempotency key, which that one
//! knows again. Further tries cost from a budget that calls earn. A second instance is asked besides the first, when that is
//! wanted and it is slow; who answers first counts, and the other is told.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use pin_project_lite::pin_project;

use tokio::time::{Instant, sleep_until};
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
    mesh::{MeshError, PeerInfo, streams::OpenError},
};

/// Before a call is sent again, the first time; then twice as long each time.
const PAUSE: Duration = Duration::from_millis(20);
/// A cancel that does not arrive within it is of no use any more.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

/// What one instance is asked.
enum Asking {
    Here(Box<CallRequest>),
    There {
        resource: Arc<Subject>,
        call: u64,
        payload: Vec<u8>,
    },
}

/// How asking one instance ended.
struct End {
    entry: Arc<Entry>,
    outcome: Result<CallResponse, (Attempt, CallError)>,
}

/// One call under way.
pub(super) struct Attempts<'a> {
    inner: &'a Arc<Inner>,
    request: CallRequest,
    resource: Arc<Subject>,
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
            resource: Arc::new(resource),
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

    /// Asks until somebody answers, or nobody is left to be asked. `target` says what is called, in words.
    pub(super) async fn run(
        mut self,
        found: Vec<Arc<Entry>>,
        target: impl Fn() -> String,
    ) -> Result<CallAnswer, CallError> {
        let is_idempotent = found.iter().all(|entry| is_idempotent(entry, &self.request.endpoint));
        if self.options.hedge_after.is_some() && !is_idempotent && !found.is_empty() {
            return Err(CallError::Invalid(format!(
                "{} does not say that it is idempotent: a second instance must not be asked as well",
                target()
            )));
        }
        let mut order = self.order(&found).into_iter();
        let mut running = pin!(Asked::default());
        loop {
            if running.is_empty() {
                match order.next() {
                    Some(entry) => running.as_mut().push(self.ask(entry)),
                    None => {
                        let again = self.pause_when_busy(&found).await;
                        let Some(again) = again else {
                            return Err(self.nobody(&target()));
                        };
                        order = again.into_iter();
                        continue;
                    }
                }
            }
            let hedge = self.options.hedge_after.filter(|_| running.is_one() && order.len() > 0);
            let end = tokio::select! {
                biased;
                end = running.as_mut().next() => end,
                () = until(hedge) => {
                    match order.next() {
                        Some(entry) if self.inner.spend() => {
                            self.inner.metrics.note_event("hedge");
                            running.as_mut().push(self.ask(entry));
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
                        true => running.as_mut().push(self.ask(entry)),
                        false => return Err(error),
                    }
                }
            }
        }
    }

    /// Those whose breaker is open are not asked, which is told when nobody else is there.
    fn note_open(&mut self, peer: PeerId, open_for: Option<Duration>) {
        let left_ms = open_for.unwrap_or_default().as_millis();
        self.details.push(format!(
            "{peer}: it failed again and again; not asked for another {left_ms} ms"
        ));
        self.ended.push(ErrorKind::Unreachable);
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
        let until = Instant::now() + longer.mul_f64(0.5 + chance / 2.0);
        sleep_until(until.min(self.deadline)).await;
    }

    /// Whom to ask, in which order.
    pub(super) fn order(&mut self, found: &[Arc<Entry>]) -> Vec<Arc<Entry>> {
        let mut found = found.to_vec();
        if let Some(key) = &self.request.idempotency_key {
            // The same key goes to the same instance, as long as that is there.
            found.sort_by_cached_key(|entry| std::cmp::Reverse(affinity(key, entry)));
            return found;
        }
        found.retain(|entry| {
            let known = (!entry.is_local).then(|| entry.health.known());
            let open = known.filter(|known| known.verdict == Verdict::Open);
            open.inspect(|open| self.note_open(entry.peer, open.open_for)).is_none()
        });
        if found.len() < 2 {
            return found;
        }
        let candidates: Vec<Candidate> = found.iter().map(|entry| self.inner.candidate(entry)).collect();
        let order = core::order(&candidates, self.inner.dice());
        order.into_iter().map(|at| Arc::clone(&found[at])).collect()
    }

    /// Asks one instance. The future does not borrow this.
    fn ask(&mut self, entry: Arc<Entry>) -> impl Future<Output = End> + Send + use<> {
        self.asked += 1;
        let (inner, deadline) = (Arc::clone(self.inner), self.deadline);
        let asking = if entry.is_local {
            Asking::Here(Box::new(self.request.clone()))
        } else {
            let call = self.inner.next_call();
            self.request.call = Some(call);
            Asking::There {
                resource: Arc::clone(&self.resource),
                call,
                payload: CallMessage::call_bytes(&self.request),
            }
        };
        async move {
            let under_way = entry.health.begin();
            let outcome = match asking {
                // A large future beside the other one.
                Asking::Here(request) => Box::pin(inner.ask_here(*request, deadline)).await,
                Asking::There {
                    resource,
                    call,
                    payload,
                } => inner.ask_there(entry.peer, resource, (call, payload), deadline).await,
            };
            let load = match &outcome {
                Ok(CallResponse::Answer { load, .. } | CallResponse::Failed { load, .. }) => *load,
                Ok(CallResponse::TurnedAway {
                    why: TurnedAway::Busy, ..
                }) => Some(u16::MAX),
                _ => None,
            };
            under_way.end_with(ended(&outcome), load);
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

pin_project! {
    /// At most two that are asked at once. The first is in place, for nearly every call asks one.
    struct Asked<F> {
        #[pin]
        first: Option<F>,
        second: Option<Pin<Box<F>>>,
    }
}

impl<F> Default for Asked<F> {
    fn default() -> Self {
        Asked {
            first: None,
            second: None,
        }
    }
}

impl<F: Future> Asked<F> {
    fn is_empty(&self) -> bool {
        self.first.is_none() && self.second.is_none()
    }

    fn is_one(&self) -> bool {
        self.first.is_some() != self.second.is_some()
    }

    /// In the place that is free.
    fn push(self: Pin<&mut Self>, future: F) {
        let mut this = self.project();
        if this.first.is_none() {
            this.first.set(Some(future));
        } else {
            debug_assert!(this.second.is_none(), "no more than two are asked");
            *this.second = Some(Box::pin(future));
        }
    }

    /// What comes first; without end when there is nothing. Cancel-safe.
    async fn next(mut self: Pin<&mut Self>) -> F::Output {
        poll_fn(|cx| {
            let mut this = self.as_mut().project();
            if let Some(future) = this.first.as_mut().as_pin_mut()
                && let Poll::Ready(output) = future.poll(cx)
            {
                this.first.set(None);
                return Poll::Ready(output);
            }
            if let Some(future) = this.second
                && let Poll::Ready(output) = future.as_mut().poll(cx)
            {
                *this.second = None;
                return Poll::Ready(output);
            }
            Poll::Pending
        })
        .await
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
    resource: Arc<Subject>,
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
        let resource = Arc::clone(&self.resource);
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
        // Nothing where it is not connected; then nothing where it was not measured.
        let rtt = self.mesh.peers().look(&entry.peer, PeerInfo::rtt);
        let is_connected = entry.is_local || rtt.is_some();
        Candidate {
            is_local: entry.is_local,
            is_connected,
            same_zone: entry.info.zone.as_deref() == self.mesh.zone(),
            rtt: rtt.flatten(),
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
        let span = tracing::Span::current();
        match self.registry.serve_until(here, request, deadline, span).await {
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
        resource: Arc<Subject>,
        (call, payload): (u64, Vec<u8>),
        deadline: Instant,
    ) -> Result<CallResponse, (Attempt, CallError)> {
        let hello = greeting(PATTERN_ID, self.mesh.trust(), Verb::Call, &resource);
        let left = deadline.saturating_duration_since(Instant::now());
        let mut cancel = Cancel {
            inner: Arc::clone(self),
            peer,
            resource,
            call,
            deadline,
            is_over: false,
        };
        let answer = self.mesh.request(peer, hello, payload, left).await;
        cancel.is_over = true;
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
