//! The same handle over the local API.

mod call;
mod gather;
mod serve;
mod stream;

use std::{collections::BTreeMap, time::Duration};

use axum::extract::State;
use serde::{Deserialize, Serialize};
pub(super) use stream::Pickups;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use weft_protocol::{
    PeerId,
    patterns::request_response::{InstanceSchemas, InstanceStats},
};

use super::{Instance, Told};
use crate::{
    error::NodeError,
    local::{
        App,
        problem::{Json, Path, Problem, Query},
    },
};

/// How long asking instances may take, at most and when nothing is said.
const ASK_MS_MAX: u64 = 60_000;
const ASK_MS: u64 = 3000;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(info, call::call))
        .routes(routes!(stats))
        .routes(routes!(ping))
        .routes(routes!(schemas))
        .routes(routes!(drain))
        .routes(routes!(call::call_endpoint))
        .routes(routes!(serve::serve))
        .routes(routes!(gather::all))
        .routes(routes!(stream::call))
        .routes(routes!(stream::call_endpoint))
        .routes(routes!(stream::fetch, stream::bring))
}

/// An instance of a service.
#[derive(Debug, Serialize, ToSchema)]
struct Service {
    name: String,
    version: String,
    peer_id: String,
    node: String,
    id: String,
    endpoints: Vec<Endpoint>,
    metadata: BTreeMap<String, String>,
    zone: Option<String>,
    local: bool,
    reachable: bool,
    draining: bool,
    /// How much it has in hand, as a share of what it can do at once, where it said so lately.
    load: Option<f64>,
    /// How long this node asks it nothing, because it failed again and again.
    broken_for_ms: Option<u64>,
}

/// An endpoint.
#[derive(Debug, Serialize, ToSchema)]
struct Endpoint {
    name: String,
    group: Option<String>,
    idempotent: bool,
    /// SHA-256 of its JSON Schema.
    schema_sha256: Option<String>,
}

fn name(app: &App, peer: &PeerId) -> String {
    let trust = app.node.trust();
    let member = trust.member(peer).map(|m| m.name);
    member
        .or_else(|| trust.record(peer).map(|r| r.name))
        .unwrap_or_default()
}

fn service(app: &App, instance: Instance) -> Service {
    let info = instance.info;
    let endpoints = info.endpoints.into_iter().map(|endpoint| Endpoint {
        group: endpoint.group().map(ToOwned::to_owned),
        idempotent: endpoint.is_idempotent(),
        schema_sha256: endpoint.schema_sha256.map(|hash| data_encoding::HEXLOWER.encode(&hash)),
        name: endpoint.name,
    });
    Service {
        peer_id: instance.peer.to_string(),
        node: name(app, &instance.peer),
        endpoints: endpoints.collect(),
        draining: info.draining == Some(true),
        name: info.name,
        version: info.version,
        id: info.id,
        metadata: info.metadata.into_iter().collect(),
        zone: info.zone,
        local: instance.is_local,
        reachable: instance.is_connected,
        load: instance.load.map(|load| f64::from(load) / 1000.0),
        broken_for_ms: instance.open_for.map(|left| left.as_millis() as u64),
    }
}

/// The services of the mesh
#[utoipa::path(get, path = "/v1/services", responses((status = 200, body = [Service])))]
async fn list(State(app): State<App>) -> Json<Vec<Service>> {
    Json(app.calls.services().into_iter().map(|i| service(&app, i)).collect())
}

/// The instances of a service
#[utoipa::path(get, path = "/v1/services/{service}", params(("service" = String, Path)), responses((status = 200, body = [Service])))]
async fn info(State(app): State<App>, Path(wanted): Path<String>) -> Result<Json<Vec<Service>>, Problem> {
    let instances = app.calls.instances(&wanted);
    is_there(&wanted, &instances)?;
    Ok(Json(instances.into_iter().map(|i| service(&app, i)).collect()))
}

fn is_there<T>(service: &str, found: &[T]) -> Result<(), NodeError> {
    if found.is_empty() {
        return Err(NodeError::not_found(format!("no member offers the service {service}"))
            .with_hint("`weft services` lists what there is"));
    }
    Ok(())
}

/// How long to wait for those that are asked.
#[derive(Debug, Deserialize, IntoParams)]
struct AskQuery {
    /// Milliseconds.
    timeout_ms: Option<u64>,
}

