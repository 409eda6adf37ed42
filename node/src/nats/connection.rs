//! One NATS client: reads its operations, acts on them, and writes what its outbox holds.
//!
//! Two tasks: the reader acts, the writer writes. The reader handles all operations that came together before it wakes those they are for,
//! and only then does what may have to wait for the mesh: so a burst costs one wake-up and one write each, and a publisher that is faster
//! than the mesh is read more slowly.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, interval_at, timeout},
};
use tokio_util::sync::CancellationToken;
use weft_protocol::{Pattern, Subject, patterns::nats::check_group};

use super::{
    ask::{self, Question},
    door::{Door, Scope},
    headers,
    jetstream::{self, Message, Takers},
    outbox::{Outbox, Outgoing, Touched},
    parse::{Limits, Op, ParseError, Parsed, Publish, parse},
    replies,
    router::{Matched, Sub},
    subject,
    words::{Connect, Info},
};

/// A line of the protocol, as nats-server has it.
const LINE_BYTES_MAX: usize = 4096;
/// Read at once.
const READ_BYTES: usize = 32 << 10;
/// A connection that is idle keeps no larger buffer.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// Subjects of which a connection remembers whom they reach.
const ROUTES_MAX: usize = 1024;
/// Pings that may be unanswered.
const PINGS_MAX: u32 = 2;
/// How long a publisher is held up for receivers that fill up, at most.
const STALL: Duration = Duration::from_millis(10);
/// Ended subscriptions are swept out when there are more than so many.
const SWEEP_MIN: usize = 256;
/// How long the last words may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// A payload that began must end within this.
const PAYLOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that has been greeted.
pub(super) struct Client {
    pub(super) door: Arc<Door>,
    pub(super) id: u64,
    pub(super) from: SocketAddr,
    pub(super) info: Info,
    /// Where else the client may go, as the mesh changes.
    pub(super) addresses: watch::Receiver<Vec<String>>,
    pub(super) nonce: String,
    pub(super) lame: CancellationToken,
    pub(super) cut: CancellationToken,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error("{0}")]
    Refused(&'static str),
    #[error("the connection broke: {0}")]
    Broken(#[from] std::io::Error),
    #[error("the client closed the connection")]
    Closed,
    #[error("the connection was cut")]
    Cut,
}

impl Ending {
    /// What the client is told.
    fn words(&self) -> Option<String> {
        match self {
            Ending::Parse(error) => Some(format!("-ERR '{error}'\r\n")),
            Ending::Refused(reason) => Some(format!("-ERR '{reason}'\r\n")),
            Ending::Broken(_) | Ending::Closed | Ending::Cut => None,
        }
    }
}

/// Talks with a client until one of the two has enough.
pub(super) async fn run<R, W>(client: Client, reader: R, writer: W)
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let Client {
        door, id, from, cut, ..
    } = &client;
    let outbox = Outbox::new(*id, Arc::clone(&door.unread), cut.clone());
    let written = CancellationToken::new();
    door.tasks.spawn(
        "nats-writer",
        write(
            Arc::clone(&outbox),
            writer,
            door.settings.write_timeout,
            written.clone().drop_guard(),
        ),
    );
    let mut session = Session::new(&client, Arc::clone(&outbox));
    let ending = session.converse(&client, reader).await;
    session.leave();
    if let Some(words) = ending.words() {
        outbox.say(&words);
    }
    outbox.close();
    if timeout(FAREWELL, written.cancelled()).await.is_err() {
        outbox.cut.cancel();
    }
    if outbox.is_slow() {
        door.metrics.slow.inc();
        door.metrics.dropped.inc("nats_connection", "slow");
        tracing::warn!(client = id, %from, name = session.name(), "a NATS client was cut off: it does not read what it subscribed to");
    } else {
        tracing::debug!(client = id, %from, name = session.name(), reason = %ending, "a NATS client left");
    }
}

/// Writes what waits, all at once, until nothing more comes.
async fn write<W: AsyncWrite + Unpin>(
    outbox: Arc<Outbox>,
    mut writer: W,
    within: Duration,
    _done: tokio_util::sync::DropGuard,
) {
    while let Some(bytes) = outbox.take().await {
        let all = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        // Cut off, a client has a moment to read why.
        let within = if outbox.cut.is_cancelled() { FAREWELL } else { within };
        let done = tokio::select! {
            biased;
            done = timeout(within, all) => done,
            () = gone(&outbox) => Ok(Err(std::io::ErrorKind::ConnectionAborted.into())),
        };
        outbox.written(bytes);
        match done {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break,
            Err(_) => {
                outbox.note_slow();
                break;
            }
        }
    }
    outbox.cut.cancel();
    let _ = timeout(FAREWELL, writer.shutdown()).await;
}

