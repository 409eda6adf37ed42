//! What else can be asked of services: whether they are there, what they have done, what their requests look like.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::time::Instant;
use weft_protocol::{
    PeerId, Verb, Wire as _,
    patterns::request_response::{
        CallMessage, InstanceSchemas, InstanceStats, PATTERN_ID, Question, QuestionReply, ServiceInfo, Topic,
    },
};

use super::{
    catalogue::Entry,
    handle::{RequestResponseHandle, resource},
    options::DEFAULT_ENDPOINT,
};
use crate::{
    context::greeting,
    error::{ErrorKind, NodeError},
    mesh::MeshError,
};

/// Nodes that are asked at once.
const ASKED_AT_ONCE: usize = 32;

/// What one instance said, or why it said nothing.
#[derive(Debug)]
pub struct Told<T> {
    /// Its node.
    pub peer: PeerId,
    /// What its record says.
    pub info: ServiceInfo,
    /// Its answer.
    pub answer: Result<T, NodeError>,
    /// How long that took.
    pub elapsed: Duration,
}

impl RequestResponseHandle {
    /// Asks every known instance of a service whether it is there.
    pub async fn ping(&self, service: &str, within: Duration) -> Vec<Told<()>> {
        let pong = |reply: QuestionReply, id: &str| match reply {
            QuestionReply::Pong { instances } => instances.iter().any(|other| other == id).then_some(()),
            _ => None,
        };
        self.ask_all(service, Topic::Ping, within, pong).await
    }

    /// Asks every known instance of a service what it has done.
    pub async fn stats(&self, service: &str, within: Duration) -> Vec<Told<InstanceStats>> {
        let stats = |reply: QuestionReply, id: &str| match reply {
            QuestionReply::Stats { instances } => instances.into_iter().find(|stats| stats.id == id),
            _ => None,
        };
        self.ask_all(service, Topic::Stats, within, stats).await
    }

    /// Asks every known instance of a service for the schemas of its endpoints.
    pub async fn schemas(&self, service: &str, within: Duration) -> Vec<Told<InstanceSchemas>> {
        let schemas = |reply: QuestionReply, id: &str| match reply {
            QuestionReply::Schemas { instances } => instances.into_iter().find(|schemas| schemas.id == id),
            _ => None,
        };
        self.ask_all(service, Topic::Schemas, within, schemas).await
    }

    async fn ask_all<T>(
        &self,
        service: &str,
        topic: Topic,
        within: Duration,
        read: fn(QuestionReply, &str) -> Option<T>,
    ) -> Vec<Told<T>> {
        let all = self.inner.catalogue.all();
        let entries = all.get(service).cloned().unwrap_or_default();
        let mut all = Vec::with_capacity(entries.len());
        for some in entries.chunks(ASKED_AT_ONCE) {
            let mut asking = Vec::new();
            for entry in some {
                asking.push(self.told(Arc::clone(entry), topic, within, read));
            }
            all.extend(join_all(asking).await);
        }
        all
    }

    async fn told<T>(
        &self,
        entry: Arc<Entry>,
        topic: Topic,
        within: Duration,
        read: fn(QuestionReply, &str) -> Option<T>,
    ) -> Told<T> {
        let started = Instant::now();
        let reply = self.ask_one(&entry, topic, within).await;
        let gone = || NodeError::not_found("its node does not offer it any more");
        Told {
            peer: entry.peer,
            answer: reply.and_then(|reply| read(reply, &entry.info.id).ok_or_else(gone)),
            info: entry.info.clone(),
            elapsed: started.elapsed(),
        }
    }

    async fn ask_one(&self, entry: &Arc<Entry>, topic: Topic, within: Duration) -> Result<QuestionReply, NodeError> {
        // Who may call an endpoint may ask; any of them will do.
        let endpoints = &entry.info.endpoints;
        let endpoint = endpoints.first().map_or(DEFAULT_ENDPOINT, |endpoint| &endpoint.name);
        let question = Question {
            service: entry.info.name.clone(),
            endpoint: endpoint.to_owned(),
            instance: Some(entry.info.id.clone()),
            topic,
        };
        if entry.is_local {
            return Ok(self.inner.registry.answer(&question));
        }
        let resource = resource(&entry.info.name, endpoint)?;
        let hello = greeting(PATTERN_ID, self.inner.mesh.trust(), Verb::Call, &resource);
        let payload = CallMessage::Ask(question).to_bytes();
        match self.inner.mesh.request(entry.peer, hello, payload, within).await {
            Ok(bytes) => Ok(QuestionReply::from_bytes(&bytes)?),
            Err(MeshError::Open(error)) => Err(NodeError::new(ErrorKind::Unreachable, error.to_string())),
            Err(error) => Err(error.into()),
        }
    }
}
