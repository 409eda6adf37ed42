//! Reading a blob, from the disk as far as it is there, and on as the rest comes.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};
use tokio::sync::watch;
use weft_protocol::patterns::blobs::{BlobId, GROUP_BYTES};

use super::{fetch::Progress, options::BlobError, shelf::InUse};

/// A blob, or a part of it, to be read from front to back.
pub struct Content {
    in_use: InUse,
    /// Of one that is still being fetched.
    progress: Option<watch::Receiver<Progress>>,
    /// What was read from the disk and is next.
    ahead: VecDeque<Bytes>,
    at: u64,
    end: u64,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("id", &self.in_use.id())
            .field("at", &self.at)
            .field("end", &self.end)
            .finish()
    }
}

impl Content {
    pub(super) fn new(in_use: InUse, progress: Option<watch::Receiver<Progress>>) -> Self {
        Content {
            ahead: VecDeque::new(),
            at: 0,
            end: in_use.bytes(),
            in_use,
            progress,
        }
    }

    /// Which blob.
    pub fn id(&self) -> BlobId {
        self.in_use.id()
    }

    /// How long all of it is.
    pub fn bytes(&self) -> u64 {
        self.in_use.bytes()
    }

    /// Only the bytes from `from` on and before `end`, as far as there are so many.
    #[must_use]
    pub fn only(mut self, from: u64, end: u64) -> Self {
        self.end = self.end.min(end);
        self.at = from.min(self.end);
        self
    }

    /// The next bytes, at most 256 KiB; nothing at the end. Waits for what is not here yet. Cancel-safe.
    ///
    /// # Errors
    /// The rest cannot be had, or the disk does not give it.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if self.at >= self.end {
            return Ok(None);
        }
        if self.ahead.is_empty() {
            self.read_group().await?;
        }
        let missing = || BlobError::NotFound(self.in_use.id().to_string());
        let mut part = self.ahead.pop_front().ok_or_else(missing)?;
        part.truncate(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        self.at += part.len() as u64;
        Ok(Some(part))
    }

    /// Reads the group in which the next byte is.
    async fn read_group(&mut self) -> Result<(), BlobError> {
        let index = usize::try_from(self.at / GROUP_BYTES as u64).unwrap_or(usize::MAX);
        self.wait_for(index).await?;
        let mut parts: VecDeque<Bytes> = self.in_use.group(index).await?.into();
        let mut before = (self.at % GROUP_BYTES as u64) as usize;
        while let Some(first) = parts.front_mut() {
            if before < first.len() {
                first.advance(before);
                break;
            }
            before -= first.len();
            parts.pop_front();
        }
        self.ahead = parts;
        Ok(())
    }

    async fn wait_for(&mut self, index: usize) -> Result<(), BlobError> {
        let Some(progress) = &mut self.progress else {
            return Ok(());
        };
        if self.in_use.groups() > index {
            return Ok(());
        }
        let wanted = |progress: &Progress| match progress {
            Progress::Looking => false,
            Progress::Groups(groups) => *groups > index,
            Progress::Whole | Progress::Failed(_) => true,
        };
        let now = progress.wait_for(wanted).await.map_err(|_| BlobError::Closed)?.clone();
        match now {
            Progress::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }
}
