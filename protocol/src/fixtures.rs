//! The wire format is pinned: one sample of every message, its bytes in `fixtures/wire.txt`. A change of the wire is a decision.
//!
//! To take one: run the tests with `WEFT_WRITE_FIXTURES=1`, look at the difference, and say in the change log what peers will notice.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::OnceLock;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::admission::{AdmissionRefusal, AdmissionReply, AdmissionRequest};
use crate::control::{ControlReply, ControlRequest, Have, Note};
use crate::direct::{DirectReply, DirectRequest, LaneFrame};
use crate::patterns::blobs::{BlobId, BlobMessage};
use crate::patterns::event_sourcing;
use crate::patterns::nats::{NatsInterest, NatsInterests, NatsItem, NatsItems, NatsReached};
use crate::patterns::presence::{Presence, Presences, Will};
use crate::patterns::pub_sub::{
    Attributes, Frame, Line, Pick, Picks, Run, SHARDS,
    direct::{DirectItem, DirectTaken},
    hop::Hop,
    interest::{Interest, Wanted},
    repair::{Digest, Head, Original, PastFrame, PastPlace, RepairReply, RepairRequest, digest_of},
};
use crate::patterns::request_response::{
    CallMessage, CallRequest, CallResponse, EndpointInfo, EndpointSchema, EndpointStats, InstanceSchemas,
    InstanceStats, Question, QuestionReply, ServiceInfo, ServiceList, StreamFrame, Topic, TurnedAway,
};
use crate::testing::*;
use crate::*;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/wire.txt");

/// One sample, encoded, with the ways to look at it that do not depend on its type.
pub(crate) struct Sample {
    name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// Whether these bytes are read, and to the very same value as the sample.
    read: fn(&[u8], &[u8]) -> Option<bool>,
}

pub(crate) fn sample<T: Wire + PartialEq>(name: &'static str, value: T) -> Sample {
    let read = |bytes: &[u8], original: &[u8]| {
        let value = T::from_bytes(bytes).ok()?;
        Some(T::from_bytes(original).is_ok_and(|original| original == value))
    };
    Sample {
        name,
        bytes: value.to_checked_bytes().unwrap(),
        read,
    }
}

/// One of frames, whose data stay where they were read.
fn frame_sample(name: &'static str, frame: &Frame<'_>) -> Sample {
    let read = |bytes: &[u8], original: &[u8]| {
        let frame = Frame::read(bytes).ok()?;
        Some(Frame::read(original).is_ok_and(|original| original == frame))
    };
    Sample {
        name,
        bytes: frame.to_checked_bytes().unwrap(),
        read,
    }
}

/// A sample of every message and every variant.
pub(crate) fn samples() -> &'static [Sample] {
    static SAMPLES: OnceLock<Vec<Sample>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let mut all = trust_samples();
        all.extend(mesh_samples());
        all.extend(application_samples());
        all.extend(call_samples());
        all.extend(nats_samples());
        all.extend(event_sourcing::tests::samples::samples());
        all
    })
}

fn trust_samples() -> Vec<Sample> {
    let chain = member(3, &["worker"], &["pub,sub:orders.>:1", "call:stock"]);
    let token = crate::capability::tests::token();
    let notice = crate::revocation::tests::notice();
    vec![
        sample("certificate", chain.0[1].peek().unwrap()),
        sample("signed-certificate", chain.0[1].clone()),
        sample("chain", chain),
        sample("chain-empty", Chain::default()),
        sample("capability-key", token.links[0].peek().unwrap()),
        sample("capability-role", token.links[1].peek().unwrap()),
        sample("capability-token", token),
        sample("revocation", notice.notice.peek().unwrap()),
        sample("revocation-notice", notice),
        sample("ticket", crate::ticket::tests::ticket()),
    ]
}

