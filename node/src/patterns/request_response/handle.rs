//! What applications ask request-response.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use semver::VersionReq;
use tokio::{sync::mpsc, time::Instant};
use weft_protocol::{
    PeerId, Subject,
    limits::DIRECT_BODY_BYTES_MAX,
    patterns::request_response::{CallRequest, EndpointInfo, ServiceInfo, ServiceList},
};

use super::{
    attempts::Attempts,
    catalogue::{Catalogue, Entry, Wanted},
    core::{Budget, Verdict},
    metrics::CallMetrics,
    options::{CallAnswer, CallError, CallOptions, DEFAULT_ENDPOINT, EndpointOptions, ServiceOptions},
    registry::{Offered, Registry, SERVICE_QUEUE_MAX},
    routes::Pickups,
    serving::Serving,
};
use crate::{
    error::NodeError,
    mesh::Mesh,
    platform::{Clock, Entropy},
    tasks::Tasks,
};

/// A node that has only just joined may not know every service yet.
const NEWCOMER: Duration = Duration::from_secs(5);
const NEWCOMER_PATIENCE: Duration = Duration::from_secs(2);

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
    /// How long this node's circuit breaker is open yet, where it is.
    pub open_for: Option<Duration>,
    /// What it said last of its load, thousandths of what it can do at once; nothing if that is long ago.
    pub load: Option<u16>,
}

/// What the handle and the calls under way share.
pub(super) struct Inner {
    pub(super) mesh: Mesh,
    pub(super) registry: Arc<Registry>,
    pub(super) catalogue: Catalogue,
    pub(super) metrics: CallMetrics,
    pub(super) tasks: Tasks,
    /// Streamed calls that applications of this node are told of.
    pub(super) pickups: Pickups,
    entropy: Arc<dyn Entropy>,
    clock: Arc<dyn Clock>,
    next_call: AtomicU64,
    budget: Mutex<Budget>,
    started: Instant,
}

impl Inner {
    /// Something nobody can foresee.
    pub(super) fn dice(&self) -> u64 {
        u64::from_le_bytes(crate::platform::random(&*self.entropy))
    }

    /// By what a call is cancelled.
    pub(super) fn next_call(&self) -> u64 {
        self.next_call.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether something may be tried again.
    pub(super) fn spend(&self) -> bool {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).spend()
    }
}

/// A cloneable handle on request-response.
#[derive(Clone)]
pub struct RequestResponseHandle {
    pub(super) inner: Arc<Inner>,
}

impl RequestResponseHandle {
    pub(super) fn new(
        mesh: Mesh,
        registry: Arc<Registry>,
        tasks: Tasks,
        (entropy, clock): (Arc<dyn Entropy>, Arc<dyn Clock>),
        metrics: CallMetrics,
    ) -> Self {
        let inner = Inner {
            catalogue: Catalogue::new(mesh.clone(), Arc::clone(&registry)),
            mesh,
            registry,
            metrics,
            tasks,
            pickups: Pickups::default(),
            // From another place with each start: what is left of a former run must not be cancelled.
            next_call: AtomicU64::new(u64::from_le_bytes(crate::platform::random(&*entropy)) >> 1),
            entropy,
            clock,
            budget: Mutex::new(Budget::new()),
            started: Instant::now(),
        };
        RequestResponseHandle { inner: Arc::new(inner) }
    }

    /// Offers a service until the returned [`Serving`] is dropped.
    ///
    /// # Errors
    /// `Invalid` for a name, version, schema or size that cannot be; `Busy` when this node offers too many.
    pub async fn serve(&self, options: ServiceOptions) -> Result<Serving, NodeError> {
        let id: [u8; 8] = crate::platform::random(&*self.inner.entropy);
        let id = data_encoding::HEXLOWER.encode(&id);
        let schemas = options.schemas();
        let mut endpoints = options.endpoints;
        if endpoints.is_empty() {
            endpoints.push(EndpointOptions::new(DEFAULT_ENDPOINT));
        }
        let endpoints = endpoints.into_iter().map(|endpoint| EndpointInfo {
            idempotent: endpoint.idempotent.then_some(true),
            ..EndpointInfo::new(endpoint.name)
        });
        let info = ServiceInfo {
            name: options.name,
            version: options.version,
            id: id.clone(),
            metadata: options.metadata,
            endpoints: endpoints.collect(),
            zone: self.inner.mesh.zone().map(ToOwned::to_owned),
            draining: None,
        };
        weft_protocol::Wire::check(&ServiceList(vec![info.clone()]))?;
        let (calls, receiver) = mpsc::channel(SERVICE_QUEUE_MAX);
        let started_at_ms = self.inner.clock.now_unix_ms();
        let offered = Arc::new(Offered::new(
            info,
            schemas,
            (options.concurrency, options.takes_streams),
            started_at_ms,
            calls,
        )?);
        self.inner.registry.offer(&offered)?;
        self.inner.registry.announce().await;
        Ok(Serving {
            id,
            calls: receiver,
            offered,
            registry: Arc::clone(&self.inner.registry),
        })
    }

    /// Every instance the directory knows, by the names of the services, this node's first.
    pub fn services(&self) -> Vec<Instance> {
        self.inner
            .catalogue
            .all()
            .values()
            .flatten()
            .map(|entry| self.instance(entry))
            .collect()
    }

