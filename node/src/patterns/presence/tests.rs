//! What follows from what, one by one; and nodes that come and go.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use weft_protocol::{
    Pattern, PeerId, SecretKey,
    limits::{PRESENCES_MAX, WILL_BYTES_MAX},
    patterns::presence::{Presence as Declaration, Presences, Will},
};

use super::{
    standing::{Consequences, Standing},
    *,
};
use crate::{
    node::{Node, NodeOptions},
    patterns::pub_sub::{Delivery, PubSubHandle, Received, Subscription},
    testing::{TestPlatform, key, member, mesh_config},
    trust::{FoundOptions, MeshKind},
};

const PATIENCE: Duration = Duration::from_secs(40);

fn peer(number: u8) -> PeerId {
    SecretKey::from_bytes(&[number; 32]).public().peer_id()
}

fn will(subject: &str, data: &str) -> Will {
    Will {
        subject: subject.parse().unwrap(),
        datacontenttype: Some("text/plain".into()),
        data: data.into(),
    }
}

fn said(epoch: u64, numbers: &[u64], gone: &[u64]) -> BTreeMap<PeerId, Presences> {
    let declaration = |number: &u64| Declaration {
        subject: format!("sensors.{number}").parse().unwrap(),
        number: *number,
        since_ms: 1,
        will: Some(will("alarms", &number.to_string())),
    };
    let list = numbers.iter().map(declaration).collect();
    let gone = gone.to_vec();
    BTreeMap::from([(peer(1), Presences { epoch, list, gone })])
}

/// `+7` came, `-7` took leave, `!7` is gone; then the wills.
fn told(found: Consequences) -> (String, Vec<String>) {
    let mark = |change: &Change| match change.fate {
        Fate::Present => '+',
        Fate::Withdrawn => '-',
        Fate::Gone => '!',
    };
    let number = |change: &Change| change.subject.as_str().rsplit('.').next().unwrap().to_owned();
    let changes: Vec<String> = found
        .changes
        .iter()
        .map(|c| format!("{}{}", mark(c), number(c)))
        .collect();
    let wills = found
        .wills
        .iter()
        .map(|(.., will)| String::from_utf8(will.data.clone()).unwrap());
    (changes.join(" "), wills.collect())
}

fn nothing() -> (String, Vec<String>) {
    (String::new(), Vec::new())
}

#[test]
fn what_leaves_with_a_word_has_no_will_and_what_leaves_without_has_one() {
    let mut standing = Standing::default();
    // Nobody knows yet whether it is there.
    assert_eq!(told(standing.read(said(5, &[1, 2, 3, 4], &[]))), nothing());
    assert_eq!(told(standing.judge(&peer(1), true)), ("+1 +2 +3 +4".into(), vec![]));
    assert_eq!(told(standing.judge(&peer(1), true)), nothing());
    assert_eq!(told(standing.read(said(5, &[1, 2, 3, 4], &[]))), nothing());
    // Withdrawn; and gone, but then its node has said the will.
    assert_eq!(told(standing.read(said(5, &[2, 3, 4], &[]))), ("-1".into(), vec![]));
    assert_eq!(told(standing.read(said(5, &[3, 4, 5], &[2]))), ("!2 +5".into(), vec![]));
    // The node is gone, and comes back as it was.
    let all = vec!["3".to_owned(), "4".to_owned(), "5".to_owned()];
    assert_eq!(told(standing.judge(&peer(1), false)), ("!3 !4 !5".into(), all.clone()));
    assert_eq!(told(standing.judge(&peer(1), false)), nothing());
    assert_eq!(told(standing.judge(&peer(1), true)), ("+3 +4 +5".into(), vec![]));
    // It started anew before anybody missed it, and has the same numbers.
    assert_eq!(told(standing.read(said(6, &[3], &[]))), ("!3 !4 !5 +3".into(), all));
    // Its record says nothing of it any more.
    assert_eq!(
        told(standing.read(BTreeMap::new())),
        ("!3".into(), vec!["3".to_owned()])
    );
    assert!(!standing.is_known(&peer(1)));
}

#[test]
fn who_asks_late_about_one_that_is_long_gone_has_missed_nothing() {
    let mut standing = Standing::default();
    standing.read(said(5, &[1], &[]));
    assert_eq!(standing.is_alive(&peer(1)), None);
    assert_eq!(told(standing.judge(&peer(1), false)), nothing());
    assert_eq!(standing.is_alive(&peer(1)), Some(false));
    assert_eq!(told(standing.read(BTreeMap::new())), nothing());
    standing.read(said(5, &[1], &[]));
    standing.judge(&peer(1), true);
    standing.forget(&peer(1));
    assert_eq!(told(standing.judge(&peer(1), false)), nothing());
}