fn mesh_samples() -> Vec<Sample> {
    let chain = member(3, &["worker"], &["pub:orders.>"]);
    let notices = vec![crate::revocation::tests::notice()];
    let record = record(3, chain.clone());
    let records = vec![forge(&record, 3)];
    let (name, agent) = (String::from("node-3"), String::from("weft/0.1.0"));
    let (mesh, root) = (mesh(), public(ROOT));
    let prove = AdmissionRequest::Prove {
        mesh,
        chain: chain.clone(),
        name: name.clone(),
        agent: agent.clone(),
        test_only: false,
        run: Some(7),
    };
    let redemption = Redemption::new(&crate::ticket::tests::ticket(), &public(4), &name, &agent, [6; 16]);
    let redeem = AdmissionRequest::Redeem(redemption.clone());
    let (ours, theirs) = ([7; 32], [8; 32]);
    let ask = ControlRequest::Probe {
        sent_at_ms: NOW_MS,
        members_digest: ours,
        revocations_digest: theirs,
        notes: vec![Note {
            pattern: "pub_sub".to_owned(),
            bytes: vec![1, 2],
        }],
    };
    let reply = ControlReply::Probe {
        clock_ms: NOW_MS,
        members_digest: ours,
        revocations_digest: theirs,
        notes: Vec::new(),
        knows_marks: Some(true),
    };
    vec![
        sample("node-record", record),
        sample("admission-prove", prove),
        sample("admission-redeem", redeem),
        sample(
            "admission-ask",
            AdmissionRequest::Ask {
                mesh: None,
                name,
                agent,
            },
        ),
        sample(
            "admission-admitted",
            AdmissionReply::Admitted {
                mesh,
                root,
                open: false,
                revocations_digest: ours,
            },
        ),
        sample(
            "admission-issued",
            AdmissionReply::Issued {
                mesh,
                root,
                chain: chain.clone(),
                open: true,
            },
        ),
        sample("admission-pending", AdmissionReply::Pending { mesh }),
        sample(
            "admission-revocations",
            AdmissionReply::Revocations {
                notices: notices.clone(),
                more: true,
            },
        ),
        sample(
            "admission-refused",
            AdmissionReply::refused(AdmissionRefusal::UsedTicket, "used by node-4"),
        ),
        sample("control-ask-probe", ask),
        sample("control-pull-revocations", ControlRequest::PullRevocations { after: 9 }),
        sample(
            "control-pull-records",
            ControlRequest::PullRecords {
                have: vec![(public(3), NOW_MS)],
            },
        ),
        sample(
            "control-pull-lacking",
            ControlRequest::PullLacking {
                have: Have::new([7; 16], [(public(3), NOW_MS), (public(4), 5)]),
            },
        ),
        sample(
            "control-push-records",
            ControlRequest::PushRecords {
                records: records.clone(),
            },
        ),
        sample(
            "control-push-revocations",
            ControlRequest::PushRevocations {
                notices: notices.clone(),
            },
        ),
        sample(
            "control-push-capability",
            ControlRequest::PushCapability {
                token: crate::capability::tests::token(),
            },
        ),
        sample(
            "control-push-certificate",
            ControlRequest::PushCertificate { chain: chain.clone() },
        ),
        sample("control-renew", ControlRequest::Renew { chain: chain.clone() }),
        sample(
            "control-redeem",
            ControlRequest::Redeem {
                joiner: public(4),
                redemption,
            },
        ),
        sample("control-burst", ControlRequest::Burst { padding: vec![0; 9] }),
        sample("control-probe", reply),
        sample(
            "control-revocations",
            ControlReply::Revocations { notices, more: false },
        ),
        sample("control-records", ControlReply::Records { records, more: true }),
        sample("control-ok", ControlReply::Ok),
        sample("control-renewed", ControlReply::Renewed { chain }),
        sample(
            "control-refused",
            ControlReply::refused(AdmissionRefusal::NotIssuer, "ask node-2"),
        ),
    ]
}

