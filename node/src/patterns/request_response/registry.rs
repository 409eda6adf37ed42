//! The services this node offers: hands calls to them, counts, sheds what is too much, drains.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use semver::{Version, VersionReq};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};
use weft_protocol::{
    PeerId, Wire as _,
    limits::{SCHEMA_BYTES_MAX, SCHEMAS_BYTES_MAX, SERVICES_MAX},
    patterns::request_response::{
        ANNOUNCEMENT_KEY, CallRequest, CallResponse, EndpointSchema, InstanceSchemas, InstanceStats, Question,
        QuestionReply, ServiceInfo, ServiceList, Topic, TurnedAway,
    },
};

use super::{
    super::body::BodyReader,
    memory::{Memory, Recall},
    receipts,
    serving::{IncomingCall, Over, Reply},
    stats::EndpointCounts,
};
use crate::{error::NodeError, mesh::Mesh, tasks::Tasks};

/// Calls waiting to be taken by one service.
pub(super) const SERVICE_QUEUE_MAX: usize = 64;
/// When a caller that was turned away may try again, at least and at most.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(20);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// One instance of a service on this node.
#[derive(Debug)]
pub(super) struct Offered {
    info: ServiceInfo,
    version: Version,
    concurrency: u32,
    takes_streams: bool,
    started_at_ms: u64,
    calls: mpsc::Sender<IncomingCall>,
    counts: BTreeMap<String, EndpointCounts>,
    schemas: Mutex<BTreeMap<String, String>>,
    /// Calls in hand.
    calls_in_hand: AtomicU32,
    is_draining: AtomicBool,
    /// Says when it begins to drain, and then with each call that it has no longer in hand.
    drains: watch::Sender<()>,
}

impl Offered {
    /// An instance that nobody knows yet.
    ///
    /// # Errors
    /// `Invalid` for a version or a schema that is none.
    pub(super) fn new(
        info: ServiceInfo,
        schemas: BTreeMap<String, String>,
        (concurrency, takes_streams): (u32, bool),
        started_at_ms: u64,
        calls: mpsc::Sender<IncomingCall>,
    ) -> Result<Self, NodeError> {
        let version = Version::parse(&info.version)
            .map_err(|e| NodeError::invalid(format!("the version {:?} of {}: {e}", info.version, info.name)))?;
        let names = info.endpoints.iter().map(|endpoint| endpoint.name.clone());
        let offered = Offered {
            counts: names.map(|name| (name, EndpointCounts::default())).collect(),
            info,
            version,
            concurrency: concurrency.max(1),
            takes_streams,
            started_at_ms,
            calls,
            schemas: Mutex::default(),
            calls_in_hand: AtomicU32::new(0),
            is_draining: AtomicBool::new(false),
            drains: watch::Sender::default(),
        };
        for (endpoint, schema) in schemas {
            offered.set_schema(&endpoint, schema)?;
        }
        Ok(offered)
    }

    /// What it says of itself now.
    pub(super) fn info(&self) -> ServiceInfo {
        let mut info = self.info.clone();
        let schemas = self.schemas();
        for endpoint in &mut info.endpoints {
            endpoint.schema_sha256 = schemas.get(&endpoint.name).map(|text| Sha256::digest(text).into());
        }
        info.draining = self.is_draining().then_some(true);
        info
    }

    pub(super) fn set_schema(&self, endpoint: &str, schema: String) -> Result<(), NodeError> {
        if !self.counts.contains_key(endpoint) {
            return Err(NodeError::not_found(format!(
                "{} has no endpoint {endpoint}",
                self.info.name
            )));
        }
        let wrong = |why: String| NodeError::invalid(format!("the JSON Schema of {}/{endpoint} {why}", self.info.name));
        if schema.len() > SCHEMA_BYTES_MAX {
            return Err(wrong(format!("has more than {SCHEMA_BYTES_MAX} bytes")));
        }
        match serde_json::from_str(&schema) {
            Ok(serde_json::Value::Object(_) | serde_json::Value::Bool(_)) => {}
            Ok(_) => return Err(wrong("is no JSON object".to_owned())),
            Err(error) => return Err(wrong(format!("is no JSON: {error}"))),
        }
        let mut schemas = self.schemas();
        let all: usize = schemas
            .iter()
            .filter(|(name, _)| *name != endpoint)
            .map(|(_, text)| text.len())
            .sum();
        if all + schema.len() > SCHEMAS_BYTES_MAX {
            return Err(wrong(format!(
                "is too much: all of them have at most {SCHEMAS_BYTES_MAX} bytes"
            )));
        }
        schemas.insert(endpoint.to_owned(), schema);
        Ok(())
    }

