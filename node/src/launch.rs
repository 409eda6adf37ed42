//! From configuration to a running process: what `weft run`, `weft init` and `weft join` do.

mod banner;
mod doors;
mod settings;

use std::{io::Write as _, path::Path, sync::Arc, time::Duration};

use libp2p::multiaddr::Protocol;
pub use settings::mesh as mesh_config;
use tokio::signal::unix::{Signal, SignalKind, signal};
use weft_protocol::{Multiaddr, SecretKey, Ticket};

use crate::{
    cli::{Globals, init::InitArgs, join::JoinArgs, run::RunArgs},
    config::{Config, Sources},
    data_dir::{DataDir, resolve_for_process},
    error::NodeError,
    nats::Nats,
    node::{Node, NodeOptions},
    patterns::{
        batching::Batching, blobs::Blobs, event_sourcing::EventSourcing, presence::Presence, projections::Projections,
        pub_sub::PubSub, request_response::RequestResponse, schedules::Schedules,
    },
    platform::{Entropy, Platform, RealPlatform, new_key},
    store::{Store, StoreOptions},
    telemetry::metrics::Metrics,
    trust::{
        CERTIFICATE_TTL, DIRECTORY_MAX, FoundOptions, Invitation, InviteOptions, MeshKind, Standing, Trust, TrustParts,
        keyfile, passphrase,
    },
};