fn call_samples() -> Vec<Sample> {
    let headers = vec![(String::from("content-type"), String::from("text/plain"))];
    let request = CallRequest {
        headers: headers.clone(),
        ..CallRequest::new("stock", "count", b"apples".to_vec())
    };
    let whole = CallRequest {
        call: Some(7),
        instance: Some(String::from("a1")),
        version: Some(String::from("^1.2")),
        idempotency_key: Some(String::from("order-1")),
        receipt_nonce: Some([9; 16]),
        ..request.clone()
    };
    let question = Question {
        service: String::from("stock"),
        endpoint: String::from("count"),
        instance: None,
        topic: Topic::Stats,
    };
    let stats = InstanceStats {
        id: String::from("a1"),
        started_at_ms: NOW_MS,
        in_flight: 1,
        concurrency: 16,
        endpoints: vec![EndpointStats {
            name: String::from("count"),
            requests: 3,
            errors: 1,
            last_error: Some(String::from("no apples")),
            ..EndpointStats::default()
        }],
    };
    let schemas = InstanceSchemas {
        id: String::from("a1"),
        endpoints: vec![EndpointSchema {
            name: String::from("count"),
            schema: String::from("{}"),
        }],
    };
    vec![
        sample("call", CallMessage::Call(request)),
        sample("call-with-everything", CallMessage::Call(whole)),
        sample("call-cancel", CallMessage::Cancel { call: 7 }),
        sample("call-question", CallMessage::Ask(question)),
        sample("answer", CallResponse::answer(headers, b"12".to_vec())),
        sample("answer-failed", CallResponse::failed(404, "no apples")),
        sample(
            "answer-turned-away",
            CallResponse::turned_away(TurnedAway::Busy, "too much to do", Some(20)),
        ),
        sample(
            "question-pong",
            QuestionReply::Pong {
                instances: vec![String::from("a1")],
            },
        ),
        sample("question-stats", QuestionReply::Stats { instances: vec![stats] }),
        sample("stream-part", StreamFrame::Part(b"apples".to_vec())),
        sample("stream-end", StreamFrame::End { load: Some(250) }),
        sample("stream-begin", StreamFrame::Begin { load: Some(125) }),
        sample(
            "stream-head",
            StreamFrame::Head {
                headers: vec![(String::from("kind"), String::from("fruit"))],
            },
        ),
        sample("stream-failed", StreamFrame::failed(500, "no apples")),
        sample(
            "stream-turned-away",
            StreamFrame::TurnedAway {
                why: TurnedAway::Draining,
                detail: String::from("it ends"),
                retry_after_ms: None,
            },
        ),
        sample(
            "question-schemas",
            QuestionReply::Schemas {
                instances: vec![schemas],
            },
        ),
    ]
}

fn interest() -> Interest {
    let pattern: Pattern = "orders.>".parse().expect("a pattern");
    let grouped = Wanted {
        pattern: pattern.clone(),
        group: Some(String::from("workers")),
        key: Some(String::from("customer")),
        since_ms: NOW_MS,
    };
    Interest(vec![Wanted::plain(pattern, NOW_MS), grouped])
}

