//! The same handle over the local API.

mod consumers;
mod records;
mod schemas;

pub(crate) use records::events_of;

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{CopyFigure, CopyFigures, StreamFigures},
};

use super::{EventSourcingHandle, StreamInfo, StreamOptions, copies::peer_of, options::not_built};
use crate::{
    error::{ErrorKind, NodeError},
    local::{
        App,
        problem::{Json, Path, Problem, Query},
        resolve, rfc3339, streamed,
    },
};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(info, define, delete))
        .routes(routes!(verify))
        .routes(routes!(replace))
        .routes(routes!(checkpoint))
        .routes(routes!(prove))
        .routes(routes!(evidence))
        .routes(routes!(export))
        .routes(routes!(import))
        .merge(records::routes())
        .merge(consumers::routes())
        .merge(schemas::routes())
}

fn handle(app: &App) -> Result<&EventSourcingHandle, NodeError> {
    app.streams.as_ref().ok_or_else(not_built)
}

fn name_of(text: &str) -> Result<Subject, NodeError> {
    Ok(text.parse()?)
}

/// A stream, and how it is.
#[derive(Debug, Serialize, ToSchema)]
struct StreamView {
    name: String,
    /// The node that keeps it.
    owner: String,
    /// Whether that is this one.
    here: bool,
    /// How it is; nothing when its owner did not say.
    #[serde(flatten)]
    figures: Option<FiguresView>,
}

/// How a stream is.
#[derive(Debug, Serialize, ToSchema)]
struct FiguresView {
    /// The position of the last record; 0 without any.
    version: u64,
    /// The first position that is kept.
    first: u64,
    /// Records that are kept.
    records: u64,
    /// Bytes on the owner's disk.
    bytes: u64,
    created: String,
    /// When the last record was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_recorded: Option<String>,
    /// How many copies there are.
    copies: u32,
    /// Who has them, if there are several; the first one leads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    copies_at: Vec<CopyView>,
    #[serde(flatten)]
    retain: StreamOptions,
    consumers: u32,
    /// What of it is damaged.
    #[serde(skip_serializing_if = "String::is_empty")]
    damage: String,
}

/// One of a stream's copies.
#[derive(Debug, Serialize, ToSchema)]
struct CopyView {
    /// Whose.
    peer: String,
    /// Whether this member leads those that keep the stream, and so decides.
    leads: bool,
    /// Entries that this copy lacks of what the leader has; nothing where no leader says.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<u64>,
    /// Whether it does not count yet: it is still getting what the others have.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_new: bool,
}

fn copies_of(copies: CopyFigures) -> Vec<CopyView> {
    let leader = copies.leader;
    let view = |copy: CopyFigure| {
        Some(CopyView {
            peer: peer_of(copy.key.into())?.to_string(),
            leads: Some(copy.key) == leader,
            behind: copy.behind,
            is_new: copy.is_new == Some(true),
        })
    };
    let mut views: Vec<CopyView> = copies.members.into_iter().filter_map(view).collect();
    views.sort_by(|a, b| b.leads.cmp(&a.leads).then_with(|| a.peer.cmp(&b.peer)));
    views
}

impl From<StreamFigures> for FiguresView {
    fn from(figures: StreamFigures) -> Self {
        let copies_at = figures.copies.map(copies_of).unwrap_or_default();
        FiguresView {
            version: figures.version,
            first: figures.first,
            records: (figures.version + 1).saturating_sub(figures.first),
            bytes: figures.bytes,
            created: rfc3339(figures.created_ms),
            last_recorded: figures.last_ms.map(rfc3339),
            copies: copies_at.iter().filter(|copy| !copy.is_new).count().max(1) as u32,
            copies_at,
            retain: StreamOptions {
                retain_ms: figures.retain_ms,
                retain_bytes: figures.retain_bytes,
                retain_records: figures.retain_records,
                replicas: None,
                place: figures.place.map(|labels| labels.0),
                keep: figures.keep,
                refuse_when_full: figures.refuse_when_full,
                subjects: figures
                    .subjects
                    .map(|subjects| subjects.0.iter().map(ToString::to_string).collect()),
            },
            consumers: figures.consumers,
            damage: figures.damage,
        }
    }
}

fn view(app: &App, info: StreamInfo) -> StreamView {
    StreamView {
        name: info.name.to_string(),
        owner: info.owner.to_string(),
        here: info.owner == app.node.trust().local_peer(),
        figures: info.figures.map(FiguresView::from),
    }
}

