//! Accepts NATS clients: as many as there is room for, over TLS where that is configured, until the door closes.
//!
//! Closing is the lame duck of NATS: newcomers are refused, those inside are told to go elsewhere and have a while to do so, then they are cut.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{self, Client},
    door::Door,
    services,
    tls::Tls,
    words::{Info, SPOKEN_VERSION},
};
use crate::{error::NodeError, platform};

/// The pause after the system had no descriptor or memory for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a client may take to read the first words.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// Newcomers that are being told that there is no room; more are just closed.
const REFUSALS_MAX: usize = 32;
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(500);
/// How long those who stay may take to be cut.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// An open door.
pub struct NatsServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for NatsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

struct Shared {
    door: Arc<Door>,
    info: Info,
    tls: Option<Tls>,
    room: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    next_id: AtomicU64,
    /// No newcomers any more; those inside are told.
    lame: CancellationToken,
    /// Nobody any more.
    cut: CancellationToken,
}

impl NatsServer {
    /// Binds and accepts.
    pub(super) async fn start(address: SocketAddr, door: Arc<Door>) -> Result<Self, NodeError> {
        let tls = door.settings.tls.as_ref().map(Tls::load).transpose()?;
        let listener = TcpListener::bind(address).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => NodeError::conflict(format!(
                "the address {address} of the NATS door is in use by another program"
            ))
            .with_hint("choose another with --nats 127.0.0.1:PORT; port 0 takes a free one"),
            _ => NodeError::invalid(format!("cannot listen on {address} for NATS clients: {error}")),
        })?;
        let address = listener
            .local_addr()
            .map_err(|e| NodeError::internal(format!("the NATS door's address is unknown: {e}")))?;
        let settings = &door.settings;
        let info = Info {
            server_id: door.mesh.local_peer().to_string(),
            server_name: settings.name.clone(),
            version: SPOKEN_VERSION,
            go: concat!("weft ", env!("CARGO_PKG_VERSION")),
            git_commit: "",
            proto: 1,
            host: address.ip().to_string(),
            port: address.port(),
            headers: true,
            jetstream: door.jetstream.is_some(),
            max_payload: settings.payload_bytes_max,
            client_id: 0,
            client_ip: String::new(),
            auth_required: door.credentials.is_some(),
            tls_required: tls.is_some(),
            tls_verify: tls.as_ref().is_some_and(|tls| tls.verifies_clients),
            connect_urls: Vec::new(),
            nonce: None,
            ldm: false,
        };
        let shared = Arc::new(Shared {
            room: Arc::new(Semaphore::new(settings.connections_max)),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            next_id: AtomicU64::new(1),
            lame: CancellationToken::new(),
            cut: CancellationToken::new(),
            tls,
            info,
            door,
        });
        let tasks = shared.door.tasks.clone();
        tasks.spawn("nats-accept", accept(listener, Arc::clone(&shared)));
        tasks.spawn("nats-interest", services::keep_told(Arc::clone(&shared.door)));
        if shared.door.settings.advertise.is_some() {
            tasks.spawn("nats-addresses", Arc::clone(&shared.door).keep_addresses());
        }
        Ok(NatsServer { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as clients take it.
    pub fn url(&self) -> String {
        let scheme = if self.is_encrypted() { "tls" } else { "nats" };
        format!("{scheme}://{}", self.address)
    }

    /// Whether clients must use TLS.
    pub fn is_encrypted(&self) -> bool {
        self.shared.tls.is_some()
    }

    /// Whether clients must show credentials.
    pub fn is_guarded(&self) -> bool {
        self.shared.door.credentials.is_some()
    }

    /// Clients that are connected.
    pub fn clients(&self) -> usize {
        self.shared.door.settings.connections_max - self.shared.room.available_permits()
    }

    /// Clients cut off because they did not read.
    pub fn slow_consumers(&self) -> u64 {
        self.shared.door.metrics.slow.get()
    }

    /// Refuses newcomers, tells those inside, gives them a while, and cuts the rest.
    pub async fn close(&self) {
        self.shared.lame.cancel();
        let all = u32::try_from(self.shared.door.settings.connections_max).unwrap_or(u32::MAX);
        let empty = || Arc::clone(&self.shared.room).acquire_many_owned(all);
        let _ = timeout(self.shared.door.settings.grace, empty()).await;
        self.shared.cut.cancel();
        let _ = timeout(CUT_TIMEOUT, empty()).await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.lame.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                failing = false;
                take(&shared, stream, from);
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "the NATS door cannot accept connections");
                }
                failing = true;
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn take(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddr) {
    // Failing to set it costs some latency and nothing else.
    let _ = stream.set_nodelay(true);
    let Ok(permit) = Arc::clone(&shared.room).try_acquire_owned() else {
        shared.door.metrics.refused.inc();
        shared.door.metrics.dropped.inc("nats_connections", "full");
        return refuse(shared, stream);
    };
    let this = Arc::clone(shared);
    shared.door.tasks.spawn("nats-connection", async move {
        let _permit = permit;
        this.door.metrics.connections.inc();
        let _gone = Gone(this.door.metrics.connections.clone());
        if let Err(error) = greet(&this, stream, from).await {
            tracing::debug!(%from, %error, "a NATS client went before it was greeted");
        }
    });
}

struct Gone(prometheus_client::metrics::gauge::Gauge);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The first words, then TLS where it is wanted, then the conversation.
async fn greet(shared: &Shared, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let mut info = shared.info.clone();
    info.client_id = id;
    info.client_ip = from.ip().to_string();
    let addresses = shared.door.addresses.subscribe();
    info.connect_urls.clone_from(&addresses.borrow());
    let nonce: [u8; 11] = platform::random(&*shared.door.entropy);
    let nonce = data_encoding::BASE64URL_NOPAD.encode(&nonce);
    if shared
        .door
        .credentials
        .as_ref()
        .is_some_and(super::auth::Credentials::wants_nonce)
    {
        info.nonce = Some(nonce.clone());
    }
    let words = info.line();
    let client = Client {
        door: Arc::clone(&shared.door),
        id,
        from,
        info,
        addresses,
        nonce,
        lame: shared.lame.clone(),
        cut: shared.cut.child_token(),
    };
    match &shared.tls {
        Some(tls) if tls.comes_first(&stream).await => {
            let mut stream = tls.accept(stream).await?;
            say(&mut stream, &words).await?;
            let (reader, writer) = tokio::io::split(stream);
            connection::run(client, reader, writer).await;
        }
        Some(tls) => {
            say(&mut stream, &words).await?;
            let (reader, writer) = tokio::io::split(tls.accept(stream).await?);
            connection::run(client, reader, writer).await;
        }
        None => {
            say(&mut stream, &words).await?;
            let (reader, writer) = stream.into_split();
            connection::run(client, reader, writer).await;
        }
    }
    Ok(())
}

/// The first words.
async fn say(stream: &mut (impl AsyncWrite + Unpin), words: &str) -> io::Result<()> {
    let write = async {
        stream.write_all(words.as_bytes()).await?;
        stream.flush().await
    };
    timeout(GREETING_TIMEOUT, write).await?
}

fn refuse(shared: &Arc<Shared>, mut stream: TcpStream) {
    let Ok(permit) = Arc::clone(&shared.refusals).try_acquire_owned() else {
        return;
    };
    let words = format!("{}-ERR 'maximum connections exceeded'\r\n", shared.info.line());
    shared.door.tasks.spawn("nats-refusal", async move {
        let _permit = permit;
        let say = async {
            stream.write_all(words.as_bytes()).await?;
            stream.shutdown().await
        };
        let _ = timeout(REFUSAL_TIMEOUT, say).await;
    });
}