fn application_samples() -> Vec<Sample> {
    let hello = crate::hello::tests::hello();
    let message = crate::message::tests::message();
    let services = ServiceList(vec![ServiceInfo {
        name: String::from("stock"),
        version: String::from("1.2.3-rc.1"),
        id: String::from("a1"),
        metadata: vec![(String::from("zone"), String::from("eu"))],
        endpoints: vec![
            EndpointInfo::new("count"),
            EndpointInfo {
                idempotent: Some(true),
                schema_sha256: Some([7; 32]),
                ..EndpointInfo::new("admin.reset")
            },
        ],
        zone: Some(String::from("eu-1")),
        draining: Some(true),
    }]);
    let orders = Attributes {
        capability: vec![vec![1, 2]],
        picks: Pick::new(String::from("workers"), &public(1).peer_id()).map(|pick| Picks(vec![pick])),
        time_ms: Some(NOW_MS),
        datacontenttype: Some(String::from("text/plain")),
        extensions: vec![(String::from("partitionkey"), String::from("k"))],
        ..Attributes::new("orders.eu".parse().expect("a subject"))
    };
    let bare = Attributes::new("orders.us".parse().expect("a subject"));
    let run = |attributes: &Attributes, data| Run {
        attributes: Cow::Owned(attributes.clone()),
        data,
    };
    let frame = Frame {
        epoch: NOW_MS,
        shard: orders.subject.shard(SHARDS),
        first_seq: 7,
        before_ms: NOW_MS - 1,
        runs: vec![run(&orders, vec![b"apples", b""]), run(&bare, vec![b"pears"])],
    };
    let line = Line::new(&public(1).peer_id(), NOW_MS, 3).expect("an Ed25519 key");
    let hop = Hop {
        nonce: [5; 16],
        line,
        seq: 9,
        subject: "orders.eu".parse().expect("a subject"),
        from: public(2),
        received_at_ms: NOW_MS,
        subscriptions: 3,
    };
    let head = Head {
        line,
        last_seq: 9,
        first_seq: 8,
    };
    vec![
        sample("hello", hello),
        sample("hello-plain", Hello::new("batching", Verb::Run, "jobs")),
        sample("hello-accepted", HelloReply::Accepted { version: HELLO_VERSION }),
        sample(
            "hello-refused",
            HelloReply::refused(Refusal::Denied, "no grant for call on stock.count"),
        ),
        sample("message", message),
        sample("message-plain", Message::new("1", "/a", "t")),
        sample(
            "direct",
            DirectRequest {
                hello: crate::hello::tests::hello(),
                payload: b"stock".to_vec(),
            },
        ),
        sample(
            "direct-answer",
            DirectReply::Answer {
                payload: b"12".to_vec(),
            },
        ),
        sample(
            "lane-frame",
            LaneFrame {
                id: 300,
                body: vec![1, 2, 3],
            },
        ),
        sample("direct-refused", DirectReply::refused(Refusal::Busy, "try later")),
        sample("services", services),
        sample("interest", interest()),
        sample(
            "direct-item",
            DirectItem::Frame {
                ordinal: 3,
                data: vec![1, 2, 3],
            },
        ),
        sample(
            "direct-lost",
            DirectItem::Lost {
                ordinal: 4,
                shard: 9,
                first_seq: 5,
                last_seq: 7,
            },
        ),
        sample("direct-taken", DirectTaken { ordinal: 300 }),
        frame_sample("frame", &frame),
        frame_sample(
            "frame-announcing",
            &Frame {
                epoch: NOW_MS,
                shard: 0,
                first_seq: 8,
                before_ms: NOW_MS,
                runs: Vec::new(),
            },
        ),
        sample(
            "repair-digest",
            Digest {
                from_s: NOW_MS / 1000 - 600,
                until_s: NOW_MS / 1000 - 3,
                sums: vec![0, digest_of(&line, 2, 5)],
            },
        ),
        sample(
            "repair-heads",
            RepairRequest::Heads {
                since_ms: NOW_MS,
                heads: vec![head],
                whole: true,
            },
        ),
        sample(
            "repair-fetch",
            RepairRequest::Fetch {
                line,
                from_seq: 2,
                to_seq: 5,
            },
        ),
        sample("repair-await", RepairRequest::Await { line, seq: 9 }),
        sample(
            "repair-past",
            RepairRequest::Past {
                pattern: "orders.>".parse().unwrap(),
                since_ms: NOW_MS - 5000,
                before: Some(PastPlace {
                    made_ms: NOW_MS,
                    line,
                    first_seq: 7,
                }),
            },
        ),
        sample(
            "repair-was",
            RepairReply::Past {
                frames: vec![PastFrame {
                    line,
                    original: Original {
                        gossip_seq: 1,
                        data: vec![1, 2],
                        signature: vec![3; 64],
                    },
                }],
                more: true,
            },
        ),
        sample("hop", hop.clone()),
        sample("repair-hop", RepairRequest::Hop { hop: forge(&hop, 3) }),
        sample("repair-noted", RepairReply::Noted),
        sample("repair-known", RepairReply::Heads { heads: vec![head] }),
        sample(
            "repair-originals",
            RepairReply::Originals {
                originals: vec![Original {
                    gossip_seq: 1,
                    data: vec![1, 2],
                    signature: vec![3; 64],
                }],
            },
        ),
    ]
}

fn nats_samples() -> Vec<Sample> {
    let headers = b"NATS/1.0\r\nk: v\r\n\r\n".to_vec();
    let deliver = NatsItem::Deliver {
        subject: Subject::reserved("$SRV.PING").unwrap(),
        reply: Some(Subject::reserved("_WEFT.R.a.b").unwrap()),
        group: Some(String::from("q")),
        headers: headers.clone(),
        payload: b"hi".to_vec(),
    };
    let reply = NatsItem::Reply {
        id: [7; 12],
        headers,
        payload: b"hello".to_vec(),
    };
    let interest = NatsInterest {
        pattern: "greet.>".parse().unwrap(),
        group: Some(String::from("q")),
    };
    vec![
        sample("nats-deliver", NatsItems(vec![deliver])),
        sample("nats-reply", NatsItems(vec![reply])),
        sample("nats-reached", NatsReached(vec![1, 0])),
        sample(
            "nats-interests",
            NatsInterests {
                list: vec![interest],
                more: true,
                address: Some("door.example:4222".into()),
            },
        ),
        sample(
            "blob-want",
            BlobMessage::Want {
                id: BlobId::from_bytes([7; 32]),
                first_group: 3,
                hashes: true,
            },
        ),
        sample("blob-have", BlobMessage::Have { bytes: 5_000_000 }),
        sample("blob-part", BlobMessage::Part(b"part".to_vec())),
        sample(
            "presences",
            Presences {
                epoch: 5,
                list: vec![Presence {
                    subject: "sensors.7".parse().unwrap(),
                    number: 3,
                    since_ms: 1_700_000_000_000,
                    will: Some(Will {
                        subject: "alarms.7".parse().unwrap(),
                        datacontenttype: Some("text/plain".into()),
                        data: b"gone".to_vec(),
                    }),
                }],
                gone: vec![2],
            },
        ),
    ]
}

