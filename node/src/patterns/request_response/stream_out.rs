//! A call with bodies of any size, on the side that calls.
//!
//! The timeout is that of the answer's beginning: a body takes as long as it takes, and moves no faster than the slowest of
//! those who read and write it. Another instance is asked as long as none has the call; from then on the body flows, and cannot be
//! sent again. Dropping the answer ends the call on the other side.

use std::{sync::Arc, time::Duration};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, io::BufReader};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use weft_protocol::{
    PeerId, Subject, Verb,
    limits::{DIRECT_BODY_BYTES_MAX, STREAM_PART_BYTES_MAX},
    patterns::request_response::{CallMessage, CallRequest, CallResponse, PATTERN_ID, StreamFrame, TurnedAway},
};

use super::{
    super::body::{BodyError, BodyReader, BodyWriter, body},
    attempts::{Attempts, judge},
    core::{self, Attempt},
    handle::{Inner, RequestResponseHandle, resource, target, wanted},
    health::Ended,
    options::{CallError, CallOptions, DEFAULT_ENDPOINT},
    registry::Served,
};
use crate::{
    context::greeting,
    mesh::{self, FrameError, streams::MeshStream},
};

const READ_BUFFER_BYTES: usize = 16 << 10;

/// The beginning of an answer whose body is still to come.
#[derive(Debug)]
pub struct StreamAnswer {
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: BodyReader,
    /// Who answers.
    pub node: PeerId,
    /// How long it took until it began.
    pub elapsed: Duration,
}

type Head = Result<Vec<(String, String)>, CallError>;
/// A stream on which the service has the call, and how busy it says it is.
type Begun = (BufReader<MeshStream>, Option<u16>);

impl RequestResponseHandle {
    /// Calls a service with a body of any size, and returns when its answer begins.
    ///
    /// Cancel-safe: the call ends on the other side. A service that takes no streams gets what fits into an ordinary call.
    ///
    /// # Errors
    /// See [`CallError`]; `Invalid` for an idempotency key or hedging: what flows cannot be sent twice.
    pub async fn call_stream(
        &self,
        service: &str,
        endpoint: &str,
        body: BodyReader,
        options: CallOptions,
    ) -> Result<StreamAnswer, CallError> {
        if options.idempotency_key.is_some() || options.hedge_after.is_some() || options.receipt {
            let words = "a streamed call has no idempotency key, no second instance and no receipt: it flows once, and nobody has all of it";
            return Err(CallError::Invalid(words.to_owned()));
        }
        let endpoint = if endpoint.is_empty() {
            DEFAULT_ENDPOINT
        } else {
            endpoint
        };
        let wanted = wanted(endpoint, &options)?;
        let request = CallRequest {
            headers: options.headers.clone(),
            instance: options.instance.clone(),
            version: wanted.version.as_ref().map(ToString::to_string),
            ..CallRequest::new(service, endpoint, Vec::new())
        };
        weft_protocol::Wire::check(&request).map_err(|e| CallError::Invalid(e.to_string()))?;
        let started = Instant::now();
        let calling = async {
            let found = self.known(service, &wanted, started + options.timeout).await;
            let target = target(service, &wanted);
            let attempts = Attempts::new(&self.inner, request.clone(), &options, started)?;
            let call = Streamed {
                inner: Arc::clone(&self.inner),
                resource: resource(service, endpoint).map_err(|e| CallError::Invalid(e.to_string()))?,
                request,
                deadline: started + options.timeout,
            };
            call.run(attempts, found, body, &target, started).await
        };
        let result = match tokio::time::timeout(options.timeout, calling).await {
            Ok(Err(CallError::Timeout(_))) | Err(_) => Err(CallError::Timeout(options.timeout)),
            Ok(result) => result,
        };
        self.inner.metrics.note(&result, started.elapsed());
        result
    }
}

/// One streamed call under way.
struct Streamed {
    inner: Arc<Inner>,
    resource: Subject,
    request: CallRequest,
    deadline: Instant,
}

