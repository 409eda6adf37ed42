//! The same handle over the local API.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use futures::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use weft_protocol::patterns::blobs::{BlobId, Reference, check_bytes};

use super::{BlobsHandle, Content, Stored};
use crate::{
    error::NodeError,
    local::{
        App,
        problem::{Json, Path, Problem, Query},
        rfc3339, streamed,
    },
    patterns::pub_sub::routes::{PublishQuery, Published, publish_body},
};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(publish))
        .routes(routes!(list))
        .routes(routes!(read, remove))
}

fn handle(app: &App) -> Result<&BlobsHandle, NodeError> {
    let missing = || NodeError::internal("the node was built without blobs");
    app.blobs.as_ref().ok_or_else(missing)
}

/// Publish a message of any size: what does not fit into a message is kept here, and the message says where
#[utoipa::path(post, path = "/v1/stream/messages/{subject}", params(("subject" = String, Path), PublishQuery), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = Published)))]
async fn publish(
    State(app): State<App>,
    Path(subject): Path<String>,
    Query(query): Query<PublishQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let input = streamed::incoming(app.node.tasks(), body);
    Ok(publish_body(&app, &subject, &query, &headers, input).await?)
}

/// A blob on this node.
#[derive(Debug, Serialize, ToSchema)]
struct StoredView {
    /// The BLAKE3 hash of its content.
    hash: String,
    bytes: u64,
    /// Whether all of it is here.
    whole: bool,
    /// On which subjects it was published.
    subjects: Vec<String>,
    stored: String,
    /// When it was last used; it is kept for some time after that.
    used: String,
}

impl From<Stored> for StoredView {
    fn from(stored: Stored) -> Self {
        StoredView {
            hash: stored.id.to_string(),
            bytes: stored.bytes,
            whole: stored.is_whole,
            subjects: stored.subjects.iter().map(ToString::to_string).collect(),
            stored: rfc3339(stored.stored_ms),
            used: rfc3339(stored.used_ms),
        }
    }
}

/// The blobs on this node
#[utoipa::path(get, path = "/v1/blobs", responses((status = 200, body = [StoredView])))]
async fn list(State(app): State<App>) -> Result<Json<Vec<StoredView>>, Problem> {
    let stored = handle(&app)?.list();
    Ok(Json(stored.into_iter().map(StoredView::from).collect()))
}

/// Where a blob is, if it is not here. All of it stands in the `dataref` of the message.
#[derive(Debug, Deserialize, IntoParams)]
struct Whereabouts {
    /// How long it is.
    bytes: Option<u64>,
    /// On which subject it was published.
    subject: Option<String>,
    /// Who published it.
    publisher: Option<String>,
}

impl Whereabouts {
    fn reference(self, id: BlobId) -> Result<Option<Reference>, NodeError> {
        let (Some(bytes), Some(subject), Some(publisher)) = (self.bytes, self.subject, self.publisher) else {
            return Ok(None);
        };
        check_bytes(bytes)?;
        let publisher = publisher.parse();
        Ok(Some(Reference {
            id,
            bytes,
            subject: subject.parse()?,
            publisher: publisher.map_err(|_| NodeError::invalid("the publisher is no peer id"))?,
        }))
    }
}

/// Read a blob; what is not here is fetched from who has it. A `Range` of bytes is understood
#[utoipa::path(get, path = "/v1/blobs/{hash}", params(("hash" = String, Path), Whereabouts), responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = 206, body = Vec<u8>, content_type = "application/octet-stream")))]
async fn read(
    State(app): State<App>,
    Path(hash): Path<String>,
    Query(whereabouts): Query<Whereabouts>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id: BlobId = hash.parse().map_err(NodeError::from)?;
    let blobs = handle(&app)?;
    let content = match whereabouts.reference(id)? {
        Some(reference) => blobs.fetch(&reference).await,
        None => blobs.read(&id).await,
    };
    answer(content.map_err(NodeError::from)?, headers.get(header::RANGE))
}

fn answer(content: Content, range: Option<&HeaderValue>) -> Result<Response, Problem> {
    let (id, bytes) = (content.id(), content.bytes());
    let range = match range
        .and_then(|range| range.to_str().ok())
        .map(|range| range_of(range, bytes))
    {
        None | Some(Asked::Whole) => None,
        Some(Asked::Part(from, end)) => Some((from, end)),
        Some(Asked::Nothing) => {
            let detail = format!("the blob has {bytes} bytes, and none of those that were asked for");
            return Err(Problem::from(NodeError::invalid(detail)).with_status(StatusCode::RANGE_NOT_SATISFIABLE));
        }
    };
    let (from, end) = range.unwrap_or((0, bytes));
    let mut response = Response::new(outgoing(content.only(from, end)));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(end - from));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{id}\"")) {
        headers.insert(header::ETAG, tag);
    }
    if range.is_some()
        && let Ok(range) = HeaderValue::from_str(&format!("bytes {from}-{}/{bytes}", end - 1))
    {
        headers.insert(header::CONTENT_RANGE, range);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    /// From, and before.
    Part(u64, u64),
    /// What does not exist.
    Nothing,
}

/// What a `Range` asks for (RFC 9110, §14.1.2). Of several ranges, and of what is no range, all is given, as the specification allows.
fn range_of(range: &str, bytes: u64) -> Asked {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Asked::Whole;
    };
    match (
        first.trim().parse::<u64>(),
        last.trim().parse::<u64>(),
        last.trim().is_empty(),
    ) {
        (Ok(first), _, true) if first < bytes => Asked::Part(first, bytes),
        (Ok(first), Ok(last), _) if first < bytes && first <= last => {
            Asked::Part(first, bytes.min(last.saturating_add(1)))
        }
        (Err(_), Ok(count), _) if first.trim().is_empty() && count > 0 => {
            Asked::Part(bytes.saturating_sub(count), bytes)
        }
        (Ok(first), last, is_open) if first >= bytes && (is_open || last.is_ok()) => Asked::Nothing,
        (Err(_), Ok(0), _) if first.trim().is_empty() => Asked::Nothing,
        _ => Asked::Whole,
    }
}

fn outgoing(content: Content) -> Body {
    let parts = stream::unfold(Some(content), |content| async {
        let mut content = content?;
        match content.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(content))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Body::from_stream(parts)
}

/// Let go of a blob on this node
#[utoipa::path(delete, path = "/v1/blobs/{hash}", params(("hash" = String, Path)), responses((status = 204)))]
async fn remove(State(app): State<App>, Path(hash): Path<String>) -> Result<StatusCode, Problem> {
    let id: BlobId = hash.parse().map_err(NodeError::from)?;
    if handle(&app)?.remove(&id).await.map_err(NodeError::from)? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(NodeError::not_found(format!("this node does not have the blob {id}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_specification() {
        let asked = [
            ("bytes=0-9", Asked::Part(0, 10)),
            ("bytes=10-", Asked::Part(10, 100)),
            ("bytes=-10", Asked::Part(90, 100)),
            ("bytes=-1000", Asked::Part(0, 100)),
            ("bytes=90-1000", Asked::Part(90, 100)),
            ("bytes=0-18446744073709551615", Asked::Part(0, 100)),
            ("bytes=100-", Asked::Nothing),
            ("bytes=100-200", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=9-3", Asked::Whole),
            ("bytes=0-1,4-5", Asked::Whole),
            ("bytes=x-", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("lines=0-9", Asked::Whole),
        ];
        for (range, expected) in asked {
            assert_eq!(range_of(range, 100), expected, "{range}");
        }
    }
}
