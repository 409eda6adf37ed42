//! Calls: one request, one answer, and how services announce themselves.
//!
//! `headers` are names and values of text, as in HTTP but without its rules of repetition: a name may occur twice. A failure is the
//! service's own answer (`code` is its business); a refusal is the node's and travels in [`DirectReply`](crate::direct::DirectReply).

#[cfg(test)]
mod tests;

use minicbor::{Decode, Encode};

use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::limits::{
    ANNOUNCEMENT_BYTES_MAX, CALL_BYTES_MAX, DIRECT_BODY_BYTES_MAX, ENDPOINTS_MAX, HEADER_BYTES_MAX, HEADERS_MAX,
    LABELS_MAX, NAME_BYTES_MAX, REASON_BYTES_MAX, SERVICES_MAX,
};
use crate::name::{check_distinct, check_name, check_text, reason};

/// The pattern's identifier in [`Hello`](crate::Hello).
pub const PATTERN_ID: &str = "request_response";
/// The key of its announcement in a node record.
pub const ANNOUNCEMENT_KEY: &str = "request_response";

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
}

impl Wire for CallRequest {
    const WHAT: &'static str = "call";
    const BYTES_MAX: usize = CALL_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        check_service_name("service", &self.service)?;
        check_service_name("endpoint", &self.endpoint)?;
        check_headers(&self.headers)?;
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
    },
}

impl CallResponse {
    /// A failure whose reason is cut to what may be sent.
    pub fn failed(code: u16, why: &str) -> Self {
        Self::Failed {
            code,
            reason: reason(why),
        }
    }
}

impl Wire for CallResponse {
    const WHAT: &'static str = "answer";
    const BYTES_MAX: usize = CALL_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Answer { headers, body } => {
                check_headers(headers)?;
                at_most("body", body.len(), DIRECT_BODY_BYTES_MAX)
            }
            Self::Failed { reason, .. } => check_text("reason", reason, REASON_BYTES_MAX),
        }
    }
}

/// One instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct ServiceInfo {
    /// The service.
    #[n(0)]
    pub name: String,
    /// Its version, `major.minor.patch` with optional suffixes (semantic versioning).
    #[n(1)]
    pub version: String,
    /// This instance.
    #[n(2)]
    pub id: String,
    /// Names and values for people and selection.
    #[cbor(n(3), decode_with = "bounded::list::<{ LABELS_MAX }, _, _>")]
    pub metadata: Vec<(String, String)>,
    /// Its endpoints.
    #[cbor(n(4), decode_with = "bounded::list::<{ ENDPOINTS_MAX }, _, _>")]
    pub endpoints: Vec<String>,
}

/// What a node announces: the services it answers for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct ServiceList(#[cbor(n(0), decode_with = "bounded::list::<{ SERVICES_MAX }, _, _>")] pub Vec<ServiceInfo>);

impl Wire for ServiceList {
    const WHAT: &'static str = "service announcement";
    const BYTES_MAX: usize = ANNOUNCEMENT_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        at_most("services", self.0.len(), SERVICES_MAX)?;
        self.0.iter().try_for_each(check_service)?;
        check_distinct("service instances", self.0.iter().map(|service| service.id.as_str()))
    }
}

fn check_service(service: &ServiceInfo) -> Result<(), DecodeError> {
    check_service_name("service", &service.name)?;
    check_version(&service.version)?;
    check_service_name("service instance", &service.id)?;
    at_most("metadata", service.metadata.len(), LABELS_MAX)?;
    for (key, value) in &service.metadata {
        check_name("metadata", key)?;
        check_text("metadata value", value, REASON_BYTES_MAX)?;
    }
    check_distinct("metadata", service.metadata.iter().map(|(key, _)| key.as_str()))?;
    at_most("endpoints", service.endpoints.len(), ENDPOINTS_MAX)?;
    service
        .endpoints
        .iter()
        .try_for_each(|endpoint| check_service_name("endpoint", endpoint))?;
    check_distinct("endpoints", service.endpoints.iter().map(String::as_str))
}

/// Checks the name of a service, an endpoint or an instance: `[A-Za-z0-9_-]{1,64}`, one token of a subject.
pub fn check_service_name(what: &'static str, name: &str) -> Result<(), DecodeError> {
    at_most(what, name.len(), NAME_BYTES_MAX)?;
    if name.is_empty()
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    {
        return Err(DecodeError::invalid(
            what,
            format!("{name:?} is not of A-Z a-z 0-9 _ -"),
        ));
    }
    Ok(())
}

/// Three numbers, then optionally `-` or `+` and a suffix.
fn check_version(version: &str) -> Result<(), DecodeError> {
    let refuse = || DecodeError::invalid("service version", format!("{version:?} is not of the form 1.2.3"));
    at_most("service version", version.len(), NAME_BYTES_MAX)?;
    let (core, suffix) = match version.find(['-', '+']) {
        Some(at) => (&version[..at], Some(&version[at + 1..])),
        None => (version, None),
    };
    let number = |part: &str| {
        part.parse::<u64>().is_ok()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    if core.split('.').count() != 3 || !core.split('.').all(number) {
        return Err(refuse());
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.+".contains(&byte);
    match suffix {
        Some(suffix) if suffix.is_empty() || !suffix.bytes().all(plain) => Err(refuse()),
        _ => Ok(()),
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
