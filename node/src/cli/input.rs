//! Where a body comes from: an argument, a file, or standard input.

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::ffi::OsStringExt,
    path::Path,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::CliError;

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