impl AskQuery {
    fn within(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.unwrap_or(ASK_MS).clamp(1, ASK_MS_MAX))
    }
}

/// What one instance said.
#[derive(Debug, Serialize, ToSchema)]
struct Said {
    peer_id: String,
    node: String,
    id: String,
    version: String,
    /// Why it said nothing.
    error: Option<String>,
    rtt_ms: f64,
    /// What it has done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    stats: Option<InstanceStats>,
    /// The JSON Schemas of its endpoints, by their names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    schemas: Option<BTreeMap<String, serde_json::Value>>,
}

fn said<T>(app: &App, told: Told<T>) -> (Said, Option<T>) {
    let (answer, error) = match told.answer {
        Ok(answer) => (Some(answer), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let said = Said {
        peer_id: told.peer.to_string(),
        node: name(app, &told.peer),
        id: told.info.id,
        version: told.info.version,
        error,
        rtt_ms: told.elapsed.as_secs_f64() * 1e3,
        stats: None,
        schemas: None,
    };
    (said, answer)
}

/// What the instances of a service have done
#[utoipa::path(get, path = "/v1/services/{service}/stats", params(("service" = String, Path), AskQuery), responses((status = 200, body = [Said])))]
async fn stats(
    State(app): State<App>,
    Path(service): Path<String>,
    Query(query): Query<AskQuery>,
) -> Result<Json<Vec<Said>>, Problem> {
    let told = app.calls.stats(&service, query.within()).await;
    is_there(&service, &told)?;
    let with_stats = |told| {
        let (said, stats) = said(&app, told);
        Said { stats, ..said }
    };
    Ok(Json(told.into_iter().map(with_stats).collect()))
}

/// Whether the instances of a service are there
#[utoipa::path(get, path = "/v1/services/{service}/ping", params(("service" = String, Path), AskQuery), responses((status = 200, body = [Said])))]
async fn ping(
    State(app): State<App>,
    Path(service): Path<String>,
    Query(query): Query<AskQuery>,
) -> Result<Json<Vec<Said>>, Problem> {
    let told = app.calls.ping(&service, query.within()).await;
    is_there(&service, &told)?;
    Ok(Json(told.into_iter().map(|told| said(&app, told).0).collect()))
}

/// What requests to the endpoints of a service look like
#[utoipa::path(get, path = "/v1/services/{service}/schemas", params(("service" = String, Path), AskQuery), responses((status = 200, body = [Said])))]
async fn schemas(
    State(app): State<App>,
    Path(service): Path<String>,
    Query(query): Query<AskQuery>,
) -> Result<Json<Vec<Said>>, Problem> {
    let told = app.calls.schemas(&service, query.within()).await;
    is_there(&service, &told)?;
    let with_schemas = |told| {
        let (said, schemas) = said(&app, told);
        let read =
            |text: &str| serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::String(text.to_owned()));
        let schemas = schemas.map(|schemas: InstanceSchemas| {
            let endpoints = schemas.endpoints.into_iter();
            endpoints
                .map(|endpoint| (endpoint.name, read(&endpoint.schema)))
                .collect()
        });
        Said { schemas, ..said }
    };
    Ok(Json(told.into_iter().map(with_schemas).collect()))
}

/// Which instance to drain.
#[derive(Debug, Deserialize, IntoParams)]
struct DrainQuery {
    /// Without it, all of this node.
    instance: Option<String>,
}

/// The instances that drain now.
#[derive(Debug, Serialize, ToSchema)]
struct Drained {
    instances: Vec<String>,
}

/// Have this node's instances of a service take nothing new
#[utoipa::path(post, path = "/v1/services/{service}/drain", params(("service" = String, Path), DrainQuery), responses((status = 200, body = Drained)))]
async fn drain(
    State(app): State<App>,
    Path(service): Path<String>,
    Query(query): Query<DrainQuery>,
) -> Result<Json<Drained>, Problem> {
    let instances = app.calls.drain(&service, query.instance.as_deref()).await;
    if instances.is_empty() {
        let words = format!("this node offers no such instance of the service {service}");
        return Err(NodeError::not_found(words)
            .with_hint("drain it on the node it runs on: `weft services` says where")
            .into());
    }
    Ok(Json(Drained { instances }))
}
