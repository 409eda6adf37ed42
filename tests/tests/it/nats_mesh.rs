//! NATS clients at the doors of different nodes, and beside Weft's own commands.

#![expect(clippy::disallowed_methods, reason = "what a client does belongs to no node")]

use std::time::Duration;

use async_nats::{Client, HeaderMap, service::ServiceExt as _};
use futures::StreamExt as _;
use tokio::time::timeout;
use weft_tests::{Node, until};

use crate::nats::{client, next, node, settled};

const PATIENCE: Duration = Duration::from_secs(30);

/// Two nodes of one mesh with open doors.
fn pair() -> (Node, Node) {
    let alpha = node(&[]);
    let ticket = alpha.ticket(1);
    let beta = node(&["--join", &ticket]);
    alpha.wait_sees(beta.id());
    beta.wait_sees(alpha.id());
    (alpha, beta)
}

/// Publishes until the first copy arrives: what another node's clients listen to is known there a moment later.
async fn publish_until_heard(from: &Client, subject: &'static str, to: &mut async_nats::Subscriber) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        from.publish(subject, "warm".into()).await.unwrap();
        from.flush().await.unwrap();
        if timeout(Duration::from_millis(100), to.next()).await.is_ok() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing arrives");
    }
    // The rest of what was sent meanwhile.
    from.publish(subject, "over".into()).await.unwrap();
    while next(to).await != "over" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_every_node_with_its_headers() {
    let (alpha, beta) = pair();
    let (ann, bob) = (client(&alpha).await, client(&beta).await);
    let mut there = bob.subscribe("orders.>").await.unwrap();
    let mut here = ann.subscribe("orders.>").await.unwrap();
    settled(&bob).await;
    publish_until_heard(&ann, "orders.warm", &mut there).await;
    while next(&mut here).await != "over" {}
    let mut headers = HeaderMap::new();
    headers.insert("Tenant", "x");
    headers.append("Tenant", "Ünicode");
    headers.insert("ce-zone", "eu");
    let seen = beta.subscribe(&["orders.eu", "--count", "1", "--json"]);
    for n in 0..100 {
        ann.publish_with_headers("orders.eu", headers.clone(), n.to_string().into())
            .await
            .unwrap();
    }
    for n in 0..100 {
        for heard in [&mut there, &mut here] {
            let message = timeout(PATIENCE, heard.next()).await.unwrap().unwrap();
            assert_eq!(message.payload, n.to_string(), "in order, once");
            assert_eq!(message.headers.as_ref(), Some(&headers));
        }
    }
    // An application of Weft's own hears it, with what it understands of the headers.
    let line = seen.wait_lines(1).remove(0);
    assert!(line.contains("\"zone\":\"eu\""), "{line}");
    // And is heard, as a CloudEvent.
    alpha.run(&["pub", "orders.us", "hi"]).ok();
    for heard in [&mut there, &mut here] {
        let message = timeout(PATIENCE, heard.next()).await.unwrap().unwrap();
        assert_eq!(
            (message.subject.as_str(), &message.payload[..]),
            ("orders.us", &b"hi"[..])
        );
        let headers = message.headers.unwrap();
        assert!(headers.get("ce-source").unwrap().as_str().contains(alpha.id()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reaches_whoever_answers_wherever_it_is() {
    let (alpha, beta) = pair();
    let (ann, bob) = (client(&alpha).await, client(&beta).await);
    let _wave = beta.serve("wave", &["--exec", "printf 'bye '; cat"]);
    let answer = eventually(&ann, "wave", "ann").await;
    assert_eq!(answer, "bye ann");
    // A plain subscriber and a queue group, both of NATS, at the other node.
    for (subject, group) in [("plain.answer", None), ("stock.count", Some("q"))] {
        let bob = bob.clone();
        let mut asked = match group {
            None => bob.subscribe(subject).await.unwrap(),
            Some(group) => bob.queue_subscribe(subject, group.to_owned()).await.unwrap(),
        };
        tokio::spawn(async move {
            while let Some(message) = asked.next().await {
                let text = format!("{} of {subject}", String::from_utf8_lossy(&message.payload));
                bob.publish(message.reply.unwrap(), text.into()).await.unwrap();
            }
        });
    }
    settled(&bob).await;
    assert_eq!(eventually(&ann, "plain.answer", "1").await, "1 of plain.answer");
    assert_eq!(eventually(&ann, "stock.count", "2").await, "2 of stock.count");
    // The group is a service to Weft's own callers, on its node and on the other.
    for node in [&alpha, &beta] {
        let answer = until("the service is known", || {
            let called = node.run(&["call", "stock/count", "3"]);
            (called.code == Some(0)).then(|| called.text())
        });
        assert!(answer.contains("3 of stock.count"), "{answer}");
    }
}

/// Asks until somebody is known to answer.
async fn eventually(from: &Client, subject: &'static str, payload: &'static str) -> String {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match from.request(subject, payload.into()).await {
            Ok(answer) => return String::from_utf8(answer.payload.to_vec()).unwrap(),
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{subject}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_answers_to_one_question_keep_their_order() {
    let (alpha, beta) = pair();
    let (ann, bob) = (client(&alpha).await, client(&beta).await);
    let mut asked = bob.queue_subscribe("count", "q".into()).await.unwrap();
    settled(&bob).await;
    tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            for n in 0..200 {
                bob.publish(message.reply.clone().unwrap(), n.to_string().into())
                    .await
                    .unwrap();
            }
        }
    });
    eventually(&ann, "count", "x").await;
    let mut inbox = ann.subscribe("_INBOX.mine").await.unwrap();
    ann.publish_with_reply("count", "_INBOX.mine", "x".into())
        .await
        .unwrap();
    for n in 0..200 {
        assert_eq!(next(&mut inbox).await, n.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_both_worlds_are_found_by_srv() {
    let (alpha, beta) = pair();
    let (ann, bob) = (client(&alpha).await, client(&beta).await);
    let _wave = beta.serve("wave", &["--echo"]);
    let service = bob.service_builder().start("clock", "1.2.3").await.unwrap();
    let _endpoint = service.endpoint("clock").await.unwrap();
    let mut inbox = ann.subscribe("_INBOX.mine").await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut names = std::collections::BTreeSet::new();
    while names.len() < 2 {
        assert!(tokio::time::Instant::now() < deadline, "only {names:?}");
        ann.publish_with_reply("$SRV.PING", "_INBOX.mine", "".into())
            .await
            .unwrap();
        while let Ok(Some(message)) = timeout(Duration::from_millis(200), inbox.next()).await {
            if let Ok(form) = serde_json::from_slice::<serde_json::Value>(&message.payload) {
                assert_eq!(form["type"], "io.nats.micro.v1.ping_response");
                names.insert(form["name"].as_str().unwrap().to_owned());
            }
        }
    }
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["clock", "wave"]);
    ann.request("wave", "x".into()).await.unwrap();
    for (verb, field) in [("INFO", "description"), ("STATS", "started")] {
        let answer = ann.request(format!("$SRV.{verb}.wave"), "".into()).await.unwrap();
        let form: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(
            form[field].is_string() && form["endpoints"][0]["subject"] == "wave",
            "{form}"
        );
        if verb == "STATS" {
            assert_eq!(form["endpoints"][0]["num_requests"], 1);
        }
    }
}