impl Streamed {
    async fn run(
        self,
        mut attempts: Attempts<'_>,
        found: Vec<Arc<super::catalogue::Entry>>,
        input: BodyReader,
        target: &str,
        started: Instant,
    ) -> Result<StreamAnswer, CallError> {
        for entry in attempts.order(&found) {
            let (out, answer) = body();
            let (head, begun) = oneshot::channel();
            if entry.is_local {
                let here = Arc::clone(&self.inner);
                let (request, deadline) = (self.request.clone(), self.deadline);
                self.inner.tasks.spawn("call-stream", async move {
                    carry_here(here, request, input, head, out, deadline).await;
                });
            } else {
                let under_way = entry.health.begin();
                let stream = match self.begin(entry.peer).await {
                    Ok(Ok((stream, load))) => {
                        entry.health.note_load(load);
                        stream
                    }
                    Ok(Err(turned_away)) => {
                        under_way.end(Ended::Unclear);
                        match attempts.settle(&entry, turned_away) {
                            Some(settled) => return Err(settled.err().unwrap_or(CallError::Closed)),
                            None => continue,
                        }
                    }
                    Err((attempt, error)) => {
                        under_way.end(Ended::Failed);
                        if !core::may_ask_another(attempt) {
                            return Err(error);
                        }
                        attempts.note(entry.peer, attempt, &error);
                        continue;
                    }
                };
                under_way.end(Ended::Answered);
                let peer = entry.peer;
                self.inner.tasks.spawn(
                    "call-stream",
                    async move { carry(peer, stream, input, head, out).await },
                );
            }
            let unknown = || CallError::Unknown {
                node: entry.peer,
                detail: "the stream broke before the answer began".to_owned(),
            };
            let headers = begun.await.map_err(|_| unknown())??;
            return Ok(StreamAnswer {
                headers,
                body: answer,
                node: entry.peer,
                elapsed: started.elapsed(),
            });
        }
        Err(attempts.nobody(target))
    }

    /// Opens a stream and brings the call there; a response instead of a stream says that the service does not have it.
    async fn begin(&self, peer: PeerId) -> Result<Result<Begun, CallResponse>, (Attempt, CallError)> {
        let mut hello = greeting(PATTERN_ID, self.inner.mesh.trust(), Verb::Call, &self.resource);
        let left = self.deadline.saturating_duration_since(Instant::now());
        hello.deadline_ms = Some(u32::try_from(left.as_millis()).unwrap_or(u32::MAX));
        let opened = self.inner.mesh.open(peer, &hello).await;
        let mut stream = opened.map_err(|error| judge(peer, error))?;
        // Nothing of the body has left: whatever happens here, another may be asked.
        let broken = |error: FrameError| {
            let kind = crate::error::ErrorKind::Unreachable;
            let detail = error.to_string();
            (Attempt::NotSeen(kind), CallError::Unknown { node: peer, detail })
        };
        let call = CallMessage::Call(self.request.clone());
        mesh::write(&mut stream, &call).await.map_err(broken)?;
        let mut stream = BufReader::with_capacity(READ_BUFFER_BYTES, stream);
        let first = timeout_at(self.deadline, mesh::expect::<StreamFrame>(&mut stream)).await;
        match first.map_err(|_| (Attempt::Seen, CallError::Timeout(Duration::ZERO)))? {
            Ok(StreamFrame::Begin { load }) => Ok(Ok((stream, load))),
            Ok(StreamFrame::TurnedAway {
                why,
                detail,
                retry_after_ms,
            }) => Ok(Err(CallResponse::TurnedAway {
                why,
                detail,
                retry_after_ms,
            })),
            Ok(StreamFrame::Failed { code, reason }) => Ok(Err(CallResponse::failed(code, &reason))),
            Ok(_) => Err((Attempt::Seen, out_of_turn(peer))),
            Err(error) => Err(broken(error)),
        }
    }
}

fn out_of_turn(peer: PeerId) -> CallError {
    CallError::Unknown {
        node: peer,
        detail: "its answer is out of turn".to_owned(),
    }
}

/// Carries both bodies until the answer is whole, or nobody wants it.
async fn carry(
    peer: PeerId,
    stream: BufReader<MeshStream>,
    input: BodyReader,
    head: oneshot::Sender<Head>,
    out: BodyWriter,
) {
    let (mut reader, mut writer) = stream.split();
    let sending = send(&mut writer, input);
    let receiving = receive(peer, &mut reader, head, out);
    let mut sending = std::pin::pin!(sending);
    let mut receiving = std::pin::pin!(receiving);
    tokio::select! {
        biased;
        () = &mut receiving => {}
        sent = &mut sending => {
            // A body that broke off must not look whole: the stream is reset. A service that reads no more may still answer.
            if sent.is_ok() {
                receiving.await;
            }
        }
    }
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), mut input: BodyReader) -> Result<(), BodyError> {
    while let Some(bytes) = input.next().await? {
        for part in bytes.chunks(STREAM_PART_BYTES_MAX) {
            if mesh::write(writer, &StreamFrame::Part(part.to_vec())).await.is_err() {
                return Ok(());
            }
        }
    }
    let _ = mesh::write(writer, &StreamFrame::End { load: None }).await;
    Ok(())
}

