//! A sample of every message about streams of events.

use crate::consensus::{
    Ballot, Candidacy, Content, Entry, EntryId, GroupId, GroupReply, GroupRequest, Mark, Members, Reign, VoterKey,
    Voters,
};
use crate::fixtures::{Sample, sample};
use crate::merkle::leaf_hash;
use crate::patterns::event_sourcing::checkpoint::{Checkpoint, Origin};
use crate::patterns::event_sourcing::consumer::{
    ConsumerFigures, ConsumerOptions, ConsumerReply, ConsumerRequest, DeadLetter, Delivery, Handed, Order, Settlement,
};
use crate::patterns::event_sourcing::proof::{Enclosed, Proof};
use crate::patterns::event_sourcing::schema::{ExportedSchemas, Schema, Upcast};
use crate::patterns::event_sourcing::{
    Ack, Append, Appended, Condition, CopyFigure, CopyFigures, Event, From, Keep, KeptStreams, Labels, Positioned,
    Producer, Query, QueryItem, ReadReply, ReadRequest, Record, StreamFailure, StreamFigures, StreamReply,
    StreamRequest, Subjects, TakingStream, TakingStreams,
};
use crate::testing::*;

fn event() -> Event {
    Event {
        id: Some("7e3f".into()),
        source: Some("/till".into()),
        subject: Some("order-17".into()),
        time_ms: Some(1_790_000_000_000),
        datacontenttype: Some("application/json".into()),
        dataschema: Some("https://example.org/order".into()),
        tags: vec!["customer=1".into()],
        extensions: vec![("partitionkey".into(), "a".into())],
        ..Event::new("order.created", "{}")
    }
}

fn query() -> Query {
    Query {
        items: vec![QueryItem {
            types: vec!["order.created".into()],
            tags: vec!["customer=1".into()],
        }],
    }
}

fn producer() -> Option<Producer> {
    Some(Producer {
        id: "till-1".into(),
        sequence: 9,
    })
}

fn options() -> ConsumerOptions {
    ConsumerOptions {
        from: From::Time(5),
        query: query(),
        ack_wait_ms: 30_000,
        deliver_max: Some(5),
        backoff_ms: vec![1000, 60_000],
        pending_max: 100,
        order: Order::Key,
        is_acked: true,
        idle_ms: None,
        is_upcast: None,
    }
}

fn checkpoint() -> String {
    let owner = secret(3);
    let checkpoint = Checkpoint {
        origin: Origin {
            mesh: mesh(),
            stream: "shop.orders".parse().unwrap(),
            owner: owner.public(),
        },
        size: 2,
        root: leaf_hash(b"root"),
        time_ms: 1_790_000_000_000,
    };
    checkpoint.sign(&owner)
}