    /// How much it has in hand, thousandths of what it can do at once.
    fn load(&self) -> u16 {
        let calls = u64::from(self.calls_in_hand());
        u16::try_from(calls * 1000 / u64::from(self.concurrency)).unwrap_or(u16::MAX)
    }

    /// Resolves once it drains.
    pub(super) async fn draining(&self) {
        let _ = self.drains.subscribe().wait_for(|()| self.is_draining()).await;
    }

    /// Resolves once it drains and has nothing in hand.
    pub(super) async fn drained(&self) {
        let is_done = |(): &()| self.is_draining() && self.calls_in_hand() == 0;
        let _ = self.drains.subscribe().wait_for(is_done).await;
    }

    fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    fn calls_in_hand(&self) -> u32 {
        self.calls_in_hand.load(Ordering::SeqCst)
    }

    /// How long one that comes now waits for its turn, as far as can be told.
    fn wait(&self, counts: &EndpointCounts) -> Duration {
        let ahead = (self.calls_in_hand() + 1).saturating_sub(self.concurrency);
        let mean = counts.mean().unwrap_or(RETRY_AFTER_MIN);
        mean * ahead / self.concurrency
    }

    fn stats(&self) -> InstanceStats {
        InstanceStats {
            id: self.info.id.clone(),
            started_at_ms: self.started_at_ms,
            in_flight: self.calls_in_hand(),
            concurrency: self.concurrency,
            endpoints: self.counts.iter().map(|(name, counts)| counts.snapshot(name)).collect(),
        }
    }

    fn schemas(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.schemas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that the service has in hand.
pub(super) struct InHand {
    offered: Arc<Offered>,
    endpoint: String,
    started: Instant,
    answered: bool,
    reply: oneshot::Receiver<Reply>,
    /// What the call has started ends with it.
    over: Arc<Over>,
}

impl InHand {
    /// Waits for the service's answer; `None` when it went away without one.
    pub(super) async fn answer(&mut self) -> Option<Reply> {
        (&mut self.reply).await.ok()
    }

    /// The answer is whole. Dropped before, the caller has gone, or the service.
    pub(super) fn settle(mut self, answer: &CallResponse) {
        self.answered = true;
        self.note(Some(answer));
    }

    /// How busy the instance is.
    pub(super) fn load(&self) -> Option<u16> {
        Some(self.offered.load())
    }

    fn note(&self, answer: Option<&CallResponse>) {
        if let Some(counts) = self.offered.counts.get(&self.endpoint) {
            counts.end(answer, self.started.elapsed());
        }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if !self.answered {
            self.note(None);
        }
        self.over.set();
        self.offered.calls_in_hand.fetch_sub(1, Ordering::SeqCst);
        if self.offered.is_draining() {
            self.offered.drains.send_replace(());
        }
    }
}

/// How a call ended here.
#[derive(Debug)]
pub(super) enum Served {
    /// The service's answer, or why it was turned away.
    Response(Arc<CallResponse>),
    /// The service went away with the call in hand.
    Gone,
    /// Its time is over.
    Late,
}

/// The services this node offers, by instance id.
pub(super) struct Registry {
    mesh: Mesh,
    tasks: Tasks,
    offered: Mutex<BTreeMap<String, Arc<Offered>>>,
    memory: Memory,
    /// How often what is offered changed.
    changes: AtomicU64,
    /// Tells the announcer that something changed.
    pub(super) changed: tokio::sync::Notify,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("offered", &self.lock().len()).finish()
    }
}

impl Registry {
    pub(super) fn new(mesh: Mesh, tasks: Tasks) -> Self {
        Registry {
            mesh,
            tasks,
            offered: Mutex::default(),
            memory: Memory::default(),
            changes: AtomicU64::new(0),
            changed: tokio::sync::Notify::new(),
        }
    }

