//! The first frame of every stream, the same for all patterns, and the answer to it.
//!
//! A `Hello` says what the stream is for, how long the caller waits, which trace it belongs to, and which capabilities speak for it
//! beyond the caller's certificate. Who the caller is, it does not say: the connection does.

#[cfg(test)]
pub(crate) mod tests;

use minicbor::{Decode, Encode};

use crate::capability::{CapabilityToken, Verb};
use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::limits::{
    CAPABILITIES_MAX, CAPABILITY_TOKEN_BYTES_MAX, HELLO_BYTES_MAX, HELLO_REPLY_BYTES_MAX, PATTERN_ID_BYTES_MAX,
    REASON_BYTES_MAX,
};
use crate::name::{check_text, reason};
use crate::subject::Subject;
use crate::trace::{TraceParent, check_tracestate};

/// The version of [`Hello`] that is spoken here.
pub const HELLO_VERSION: u16 = 1;

/// What a stream is for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// [`HELLO_VERSION`].
    #[n(0)]
    pub version: u16,
    /// The pattern, as in `/weft/<pattern>/<version>`.
    #[n(1)]
    pub pattern: String,
    /// What the caller wants to do.
    #[n(2)]
    pub verb: Verb,
    /// With what; a subject.
    #[n(3)]
    pub resource: String,
    /// How long the caller still waits, relative, so that clocks do not matter.
    #[n(4)]
    pub deadline_ms: Option<u32>,
    /// W3C trace context.
    #[n(5)]
    pub traceparent: Option<String>,
    /// W3C trace context of vendors, carried as it is.
    #[n(6)]
    pub tracestate: Option<String>,
    /// Capability tokens, encoded.
    #[cbor(n(7), with = "capabilities")]
    pub capability: Vec<Vec<u8>>,
}

/// At most [`CAPABILITIES_MAX`] encoded tokens; shared by all that carry some.
pub(crate) mod capabilities {
    use super::*;

    pub(crate) fn decode<Ctx>(
        decoder: &mut minicbor::Decoder<'_>,
        context: &mut Ctx,
    ) -> Result<Vec<Vec<u8>>, minicbor::decode::Error> {
        bounded::blobs::decode::<Ctx, CAPABILITIES_MAX>(decoder, context)
    }

    pub(crate) use bounded::blobs::encode;
}

impl Hello {
    /// A hello of the current version with nothing optional in it.
    pub fn new(pattern: impl Into<String>, verb: Verb, resource: impl Into<String>) -> Self {
        Self {
            version: HELLO_VERSION,
            pattern: pattern.into(),
            verb,
            resource: resource.into(),
            deadline_ms: None,
            traceparent: None,
            tracestate: None,
            capability: Vec::new(),
        }
    }

    /// The resource as a subject, to be checked against grants.
    pub fn subject(&self) -> Result<Subject, DecodeError> {
        Subject::reserved(&self.resource)
    }

    /// The trace context, if there is one and it is understood; a bad one is ignored, as the standard says.
    pub fn trace_parent(&self) -> Option<TraceParent> {
        self.traceparent.as_deref().and_then(|text| text.parse().ok())
    }

    /// The capability tokens, decoded but not verified.
    pub fn capability_tokens(&self) -> Result<Vec<CapabilityToken>, DecodeError> {
        self.capability
            .iter()
            .map(|bytes| CapabilityToken::from_bytes(bytes))
            .collect()
    }
}

impl Wire for Hello {
    const WHAT: &'static str = "hello";
    const BYTES_MAX: usize = HELLO_BYTES_MAX;

    /// The version comes first in every version, so that a stranger hears "other version" and not "malformed".
    fn check_bytes(bytes: &[u8]) -> Result<(), DecodeError> {
        let mut decoder = minicbor::Decoder::new(bytes);
        let version = decoder.array().and_then(|_| decoder.u64());
        match version {
            Ok(got) if got != u64::from(HELLO_VERSION) => Err(DecodeError::Version {
                what: Self::WHAT,
                supported: HELLO_VERSION,
                got,
            }),
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.version != HELLO_VERSION {
            let got = u64::from(self.version);
            return Err(DecodeError::Version {
                what: Self::WHAT,
                supported: HELLO_VERSION,
                got,
            });
        }
        check_pattern_id(&self.pattern)?;
        self.subject()?;
        // Bounded, but a malformed one must not fail the call it rides on.
        self.traceparent
            .as_deref()
            .map_or(Ok(()), |text| check_text("traceparent", text, 256))?;
        self.tracestate.as_deref().map_or(Ok(()), check_tracestate)?;
        check_capabilities(&self.capability)
    }
}

/// Number and size of encoded capability tokens.
pub(crate) fn check_capabilities(tokens: &[Vec<u8>]) -> Result<(), DecodeError> {
    at_most("capabilities", tokens.len(), CAPABILITIES_MAX)?;
    tokens
        .iter()
        .try_for_each(|token| at_most("capability token", token.len(), CAPABILITY_TOKEN_BYTES_MAX))
}

/// A pattern's identifier: `[a-z0-9_-]`, as it is part of a protocol name.
fn check_pattern_id(id: &str) -> Result<(), DecodeError> {
    at_most("pattern id", id.len(), PATTERN_ID_BYTES_MAX)?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    if id.is_empty() || !id.bytes().all(plain) {
        return Err(DecodeError::invalid(
            "pattern id",
            format!("{id:?} is not of a-z 0-9 _ -"),
        ));
    }
    Ok(())
}

/// Why a stream was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The hello has another version.
    #[n(0)]
    Version,
    /// The caller is not a member of the mesh.
    #[n(1)]
    NotMember,
    /// The caller may not do this.
    #[n(2)]
    Denied,
    /// Too much at once; try again later.
    #[n(3)]
    Busy,
    /// There is no such resource here.
    #[n(4)]
    Unknown,
    /// The hello could not be read.
    #[n(5)]
    Malformed,
    /// The deadline has passed.
    #[n(6)]
    Deadline,
    /// The node is stopping.
    #[n(7)]
    Closing,
}

impl Refusal {
    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::NotMember => "not_member",
            Self::Denied => "denied",
            Self::Busy => "busy",
            Self::Unknown => "unknown",
            Self::Malformed => "malformed",
            Self::Deadline => "deadline",
            Self::Closing => "closing",
        }
    }
}

/// The door-keeper's answer to a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum HelloReply {
    /// Come in.
    #[n(0)]
    Accepted {
        /// The version that is spoken from here on.
        #[n(0)]
        version: u16,
    },
    /// No.
    #[n(1)]
    Refused {
        /// Why, for programs.
        #[n(0)]
        reason: Refusal,
        /// Why, for people.
        #[n(1)]
        detail: String,
    },
}

impl HelloReply {
    /// A refusal whose detail is cut to what may be sent.
    pub fn refused(why: Refusal, detail: &str) -> Self {
        Self::Refused {
            reason: why,
            detail: reason(detail),
        }
    }
}

impl Wire for HelloReply {
    const WHAT: &'static str = "hello reply";
    const BYTES_MAX: usize = HELLO_REPLY_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Accepted { .. } => Ok(()),
            Self::Refused { detail, .. } => check_text("detail", detail, REASON_BYTES_MAX),
        }
    }
}
