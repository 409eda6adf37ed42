//! Schemas.

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use weft_protocol::patterns::event_sourcing::schema::{Schema, Upcast};

use super::{handle, name_of};
use crate::{
    error::NodeError,
    local::{
        App,
        problem::{Json, Path, Problem},
        rfc3339,
    },
    patterns::event_sourcing::StreamError,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(one, remove))
}

/// What the data of events must be like that name this schema (`dataschema`).
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SchemaView {
    /// What events call it: a URI.
    id: String,
    /// Events of these types must name this schema, or another one that is for their type; without any it is for whatever names it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    types: Vec<String>,
    /// The JSON Schema (2020-12, unless its `$schema` says another draft).
    schema: Value,
    /// How data of an earlier schema become data of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upcast: Option<UpcastView>,
    /// When it was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    added: Option<String>,
}

/// How data of an earlier schema become data of a later one.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UpcastView {
    /// The earlier one; without it what was recorded without any schema, of the types that the later one is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// The JSON Patch (RFC 6902) that is applied to the data.
    patch: Value,
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

fn view(schema: Schema) -> SchemaView {
    SchemaView {
        schema: json_of(&schema.document),
        id: schema.id,
        types: schema.types,
        upcast: schema.upcast.map(|upcast| UpcastView {
            patch: json_of(&upcast.patch),
            from: upcast.from,
        }),
        added: Some(rfc3339(schema.added_ms)),
    }
}

/// List what the data of a stream's events must be like
#[utoipa::path(get, path = "/v1/streams/{stream}/schemas", params(("stream" = String, Path)), responses((status = 200, body = [SchemaView])))]
async fn list(State(app): State<App>, Path(stream): Path<String>) -> Result<Json<Vec<SchemaView>>, Problem> {
    let schemas = handle(&app)?.schemas(&name_of(&stream)?).await;
    let schemas = schemas.map_err(NodeError::from)?;
    Ok(Json(schemas.into_iter().map(view).collect()))
}

/// Add a schema to a stream of this node: from then on appends are checked by it
#[utoipa::path(post, path = "/v1/streams/{stream}/schemas", params(("stream" = String, Path)), request_body = SchemaView, responses((status = 201, body = SchemaView)))]
async fn add(
    State(app): State<App>,
    Path(stream): Path<String>,
    Json(asked): Json<SchemaView>,
) -> Result<(StatusCode, Json<SchemaView>), Problem> {
    let name = name_of(&stream)?;
    let schema = Schema {
        id: asked.id.clone(),
        types: asked.types,
        document: asked.schema.to_string(),
        upcast: asked.upcast.map(|upcast| Upcast {
            from: upcast.from,
            patch: upcast.patch.to_string(),
        }),
        added_ms: 0,
    };
    handle(&app)?.add_schema(&name, schema).await.map_err(NodeError::from)?;
    Ok((StatusCode::CREATED, Json(found(&app, &stream, &asked.id).await?)))
}

async fn found(app: &App, stream: &str, id: &str) -> Result<SchemaView, NodeError> {
    let schemas = handle(app)?.schemas(&name_of(stream)?).await?;
    let schema = schemas.into_iter().find(|schema| schema.id == id);
    let schema = schema.ok_or_else(|| StreamError::NoSchema(id.to_owned()))?;
    Ok(view(schema))
}

/// One schema of a stream
#[utoipa::path(get, path = "/v1/streams/{stream}/schemas/{schema}", params(("stream" = String, Path), ("schema" = String, Path)), responses((status = 200, body = SchemaView)))]
async fn one(
    State(app): State<App>,
    Path((stream, schema)): Path<(String, String)>,
) -> Result<Json<SchemaView>, Problem> {
    Ok(Json(found(&app, &stream, &schema).await?))
}

/// Remove a schema of a stream of this node; what was recorded with it stays as it is
#[utoipa::path(delete, path = "/v1/streams/{stream}/schemas/{schema}", params(("stream" = String, Path), ("schema" = String, Path)), responses((status = 204)))]
async fn remove(State(app): State<App>, Path((stream, schema)): Path<(String, String)>) -> Result<StatusCode, Problem> {
    let removed = handle(&app)?.remove_schema(&name_of(&stream)?, &schema).await;
    removed.map_err(NodeError::from)?;
    Ok(StatusCode::NO_CONTENT)
}