    pub(super) fn offer(&self, fresh: &Arc<Offered>) -> Result<(), NodeError> {
        let mut offered = self.lock();
        if offered.len() >= SERVICES_MAX {
            return Err(NodeError::busy(format!(
                "this node offers {SERVICES_MAX} services already"
            )));
        }
        let infos = offered.values().chain([fresh]).map(|o| o.info());
        ServiceList(infos.collect()).to_checked_bytes()?;
        offered.insert(fresh.info.id.clone(), Arc::clone(fresh));
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn withdraw(&self, id: &str) {
        self.lock().remove(id);
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Marks an instance as taking nothing new, and tells the mesh.
    pub(super) async fn drain(&self, offered: &Offered) {
        offered.is_draining.store(true, Ordering::SeqCst);
        offered.drains.send_replace(());
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.announce().await;
    }

    /// Drains the instances of a service, or the one with this id. Which they are.
    pub(super) async fn drain_named(&self, service: &str, instance: Option<&str>) -> Vec<String> {
        let is_meant = |o: &&Arc<Offered>| o.info.name == service && instance.is_none_or(|id| id == o.info.id);
        let meant: Vec<_> = self.lock().values().filter(is_meant).cloned().collect();
        for offered in &meant {
            self.drain(offered).await;
        }
        meant.iter().map(|offered| offered.info.id.clone()).collect()
    }

    pub(super) fn offered(&self) -> Vec<ServiceInfo> {
        self.lock().values().map(|o| o.info()).collect()
    }

    /// Changes with what is offered.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// How busy an instance here is.
    pub(super) fn load(&self, instance: &str) -> u16 {
        self.lock().get(instance).map_or(0, |offered| offered.load())
    }

    /// Says to the mesh what this node offers.
    pub(super) async fn announce(&self) {
        let list = ServiceList(self.offered());
        if self.mesh.announce(ANNOUNCEMENT_KEY, list.to_bytes()).await.is_err() {
            tracing::debug!("not announced: the node is stopping");
        }
    }

    /// Answers a question about the services here.
    pub(super) fn answer(&self, question: &Question) -> QuestionReply {
        let offered = self.lock();
        let meant = offered.values().filter(|o| {
            o.info.name == question.service && question.instance.as_ref().is_none_or(|id| *id == o.info.id)
        });
        match question.topic {
            Topic::Ping => QuestionReply::Pong {
                instances: meant.map(|o| o.info.id.clone()).collect(),
            },
            Topic::Stats => QuestionReply::Stats {
                instances: meant.map(|o| o.stats()).collect(),
            },
            Topic::Schemas => {
                let mut left = SCHEMAS_BYTES_MAX;
                let mut fits = |schema: &String| match left.checked_sub(schema.len()) {
                    Some(rest) => {
                        left = rest;
                        true
                    }
                    None => false,
                };
                let instances = meant.map(|o| {
                    let schemas = o.schemas();
                    let endpoints = schemas.iter().filter(|(_, schema)| fits(schema));
                    InstanceSchemas {
                        id: o.info.id.clone(),
                        endpoints: endpoints
                            .map(|(name, schema)| EndpointSchema {
                                name: name.clone(),
                                schema: schema.clone(),
                            })
                            .collect(),
                    }
                });
                QuestionReply::Schemas {
                    instances: instances.collect(),
                }
            }
        }
    }

    /// [`Registry::serve`], ended at the deadline.
    pub(super) async fn serve_until(
        self: &Arc<Self>,
        caller: PeerId,
        request: CallRequest,
        deadline: Instant,
        span: tracing::Span,
    ) -> Served {
        let serving = self.serve(caller, request, deadline, span);
        timeout_at(deadline, serving).await.unwrap_or(Served::Late)
    }

    /// Serves a call by an application of this node, which hears of the deadline; who drops this then ends it. Dropped, it takes
    /// the call back, unless that has a key: then it runs on until the deadline, for whoever sends it again.
    pub(super) async fn serve(
        self: &Arc<Self>,
        caller: PeerId,
        mut request: CallRequest,
        deadline: Instant,
        span: tracing::Span,
    ) -> Served {
        match request.idempotency_key.take() {
            None => self.serve_once(caller, request, deadline, span).await,
            Some(key) => Box::pin(self.serve_keyed(caller, (request, key), deadline, span)).await,
        }
    }

    async fn serve_keyed(
        self: &Arc<Self>,
        caller: PeerId,
        (request, key): (CallRequest, String),
        deadline: Instant,
        span: tracing::Span,
    ) -> Served {
        loop {
            let mut answer = match self.memory.recall(caller, &request, &key) {
                Recall::Known(answer) => answer,
                Recall::New(note) => {
                    let (registry, request) = (Arc::clone(self), request.clone());
                    let span = span.clone();
                    let (sender, served) = oneshot::channel();
                    self.tasks.spawn("keyed-call", async move {
                        let serving = registry.serve_once(caller, request, deadline, span);
                        let served = timeout_at(deadline, serving).await.unwrap_or(Served::Late);
                        // What was turned away was not served: the same key may come again.
                        if let Served::Response(response) = &served
                            && !matches!(**response, CallResponse::TurnedAway { .. })
                        {
                            note.keep(Arc::clone(response));
                        }
                        let _ = sender.send(served);
                    });
                    return served.await.unwrap_or(Served::Gone);
                }
                Recall::Another => {
                    let words = "this idempotency key belongs to a request with another body";
                    return Served::Response(Arc::new(CallResponse::failed(422, words)));
                }
                Recall::Full => {
                    let words = "too many calls with idempotency keys are under way";
                    return turned_away(TurnedAway::Busy, words, Some(RETRY_AFTER_MAX));
                }
            };
            let known = timeout_at(deadline, answer.wait_for(Option::is_some)).await;
            match known {
                Ok(Ok(answer)) => {
                    if let Some(answer) = answer.as_ref() {
                        return Served::Response(Arc::clone(answer));
                    }
                }
                // The first one ended without an answer: this one is the first now.
                Ok(Err(_)) => {}
                Err(_) => return Served::Late,
            }
        }
    }

    async fn serve_once(&self, caller: PeerId, request: CallRequest, deadline: Instant, span: tracing::Span) -> Served {
        let receipt = receipts::Pending::of(&self.mesh, caller, &request);
        let mut in_hand = match self.hand_over(caller, request, None, deadline, span) {
            Ok(in_hand) => in_hand,
            Err(turned_away) => return turned_away,
        };
        let Some(reply) = in_hand.answer().await else {
            return Served::Gone;
        };
        let mut response = reply.whole().await;
        if let CallResponse::Answer { load, .. } | CallResponse::Failed { load, .. } = &mut response {
            *load = in_hand.load();
        }
        if let Some(receipt) = receipt {
            receipt.sign(&self.mesh, &in_hand.offered.info, &mut response);
        }
        in_hand.settle(&response);
        Served::Response(Arc::new(response))
    }

    /// Whether the instance that would get this call reads requests in parts.
    pub(super) fn takes_streams(&self, request: &CallRequest) -> Result<bool, Served> {
        self.choose(request).map(|offered| offered.takes_streams)
    }

    /// Gives a call to the service; `input` is its body, where that comes in parts.
    pub(super) fn hand_over(
        &self,
        caller: PeerId,
        request: CallRequest,
        input: Option<BodyReader>,
        deadline: Instant,
        span: tracing::Span,
    ) -> Result<InHand, Served> {
        let offered = self.choose(&request)?;
        let CallRequest {
            service,
            endpoint,
            headers,
            body,
            ..
        } = request;
        let counts = offered.counts.get(&endpoint);
        let wait = counts.map_or(Duration::ZERO, |counts| offered.wait(counts));
        let shed = |words: String| {
            counts.inspect(|counts| counts.reject());
            turned_away(TurnedAway::Busy, &words, Some(wait))
        };
        // What would only wait for the end of its time is better asked elsewhere.
        if Instant::now() + wait > deadline {
            return Err(shed(format!("the service {service} could not begin in time")));
        }
        let (reply, answered) = oneshot::channel();
        let over = Arc::new(Over::default());
        let call = IncomingCall {
            caller,
            service,
            endpoint: endpoint.clone(),
            headers,
            body,
            deadline,
            span,
            over: Arc::clone(&over),
            input,
            reply,
        };
        match offered.calls.try_send(call) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(call)) => {
                return Err(shed(format!("the service {} has too many calls waiting", call.service)));
            }
            Err(mpsc::error::TrySendError::Closed(call)) => {
                let words = format!("the service {} has just gone", call.service);
                return Err(turned_away(TurnedAway::Unknown, &words, None));
            }
        }
        counts.inspect(|counts| counts.begin());
        offered.calls_in_hand.fetch_add(1, Ordering::SeqCst);
        Ok(InHand {
            offered,
            endpoint,
            started: Instant::now(),
            answered: false,
            reply: answered,
            over,
        })
    }

