//! What applications ask.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;
use weft_protocol::{
    PeerId, Subject,
    limits::PUBLISH_BODY_BYTES_MAX,
    patterns::blobs::{BlobId, DATAREF, Reference},
};

use super::{
    content::Content,
    fetch::{Fetching, Progress},
    options::BlobError,
    put::{self, Taken},
    shelf::Shelf,
};
use crate::{
    patterns::{
        body::BodyReader,
        pub_sub::{PubSubHandle, PublishOptions, Receipt},
    },
    tasks::Tasks,
    telemetry::metrics::Metrics,
};

/// What is counted.
#[derive(Clone)]
pub(super) struct BlobMetrics {
    pub(super) fetched: Counter,
    pub(super) fetched_bytes: Counter,
    pub(super) given_bytes: Counter,
    pub(super) turned_away: Counter,
    pub(super) wrong: Counter,
}

impl BlobMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        metrics.subsystem("blobs", |subsystem| BlobMetrics {
            fetched: subsystem.counter("fetched", "Blobs fetched from other nodes"),
            fetched_bytes: subsystem.counter(
                "fetched_bytes",
                "Bytes of blobs fetched from other nodes and found good",
            ),
            given_bytes: subsystem.counter("given_bytes", "Bytes of blobs given to other nodes"),
            turned_away: subsystem.counter("turned_away", "Other nodes that were told to ask later, or elsewhere"),
            wrong: subsystem.counter("wrong", "Answers of other nodes that were not the blob asked for"),
        })
    }
}

/// A blob on this node.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its hash.
    pub id: BlobId,
    /// How long it is.
    pub bytes: u64,
    /// How much of it is here.
    pub is_whole: bool,
    /// On which subjects it was published, as far as this node knows.
    pub subjects: Vec<Subject>,
    /// Since when it is here, Unix milliseconds.
    pub stored_ms: u64,
    /// When it was last used, Unix milliseconds.
    pub used_ms: u64,
}

/// A cloneable handle on blobs.
#[derive(Clone)]
pub struct BlobsHandle {
    pub(super) shelf: Arc<Shelf>,
    fetching: Arc<Fetching>,
    messages: PubSubHandle,
    tasks: Tasks,
}

impl BlobsHandle {
    pub(super) fn new(shelf: Arc<Shelf>, fetching: Arc<Fetching>, messages: PubSubHandle, tasks: Tasks) -> Self {
        BlobsHandle {
            shelf,
            fetching,
            messages,
            tasks,
        }
    }

    /// Publishes a message of any size. What does not fit into a message stays here as a blob, durably before the message goes out, which
    /// then has no data but the extension [`DATAREF`].
    ///
    /// Not cancel-safe: a cancelled publication may have been sent.
    ///
    /// # Errors
    /// `Full` when there is no room; `Broken` when the body comes to no end; those of [`PubSubHandle::publish`].
    pub async fn publish(
        &self,
        subject: &Subject,
        mut body: BodyReader,
        mut options: PublishOptions,
    ) -> Result<(Receipt, Option<Reference>), BlobError> {
        // Mostly it comes in one part, which need not be copied.
        let mut first = body.next().await?.unwrap_or_default();
        let mut head = Vec::new();
        while first.len() + head.len() <= PUBLISH_BODY_BYTES_MAX {
            match body.next().await? {
                Some(part) => {
                    if head.is_empty() {
                        head = std::mem::take(&mut first).into();
                    }
                    head.extend_from_slice(&part);
                }
                None => {
                    let data = if head.is_empty() { first } else { head.into() };
                    return Ok((self.messages.publish(subject, data, options).await?, None));
                }
            }
        }
        if head.is_empty() {
            head = first.into();
        }
        let reference = self.keep(subject, head, body).await?;
        options.extensions.push((DATAREF.to_owned(), reference.to_string()));
        let receipt = self.messages.publish(subject, Vec::new(), options).await?;
        Ok((receipt, Some(reference)))
    }

    /// Takes a blob in, for those who may subscribe to the subject. Durable when this returns. Cancel-safe: what was taken in is removed.
    ///
    /// # Errors
    /// `Full` when there is no room; `Broken` when the body comes to no end.
    pub async fn put(&self, subject: &Subject, body: BodyReader) -> Result<Reference, BlobError> {
        self.keep(subject, Vec::new(), body).await
    }

    async fn keep(&self, subject: &Subject, head: Vec<u8>, body: BodyReader) -> Result<Reference, BlobError> {
        let (shelf, subject_of_task) = (Arc::clone(&self.shelf), subject.clone());
        let (answer, taken) = oneshot::channel();
        // In a task of its own: who gives up waiting leaves nothing half done.
        self.tasks.spawn("blob-put", async move {
            let _ = answer.send(put::put(&shelf, &subject_of_task, head, body).await);
        });
        let Taken { id, bytes } = taken.await.map_err(|_| BlobError::Closed)??;
        self.announce(id);
        Ok(Reference {
            id,
            bytes,
            subject: subject.clone(),
            publisher: self.local_peer(),
        })
    }

    fn announce(&self, id: BlobId) {
        let fetching = Arc::clone(&self.fetching);
        self.tasks
            .spawn("blob-provide", async move { fetching.provide(&id).await });
    }

    /// A blob that is here.
    ///
    /// # Errors
    /// `NotFound`, also when only a part of it is here; what the disk says.
    pub async fn read(&self, id: &BlobId) -> Result<Content, BlobError> {
        match self.shelf.take(id).await? {
            Some((in_use, true)) => Ok(Content::new(in_use, None)),
            _ => Err(BlobError::NotFound(id.to_string())),
        }
    }

    /// A blob, wherever it is: from here, or else from its publisher or another member that has it. Returns when the first of it is here;
    /// the rest is fetched meanwhile, also if nobody reads it.
    ///
    /// # Errors
    /// `Unreachable` when nobody who has it can be reached for a minute; `Denied`; `Full` when there is no room for it here.
    pub async fn fetch(&self, reference: &Reference) -> Result<Content, BlobError> {
        loop {
            let here = self.shelf.take(&reference.id).await?;
            if let Some((in_use, true)) = here {
                return Ok(Content::new(in_use, None));
            }
            drop(here);
            let mut progress = self.fetching.follow(reference)?;
            let begun = |progress: &Progress| match progress {
                Progress::Looking => false,
                Progress::Groups(groups) => *groups > 0,
                Progress::Whole | Progress::Failed(_) => true,
            };
            let now = progress.wait_for(begun).await.map_err(|_| BlobError::Closed)?.clone();
            if let Progress::Failed(error) = now {
                return Err(error);
            }
            if let Some((in_use, is_whole)) = self.shelf.take(&reference.id).await? {
                return Ok(Content::new(in_use, (!is_whole).then_some(progress)));
            }
        }
    }

    /// What is on this node, in the order of the hashes.
    pub fn list(&self) -> Vec<Stored> {
        let stored = self.shelf.list().into_iter().map(|(id, entry)| Stored {
            id,
            bytes: entry.facts.bytes,
            is_whole: entry.facts.is_whole,
            subjects: entry.facts.subjects,
            stored_ms: entry.facts.stored_ms,
            used_ms: entry.used_ms,
        });
        stored.collect()
    }

    /// Lets go of a blob; whether it was here. Who reads it, reads no further.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn remove(&self, id: &BlobId) -> Result<bool, BlobError> {
        self.shelf.remove(id).await
    }

    /// This node.
    pub fn local_peer(&self) -> PeerId {
        self.fetching.local_peer()
    }
}
