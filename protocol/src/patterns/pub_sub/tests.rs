use super::*;
use crate::limits::CAPABILITIES_MAX;
use crate::patterns::pub_sub::repair::{Original, PastFrame, PastPlace, RepairReply, RepairRequest};
use crate::testing::{mesh, public};

fn publication(subject: &str) -> Publication {
    let mut message = Message::new("", "", "");
    message.subject = Some(subject.parse().unwrap());
    Publication {
        message,
        capability: Vec::new(),
        picks: None,
    }
}

fn frame(publications: Vec<Publication>) -> Frame {
    Frame {
        epoch: 5,
        shard: "orders".parse::<Subject>().unwrap().shard(SHARDS),
        first_seq: 3,
        before_ms: 0,
        publications,
    }
}

#[test]
fn a_publication_has_a_subject() {
    assert_eq!(publication("orders.eu").subject().unwrap().as_str(), "orders.eu");
    let mut none = publication("orders.eu");
    none.message.subject = None;
    assert!(
        Frame::from_bytes(&frame(vec![none]).to_bytes())
            .unwrap_err()
            .to_string()
            .contains("no subject")
    );
}

#[test]
fn what_is_left_out_follows_from_the_place() {
    let line = Line::new(&public(1).peer_id(), 0xe0, 2).unwrap();
    let mut sparse = publication("orders.eu");
    assert!(sparse.message.check().is_err(), "alone it is no message");
    sparse.complete("mesh://m/n", &line, 7);
    let message = &sparse.message;
    let attributes = (message.id.as_str(), message.source.as_str(), message.kind.as_str());
    assert_eq!(attributes, ("e0-2-7", "mesh://m/n", MESSAGE_KIND));
    sparse.complete("mesh://other", &line, 8);
    assert_eq!(sparse.message.id, "e0-2-7", "what is there stays");
    assert_eq!(line.publisher(), public(1).peer_id());
}

#[test]
fn a_frame_is_of_one_shard_and_knows_its_last_number() {
    let mut two = frame(vec![publication("orders.eu"), publication("orders.us")]);
    assert_eq!(two.last_seq(), 4);
    assert_eq!(Frame::from_bytes(&two.to_bytes()), Ok(two.clone()));
    let other = (0..100)
        .map(|n| publication(&format!("t{n}")))
        .find(|p| p.subject().unwrap().shard(SHARDS) != two.shard);
    two.publications.extend(other);
    assert!(Frame::from_bytes(&two.to_bytes()).is_err(), "of two shards");
    two.publications.pop();
    let empty = frame(Vec::new());
    assert_eq!((empty.last_seq()), 2);
    let good = two.clone();
    for wrong in [0, u64::MAX] {
        two.first_seq = wrong;
        assert!(Frame::from_bytes(&two.to_bytes()).is_err(), "{wrong}");
    }
    let beyond = Frame { shard: SHARDS, ..good };
    assert!(Frame::from_bytes(&beyond.to_bytes()).is_err());
}

#[test]
fn the_largest_publication_is_sent_read_and_repaired() {
    let mut largest = publication("orders.eu");
    largest.message.data = vec![0x55; PUBLISH_BODY_BYTES_MAX];
    largest.capability = vec![vec![0; 3072]; CAPABILITIES_MAX];
    let alone = frame(vec![largest.clone()]);
    let bytes = alone.to_checked_bytes().unwrap();
    assert_eq!(Frame::from_bytes(&bytes), Ok(alone));
    let data = vec![0; FRAME_BYTES_MAX];
    let originals = vec![Original {
        gossip_seq: u64::MAX,
        data,
        signature: vec![0; 64],
    }];
    let reply = RepairReply::Originals { originals }.to_checked_bytes().unwrap();
    assert!(reply.len() <= crate::direct::DIRECT_PAYLOAD_BYTES_MAX);
    largest.message.data.push(0);
    let error = largest.to_checked_bytes().unwrap_err();
    let expected = DecodeError::TooLarge {
        what: "message data",
        limit: PUBLISH_BODY_BYTES_MAX,
        got: PUBLISH_BODY_BYTES_MAX + 1,
    };
    assert_eq!(error, expected);
}

#[test]
fn nothing_is_asked_of_shards_that_are_not() {
    let line = Line::new(&public(1).peer_id(), 1, SHARDS).unwrap();
    assert!(RepairRequest::Await { line, seq: 1 }.to_checked_bytes().is_err());
    let original = |signature| Original {
        gossip_seq: 0,
        data: Vec::new(),
        signature,
    };
    // What went directly is on a direct line, and not signed; anything else is neither.
    for (shard, signature, is_good) in [
        (0, vec![1; 64], true),
        (SHARDS, vec![1; 64], false),
        (DIRECT, Vec::new(), true),
        (DIRECT, vec![1; 64], false),
        (DIRECT + SHARDS, Vec::new(), false),
    ] {
        let frames = vec![PastFrame {
            line: Line { shard, ..line },
            original: original(signature),
        }];
        let reply = RepairReply::Past { frames, more: false };
        assert_eq!(reply.to_checked_bytes().is_ok(), is_good, "{shard}");
    }
    let backwards = RepairRequest::Past {
        pattern: "a".parse().unwrap(),
        since_ms: 2,
        before: Some(PastPlace {
            made_ms: 1,
            line: Line { shard: 0, ..line },
            first_seq: 1,
        }),
    };
    assert!(backwards.to_checked_bytes().is_err());
    let line = Line { shard: 0, ..line };
    for (from_seq, to_seq) in [(0, 1), (3, 2)] {
        assert!(
            RepairRequest::Fetch { line, from_seq, to_seq }
                .to_checked_bytes()
                .is_err()
        );
    }
}

#[test]
fn topics_are_apart_by_mesh_and_shard() {
    let topics: std::collections::BTreeSet<String> = (0..SHARDS).map(|shard| topic(&mesh(), shard)).collect();
    assert_eq!(topics.len(), usize::from(SHARDS));
    assert!(topics.iter().all(|topic| topic.contains(&mesh().short())));
}
