//! The door for applications on this machine: HTTP on loopback TCP and on a Unix socket.
//!
//! Promises: nothing is answered without the token or the right user, but for the two health checks; every request is
//! bounded in size and time; every error is `application/problem+json` (RFC 9457). Routes have no logic: each asks a
//! handle. The OpenAPI document at `/openapi.json` is made from the routes themselves.

pub mod auth;
pub mod limits;
pub mod problem;
mod routes;
pub(crate) use routes::{resolve, rfc3339};
pub mod server;
pub(crate) mod streamed;
pub mod unix;

use std::{path::PathBuf, sync::Arc};

use axum::{Json, Router, routing::get};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    error::NodeError,
    node::Node,
    patterns::{
        batching::{self, Batching, BatchingHandle},
        blobs::{self, Blobs, BlobsHandle},
        event_sourcing::{self, EventSourcing, EventSourcingHandle},
        presence::{self, Presence, PresenceHandle},
        projections::{self, Projections, ProjectionsHandle},
        pub_sub::{self, PubSub, PubSubHandle},
        request_response::{self, RequestResponse, RequestResponseHandle},
        schedules::{self, Schedules, SchedulesHandle},
    },
};

/// What the routes work with.
#[derive(Clone)]
pub struct App {
    pub(crate) node: Arc<Node>,
    pub(crate) calls: RequestResponseHandle,
    pub(crate) messages: PubSubHandle,
    /// A node may be built without it.
    pub(crate) batches: Option<BatchingHandle>,
    pub(crate) presence: Option<PresenceHandle>,
    pub(crate) blobs: Option<BlobsHandle>,
    pub(crate) streams: Option<EventSourcingHandle>,
    pub(crate) projections: Option<ProjectionsHandle>,
    pub(crate) schedules: Option<SchedulesHandle>,
    pub(crate) info: Arc<AppInfo>,
}

/// What the routes say of the process.
pub struct AppInfo {
    /// This node's name.
    pub name: String,
    /// The software.
    pub agent: String,
    /// The data directory.
    pub data_dir: PathBuf,
    /// `http://HOST:PORT`.
    pub api: String,
    /// The Unix socket.
    pub socket: PathBuf,
    /// The door for NATS clients, where it is open.
    pub nats: Option<Arc<crate::nats::NatsServer>>,
    /// The effective configuration; replaced on reload.
    pub config: Arc<std::sync::RwLock<Arc<crate::config::Config>>>,
    /// Reads the configuration again.
    pub reload: Box<dyn Fn() -> Result<crate::config::Changes, NodeError> + Send + Sync>,
}

/// The handles of the patterns the node was built with.
///
/// # Errors
/// `Internal` when it was built without one of them.
pub fn app(node: Arc<Node>, info: AppInfo) -> Result<App, NodeError> {
    let missing = |name: &str| NodeError::internal(format!("the node was built without {name}"));
    let calls = node
        .handle::<RequestResponse>()
        .ok_or_else(|| missing("request_response"))?;
    let messages = node.handle::<PubSub>().ok_or_else(|| missing("pub_sub"))?;
    let batches = node.handle::<Batching>();
    let presence = node.handle::<Presence>();
    let blobs = node.handle::<Blobs>();
    let streams = node.handle::<EventSourcing>();
    let projections = node.handle::<Projections>();
    let schedules = node.handle::<Schedules>();
    Ok(App {
        node,
        calls,
        messages,
        batches,
        presence,
        blobs,
        streams,
        projections,
        schedules,
        info: Arc::new(info),
    })
}

#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "Weft local API",
    description = "The node beside the application. Errors are application/problem+json (RFC 9457) with a stable `kind`.",
    license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
))]
struct Api;

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Api::openapi())
        .merge(routes::routes())
        .merge(request_response::routes::routes())
        .merge(pub_sub::routes::routes())
        .merge(pub_sub::traces::routes())
        .merge(batching::routes::routes())
        .merge(presence::routes::routes())
        .merge(blobs::routes::routes())
        .merge(event_sourcing::routes::routes())
        .merge(projections::routes::routes())
        .merge(schedules::routes::routes())
}

/// The OpenAPI 3.1 document of the local API.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().split_for_parts().1
}

/// All routes, without the checks that [`auth`] and [`limits`] put in front.
pub fn router(app: App) -> Router {
    let (router, document) = routes().split_for_parts();
    router
        .route("/openapi.json", get(move || std::future::ready(Json(document.clone()))))
        .with_state(app)
}
