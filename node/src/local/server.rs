//! The HTTP server of the local API: an accept loop of its own around hyper, for what `axum::serve` does not bound.
//!
//! Promises: never more than `connections_max` connections; when all are taken, the one that has waited longest for a request makes
//! room, and only when none waits is a newcomer told 503; every wait of [`limits`](super::limits) ends; a handler that panics costs
//! its client a 500 and nobody else anything; on stop nothing new is taken, requests under way may finish until the deadline, then
//! everything is cut, WebSockets included.
//!
//! HTTP/1.1 with upgrades only: HTTP/2 would bring a flood of attacks and no gain on one machine. How long a handler may take is the
//! handler's own business.

mod connections;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, io, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::DefaultBodyLimit,
    http::{Request, StatusCode},
    response::{IntoResponse as _, Response},
};
use futures::FutureExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use self::connections::{Connections, Entry};
use super::{
    auth::Via,
    limits::{Activity, GuardedIo, LimitedBody, TrackedBody},
    problem::{self, Problem},
};
use crate::{
    error::{ErrorKind, Kind},
    telemetry::metrics::Dropped,
};

pub use super::limits::ServerLimits;

/// The name of the bound in `weft_dropped_total`.
const QUEUE: &str = "api_connections";

/// Newcomers that are being told 503 at once; more are just closed.
const REFUSALS_MAX: usize = 32;

/// How long a newcomer may take to hear that there is no room.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a connection that makes room may take to go.
const EVICTION_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a connection on which nothing was asked may stay when the server stops.
const IDLE_AT_STOP: Duration = Duration::from_millis(100);

/// The pause after the system had no descriptor or memory for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the API listens.
#[derive(Debug)]
pub enum Listener {
    /// An address of this machine.
    Tcp(TcpListener),
    /// A socket in the file system.
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

/// Why the API has no address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Another program has the port.
    #[error("the address {0} of the local API is in use by another program")]
    AddressInUse(SocketAddr),
    /// The system refused.
    #[error("cannot listen on {address} for the local API")]
    Io {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

impl Kind for ServerError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::AddressInUse(_) => ErrorKind::Conflict,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            Self::Io { .. } => ErrorKind::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        matches!(self, Self::AddressInUse(_))
            .then(|| "choose another with --api 127.0.0.1:PORT; port 0 takes a free one".into())
    }
}

/// Below it, requests have bodies of any size, which their handlers pass on as they come.
const STREAM_PATHS: &str = "/v1/stream/";

/// Listens on an address; when it is in use and the user did not choose it (`explicit`), on a free port of the same IP address.
pub async fn bind_tcp(address: SocketAddr, explicit: bool) -> Result<TcpListener, ServerError> {
    let failed = |source| ServerError::Io { address, source };
    match TcpListener::bind(address).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match explicit {
            true => Err(ServerError::AddressInUse(address)),
            false => TcpListener::bind(SocketAddr::new(address.ip(), 0))
                .await
                .map_err(failed),
        },
        result => result.map_err(failed),
    }
}

/// Serves a router until `stop` is cancelled; then takes nothing new, lets requests under way finish for at most `grace`, and cuts
/// the rest. Not cancel-safe in the sense of grace: dropped, it cuts everything at once.
pub async fn serve(
    listener: Listener,
    router: Router,
    limits: Arc<ServerLimits>,
    dropped: Dropped,
    stop: CancellationToken,
    grace: Duration,
) {
    // The limit of `LimitedBody` is the one that counts, and it can change.
    let router = router.layer(DefaultBodyLimit::disable());
    let room = Arc::new(Semaphore::new(limits.connections_max));
    let cut = CancellationToken::new();
    let _cut_at_the_end = cut.clone().drop_guard();
    let mut server = Server {
        router,
        room,
        limits,
        dropped,
        stop: stop.clone(),
        cut: cut.clone(),
        connections: Connections::default(),
        tasks: JoinSet::new(),
        refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
    };
    stop.run_until_cancelled(server.accept_all(&listener)).await;
    drop(listener);
    let all = u32::try_from(server.limits.connections_max).unwrap_or(u32::MAX);
    // Also upgraded connections, which are no longer in `tasks`, give their permits back when they end.
    let finished = timeout(grace, server.room.acquire_many(all)).await;
    if finished.is_err() {
        tracing::info!("requests to the local API were cut off, they took too long to finish");
    }
}

struct Server {
    router: Router,
    room: Arc<Semaphore>,
    limits: Arc<ServerLimits>,
    dropped: Dropped,
    stop: CancellationToken,
    cut: CancellationToken,
    connections: Connections,
    tasks: JoinSet<()>,
    refusals: Arc<Semaphore>,
}

