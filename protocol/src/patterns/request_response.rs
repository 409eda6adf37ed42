//! Calls: one request, one answer, and how services announce themselves.
//!
//! `headers` are names and values of text, as in HTTP but without its rules of repetition: a name may occur twice. A failure is the
//! service's own answer (`code` is its business). A refusal says that the service saw nothing: here by whoever answers for the
//! services of a node, in [`DirectReply`](crate::direct::DirectReply) by the node itself.

mod question;
mod receipt;
mod service;
mod stream;
#[cfg(test)]
mod tests;

pub use question::{EndpointSchema, EndpointStats, InstanceSchemas, InstanceStats, Question, QuestionReply, Topic};
pub use receipt::Receipt;
pub use service::{EndpointInfo, ServiceInfo, ServiceList, check_endpoint_name, check_service_name};
pub use stream::StreamFrame;

use minicbor::{Decode, Encode};

use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::limits::{
    CALL_BYTES_MAX, DIRECT_BODY_BYTES_MAX, HEADER_BYTES_MAX, HEADERS_MAX, IDEMPOTENCY_KEY_BYTES_MAX, REASON_BYTES_MAX,
    VERSION_REQUIREMENT_BYTES_MAX,
};
use crate::name::{check_text, reason};

/// The pattern's identifier in [`Hello`](crate::Hello).
pub const PATTERN_ID: &str = "request_response";
/// The key of its announcement in a node record.
pub const ANNOUNCEMENT_KEY: &str = "request_response";

/// What a caller sends: a call, or a word about one.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum CallMessage {
    /// A call, answered by a [`CallResponse`].
    #[n(0)]
    Call(#[n(0)] CallRequest),
    /// The caller no longer waits for one of its calls, named by [`CallRequest::call`]. The answer is empty.
    #[n(1)]
    Cancel {
        /// Which.
        #[n(0)]
        call: u64,
    },
    /// Something else to be known of a service, answered by a [`QuestionReply`].
    #[n(2)]
    Ask(#[n(0)] Question),
}

impl Wire for CallMessage {
    const WHAT: &'static str = "call";
    const BYTES_MAX: usize = CALL_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Call(request) => request.check(),
            Self::Cancel { .. } => Ok(()),
            Self::Ask(question) => question.check(),
        }
    }
}

impl CallMessage {
    /// The encoding of a [`CallMessage::Call`], without a copy of the call.
    pub fn call_bytes(request: &CallRequest) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(request.body.len() + OTHER_BYTES);
        minicbor::Encoder::new(&mut bytes)
            .array(2)
            .and_then(|encoder| encoder.u8(0))
            .and_then(|encoder| encoder.array(1))
            .and_then(|encoder| encoder.encode(request))
            .expect("invariant: writing to a Vec does not fail");
        bytes
    }
}

/// What a call or an answer takes beside its body, most often.
const OTHER_BYTES: usize = 96;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CallRequest {
    /// Which service.
    #[n(0)]
    pub service: String,
    /// Which of its endpoints.
    #[n(1)]
    pub endpoint: String,
    /// Names and values.
    #[cbor(n(2), decode_with = "bounded::list::<{ HEADERS_MAX }, _, _>")]
    pub headers: Vec<(String, String)>,
    /// The body.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub body: Vec<u8>,
    /// By what the caller cancels it; another one for each of its calls.
    #[n(4)]
    pub call: Option<u64>,
    /// One instance and no other.
    #[n(5)]
    pub instance: Option<String>,
    /// Which versions will do, as in `^1.2`.
    #[n(6)]
    pub version: Option<String>,
    /// The same call sent twice has the same key, and is served once.
    #[n(7)]
    pub idempotency_key: Option<String>,
    /// What the receipt is to name, when one is wanted.
    #[cbor(n(8), with = "minicbor::bytes")]
    pub receipt_nonce: Option<[u8; 16]>,
}

impl CallRequest {
    /// A call without anything optional.
    pub fn new(service: impl Into<String>, endpoint: impl Into<String>, body: Vec<u8>) -> Self {
        Self {
            service: service.into(),
            endpoint: endpoint.into(),
            headers: Vec::new(),
            body,
            call: None,
            instance: None,
            version: None,
            idempotency_key: None,
            receipt_nonce: None,
        }
    }
}