fn positioned() -> Positioned {
    Positioned {
        position: 2,
        record: b"record".to_vec(),
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let record = Record {
        recorded_ms: 1_790_000_000_001,
        author: Some(secret(4).public()),
        producer: producer(),
        event: event(),
        entry: None,
    };
    let of_group = Record {
        entry: Some(12),
        ..record.clone()
    };
    let append = Append {
        events: vec![event(), Event::new("k", "")],
        expect: Some(41),
        condition: Some(Condition {
            query: query(),
            after: 40,
        }),
        producer: producer(),
        ack: Ack::Disk,
    };
    let read = ReadRequest {
        from: From::Last(10),
        query: query(),
        follow: true,
        limit: Some(100),
        is_upcast: None,
    };
    let failed = || StreamFailure {
        kind: "conflict".into(),
        detail: "the stream has version 2, not 1".into(),
        hint: Some("read what came".into()),
    };
    let kept = KeptStreams {
        names: vec!["bills".parse().unwrap(), "orders".parse().unwrap()],
        has_more: true,
        copies: Some(vec![2]),
        taking: None,
    };
    let taking = TakingStream {
        at: 1,
        subjects: Subjects(vec!["orders.>".parse().unwrap()]),
    };
    let kept_taking = KeptStreams {
        taking: Some(TakingStreams(vec![taking])),
        ..kept.clone()
    };
    let idle = ConsumerOptions {
        idle_ms: Some(5000),
        ..options()
    };
    let add = ConsumerRequest::Add {
        name: "k3hd8s".into(),
        options: idle,
    };
    let upcast = ConsumerRequest::Add {
        name: "billing".into(),
        options: ConsumerOptions {
            is_upcast: Some(true),
            ..options()
        },
    };
    let read_upcast = ReadRequest {
        is_upcast: Some(true),
        ..read.clone()
    };
    let schema = Schema {
        id: "https://example.org/order".into(),
        types: vec!["order.created".into()],
        document: r#"{"type":"object"}"#.into(),
        upcast: Some(Upcast {
            from: None,
            patch: r#"[{"op":"add","path":"/currency","value":"EUR"}]"#.into(),
        }),
        added_ms: 1_790_000_000_000,
    };
    let mut all = vec![
        sample("event-stream-record", record),
        sample("event-stream-record-of-group", of_group),
        sample("event-stream-append", StreamRequest::Append(append)),
        sample("event-stream-figures", StreamRequest::Figures),
        sample("event-stream-prove", StreamRequest::Prove(17)),
        sample("event-stream-extend", StreamRequest::Extend(17)),
        sample("event-stream-locate", StreamRequest::Locate("7e3f".into())),
        sample("event-stream-read", read),
        sample("event-stream-read-upcast", read_upcast),
        sample("event-stream-consumer-add-upcast", StreamRequest::Consumer(upcast)),
        sample("event-stream-schemas", StreamRequest::Schemas),
        sample("event-stream-schemas-reply", StreamReply::Schemas(vec![schema.clone()])),
        sample(
            "event-stream-schemas-exported",
            ExportedSchemas {
                checkpoint: checkpoint(),
                schemas: vec![schema],
            },
        ),
        sample("event-stream-kept-taking", kept_taking),
        sample(
            "event-stream-seen",
            StreamRequest::Seen {
                owner: secret(3).public(),
                checkpoint: Some(checkpoint()),
            },
        ),
        sample("event-stream-seen-reply", StreamReply::Seen(Some(checkpoint()))),
        sample("event-stream-cosign", StreamRequest::Cosign(checkpoint())),
        sample(
            "event-stream-cosigned",
            StreamReply::Cosigned("\u{2014} weft/members/m/k c2ln\n".into()),
        ),
        sample("event-stream-consumer-add-idle", StreamRequest::Consumer(add)),
        sample("event-stream-records", ReadReply::Records(vec![positioned()])),
        sample("event-stream-caught-up", ReadReply::CaughtUp(7)),
        sample("event-stream-read-end", ReadReply::End),
        sample("event-stream-read-failed", ReadReply::Failed(failed())),
        sample("event-streams", kept),
    ];
    all.extend(group_samples());
    all.extend(replies(failed()));
    all.extend(consumer_samples());
    all
}

/// What the members of a group say.
fn group_samples() -> Vec<Sample> {
    let key = |number: u8| VoterKey([number; 32]);
    let reign = Reign {
        term: 3,
        leader: [1; 32],
    };
    let ballot = Ballot {
        reign,
        is_elected: true,
    };
    let id = |index: u64| EntryId { reign, index };
    let entry = |index: u64, content: Content| Entry { id: id(index), content };
    let candidacy = Candidacy {
        ballot,
        last: Some(id(7)),
        is_transfer: false,
    };
    let members = Members {
        voters: vec![Voters(vec![key(1)])],
        all: Voters(vec![key(1), key(2)]),
    };
    let mark = Mark {
        last: id(6),
        members_at: Some(id(2)),
        members: members.clone(),
    };
    let append = GroupRequest::Append {
        ballot,
        before: Some(id(7)),
        entries: vec![
            entry(8, Content::Command(b"command".to_vec())),
            entry(9, Content::Members(members)),
        ],
        committed: Some(id(6)),
    };
    let asked = |request: GroupRequest| StreamRequest::Group {
        group: GroupId(17),
        request,
    };
    let voted = GroupReply::Voted {
        ballot,
        is_granted: true,
        last: None,
    };
    vec![
        sample(
            "group-join",
            asked(GroupRequest::Join(Voters(vec![key(1), key(2), key(3)]))),
        ),
        sample("group-pre-vote", asked(GroupRequest::PreVote(candidacy))),
        sample("group-vote", asked(GroupRequest::Vote(candidacy))),
        sample("group-append", asked(append)),
        sample(
            "group-transfer",
            asked(GroupRequest::Transfer {
                ballot,
                last: Some(id(7)),
            }),
        ),
        sample("group-propose", asked(GroupRequest::Propose(b"command".to_vec()))),
        sample(
            "group-enter",
            asked(GroupRequest::Enter {
                members: Voters(vec![key(1), key(2), key(3), key(4)]),
                size: 3,
            }),
        ),
        sample("group-leave", asked(GroupRequest::Leave)),
        sample(
            "group-replace",
            asked(GroupRequest::Replace {
                member: key(1),
                by: Some(key(4)),
            }),
        ),
        sample("group-snapshot", asked(GroupRequest::Snapshot { ballot, mark })),
        sample("group-fetch", asked(GroupRequest::Fetch(b"wish".to_vec()))),
        sample("group-blank", entry(8, Content::Blank)),
        sample("group-entry", entry(9, Content::Command(b"command".to_vec()))),
        sample("group-refused", StreamReply::Group(GroupReply::Refused("busy".into()))),
        sample("group-joined", StreamReply::Group(GroupReply::Joined)),
        sample("group-voted", StreamReply::Group(voted)),
        sample("group-appended", StreamReply::Group(GroupReply::Appended)),
        sample(
            "group-appended-to",
            StreamReply::Group(GroupReply::AppendedTo(Some(id(8)))),
        ),
        sample("group-conflict", StreamReply::Group(GroupReply::Conflict)),
        sample("group-higher", StreamReply::Group(GroupReply::Higher(ballot))),
        sample("group-transferring", StreamReply::Group(GroupReply::Transferring)),
        sample("group-behind", StreamReply::Group(GroupReply::Behind(Some(id(5))))),
        sample(
            "group-proposed",
            StreamReply::Group(GroupReply::Proposed(b"done".to_vec())),
        ),
        sample("group-led", StreamReply::Group(GroupReply::Led(Some(key(2))))),
        sample("group-stranger", StreamReply::Group(GroupReply::Stranger)),
        sample("group-removed", StreamReply::Group(GroupReply::Removed)),
        sample("group-gone", StreamReply::Group(GroupReply::Gone)),
        sample("group-replacing", StreamReply::Group(GroupReply::Replacing)),
        sample("group-fetching", StreamReply::Group(GroupReply::Fetching)),
        sample("group-installed", StreamReply::Group(GroupReply::Installed(ballot))),
        sample(
            "group-fetched",
            StreamReply::Group(GroupReply::Fetched(b"some of it".to_vec())),
        ),
        sample("event-stream-led", StreamReply::Led(Some(key(2)))),
    ]
}

fn replies(failed: StreamFailure) -> Vec<Sample> {
    let copies = CopyFigures {
        group: GroupId(17),
        leader: Some(VoterKey([1; 32])),
        members: vec![
            CopyFigure {
                key: VoterKey([1; 32]),
                behind: Some(0),
                is_new: None,
            },
            CopyFigure {
                key: VoterKey([2; 32]),
                behind: None,
                is_new: None,
            },
            CopyFigure {
                key: VoterKey([3; 32]),
                behind: Some(9),
                is_new: Some(true),
            },
        ],
    };
    let figures = StreamFigures {
        version: 9,
        first: 2,
        bytes: 1000,
        created_ms: 5,
        last_ms: Some(6),
        retain_ms: Some(7),
        retain_bytes: Some(8),
        retain_records: Some(9),
        consumers: 1,
        checkpoint: checkpoint(),
        damage: "none".into(),
        copies: Some(copies),
        keep: Some(Keep::Interest),
        place: Some(Labels(vec!["zone=eu".into()])),
        subjects: Some(Subjects(vec!["orders.*".parse().unwrap()])),
        refuse_when_full: Some(true),
    };
    let proof = Proof {
        enclosed: Enclosed {
            record: b"record".to_vec(),
            chain: member(3, &["worker"], &[]),
        },
        index: 1,
        hashes: vec![leaf_hash(b"a")],
        checkpoint: checkpoint(),
    };
    let appended = Appended {
        first: 1,
        last: 2,
        is_duplicate: true,
    };
    let extended = StreamReply::Extended {
        checkpoint: checkpoint(),
        hashes: vec![leaf_hash(b"a"), leaf_hash(b"b")],
    };
    vec![
        sample("event-stream-failed", StreamReply::Failed(failed)),
        sample("event-stream-appended", StreamReply::Appended(appended)),
        sample("event-stream-info", StreamReply::Figures(figures)),
        sample("event-stream-proof", StreamReply::Proof(proof)),
        sample("event-stream-extended", extended),
        sample("event-stream-located", StreamReply::Located(Some(3))),
    ]
}

fn consumer_samples() -> Vec<Sample> {
    let name = || String::from("billing");
    let asked = |what: ConsumerRequest| StreamRequest::Consumer(what);
    let answered = |what: ConsumerReply| StreamReply::Consumer(what);
    let handed = Handed {
        position: 2,
        delivery: 1,
    };
    let settle = |settlement: Settlement| ConsumerRequest::Settle {
        name: name(),
        handed: vec![handed],
        settlement,
    };
    let next = ConsumerRequest::Next {
        name: name(),
        count: 10,
        wait_ms: 500,
    };
    let again = Settlement::Again {
        pause_ms: Some(5),
        reason: "later".into(),
    };
    let figures = ConsumerFigures {
        name: name(),
        options: options(),
        settled: 1,
        reached: 5,
        pending: 2,
        waiting: 3,
        behind: 4,
        dead: 5,
    };
    let letter = DeadLetter {
        position: 2,
        deliveries: 5,
        reason: "no such customer".into(),
        since_ms: 7,
    };
    let delivery = Delivery {
        record: positioned(),
        delivery: 1,
    };
    let (options, from) = (options(), From::Position(3));
    vec![
        sample("consumer-add", asked(ConsumerRequest::Add { name: name(), options })),
        sample("consumer-remove", asked(ConsumerRequest::Remove(name()))),
        sample("consumer-list", asked(ConsumerRequest::List)),
        sample("consumer-next", asked(next)),
        sample("consumer-done", asked(settle(Settlement::Done))),
        sample("consumer-again", asked(settle(again))),
        sample("consumer-dead", asked(settle(Settlement::Dead { reason: "no".into() }))),
        sample("consumer-longer", asked(settle(Settlement::Longer))),
        sample("consumer-unseen", asked(settle(Settlement::Unseen))),
        sample("consumer-reset", asked(ConsumerRequest::Reset { name: name(), from })),
        sample(
            "consumer-letters",
            asked(ConsumerRequest::DeadLetters {
                name: name(),
                after: 1,
                count: 10,
            }),
        ),
        sample(
            "consumer-redrive",
            asked(ConsumerRequest::Redrive {
                name: name(),
                positions: vec![2],
            }),
        ),
        sample("consumer-counted", answered(ConsumerReply::Done(3))),
        sample("consumer-figures", answered(ConsumerReply::List(vec![figures]))),
        sample("consumer-handed", answered(ConsumerReply::Handed(vec![delivery]))),
        sample("consumer-dead-letters", answered(ConsumerReply::Dead(vec![letter]))),
    ]
}