impl Server {
    async fn accept_all(&mut self, listener: &Listener) {
        let mut failing = false;
        loop {
            // Those that have ended must not pile up in the set.
            while self.tasks.try_join_next().is_some() {}
            let accepted = match listener {
                Listener::Tcp(listener) => listener
                    .accept()
                    .await
                    .map(|(stream, from)| Accepted::Tcp(stream, from)),
                Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
            };
            match accepted {
                Ok(Accepted::Tcp(stream, from)) => {
                    // Failing to set it costs some latency and nothing else.
                    let _ = stream.set_nodelay(true);
                    self.take(stream, Via::Tcp(from)).await;
                }
                Ok(Accepted::Unix(stream)) => {
                    // Without the name of the caller there is nobody to trust.
                    if let Ok(peer) = stream.peer_cred() {
                        self.take(
                            stream,
                            Via::Unix {
                                uid: peer.uid(),
                                pid: peer.pid(),
                            },
                        )
                        .await;
                    }
                }
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "the local API cannot accept connections");
                    }
                    failing = true;
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            }
            failing = false;
        }
    }

    async fn take<I: AsyncRead + AsyncWrite + Send + Unpin + 'static>(&mut self, stream: I, via: Via) {
        let Some(permit) = self.place().await else {
            self.dropped.inc(QUEUE, "full");
            return self.refuse(stream);
        };
        let activity = Activity::new();
        let entry = self.connections.add(Arc::clone(&activity));
        let io = GuardedIo::new(
            stream,
            Arc::clone(&self.limits),
            Arc::clone(&activity),
            self.cut.clone(),
            entry,
            permit,
        );
        let (router, limits, stop) = (self.router.clone(), Arc::clone(&self.limits), self.stop.clone());
        self.tasks.spawn(async move {
            connection(io, router, limits, activity, via, stop).await;
        });
    }

    /// A place for one more connection, if need be that of the one that has waited longest for a request.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
            return Some(permit);
        }
        if !self.connections.evict_longest_waiting() {
            return None;
        }
        self.dropped.inc(QUEUE, "evicted");
        timeout(EVICTION_TIMEOUT, Arc::clone(&self.room).acquire_owned())
            .await
            .ok()?
            .ok()
    }

    fn refuse<I: AsyncRead + AsyncWrite + Send + Unpin + 'static>(&mut self, mut stream: I) {
        let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() else {
            return;
        };
        self.tasks.spawn(async move {
            let _permit = permit;
            let answer = async {
                stream.write_all(no_room().as_bytes()).await?;
                stream.shutdown().await?;
                // Until the client has read it: closing with unread bytes would reset the connection.
                let mut unread = [0; 4096];
                while stream.read(&mut unread).await? > 0 {}
                io::Result::Ok(())
            };
            let _ = timeout(REFUSAL_TIMEOUT, answer).await;
        });
    }
}

enum Accepted {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn no_room() -> String {
    let problem = Problem::new(ErrorKind::Busy, "the local API has as many connections as it may")
        .with_status(StatusCode::SERVICE_UNAVAILABLE);
    let body = problem.to_json();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {}\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        problem::CONTENT_TYPE,
        body.len()
    )
}

async fn connection<I>(
    io: GuardedIo<I, Entry>,
    router: Router,
    limits: Arc<ServerLimits>,
    activity: Arc<Activity>,
    via: Via,
    stop: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(|request| {
        let request = prepare(request, &limits, via);
        answer(router.clone(), request, Arc::clone(&activity))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Ours distinguishes a slow head from an idle connection.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes_max)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    tokio::pin!(connection);
    let mut stopping = false;
    let idle_cut = sleep(Duration::ZERO);
    tokio::pin!(idle_cut);
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::trace!(%error, "a connection to the local API ended");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
                idle_cut.as_mut().reset(Instant::now() + IDLE_AT_STOP);
            }
            // Half a head must not hold up the stop.
            () = idle_cut.as_mut(), if stopping => match activity.waiting_since() {
                Some(_) => return,
                None => idle_cut.as_mut().reset(Instant::now() + IDLE_AT_STOP),
            },
            // A request may have come in the meantime; then it stays.
            () = activity.evict.notified() => {
                if activity.waiting_since().is_some() {
                    return;
                }
            }
        }
    }
}

fn prepare(request: Request<Incoming>, limits: &ServerLimits, via: Via) -> Request<Body> {
    let is_streamed = request.uri().path().starts_with(STREAM_PATHS);
    let mut request = request.map(|body| match is_streamed {
        // Nothing of it is kept: who reads it says how fast it comes.
        true => Body::new(body),
        false => Body::new(LimitedBody::new(body, limits)),
    });
    request.extensions_mut().insert(via);
    request
}

async fn answer(mut router: Router, request: Request<Body>, activity: Arc<Activity>) -> Result<Response, Infallible> {
    let answering = activity.begin();
    let path = request.uri().path().to_owned();
    let handled = AssertUnwindSafe(async move { router.call(request).await })
        .catch_unwind()
        .await;
    let response = match handled {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => {
            tracing::error!(path = ?path, "a handler of the local API panicked");
            Problem::new(ErrorKind::Internal, "the node failed while it handled the request").into_response()
        }
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        activity.upgrade();
    }
    Ok(response.map(|inner| {
        Body::new(TrackedBody {
            inner,
            _answering: Some(answering),
        })
    }))
}