    /// The instances of one service.
    pub fn instances(&self, service: &str) -> Vec<Instance> {
        let all = self.inner.catalogue.all();
        all.get(service)
            .into_iter()
            .flatten()
            .map(|entry| self.instance(entry))
            .collect()
    }

    fn instance(&self, entry: &Entry) -> Instance {
        let known = entry.health.known();
        let load = if entry.is_local {
            self.inner.registry.load(&entry.info.id)
        } else {
            known.load
        };
        Instance {
            peer: entry.peer,
            info: entry.info.clone(),
            is_local: entry.is_local,
            is_connected: entry.is_local || self.inner.mesh.peers().contains(&entry.peer),
            open_for: known.open_for.filter(|_| known.verdict == Verdict::Open),
            load: (entry.is_local || load > 0).then_some(load),
        }
    }

    /// Has the instances of a service on this node take nothing new, or the one with this id. Which they are.
    pub async fn drain(&self, service: &str, instance: Option<&str>) -> Vec<String> {
        self.inner.registry.drain_named(service, instance).await
    }

    /// Calls a service and waits for its answer.
    ///
    /// Cancel-safe: who was asked is told that nobody waits any more, and cancels the call, unless that has an idempotency key. It
    /// may have been served.
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
        let wanted = wanted(endpoint, &options)?;
        let request = CallRequest {
            headers: options.headers.clone(),
            instance: options.instance.clone(),
            version: wanted.version.as_ref().map(ToString::to_string),
            idempotency_key: options.idempotency_key.clone(),
            receipt_nonce: options.receipt.then(|| crate::platform::random(&*self.inner.entropy)),
            ..CallRequest::new(service, endpoint, body)
        };
        weft_protocol::Wire::check(&request).map_err(|e| CallError::Invalid(e.to_string()))?;
        let started = Instant::now();
        let within = options.timeout;
        let inner = &self.inner;
        inner.budget.lock().unwrap_or_else(PoisonError::into_inner).earn();
        // Nothing that is waited for goes beyond the deadline, so there is no timer here: each costs.
        let found = self.known(service, &wanted, started + within).await;
        let result = match Attempts::new(inner, request, &options, started) {
            Ok(attempts) => attempts.run(found, || target(service, &wanted)).await,
            Err(error) => Err(error),
        };
        let result = result.map_err(|error| match error {
            CallError::Timeout(_) => CallError::Timeout(within),
            error => error,
        });
        inner.metrics.note(&result, started.elapsed());
        result
    }

    /// The instances that will do. A newcomer waits a little for what it cannot know yet, and not beyond the deadline.
    pub(super) async fn known(&self, service: &str, wanted: &Wanted, deadline: Instant) -> Vec<Arc<Entry>> {
        let find = || -> Vec<Arc<Entry>> {
            let all = self.inner.catalogue.all();
            let of_service = all.get(service).into_iter().flatten();
            of_service.filter(|entry| wanted.fits(entry)).cloned().collect()
        };
        let found = find();
        if !found.is_empty() || self.inner.started.elapsed() >= NEWCOMER {
            return found;
        }
        Box::pin(self.appear(find, deadline)).await
    }

    /// Waits for what `find` finds, as a newcomer.
    async fn appear(&self, find: impl Fn() -> Vec<Arc<Entry>>, deadline: Instant) -> Vec<Arc<Entry>> {
        let mut records = self.inner.mesh.trust().watch_records();
        let give_up = deadline.min(Instant::now() + NEWCOMER_PATIENCE);
        loop {
            records.mark_unchanged();
            let found = find();
            if !found.is_empty() || tokio::time::timeout_at(give_up, records.changed()).await.is_err() {
                return found;
            }
        }
    }
}

/// What a caller wants, read.
pub(super) fn wanted(endpoint: &str, options: &CallOptions) -> Result<Wanted, CallError> {
    let version = options.version.as_deref().map(VersionReq::parse).transpose();
    Ok(Wanted {
        endpoint: endpoint.to_owned(),
        node: options.node,
        instance: options.instance.clone(),
        version: version.map_err(|error| CallError::Invalid(format!("the version requirement: {error}")))?,
    })
}

/// What is called, as a person would write it.
pub(super) fn target(service: &str, wanted: &Wanted) -> String {
    let mut words = service.to_owned();
    if let Some(version) = &wanted.version {
        words.push_str(&format!("@{version}"));
    }
    if wanted.endpoint != DEFAULT_ENDPOINT {
        words.push_str(&format!("/{}", wanted.endpoint));
    }
    if let Some(instance) = &wanted.instance {
        words.push_str(&format!(", instance {instance}"));
    }
    if let Some(node) = &wanted.node {
        words.push_str(&format!(", on {node}"));
    }
    words
}

/// The subject a right to call is about: `service`, or `service.endpoint` where it is not the default one.
pub(super) fn resource(service: &str, endpoint: &str) -> Result<Subject, weft_protocol::DecodeError> {
    if endpoint == DEFAULT_ENDPOINT {
        service.parse()
    } else {
        format!("{service}.{endpoint}").parse()
    }
}
