//! The schemas of a stream: kept in one piece, looked at by every append.

use std::sync::Arc;

use weft_protocol::patterns::event_sourcing::Append;

use super::{Stream, StreamError};
use crate::patterns::event_sourcing::schemas::{SchemaChange, SchemaSet, Schemas};

impl Stream {
    /// Its schemas; read from the disk the first time.
    pub(in crate::patterns::event_sourcing) async fn schemas(&self) -> Result<Arc<Schemas>, StreamError> {
        if let Some(known) = &*self.schemas.read().await {
            return Ok(Arc::clone(known));
        }
        let mut slot = self.schemas.write().await;
        if let Some(known) = &*slot {
            return Ok(Arc::clone(known));
        }
        let read = Arc::new(Schemas::new(self.shelf.schemas(self.number).await?));
        *slot = Some(Arc::clone(&read));
        Ok(read)
    }

    /// Changes its schemas, durably, unless this entry of the group's log was applied before.
    pub(in crate::patterns::event_sourcing) async fn change_schemas(
        &self,
        entry: Option<u64>,
        change: SchemaChange,
    ) -> Result<(), StreamError> {
        // Held until it is written, so that nobody reads what was there before and keeps it.
        let mut slot = self.schemas.write().await;
        self.check_there()?;
        let mut set: SchemaSet = self.shelf.schemas(self.number).await?;
        if entry.is_some() && set.entry >= entry {
            return Err(StreamError::Conflict("this was applied before".into()));
        }
        if !set.apply(change)? {
            return Ok(());
        }
        set.entry = entry;
        self.shelf.put_schemas(self.number, &set).await?;
        *slot = Some(Arc::new(Schemas::new(set)));
        Ok(())
    }

    /// What is on the disk was changed by somebody else.
    pub(in crate::patterns::event_sourcing) async fn forget_schemas(&self) {
        *self.schemas.write().await = None;
    }

    /// Whether events are as the stream's schemas say. What was recorded before was, when it was.
    pub(in crate::patterns::event_sourcing) async fn check_schemas(&self, append: &Append) -> Result<(), StreamError> {
        let schemas = self.schemas().await?;
        let Err(refused) = schemas.check(&append.events) else {
            return Ok(());
        };
        let mut slot = self.tail.lock().await;
        let tail = self.tail(&mut slot).await?;
        match self.known(tail, append).await? {
            Some(_) => Ok(()),
            None => Err(refused),
        }
    }
}
