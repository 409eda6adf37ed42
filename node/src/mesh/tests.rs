mod lanes;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{AsyncWriteExt as _, StreamExt as _, future::join_all};
use libp2p::{
    PeerId, StreamProtocol, Swarm, request_response,
    swarm::{self, SwarmEvent, dial_opts::DialOpts},
};
use weft_protocol::{Hello, HelloReply, Refusal, Verb, direct::DirectReply};

use super::{Answers, InboundRequest, MeshError, frames, streams};
use crate::{
    context::{Context, greeting},
    error::NodeError,
    node::{Node, NodeOptions},
    pattern::Pattern,
    testing::{PATIENCE, TestPlatform, address, eventually, key, member, mesh_config, peers, start},
    trust::{FoundOptions, IssueOptions, MeshKind},
};

/// A pattern that echoes one frame on every stream and every request, and counts them.
struct Echo {
    seen: Arc<AtomicUsize>,
    /// Streams are held open until the test is over.
    hold: bool,
}

impl Pattern for Echo {
    const ID: &'static str = "echo";
    type Handle = super::Mesh;

    async fn start(self, mut context: Context) -> Result<Self::Handle, NodeError> {
        let tasks = context.tasks.child();
        let held = Arc::new(Mutex::new(Vec::new()));
        let mesh = context.mesh.clone();
        context.doors.requests.open(EchoRequests(Arc::clone(&self.seen)));
        context.tasks.spawn("echo", async move {
            while let Some(mut inbound) = context.doors.streams.recv().await {
                self.seen.fetch_add(1, Ordering::SeqCst);
                let (hold, held) = (self.hold, Arc::clone(&held));
                tasks.spawn("echo-one", async move {
                    if let Ok(Some(bytes)) = frames::read_bytes(&mut inbound.stream, 1 << 20).await {
                        let _ = frames::write_bytes(&mut inbound.stream, &bytes).await;
                    }
                    if hold {
                        held.lock().unwrap().push(inbound);
                    }
                });
            }
        });
        Ok(mesh)
    }
}

struct EchoRequests(Arc<AtomicUsize>);

/// Over this request the echo panics.
const BREAKS_DOWN: &[u8] = b"break down";

impl Answers for EchoRequests {
    async fn answer(&self, request: InboundRequest) -> DirectReply {
        self.0.fetch_add(1, Ordering::SeqCst);
        assert_ne!(request.payload, BREAKS_DOWN, "as a pattern with a mistake would");
        DirectReply::answer(request.payload)
    }
}

async fn node(
    seed: u8,
    bootstrap: Vec<weft_protocol::Multiaddr>,
    found: bool,
    transport: &str,
) -> (Node, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let echo = Echo {
        seen: Arc::clone(&seen),
        hold: true,
    };
    let config = mesh_config(&format!("n{seed}"), bootstrap, transport);
    let node = start(
        Node::builder().pattern(echo),
        seed,
        config,
        found.then_some(MeshKind::Open),
    )
    .await;
    (node, seen)
}

async fn pair(transport: &str) -> (Node, Node, Arc<AtomicUsize>) {
    let (a, seen) = node(1, Vec::new(), true, transport).await;
    let (b, _) = node(2, vec![address(&a)], false, transport).await;
    member(&b).await;
    peers(&a, 1).await;
    peers(&b, 1).await;
    (a, b, seen)
}

fn hello(from: &Node) -> Hello {
    greeting("echo", from.trust(), Verb::Call, &"echo".parse().unwrap())
}

async fn echo_once(from: &Node, to: PeerId, n: usize) -> Result<streams::MeshStream, String> {
    let mut stream = from.mesh().open(to, &hello(from)).await.map_err(|e| e.to_string())?;
    frames::write_bytes(&mut stream, &n.to_be_bytes())
        .await
        .map_err(|e| e.to_string())?;
    match frames::read_bytes(&mut stream, 64).await {
        Ok(Some(bytes)) if bytes == n.to_be_bytes() => Ok(stream),
        other => Err(format!("{other:?}")),
    }
}

