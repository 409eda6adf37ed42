//! Where a body comes from: an argument, a file, or standard input.

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::ffi::OsStringExt,
    path::Path,
};

use bytes::Bytes;
use futures::TryStreamExt as _;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::ReaderStream;

use super::{client::OutgoingBody, error::CliError};

/// How much of a stream is read at once.
const PART_BYTES: usize = 64 * 1024;

/// More than any body a node takes; the node's own limit is smaller and says so itself.
const INPUT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The body a command was given: `data`, else the `file` (`-` is standard input), else standard input unless a person sits there.
pub(crate) async fn body(data: Option<OsString>, file: Option<&Path>) -> Result<Bytes, CliError> {
    match (data, file) {
        (Some(data), _) => Ok(Bytes::from(data.into_vec())),
        (None, Some(path)) if path == Path::new("-") => stdin().await,
        (None, Some(path)) => {
            let fail = |error| CliError::io(format!("cannot read {}", path.display()), error);
            let file = tokio::fs::File::open(path).await.map_err(fail)?;
            bounded(file, INPUT_BYTES_MAX).await.map_err(fail)
        }
        (None, None) if io::stdin().is_terminal() => Ok(Bytes::new()),
        (None, None) => stdin().await,
    }
}

/// The same, as it comes and of any size; data that begins with `@` names a file.
pub(crate) async fn stream(data: Option<OsString>, file: Option<&Path>) -> Result<OutgoingBody, CliError> {
    let named = data
        .as_ref()
        .and_then(|data| data.as_encoded_bytes().strip_prefix(b"@"));
    let named = named.map(|name| std::path::PathBuf::from(OsString::from_vec(name.to_vec())));
    match (data, named.as_deref().or(file)) {
        (_, Some(path)) if path != Path::new("-") => {
            let fail = |error| CliError::io(format!("cannot read {}", path.display()), error);
            Ok(parts(tokio::fs::File::open(path).await.map_err(fail)?))
        }
        (Some(data), None) => Ok(whole(Bytes::from(data.into_vec()))),
        (None, None) if io::stdin().is_terminal() => Ok(whole(Bytes::new())),
        _ => Ok(parts(tokio::io::stdin())),
    }
}

/// What a reader gives, as a body.
pub(crate) fn parts(reader: impl AsyncRead + Send + 'static) -> OutgoingBody {
    let parts = ReaderStream::with_capacity(reader, PART_BYTES);
    StreamBody::new(parts.map_ok(Frame::data)).boxed_unsync()
}

/// A body that is there already.
pub(crate) fn whole(bytes: Bytes) -> OutgoingBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

async fn stdin() -> Result<Bytes, CliError> {
    let fail = |error| CliError::io("cannot read standard input", error);
    bounded(tokio::io::stdin(), INPUT_BYTES_MAX).await.map_err(fail)
}

/// Reads to the end, or fails when there is more than `bytes_max`.
pub(crate) async fn bounded(reader: impl AsyncRead + Unpin, bytes_max: u64) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    reader.take(bytes_max + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {bytes_max} bytes"),
        ));
    }
    Ok(Bytes::from(bytes))
}