async fn node(platform: &Arc<TestPlatform>, number: u8, others: &[&Node]) -> Node {
    let bootstrap = others.iter().flat_map(|other| other.addresses()).collect();
    let mesh = mesh_config(&format!("node-{number}"), bootstrap, "tcp");
    let name = mesh.name.clone();
    let options = NodeOptions::new(key(number), "/store", mesh);
    let builder = Node::builder().pattern(PubSub).pattern(super::Presence);
    let node = builder.start(platform.clone(), options).await.unwrap();
    if node.trust().mesh().is_none() {
        let kind = MeshKind::Open;
        node.trust().found(&key(99), FoundOptions { kind, name }).await.unwrap();
    }
    member(&node).await;
    node
}

fn handles(node: &Node) -> (PubSubHandle, PresenceHandle) {
    (
        node.handle::<PubSub>().unwrap(),
        node.handle::<super::Presence>().unwrap(),
    )
}

async fn change(watching: &mut Watching) -> (String, Fate) {
    let change = tokio::time::timeout(PATIENCE, watching.next())
        .await
        .expect("a change in time");
    let change = change.expect("the watch goes on");
    (change.subject.to_string(), change.fate)
}

async fn message(subscription: &mut Subscription) -> Received {
    let delivery = tokio::time::timeout(PATIENCE, subscription.next()).await;
    match delivery.expect("a message in time") {
        Some(Delivery::Message(received)) => received,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_is_missed_and_its_will_is_said_by_the_others() {
    let [a, b, c] = [(); 3].map(|()| TestPlatform::new());
    let alpha = node(&a, 1, &[]).await;
    let beta = node(&b, 2, &[&alpha]).await;
    let gamma = node(&c, 3, &[&alpha, &beta]).await;
    let ((messages, watcher), (_, other), (_, sensor)) = (handles(&alpha), handles(&beta), handles(&gamma));
    let pattern: Pattern = "sensors.*".parse().unwrap();
    let mut watching = watcher.watch(pattern.clone());
    let mut alarms = messages.subscribe("alarms".parse().unwrap(), None);

    let first = sensor
        .declare("sensors.1".parse().unwrap(), Some(will("alarms", "one")))
        .unwrap();
    assert_eq!(change(&mut watching).await, ("sensors.1".into(), Fate::Present));
    let second = sensor
        .declare("sensors.2".parse().unwrap(), Some(will("alarms", "two")))
        .unwrap();
    assert_eq!(change(&mut watching).await, ("sensors.2".into(), Fate::Present));
    let near = other.declare("sensors.3".parse().unwrap(), None).unwrap();
    assert_eq!(change(&mut watching).await, ("sensors.3".into(), Fate::Present));
    let mut late = watcher.watch(pattern.clone());
    let mut there = vec![
        change(&mut late).await.0,
        change(&mut late).await.0,
        change(&mut late).await.0,
    ];
    there.sort();
    assert_eq!(there, ["sensors.1", "sensors.2", "sensors.3"]);

    // Leave, with a word and without.
    near.withdraw();
    assert_eq!(change(&mut watching).await, ("sensors.3".into(), Fate::Withdrawn));
    first.is_gone().await;
    let alarm = message(&mut alarms).await;
    assert_eq!(
        (alarm.data(), alarm.publisher()),
        (&b"one"[..], gamma.mesh().local_peer())
    );
    assert_eq!(change(&mut watching).await, ("sensors.1".into(), Fate::Gone));

    // The node goes, and takes what was there along without a word.
    let gone = gamma.mesh().local_peer();
    gamma.stop().await;
    let alarm = message(&mut alarms).await;
    assert_eq!((alarm.data(), alarm.publisher()), (&b"two"[..], gone));
    assert_eq!(alarm.attributes().extension("weftwill"), Some("true"));
    assert_eq!(change(&mut watching).await, ("sensors.2".into(), Fate::Gone));
    assert_eq!(watcher.present(&pattern).await, []);
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_refused() {
    let alpha = node(&TestPlatform::new(), 1, &[]).await;
    let (_, presence) = handles(&alpha);
    let declare = |number: usize, bytes: usize| {
        let will = (bytes > 0).then(|| will("alarms", &"x".repeat(bytes)));
        presence.declare(format!("sensors.{number}").parse().unwrap(), will)
    };
    assert!(matches!(declare(0, WILL_BYTES_MAX + 1), Err(PresenceError::Invalid(_))));
    let heavy: Vec<_> = (0..20)
        .map_while(|number| declare(number, WILL_BYTES_MAX).ok())
        .collect();
    assert!((4..10).contains(&heavy.len()), "{}", heavy.len());
    assert!(matches!(declare(0, WILL_BYTES_MAX), Err(PresenceError::Full(_))));
    drop(heavy);
    let many: Vec<_> = (0..PRESENCES_MAX).map(|number| declare(number, 0).unwrap()).collect();
    assert!(matches!(declare(0, 0), Err(PresenceError::Full(_))));
    assert_eq!(presence.present(&">".parse().unwrap()).await.len(), many.len());
    assert!(!presence.withdraw(&"sensors.1".parse().unwrap(), many[0].number()));
    assert!(presence.withdraw(&"sensors.0".parse().unwrap(), many[0].number()));
    many[0].withdrawn().await;
}