async fn burst(transport: &str) {
    let (a, b, seen) = pair(transport).await;
    let target = a.mesh().local_peer();
    // All of them open at the same time, none closed before the last has been answered.
    let all = join_all((0..256).map(|n| echo_once(&b, target, n))).await;
    let failed: Vec<&String> = all.iter().filter_map(|r| r.as_ref().err()).collect();
    assert!(
        failed.is_empty(),
        "{} of 256 failed: {:?}",
        failed.len(),
        failed.first()
    );
    assert_eq!(seen.load(Ordering::SeqCst), 256);
    drop(all);
    assert!(b.stop().await);
    assert!(a.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_256_streams_at_once_to_one_peer_all_arrive_on_tcp() {
    burst("tcp").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_256_streams_at_once_to_one_peer_all_arrive_on_quic() {
    burst("quic").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_32_opens_at_once_to_unconnected_peers_all_arrive() {
    let (a, _) = node(1, Vec::new(), true, "tcp").await;
    let mesh = a.trust().mesh().unwrap();
    let mut others = Vec::new();
    for seed in 10..42 {
        // Each has its membership already and knows nobody.
        let (other, _) = node(seed, Vec::new(), false, "tcp").await;
        other
            .trust()
            .enter(mesh.clone(), weft_protocol::Chain::default())
            .await
            .unwrap();
        others.push(other);
    }
    a.mesh().add_bootstrap(Vec::new()).await.unwrap();
    for other in &others {
        // Known, not connected: what a record tells.
        a.mesh()
            .hint(other.mesh().local_peer(), vec![address(other)])
            .await
            .unwrap();
    }
    let all = join_all(
        others
            .iter()
            .enumerate()
            .map(|(n, o)| echo_once(&a, o.mesh().local_peer(), n)),
    )
    .await;
    let failed: Vec<&String> = all.iter().filter_map(|r| r.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of 32 failed: {failed:?}", failed.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_peer_is_an_answer_not_a_wait() {
    let (a, _) = node(1, Vec::new(), true, "tcp").await;
    let nobody = key(99).public().peer_id();
    let error = a.mesh().open(nobody, &hello(&a)).await.unwrap_err();
    assert!(
        matches!(error, MeshError::Open(streams::OpenError::Unreachable { .. })),
        "{error}"
    );
    a.mesh()
        .hint(nobody, vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()])
        .await
        .unwrap();
    let error = a.mesh().open(nobody, &hello(&a)).await.unwrap_err();
    assert!(
        matches!(error, MeshError::Open(streams::OpenError::Unreachable { .. })),
        "{error}"
    );
    let error = a
        .mesh()
        .request(nobody, hello(&a), vec![1], PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, MeshError::Open(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_are_all_answered() {
    let (a, b, seen) = pair("tcp").await;
    let to = a.mesh().local_peer();
    let ask = |n: usize| b.mesh().request(to, hello(&b), n.to_be_bytes().to_vec(), PATIENCE);
    let all: Vec<Result<Vec<u8>, MeshError>> = futures::stream::iter(0..2000)
        .map(ask)
        .buffer_unordered(200)
        .collect()
        .await;
    let failed: Vec<&MeshError> = all.iter().filter_map(|r| r.as_ref().err()).collect();
    assert!(
        failed.is_empty(),
        "{} of 2000 failed: {:?}",
        failed.len(),
        failed.first()
    );
    assert_eq!(seen.load(Ordering::SeqCst), 2000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_door_keeper_refuses_with_a_reason() {
    let (a, b, seen) = pair("tcp").await;
    let to = a.mesh().local_peer();
    let refusal = async |hello: Hello| match b.mesh().open(to, &hello).await {
        Err(MeshError::Refused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    // A right nobody has given: members of one role may not administer each other.
    let admin = greeting("echo", b.trust(), Verb::Admin, &"echo".parse().unwrap());
    assert_eq!(refusal(admin).await, Refusal::Denied);
    let unknown = Hello::new("nothing", Verb::Call, "x");
    let error = b.mesh().open(to, &unknown).await.unwrap_err();
    assert!(
        matches!(error, MeshError::Open(streams::OpenError::Unsupported { .. })),
        "{error}"
    );
    let error = b.mesh().request(to, unknown, vec![], PATIENCE).await.unwrap_err();
    assert!(
        matches!(
            error,
            MeshError::Refused {
                reason: Refusal::Unknown,
                ..
            }
        ),
        "{error}"
    );
    // Bytes that are no greeting at all, cut off, or too long.
    for (bad, expected) in [
        (vec![3, 0xff, 0xff, 0xff], Refusal::Malformed),
        (vec![0xff; 10], Refusal::Malformed),
        (vec![0x80, 0x80, 0x04], Refusal::Malformed),
        (vec![2, 0x82, 0x18], Refusal::Malformed),
    ] {
        let mut raw = b
            .mesh()
            .open_raw(to, StreamProtocol::new("/weft/echo/1"))
            .await
            .unwrap();
        raw.write_all(&bad).await.unwrap();
        raw.flush().await.unwrap();
        match frames::expect::<HelloReply>(&mut raw).await {
            Ok(HelloReply::Refused { reason, .. }) => assert_eq!(reason, expected, "{bad:?}"),
            other => panic!("{bad:?}: {other:?}"),
        }
    }
    // Silence costs only the deadline.
    let mut silent = b
        .mesh()
        .open_raw(to, StreamProtocol::new("/weft/echo/1"))
        .await
        .unwrap();
    match frames::expect::<HelloReply>(&mut silent).await {
        Ok(HelloReply::Refused { reason, .. }) => assert_eq!(reason, Refusal::Deadline),
        other => panic!("{other:?}"),
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0);
    assert!(echo_once(&b, to, 1).await.is_ok(), "the node lives on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_membership_is_not_proven_meets_nothing_but_admission() {
    for transport in ["tcp", "quic"] {
        let config = mesh_config("private", Vec::new(), transport);
        let echo = Echo {
            seen: Arc::default(),
            hold: false,
        };
        let a = start(Node::builder().pattern(echo), 1, config, Some(MeshKind::Private)).await;
        let protocols = protocols_offered_to_a_stranger(&address(&a)).await;
        assert!(!protocols.is_empty());
        for protocol in &protocols {
            let allowed = [
                "/ipfs/id/1.0.0",
                "/ipfs/id/push/1.0.0",
                "/ipfs/ping/1.0.0",
                "/weft/admission/1",
            ];
            assert!(
                allowed.contains(&protocol.as_ref()),
                "{transport}: {protocol} is offered to a stranger"
            );
        }
        assert!(a.mesh().peers().is_empty());
        a.stop().await;
    }
}

/// Connects as a stranger, asks identify what is offered, and tries what is behind the gate.
async fn protocols_offered_to_a_stranger(address: &weft_protocol::Multiaddr) -> Vec<StreamProtocol> {
    let key = libp2p::identity::Keypair::generate_ed25519();
    let limits = crate::platform::NetworkLimits {
        handshake_timeout: PATIENCE,
        muxer_streams_max: 64,
    };
    let network = crate::platform::Platform::network(&crate::platform::RealPlatform, &key, &limits).unwrap();
    #[derive(swarm::NetworkBehaviour)]
    struct Stranger {
        identify: libp2p::identify::Behaviour,
        direct: request_response::Behaviour<super::behaviour::DirectCodec>,
    }
    let direct = [(
        StreamProtocol::new("/weft/direct/1"),
        request_response::ProtocolSupport::Full,
    )];
    let behaviour = Stranger {
        identify: libp2p::identify::Behaviour::new(libp2p::identify::Config::new("/x".into(), key.public())),
        direct: request_response::Behaviour::with_codec(
            super::behaviour::DirectCodec::default(),
            direct,
            Default::default(),
        ),
    };
    let config = swarm::Config::with_tokio_executor();
    let mut swarm = Swarm::new(network.transport, behaviour, key.public().to_peer_id(), config);
    swarm
        .dial(DialOpts::unknown_peer_id().address(address.clone()).build())
        .unwrap();
    let (mut offered, mut refused) = (None, false);
    let look = async {
        while offered.is_none() || !refused {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                    swarm.behaviour_mut().direct.send_request(&peer_id, vec![1, 2, 3]);
                }
                SwarmEvent::Behaviour(StrangerEvent::Identify(libp2p::identify::Event::Received { info, .. })) => {
                    assert!(info.listen_addrs.is_empty(), "addresses are for members");
                    offered = Some(info.protocols);
                }
                SwarmEvent::Behaviour(StrangerEvent::Direct(request_response::Event::OutboundFailure {
                    error,
                    ..
                })) => {
                    assert!(
                        matches!(error, request_response::OutboundFailure::UnsupportedProtocols),
                        "{error}"
                    );
                    refused = true;
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap();
    offered.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_mesh_lets_in_whom_somebody_approved() {
    let config = mesh_config("a", Vec::new(), "tcp");
    let a = start(
        Node::builder().pattern(Echo {
            seen: Arc::default(),
            hold: false,
        }),
        1,
        config,
        Some(MeshKind::Private),
    )
    .await;
    let (b, _) = node(2, vec![address(&a)], false, "tcp").await;
    let peer = b.mesh().local_peer();
    eventually("b waits at a", || a.trust().pending().iter().any(|p| p.peer == peer)).await;
    assert!(b.trust().mesh().is_none() && a.mesh().peers().is_empty());
    a.trust().approve(&peer, &IssueOptions::default()).unwrap();
    member(&b).await;
    peers(&a, 1).await;
    assert!(echo_once(&b, a.mesh().local_peer(), 1).await.is_ok());
    // Revoked, it is cut and cannot come back.
    a.trust().revoke(&peer, "test").await.unwrap();
    eventually("b is cut", || !a.mesh().peers().contains(&peer)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!a.mesh().peers().contains(&peer), "b came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_whose_clock_is_late_says_why_it_is_outside_and_joins_once_it_is_right() {
    let late_by = Duration::from_secs(300);
    let (ahead, late) = (TestPlatform::going_on(), TestPlatform::going_on());
    ahead.clock.advance(late_by);
    let options = NodeOptions::new(key(1), "/store", mesh_config("a", Vec::new(), "tcp"));
    let a = Node::builder().start(ahead, options).await.unwrap();
    let (kind, name) = (MeshKind::Private, "a".to_owned());
    a.trust().found(&key(99), FoundOptions { kind, name }).await.unwrap();
    eventually("a listens", || a.mesh().state().listening).await;
    let options = NodeOptions::new(key(2), "/store", mesh_config("b", vec![address(&a)], "tcp"));
    let b = Node::builder().start(late.clone(), options).await.unwrap();
    let peer = b.mesh().local_peer();
    eventually("b waits at a", || a.trust().pending().iter().any(|p| p.peer == peer)).await;
    a.trust().approve(&peer, &IssueOptions::default()).unwrap();
    let says_why = || b.mesh().state().refusal.is_some_and(|why| why.contains("clock"));
    eventually("b says why it cannot come in", says_why).await;
    assert!(b.trust().mesh().is_none());
    late.clock.advance(late_by);
    member(&b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_carries_a_mesh_too() {
    let (a, b, _) = pair("ws").await;
    assert!(echo_once(&b, a.mesh().local_peer(), 1).await.is_ok());
    let probe = b.mesh().ping(a.mesh().local_peer(), PATIENCE).await.unwrap();
    assert!(probe.rtt > Duration::ZERO && probe.clock_skew_ms.abs() < 10_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_provides_another_finds() {
    let (a, b, _) = pair("tcp").await;
    let found = async {
        loop {
            let _ = a.mesh().provide(b"thing".to_vec()).await;
            if b.mesh()
                .providers(b"thing".to_vec())
                .await
                .unwrap()
                .contains(&a.mesh().local_peer())
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap();
}

#[tokio::test]
async fn garbage_on_the_port_is_survived() {
    let (a, _) = node(1, Vec::new(), true, "tcp").await;
    let listen = a.mesh().state().listen[0].clone();
    let port = listen.iter().find_map(|p| match p {
        libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0xff; 64],
        &[0; 1],
        b"\x13/multistream/1.0.0\n\xff\xff\xff\xff\x0f",
    ] {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port.unwrap()))
            .await
            .unwrap();
        socket.write_all(garbage).await.unwrap();
        let mut sink = Vec::new();
        // It answers, resets or times out; it does not hang for ever and does not die.
        let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut sink))
            .await
            .unwrap();
    }
    let (b, _) = node(2, vec![address(&a)], false, "tcp").await;
    peers(&b, 1).await;
}

#[test]
fn the_muxer_has_room_for_both_sides() {
    const { assert!(streams::OUTBOUND_MAX * 2 < streams::MUXER_STREAMS_MAX) };
    const { assert!(streams::NEGOTIATING_MAX < 128) };
}
