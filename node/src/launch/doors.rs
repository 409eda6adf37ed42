//! Opens the local API: a Unix socket and a TCP port, and the files by which the commands find them.

use std::{
    path::PathBuf,
    sync::{Arc, RwLock},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use weft_protocol::Multiaddr;

use crate::{
    config::{Changes, Config, Sources, diff_reload},
    data_dir::DataDir,
    error::NodeError,
    local::{
        self, AppInfo,
        auth::{Access, ApiToken, TOKEN_FILE},
        limits::ServerLimits,
        server::{self, Listener},
        unix,
    },
    mesh::peer_of,
    nats::{self, Nats, NatsServer},
    node::Node,
    patterns::{event_sourcing::EventSourcing, pub_sub::PubSub, request_response::RequestResponse},
    platform::{Platform as _, RealPlatform},
    telemetry,
};

/// Where the commands look for the doors.
const DOORS_FILE: &str = "api.json";
/// How long requests under way may take once the node is told to stop.
const GRACE: Duration = Duration::from_secs(2);

/// The open doors.
pub(super) struct Doors {
    pub(super) app: local::App,
    stop: CancellationToken,
    servers: tokio::task::JoinSet<()>,
    nats: Option<Arc<NatsServer>>,
    file: PathBuf,
    /// Removes the socket's file when it goes.
    _socket: unix::Socket,
}

/// Binds, publishes where, and serves.
pub(super) async fn open(
    node: &Arc<Node>,
    data_dir: &DataDir,
    config: Config,
    sources: Sources,
    telemetry: &Arc<telemetry::Guard>,
    name: &str,
) -> Result<Doors, NodeError> {
    let tcp = server::bind_tcp(config.api.listen, config.api_listen_explicit()).await?;
    let address = tcp
        .local_addr()
        .map_err(|e| NodeError::internal(format!("the API's address is unknown: {e}")))?;
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let place = unix::place(data_dir.path(), config.api.socket.as_deref(), runtime_dir.as_deref())?;
    let (unix_listener, socket) = unix::bind(&place)?;
    let socket_path = place.path;
    let entropy = RealPlatform.entropy();
    let token = ApiToken::load_or_create(&data_dir.file(TOKEN_FILE), config.api.token_rotate, &mut |b| {
        entropy.fill(b)
    })?;
    let access = Access::new(token, Some(address), &config.api);
    let limits = Arc::new(ServerLimits::new(&config.api));
    let nats = open_nats(node, &config.nats, name).await?;
    let current = Arc::new(RwLock::new(Arc::new(config)));
    let info = AppInfo {
        name: name.to_owned(),
        agent: super::settings::AGENT.to_owned(),
        data_dir: data_dir.path().to_owned(),
        api: format!("http://{address}"),
        socket: socket_path.clone(),
        nats: nats.clone(),
        config: Arc::clone(&current),
        reload: reloader(
            sources,
            current,
            Arc::clone(telemetry),
            Arc::clone(&access),
            Arc::clone(&limits),
            node,
        ),
    };
    let app = local::app(Arc::clone(node), info)?;
    let router = local::auth::protect(local::router(app.clone()), access);
    let stop = CancellationToken::new();
    let mut servers = tokio::task::JoinSet::new();
    let dropped = node.metrics().dropped().clone();
    for listener in [Listener::from(tcp), Listener::from(unix_listener)] {
        servers.spawn(server::serve(
            listener,
            router.clone(),
            Arc::clone(&limits),
            dropped.clone(),
            stop.clone(),
            GRACE,
        ));
    }
    let nats_address = nats.as_ref().map(|nats| nats.address().to_string());
    let doors = serde_json::json!({
        "pid": std::process::id(), "api": format!("http://{address}"), "socket": socket_path.display().to_string(),
        "nats": nats_address,
    });
    data_dir.write(DOORS_FILE, doors.to_string().as_bytes())?;
    Ok(Doors {
        app,
        stop,
        servers,
        nats,
        file: data_dir.file(DOORS_FILE),
        _socket: socket,
    })
}

/// The door for NATS clients, where one is configured.
async fn open_nats(
    node: &Arc<Node>,
    config: &crate::config::NatsConfig,
    name: &str,
) -> Result<Option<Arc<NatsServer>>, NodeError> {
    let Some(address) = config.listen else { return Ok(None) };
    let missing = || NodeError::internal("the node was built without the NATS door's patterns");
    let nats = node.handle::<Nats>().ok_or_else(missing)?;
    let messages = node.handle::<PubSub>().ok_or_else(missing)?;
    let calls = node.handle::<RequestResponse>().ok_or_else(missing)?;
    let streams = node.handle::<EventSourcing>();
    let settings = nats::Settings::new(config, name);
    Ok(Some(Arc::new(
        nats.open(address, settings, messages, calls, streams).await?,
    )))
}

type Reload = Box<dyn Fn() -> Result<Changes, NodeError> + Send + Sync>;

/// Reads the configuration again and applies what can change while the node runs.
fn reloader(
    sources: Sources,
    current: Arc<RwLock<Arc<Config>>>,
    telemetry: Arc<telemetry::Guard>,
    access: Arc<Access>,
    limits: Arc<ServerLimits>,
    node: &Arc<Node>,
) -> Reload {
    let mesh = node.mesh().clone();
    let tasks = node.tasks().clone();
    Box::new(move || {
        let fresh = Config::load(&sources)?;
        let old = Arc::clone(&current.read().unwrap_or_else(std::sync::PoisonError::into_inner));
        let changes = diff_reload(&old, &fresh);
        let mut effective = Config::clone(&old);
        effective.take_reloadable(&fresh);
        // A filter that `-v` widened stays until the configuration asks for another.
        if old.telemetry.log != effective.telemetry.log {
            telemetry.set_filter(&effective.telemetry.log)?;
        }
        access.reload(&effective.api);
        limits.reload(&effective.api);
        // A nameless address counts only for a node that was started to dare it.
        let is_usable = |a: &&Multiaddr| peer_of(a).is_some() || effective.mesh.insecure_bootstrap;
        let is_new = |a: &&Multiaddr| !old.mesh.bootstrap.contains(a);
        let bootstrap = effective
            .mesh
            .bootstrap
            .iter()
            .filter(is_usable)
            .filter(is_new)
            .cloned()
            .collect();
        let mesh = mesh.clone();
        tasks.spawn("reload", async move { drop(mesh.add_bootstrap(bootstrap).await) });
        *current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(effective);
        Ok(changes)
    })
}

impl Doors {
    /// Reads the configuration again.
    pub(super) fn reload(&self) -> Result<Changes, NodeError> {
        (self.app.info.reload)()
    }

    /// Refuses new requests, lets those under way finish, then cuts.
    pub(super) async fn close(mut self) {
        let _ = std::fs::remove_file(&self.file);
        self.stop.cancel();
        if let Some(nats) = &self.nats {
            nats.close().await;
        }
        while self.servers.join_next().await.is_some() {}
    }
}