    /// The instance here that has the most room, of those that will do.
    fn choose(&self, request: &CallRequest) -> Result<Arc<Offered>, Served> {
        let version = match request.version.as_deref().map(VersionReq::parse).transpose() {
            Ok(version) => version,
            Err(error) => {
                let words = format!("the version requirement is not understood: {error}");
                return Err(turned_away(TurnedAway::Unknown, &words, None));
            }
        };
        let all = self.lock();
        let mut is_draining = false;
        let able = all
            .values()
            .filter(|o| o.info.name == request.service && o.counts.contains_key(&request.endpoint))
            .filter(|o| request.instance.as_ref().is_none_or(|id| *id == o.info.id))
            .filter(|o| version.as_ref().is_none_or(|version| version.matches(&o.version)))
            .filter(|o| {
                let drains = o.is_draining();
                is_draining |= drains;
                !drains
            });
        if let Some(offered) = able.min_by_key(|o| o.load()) {
            return Ok(Arc::clone(offered));
        }
        let (service, endpoint) = (&request.service, &request.endpoint);
        Err(if is_draining {
            turned_away(
                TurnedAway::Draining,
                &format!("the service {service} is being drained"),
                None,
            )
        } else {
            let words = format!("no such instance of the service {service} with endpoint {endpoint} here");
            turned_away(TurnedAway::Unknown, &words, None)
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Offered>>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn turned_away(why: TurnedAway, words: &str, retry_after: Option<Duration>) -> Served {
    let pause = retry_after.map(|pause| pause.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX).as_millis());
    let retry_after_ms = pause.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX));
    Served::Response(Arc::new(CallResponse::turned_away(why, words, retry_after_ms)))
}
