//! The messages of a serving WebSocket: `u32` big-endian header length, JSON header, body.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::cli::CliError;

/// Largest header; the mesh allows 8 KiB of headers in a call, and JSON escapes at most sixfold.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// What the node says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum FromNode {
    /// The service is offered now.
    Ready {},
    /// Someone calls.
    Request(Request),
    /// Whoever called does not wait any longer.
    Cancel {
        /// Which request.
        id: u64,
    },
    /// Somebody asked this instance to drain.
    Drain {},
    /// Everything is answered, and nothing new will come.
    Drained {},
    /// What a newer node may say.
    #[serde(other)]
    Unknown,
}

/// A call to answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Request {
    /// Names the request on this connection.
    pub(super) id: u64,
    /// The service that was called.
    #[serde(default)]
    pub(super) service: String,
    /// The endpoint that was called.
    #[serde(default)]
    pub(super) endpoint: Option<String>,
    /// The caller's headers.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// What is left of the caller's time.
    #[serde(default)]
    pub(super) deadline_ms: Option<u64>,
    /// The caller's peer id.
    #[serde(default)]
    pub(super) caller: Option<String>,
    /// The caller's trace context.
    #[serde(default)]
    pub(super) traceparent: Option<String>,
    /// Where the request is to be fetched and the answer brought, when they are of any size.
    #[serde(default)]
    pub(super) stream: Option<String>,
}

/// What we say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ToNode {
    /// The answer; its bytes are the body.
    Answer {
        /// Which request.
        id: u64,
        /// Our headers.
        headers: BTreeMap<String, String>,
    },
    /// No answer, and why.
    Error {
        /// Which request.
        id: u64,
        /// As in HTTP.
        code: u16,
        /// For a person.
        reason: String,
    },
    /// No more requests, please.
    Drain {},
    /// The JSON Schema of an endpoint; its text is the body.
    Schema {
        /// Which endpoint.
        endpoint: String,
    },
}

/// One message to the node.
pub(super) fn encode(header: &ToNode, body: &[u8]) -> Result<Bytes, CliError> {
    let header = serde_json::to_vec(header).map_err(|error| CliError::Protocol(error.to_string()))?;
    let length = u32::try_from(header.len()).map_err(|_| CliError::Protocol("the header is too long".to_owned()))?;
    let mut message = BytesMut::with_capacity(4 + header.len() + body.len());
    message.put_u32(length);
    message.put_slice(&header);
    message.put_slice(body);
    Ok(message.freeze())
}

/// One message from the node.
pub(super) fn decode(mut message: Bytes) -> Result<(FromNode, Bytes), CliError> {
    let wrong = |what: &str| CliError::Protocol(format!("a message {what}"));
    if message.len() < 4 {
        return Err(wrong("is shorter than four bytes"));
    }
    let length = usize::try_from(message.get_u32()).map_err(|_| wrong("has a header that is too long"))?;
    if length > HEADER_BYTES_MAX || length > message.len() {
        return Err(wrong("has a header that is longer than allowed"));
    }
    let header = message.split_to(length);
    let header = serde_json::from_slice(&header).map_err(|error| wrong(&format!("has a damaged header: {error}")))?;
    Ok((header, message))
}
