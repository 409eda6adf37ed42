//! Streams at the NATS door, as the JetStream API of NATS's own Rust client finds them.

use std::{collections::BTreeSet, future::IntoFuture as _, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{
        self, AckKind, Context, ErrorCode, Message,
        consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
        stream::{Config, DiscardPolicy, RetentionPolicy},
    },
};
use futures::{StreamExt as _, TryStreamExt as _, future::join_all};
use serde_json::Value;
use tokio::time::timeout;
use weft_tests::{Node, until};

use crate::nats::{client, next, node, settled};

const PATIENCE: Duration = Duration::from_secs(30);

async fn api(node: &Node) -> Context {
    jetstream::new(client(node).await)
}

fn orders() -> Config {
    Config {
        name: "ORDERS".to_owned(),
        subjects: vec!["orders.>".to_owned()],
        ..Config::default()
    }
}

fn billing() -> pull::Config {
    pull::Config {
        durable_name: Some("billing".to_owned()),
        ..pull::Config::default()
    }
}

async fn publish(api: &Context, subject: &'static str, payload: &str) -> u64 {
    let ack = api.publish(subject, payload.to_owned().into()).await.unwrap();
    ack.await.unwrap().sequence
}

fn header(name: &str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, value);
    headers
}

/// Why a publication was refused: the number that clients know.
async fn refused(api: &Context, subject: &'static str, headers: HeaderMap) -> (ErrorCode, String) {
    // The client's own error hides the number; the answer itself has it.
    let inbox = api.client().new_inbox();
    let mut answers = api.client().subscribe(inbox.clone()).await.unwrap();
    api.client()
        .publish_with_reply_and_headers(subject, inbox, headers, "x".into())
        .await
        .unwrap();
    let answer: Value = serde_json::from_str(&next(&mut answers).await).unwrap();
    let error: jetstream::Error = serde_json::from_value(answer["error"].clone()).unwrap();
    (
        error.error_code(),
        answer["error"]["description"].as_str().unwrap().to_owned(),
    )
}

async fn fetch(consumer: &PullConsumer, count: usize) -> Vec<Message> {
    let fetched = consumer.fetch().max_messages(count).messages().await.unwrap();
    timeout(PATIENCE, fetched.try_collect()).await.unwrap().unwrap()
}