/// Resolves a moment after the connection was cut.
async fn gone(outbox: &Outbox) {
    outbox.cut.cancelled().await;
    tokio::time::sleep(FAREWELL).await;
}

/// Whom a subject reaches, as of one generation of the router.
struct Route {
    generation: u64,
    subject: Subject,
    matched: Matched,
    /// The stream that takes in messages on it, as these say.
    taker: Option<Subject>,
    takers: Option<Arc<Takers>>,
}

/// What has to wait until this burst's receivers are awake.
enum Later {
    Publish {
        subject: Subject,
        reply: Option<String>,
        headers: Vec<u8>,
        payload: Vec<u8>,
        is_plain: bool,
    },
    Ask(Box<Question>),
    Record(Subject, Box<Message>),
    JetStream(Box<jetstream::Request>),
    Answer {
        subject: String,
        headers: Vec<u8>,
        payload: Vec<u8>,
    },
}

/// What is known of a client, and what it has asked for.
struct Session {
    door: Arc<Door>,
    outbox: Arc<Outbox>,
    nonce: String,
    connect: Connect,
    is_admitted: bool,
    subs: HashMap<Box<[u8]>, Arc<Sub>>,
    sweep_at: usize,
    routes: HashMap<Box<[u8]>, Arc<Route>>,
    touched: Touched,
    later: Vec<Later>,
    /// Whether nobody beyond this door could want a message; looked up once for each burst.
    is_alone: bool,
    /// Which streams take in which messages; looked up once for each burst.
    takers: Option<Arc<Takers>>,
    pings: u32,
    published: u64,
    published_bytes: u64,
}

impl Session {
    fn new(client: &Client, outbox: Arc<Outbox>) -> Self {
        Session {
            is_admitted: client.door.credentials.is_none(),
            door: Arc::clone(&client.door),
            outbox,
            nonce: client.nonce.clone(),
            connect: Connect::default(),
            subs: HashMap::new(),
            sweep_at: SWEEP_MIN,
            routes: HashMap::new(),
            touched: Touched::default(),
            later: Vec::new(),
            is_alone: false,
            takers: None,
            pings: 0,
            published: 0,
            published_bytes: 0,
        }
    }

    fn name(&self) -> &str {
        self.connect.name.as_deref().unwrap_or_default()
    }

    async fn converse<R: AsyncRead + Unpin>(&mut self, client: &Client, mut reader: R) -> Ending {
        let settings = &client.door.settings;
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        let admission = tokio::time::sleep(settings.auth_timeout);
        tokio::pin!(admission);
        let mut pings = interval_at(Instant::now() + settings.ping_interval, settings.ping_interval);
        let mut is_told = false;
        let mut addresses = client.addresses.clone();
        // Room for a long payload, and since when it comes.
        let mut long: Option<(OwnedSemaphorePermit, Instant)> = None;
        loop {
            buffer.reserve(READ_BYTES);
            let overdue = long.as_ref().map_or_else(far, |(_, since)| *since + PAYLOAD_TIMEOUT);
            let read = tokio::select! {
                biased;
                () = client.cut.cancelled() => return Ending::Cut,
                () = client.lame.cancelled(), if !is_told => {
                    is_told = true;
                    let elsewhere = addresses.borrow().iter().skip(1).cloned().collect();
                    let info = Info { ldm: true, connect_urls: elsewhere, ..client.info.clone() };
                    self.outbox.say(&info.line());
                    continue;
                }
                Ok(()) = addresses.changed(), if self.is_admitted && self.connect.protocol > 0 => {
                    let connect_urls = addresses.borrow_and_update().clone();
                    let info = Info { connect_urls, ..client.info.clone() };
                    self.outbox.say(&info.line());
                    continue;
                }
                read = reader.read_buf(&mut buffer) => read,
                () = admission.as_mut(), if !self.is_admitted => return Ending::Refused("Authentication Timeout"),
                () = tokio::time::sleep_until(overdue), if long.is_some() => return Ending::Refused("Stale Connection"),
                _ = pings.tick() => {
                    if self.pings >= PINGS_MAX {
                        return Ending::Refused("Stale Connection");
                    }
                    self.pings += 1;
                    self.outbox.say("PING\r\n");
                    continue;
                }
            };
            match read {
                Ok(0) => return Ending::Closed,
                Ok(_) => self.pings = 0,
                Err(error) => return Ending::Broken(error),
            }
            let needed = match self.burst(&mut buffer) {
                Ok(needed) => needed,
                Err(ending) => {
                    // What came before the error counts.
                    self.finish_burst(&client.cut).await;
                    return ending;
                }
            };
            self.finish_burst(&client.cut).await;
            if needed <= KEPT_BYTES_MAX {
                long = None;
                if buffer.is_empty() && buffer.capacity() > KEPT_BYTES_MAX {
                    buffer = BytesMut::with_capacity(READ_BYTES);
                }
            } else if long.is_none() {
                let Some(room) = client.door.room_for(needed, &client.cut).await else {
                    return Ending::Cut;
                };
                long = Some((room, Instant::now()));
            }
        }
    }

