//! What every message and every call passes through, beside the least it could cost.
//!
//! `cargo bench -p weft-tests --bench hot_paths`: criterion's figures, and at the end one line a path with the ratio of
//! ours to its limit, both measured in this run.

#![allow(clippy::unwrap_used, missing_docs, clippy::print_stdout)]

use std::{
    borrow::Cow,
    collections::HashMap,
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::Criterion;
use weft_node::patterns::{
    batching::core::{Batcher, Limits},
    projections::sql::Query,
    pub_sub::trie::SubjectTrie,
};
use weft_protocol::{
    Audience, CapabilityRequest, CapabilityToken, CertificateRequest, Chain, Grant, Hello, MeshId, Pattern, SecretKey,
    Subject, Verb, Wire as _,
    direct::DirectRequest,
    limits::CLOCK_SKEW_MS_MAX,
    patterns::{
        blobs::{GROUP_BYTES, hash_group},
        pub_sub::{Attributes, Frame, Run, SHARDS},
    },
};

const NOW_MS: u64 = 1_790_000_000_000;

/// One path and what bounds it.
struct Pair {
    name: &'static str,
    limit_name: &'static str,
    ours: Box<dyn FnMut()>,
    limit: Box<dyn FnMut()>,
}

fn pairs() -> Vec<Pair> {
    let (root, node, holder) = (
        SecretKey::from_bytes(&[1; 32]),
        SecretKey::from_bytes(&[2; 32]),
        SecretKey::from_bytes(&[3; 32]),
    );
    let mesh = MeshId::from_root(&root.public());
    let request = CertificateRequest {
        subject: node.public(),
        name: "node".into(),
        roles: vec!["member".into()],
        labels: Vec::new(),
        grants: vec![Grant::everything(3)],
        not_before_ms: NOW_MS,
        not_after_ms: NOW_MS + 1_000_000,
    };
    let chain = Chain::default().issue(&root, request, [0; 16], NOW_MS).unwrap();
    let ask = CapabilityRequest {
        audience: Audience::Key(holder.public()),
        grants: vec![Grant::new(Verb::Call, "orders.>".parse::<Pattern>().unwrap(), 0)],
        not_before_ms: NOW_MS,
        not_after_ms: NOW_MS + 1_000_000,
    };
    let token = CapabilityToken::issue(&Chain::default(), &root, ask, [0; 16], NOW_MS).unwrap();
    let signed = [7u8; 256];
    let signature = root.sign("bench", &signed);
    let key = root.public();
    let verify_raw = move || assert!(black_box(&key).verify("bench", black_box(&signed), &signature));
    let hello = DirectRequest {
        hello: Hello::new("request_response", Verb::Call, "greet"),
        payload: vec![1; 64],
    }
    .to_bytes();
    let run = Run {
        attributes: Cow::Owned(Attributes::new("orders.eu.created".parse().unwrap())),
        data: vec![&[7; 64]; 512],
    };
    let frame = Frame {
        epoch: NOW_MS,
        shard: run.attributes.subject.shard(SHARDS),
        first_seq: 1,
        before_ms: 0,
        runs: vec![run],
    };
    let bytes = frame.to_bytes();
    let (copy_a, copy_b, copy_c) = (hello.clone(), bytes.clone(), bytes.clone());
    let subject: Subject = "orders.eu.created".parse().unwrap();
    let pattern: Pattern = "orders.*.created".parse().unwrap();
    let text = "orders.eu.created".to_owned();
    let root_key = root.public();
    vec![
        Pair {
            name: "a member's chain of one certificate, verified",
            limit_name: "one Ed25519 verification",
            ours: Box::new(move || {
                drop(black_box(
                    chain
                        .verify(&root_key, &mesh, NOW_MS, CLOCK_SKEW_MS_MAX, &|_| false)
                        .unwrap(),
                ));
            }),
            limit: Box::new(verify_raw),
        },
        Pair {
            name: "a capability of one link, verified",
            limit_name: "one Ed25519 verification",
            ours: Box::new(move || drop(black_box(token.verify(&root_key, &mesh, NOW_MS, &|_| false).unwrap()))),
            limit: Box::new(verify_raw),
        },
        Pair {
            name: "a 64 B request with its greeting, decoded",
            limit_name: "a copy of its bytes",
            ours: Box::new(move || drop(black_box(DirectRequest::from_bytes(&hello).unwrap()))),
            limit: Box::new(move || drop(black_box(black_box(&copy_a).clone()))),
        },
        Pair {
            name: "512 messages of 64 B, in a frame",
            limit_name: "a copy of its bytes",
            ours: Box::new(move || drop(black_box(black_box(&frame).to_checked_bytes().unwrap()))),
            limit: Box::new(move || drop(black_box(black_box(&copy_b).clone()))),
        },
        Pair {
            name: "512 messages of 64 B, read and checked",
            limit_name: "a copy of its bytes",
            ours: Box::new(move || drop(black_box(Frame::read(&bytes).unwrap()))),
            limit: Box::new(move || drop(black_box(black_box(&copy_c).clone()))),
        },
        Pair {
            name: "a subject of three tokens, matched",
            limit_name: "a comparison of its text",
            ours: Box::new(move || assert!(black_box(&pattern).matches(black_box(&subject)))),
            limit: Box::new(move || assert!(black_box(&text) == black_box("orders.eu.created"))),
        },
        among_subscriptions(),
        into_batches(),
        group_of_a_blob(),
        into_a_projection(),
    ]
}

/// A hundred thousand subscriptions, of which three match.
fn among_subscriptions() -> Pair {
    let (mut trie, mut known) = (SubjectTrie::default(), HashMap::new());
    let subject: Subject = "orders.eu.customer-77777.created".parse().unwrap();
    let others = (0..100_000).map(|n| format!("orders.eu.customer-{n}.created"));
    let wide = ["orders.>", "orders.*.customer-77777.*"].map(str::to_owned);
    for (id, text) in others.chain(wide).enumerate() {
        trie.insert(&text.parse::<Pattern>().unwrap(), id as u64);
        known.insert(text, id);
    }
    let (mut found, text) = (Vec::new(), subject.to_string());
    Pair {
        name: "a subject among 100 000 subscriptions, matched",
        limit_name: "a look into a hash table of them",
        ours: Box::new(move || {
            found.clear();
            trie.matching(black_box(&subject), &mut found);
            assert_eq!(black_box(&found).len(), 3);
        }),
        limit: Box::new(move || assert!(black_box(&known).contains_key(black_box(&text)))),
    }
}

/// A record into a batch, of a hundred keys in turn.
fn into_batches() -> Pair {
    let limits = Limits {
        count_max: 100,
        bytes_max: 1 << 20,
        age_max: Duration::from_secs(1),
        keys_max: 1000,
        is_adaptive: true,
    };
    let (mut batcher, mut closed, mut n) = (Batcher::new(limits), Vec::new(), 0_usize);
    let keys: Vec<String> = (0..100).map(|n| format!("customer-{n}")).collect();
    let (mut table, same): (HashMap<String, Vec<u64>>, Vec<String>) = (HashMap::new(), keys.clone());
    let mut m = 0_usize;
    let now = tokio::time::Instant::now();
    Pair {
        name: "a record put into a batch, of 100 keys",
        limit_name: "the same into lists in a hash table",
        ours: Box::new(move || {
            n += 1;
            let at = now + Duration::from_micros(n as u64);
            batcher.push(black_box(&keys[n % 100]), n as u64, 100, at, &mut closed);
            closed.clear();
        }),
        limit: Box::new(move || {
            m += 1;
            let list = table.entry(black_box(&same[m % 100]).clone()).or_default();
            list.push(m as u64);
            if list.len() == 100 {
                list.clear();
            }
        }),
    }
}

/// What a fetched blob is checked by, before anybody gets it.
fn group_of_a_blob() -> Pair {
    let group = vec![7_u8; GROUP_BYTES];
    let same = group.clone();
    Pair {
        name: "256 KiB of a blob, checked",
        limit_name: "a copy of its bytes",
        ours: Box::new(move || {
            black_box(hash_group(3, 9, black_box(&group)));
        }),
        limit: Box::new(move || drop(black_box(black_box(&same).clone()))),
    }
}

/// An event of a stream into its group, beside reading the JSON of its data.
fn into_a_projection() -> Pair {
    let sql = "SELECT data.customer AS customer, count(*) AS orders, sum(data.amount) AS total, max(time) AS newest FROM orders \
               WHERE type = 'order.created' GROUP BY data.customer";
    let query = Query::parse(sql).expect("it is SQL");
    let data = r#"{"customer":"customer-17","amount":12.5,"items":[{"name":"pen","price":2.5},{"name":"ink","price":10}],"paid":true}"#;
    let event = serde_json::json!({
        "type": "order.created", "id": "17", "subject": "order-17", "time": "2026-11-26T13:14:15.000Z",
        "data": serde_json::from_str::<serde_json::Value>(data).expect("it is JSON"),
    });
    let (_, keys) = query.group(&event).expect("it is small").expect("it counts");
    let mut group = query.fresh(keys);
    Pair {
        name: "an event into a projection",
        limit_name: "reading the JSON of its data",
        ours: Box::new(move || {
            black_box(query.group(black_box(&event)).expect("it is small"));
            query.take(&mut group, black_box(&event)).expect("it is small");
        }),
        limit: Box::new(move || {
            let read = serde_json::from_str::<serde_json::Value>(black_box(data));
            drop(black_box(read));
        }),
    }
}

/// The best of five rounds, in nanoseconds per run.
fn best_ns(f: &mut dyn FnMut()) -> f64 {
    let round = |f: &mut dyn FnMut()| {
        let started = Instant::now();
        let mut runs = 0u32;
        while started.elapsed() < Duration::from_millis(60) {
            for _ in 0..64 {
                f();
            }
            runs += 64;
        }
        started.elapsed().as_nanos() as f64 / f64::from(runs)
    };
    (0..5).map(|_| round(f)).fold(f64::MAX, f64::min)
}

fn main() {
    let mut criterion = Criterion::default()
        .configure_from_args()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    for pair in &mut pairs() {
        let mut group = criterion.benchmark_group(pair.name);
        group.bench_function("weft", |b| b.iter(|| (pair.ours)()));
        group.bench_function(pair.limit_name, |b| b.iter(|| (pair.limit)()));
        group.finish();
    }
    criterion.final_summary();
    println!(
        "\n{:<52} {:>10} {:>10} {:>7}   limit",
        "path", "weft ns", "limit ns", "ratio"
    );
    for mut pair in pairs() {
        let (ours, limit) = (best_ns(&mut *pair.ours), best_ns(&mut *pair.limit));
        println!(
            "{:<52} {ours:>10.0} {limit:>10.0} {:>7.2}   {}",
            pair.name,
            ours / limit,
            pair.limit_name
        );
    }
}
