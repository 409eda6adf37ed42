//! Where a body comes from: an argument, a file, or standard input.

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::ffi::OsStringExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    sync::mpsc,
};
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

/// Data of a message.
pub(crate) enum Source {
    /// All of them.
    Whole(Bytes),
    /// More than fits into memory, perhaps.
    Large(Large),
}

/// Data that are sent as they are read.
pub(crate) struct Large {
    /// They.
    pub(crate) body: OutgoingBody,
    /// How much has been read.
    pub(crate) read_bytes: Arc<AtomicU64>,
    /// How much there is, if that is known.
    pub(crate) total_bytes: Option<u64>,
}

/// The body a command was given, as [`body`] finds it; beyond `whole_max` bytes, as it comes.
pub(crate) async fn source(data: Option<OsString>, file: Option<&Path>, whole_max: usize) -> Result<Source, CliError> {
    let (reader, total_bytes): (Box<dyn AsyncRead + Send + Unpin>, _) = match (data, file) {
        (Some(data), _) => return Ok(Source::Whole(Bytes::from(data.into_vec()))),
        (None, Some(path)) if path != Path::new("-") => {
            let fail = |error| CliError::io(format!("cannot read {}", path.display()), error);
            let opened = tokio::fs::File::open(path).await.map_err(fail)?;
            let known = opened.metadata().await.map_err(fail)?;
            (Box::new(opened), known.is_file().then_some(known.len()))
        }
        (None, None) if io::stdin().is_terminal() => return Ok(Source::Whole(Bytes::new())),
        _ => (Box::new(tokio::io::stdin()), None),
    };
    let fail = |error| CliError::io("cannot read the data", error);
    let (mut reader, mut head) = (reader, Vec::new());
    let beyond = whole_max as u64 + 1;
    (&mut reader).take(beyond).read_to_end(&mut head).await.map_err(fail)?;
    if head.len() <= whole_max {
        return Ok(Source::Whole(Bytes::from(head)));
    }
    let read_bytes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&read_bytes);
    let rest = ReaderStream::with_capacity(std::io::Cursor::new(head).chain(reader), PART_BYTES);
    let counting = rest.map_ok(move |part| {
        counted.fetch_add(part.len() as u64, Ordering::Relaxed);
        Frame::data(part)
    });
    Ok(Source::Large(Large {
        body: StreamBody::new(counting).boxed_unsync(),
        read_bytes,
        total_bytes,
    }))
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

/// Longest line that is read; the node's own limits are smaller, and it says so itself.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where lines are read from: a file, or standard input.
pub(crate) async fn lines(file: Option<&Path>) -> Result<Box<dyn AsyncBufRead + Send + Unpin>, CliError> {
    match file {
        Some(path) if path != Path::new("-") => {
            let opened = tokio::fs::File::open(path).await;
            let opened = opened.map_err(|error| CliError::io(format!("cannot read {}", path.display()), error))?;
            Ok(Box::new(BufReader::new(opened)))
        }
        _ => Ok(Box::new(BufReader::new(tokio::io::stdin()))),
    }
}

/// The next line without its ending, bounded.
pub(crate) async fn next_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Bytes>> {
    let mut line = Vec::new();
    let limit = LINE_BYTES_MAX as u64 + 1;
    if reader.take(limit).read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if line.len() > LINE_BYTES_MAX {
        let words = format!("a line is longer than {LINE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, words));
    }
    Ok(Some(Bytes::from(line)))
}

/// Reads lines, so many ahead, while earlier ones are dealt with.
pub(crate) async fn read_ahead(
    file: Option<&Path>,
    ahead: usize,
) -> Result<mpsc::Receiver<Result<Bytes, CliError>>, CliError> {
    let mut reader = lines(file).await?;
    let (sink, read) = mpsc::channel(ahead);
    #[expect(
        clippy::disallowed_methods,
        reason = "a command has no node whose tasks it could belong to"
    )]
    tokio::spawn(async move {
        loop {
            let line = next_line(&mut reader).await;
            let line = line.map_err(|error| CliError::io("cannot read the lines", error));
            let is_last = !matches!(line, Ok(Some(_)));
            if let Some(line) = line.transpose()
                && sink.send(line).await.is_err()
            {
                return;
            }
            if is_last {
                return;
            }
        }
    });
    Ok(read)
}

/// Lines that are dealt with together.
pub(crate) struct Gathered {
    /// They, a newline behind each.
    pub(crate) body: Bytes,
    /// How many.
    pub(crate) count: usize,
    /// Why there will be no more, if reading failed behind them.
    pub(crate) broken: Option<CliError>,
}

/// A line and those that have been read meanwhile.
pub(crate) fn gather(
    first: &[u8],
    lines: &mut mpsc::Receiver<Result<Bytes, CliError>>,
    count_max: usize,
    bytes_max: usize,
) -> Gathered {
    let mut body = BytesMut::from(first);
    let (mut count, mut broken) = (1, None);
    while count < count_max && body.len() < bytes_max {
        match lines.try_recv() {
            Ok(Ok(line)) => {
                body.extend_from_slice(b"\n");
                body.extend_from_slice(&line);
                count += 1;
            }
            Ok(Err(error)) => {
                broken = Some(error);
                break;
            }
            Err(_) => break,
        }
    }
    body.extend_from_slice(b"\n");
    Gathered {
        body: body.freeze(),
        count,
        broken,
    }
}