    /// Acts on all operations that are whole. How many bytes the next one needs at least.
    fn burst(&mut self, buffer: &mut BytesMut) -> Result<usize, Ending> {
        self.is_alone = self.door.is_alone();
        self.takers = self.door.jetstream.as_ref().map(|jetstream| jetstream.takers());
        let limits = Limits {
            line_bytes_max: LINE_BYTES_MAX,
            payload_bytes_max: self.door.settings.payload_bytes_max,
        };
        let mut at = 0;
        let outcome = loop {
            match parse(&buffer[at..], limits) {
                Ok(Parsed::Op(op, len)) => {
                    if let Err(ending) = self.act(op) {
                        break Err(ending);
                    }
                    at += len;
                }
                Ok(Parsed::Need(len)) => break Ok(len),
                Err(error) => break Err(error.into()),
            }
            if at == buffer.len() {
                break Ok(0);
            }
        };
        buffer.advance(at);
        outcome
    }

    /// Wakes those who got something, then does what may wait.
    async fn finish_burst(&mut self, cut: &CancellationToken) {
        self.door.metrics.published.inc_by(std::mem::take(&mut self.published));
        self.door
            .metrics
            .published_bytes
            .inc_by(std::mem::take(&mut self.published_bytes));
        let filling = self.touched.wake();
        if !filling.is_empty() {
            // A moment for the slowest: a publisher on this machine is faster than any reader.
            let all = futures::future::join_all(filling.iter().map(|outbox| outbox.drained()));
            let _ = timeout(STALL, all).await;
        }
        for later in std::mem::take(&mut self.later) {
            tokio::select! {
                biased;
                () = cut.cancelled() => return,
                () = self.act_later(later) => {}
            }
        }
    }

    async fn act_later(&self, later: Later) {
        match later {
            Later::Publish {
                subject,
                reply,
                headers,
                payload,
                is_plain,
            } => {
                let reply = reply.map(|reply| self.door.replies.rename(&reply));
                self.door
                    .publish(&subject, reply.as_deref(), &headers, &payload, is_plain)
                    .await;
            }
            Later::Ask(question) => {
                // The semaphore is never closed.
                let Ok(permit) = Arc::clone(&self.door.questions).acquire_owned().await else {
                    return;
                };
                let door = Arc::clone(&self.door);
                self.door.tasks.spawn("nats-question", async move {
                    let _permit = permit;
                    ask::ask(&door, *question).await;
                });
            }
            Later::Answer {
                subject,
                headers,
                payload,
            } => self.door.answer(&subject, &headers, &payload).await,
            Later::Record(stream, message) => {
                if let Some(jetstream) = &self.door.jetstream {
                    jetstream.record(&self.door, stream, *message).await;
                }
            }
            Later::JetStream(request) => {
                if let Some(jetstream) = &self.door.jetstream {
                    jetstream.take(&self.door, *request).await;
                }
            }
        }
    }

