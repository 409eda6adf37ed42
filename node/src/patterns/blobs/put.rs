//! Taking a blob in: its content goes to the disk as it comes, and gets its name when it has come to its end.

use std::sync::Arc;

use bytes::Bytes;
use weft_protocol::{
    Subject,
    patterns::blobs::{BlobId, GROUP_BYTES, GroupHash, check_bytes, hash_group},
};

use super::{
    options::BlobError,
    shelf::{Shelf, append},
};
use crate::{patterns::body::BodyReader, store::Log};

/// Groups that are written together.
pub(super) const GROUPS_AT_ONCE: usize = 16;

/// What was taken in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) id: BlobId,
    pub(super) bytes: u64,
}

/// Takes in `head` and what follows it. It is durable when this returns.
///
/// Not cancel-safe: what was written stays until the next start.
pub(super) async fn put(
    shelf: &Arc<Shelf>,
    subject: &Subject,
    head: Vec<u8>,
    mut body: BodyReader,
) -> Result<Taken, BlobError> {
    let mut incoming = Incoming {
        shelf: Arc::clone(shelf),
        room: shelf.room(),
        log: shelf.new_log().await?,
        group: Vec::with_capacity(GROUP_BYTES),
        waiting: Vec::new(),
        hashes: Vec::new(),
        alone: None,
        bytes: 0,
    };
    match incoming.take_all(head.into(), &mut body).await {
        Ok(()) => incoming.settle(subject).await,
        Err(error) => {
            let removed = incoming.shelf.drop_log(incoming.log).await;
            if let Err(error) = removed {
                tracing::warn!(%error, "what was taken in of a blob could not be removed");
            }
            Err(error)
        }
    }
}

struct Incoming {
    shelf: Arc<Shelf>,
    room: super::shelf::Room,
    log: Log,
    /// The group that is being filled.
    group: Vec<u8>,
    waiting: Vec<Bytes>,
    hashes: Vec<GroupHash>,
    /// The hash of the first group, if it should be the only one.
    alone: Option<GroupHash>,
    bytes: u64,
}

impl Incoming {
    async fn take_all(&mut self, head: Bytes, body: &mut BodyReader) -> Result<(), BlobError> {
        let mut next = Some(head);
        while let Some(mut part) = next {
            while !part.is_empty() {
                let fitting = part.split_to(part.len().min(GROUP_BYTES - self.group.len()));
                self.group.extend_from_slice(&fitting);
                if self.group.len() == GROUP_BYTES {
                    self.close_group().await?;
                }
            }
            next = body.next().await?;
        }
        if !self.group.is_empty() {
            self.close_group().await?;
        }
        check_bytes(self.bytes)?;
        self.write().await
    }

    async fn close_group(&mut self) -> Result<(), BlobError> {
        let group = Bytes::from(std::mem::replace(&mut self.group, Vec::with_capacity(GROUP_BYTES)));
        self.bytes += group.len() as u64;
        check_bytes(self.bytes)?;
        let index = self.hashes.len();
        if index == 0 {
            self.alone = Some(hash_group(0, 1, &group));
        }
        self.hashes.push(hash_group(index, usize::MAX, &group));
        self.waiting.push(group);
        if self.waiting.len() >= GROUPS_AT_ONCE {
            self.write().await?;
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), BlobError> {
        let groups = std::mem::take(&mut self.waiting);
        let bytes: usize = groups.iter().map(Bytes::len).sum();
        self.room.grow(bytes as u64).await?;
        append(&self.log, groups).await
    }

    async fn settle(mut self, subject: &Subject) -> Result<Taken, BlobError> {
        if let ([only], Some(alone)) = (&mut self.hashes[..], self.alone) {
            *only = alone;
        }
        let empty = || BlobError::Invalid("there is no content".to_owned());
        let id = BlobId::of_groups(&self.hashes).ok_or_else(empty)?;
        self.shelf
            .settle(id, self.log, self.bytes, subject, &self.hashes)
            .await?;
        let bytes = self.bytes;
        Ok(Taken { id, bytes })
    }
}