/// What `fixtures/wire.txt` should contain.
fn rendered() -> String {
    let mut text = String::from("# name sha256 bytes; the shard of some first tokens; see src/fixtures.rs\n");
    for sample in samples() {
        let digest = HEXLOWER.encode(&Sha256::digest(&sample.bytes));
        writeln!(text, "{} {digest} {}", sample.name, HEXLOWER.encode(&sample.bytes)).unwrap();
    }
    for token in ["orders", "a", "sensor-7", "$weft"] {
        writeln!(
            text,
            "shard {token} {}",
            Subject::reserved(token).unwrap().shard(SHARDS)
        )
        .unwrap();
    }
    writeln!(text, "mesh {}", mesh()).unwrap();
    writeln!(text, "key {}", public(ROOT)).unwrap();
    writeln!(text, "ticket {}", crate::ticket::tests::ticket()).unwrap();
    writeln!(text, "token {}", crate::capability::tests::token()).unwrap();
    text
}

#[test]
fn the_wire_has_not_changed() {
    let now = rendered();
    if std::env::var_os("WEFT_WRITE_FIXTURES").is_some() {
        std::fs::write(PATH, &now).unwrap();
    }
    let pinned = std::fs::read_to_string(PATH).expect("fixtures/wire.txt exists");
    let changed: Vec<_> = now
        .lines()
        .zip(pinned.lines())
        .filter(|(now, pinned)| now != pinned)
        .collect();
    let names: Vec<_> = changed.iter().filter_map(|(now, _)| now.split(' ').next()).collect();
    assert!(
        changed.is_empty() && now.len() == pinned.len(),
        "the wire format has changed: {names:?}; nodes of different versions will not understand each other there. \
         If that is meant, run with WEFT_WRITE_FIXTURES=1 and record it in the change log"
    );
}

#[test]
fn every_sample_is_read_back() {
    for sample in samples() {
        assert_eq!(
            (sample.read)(&sample.bytes, &sample.bytes),
            Some(true),
            "{}",
            sample.name
        );
    }
}

#[test]
fn no_sample_can_be_cut_or_extended() {
    for sample in samples() {
        for end in 0..sample.bytes.len() {
            let read = (sample.read)(&sample.bytes[..end], &sample.bytes);
            assert_eq!(read, None, "{} cut to {end} bytes", sample.name);
        }
        let longer = [&sample.bytes[..], &[0]].concat();
        assert_eq!(
            (sample.read)(&longer, &sample.bytes),
            None,
            "{} with a byte more",
            sample.name
        );
    }
}

/// Two encodings of one value would be two identities of one thing.
#[test]
fn no_changed_byte_reads_as_the_same_value() {
    // What stands where a variant without fields has none is skipped, whatever it is.
    const UNITS: [&str; 20] = [
        "control-ok",
        "repair-noted",
        "event-stream-figures",
        "event-stream-schemas",
        "event-stream-read-end",
        "consumer-list",
        "consumer-done",
        "consumer-longer",
        "group-blank",
        "group-joined",
        "group-appended",
        "group-conflict",
        "group-transferring",
        "group-leave",
        "group-stranger",
        "group-removed",
        "group-gone",
        "group-replacing",
        "group-fetching",
        "consumer-unseen",
    ];
    let unit = |sample: &&Sample| UNITS.contains(&sample.name);
    for sample in samples().iter().filter(|sample| !unit(sample)) {
        for at in 0..sample.bytes.len() {
            for bit in [0x01, 0x20, 0x80] {
                let mut changed = sample.bytes.clone();
                changed[at] ^= bit;
                let read = (sample.read)(&changed, &sample.bytes);
                assert_ne!(read, Some(true), "{} with byte {at} changed by {bit:#x}", sample.name);
            }
        }
    }
}