async fn receive(
    peer: PeerId,
    reader: &mut (impl AsyncRead + Unpin),
    head: oneshot::Sender<Head>,
    mut out: BodyWriter,
) {
    let mut head = Some(head);
    loop {
        let next = async {
            match &mut head {
                // Before the answer began, its reader is not there yet: who waits for it may go.
                Some(head) => tokio::select! {
                    biased;
                    () = head.closed() => None,
                    frame = mesh::expect::<StreamFrame>(reader) => frame.ok(),
                },
                None => tokio::select! {
                    biased;
                    () = out.unread() => None,
                    frame = mesh::expect::<StreamFrame>(reader) => frame.ok(),
                },
            }
        };
        let frame = next.await;
        match (frame, head.take()) {
            (Some(StreamFrame::Head { headers }), Some(head)) => drop(head.send(Ok(headers))),
            (Some(StreamFrame::Part(bytes)), None) => {
                if out.send(bytes.into()).await.is_err() {
                    return;
                }
            }
            (Some(StreamFrame::End { .. }), None) => return drop(out.finish().await),
            (Some(StreamFrame::Failed { code, reason }), Some(head)) => {
                return drop(head.send(Err(CallError::Failed { code, reason })));
            }
            (Some(StreamFrame::Failed { code, reason }), None) => return out.fail(code, &reason).await,
            (Some(StreamFrame::TurnedAway { why, detail, .. }), Some(head)) => {
                let error = match why {
                    TurnedAway::Busy => CallError::AllBusy {
                        service: detail,
                        retry_after: None,
                    },
                    TurnedAway::Unknown | TurnedAway::Draining => CallError::NoneKnown(detail),
                };
                return drop(head.send(Err(error)));
            }
            (Some(_), Some(head)) => return drop(head.send(Err(out_of_turn(peer)))),
            // Without a word the reader sees that it broke off.
            (Some(_), None) | (None, _) => return,
        }
    }
}

/// The same for an instance on this node.
async fn carry_here(
    inner: Arc<Inner>,
    mut request: CallRequest,
    input: BodyReader,
    head: oneshot::Sender<Head>,
    mut out: BodyWriter,
    deadline: Instant,
) {
    let here = inner.mesh.local_peer();
    let span = tracing::Span::current();
    let failed = |code, reason: String| CallError::Failed { code, reason };
    let served = match inner.registry.takes_streams(&request) {
        Err(turned_away) => turned_away,
        Ok(false) => match input.collect(DIRECT_BODY_BYTES_MAX).await {
            Ok(bytes) => {
                request.body = bytes;
                inner.registry.serve_until(here, request, deadline, span).await
            }
            Err(error) => return drop(head.send(Err(failed(413, format!("this service takes no streams: {error}"))))),
        },
        Ok(true) => match inner.registry.hand_over(here, request, Some(input), deadline, span) {
            Err(turned_away) => turned_away,
            Ok(mut in_hand) => match timeout_at(deadline, in_hand.answer()).await {
                Ok(Some(reply)) => {
                    let Some(mut rest) = reply.rest else {
                        in_hand.settle(&reply.response);
                        return answer_whole(here, reply.response, head, out).await;
                    };
                    if let CallResponse::Answer { headers, .. } = &reply.response {
                        let _ = head.send(Ok(headers.clone()));
                    }
                    loop {
                        match rest.next().await {
                            Ok(Some(bytes)) => {
                                if out.send(bytes).await.is_err() {
                                    return;
                                }
                            }
                            Ok(None) => {
                                in_hand.settle(&reply.response);
                                return drop(out.finish().await);
                            }
                            Err(BodyError::Failed { code, reason }) => {
                                in_hand.settle(&CallResponse::failed(code, &reason));
                                return out.fail(code, &reason).await;
                            }
                            Err(_) => return,
                        }
                    }
                }
                Ok(None) => Served::Gone,
                Err(_) => Served::Late,
            },
        },
    };
    match served {
        Served::Response(response) => answer_whole(here, Arc::unwrap_or_clone(response), head, out).await,
        Served::Gone => drop(head.send(Err(failed(502, "the service went away".to_owned())))),
        Served::Late => drop(head.send(Err(CallError::Timeout(Duration::ZERO)))),
    }
}

/// An answer that is whole already.
async fn answer_whole(here: PeerId, response: CallResponse, head: oneshot::Sender<Head>, mut out: BodyWriter) {
    match response {
        CallResponse::Answer { headers, body, .. } => {
            let _ = head.send(Ok(headers));
            if out.send(body.into()).await.is_ok() {
                let _ = out.finish().await;
            }
        }
        CallResponse::Failed { code, reason, .. } => drop(head.send(Err(CallError::Failed { code, reason }))),
        CallResponse::TurnedAway {
            why: TurnedAway::Busy,
            detail,
            ..
        } => drop(head.send(Err(CallError::AllBusy {
            service: format!("{detail} on {here}"),
            retry_after: None,
        }))),
        CallResponse::TurnedAway { detail, .. } => drop(head.send(Err(CallError::NoneKnown(detail)))),
    }
}
