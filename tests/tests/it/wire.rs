//! Attackers on the wire: strangers before admission, and members who misbehave.

use std::{
    borrow::Cow,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use libp2p::request_response::OutboundFailure;
use weft_protocol::{
    Hello, MeshId, Redemption, Refusal, Subject, Ticket, Verb, Wire as _,
    admission::{AdmissionRefusal, AdmissionReply, AdmissionRequest},
    codec::frame,
    direct::{DirectReply, DirectRequest},
    patterns::pub_sub::{Attributes, Frame, Run, SHARDS, topic},
};
use weft_tests::{
    Mesh, Node,
    attacker::{Attacker, Say, frames, fresh_key, gossip},
    until,
};

const DIRECT: &str = "/weft/direct/1";
const CALLS: &str = "/weft/request_response/1";
const TRANSPORTS: [&str; 2] = ["/tcp/", "/quic-v1"];
/// What the node is told it may use, and what it may use besides: code, stacks, the store.
const MEMORY_BUDGET: &str = "128MiB";
const RSS_BYTES_MAX: u64 = (128 + 64) << 20;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn mesh_id(node: &Node) -> MeshId {
    node.status()["mesh_id"].as_str().unwrap().parse().unwrap()
}

/// The node is alive and does its work.
#[track_caller]
fn assert_well(node: &mut Node) {
    assert!(node.is_alive());
    assert!(!node.log().contains("panicked"), "{}", node.log());
    node.run(&["services"]).ok();
}

#[test]
fn garbage_on_the_port_for_peers_is_cut() {
    let mut node = Node::founder("alpha");
    let http = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let says: [&[u8]; 6] = [
        b"",
        http,
        &[0; 5000],
        &[0xff; 100_000],
        b"\x13/multistream/1.0.0\n",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ];
    for say in says {
        let mut socket = TcpStream::connect(node.tcp_socket()).unwrap();
        let _ = socket.write_all(say);
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut answer = Vec::new();
        let ended = socket.read_to_end(&mut answer);
        let timed_out =
            ended.is_err_and(|e| matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
        assert!(!timed_out, "{:?}… is never cut", &say[..say.len().min(20)]);
    }
    // Many who say nothing do not keep an honest one out.
    let silent: Vec<_> = (0..300)
        .filter_map(|_| TcpStream::connect(node.tcp_socket()).ok())
        .collect();
    let beta = Node::joined("beta", &node.ticket(1));
    node.wait_sees(beta.id());
    drop(silent);
    assert_well(&mut node);
}

#[test]
fn a_stranger_may_speak_nothing_but_admission() {
    let mut node = Node::founder("alpha");
    let kad = format!("/weft/{}/kad/1", mesh_id(&node).short());
    let protocols = [
        DIRECT,
        CALLS,
        "/weft/pub_sub/1",
        "/weft/control/1",
        &kad,
        "/meshsub/1.1.0",
        "/meshsub/1.2.0",
        "/floodsub/1.0.0",
        "/libp2p/circuit/relay/0.2.0/hop",
        "/libp2p/circuit/relay/0.2.0/stop",
        "/libp2p/dcutr",
        "/libp2p/autonat/2/dial-request",
        "/ipfs/kad/1.0.0",
    ];
    for transport in TRANSPORTS {
        runtime().block_on(async {
            for protocol in protocols {
                let mut stranger = Attacker::new(&[protocol]);
                stranger.connect(&node.address(transport)).await.unwrap();
                let refused = stranger.say(Say::Bytes(frame::encode(b"hello"))).await;
                assert!(
                    matches!(refused, Err(OutboundFailure::UnsupportedProtocols)),
                    "{protocol} on {transport}: {refused:?}"
                );
            }
        });
    }
    assert!(node.peers().is_empty());
    assert_well(&mut node);
}

#[test]
fn one_who_connects_and_says_nothing_is_cut() {
    let mut node = Node::founder("alpha");
    runtime().block_on(async {
        let mut silent = [Attacker::new(&[DIRECT]), Attacker::new(&[DIRECT])];
        for (attacker, transport) in silent.iter_mut().zip(TRANSPORTS) {
            attacker.connect(&node.address(transport)).await.unwrap();
        }
        let [tcp, quic] = &mut silent;
        let (tcp, quic) = tokio::join!(tcp.wait_cut(), quic.wait_cut());
        assert!(tcp && quic, "tcp {tcp}, quic {quic}");
    });
    assert_well(&mut node);
}

#[test]
fn malformed_admissions_are_refused() {
    let mut node = Node::founder("alpha");
    let ticket = Ticket::from_text(&node.ticket(1)).unwrap();
    let ask = AdmissionRequest::Ask {
        mesh: None,
        name: "m".into(),
        agent: "m/1".into(),
    }
    .to_bytes();
    runtime().block_on(async {
        let mut attacker = Attacker::new(&[DIRECT]);
        let address = node.address("/tcp/");
        let mut says: Vec<Vec<u8>> = vec![
            Vec::new(),
            frame::encode(b""),
            frame::encode(&[0xff; 100]),
            frame::encode(&[0x9f; 60_000]),
            vec![0xff; 20],
            frame::encode(&vec![0; 65 * 1024]),
            // Announces more than it sends.
            frame::encode(&ask)[..ask.len() / 2].to_vec(),
            vec![0xff, 0xff, 0xff, 0xff, 0x0f],
        ];
        for index in 0..ask.len() {
            let mut flipped = ask.clone();
            flipped[index] ^= 0x80;
            says.push(frame::encode(&flipped));
        }
        for say in says {
            attacker.connect(&address).await.unwrap();
            let shown = format!("{:?}", &say[..say.len().min(24)]);
            // Neither of them opens anything; what decodes after all may wait for approval.
            let held = say.len() == ask.len() + 1;
            let answer = if held {
                tokio::time::timeout(Duration::from_millis(200), attacker.say_admission(Say::Bytes(say)))
                    .await
                    .unwrap_or(Ok(Vec::new()))
            } else {
                attacker.say_admission(Say::Bytes(say)).await
            };
            for body in frames(&answer.unwrap_or_default()) {
                let reply = AdmissionReply::from_bytes(&body).unwrap();
                let harmless = matches!(reply, AdmissionReply::Refused { .. } | AdmissionReply::Pending { .. });
                assert!(harmless, "{shown}: {reply:?}");
            }
        }
        let wrong = |mesh, secret| {
            let mut wrong = ticket.clone();
            (wrong.mesh, wrong.secret) = (mesh, secret);
            let somebody = ticket.issuer;
            AdmissionRequest::Redeem(Redemption::new(&wrong, &somebody, "m", "m/1", [0; 16]))
        };
        let other = MeshId::from_bytes([9; 32]);
        let cases = [
            (
                wrong(ticket.mesh, weft_protocol::TicketSecret::from_bytes([1; 16])),
                AdmissionRefusal::BadTicket,
            ),
            (wrong(other, ticket.secret.clone()), AdmissionRefusal::WrongMesh),
            // A redemption that somebody else has made.
            (wrong(ticket.mesh, ticket.secret.clone()), AdmissionRefusal::BadTicket),
            (
                AdmissionRequest::Ask {
                    mesh: Some(other),
                    name: "m".into(),
                    agent: "m/1".into(),
                },
                AdmissionRefusal::WrongMesh,
            ),
        ];
        for (request, expected) in cases {
            let mut attacker = Attacker::new(&[DIRECT]);
            attacker.connect(&address).await.unwrap();
            let replies = attacker.request_admission(&request).await.unwrap();
            assert!(
                matches!(&replies[..], [AdmissionReply::Refused { reason, .. }] if *reason == expected),
                "{replies:?}"
            );
        }
        // A certificate of somebody else, shown by a thief who lacks its key.
        let mut owner = Attacker::new(&[DIRECT]);
        owner.connect(&address).await.unwrap();
        let chain = owner.join(&ticket).await.unwrap();
        let prove = |chain| AdmissionRequest::Prove {
            mesh: ticket.mesh,
            chain,
            name: "m".into(),
            agent: "m/1".into(),
            test_only: false,
            run: None,
        };
        let mut thief = Attacker::new(&[DIRECT]);
        thief.connect(&address).await.unwrap();
        let replies = thief.request_admission(&prove(chain.clone())).await.unwrap();
        assert!(
            matches!(
                &replies[..],
                [AdmissionReply::Refused {
                    reason: AdmissionRefusal::NotMember,
                    ..
                }]
            ),
            "{replies:?}"
        );
        // The owner's own certificate, with bytes flipped one after the other.
        let honest = prove(chain).to_bytes();
        for index in (40..honest.len()).step_by(7) {
            let mut flipped = honest.clone();
            flipped[index] ^= 0x01;
            let mut forger = Attacker::new(&[DIRECT]);
            forger.connect(&address).await.unwrap();
            let answer = forger
                .say_admission(Say::Bytes(frame::encode(&flipped)))
                .await
                .unwrap_or_default();
            for body in frames(&answer) {
                let reply = AdmissionReply::from_bytes(&body).unwrap();
                assert!(
                    matches!(reply, AdmissionReply::Refused { .. }),
                    "byte {index}: {reply:?}"
                );
            }
        }
    });
    assert_well(&mut node);
}

/// A call to nobody, as bytes of the direct protocol.
fn call_bytes(hello: &Hello) -> Vec<u8> {
    frame::encode(
        &DirectRequest {
            hello: hello.clone(),
            payload: b"x".to_vec(),
        }
        .to_bytes(),
    )
}

#[test]
fn members_who_send_nonsense_are_refused_with_a_reason() {
    let mut node = Node::founder("alpha");
    let ticket = Ticket::from_text(&node.ticket(1)).unwrap();
    runtime().block_on(async {
        let mut member = Attacker::new(&[DIRECT]);
        member.connect(&node.address("/quic-v1")).await.unwrap();
        member.join(&ticket).await.unwrap();
        let good = Hello::new("request_response", Verb::Call, "echo");
        let mut late = good.clone();
        late.deadline_ms = Some(0);
        let mut future = good.clone();
        future.version = 99;
        let cases = [
            (
                call_bytes(&Hello::new("no_such_pattern", Verb::Call, "echo")),
                Refusal::Unknown,
            ),
            (call_bytes(&future), Refusal::Version),
            (frame::encode(b"nonsense"), Refusal::Malformed),
            (frame::encode(&[0x9f; 5000]), Refusal::Malformed),
            (frame::encode(&[]), Refusal::Malformed),
            (
                call_bytes(&Hello::new("request_response", Verb::Admin, "echo")),
                Refusal::Denied,
            ),
        ];
        for (bytes, expected) in cases {
            let answer = member.say(Say::Bytes(bytes)).await.unwrap();
            let replies = frames(&answer);
            let reply = DirectReply::from_bytes(
                replies
                    .first()
                    .unwrap_or_else(|| panic!("no reply instead of {expected:?}")),
            )
            .unwrap();
            assert!(
                matches!(&reply, DirectReply::Refused { reason, detail } if *reason == expected && !detail.is_empty()),
                "{reply:?}"
            );
        }
        // What is too large or too short is cut without an answer, and each byte flipped does no harm.
        let bytes = call_bytes(&good);
        for bad in [
            vec![0xff; 10],
            frame::encode(&vec![0; 3 << 20]),
            bytes[..bytes.len() / 2].to_vec(),
        ] {
            let answer = member.say(Say::Bytes(bad)).await.unwrap_or_default();
            assert!(
                frames(&answer)
                    .iter()
                    .all(|b| matches!(DirectReply::from_bytes(b), Ok(DirectReply::Refused { .. })))
            );
        }
        for index in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[index] ^= 0x40;
            let _ = member.say(Say::Bytes(flipped)).await;
        }
        let _ = member.say(Say::Bytes(call_bytes(&late))).await;
    });
    assert_well(&mut node);
}

#[test]
fn a_member_who_floods_streams_harms_only_itself() {
    let mut mesh = Mesh::of(2);
    let ticket = Ticket::from_text(&mesh[0].ticket(1)).unwrap();
    let _echo = mesh[0].serve("echo", &["--echo"]);
    until("known", || {
        (!mesh[1].get("/v1/services").as_array()?.is_empty()).then_some(())
    });
    let before = mesh[0].rss_bytes();
    runtime().block_on(async {
        let hello = frame::encode(&Hello::new("request_response", Verb::Call, "echo").to_bytes());
        for transport in TRANSPORTS {
            let mut member = Attacker::new(&[CALLS]);
            member.connect(&mesh[0].address(transport)).await.unwrap();
            if transport == TRANSPORTS[0] {
                member.join(&ticket).await.unwrap();
            }
            // Greetings that never end, whole ones that nothing follows, and large ones.
            for index in 0..2000 {
                member.send(match index % 3 {
                    0 => Say::AndHold(hello[..hello.len() / 2].to_vec()),
                    1 => Say::AndHold(hello.clone()),
                    _ => Say::AndHold(frame::encode(&vec![0; 1 << 20])),
                });
            }
            // Meanwhile an honest member is served.
            let honest = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let called = tokio::task::block_in_place(|| {
                        mesh[1].run(&["call", "echo", "still here", "--timeout", "20s"])
                    });
                    if called.code == Some(0) {
                        return called.ok();
                    }
                }
            };
            let answered = tokio::time::timeout(Duration::from_secs(60), member.drive(honest)).await;
            assert_eq!(answered.expect("an answer in time"), "still here");
        }
    });
    let grown = mesh[0].rss_bytes().saturating_sub(before);
    assert!(grown < RSS_BYTES_MAX, "memory grew by {grown} bytes");
    assert_well(&mut mesh[0]);
}

