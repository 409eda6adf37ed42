//! Calls whose bodies are of any size: fetched from the node as they come, and brought to it as they are made.
//!
//! What is slow holds up the rest: a command that does not read its input its caller, a caller that does not read the answer the
//! command. An answer that fails on the way is said to have failed, and never ends as if it were whole. The call's end kills the
//! command's whole process group.

use std::{collections::BTreeMap, io, time::Duration};

use bytes::Bytes;
use futures::TryStreamExt as _;
use http::{HeaderName, HeaderValue, Method};
use http_body_util::{BodyExt as _, BodyStream, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{ChildStdin, ChildStdout},
    sync::mpsc,
};

use super::{
    exec::{self, Exec, Group},
    frame::Request,
    handler::{ANSWER_BYTES_MAX, Answer, Failure, Handler, Way},
    pool::Pool,
    upstream::Upstream,
};
use crate::cli::{
    CliError,
    client::{Call, Client, OutgoingBody},
    input, parse,
};

/// How much of a command's output is read at once.
const PART_BYTES: usize = 64 * 1024;
/// Parts of an answer on their way to the node.
const PARTS_AHEAD: usize = 2;
/// How long the node may take to end an answer that has failed.
const FAILED_PATIENCE: Duration = Duration::from_secs(10);

/// Serves one such call; `fail` tells the node that there will be no answer, or no end of it.
pub(super) async fn handle<F: Future<Output = ()>>(
    handler: &Handler,
    client: &Client,
    request: &Request,
    fail: impl Fn(Failure) -> F,
) -> Result<(), CliError> {
    let path = format!(
        "/v1/stream/calls/{}",
        parse::percent(request.stream.as_deref().unwrap_or_default())
    );
    let fetch = Call::new(Method::GET, path.clone());
    let incoming = client.stream(&fetch, input::whole(Bytes::new())).await?.into_body();
    let bring = Bring { client, path };
    match &handler.way {
        Way::Echo => bring.send(&BTreeMap::new(), relayed(incoming)).await,
        Way::Http(upstream) => match answer_of(upstream, request, incoming).await {
            Ok((headers, body)) => bring.send(&headers, body).await,
            Err(failure) => {
                fail(failure).await;
                Ok(())
            }
        },
        Way::Pool(pool) => match whole(pool, request, incoming).await {
            Ok(answer) => bring.send(&answer.headers, input::whole(answer.body)).await,
            Err(failure) => {
                fail(failure).await;
                Ok(())
            }
        },
        Way::Exec(exec) => {
            // Unbounded in time: a body takes as long as it takes. The caller's going is what ends it.
            let (output, body) = channel();
            let no_headers = BTreeMap::new();
            let mut running = std::pin::pin!(run(exec, request, incoming, output));
            let mut bringing = std::pin::pin!(bring.send(&no_headers, body));
            let ended = tokio::select! {
                biased;
                brought = &mut bringing => return brought,
                ended = &mut running => ended,
            };
            match ended {
                // The sender is gone with the command: the body has its end.
                Ok(()) => bringing.await,
                Err((failure, output)) => {
                    fail(failure).await;
                    // Kept until the node has cut the answer off: without it the body would seem whole.
                    let _ = tokio::time::timeout(FAILED_PATIENCE, bringing).await;
                    drop(output);
                    Ok(())
                }
            }
        }
    }
}

/// A line has an end: the request is taken as a whole, and no larger than an answer may be.
async fn whole(pool: &Pool, request: &Request, incoming: Incoming) -> Result<Answer, Failure> {
    let body = match Limited::new(incoming, ANSWER_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let limit = format!("this service takes a line of at most {ANSWER_BYTES_MAX} bytes");
            return Err(Failure::new(413, limit));
        }
        Err(error) => return Err(Failure::new(499, format!("the request broke off: {error}"))),
    };
    pool.handle(request, body).await
}

struct Bring<'a> {
    client: &'a Client,
    path: String,
}