/// List the streams of the mesh
#[utoipa::path(get, path = "/v1/streams", responses((status = 200, body = [StreamView])))]
async fn list(State(app): State<App>) -> Result<Json<Vec<StreamView>>, Problem> {
    let list = handle(&app)?.list().await;
    Ok(Json(list.into_iter().map(|info| view(&app, info)).collect()))
}

/// One stream
#[utoipa::path(get, path = "/v1/streams/{stream}", params(("stream" = String, Path)), responses((status = 200, body = StreamView)))]
async fn info(State(app): State<App>, Path(stream): Path<String>) -> Result<Json<StreamView>, Problem> {
    let info = handle(&app)?.info(&name_of(&stream)?).await.map_err(NodeError::from)?;
    Ok(Json(view(&app, info)))
}

/// How a stream is defined.
#[derive(Debug, Deserialize, IntoParams)]
struct DefineQuery {
    /// Change it if there is one on this node; otherwise it is an error.
    #[serde(default)]
    update: bool,
}

/// Make a stream on this node or on several, or change how much of it is kept
#[utoipa::path(put, path = "/v1/streams/{stream}", params(("stream" = String, Path), DefineQuery), request_body = StreamOptions, responses((status = 200, body = StreamView), (status = 201, body = StreamView)))]
async fn define(
    State(app): State<App>,
    Path(stream): Path<String>,
    Query(query): Query<DefineQuery>,
    Json(options): Json<StreamOptions>,
) -> Result<Response, Problem> {
    let (handle, name) = (handle(&app)?, name_of(&stream)?);
    if query.update {
        let info = handle.update(&name, options).await.map_err(NodeError::from)?;
        return Ok(Json(view(&app, info)).into_response());
    }
    let info = handle.create(&name, options).await.map_err(NodeError::from)?;
    Ok((StatusCode::CREATED, Json(view(&app, info))).into_response())
}