/// The folder of the store in the data directory.
const STORE_DIR: &str = "store";
/// How long joining by `weft join` may take.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long `weft run` waits for its listeners before it says where it listens.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs a node until SIGTERM or Ctrl-C.
///
/// # Errors
/// When it cannot start; what the user could do about it is in the hint.
pub async fn run(globals: &Globals, args: RunArgs) -> Result<(), NodeError> {
    // Two TLS stacks with different providers may be linked in: neither must have to guess.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    settings::prefer_small_pages();
    let dir = resolve_for_process(globals.data_dir.as_deref())?;
    let sources = settings::sources(&dir, &args);
    let config = Config::load(&sources)?;
    let telemetry = Arc::new(crate::telemetry::init(&settings::telemetry(&config, globals.verbose))?);
    let ticket = args.join.as_deref().map(read_ticket).transpose()?;
    let data_dir = DataDir::open(&dir)?;
    let platform: Arc<dyn Platform> = Arc::new(RealPlatform);
    let keys = Keys::open(&data_dir, &*platform.entropy())?;
    let name = config
        .node
        .name
        .clone()
        .unwrap_or_else(|| crate::trust::default_name(&keys.node.public()));
    let metrics = Metrics::new();
    let options = NodeOptions {
        mesh: settings::mesh(&config, &name, ticket.clone())?,
        store_dir: data_dir.file(STORE_DIR),
        store_cache_bytes: config.store.cache_bytes.as_len(),
        store_segment_bytes: config.store.segment_bytes.bytes(),
        certificate_ttl: config.trust.certificate_ttl,
        directory_max: config.trust.directory_max as usize,
        root: keys.root,
        key: keys.node,
        metrics,
    };
    let is_only_way_in = ticket.is_some() && config.mesh.bootstrap.is_empty();
    let node = Node::builder()
        .pattern(RequestResponse)
        .pattern(PubSub)
        .pattern(Presence)
        .pattern(Blobs {
            options: settings::blobs(&config),
        })
        .pattern(EventSourcing)
        .pattern(Batching)
        .pattern(Projections)
        .pattern(Schedules)
        .pattern(Nats)
        .start(platform.clone(), options)
        .await?;
    let node = Arc::new(node);
    settle_mesh(
        &node,
        &data_dir,
        &args,
        &config,
        ticket.as_ref(),
        &name,
        &*platform.entropy(),
    )
    .await?;
    // Before anybody can see that the node is up: a signal must not meet the system's default.
    let signals = Signals::listen()?;
    let doors = doors::open(&node, &data_dir, config, sources, &telemetry, &name).await?;
    wait_for_listeners(&node).await;
    banner::print(&node, &doors, &data_dir, ticket.is_some()).await;
    if node.trust().mesh().is_none() {
        node.tasks().spawn("joined", banner::say_joined(node.trust().clone()));
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let outcome = tokio::select! {
        biased;
        outcome = until_told_to_stop(&doors, signals) => outcome,
        error = until_refused(&node, !is_only_way_in) => Err(error),
        task = node.tasks().broken() => Err(broken(task)),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    doors.close().await;
    if let Some(streams) = node.handle::<EventSourcing>() {
        streams.hand_over().await;
    }
    if !node.stop().await {
        tracing::warn!("not everything ended in time");
    }
    drop(data_dir);
    outcome
}

/// Creates identity and mesh without starting the node.
///
/// # Errors
/// `Conflict` when the data directory belongs to a mesh already.
pub async fn init(globals: &Globals, args: InitArgs) -> Result<(), NodeError> {
    let dir = resolve_for_process(globals.data_dir.as_deref())?;
    let data_dir = DataDir::open(&dir)?;
    let platform = RealPlatform;
    let keys = Keys::open(&data_dir, &*platform.entropy())?;
    let key = SecretKey::from_bytes(&keys.node.to_bytes());
    let name = args.name.unwrap_or_else(|| crate::trust::default_name(&key.public()));
    weft_protocol::name::check_name("name", &name)?;
    let options = StoreOptions {
        owner: *key.public().as_bytes(),
        ..StoreOptions::default()
    };
    let store = Store::open(platform.disk(), &data_dir.file(STORE_DIR), options).await?;
    let parts = TrustParts {
        key,
        root: None,
        certificate_ttl: CERTIFICATE_TTL,
        directory_max: DIRECTORY_MAX,
        keyspace: store.keyspace("trust"),
        clock: platform.clock(),
        entropy: platform.entropy(),
        sharing: platform.sharing(),
    };
    let trust = Trust::open(parts).await?;
    if let Some(mesh) = trust.mesh() {
        return Err(
            NodeError::conflict(format!("{} belongs to {} already", dir.display(), mesh.id))
                .with_hint("choose another --data-dir for another mesh"),
        );
    }
    let kind = if args.open { MeshKind::Open } else { MeshKind::Private };
    let mesh = found(&trust, &data_dir, kind, &name, &*platform.entropy()).await?;
    store.close().await?;
    let root_file = data_dir.file(keyfile::ROOT_KEY_FILE);
    let peer = trust.local_peer();
    let mut stdout = std::io::stdout().lock();
    let written = if globals.json {
        let kind = if args.open { "open" } else { "private" };
        let made = serde_json::json!({
            "peer_id": peer.to_string(), "name": name, "mesh_id": mesh.id.to_string(), "mesh_kind": kind,
            "data_dir": dir.display().to_string(), "root_key": root_file.display().to_string(),
        });
        writeln!(stdout, "{made}")
    } else {
        writeln!(
            stdout,
            "founded {} ({})\nthis node  {peer}\nroot key   {}\n\nThe root key can admit and revoke anybody. Keep a copy of it offline; the mesh goes on\nwithout it on this disk, but this node's certificate cannot be renewed after a year.\n\nNext: weft --data-dir {} run",
            mesh.id,
            if args.open {
                "open: anyone with an address may join"
            } else {
                "private"
            },
            root_file.display(),
            dir.display(),
        )
    };
    written.map_err(|e| NodeError::internal(format!("cannot write to standard output: {e}")))
}

/// Joins with a ticket without staying: for a node that is not running.
///
/// # Errors
/// `Conflict` when it belongs to a mesh already; `Timeout` when the ticket's issuer does not let it in.
pub async fn join(globals: &Globals, args: JoinArgs) -> Result<(), NodeError> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let dir = resolve_for_process(globals.data_dir.as_deref())?;
    let ticket = read_ticket(&args.ticket)?;
    let data_dir = DataDir::open(&dir)?;
    let platform: Arc<dyn Platform> = Arc::new(RealPlatform);
    let keys = Keys::open(&data_dir, &*platform.entropy())?;
    let sources = Sources::new()
        .file_if_present(data_dir.file("config.toml"))
        .environment(std::env::vars_os());
    let config = Config::load(&sources)?;
    let name = config
        .node
        .name
        .clone()
        .unwrap_or_else(|| crate::trust::default_name(&keys.node.public()));
    let mut mesh = settings::mesh(&config, &name, Some(ticket.clone()))?;
    mesh.listen = vec![Multiaddr::from(std::net::Ipv4Addr::UNSPECIFIED).with(Protocol::Tcp(0))];
    let options = NodeOptions {
        mesh,
        store_dir: data_dir.file(STORE_DIR),
        store_cache_bytes: config.store.cache_bytes.as_len(),
        store_segment_bytes: config.store.segment_bytes.bytes(),
        certificate_ttl: config.trust.certificate_ttl,
        directory_max: config.trust.directory_max as usize,
        root: keys.root,
        key: keys.node,
        metrics: Metrics::new(),
    };
    let node = Node::builder()
        .pattern(RequestResponse)
        .pattern(PubSub)
        .start(platform, options)
        .await?;
    let outcome = wait_until_member(&node, &ticket).await;
    let mesh = node.trust().mesh();
    node.stop().await;
    outcome?;
    let mut stdout = std::io::stdout().lock();
    let id = mesh.map(|m| m.id.to_string()).unwrap_or_default();
    let written = if globals.json {
        let roles = node
            .trust()
            .own_membership()
            .map(|m| m.roles.clone())
            .unwrap_or_default();
        let joined =
            serde_json::json!({ "peer_id": node.trust().local_peer().to_string(), "mesh_id": id, "roles": roles });
        writeln!(stdout, "{joined}")
    } else {
        writeln!(stdout, "joined {id}\nNext: weft --data-dir {} run", dir.display())
    };
    written.map_err(|e| NodeError::internal(format!("cannot write to standard output: {e}")))
}

/// An invitation and the ticket that leads to this node.
///
/// # Errors
/// As [`Trust::invite`].
pub(crate) async fn invite(node: &Node, options: &InviteOptions) -> Result<(Ticket, Invitation), NodeError> {
    let state = node.mesh().state();
    let is_loopback = |a: &Multiaddr| {
        a.iter().any(|p| match p {
            Protocol::Ip4(ip) => ip.is_loopback(),
            Protocol::Ip6(ip) => ip.is_loopback(),
            _ => false,
        })
    };
    let relays = state.relays.iter().map(|r| r.address.clone());
    let (loopback, lan): (Vec<Multiaddr>, Vec<Multiaddr>) = state.listen.iter().cloned().partition(is_loopback);
    // Where there are many, each kind leaves room for the next.
    let mut addresses: Vec<Multiaddr> = state
        .external
        .iter()
        .take(6)
        .cloned()
        .chain(lan.into_iter().take(5))
        .collect();
    addresses.extend(relays.take(3));
    // Another node on this machine is reached by loopback as well; QUIC and TCP, once each.
    addresses.extend(
        loopback
            .into_iter()
            .filter(|a| a.iter().any(|p| matches!(p, Protocol::Ip4(_))))
            .take(2),
    );
    addresses.truncate(weft_protocol::limits::ADDRESSES_MAX);
    node.trust().invite(options, addresses).await
}

struct Keys {
    node: SecretKey,
    root: Option<SecretKey>,
}

impl Keys {
    /// The node's key, made on the first run, and the mesh's root key if it lies here.
    fn open(data_dir: &DataDir, entropy: &dyn Entropy) -> Result<Keys, NodeError> {
        let path = data_dir.file(keyfile::NODE_KEY_FILE);
        let mut passphrase = passphrase::from_surroundings(|name| std::env::var_os(name))?;
        if passphrase.is_none() && path.exists() && keyfile::is_encrypted(&path)? {
            passphrase = Some(crate::cli::ask_passphrase("the node's key")?);
        }
        let (node, _) = keyfile::load_or_create(&path, passphrase.as_ref(), &mut |bytes| entropy.fill(bytes))?;
        let root_path = data_dir.file(keyfile::ROOT_KEY_FILE);
        let root = if root_path.exists() {
            Some(keyfile::load(&root_path, passphrase.as_ref())?)
        } else {
            None
        };
        Ok(Keys { node, root })
    }
}

fn read_ticket(text: &str) -> Result<Ticket, NodeError> {
    let read = if text == "-" {
        let mut line = String::new();
        std::io::stdin()
            .read_line(&mut line)
            .map_err(|e| NodeError::invalid(format!("cannot read the ticket from standard input: {e}")))?;
        line
    } else {
        text.to_owned()
    };
    let ticket = Ticket::from_text(read.trim()).map_err(|e| {
        NodeError::from(e).with_hint("copy the whole ticket, from weft1 to its end, as `weft invite` printed it")
    })?;
    let now_ms = RealPlatform.clock().now_unix_ms();
    ticket
        .check_time(now_ms)
        .map_err(|_| NodeError::denied("the ticket has run out").with_hint("ask for a new one: `weft invite`"))?;
    Ok(ticket)
}

/// A fresh node without anybody to join founds its own mesh; the arguments must not contradict what is stored.
async fn settle_mesh(
    node: &Node,
    data_dir: &DataDir,
    args: &RunArgs,
    config: &Config,
    ticket: Option<&Ticket>,
    name: &str,
    entropy: &dyn Entropy,
) -> Result<(), NodeError> {
    let trust = node.trust();
    match trust.mesh() {
        Some(mesh) => {
            if args.open && mesh.kind == MeshKind::Private {
                return Err(
                    NodeError::conflict(format!("this node belongs to the private mesh {}", mesh.id))
                        .with_hint("--open is for founding a mesh: choose another --data-dir, or leave it out"),
                );
            }
            if let Some(ticket) = ticket.filter(|t| t.mesh != mesh.id) {
                return Err(NodeError::conflict(format!(
                    "this node belongs to {}, the ticket is for {}",
                    mesh.id, ticket.mesh
                ))
                .with_hint("choose another --data-dir for another mesh"));
            }
            Ok(())
        }
        None if ticket.is_some() || !config.mesh.bootstrap.is_empty() => {
            if args.open {
                return Err(
                    NodeError::invalid("--open founds a mesh; --bootstrap and --join enter one")
                        .with_hint("leave --open out: whether a mesh is open is its founder's choice"),
                );
            }
            Ok(())
        }
        None => {
            let kind = if args.open { MeshKind::Open } else { MeshKind::Private };
            found(trust, data_dir, kind, name, entropy).await.map(|_| ())
        }
    }
}

/// Founds a mesh; its root key is durable before the mesh is.
async fn found(
    trust: &Trust,
    data_dir: &DataDir,
    kind: MeshKind,
    name: &str,
    entropy: &dyn Entropy,
) -> Result<crate::trust::MeshInfo, NodeError> {
    let path = data_dir.file(keyfile::ROOT_KEY_FILE);
    let passphrase = passphrase::from_surroundings(|name| std::env::var_os(name))?;
    let root = if path.exists() {
        // An earlier start got no further than this.
        keyfile::load(&path, passphrase.as_ref())?
    } else {
        let root = new_key(entropy);
        keyfile::create(&path, &root, passphrase.as_ref())?;
        root
    };
    trust
        .found(
            &root,
            FoundOptions {
                kind,
                name: name.to_owned(),
            },
        )
        .await
}

async fn wait_for_listeners(node: &Node) {
    let mut state = node.mesh().watch_state();
    let _ = tokio::time::timeout(LISTEN_TIMEOUT, state.wait_for(|s| s.listening)).await;
}

async fn wait_until_member(node: &Node, ticket: &Ticket) -> Result<(), NodeError> {
    if let Some(mesh) = node.trust().mesh() {
        return Err(NodeError::conflict(format!("this node belongs to {} already", mesh.id))
            .with_hint("another mesh needs another --data-dir"));
    }
    let mut standing = node.trust().watch_standing();
    let member = standing.wait_for(|s| matches!(s, Standing::Member(_)));
    let mut refused = node.mesh().watch_state();
    tokio::select! {
        outcome = tokio::time::timeout(JOIN_TIMEOUT, member) => match outcome {
            Ok(_) => Ok(()),
            Err(_) => Err(NodeError::timeout(format!("nobody at the ticket's {} addresses let this node in", ticket.addresses.len()))
                .with_hint("is the node that made the ticket running and reachable from here?")),
        },
        refusal = refused.wait_for(|s| s.refusal.is_some()) => {
            let detail = refusal.ok().and_then(|s| s.refusal.clone()).unwrap_or_default();
            Err(NodeError::denied(detail).with_hint("ask for a new ticket: `weft invite`"))
        }
    }
}

/// Ends when the ticket with which the node came turns out to be worth nothing, and there is no other way into a mesh.
async fn until_refused(node: &Node, has_other_way: bool) -> NodeError {
    let mut state = node.mesh().watch_state();
    loop {
        let refusal = state.borrow_and_update().ticket_refusal.clone();
        if let Some(detail) = refusal
            && node.trust().mesh().is_none()
            && !has_other_way
        {
            return NodeError::denied(detail).with_hint("`weft invite` on a member makes a new ticket");
        }
        if state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The signals the node answers to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> Result<Signals, NodeError> {
        let listen = |kind| signal(kind).map_err(|e| NodeError::internal(format!("cannot listen for signals: {e}")));
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }
}

/// A node whose parts have stopped must not look alive: whoever watches it starts it again.
fn broken(task: &str) -> NodeError {
    NodeError::internal(format!(
        "the task {task} broke, and the node stops rather than only seem to work"
    ))
    .with_hint(
        "this is a bug in Weft: the lines above say where; everything acknowledged is kept, start the node again",
    )
}

/// SIGTERM and Ctrl-C end the node, a second one at once; SIGHUP reloads.
async fn until_told_to_stop(doors: &doors::Doors, signals: Signals) -> Result<(), NodeError> {
    let Signals {
        mut terminate,
        mut interrupt,
        mut hang_up,
    } = signals;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => match doors.reload() {
                Ok(changes) => tracing::info!(reloaded = ?changes.reloadable, needs_restart = ?changes.needs_restart, "configuration reloaded"),
                Err(error) => tracing::error!(%error, "the configuration was not reloaded: the running one stays"),
            },
        }
    }
    tracing::info!("stopping");
    #[expect(
        clippy::disallowed_methods,
        reason = "the node and its tasks are on their way out; this outlives them"
    )]
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // The user insists.
        std::process::exit(130);
    });
    Ok(())
}

/// For tests and tools: the path of the configuration file of a data directory.
pub fn config_file(dir: &Path) -> std::path::PathBuf {
    dir.join("config.toml")
}