#[test]
fn a_flood_of_gossip_keeps_memory_within_its_bound() {
    let alpha = Node::new("alpha").arg("--memory-budget").arg(MEMORY_BUDGET).started();
    let ticket = alpha.ticket(2);
    let beta = Node::joined("beta", &ticket);
    let mut mesh = Mesh(vec![alpha, beta]);
    mesh.wait_complete();
    let ticket = Ticket::from_text(&ticket).unwrap();
    // Only the neighbour knows the attacker's certificate: it has published no record.
    let near = mesh[0].subscribe(&["orders.>"]);
    let subscription = mesh[1].subscribe(&["orders.>"]);
    let mut peak = 0;
    runtime().block_on(async {
        let mut member = Attacker::new(&["/meshsub/1.1.0"]);
        member.connect(&mesh[0].address("/tcp/")).await.unwrap();
        member.join(&ticket).await.unwrap();
        let subject: Subject = "orders.flood".parse().unwrap();
        let topic = topic(&ticket.mesh, subject.shard(SHARDS));
        let key = member.key().clone();
        let publication = |seq: u64, size: usize| {
            Frame {
                epoch: 1,
                shard: subject.shard(SHARDS),
                first_seq: seq,
                before_ms: 0,
                runs: vec![Run {
                    attributes: Cow::Owned(Attributes::new(subject.clone())),
                    data: vec![&vec![7; size]],
                }],
            }
            .to_bytes()
        };
        let mut next = 1..;
        let mut next = || next.next().unwrap();
        let large = 256 << 10;
        let waves: Vec<Vec<u8>> = vec![
            // Good messages of a member, as fast as it can.
            (0..400)
                .flat_map(|_| {
                    let n = next();
                    gossip(&key, n, &topic, &publication(n, large))
                })
                .collect(),
            // Signed, but not what the topic carries.
            (0..400)
                .flat_map(|_| gossip(&key, next(), &topic, &vec![0; large]))
                .collect(),
            // Signed by keys that nobody knows.
            (0..400)
                .flat_map(|_| {
                    let n = next();
                    gossip(&fresh_key(n), n, &topic, &publication(n, large))
                })
                .collect(),
            // Small ones, many.
            (0..20_000)
                .flat_map(|_| {
                    let n = next();
                    gossip(&fresh_key(n % 500), n, &topic, b"x")
                })
                .collect(),
            // No gossip at all.
            vec![0xff; 1 << 20],
        ];
        // The way of the attack is open: what it sends properly arrives.
        let first = gossip(&key, 1_000_000, &topic, &publication(1, 10));
        let _ = member.say(Say::Bytes(first)).await;
        tokio::task::block_in_place(|| near.wait_lines(1));
        for (index, wave) in waves.into_iter().enumerate() {
            let id = member.send(Say::Bytes(wave));
            let sampled = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    peak = peak.max(mesh[0].rss_bytes());
                    assert!(peak < RSS_BYTES_MAX, "wave {index}: {} MiB are used", peak >> 20);
                }
            };
            tokio::select! {
                _ = member.answer(id) => {}
                () = tokio::time::sleep(Duration::from_secs(20)) => {}
                () = sampled => {}
            }
            peak = peak.max(mesh[0].rss_bytes());
            assert!(peak < RSS_BYTES_MAX, "wave {index}: {} MiB are used", peak >> 20);
        }
    });
    // Honest messages still arrive.
    until("an honest message arrives", || {
        mesh[0].run(&["pub", "orders.honest", "hello"]).ok();
        subscription
            .lines()
            .iter()
            .any(|l| l.contains("orders.honest"))
            .then_some(())
    });
    assert_well(&mut mesh[0]);
    assert_well(&mut mesh[1]);
}