/// Delete a stream of this node, with its records and its consumers
#[utoipa::path(delete, path = "/v1/streams/{stream}", params(("stream" = String, Path)), responses((status = 204)))]
async fn delete(State(app): State<App>, Path(stream): Path<String>) -> Result<StatusCode, Problem> {
    handle(&app)?
        .delete(&name_of(&stream)?)
        .await
        .map_err(NodeError::from)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whose copy is given away.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Replace {
    /// A member that keeps a copy: its id, its name, or a part of its id.
    member: String,
    /// Who gets it; without it the leader chooses.
    by: Option<String>,
}

/// Give a member's copy of a stream, and of all that the same members keep, to another
#[utoipa::path(post, path = "/v1/streams/{stream}/copies/replace", params(("stream" = String, Path)), request_body = Replace, responses((status = 202, body = StreamView)))]
async fn replace(
    State(app): State<App>,
    Path(stream): Path<String>,
    Json(replace): Json<Replace>,
) -> Result<(StatusCode, Json<StreamView>), Problem> {
    let member = resolve(&app, &replace.member)?;
    let by = replace.by.as_deref().map(|by| resolve(&app, by)).transpose()?;
    let info = handle(&app)?
        .replace_copy(&name_of(&stream)?, &member, by.as_ref())
        .await;
    let info = info.map_err(NodeError::from)?;
    Ok((StatusCode::ACCEPTED, Json(view(&app, info))))
}

/// What a check of a whole stream found to be right.
#[derive(Debug, Serialize, ToSchema)]
struct VerifiedView {
    /// Records that were read.
    records: u64,
    /// The first of them.
    first: u64,
    /// The signed checkpoint that they lead to.
    checkpoint: String,
}

/// Read every record of a stream of this node from the disk: whether each is what was appended
#[utoipa::path(post, path = "/v1/streams/{stream}/verify", params(("stream" = String, Path)), responses((status = 200, body = VerifiedView)))]
async fn verify(State(app): State<App>, Path(stream): Path<String>) -> Result<Json<VerifiedView>, Problem> {
    let verified = handle(&app)?
        .verify(&name_of(&stream)?)
        .await
        .map_err(NodeError::from)?;
    Ok(Json(VerifiedView {
        records: verified.records,
        first: verified.first,
        checkpoint: verified.checkpoint,
    }))
}

/// The evidence that a stream of this name has forked
#[utoipa::path(get, path = "/v1/streams/{stream}/evidence", params(("stream" = String, Path)), responses((status = 200, body = String, content_type = "text/plain"), (status = 404)))]
async fn evidence(State(app): State<App>, Path(stream): Path<String>) -> Result<Response, Problem> {
    let found = handle(&app)?
        .evidence(&name_of(&stream)?)
        .await
        .map_err(NodeError::from)?;
    let text = found.into_iter().next().ok_or_else(|| {
        NodeError::new(
            ErrorKind::NotFound,
            format!("no fork of the stream {stream} is known here"),
        )
        .with_hint("`weft stream verify` compares what its owner shows with what this node and others have seen")
    })?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}

/// From which version on.
#[derive(Debug, Deserialize, IntoParams)]
struct CheckpointQuery {
    /// Prove that the first so many records are the same as ever.
    since: Option<u64>,
}

/// A checkpoint, and what it is built on.
#[derive(Debug, Serialize, ToSchema)]
struct CheckpointView {
    /// The signed text (C2SP `tlog-checkpoint`).
    checkpoint: String,
    /// From the older tree to this one, base64 (RFC 6962, §2.1.2).
    hashes: Vec<String>,
}

/// The signed checkpoint of a stream, and the proof that it goes on from an older one
#[utoipa::path(get, path = "/v1/streams/{stream}/checkpoint", params(("stream" = String, Path), CheckpointQuery), responses((status = 200, body = CheckpointView)))]
async fn checkpoint(
    State(app): State<App>,
    Path(stream): Path<String>,
    Query(query): Query<CheckpointQuery>,
) -> Result<Json<CheckpointView>, Problem> {
    let since = query.since.unwrap_or(0);
    let extended = handle(&app)?.extend(&name_of(&stream)?, since).await;
    let (checkpoint, hashes) = extended.map_err(NodeError::from)?;
    let hashes = hashes.iter().map(|hash| data_encoding::BASE64.encode(hash)).collect();
    Ok(Json(CheckpointView { checkpoint, hashes }))
}

/// Prove a record: a text that a stranger checks with `weft verify-proof`
#[utoipa::path(get, path = "/v1/streams/{stream}/proofs/{position}", params(("stream" = String, Path), ("position" = u64, Path)), responses((status = 200, body = String, content_type = "text/plain")))]
async fn prove(State(app): State<App>, Path((stream, position)): Path<(String, u64)>) -> Result<String, Problem> {
    let proof = handle(&app)?.prove(&name_of(&stream)?, position).await;
    Ok(proof.map_err(NodeError::from)?.to_text())
}

/// Everything that a stream of this node keeps, as one text that proves itself
#[utoipa::path(get, path = "/v1/streams/{stream}/export", params(("stream" = String, Path)), responses((status = 200, body = String, content_type = "text/plain")))]
async fn export(State(app): State<App>, Path(stream): Path<String>) -> Result<Response, Problem> {
    let body = handle(&app)?
        .export(&name_of(&stream)?)
        .await
        .map_err(NodeError::from)?;
    let plain = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((plain, streamed::outgoing(body)).into_response())
}

/// What was read in.
#[derive(Debug, Serialize, ToSchema)]
struct ImportedView {
    /// The stream that was exported.
    stream: String,
    records: u64,
    /// Who exported it.
    owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_name: Option<String>,
    mesh_id: String,
    exported: String,
}

/// Make a stream on this node of what was exported, if all of it is as it was signed
#[utoipa::path(post, path = "/v1/stream/streams/{stream}/import", params(("stream" = String, Path)), request_body(content = Vec<u8>, content_type = "text/plain"), responses((status = 201, body = ImportedView)))]
async fn import(
    State(app): State<App>,
    Path(stream): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<ImportedView>), Problem> {
    let body = streamed::incoming(app.node.tasks(), body);
    let imported = handle(&app)?
        .import(&name_of(&stream)?, body)
        .await
        .map_err(NodeError::from)?;
    let view = ImportedView {
        stream: imported.stream.to_string(),
        records: imported.records,
        owner: imported.owner.to_string(),
        owner_name: imported.owner_name,
        mesh_id: imported.mesh.to_string(),
        exported: rfc3339(imported.exported_ms),
    };
    Ok((StatusCode::CREATED, Json(view)))
}
