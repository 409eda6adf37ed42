//! The local API as the command line uses it.
//!
//! A node is found through its data dir: `api.json` names its doors. The Unix socket is tried first (the kernel says who we are),
//! then loopback TCP with the token. One connection is kept for plain requests; event streams and WebSockets have their own.
//! Whatever a node sends is bounded before it is held in memory. Not promised: retries; a request is sent once.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::error::CliError;

pub(crate) use doors::{Doors, Via};
pub(crate) use problem::Problem;
pub(crate) use sse::{Event, EventStream};
pub(crate) use websocket::Socket;

mod doors;
mod problem;
mod sse;
mod websocket;

#[cfg(test)]
mod tests;

/// How long a node has for an ordinary request.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// Largest answer that is held in memory.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest part of an answer that is read from a node that refuses.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

type Sender = SendRequest<Full<Bytes>>;

/// A body that is sent as it comes.
pub(crate) type OutgoingBody = UnsyncBoxBody<Bytes, io::Error>;

/// A node on this machine.
pub(crate) struct Client {
    doors: Doors,
    kept: Mutex<Option<(Sender, Via)>>,
}

/// One request to the node.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    time_max: Duration,
}

impl Call {
    /// A request without a body.
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            time_max: REQUEST_TIME_MAX,
        }
    }

    /// With a body of this media type.
    pub(crate) fn body(mut self, body: Bytes, content_type: HeaderValue) -> Self {
        self.body = body;
        self.headers.insert(header::CONTENT_TYPE, content_type);
        self
    }

    /// With one more header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// With another time limit than the usual one.
    pub(crate) fn time_max(mut self, span: Duration) -> Self {
        self.time_max = span;
        self
    }

    /// Its body, to be sent another way.
    pub(crate) fn whole_body(&self) -> Bytes {
        self.body.clone()
    }

    fn request(&self, via: &Via) -> Result<Request<Full<Bytes>>, CliError> {
        let mut request = via.request(self.method.clone(), &self.path, Full::new(self.body.clone()))?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }
}

/// What a node answered, already complete.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its header fields.
    pub(crate) headers: HeaderMap,
    /// Its body.
    pub(crate) body: Bytes,
}

impl Answer {
    /// A header field as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON; an empty body is `null`.
    pub(crate) fn json(&self) -> Result<Value, CliError> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).map_err(|error| CliError::Protocol(error.to_string()))
    }
}

impl Client {
    /// The node that runs on this data dir, according to its `api.json`; nothing is connected yet.
    pub(crate) fn find(dir: PathBuf) -> Result<Self, CliError> {
        Ok(Self {
            doors: Doors::read(dir)?,
            kept: Mutex::new(None),
        })
    }