fn texts(messages: &[Message]) -> Vec<&str> {
    let payloads = messages.iter().map(|message| message.payload.as_ref());
    payloads.map(|payload| std::str::from_utf8(payload).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_an_event_of_the_stream_that_takes_it_in() {
    let node = node(&[]);
    let api = api(&node).await;
    let mut stream = api.create_stream(orders()).await.unwrap();
    // The same again is no mistake, another is.
    api.create_stream(orders()).await.unwrap();
    let other = Config {
        max_messages: 5,
        ..orders()
    };
    let error = api.create_stream(other).await.unwrap_err();
    assert!(error.to_string().contains("10058"), "{error}");
    let mut heard = api.client().subscribe("orders.*").await.unwrap();
    settled(&api.client()).await;
    assert_eq!(publish(&api, "orders.created", "one").await, 1);
    assert_eq!(next(&mut heard).await, "one", "subscribers hear it as well");
    let sent = api
        .publish_with_headers("orders.paid", header("Nats-Msg-Id", "7"), "two".into())
        .await
        .unwrap();
    assert!(!sent.await.unwrap().duplicate);
    let again = api
        .publish_with_headers("orders.paid", header("Nats-Msg-Id", "7"), "two".into())
        .await
        .unwrap();
    let again = again.await.unwrap();
    assert_eq!(
        (again.sequence, again.duplicate, again.stream.as_str()),
        (2, true, "ORDERS")
    );
    let state = stream.info().await.unwrap().state.clone();
    assert_eq!((state.messages, state.first_sequence, state.last_sequence), (2, 1, 2));
    // For the mesh it is a stream as any other.
    let events = node.run(&["stream", "read", "ORDERS", "--json"]).json_lines();
    assert_eq!(
        (&events[0]["type"], &events[1]["id"]),
        (&"orders.created".into(), &"7".into())
    );
    node.run(&["stream", "verify", "ORDERS"]).ok();
    let words = node.run(&["stream", "info", "ORDERS"]).ok();
    assert!(words.contains("subjects   orders.>"), "{words}");
    node.run(&[
        "stream",
        "append",
        "ORDERS",
        "--type",
        "order.closed",
        "--tag",
        "customer=1",
        "three",
    ])
    .ok();
    let message = stream.get_raw_message(3).await.unwrap();
    assert_eq!(
        (message.subject.as_str(), message.payload.as_ref()),
        ("order.closed", &b"three"[..])
    );
    assert_eq!(message.headers.get("ce-type").unwrap().as_str(), "order.closed");
    let message = stream.get_raw_message(2).await.unwrap();
    assert_eq!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), "7");
    assert!(stream.get_raw_message(4).await.is_err());
    for (subject, sequence) in [("orders.created", 1), ("orders.paid", 2)] {
        let last = stream.get_last_raw_message_by_subject(subject).await.unwrap();
        let direct = stream.direct_get_last_for_subject(subject).await.unwrap();
        assert_eq!((last.sequence, direct.sequence), (sequence, sequence));
    }
    assert!(stream.get_last_raw_message_by_subject("orders.none").await.is_err());
    assert!(stream.direct_get_last_for_subject("orders.none").await.is_err());
    let names: Vec<String> = api.stream_names().try_collect().await.unwrap();
    assert_eq!(names, ["ORDERS"]);
    assert_eq!(api.stream_by_subject("orders.x").await.unwrap(), "ORDERS");
    assert!(api.query_account().await.unwrap().storage > 0);
    // A message that no stream takes in has nobody to acknowledge it.
    let nobody = api.publish("other.thing", "x".into()).await.unwrap();
    assert!(nobody.await.is_err());
    api.delete_stream("ORDERS").await.unwrap();
    assert!(api.get_stream("ORDERS").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_publication_expects_is_so_or_it_is_refused() {
    let node = node(&[]);
    let api = api(&node).await;
    api.create_stream(orders()).await.unwrap();
    publish(&api, "orders.a", "1").await;
    publish(&api, "orders.b", "2").await;
    let expect = |name: &str, value: &str| header(&format!("Nats-Expected-{name}"), value);
    for (headers, code, words) in [
        (
            expect("Last-Sequence", "1"),
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE,
            "wrong last sequence: 2",
        ),
        (
            expect("Last-Subject-Sequence", "0"),
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE,
            "wrong last sequence",
        ),
        (
            expect("Last-Subject-Sequence", "2"),
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE,
            "none of orders.a",
        ),
        (
            expect("Stream", "OTHER"),
            ErrorCode::STREAM_NOT_MATCH,
            "expected stream",
        ),
        (
            expect("Last-Msg-Id", "x"),
            ErrorCode::BAD_REQUEST,
            "Nats-Expected-Last-Msg-Id",
        ),
        (expect("Last-Sequence", "two"), ErrorCode::BAD_REQUEST, "no number"),
        (header("Nats-Rollup", "all"), ErrorCode::BAD_REQUEST, "Nats-Rollup"),
    ] {
        let (got, said) = refused(&api, "orders.a", headers).await;
        assert_eq!(got, code, "{said}");
        assert!(said.contains(words), "{said}");
    }
    for headers in [
        expect("Last-Sequence", "2"),
        expect("Last-Subject-Sequence", "3"),
        expect("Stream", "ORDERS"),
    ] {
        api.publish_with_headers("orders.a", headers, "x".into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    // The same id for another message is a mistake, and nothing of either is lost.
    api.publish_with_headers("orders.a", header("Nats-Msg-Id", "9"), "x".into())
        .await
        .unwrap()
        .await
        .unwrap();
    let mut other = header("Nats-Msg-Id", "9");
    other.insert("Other", "y");
    let (_, said) = refused(&api, "orders.a", other).await;
    assert!(said.contains("another event with the id 9"), "{said}");
    assert_eq!(node.run(&["stream", "read", "ORDERS", "--json"]).json_lines().len(), 6);
    // What Weft's streams do not have is refused by its name.
    let odd = Config {
        name: "ODD".to_owned(),
        max_messages_per_subject: 1,
        ..Config::default()
    };
    let error = api.create_stream(odd).await.unwrap_err().to_string();
    assert!(error.contains("max_msgs_per_subject"), "{error}");
    let overlapping = Config {
        name: "OVER".to_owned(),
        subjects: vec!["orders.*.x".to_owned()],
        ..Config::default()
    };
    let error = api.create_stream(overlapping).await.unwrap_err().to_string();
    assert!(error.contains("10065") && error.contains("ORDERS"), "{error}");
    let stream = api.get_stream("ORDERS").await.unwrap();
    assert!(stream.purge().await.is_err() && stream.delete_message(1).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_hands_out_until_each_message_is_settled() {
    let node = node(&[]);
    let api = api(&node).await;
    let stream = api.create_stream(orders()).await.unwrap();
    for n in 0..10 {
        publish(&api, "orders.created", &n.to_string()).await;
    }
    publish(&api, "orders.paid", "paid").await;
    let mut consumer = stream
        .create_consumer(pull::Config {
            max_deliver: 2,
            ..billing()
        })
        .await
        .unwrap();
    let first = fetch(&consumer, 4).await;
    assert_eq!(texts(&first), ["0", "1", "2", "3"]);
    let info = first[3].info().unwrap();
    assert_eq!(
        (
            info.stream_sequence,
            info.consumer_sequence,
            info.delivered,
            info.pending
        ),
        (4, 4, 1, 7)
    );
    first[0].double_ack().await.unwrap();
    first[1].double_ack_with(AckKind::Nak(None)).await.unwrap();
    first[2].ack_with(AckKind::Term).await.unwrap();
    first[3].ack_with(AckKind::Progress).await.unwrap();
    // The second comes again, and is a dead letter after that.
    let again = fetch(&consumer, 1).await;
    assert_eq!((texts(&again), again[0].info().unwrap().delivered), (vec!["1"], 2));
    again[0].ack_with(AckKind::Nak(None)).await.unwrap();
    first[3].double_ack().await.unwrap();
    until("there are two dead letters", || {
        let dead = node
            .run(&["consumer", "dead-letters", "ORDERS", "billing", "--json"])
            .json_lines();
        (dead.len() == 2).then_some(())
    });
    // What follows, as it comes.
    let mut messages = consumer.messages().await.unwrap();
    for n in 4..10 {
        let message = timeout(PATIENCE, messages.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(message.payload, n.to_string());
        message.ack().await.unwrap();
    }
    let paid = timeout(PATIENCE, messages.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(paid.subject.as_str(), "orders.paid");
    paid.double_ack().await.unwrap();
    publish(&api, "orders.created", "live").await;
    let live = timeout(PATIENCE, messages.next()).await.unwrap().unwrap().unwrap();
    live.double_ack().await.unwrap();
    drop(messages);
    let info = consumer.info().await.unwrap();
    assert_eq!(
        (info.num_ack_pending, info.num_pending, info.ack_floor.stream_sequence),
        (0, 0, 12)
    );
    // Nothing more is there: who does not wait is told at once, who waits when the time is over.
    assert!(fetch(&consumer, 5).await.is_empty());
    let batch = consumer.batch().max_messages(5).expires(Duration::from_millis(300));
    let batch: Vec<_> = timeout(PATIENCE, batch.messages().await.unwrap().collect())
        .await
        .unwrap();
    assert!(batch.is_empty());
    stream.delete_consumer("billing").await.unwrap();
    assert!(stream.get_consumer::<pull::Config>("billing").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_that_comes_too_late_is_not_confirmed() {
    let node = node(&[]);
    let api = api(&node).await;
    let stream = api.create_stream(orders()).await.unwrap();
    publish(&api, "orders.a", "1").await;
    let consumer = stream
        .create_consumer(pull::Config {
            ack_wait: Duration::from_millis(300),
            ..billing()
        })
        .await
        .unwrap();
    let first = fetch(&consumer, 1).await;
    // It is handed out again, and whoever has it now answers for it.
    let again = || async {
        loop {
            if let Some(message) = fetch(&consumer, 1).await.pop() {
                return message;
            }
        }
    };
    let mut message = again().await;
    assert!(message.info().unwrap().delivered > 1);
    let late = timeout(Duration::from_millis(300), first[0].double_ack()).await;
    assert!(late.is_err());
    // Who is late again has another try.
    while timeout(Duration::from_millis(250), message.double_ack()).await.is_err() {
        message = again().await;
    }
    assert!(fetch(&consumer, 1).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_takes_what_fits_and_refuses_the_rest() {
    let node = node(&[]);
    let api = api(&node).await;
    let few = Config {
        max_messages: 3,
        discard: DiscardPolicy::New,
        ..orders()
    };
    api.create_stream(few).await.unwrap();
    // Without waiting: they may come to the stream together.
    let sent = join_all((0..20).map(|n| api.publish("orders.a", n.to_string().into()))).await;
    let acks = join_all(sent.into_iter().map(|ack| ack.unwrap().into_future())).await;
    assert_eq!(acks.iter().filter(|ack| ack.is_ok()).count(), 3);
    let (code, said) = refused(&api, "orders.a", HeaderMap::new()).await;
    assert_eq!(code, ErrorCode::STREAM_STORE_FAILED, "{said}");
    assert_eq!(node.run(&["stream", "read", "ORDERS", "--json"]).json_lines().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_choose_what_they_are_handed() {
    let node = node(&[]);
    let api = api(&node).await;
    let stream = api.create_stream(orders()).await.unwrap();
    for n in 0..6 {
        let subject = if n % 2 == 0 { "orders.even" } else { "orders.odd" };
        publish(&api, subject, &n.to_string()).await;
    }
    let with = |config: pull::Config| stream.create_consumer(config);
    let odd = with(pull::Config {
        filter_subject: "orders.odd".to_owned(),
        ..billing()
    });
    assert_eq!(texts(&fetch(&odd.await.unwrap(), 10).await), ["1", "3", "5"]);
    let all = pull::Config {
        filter_subject: "orders.>".to_owned(),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: 5 },
        ack_policy: AckPolicy::None,
        ..pull::Config::default()
    };
    let all = with(all).await.unwrap();
    assert_eq!(texts(&fetch(&all, 10).await), ["4", "5"]);
    let error = with(pull::Config {
        filter_subject: "orders.*.x".to_owned(),
        ..pull::Config::default()
    });
    let error = error.await.unwrap_err().to_string();
    assert!(error.contains("wildcards"), "{error}");
    // Ordered: once each, in order, nothing to settle.
    let ordered = stream.create_consumer(pull::OrderedConfig::default()).await.unwrap();
    let mut messages = ordered.messages().await.unwrap();
    for n in 0..6 {
        let message = timeout(PATIENCE, messages.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(message.payload, n.to_string());
    }
    drop(messages);
    // So many bytes, and no more.
    let bytes = with(pull::Config::default()).await.unwrap();
    let few: Vec<_> = bytes
        .batch()
        .max_messages(6)
        .max_bytes(30)
        .expires(Duration::from_secs(5))
        .messages()
        .await
        .unwrap()
        .collect()
        .await;
    let few: Vec<String> = few
        .into_iter()
        .flatten()
        .map(|one| String::from_utf8_lossy(&one.payload).into_owned())
        .collect();
    assert_eq!(few, ["0", "1"]);
    // What did not fit was not handed out: it comes at once, for the first time.
    let rest = bytes.fetch().max_messages(4).messages().await.unwrap();
    let rest: Vec<_> = rest.map(|one| one.unwrap().info().unwrap().delivered).collect().await;
    assert_eq!(rest, [1, 1, 1, 1]);
    // Consumers without a durable name go when nobody uses them.
    until("only the durable one is left", || {
        let left = node.run(&["consumer", "info", "ORDERS", "--json"]).json_lines();
        let names: Vec<&str> = left.iter().filter_map(|one| one["name"].as_str()).collect();
        (names == ["billing"]).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_does_not_wait_keeps_its_order_and_many_share_the_work() {
    const MESSAGES: usize = 2000;
    let node = node(&[]);
    let api = api(&node).await;
    let work = Config {
        retention: RetentionPolicy::WorkQueue,
        ..orders()
    };
    let stream = api.create_stream(work).await.unwrap();
    let mut acks = Vec::new();
    for n in 0..MESSAGES {
        acks.push(api.publish("orders.n", n.to_string().into()).await.unwrap());
    }
    for (n, ack) in acks.into_iter().enumerate() {
        assert_eq!(ack.await.unwrap().sequence, n as u64 + 1);
    }
    let consumer: PullConsumer = stream.create_consumer(billing()).await.unwrap();
    let share = |_| {
        let consumer = consumer.clone();
        async move {
            let mut done = Vec::new();
            let mut messages = consumer.messages().await.unwrap();
            while let Ok(Some(message)) = timeout(Duration::from_secs(3), messages.next()).await {
                let message = message.unwrap();
                message.double_ack().await.unwrap();
                done.push(String::from_utf8_lossy(&message.payload).into_owned());
            }
            done
        }
    };
    let shares: Vec<Vec<String>> = join_all((0..4).map(share)).await;
    let all: BTreeSet<&String> = shares.iter().flatten().collect();
    assert_eq!(all.len(), MESSAGES);
    assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), MESSAGES, "each once");
    until("what is worked off is gone", || {
        let info = node.run(&["stream", "info", "ORDERS", "--json"]).json();
        (info["records"] == 0).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_the_same_at_every_door() {
    let alpha = node(&[]);
    let ticket = alpha.ticket(2);
    let beta = node(&["--join", &ticket]);
    let gamma = node(&["--join", &ticket]);
    for (one, other) in [(&alpha, &beta), (&alpha, &gamma), (&beta, &gamma)] {
        one.wait_sees(other.id());
        other.wait_sees(one.id());
    }
    let (ann, bob) = (api(&alpha).await, api(&beta).await);
    let copied = Config {
        num_replicas: 3,
        ..orders()
    };
    ann.create_stream(copied).await.unwrap();
    // The other door hears of it a moment later; until then nobody takes the message in.
    let mut first = None;
    for _ in 0..300 {
        if let Ok(ack) = bob.publish("orders.a", "1".into()).await.unwrap().await {
            first = Some(ack.sequence);
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(first, Some(1));
    assert_eq!(publish(&ann, "orders.a", "2").await, 2);
    let info = bob.get_stream("ORDERS").await.unwrap().cached_info().clone();
    assert_eq!((info.config.num_replicas, info.cluster.unwrap().replicas.len()), (3, 2));
    let consumer: PullConsumer = bob.create_consumer_on_stream(billing(), "ORDERS").await.unwrap();
    let got = fetch(&consumer, 1).await;
    got[0].double_ack().await.unwrap();
    let same: PullConsumer = ann.get_consumer_from_stream("billing", "ORDERS").await.unwrap();
    assert_eq!(texts(&fetch(&same, 5).await), ["2"]);
    // Whoever leads goes; the other doors go on, and nothing that was acknowledged is lost.
    let mut mesh = [alpha, beta, gamma];
    let leader = mesh[0].run(&["stream", "info", "ORDERS", "--json"]).json()["owner"].clone();
    let leader = mesh.iter().position(|node| leader == node.id()).unwrap();
    mesh[leader].kill();
    let other = api(&mesh[(leader + 1) % 3]).await;
    let mut sequence = None;
    for _ in 0..30 {
        let sent = other.publish_with_headers("orders.a", header("Nats-Msg-Id", "three"), "3".into());
        if let Ok(ack) = sent.await.unwrap().await {
            sequence = Some(ack.sequence);
            break;
        }
    }
    assert_eq!(sequence, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_takes_in_only_what_its_keeper_may_hear() {
    let alpha = node(&[]);
    let join = |role: &str| {
        let ticket = alpha.run(&["invite", "--role", role]).ok();
        let node = node(&["--join", ticket.trim()]);
        node.wait_sees(alpha.id());
        node
    };
    let (shop, spy) = (join("shop"), join("spy"));
    shop.wait_sees(spy.id());
    spy.run(&["stream", "create", "SPY", "--subjects", "orders.>"]).ok();
    until("the shop knows the stream", || {
        let listed = shop.run(&["stream", "ls", "--json"]).json_lines();
        listed.iter().any(|one| one["name"] == "SPY").then_some(())
    });
    let api = api(&shop).await;
    let ack = api.publish("orders.a", "secret".into()).await.unwrap().await;
    assert!(ack.is_err(), "{ack:?}");
    let info = spy.run(&["stream", "info", "SPY", "--json"]).json();
    assert_eq!(info["version"], 0);
    // Of a member with a role of its own kind a stream takes it in.
    let branch = join("shop");
    branch.wait_sees(shop.id());
    // What takes in nothing stands in nobody's way.
    branch
        .run(&["stream", "create", "ORDERS", "--subjects", "orders.>"])
        .ok();
    let mut acknowledged = false;
    for _ in 0..300 {
        acknowledged = api.publish("orders.a", "news".into()).await.unwrap().await.is_ok();
        if acknowledged {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(acknowledged);
}
