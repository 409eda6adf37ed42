//! What presses on a node's memory, and a watch on what it uses and on whom it still serves meanwhile.
//!
//! Each [`Pressure`] attacks one node that has its default budget. Meanwhile an honest member calls a service of the node, and an
//! honest application asks its local API; [`Figure`] says how much memory was used at most, and how often they were answered.

use std::{
    borrow::Cow,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use futures::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest as _};
use weft_protocol::{
    Hello, Subject, Ticket, Verb, Wire as _,
    codec::frame,
    direct::{DIRECT_PROTOCOL, DirectRequest, LANE_PROTOCOL, LaneFrame},
    limits::{DIRECT_BODY_BYTES_MAX, PUBLISH_BODY_BYTES_MAX},
    patterns::{
        pub_sub::{Attributes, Frame, Run, SHARDS, topic},
        request_response::{CallMessage, CallRequest},
    },
};

use crate::{
    Node,
    attacker::{Attacker, Say, field, gossip},
    background::write_error,
    cgroup::MemoryCgroup,
    until, until_within,
};

/// The default of `limits.memory_budget_bytes`.
const BUDGET_BYTES: u64 = 256 << 20;
/// What the node may use besides: code, stacks, the store.
const BESIDES_BYTES: u64 = 64 << 20;
/// What the kernel grants it: one and a half budgets, with what it holds of the node's files in its cache.
const CGROUP_BYTES: u64 = BUDGET_BYTES / 2 * 3;
/// Of the pressure of a test.
const PRESSURE_TIME: Duration = Duration::from_secs(20);
/// What the connections of a pressure may take to be made, all together.
const OPENING_TIME_MAX: Duration = Duration::from_secs(200);
/// Threads that open connections.
const OPENERS: usize = 100;
/// What the honest ones are given for one answer.
const HONEST_TIMEOUT: &str = "30s";

/// A way to use up a node's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// Eight members with 500 streams each: requests that never end, answers that are never read, greetings that nothing follows.
    Streams,
    /// 100,000 subscriptions: of a member by gossip, and of local applications.
    Subscriptions,
    /// Messages of 1 MiB by gossip, as fast as they go, with a subscriber that reads nothing.
    Gossip,
    /// 10,000 connections whose handshake is never finished.
    Handshakes,
    /// 10,000 clients of the local API that are slow with their requests.
    SlowClients,
}

impl Pressure {
    /// Every one.
    pub const ALL: [Self; 5] = [
        Self::Streams,
        Self::Subscriptions,
        Self::Gossip,
        Self::Handshakes,
        Self::SlowClients,
    ];
}

/// What was seen under a pressure.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Resident memory at most.
    pub rss_bytes: u64,
    /// The budget and what may come on top.
    pub limit_bytes: u64,
    /// Calls of the honest member that were answered, and that were not.
    pub calls: (usize, usize),
    /// The same of the honest application's requests.
    pub requests: (usize, usize),
    /// How often the kernel killed the node for exceeding one and a half budgets; none where the limit could not be set.
    pub killed: Option<u64>,
}

