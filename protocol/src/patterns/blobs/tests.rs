use super::*;
use crate::SecretKey;

fn peer(seed: u8) -> PeerId {
    SecretKey::from_bytes(&[seed; 32]).public().peer_id()
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn the_hashes_of_groups_are_those_of_the_whole() {
    for bytes in [
        1,
        1023,
        GROUP_BYTES,
        GROUP_BYTES + 1,
        3 * GROUP_BYTES,
        5 * GROUP_BYTES + 17,
        8 * GROUP_BYTES,
    ] {
        let content = content(bytes);
        let groups: Vec<&[u8]> = content.chunks(GROUP_BYTES).collect();
        assert_eq!(groups.len(), groups_of(bytes as u64));
        let hash = |(index, data): (usize, &&[u8])| hash_group(index, groups.len(), data);
        let mut hashes: Vec<GroupHash> = groups.iter().enumerate().map(hash).collect();
        let whole = BlobId::from_bytes(blake3::hash(&content).into());
        assert_eq!(BlobId::of_groups(&hashes), Some(whole), "{bytes} bytes");
        if let Some(last) = hashes.last_mut() {
            last[0] ^= 1;
        }
        assert_ne!(BlobId::of_groups(&hashes), Some(whole), "{bytes} bytes");
    }
    assert_eq!(BlobId::of_groups(&[]), None);
}

#[test]
fn a_reference_is_a_path_of_the_local_api_and_is_read_again() {
    let reference = Reference {
        id: BlobId::from_bytes([7; 32]),
        bytes: 5_000_000,
        subject: "cameras.7".parse().unwrap(),
        publisher: peer(1),
    };
    let text = reference.to_string();
    assert!(text.starts_with("/v1/blobs/0707"), "{text}");
    assert_eq!(text.parse::<Reference>(), Ok(reference.clone()));
    // The longest one fits into an attribute.
    let longest = Reference {
        bytes: BLOB_BYTES_MAX,
        subject: "a".repeat(crate::limits::SUBJECT_BYTES_MAX).parse().unwrap(),
        ..reference
    };
    assert!(longest.to_string().len() <= crate::limits::MESSAGE_ATTRIBUTE_BYTES_MAX);
}

#[test]
fn what_is_no_reference_is_refused() {
    let good = Reference {
        id: BlobId::from_bytes([7; 32]),
        bytes: 5,
        subject: "a".parse().unwrap(),
        publisher: peer(1),
    }
    .to_string();
    let wrong = [
        String::new(),
        "http://elsewhere/blob".to_owned(),
        "/v1/blobs/07".to_owned(),
        good.replace("bytes=5", "bytes=0"),
        good.replace("bytes=5", "bytes=-1"),
        good.replace("bytes=5", "bytes=999999999999999"),
        good.replace("subject=a", "subject=a..b"),
        good.replace("subject=a&", ""),
        good.replace("publisher=", "publisher=x"),
        good.replace("0707", "07G7"),
        "x".repeat(4000),
    ];
    for text in wrong {
        assert!(text.parse::<Reference>().is_err(), "{text}");
    }
}

#[test]
fn messages_out_of_bounds_are_refused() {
    let wrong = [
        BlobMessage::Have { bytes: 0 },
        BlobMessage::Have {
            bytes: BLOB_BYTES_MAX + 1,
        },
        BlobMessage::Hashes(vec![0; 33]),
        BlobMessage::Hashes(Vec::new()),
        BlobMessage::Part(vec![0; STREAM_PART_BYTES_MAX + 1]),
        BlobMessage::TurnedAway {
            is_busy: true,
            detail: "x".repeat(REASON_BYTES_MAX + 1),
        },
    ];
    for message in wrong {
        assert!(BlobMessage::from_bytes(&message.to_bytes()).is_err(), "{message:?}");
    }
    let most = BlobMessage::Hashes(vec![1; HASHES_PER_MESSAGE_MAX * HASH_BYTES]);
    assert_eq!(BlobMessage::from_bytes(&most.to_bytes()), Ok(most));
}
