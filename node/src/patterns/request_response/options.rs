//! How to call and what to offer; what comes of a call.

use std::{collections::BTreeMap, time::Duration};

use weft_protocol::PeerId;

use crate::error::{ErrorKind, Kind};

/// The endpoint of a service that names none.
/// The header by which an answer says which HTTP status it is, if it is not 200.
pub(crate) const STATUS: &str = "status";
pub(crate) const DEFAULT_ENDPOINT: &str = "default";
/// A call's deadline when none is given.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls that one service works on at once, when it does not say.
const CONCURRENCY: u32 = 1024;
/// Further tries of a call that may be sent twice.
const RETRIES: u32 = 2;

/// How to call.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// All of it: lookup, dial, service, further tries. It travels with the call and ends it on the other side as well.
    pub timeout: Duration,
    /// One instance's node, and no other.
    pub node: Option<PeerId>,
    /// One instance, by its id, and no other.
    pub instance: Option<String>,
    /// Which versions will do, such as `^1.2` or `>=1.4, <2`. A mere `1.2` means `^1.2`.
    pub version: Option<String>,
    /// Names and values for the service.
    pub headers: Vec<(String, String)>,
    /// The same call sent again, by whomever, has the same key; it then is served once, as long as the callee's node remembers
    /// it: ten minutes, or until it restarts.
    pub idempotency_key: Option<String>,
    /// Further tries when an instance broke down with the call in hand. They happen only where they do no harm: the endpoint
    /// is idempotent, or the call has a key and goes to the same instance.
    pub retries: u32,
    /// Have the callee's node sign a receipt of what was asked and answered.
    pub receipt: bool,
    /// Ask a second instance when the first has not answered for so long; the first answer counts, the other call is cancelled.
    /// Only for an idempotent endpoint.
    pub hedge_after: Option<Duration>,
}

impl Default for CallOptions {
    fn default() -> Self {
        CallOptions {
            timeout: CALL_TIMEOUT,
            node: None,
            instance: None,
            version: None,
            headers: Vec::new(),
            idempotency_key: None,
            retries: RETRIES,
            receipt: false,
            hedge_after: None,
        }
    }
}

/// A service's answer.
#[derive(Debug, Clone)]
pub struct CallAnswer {
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Who answered.
    pub node: PeerId,
    /// Which of its instances, where that is certain.
    pub instance: Option<String>,
    /// The receipt, a signed `Receipt` as bytes, if one was wanted and it is right.
    pub receipt: Option<Vec<u8>>,
    /// How often somebody was asked.
    pub attempts: u32,
    /// How long it took.
    pub elapsed: Duration,
}

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No member offers it.
    #[error("no member offers the service {0}")]
    NoneKnown(String),
    /// Members offer it, none can be reached.
    #[error("the service {service} is known but unreachable: {detail}")]
    Unreachable {
        /// The service.
        service: String,
        /// What was tried.
        detail: String,
    },
    /// Members offer it, all are busy.
    #[error("every instance of the service {service} is busy")]
    AllBusy {
        /// The service.
        service: String,
        /// When the first of them may have room, as far as they say.
        retry_after: Option<Duration>,
    },
    /// The callee's node denied it.
    #[error("denied: {0}")]
    Denied(String),
    /// The service itself failed.
    #[error("the service failed with code {code}: {reason}")]
    Failed {
        /// The service's own code.
        code: u16,
        /// Its reason.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The request exceeds a limit or is malformed.
    #[error("{0}")]
    Invalid(String),
    /// The connection broke after the request was sent: it may or may not have been served.
    #[error("the connection to {node} broke; the call may or may not have been served: {detail}")]
    Unknown {
        /// The instance's node.
        node: PeerId,
        /// What happened.
        detail: String,
    },
    /// The node is stopping, or belongs to no mesh.
    #[error("this node is stopping or belongs to no mesh yet")]
    Closed,
}

impl Kind for CallError {
    fn kind(&self) -> ErrorKind {
        match self {
            CallError::NoneKnown(_) => ErrorKind::NotFound,
            CallError::Unreachable { .. } | CallError::Unknown { .. } => ErrorKind::Unreachable,
            CallError::AllBusy { .. } => ErrorKind::Busy,
            CallError::Denied(_) => ErrorKind::Denied,
            CallError::Failed { code: 504, .. } => ErrorKind::Timeout,
            CallError::Failed { .. } => ErrorKind::Internal,
            CallError::Timeout(_) => ErrorKind::Timeout,
            CallError::Invalid(_) => ErrorKind::Invalid,
            CallError::Closed => ErrorKind::Closed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            CallError::NoneKnown(service) => Some(format!(
                "`weft services` lists what there is; `weft serve {} --echo` would offer it",
                service.split(['@', '/']).next().unwrap_or_default()
            )),
            CallError::Denied(_) => {
                Some("`weft cap explain` on the called node says which right is missing".to_owned())
            }
            CallError::Timeout(_) => Some("--timeout gives it longer".to_owned()),
            CallError::AllBusy {
                retry_after: Some(pause),
                ..
            } => Some(format!("it may have room in {} ms", pause.as_millis())),
            CallError::Unknown { .. } => {
                Some("where it matters, give calls an idempotency key: then the same call may be sent again".to_owned())
            }
            _ => None,
        }
    }
}

/// What to offer.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// `[A-Za-z0-9_-]`, at most 64 bytes.
    pub name: String,
    /// A semantic version.
    pub version: String,
    /// Empty: `default`, of which nothing is said.
    pub endpoints: Vec<EndpointOptions>,
    /// For people and for choosing.
    pub metadata: Vec<(String, String)>,
    /// Calls it works on at once. How many are in hand in proportion to it is what callers are told of its load; much more than
    /// that are turned away.
    pub concurrency: u32,
    /// It reads requests in parts ([`IncomingCall::take_body`](super::IncomingCall::take_body)), so they may be of any size.
    pub takes_streams: bool,
}

impl ServiceOptions {
    /// A service with the default endpoint and nothing said about it.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        ServiceOptions {
            name: name.into(),
            version: version.into(),
            endpoints: Vec::new(),
            metadata: Vec::new(),
            concurrency: CONCURRENCY,
            takes_streams: false,
        }
    }

    /// The JSON Schemas of the endpoints that have one.
    pub(super) fn schemas(&self) -> BTreeMap<String, String> {
        let with_schema = self.endpoints.iter();
        with_schema
            .filter_map(|endpoint| Some((endpoint.name.clone(), endpoint.schema.clone()?)))
            .collect()
    }
}

/// One endpoint to offer.
#[derive(Debug, Clone, Default)]
pub struct EndpointOptions {
    /// As a service's name; dots make groups, as in `admin.reset`.
    pub name: String,
    /// Calling it twice is as good as calling it once: calls may be tried again, and hedged.
    pub idempotent: bool,
    /// What its requests and answers look like: a JSON Schema.
    pub schema: Option<String>,
}

impl EndpointOptions {
    /// An endpoint of which nothing is said.
    pub fn new(name: impl Into<String>) -> Self {
        EndpointOptions {
            name: name.into(),
            ..EndpointOptions::default()
        }
    }
}
