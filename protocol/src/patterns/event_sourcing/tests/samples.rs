//! A sample of every message about streams of events.

use crate::Subject;
use crate::fixtures::{Sample, sample};
use crate::merkle::leaf_hash;
use crate::patterns::event_sourcing::checkpoint::{Checkpoint, Origin};
use crate::patterns::event_sourcing::consumer::{
    ConsumerFigures, ConsumerOptions, ConsumerReply, ConsumerRequest, DeadLetter, Delivery, Handed, Order, Settlement,
};
use crate::patterns::event_sourcing::proof::{Enclosed, Proof};
use crate::patterns::event_sourcing::{
    Ack, Append, Appended, Condition, Event, From, KeptStreams, Positioned, Producer, Query, QueryItem, ReadReply,
    ReadRequest, Record, StreamFailure, StreamFigures, StreamReply, StreamRequest,
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
    };
    let failed = || StreamFailure {
        kind: "conflict".into(),
        detail: "the stream has version 2, not 1".into(),
        hint: Some("read what came".into()),
    };
    let names: Vec<Subject> = vec!["orders".parse().unwrap()];
    let mut all = vec![
        sample("event-stream-record", record),
        sample("event-stream-append", StreamRequest::Append(append)),
        sample("event-stream-figures", StreamRequest::Figures),
        sample("event-stream-prove", StreamRequest::Prove(17)),
        sample("event-stream-extend", StreamRequest::Extend(17)),
        sample("event-stream-locate", StreamRequest::Locate("7e3f".into())),
        sample("event-stream-read", read),
        sample("event-stream-records", ReadReply::Records(vec![positioned()])),
        sample("event-stream-caught-up", ReadReply::CaughtUp(7)),
        sample("event-stream-read-failed", ReadReply::Failed(failed())),
        sample("event-streams", KeptStreams { names, has_more: true }),
    ];
    all.extend(replies(failed()));
    all.extend(consumer_samples());
    all
}

fn replies(failed: StreamFailure) -> Vec<Sample> {
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
