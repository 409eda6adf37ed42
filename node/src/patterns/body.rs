//! A body of any size, in parts: what one side writes the other reads, a few parts ahead and no more.
//!
//! Promises: the reader learns of the end only when the writer said so; a writer that goes away without a word is a failure to
//! the reader, never an end.

use bytes::Bytes;
use tokio::sync::mpsc;
use weft_protocol::limits::STREAM_PART_BYTES_MAX;

/// Parts on their way from writer to reader.
const PARTS_AHEAD: usize = 4;

/// Why a body did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The writer, or the way to it, broke.
    #[error("the body broke off before its end")]
    Broken,
    /// The service failed while it answered.
    #[error("the service failed with code {code}: {reason}")]
    Failed {
        /// Its own code.
        code: u16,
        /// Its reason.
        reason: String,
    },
    /// It is longer than what can be held.
    #[error("the body has more than {0} bytes")]
    TooLarge(usize),
    /// Nobody reads any more.
    #[error("nobody reads the body any more")]
    Unread,
}

#[derive(Debug)]
enum Piece {
    Part(Bytes),
    End,
    Failed(u16, String),
}

/// The reading side.
#[derive(Debug)]
pub struct BodyReader {
    pieces: mpsc::Receiver<Piece>,
    /// What is there before anything is received: a body that was whole from the beginning.
    first: Option<Bytes>,
    is_over: bool,
}

/// The writing side.
#[derive(Debug)]
pub struct BodyWriter(mpsc::Sender<Piece>);

/// Both sides of a body.
pub fn body() -> (BodyWriter, BodyReader) {
    let (sender, pieces) = mpsc::channel(PARTS_AHEAD);
    let reader = BodyReader {
        pieces,
        first: None,
        is_over: false,
    };
    (BodyWriter(sender), reader)
}

impl BodyReader {
    /// A body that is there already.
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        let (_, pieces) = mpsc::channel(1);
        BodyReader {
            pieces,
            first: Some(bytes.into()),
            is_over: true,
        }
    }

    /// The next part, at most [`STREAM_PART_BYTES_MAX`] of one that is sent in parts; nothing at the end. Cancel-safe.
    ///
    /// # Errors
    /// The body broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
            return Ok(Some(first));
        }
        if self.is_over {
            return Ok(None);
        }
        match self.pieces.recv().await {
            Some(Piece::Part(bytes)) => Ok(Some(bytes)),
            Some(Piece::End) => {
                self.is_over = true;
                Ok(None)
            }
            Some(Piece::Failed(code, reason)) => Err(BodyError::Failed { code, reason }),
            None => Err(BodyError::Broken),
        }
    }

    /// All of it, if it has at most so many bytes.
    ///
    /// # Errors
    /// It is longer, or broke off.
    pub async fn collect(mut self, bytes_max: usize) -> Result<Vec<u8>, BodyError> {
        let mut all = Vec::new();
        while let Some(part) = self.next().await? {
            if all.len() + part.len() > bytes_max {
                return Err(BodyError::TooLarge(bytes_max));
            }
            all.extend_from_slice(&part);
        }
        Ok(all)
    }
}

impl BodyWriter {
    /// Adds to the body; waits while the reader is behind. Cancelled, a part of it may have been added.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub async fn send(&mut self, mut bytes: Bytes) -> Result<(), BodyError> {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(STREAM_PART_BYTES_MAX));
            self.0.send(Piece::Part(part)).await.map_err(|_| BodyError::Unread)?;
        }
        Ok(())
    }

    /// Says that the body is whole.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub async fn finish(self) -> Result<(), BodyError> {
        self.0.send(Piece::End).await.map_err(|_| BodyError::Unread)
    }

    /// Says that it will not be, and why.
    pub async fn fail(self, code: u16, reason: &str) {
        let _ = self.0.send(Piece::Failed(code, reason.to_owned())).await;
    }

    /// Resolves when nobody reads any more.
    pub async fn unread(&self) {
        self.0.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_ends_only_when_its_writer_says_so() {
        let (mut writer, reader) = body();
        let writing = async move {
            writer.send(Bytes::from(vec![7; 3 * STREAM_PART_BYTES_MAX + 1])).await?;
            writer.finish().await
        };
        let (written, read) = tokio::join!(writing, reader.collect(1 << 20));
        assert_eq!((written, read.unwrap().len()), (Ok(()), 3 * STREAM_PART_BYTES_MAX + 1));

        let (mut writer, mut reader) = body();
        writer.send(Bytes::from_static(b"half")).await.unwrap();
        drop(writer);
        assert_eq!(reader.next().await, Ok(Some(Bytes::from_static(b"half"))));
        assert_eq!(reader.next().await, Err(BodyError::Broken));

        let (writer, mut reader) = body();
        writer.fail(7, "no apples").await;
        assert!(matches!(reader.next().await, Err(BodyError::Failed { code: 7, .. })));
    }

    #[tokio::test]
    async fn a_writer_waits_for_its_reader_and_notices_when_it_has_gone() {
        let (mut writer, mut reader) = body();
        let mut sent = 0;
        while tokio::time::timeout(
            std::time::Duration::from_millis(20),
            writer.send(Bytes::from_static(b"x")),
        )
        .await
        .is_ok()
        {
            sent += 1;
        }
        assert_eq!(sent, PARTS_AHEAD);
        assert!(reader.next().await.is_ok());
        drop(reader);
        writer.unread().await;
        assert_eq!(writer.send(Bytes::from_static(b"x")).await, Err(BodyError::Unread));
    }

    #[tokio::test]
    async fn a_whole_body_is_read_at_once_and_what_is_too_long_is_not_collected() {
        let mut reader = BodyReader::of("whole");
        assert_eq!(reader.next().await, Ok(Some(Bytes::from_static(b"whole"))));
        assert_eq!(reader.next().await, Ok(None));
        assert_eq!(BodyReader::of("").collect(0).await, Ok(Vec::new()));
        assert_eq!(BodyReader::of("abc").collect(2).await, Err(BodyError::TooLarge(2)));
    }
}