impl Bring<'_> {
    async fn send(&self, headers: &BTreeMap<String, String>, body: OutgoingBody) -> Result<(), CliError> {
        let mut call = Call::new(Method::POST, self.path.clone());
        for (name, value) in headers {
            let name = HeaderName::try_from(format!("weft-header-{name}"));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                call = call.header(name, value);
            }
        }
        self.client.stream(&call, body).await.map(drop)
    }
}

/// What comes from the node, to go back to it.
fn relayed(incoming: Incoming) -> OutgoingBody {
    incoming.map_err(io::Error::other).boxed_unsync()
}

async fn answer_of(
    upstream: &Upstream,
    request: &Request,
    incoming: Incoming,
) -> Result<(BTreeMap<String, String>, OutgoingBody), Failure> {
    let parts = BodyStream::new(incoming).try_filter_map(|frame| std::future::ready(Ok(frame.into_data().ok())));
    let response = upstream.post(request, reqwest::Body::wrap_stream(parts)).await?;
    if !response.status().is_success() {
        return Err(Upstream::refusal(response).await);
    }
    let headers = Upstream::headers(&response)?;
    let parts = response.bytes_stream().map_ok(Frame::data).map_err(io::Error::other);
    Ok((headers, StreamBody::new(parts).boxed_unsync()))
}

type Output = mpsc::Sender<Bytes>;

/// A body that ends when its sender is dropped.
fn channel() -> (Output, OutgoingBody) {
    let (sender, receiver) = mpsc::channel::<Bytes>(PARTS_AHEAD);
    let parts = futures::stream::unfold(receiver, |mut receiver| async {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, io::Error>(Frame::data(bytes)), receiver))
    });
    (sender, StreamBody::new(parts).boxed_unsync())
}

/// Runs the command to its end; with a failure the sender comes back, so that the body does not end.
async fn run(exec: &Exec, request: &Request, incoming: Incoming, output: Output) -> Result<(), (Failure, Output)> {
    let limit = Duration::from_millis(request.deadline_ms.unwrap_or_default());
    let mut child = match exec.spawn(request, limit) {
        Ok(child) => child,
        Err(failure) => return Err((failure, output)),
    };
    let mut group = Group::of(&child);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let read = async {
        let mut outputs = std::pin::pin!(async { tokio::join!(copy(stdout, &output), exec::tail(stderr)) });
        tokio::select! {
            biased;
            // The input may stay unread; the ends of the outputs decide.
            (_, words) = &mut outputs => Ok(words),
            fed = feed(stdin, incoming) => match fed {
                Ok(()) => Ok(outputs.await.1),
                Err(error) => Err(Failure::new(499, format!("the request broke off: {error}"))),
            },
        }
    };
    let words = match read.await {
        Ok(words) => words,
        Err(failure) => return Err((failure, output)),
    };
    let status = match child.wait().await {
        Ok(status) => status,
        Err(error) => return Err((Failure::new(500, format!("lost the command: {error}")), output)),
    };
    group.disarm();
    if status.success() {
        return Ok(());
    }
    Err((Failure::new(500, exec::reason(status, &words)), output))
}

/// The request, to the command. One that does not read its input closes it early; that is its right.
async fn feed(stdin: Option<ChildStdin>, mut incoming: Incoming) -> Result<(), hyper::Error> {
    let mut stdin = stdin;
    while let Some(frame) = incoming.frame().await {
        let frame = frame?;
        if let (Some(bytes), Some(pipe)) = (frame.data_ref(), &mut stdin)
            && pipe.write_all(bytes).await.is_err()
        {
            stdin = None;
        }
    }
    if let Some(mut pipe) = stdin {
        let _ = pipe.shutdown().await;
    }
    Ok(())
}

/// The command's output, to the node.
async fn copy(stdout: Option<ChildStdout>, output: &Output) {
    let Some(mut stdout) = stdout else { return };
    loop {
        let mut part = Vec::with_capacity(PART_BYTES);
        match stdout.read_buf(&mut part).await {
            Ok(0) | Err(_) => return,
            Ok(_) if output.send(part.into()).await.is_err() => return,
            Ok(_) => {}
        }
    }
}