/// Exerts one pressure.
///
/// # Panics
/// When the node does not survive it, or the pressure could not be exerted.
pub fn exert(pressure: Pressure) -> Figure {
    raise_file_limit();
    let group = MemoryCgroup::new(CGROUP_BYTES);
    if let Err(reason) = &group {
        write_error(&format!(
            "SKIPPED: the kernel's own limit on the node's memory: {reason}\n"
        ));
    }
    let node = Node::new("alpha");
    let mut alpha = match &group {
        Ok(group) => node.within(group).started(),
        Err(_) => node.started(),
    };
    let ticket = alpha.ticket(16);
    let beta = Node::joined("beta", &ticket);
    alpha.wait_sees(beta.id());
    let _echo = alpha.serve("echo", &["--echo"]);
    until("the service is known", || {
        (!beta.get("/v1/services").as_array()?.is_empty()).then_some(())
    });
    let over = AtomicBool::new(false);
    let (mut figure, exerted) = thread::scope(|scope| {
        let memory = scope.spawn(|| {
            let mut peak = 0;
            while !over.load(Ordering::Relaxed) {
                peak = peak.max(alpha.rss_bytes());
                thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        let calls = scope.spawn(|| {
            count(&over, || {
                let called = beta.run(&["call", "echo", "honest", "--timeout", HONEST_TIMEOUT]);
                called.code == Some(0) && called.text() == "honest"
            })
        });
        let requests = scope.spawn(|| {
            count(&over, || {
                let request = alpha.request("GET", "/v1/status");
                request.send(alpha.api()).is_ok_and(|answer| answer.status == 200)
            })
        });
        let exerted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| press(pressure, &alpha, &ticket)));
        over.store(true, Ordering::Relaxed);
        let figure = Figure {
            rss_bytes: memory.join().unwrap(),
            limit_bytes: BUDGET_BYTES + BESIDES_BYTES,
            calls: calls.join().unwrap(),
            requests: requests.join().unwrap(),
            killed: group.as_ref().ok().map(MemoryCgroup::killed),
        };
        (figure, exerted)
    });
    if let Err(panic) = exerted {
        std::panic::resume_unwind(panic);
    }
    figure.rss_bytes = figure.rss_bytes.max(alpha.rss_bytes());
    assert!(alpha.is_alive() && !alpha.log().contains("panicked"), "{}", alpha.log());
    figure
}

/// How often it succeeds and fails until it is over.
fn count(over: &AtomicBool, attempt: impl Fn() -> bool) -> (usize, usize) {
    let mut counted = (0, 0);
    while !over.load(Ordering::Relaxed) {
        match attempt() {
            true => counted.0 += 1,
            false => counted.1 += 1,
        }
        thread::sleep(Duration::from_millis(100));
    }
    counted
}

fn press(pressure: Pressure, alpha: &Node, ticket: &str) {
    let ticket = Ticket::from_text(ticket).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    match pressure {
        Pressure::Streams => runtime.block_on(streams(alpha, &ticket)),
        Pressure::Subscriptions => runtime.block_on(subscriptions(alpha, &ticket)),
        Pressure::Gossip => runtime.block_on(gossip_flood(alpha, &ticket)),
        Pressure::Handshakes => half_open(alpha.tcp_socket(), 10_000, b"\x13/multistream/1.0.0\n\x07/noise"),
        Pressure::SlowClients => half_open(alpha.api(), 10_000, b"GET /v1/status HTTP/1.1\r\nhost: local"),
    }
}

async fn member(alpha: &Node, ticket: &Ticket, protocol: &str, transport: &str) -> Attacker {
    let mut member = Attacker::new(&[protocol]);
    member.connect(&alpha.address(transport)).await.unwrap();
    member.join(ticket).await.unwrap();
    member
}

/// Requests of the largest size, in every stage at which a peer can stop.
async fn streams(alpha: &Node, ticket: &Ticket) {
    let call = CallMessage::Call(CallRequest::new(
        "echo",
        "default",
        vec![7; DIRECT_BODY_BYTES_MAX - 100],
    ));
    let request = DirectRequest {
        hello: Hello::new("request_response", Verb::Call, "echo"),
        payload: call.to_bytes(),
    };
    let whole = frame::encode(&request.to_bytes());
    let cut = whole[..whole.len() - 1].to_vec();
    let lane: Vec<u8> = (0..8)
        .flat_map(|id| {
            let body = request.to_bytes();
            frame::encode(&LaneFrame { id, body }.to_bytes())
        })
        .collect();
    let greeting = frame::encode(&Hello::new("request_response", Verb::Call, "echo").to_bytes());
    let calls = "/weft/request_response/1";
    let kinds = [
        (DIRECT_PROTOCOL, cut.clone()),
        (DIRECT_PROTOCOL, whole.clone()),
        (LANE_PROTOCOL, lane),
        (calls, [greeting, vec![7; 200_000]].concat()),
    ];
    let mut members = Vec::new();
    for (index, (protocol, bytes)) in kinds.iter().cycle().take(8).enumerate() {
        let transport = if index < 4 { "/tcp/" } else { "/quic-v1" };
        let mut member = member(alpha, ticket, protocol, transport).await;
        for _ in 0..500 {
            member.send(Say::AndHold(bytes.clone()));
        }
        members.push(member);
    }
    let driven = members
        .iter_mut()
        .map(|member| member.drive(tokio::time::sleep(PRESSURE_TIME)));
    futures::future::join_all(driven).await;
}

async fn subscriptions(alpha: &Node, ticket: &Ticket) {
    let mut member = member(alpha, ticket, "/meshsub/1.1.0", "/tcp/").await;
    let mut bytes = Vec::new();
    for batch in 0..500 {
        let mut rpc = Vec::new();
        for topic in 0..200 {
            let mut subscription = vec![1 << 3, 1];
            field(&mut subscription, 2, format!("topic-{batch}-{topic}").as_bytes());
            field(&mut rpc, 1, &subscription);
        }
        bytes.extend(frame::encode(&rpc));
    }
    member.send(Say::AndHold(bytes));
    let sockets = local_subscriptions(alpha);
    member
        .drive(async {
            let sockets = sockets.await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(sockets);
        })
        .await;
}

/// 200 WebSockets that ask for 500 subscriptions each.
async fn local_subscriptions(alpha: &Node) -> Vec<tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>> {
    let mut sockets = Vec::new();
    let (mut given, mut refused) = (0, 0);
    for socket in 0..200 {
        let mut request = format!("ws://{}/v1/socket", alpha.api()).into_client_request().unwrap();
        let bearer = format!("Bearer {}", alpha.token());
        request.headers_mut().insert("authorization", bearer.parse().unwrap());
        let tcp = tokio::net::TcpStream::connect(alpha.api()).await.unwrap();
        let (mut opened, _) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
        for subscription in 0..500 {
            let op = format!(r#"{{"op":"subscribe","subject":"s{socket}.t{subscription}.>"}}"#);
            opened.feed(tungstenite::Message::Text(op.into())).await.unwrap();
        }
        opened.flush().await.unwrap();
        let mut answers = 0;
        while answers < 500 {
            if let Some(Ok(tungstenite::Message::Text(text))) = opened.next().await {
                answers += 1;
                match text.contains("subscribed") {
                    true => given += 1,
                    false => refused += 1,
                }
            }
        }
        sockets.push(opened);
    }
    assert!(given > 10_000 && refused > 10_000, "{given} given, {refused} refused");
    sockets
}

async fn gossip_flood(alpha: &Node, ticket: &Ticket) {
    // An application that subscribes and never reads.
    let mut deaf = TcpStream::connect(alpha.api()).unwrap();
    deaf.write_all(&alpha.request("GET", "/v1/messages?subject=flood.%3E").head(alpha.api()))
        .unwrap();
    let subject: Subject = "flood.all".parse().unwrap();
    let topic = topic(&ticket.mesh, subject.shard(SHARDS));
    let data = vec![7; PUBLISH_BODY_BYTES_MAX];
    let mut members = Vec::new();
    for transport in ["/tcp/", "/quic-v1"] {
        let member = member(alpha, ticket, "/meshsub/1.1.0", transport).await;
        let wave: Vec<u8> = (1..=100)
            .flat_map(|seq| {
                let frame = Frame {
                    epoch: 1,
                    shard: subject.shard(SHARDS),
                    first_seq: seq,
                    before_ms: 0,
                    runs: vec![Run {
                        attributes: Cow::Owned(Attributes::new(subject.clone())),
                        data: vec![&data],
                    }],
                };
                gossip(member.key(), seq, &topic, &frame.to_bytes())
            })
            .collect();
        members.push((member, wave));
    }
    let floods = members.iter_mut().map(async |(member, wave)| {
        let until = Instant::now() + PRESSURE_TIME;
        while Instant::now() < until {
            let id = member.send(Say::Bytes(wave.clone()));
            let _ = tokio::time::timeout_at(until.into(), member.answer(id)).await;
        }
    });
    futures::future::join_all(floods).await;
    drop(deaf);
}

/// So many connections, each of which says the same and then holds for some time.
fn half_open(to: SocketAddr, count: usize, say: &[u8]) {
    let began = Instant::now();
    let open = || {
        until_within(
            OPENING_TIME_MAX.saturating_sub(began.elapsed()),
            "a connection is made",
            || {
                // The queue of the listener may be full for a moment.
                let socket = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
                let _ = (&socket).write_all(say);
                Some(socket)
            },
        )
    };
    let held: Vec<TcpStream> = thread::scope(|scope| {
        let part = || (0..count / OPENERS).map(|_| open()).collect::<Vec<_>>();
        let openers: Vec<_> = (0..OPENERS).map(|_| scope.spawn(part)).collect();
        openers.into_iter().flat_map(|opener| opener.join().unwrap()).collect()
    });
    assert_eq!(held.len(), count);
    // Byte by byte, as long as a test lasts.
    let began = Instant::now();
    while began.elapsed() < PRESSURE_TIME {
        held.iter().for_each(|socket| drop((&mut &*socket).write(b"x")));
        thread::sleep(Duration::from_secs(1));
    }
}

/// Ten thousand connections need as many descriptors.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