    fn act(&mut self, op: Op<'_>) -> Result<(), Ending> {
        if !self.is_admitted && !matches!(op, Op::Connect(_)) {
            self.door.metrics.refused.inc();
            return Err(Ending::Refused("Authorization Violation"));
        }
        match op {
            Op::Connect(json) => self.introduce(json),
            Op::Ping => {
                self.outbox.say("PONG\r\n");
                Ok(())
            }
            Op::Pong | Op::Remark => Ok(()),
            Op::Publish(message) => self.publish(message),
            Op::Sub { subject, queue, sid } => self.subscribe(subject, queue, sid),
            Op::Unsub { sid, max } => {
                self.unsubscribe(sid, max);
                Ok(())
            }
        }
    }

    fn introduce(&mut self, json: &[u8]) -> Result<(), Ending> {
        let connect: Connect = serde_json::from_slice(json).map_err(|_| ParseError::Malformed)?;
        if let Some(credentials) = &self.door.credentials
            && !credentials.admit(&connect, &self.nonce)
        {
            self.door.metrics.refused.inc();
            tracing::info!(
                client = self.outbox.id,
                name = connect.name,
                "a NATS client showed no valid credentials"
            );
            return Err(Ending::Refused("Authorization Violation"));
        }
        if connect.no_responders && !connect.headers {
            return Err(Ending::Refused("No responders requires headers support"));
        }
        self.is_admitted = true;
        self.outbox.set_headers(connect.headers);
        tracing::debug!(
            client = self.outbox.id,
            name = connect.name,
            lang = connect.lang,
            version = connect.version,
            protocol = connect.protocol,
            "a NATS client came in"
        );
        // Secrets are not kept.
        self.connect = Connect {
            auth_token: None,
            pass: None,
            sig: None,
            ..connect
        };
        self.ok();
        Ok(())
    }

    fn ok(&mut self) {
        if self.connect.verbose {
            self.outbox.say("+OK\r\n");
        }
    }

    fn publish(&mut self, message: Publish<'_>) -> Result<(), Ending> {
        self.published += 1;
        self.published_bytes += (message.headers.len() + message.payload.len()) as u64;
        let reply = match message.reply.map(std::str::from_utf8).transpose() {
            Ok(reply) => reply,
            Err(_) => return self.refuse("Invalid Reply Subject"),
        };
        if message.headers.len() > headers::BLOCK_BYTES_MAX {
            return self.refuse("Headers Exceed 4096 Bytes");
        }
        if message.subject.starts_with(replies::PREFIX.as_bytes()) {
            let Ok(subject) = std::str::from_utf8(message.subject) else {
                return self.refuse("Invalid Publish Subject");
            };
            self.later.push(Later::Answer {
                subject: subject.to_owned(),
                headers: message.headers.to_vec(),
                payload: message.payload.to_vec(),
            });
            self.ok();
            return Ok(());
        }
        let is_api = self.door.jetstream.is_some() && jetstream::is_api(message.subject);
        if is_api {
            let Ok(subject) = std::str::from_utf8(message.subject) else {
                return self.refuse("Invalid Publish Subject");
            };
            self.later.push(Later::JetStream(Box::new(jetstream::Request {
                subject: subject.to_owned(),
                reply: reply.map(ToOwned::to_owned),
                payload: message.payload.to_vec(),
                client: Arc::clone(&self.outbox),
            })));
        }
        let Some(route) = self.route(message.subject) else {
            if !is_api {
                return self.refuse("Invalid Publish Subject");
            }
            // A filter in its subject may have wildcards.
            self.ok();
            return Ok(());
        };
        let outgoing = Outgoing {
            subject: route.subject.as_str(),
            reply,
            headers: message.headers,
            payload: message.payload,
        };
        let scope = Scope {
            not: (self.connect.echo == Some(false)).then_some(self.outbox.id),
            ..Scope::ALL
        };
        let reached = self.door.deliver(&route.matched, &outgoing, scope, &mut self.touched);
        // Who listens to requests of the API does not answer them.
        if !is_api {
            self.beyond(&route, message, reply, reached);
        }
        self.ok();
        Ok(())
    }

