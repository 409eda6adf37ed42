use super::*;
use crate::limits::CAPABILITIES_MAX;
use crate::testing::mesh;

fn publication() -> Publication {
    let message = crate::message::tests::message();
    Publication {
        message,
        publisher_seq: 1,
        boot: 1,
        capability: Vec::new(),
    }
}

#[test]
fn a_publication_has_a_subject() {
    assert_eq!(publication().subject().unwrap().as_str(), "orders.eu.created");
    let mut none = publication();
    none.message.subject = None;
    assert!(
        Publication::from_bytes(&none.to_bytes())
            .unwrap_err()
            .to_string()
            .contains("no subject")
    );
}

#[test]
fn the_largest_publication_is_sent_and_read() {
    let mut largest = publication();
    largest.message.data = vec![0x55; PUBLISH_BODY_BYTES_MAX];
    largest.capability = vec![vec![0; 3072]; CAPABILITIES_MAX];
    assert_eq!(
        Publication::from_bytes(&largest.to_checked_bytes().unwrap()),
        Ok(largest.clone())
    );
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
fn topics_are_apart_by_mesh_and_shard() {
    let topics: std::collections::BTreeSet<String> = (0..SHARDS).map(|shard| topic(&mesh(), shard)).collect();
    assert_eq!(topics.len(), usize::from(SHARDS));
    assert!(topics.iter().all(|topic| topic.contains(&mesh().short())));
}
