//! Bounds of size and time on one connection of the local API.
//!
//! A connection that waits for a request has a deadline: [`ServerLimits::header_timeout`] for the first request's head and for every
//! head once its first byte is there, [`ServerLimits::idle_timeout`] between requests. While an answer is being made there is none,
//! for that is the handler's own time. What cannot be written for [`ServerLimits::write_timeout`] ends the connection, at any time,
//! also after an upgrade to a WebSocket. A request's body has its own limits of size and of time as a whole.

#[cfg(test)]
mod tests;

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, OwnedSemaphorePermit},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::config::ApiConfig;

/// After the last answer on a connection, what the client still sends is read and thrown away for this long: closing at once would
/// reset the connection, and the client would never see the answer that says why.
const LINGER: Duration = Duration::from_secs(1);

/// The bounds of a server; those of bodies can change while it runs.
#[derive(Debug)]
pub struct ServerLimits {
    /// Connections at once.
    pub connections_max: usize,
    /// Bytes of a request's head.
    pub header_bytes_max: usize,
    /// How long a request's head may take from its first byte, and the first byte from the connection's beginning.
    pub header_timeout: Duration,
    /// How long a connection may wait between two requests.
    pub idle_timeout: Duration,
    /// How long nothing of an answer may be taken by the client.
    pub write_timeout: Duration,
    body_bytes_max: AtomicU64,
    body_timeout_ms: AtomicU64,
}

impl ServerLimits {
    /// The bounds that the configuration names.
    pub fn new(config: &ApiConfig) -> Self {
        let limits = Self {
            connections_max: config.connections_max as usize,
            header_bytes_max: config.header_bytes_max.as_len(),
            header_timeout: config.header_timeout,
            idle_timeout: config.idle_timeout,
            write_timeout: config.write_timeout,
            body_bytes_max: AtomicU64::default(),
            body_timeout_ms: AtomicU64::default(),
        };
        limits.reload(config);
        limits
    }

    /// Takes over what can change while the server runs: the bounds of bodies.
    pub fn reload(&self, config: &ApiConfig) {
        let timeout_ms = u64::try_from(config.body_timeout.as_millis()).unwrap_or(u64::MAX);
        self.body_bytes_max
            .store(config.body_bytes_max.bytes(), Ordering::Relaxed);
        self.body_timeout_ms.store(timeout_ms, Ordering::Relaxed);
    }

    /// Bytes of a request's body.
    pub fn body_bytes_max(&self) -> u64 {
        self.body_bytes_max.load(Ordering::Relaxed)
    }

    /// How long a request's body may take as a whole.
    pub fn body_timeout(&self) -> Duration {
        Duration::from_millis(self.body_timeout_ms.load(Ordering::Relaxed))
    }
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Waiting for a request, or reading its head; since when.
    Waiting(Instant),
    /// Making or sending an answer.
    Answering,
    /// No longer HTTP.
    Upgraded,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Requests so far: tells the reading side that a new head begins.
    requests: u64,
    /// The client has not taken everything.
    write_pending: bool,
}

/// What a connection is doing, shared by those who read and write it, who answer it and who may end it.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    /// Asks the connection to make room for another, if it still waits.
    pub(super) evict: Notify,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let state = State {
            phase: Phase::Waiting(Instant::now()),
            requests: 0,
            write_pending: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            evict: Notify::new(),
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Since when the connection has been waiting for a request with nothing left to send; nothing while it is busy.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.with(|state| match state.phase {
            Phase::Waiting(since) if !state.write_pending => Some(since),
            _ => None,
        })
    }

    /// A request's head is complete.
    pub(super) fn begin(self: &Arc<Self>) -> Answering {
        self.with(|state| {
            state.phase = Phase::Answering;
            state.requests += 1;
        });
        Answering(Arc::clone(self))
    }

    /// The answer to the present request makes the connection something else.
    pub(super) fn upgrade(&self) {
        self.with(|state| state.phase = Phase::Upgraded);
    }
}

/// Lasts as long as an answer is being made and sent.
#[derive(Debug)]
pub(super) struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.with(|state| {
            if state.phase == Phase::Answering {
                state.phase = Phase::Waiting(Instant::now());
            }
        });
    }
}