    /// What this node's clients have not settled among themselves.
    fn beyond(&mut self, route: &Route, message: Publish<'_>, reply: Option<&str>, reached: u32) {
        let is_reserved = route.subject.is_reserved();
        // Whoever publishes to a stream waits for its word, not for an answer.
        let mut reply = reply;
        if let Some(stream) = &route.taker {
            let message = Message {
                subject: route.subject.clone(),
                reply: reply.take().map(ToOwned::to_owned),
                headers: message.headers.to_vec(),
                payload: message.payload.to_vec(),
            };
            self.later.push(Later::Record(stream.clone(), Box::new(message)));
        }
        if let Some(reply) = reply {
            let is_taken = || !route.matched.groups.is_empty() || !self.door.is_service(route.subject.as_str());
            let is_settled = reached > 0 && self.is_alone && !is_reserved && is_taken();
            if !is_settled {
                let groups = route
                    .matched
                    .groups
                    .iter()
                    .filter_map(|group| group.first()?.queue.clone());
                self.later.push(Later::Ask(Box::new(Question {
                    subject: route.subject.clone(),
                    reply: reply.to_owned(),
                    headers: message.headers.to_vec(),
                    payload: message.payload.to_vec(),
                    reached,
                    groups: groups.collect(),
                    asker: self.connect.no_responders.then(|| Arc::clone(&self.outbox)),
                })));
            }
        } else if is_reserved && reached == 0 {
            let text = format!("-ERR 'Permissions Violation for Publish to \"{}\"'\r\n", route.subject);
            self.outbox.say(&text);
        }
        if !self.is_alone && !is_reserved {
            self.later.push(Later::Publish {
                subject: route.subject.clone(),
                reply: reply.map(ToOwned::to_owned),
                headers: message.headers.to_vec(),
                payload: message.payload.to_vec(),
                is_plain: reply.is_some(),
            });
        }
    }

    /// Says what is wrong, and goes on.
    fn refuse(&mut self, reason: &str) -> Result<(), Ending> {
        self.outbox.say(&format!("-ERR '{reason}'\r\n"));
        Ok(())
    }

    /// Whom a subject reaches; nothing when it is none.
    fn route(&mut self, text: &[u8]) -> Option<Arc<Route>> {
        let generation = self.door.router.generation();
        let is_current = |takers: &Option<Arc<Takers>>| match (takers, &self.takers) {
            (Some(known), Some(takers)) => Arc::ptr_eq(known, takers),
            (known, takers) => known.is_none() && takers.is_none(),
        };
        let is_fresh = |route: &&Arc<Route>| route.generation == generation && is_current(&route.takers);
        if let Some(route) = self.routes.get(text).filter(is_fresh) {
            return Some(Arc::clone(route));
        }
        let subject = subject(text)?;
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        let route = Arc::new(Route {
            generation,
            matched: self.door.router.matching(subject.as_str()),
            taker: self
                .takers
                .as_ref()
                .and_then(|takers| takers.find(self.door.mesh.trust(), &subject))
                .cloned(),
            takers: self.takers.clone(),
            subject,
        });
        self.routes.insert(text.into(), Arc::clone(&route));
        Some(route)
    }

    fn subscribe(&mut self, pattern: &[u8], queue: Option<&[u8]>, sid: &[u8]) -> Result<(), Ending> {
        let pattern = std::str::from_utf8(pattern)
            .ok()
            .and_then(|text| text.parse::<Pattern>().ok());
        let queue = queue.map(|name| std::str::from_utf8(name).ok().filter(|name| check_group(name).is_ok()));
        let (Some(pattern), None | Some(Some(_))) = (pattern, queue) else {
            return self.refuse("Invalid Subject");
        };
        if self.door.router.len() >= self.door.settings.subscriptions_max {
            return self.refuse("maximum subscriptions exceeded");
        }
        if self.subs.len() >= self.sweep_at {
            self.subs.retain(|_, sub| !sub.is_over());
            self.sweep_at = SWEEP_MIN.max(self.subs.len() * 2);
        }
        // The same name again is the same subscription.
        if self.subs.get(sid).is_none_or(|known| known.is_over()) {
            let sub = Sub::new(Arc::clone(&self.outbox), sid, pattern, queue.flatten());
            self.door.subscribe(&sub);
            self.subs.insert(sid.into(), sub);
        }
        self.ok();
        Ok(())
    }

    fn unsubscribe(&mut self, sid: &[u8], max: Option<u64>) {
        if let Some(sub) = self.subs.get(sid)
            && max.is_none_or(|max| sub.limit(max))
        {
            self.door.unsubscribe(sub);
            self.subs.remove(sid);
        }
        self.ok();
    }

    /// Nothing is delivered any more.
    fn leave(&mut self) {
        for (_, sub) in self.subs.drain() {
            self.door.unsubscribe(&sub);
        }
        self.routes.clear();
    }
}

/// The time of something that does not happen.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