    /// `GET`, answered by JSON.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.send(Call::new(Method::GET, path)).await?.json()
    }

    /// `POST` of JSON, answered by JSON.
    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> Result<Value, CliError> {
        self.send(json_call(path, body)?).await?.json()
    }

    /// `DELETE`.
    pub(crate) async fn delete(&self, path: &str) -> Result<Value, CliError> {
        self.send(Call::new(Method::DELETE, path)).await?.json()
    }

    /// Sends a request and reads the whole answer; anything but 2xx is an error.
    ///
    /// Cancel-safe in that the connection is dropped; whether the node acted is then unknown.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer, CliError> {
        let limit = call.time_max;
        match tokio::time::timeout(limit, self.exchange(&call)).await {
            Ok(answer) => answer,
            Err(_) => Err(CliError::Timeout(format!(
                "the node did not answer within {} s",
                limit.as_secs_f64()
            ))),
        }
    }

    /// Opens a stream of server-sent events; returns when the node has accepted it.
    pub(crate) async fn events(&self, path: &str, last_id: Option<&str>) -> Result<EventStream, CliError> {
        let (mut sender, via) = self.connect().await?;
        let mut request = via.request(Method::GET, path, Full::new(Bytes::new()))?;
        request
            .headers_mut()
            .insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = last_id.and_then(|id| HeaderValue::from_str(id).ok()) {
            request.headers_mut().insert("last-event-id", id);
        }
        let accepted = tokio::time::timeout(REQUEST_TIME_MAX, sender.send_request(request)).await;
        let response = accepted
            .map_err(|_| CliError::Timeout("the node did not accept the subscription in time".to_owned()))?
            .map_err(|error| CliError::Lost(error.to_string()))?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        Ok(EventStream::new(response.into_body()))
    }

    /// Opens a WebSocket; returns when the node has accepted it.
    pub(crate) async fn websocket(&self, path: &str) -> Result<Socket, CliError> {
        let (stream, via) = self.doors.connect().await?;
        websocket::open(stream, &via, path).await
    }

    /// Sends a request whose body comes as it comes, on a connection of its own; returns when its answer begins. Nothing is
    /// timed here: the node keeps the call's time.
    pub(crate) async fn stream(&self, call: &Call, body: OutgoingBody) -> Result<http::Response<Incoming>, CliError> {
        let (stream, via) = self.doors.connect().await?;
        let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| CliError::Lost(error.to_string()))?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut request = via.request(call.method.clone(), &call.path, body)?;
        request.headers_mut().extend(call.headers.clone());
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| CliError::Lost(error.to_string()))?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        Ok(response)
    }

    async fn exchange(&self, call: &Call) -> Result<Answer, CliError> {
        // The lock is held over the exchange: HTTP/1.1 has one request at a time on a connection.
        let mut kept = self.kept.lock().await;
        let (mut sender, via) = match kept.take() {
            Some((sender, via)) if !sender.is_closed() => (sender, via),
            _ => self.connect().await?,
        };
        match sender.try_send_request(call.request(&via)?).await {
            Ok(response) => return finish(&mut kept, sender, via, response).await,
            Err(mut failed) => {
                // Without a message to take back, the node may have seen the request. With it, the node had closed the idle
                // connection before the request left this process.
                if failed.take_message().is_none() {
                    return Err(CliError::Lost(failed.into_error().to_string()));
                }
            }
        }
        let (mut sender, via) = self.connect().await?;
        let response = sender.send_request(call.request(&via)?).await;
        let response = response.map_err(|error| CliError::Lost(error.to_string()))?;
        finish(&mut kept, sender, via, response).await
    }

    async fn connect(&self) -> Result<(Sender, Via), CliError> {
        let (stream, via) = self.doors.connect().await?;
        let handshake = http1::Builder::new()
            .max_buf_size(128 * 1024)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(|error| CliError::Lost(error.to_string()))?;
        // The connection ends with its sender; its own failure is also the request's, where it is reported.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok((sender, via))
    }
}

/// A `POST` of JSON.
pub(crate) fn json_call(path: &str, body: &impl Serialize) -> Result<Call, CliError> {
    let body =
        serde_json::to_vec(body).map_err(|error| CliError::Usage(format!("cannot be written as JSON: {error}")))?;
    Ok(Call::new(Method::POST, path).body(Bytes::from(body), HeaderValue::from_static("application/json")))
}

async fn finish(
    kept: &mut Option<(Sender, Via)>,
    sender: Sender,
    via: Via,
    response: http::Response<Incoming>,
) -> Result<Answer, CliError> {
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| {
        CliError::Lost(format!(
            "after {}: {error}",
            if parts.status == StatusCode::OK { "200" } else { "2xx" }
        ))
    })?;
    *kept = Some((sender, via));
    Ok(Answer {
        headers: parts.headers,
        body: body.to_bytes(),
    })
}

async fn refusal(response: http::Response<Incoming>) -> CliError {
    let (parts, body) = response.into_parts();
    let body = match Limited::new(body, PROBLEM_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        // The status alone still says what happened.
        Err(_) => Bytes::new(),
    };
    CliError::Api(Box::new(Problem::from_answer(parts.status, &body)))
}