impl Wire for CallRequest {
    const WHAT: &'static str = "call";
    const BYTES_MAX: usize = CALL_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        check_service_name("service", &self.service)?;
        check_endpoint_name(&self.endpoint)?;
        check_headers(&self.headers)?;
        if let Some(instance) = &self.instance {
            check_service_name("service instance", instance)?;
        }
        if let Some(version) = &self.version {
            check_text("version requirement", version, VERSION_REQUIREMENT_BYTES_MAX)?;
        }
        if let Some(key) = &self.idempotency_key {
            check_text("idempotency key", key, IDEMPOTENCY_KEY_BYTES_MAX)?;
        }
        at_most("body", self.body.len(), DIRECT_BODY_BYTES_MAX)
    }
}

/// The answer to a [`CallRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum CallResponse {
    /// The service answered.
    #[n(0)]
    Answer {
        /// Names and values.
        #[cbor(n(0), decode_with = "bounded::list::<{ HEADERS_MAX }, _, _>")]
        headers: Vec<(String, String)>,
        /// The body.
        #[cbor(n(1), with = "minicbor::bytes")]
        body: Vec<u8>,
        /// How busy the instance is, thousandths of what it can do at once.
        #[n(2)]
        load: Option<u16>,
        /// A signed [`Receipt`], encoded, when one was wanted.
        #[cbor(n(3), with = "minicbor::bytes")]
        receipt: Option<Vec<u8>>,
    },
    /// The service says that it failed.
    #[n(1)]
    Failed {
        /// The service's own code.
        #[n(0)]
        code: u16,
        /// Why, for people.
        #[n(1)]
        reason: String,
        /// How busy the instance is, thousandths of what it can do at once.
        #[n(2)]
        load: Option<u16>,
        /// A signed [`Receipt`], encoded, when one was wanted.
        #[cbor(n(3), with = "minicbor::bytes")]
        receipt: Option<Vec<u8>>,
    },
    /// The service saw nothing of it.
    #[n(2)]
    TurnedAway {
        /// Why, for programs.
        #[n(0)]
        why: TurnedAway,
        /// Why, for people.
        #[n(1)]
        detail: String,
        /// When it may be worth another try.
        #[n(2)]
        retry_after_ms: Option<u32>,
    },
}

/// Why a call did not reach the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum TurnedAway {
    /// It has too much to do.
    #[n(0)]
    Busy,
    /// There is no such service, endpoint, version or instance here.
    #[n(1)]
    Unknown,
    /// It finishes what it has and takes nothing new.
    #[n(2)]
    Draining,
}

impl CallResponse {
    /// An answer, before it is known how busy the instance is.
    pub fn answer(headers: Vec<(String, String)>, body: Vec<u8>) -> Self {
        Self::Answer {
            headers,
            body,
            load: None,
            receipt: None,
        }
    }

    /// Turned away, with a detail cut to what may be sent.
    pub fn turned_away(why: TurnedAway, detail: &str, retry_after_ms: Option<u32>) -> Self {
        Self::TurnedAway {
            why,
            detail: reason(detail),
            retry_after_ms,
        }
    }

    /// A failure whose reason is cut to what may be sent.
    pub fn failed(code: u16, why: &str) -> Self {
        Self::Failed {
            code,
            reason: reason(why),
            load: None,
            receipt: None,
        }
    }
}

impl Wire for CallResponse {
    const WHAT: &'static str = "answer";
    const BYTES_MAX: usize = CALL_BYTES_MAX;

    fn bytes_expected(&self) -> usize {
        match self {
            Self::Answer { body, .. } => body.len() + OTHER_BYTES,
            _ => OTHER_BYTES,
        }
    }

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Answer { headers, body, .. } => {
                check_headers(headers)?;
                at_most("body", body.len(), DIRECT_BODY_BYTES_MAX)
            }
            Self::Failed { reason, .. } => check_text("reason", reason, REASON_BYTES_MAX),
            Self::TurnedAway { detail, .. } => check_text("detail", detail, REASON_BYTES_MAX),
        }
    }
}

/// Checks headers: number, total size, names of printable ASCII, values without control characters.
pub fn check_headers(headers: &[(String, String)]) -> Result<(), DecodeError> {
    at_most("headers", headers.len(), HEADERS_MAX)?;
    at_most(
        "headers",
        headers.iter().map(|(name, value)| name.len() + value.len()).sum(),
        HEADER_BYTES_MAX,
    )?;
    for (name, value) in headers {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
            return Err(DecodeError::invalid("header", format!("{name:?} is not a name")));
        }
        check_text("header value", value, HEADER_BYTES_MAX)?;
    }
    Ok(())
}
