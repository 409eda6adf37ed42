//! How services are announced: instances, their versions and endpoints, in the record of their node.

use minicbor::{Decode, Encode};

use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::limits::{
    ANNOUNCEMENT_BYTES_MAX, ENDPOINTS_MAX, LABELS_MAX, NAME_BYTES_MAX, REASON_BYTES_MAX, SERVICES_MAX,
};
use crate::name::{check_distinct, check_name, check_text};

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
    pub endpoints: Vec<EndpointInfo>,
    /// Where it is, for callers that prefer what is near.
    #[n(5)]
    pub zone: Option<String>,
    /// It finishes what it has and takes nothing new.
    #[n(6)]
    pub draining: Option<bool>,
}

impl ServiceInfo {
    /// The endpoint of this name.
    pub fn endpoint(&self, name: &str) -> Option<&EndpointInfo> {
        self.endpoints.iter().find(|endpoint| endpoint.name == name)
    }

    /// Whether it takes nothing new.
    pub fn is_draining(&self) -> bool {
        self.draining == Some(true)
    }
}

/// One endpoint of a service. A name with dots, `admin.reset`, is an endpoint in a group.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct EndpointInfo {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Calling it twice is as good as calling it once.
    #[n(1)]
    pub idempotent: Option<bool>,
    /// SHA-256 of its JSON Schema, where it has one.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub schema_sha256: Option<[u8; 32]>,
}

impl EndpointInfo {
    /// An endpoint of which nothing is said.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            idempotent: None,
            schema_sha256: None,
        }
    }

    /// Whether calling it twice is as good as calling it once.
    pub fn is_idempotent(&self) -> bool {
        self.idempotent == Some(true)
    }

    /// The part of its name before the last dot.
    pub fn group(&self) -> Option<&str> {
        self.name.rsplit_once('.').map(|(group, _)| group)
    }
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
        .try_for_each(|endpoint| check_endpoint_name(&endpoint.name))?;
    if let Some(zone) = &service.zone {
        check_name("zone", zone)?;
    }
    check_distinct(
        "endpoints",
        service.endpoints.iter().map(|endpoint| endpoint.name.as_str()),
    )
}

/// Checks the name of an endpoint: names joined by dots, those before the last being its group; at most 64 bytes.
pub fn check_endpoint_name(name: &str) -> Result<(), DecodeError> {
    at_most("endpoint", name.len(), NAME_BYTES_MAX)?;
    name.split('.')
        .try_for_each(|token| check_service_name("endpoint", token))
}

/// Checks the name of a service, a part of an endpoint's or an instance: `[A-Za-z0-9_-]{1,64}`, one token of a subject.
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
pub(super) fn check_version(version: &str) -> Result<(), DecodeError> {
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
