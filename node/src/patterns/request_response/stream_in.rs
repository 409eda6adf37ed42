//! A call with bodies of any size, on the side that serves it.
//!
//! The stream's window is the back-pressure: parts are read as the service takes them and written as the caller does. The
//! deadline is that of the answer's beginning. A caller that goes resets the stream, and the call is cancelled.

use std::{sync::Arc, time::Duration};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, io::BufReader};
use tokio::time::{Instant, timeout, timeout_at};
use weft_protocol::{
    PeerId, Wire as _,
    limits::DIRECT_BODY_BYTES_MAX,
    patterns::request_response::{CallMessage, CallRequest, CallResponse, StreamFrame},
};

use super::{
    super::body::{BodyError, BodyReader, BodyWriter, body},
    handle::resource,
    registry::{Registry, Served},
};
use crate::mesh::{self, FrameError, InboundStream};

/// How long the call itself may take to come, after the greeting.
const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// Until the answer begins, when the caller does not say.
const DEADLINE: Duration = Duration::from_secs(60);
const READ_BUFFER_BYTES: usize = 16 << 10;

/// Serves one streamed call to its end.
pub(super) async fn serve(registry: Arc<Registry>, inbound: Box<InboundStream>) {
    let InboundStream {
        peer,
        hello,
        stream,
        span,
        ..
    } = *inbound;
    let within = hello
        .deadline_ms
        .map_or(DEADLINE, |ms| Duration::from_millis(ms.into()));
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
    let call = match timeout(CALL_PATIENCE, mesh::expect::<CallMessage>(&mut reader)).await {
        Ok(Ok(CallMessage::Call(call))) => call,
        Ok(Ok(_)) => return refuse(&mut writer, "a stream begins with a call").await,
        Ok(Err(error)) => return refuse(&mut writer, &error.to_string()).await,
        Err(_) => return refuse(&mut writer, "the call did not come").await,
    };
    // The right was checked for what the greeting names.
    if resource(&call.service, &call.endpoint).is_ok_and(|resource| resource.as_str() != hello.resource) {
        return refuse(&mut writer, "the greeting names another service").await;
    }
    let (feed, input) = body();
    let serving = Serving {
        registry,
        peer,
        deadline: Instant::now() + within,
        span,
    };
    let ended = tokio::select! {
        biased;
        ended = serving.answer(call, input, &mut writer) => ended,
        // Dropping the other cancels the call.
        () = read(&mut reader, feed) => return,
    };
    if ended.is_ok() {
        let _ = writer.close().await;
    }
}

async fn refuse(writer: &mut (impl AsyncWrite + Unpin), reason: &str) {
    let _ = mesh::write(writer, &StreamFrame::failed(400, reason)).await;
    let _ = writer.close().await;
}

/// Feeds the service what the caller sends; returns when the caller has gone.
async fn read(reader: &mut (impl AsyncRead + Unpin), feed: BodyWriter) {
    let mut feed = Some(feed);
    loop {
        match mesh::expect::<StreamFrame>(reader).await {
            Ok(StreamFrame::Part(bytes)) => {
                let sent = match &mut feed {
                    Some(writer) => writer.send(bytes.into()).await,
                    None => continue,
                };
                // A service that has read enough is not obliged to read on: what still comes is thrown away.
                if sent.is_err() {
                    feed = None;
                }
            }
            Ok(StreamFrame::End { .. }) => {
                if let Some(writer) = feed.take() {
                    let _ = writer.finish().await;
                }
            }
            Ok(_) | Err(_) => return,
        }
    }
}

struct Serving {
    registry: Arc<Registry>,
    peer: PeerId,
    deadline: Instant,
    span: tracing::Span,
}

