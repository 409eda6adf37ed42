//! Length-prefixed messages on a stream.

use std::io;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use weft_protocol::{DecodeError, Wire, codec::frame};

use crate::error::{ErrorKind, Kind};

/// So much room is made before anything of it has come.
const STEP_BYTES: usize = 64 << 10;

/// A frame could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The stream failed or ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came is not what was expected.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Kind for FrameError {
    fn kind(&self) -> ErrorKind {
        match self {
            FrameError::Io(_) => ErrorKind::Unreachable,
            FrameError::Decode(error) => error.kind(),
        }
    }
}

/// Writes one message and flushes.
///
/// Not cancel-safe: half a message may have been written.
///
/// # Errors
/// What the stream says.
pub async fn write<T: Wire>(stream: &mut (impl AsyncWrite + Unpin), message: &T) -> Result<(), FrameError> {
    write_bytes(stream, &message.to_bytes()).await
}

/// Writes one frame of bytes and flushes.
///
/// # Errors
/// What the stream says.
pub async fn write_bytes(stream: &mut (impl AsyncWrite + Unpin), body: &[u8]) -> Result<(), FrameError> {
    stream.write_all(&frame::encode(body)).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads one message; `None` at a clean end of the stream.
///
/// Not cancel-safe: half a message may have been read.
///
/// # Errors
/// What the stream says; a message that is too large (before it is read) or malformed.
pub async fn read<T: Wire>(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<T>, FrameError> {
    match read_bytes(stream, T::BYTES_MAX).await? {
        Some(bytes) => Ok(Some(T::from_vec(bytes)?)),
        None => Ok(None),
    }
}

/// Reads one frame of at most `limit` bytes; `None` at a clean end of the stream.
///
/// # Errors
/// What the stream says; a length beyond `limit`.
pub async fn read_bytes(stream: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Option<Vec<u8>>, FrameError> {
    match read_length(stream, limit).await? {
        Some(length) => Ok(Some(read_body(stream, length).await?)),
        None => Ok(None),
    }
}

/// Reads how long the next frame is, at most `limit` bytes; `None` at a clean end of the stream.
pub(super) async fn read_length(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<Option<usize>, FrameError> {
    let mut prefix = [0; frame::PREFIX_BYTES_MAX];
    let mut count = 0;
    loop {
        // Five bytes are a whole prefix or an error.
        if stream.read(&mut prefix[count..=count]).await? == 0 {
            if count == 0 {
                return Ok(None);
            }
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        count += 1;
        if let Some((length, _)) = frame::decode_prefix(&prefix[..count], limit)? {
            return Ok(Some(length));
        }
    }
}

/// Reads the body of a frame whose length was read.
pub(super) async fn read_body(stream: &mut (impl AsyncRead + Unpin), length: usize) -> Result<Vec<u8>, FrameError> {
    let mut body = Vec::new();
    // Grows with what arrives, not with what is claimed.
    while body.len() < length {
        let start = body.len();
        body.resize(length.min(start + STEP_BYTES), 0);
        stream.read_exact(&mut body[start..]).await?;
    }
    Ok(body)
}

/// Reads one message that must come.
///
/// # Errors
/// As [`read`]; the end of the stream.
pub async fn expect<T: Wire>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T, FrameError> {
    read(stream)
        .await?
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into())
}
