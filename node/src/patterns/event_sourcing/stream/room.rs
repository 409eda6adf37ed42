//! Whether a stream that refuses what is too much has room for more.

use weft_protocol::patterns::event_sourcing::Append;

use super::{Stream, StreamError};

impl Stream {
    /// Whether there is room for these events. Appends that are on their way are not counted: together they may exceed the bound by what they have.
    /// What was recorded before needs no room.
    pub(in crate::patterns::event_sourcing) async fn check_room(&self, append: &Append) -> Result<(), StreamError> {
        if !self.facts().options.refuses() || self.room(append).is_ok() {
            return Ok(());
        }
        // What has been settled or is too old meanwhile makes room.
        self.retain().await?;
        let Err(full) = self.room(append) else { return Ok(()) };
        let mut slot = self.tail.lock().await;
        let tail = self.tail(&mut slot).await?;
        match self.known(tail, append).await? {
            Some(_) => Ok(()),
            None => Err(full),
        }
    }

    fn room(&self, append: &Append) -> Result<(), StreamError> {
        let options = self.facts().options;
        let full = |has: u64, what: &str, most: u64| Err(StreamError::Full(format!("it has {has} of {most} {what}")));
        let records = (self.version() + 1).saturating_sub(self.first());
        if let Some(most) = options.retain_records
            && records + append.events.len() as u64 > most
        {
            return full(records, "records", most);
        }
        let bytes: u64 = self.log.segments().iter().map(|(_, bytes)| bytes).sum();
        let more: usize = append.events.iter().map(|event| event.bytes()).sum();
        match options.retain_bytes {
            Some(most) if bytes + more as u64 > most => full(bytes, "bytes", most),
            _ => Ok(()),
        }
    }
}
