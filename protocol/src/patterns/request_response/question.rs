//! What else can be asked of a service: whether it is there, what it has done, what its requests look like.

use minicbor::{Decode, Encode};

use super::service::{check_endpoint_name, check_service_name};
use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::limits::{
    CALL_BYTES_MAX, ENDPOINTS_MAX, NAME_BYTES_MAX, REASON_BYTES_MAX, SCHEMA_BYTES_MAX, SCHEMAS_BYTES_MAX, SERVICES_MAX,
};
use crate::name::check_text;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Topic {
    /// Is it there?
    #[n(0)]
    Ping,
    /// What has it done?
    #[n(1)]
    Stats,
    /// What do its requests and answers look like?
    #[n(2)]
    Schemas,
}

/// A question about the instances of a service on one node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Question {
    /// The service.
    #[n(0)]
    pub service: String,
    /// The endpoint of the greeting: who may call that may ask.
    #[n(1)]
    pub endpoint: String,
    /// One instance and no other.
    #[n(2)]
    pub instance: Option<String>,
    /// What.
    #[n(3)]
    pub topic: Topic,
}

impl Question {
    /// What must hold beyond the shape.
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        check_service_name("service", &self.service)?;
        check_endpoint_name(&self.endpoint)?;
        self.instance
            .as_deref()
            .map_or(Ok(()), |instance| check_service_name("service instance", instance))
    }
}

/// The answer to a [`Question`]; there is one entry for each instance that is there.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum QuestionReply {
    /// These are there.
    #[n(0)]
    Pong {
        /// Ids of the instances.
        #[cbor(n(0), decode_with = "bounded::list::<{ SERVICES_MAX }, _, _>")]
        instances: Vec<String>,
    },
    /// What they have done.
    #[n(1)]
    Stats {
        /// Of each instance.
        #[cbor(n(0), decode_with = "bounded::list::<{ SERVICES_MAX }, _, _>")]
        instances: Vec<InstanceStats>,
    },
    /// What their requests and answers look like.
    #[n(2)]
    Schemas {
        /// Of each instance.
        #[cbor(n(0), decode_with = "bounded::list::<{ SERVICES_MAX }, _, _>")]
        instances: Vec<InstanceSchemas>,
    },
}

/// What an instance has done since it was offered.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct InstanceStats {
    /// The instance.
    #[n(0)]
    pub id: String,
    /// Since when it is offered, Unix milliseconds.
    #[n(1)]
    pub started_at_ms: u64,
    /// Calls handed to it and not answered.
    #[n(2)]
    pub in_flight: u32,
    /// How many it works on at once.
    #[n(3)]
    pub concurrency: u32,
    /// Of each endpoint.
    #[cbor(n(4), decode_with = "bounded::list::<{ ENDPOINTS_MAX }, _, _>")]
    pub endpoints: Vec<EndpointStats>,
}

/// What became of the calls of one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct EndpointStats {
    /// The endpoint.
    #[n(0)]
    pub name: String,
    /// Calls that reached it.
    #[n(1)]
    pub requests: u64,
    /// Those it failed.
    #[n(2)]
    pub errors: u64,
    /// Those whose callers did not wait for the end, or whose time was over.
    #[n(3)]
    pub abandoned: u64,
    /// Calls turned away because there was too much to do.
    #[n(4)]
    pub rejected: u64,
    /// Calls not answered yet.
    #[n(5)]
    pub in_flight: u32,
    /// Half of the answers took no longer, microseconds; an upper bound, within an eighth.
    #[n(6)]
    pub p50_us: u64,
    /// All but a hundredth took no longer.
    #[n(7)]
    pub p99_us: u64,
    /// All answers together, microseconds.
    #[n(8)]
    pub total_us: u64,
    /// The reason of the last failure.
    #[n(9)]
    pub last_error: Option<String>,
}

/// The schemas of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct InstanceSchemas {
    /// The instance.
    #[n(0)]
    pub id: String,
    /// Of each endpoint that has one.
    #[cbor(n(1), decode_with = "bounded::list::<{ ENDPOINTS_MAX }, _, _>")]
    pub endpoints: Vec<EndpointSchema>,
}

/// What requests to one endpoint look like, and its answers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct EndpointSchema {
    /// The endpoint.
    #[n(0)]
    pub name: String,
    /// A JSON Schema, as the service's author wrote it.
    #[n(1)]
    pub schema: String,
}

impl Wire for QuestionReply {
    const WHAT: &'static str = "answer about a service";
    const BYTES_MAX: usize = CALL_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        let id = |id: &String| check_service_name("service instance", id);
        match self {
            Self::Pong { instances } => instances.iter().try_for_each(id),
            Self::Stats { instances } => instances.iter().try_for_each(|instance| {
                id(&instance.id)?;
                instance.endpoints.iter().try_for_each(|endpoint| {
                    check_text("endpoint", &endpoint.name, NAME_BYTES_MAX)?;
                    let last_error = endpoint.last_error.as_deref().unwrap_or_default();
                    check_text("last error", last_error, REASON_BYTES_MAX)
                })
            }),
            Self::Schemas { instances } => {
                let endpoints = || instances.iter().flat_map(|instance| &instance.endpoints);
                at_most("schemas", endpoints().map(|e| e.schema.len()).sum(), SCHEMAS_BYTES_MAX)?;
                instances.iter().try_for_each(|instance| id(&instance.id))?;
                endpoints().try_for_each(|endpoint| {
                    check_endpoint_name(&endpoint.name)?;
                    at_most("schema", endpoint.schema.len(), SCHEMA_BYTES_MAX)
                })
            }
        }
    }
}