impl Serving {
    async fn answer(
        self,
        call: CallRequest,
        input: BodyReader,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), FrameError> {
        let takes_streams = match self.registry.takes_streams(&call) {
            Ok(takes_streams) => takes_streams,
            Err(turned_away) => return write_all(writer, turned_away).await,
        };
        if !takes_streams {
            return self.answer_whole(call, input, writer).await;
        }
        let span = self.span.clone();
        let mut in_hand = match self
            .registry
            .hand_over(self.peer, call, Some(input), self.deadline, span)
        {
            Ok(in_hand) => in_hand,
            Err(turned_away) => return write_all(writer, turned_away).await,
        };
        mesh::write(writer, &StreamFrame::Begin { load: in_hand.load() }).await?;
        let reply = match timeout_at(self.deadline, in_hand.answer()).await {
            Ok(Some(reply)) => reply,
            Ok(None) => return write_all(writer, Served::Gone).await,
            Err(_) => return write_all(writer, Served::Late).await,
        };
        let Some(rest) = reply.rest else {
            in_hand.settle(&reply.response);
            return write_all(writer, Served::Response(Arc::new(reply.response))).await;
        };
        if let CallResponse::Answer { headers, .. } = &reply.response {
            let headers = headers.clone();
            mesh::write(writer, &StreamFrame::Head { headers }).await?;
        }
        let failed = write_rest(writer, rest, in_hand.load()).await?;
        in_hand.settle(&failed.unwrap_or(reply.response));
        Ok(())
    }

    /// For a service that takes no streams: its request is gathered, as far as it can be.
    async fn answer_whole(
        self,
        mut call: CallRequest,
        input: BodyReader,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), FrameError> {
        mesh::write(writer, &StreamFrame::Begin { load: None }).await?;
        match timeout_at(self.deadline, input.collect(DIRECT_BODY_BYTES_MAX)).await {
            Ok(Ok(bytes)) => call.body = bytes,
            Ok(Err(error)) => {
                let reason = format!("this service takes no streams: {error}");
                return mesh::write(writer, &StreamFrame::failed(413, &reason)).await;
            }
            Err(_) => return write_all(writer, Served::Late).await,
        }
        let served = self
            .registry
            .serve_until(self.peer, call, self.deadline, self.span)
            .await;
        write_all(writer, served).await
    }
}

/// Writes an answer that is whole, or why there is none.
async fn write_all(writer: &mut (impl AsyncWrite + Unpin), served: Served) -> Result<(), FrameError> {
    let response = match served {
        Served::Response(response) => Arc::unwrap_or_clone(response),
        Served::Gone => CallResponse::failed(502, "the service went away"),
        Served::Late => CallResponse::failed(504, "the service did not answer before the deadline"),
    };
    match response {
        CallResponse::Answer {
            headers, body, load, ..
        } => {
            if let Err(error) = (StreamFrame::Head {
                headers: headers.clone(),
            })
            .to_checked_bytes()
            {
                return mesh::write(writer, &StreamFrame::failed(500, &format!("the answer: {error}"))).await;
            }
            mesh::write(writer, &StreamFrame::Head { headers }).await?;
            write_rest(writer, BodyReader::of(body), load).await.map(drop)
        }
        CallResponse::Failed { code, reason, .. } => mesh::write(writer, &StreamFrame::Failed { code, reason }).await,
        CallResponse::TurnedAway {
            why,
            detail,
            retry_after_ms,
        } => {
            let frame = StreamFrame::TurnedAway {
                why,
                detail,
                retry_after_ms,
            };
            mesh::write(writer, &frame).await
        }
    }
}

/// Writes a body; how the service failed on the way, if it did.
async fn write_rest(
    writer: &mut (impl AsyncWrite + Unpin),
    mut rest: BodyReader,
    load: Option<u16>,
) -> Result<Option<CallResponse>, FrameError> {
    loop {
        let (code, reason) = match rest.next().await {
            Ok(Some(bytes)) => {
                for part in bytes.chunks(weft_protocol::limits::STREAM_PART_BYTES_MAX) {
                    mesh::write(writer, &StreamFrame::Part(part.to_vec())).await?;
                }
                continue;
            }
            Ok(None) => {
                mesh::write(writer, &StreamFrame::End { load }).await?;
                return Ok(None);
            }
            Err(BodyError::Failed { code, reason }) => (code, reason),
            Err(error) => (502, format!("the service broke off: {error}")),
        };
        mesh::write(writer, &StreamFrame::failed(code, &reason)).await?;
        return Ok(Some(CallResponse::failed(code, &reason)));
    }
}