/// A timer that sleeps only when somebody waits.
#[derive(Debug, Default)]
struct Deadline {
    sleep: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Deadline {
    fn start_if_idle(&mut self, after: Duration) {
        if self.running {
            return;
        }
        self.running = true;
        let at = Instant::now() + after;
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at),
            None => self.sleep = Some(Box::pin(sleep_until(at))),
        }
    }

    fn stop(&mut self) {
        self.running = false;
    }

    fn poll_passed(&mut self, cx: &mut Context<'_>) -> bool {
        self.running
            && self
                .sleep
                .as_mut()
                .is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// A connection with the deadlines of this module; it holds its place among the allowed connections until it is dropped.
#[derive(Debug)]
pub(super) struct GuardedIo<I, L> {
    io: I,
    limits: Arc<ServerLimits>,
    activity: Arc<Activity>,
    reading: Deadline,
    writing: Deadline,
    lingering: Deadline,
    /// The request whose head is being read, and whether a byte of it is there.
    head: (u64, bool),
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Dropped before the permit: who waits for a place must not find this connection listed as one that can still go.
    _listed: L,
    _permit: OwnedSemaphorePermit,
}

impl<I, L> GuardedIo<I, L> {
    pub(super) fn new(
        io: I,
        limits: Arc<ServerLimits>,
        activity: Arc<Activity>,
        stop: CancellationToken,
        listed: L,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            io,
            limits,
            activity,
            reading: Deadline::default(),
            writing: Deadline::default(),
            lingering: Deadline::default(),
            head: (0, false),
            stopped: Box::pin(stop.cancelled_owned()),
            _listed: listed,
            _permit: permit,
        }
    }

    /// Sets the deadline for reading by what the connection is doing.
    fn watch_read(&mut self, got_bytes: bool) {
        let (phase, requests) = self.activity.with(|state| (state.phase, state.requests));
        if requests != self.head.0 {
            self.head = (requests, false);
            self.reading.stop();
        }
        if !matches!(phase, Phase::Waiting(_)) {
            return self.reading.stop();
        }
        if got_bytes && !self.head.1 {
            self.head.1 = true;
            // The first head's time runs from the connection's beginning.
            if requests > 0 {
                self.reading.stop();
            }
        }
        let between_requests = requests > 0 && !self.head.1;
        self.reading.start_if_idle(if between_requests {
            self.limits.idle_timeout
        } else {
            self.limits.header_timeout
        });
    }

    fn watch_write<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.activity.with(|state| state.write_pending = result.is_pending());
        if result.is_ready() {
            self.writing.stop();
            return result;
        }
        self.writing.start_if_idle(self.limits.write_timeout);
        if self.writing.poll_passed(cx) {
            return Poll::Ready(Err(timed_out("the client does not read")));
        }
        result
    }
}

impl<I: AsyncRead + Unpin, L: Unpin> AsyncRead for GuardedIo<I, L> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.io).poll_read(cx, buffer);
        this.watch_read(buffer.filled().len() > before);
        // Also with bytes at hand: who sends one byte at a time must not win time by it.
        if this.reading.poll_passed(cx) {
            return Poll::Ready(Err(timed_out("the request's head takes too long")));
        }
        if result.is_pending() && this.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the node stops")));
        }
        result
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin, L: Unpin> AsyncWrite for GuardedIo<I, L> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.watch_write(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.watch_write(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.lingering.running {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            this.lingering.start_if_idle(LINGER);
        }
        let mut space = [0; 8192];
        loop {
            if this.lingering.poll_passed(cx) || this.stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The client has nothing more to say, or is gone.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Why a request's body was not read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// It is longer than allowed.
    #[error("the body is larger than {bytes_max} bytes")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// It did not come in time.
    #[error("the body did not arrive within {} ms", timeout.as_millis())]
    TooSlow {
        /// The limit.
        timeout: Duration,
    },
    /// The connection failed.
    #[error("the connection failed while the body was read")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A body within limits of size and time.
#[derive(Debug)]
pub(super) struct LimitedBody<B> {
    inner: B,
    bytes_max: u64,
    bytes_left: u64,
    timeout: Duration,
    deadline: Deadline,
}

impl<B: Body> LimitedBody<B> {
    pub(super) fn new(inner: B, limits: &ServerLimits) -> Self {
        let bytes_max = limits.body_bytes_max();
        Self {
            inner,
            bytes_max,
            bytes_left: bytes_max,
            timeout: limits.body_timeout(),
            deadline: Deadline::default(),
        }
    }
}

impl<B> Body for LimitedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let too_large = BodyError::TooLarge {
            bytes_max: this.bytes_max,
        };
        // By its declared length, before the client is told to go on (100 Continue).
        if this.inner.size_hint().lower() > this.bytes_left {
            return Poll::Ready(Some(Err(too_large)));
        }
        this.deadline.start_if_idle(this.timeout);
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                match this.bytes_left.checked_sub(bytes) {
                    Some(left) => this.bytes_left = left,
                    None => return Poll::Ready(Some(Err(too_large))),
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BodyError::Broken(error.into())))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if this.deadline.poll_passed(cx) => {
                Poll::Ready(Some(Err(BodyError::TooSlow { timeout: this.timeout })))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body that tells when it has been sent.
#[derive(Debug)]
pub(super) struct TrackedBody {
    pub(super) inner: axum::body::Body,
    pub(super) _answering: Option<Answering>,
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
