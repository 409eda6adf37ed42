use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context as TaskContext, Poll},
};

use futures::{AsyncRead, executor::block_on, io::Cursor};
use libp2p::{
    core::UpgradeInfo as _,
    gossipsub::{RawMessage, ValidationError},
    swarm::ConnectionHandler as _,
};
use tokio::sync::mpsc;

use super::{
    frame::{Frame, Frames, LENGTH_DELIMITED, digest, put_varint},
    handler::{Event, Reader},
    *,
};
use crate::{
    mesh::{Mesh, Validation},
    node::Node,
    testing::{PATIENCE, address, member, mesh_config, peers, start},
    trust::MeshKind,
};

const TOPIC: &str = "news";

fn key(seed: u8) -> Keypair {
    Keypair::ed25519_from_bytes([seed; 32]).unwrap()
}

/// A message on the wire, with what is not there left out.
#[derive(Clone, Default)]
struct Wire {
    source: Option<Vec<u8>>,
    data: Option<Vec<u8>>,
    sequence_number: Option<Vec<u8>>,
    topic: Option<Vec<u8>>,
    signature: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl Wire {
    fn signed(seed: u8, number: u64, data: &[u8]) -> Self {
        let original = Original::sign(&key(seed), TOPIC.to_owned(), number, data.to_vec()).unwrap();
        Wire {
            source: Some(original.source.to_bytes()),
            data: Some(original.data),
            sequence_number: Some(number.to_be_bytes().to_vec()),
            topic: Some(original.topic.into_bytes()),
            signature: Some(original.signature),
            key: None,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let parts = [
            &self.source,
            &self.data,
            &self.sequence_number,
            &self.topic,
            &self.signature,
            &self.key,
        ];
        let mut bytes = Vec::new();
        for (number, part) in (1..).zip(parts) {
            if let Some(part) = part {
                put_field(&mut bytes, number, part);
            }
        }
        bytes
    }
}

fn put_field(bytes: &mut Vec<u8>, number: u8, content: &[u8]) {
    bytes.push(number << 3 | LENGTH_DELIMITED);
    put_varint(bytes, content.len());
    bytes.extend_from_slice(content);
}

/// A frame of these messages, with a subscription before them and an IHAVE after.
fn frame_bytes(messages: &[Wire]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut subscription = vec![8, 1];
    put_field(&mut subscription, 2, TOPIC.as_bytes());
    put_field(&mut body, 1, &subscription);
    for message in messages {
        put_field(&mut body, 2, &message.bytes());
    }
    let (mut ihave, mut control) = (Vec::new(), Vec::new());
    put_field(&mut ihave, 1, TOPIC.as_bytes());
    put_field(&mut control, 1, &ihave);
    put_field(&mut body, 3, &control);
    let mut bytes = Vec::new();
    put_varint(&mut bytes, body.len());
    bytes.extend(body);
    bytes
}

fn frame(bytes: Vec<u8>) -> Frame {
    let mut frames = Frames::new(Cursor::new(bytes), FRAME_BYTES_MAX);
    block_on(poll_fn(|cx| frames.poll_next(cx))).unwrap().unwrap()
}

/// Reads as a neighbour's connection does, with the settings the node has.
fn reader() -> Reader {
    let mut behaviour = Behaviour::new(&key(99), false, &Metrics::new()).unwrap();
    let here = "/memory/1".parse().unwrap();
    let handler = behaviour
        .inner
        .handle_established_inbound_connection(ConnectionId::new_unchecked(1), PeerId::random(), &here, &here)
        .unwrap();
    let codec = handler.listen_protocol().upgrade().clone().left().unwrap();
    let name = codec.protocol_info().into_iter().next().unwrap();
    Reader { codec, name }
}

/// What gossipsub is given of a frame: messages, what is invalid, and how much else.
fn read(reader: &Reader, known: &Known, messages: &[Wire]) -> (Vec<RawMessage>, Vec<String>, usize) {
    match reader.read(frame(frame_bytes(messages)), known).unwrap().unwrap() {
        Event::Message { rpc, invalid_messages } => {
            let invalid = invalid_messages.iter().map(|(_, error)| error.to_string()).collect();
            // One control message always comes of itself.
            (
                rpc.messages,
                invalid,
                rpc.subscriptions.len() + rpc.control_msgs.len() - 1,
            )
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn copies_are_what_gossipsub_read_the_first_time() {
    let (reader, known) = (reader(), Known::default());
    let messages = [Wire::signed(1, 7, b"one"), Wire::signed(2, 7, &[3; 3000])];
    let first = read(&reader, &known, &messages);
    assert_eq!((first.0.len(), first.1.len(), first.2), (2, 0, 2));
    let second = read(&reader, &known, &messages);
    assert_eq!(first, second);
    assert_eq!(read(&reader, &known, &messages[1..]).0, first.0[1..]);
}

#[tokio::test]
async fn a_known_message_is_not_verified_again_and_any_other_is() {
    let (reader, known) = (reader(), Known::default());
    // What only verifying would find out: known by mistake, it goes by.
    let forged = Wire {
        signature: Some(vec![1; 64]),
        ..Wire::signed(1, 7, b"one")
    };
    assert_eq!(read(&reader, &known, std::slice::from_ref(&forged)).0.len(), 0);
    let as_read = RawMessage {
        source: Some(key(1).public().to_peer_id()),
        data: b"one".to_vec(),
        sequence_number: Some(7),
        topic: gossipsub::IdentTopic::new(TOPIC).hash(),
        signature: Some(vec![1; 64]),
        key: None,
        validated: false,
    };
    known.insert_signed(digest(&as_read).unwrap());
    assert_eq!(read(&reader, &known, std::slice::from_ref(&forged)).0, [as_read]);
    // One unknown message in a frame, and all of it is gossipsub's to verify.
    let (messages, invalid, _) = read(&reader, &known, &[forged, Wire::signed(2, 7, b"two")]);
    assert_eq!((messages.len(), invalid.len()), (1, 1));
}

#[tokio::test]
async fn copies_of_accepted_messages_go_nowhere() {
    let (reader, known) = (reader(), Known::default());
    let [one, two] = [Wire::signed(1, 7, b"one"), Wire::signed(2, 7, b"two")];
    let id = |seed: u8| [key(seed).public().to_peer_id().to_bytes(), 7u64.to_be_bytes().to_vec()].concat();
    assert_eq!(read(&reader, &known, &[one.clone(), two.clone()]).0.len(), 2);
    known.insert_accepted(&id(1));
    // What was not accepted is gossipsub's to judge, and whatever else is in the frame.
    let (messages, invalid, others) = read(&reader, &known, &[one.clone(), two.clone()]);
    assert_eq!((messages.len(), invalid.len(), others), (1, 0, 2));
    assert_eq!(messages[0].data, b"two");
    // One that only says that it is a copy is verified, and found out.
    let forged = Wire {
        data: Some(b"evil".to_vec()),
        ..one.clone()
    };
    let (messages, invalid, _) = read(&reader, &known, &[forged]);
    assert_eq!((messages.len(), invalid.len()), (0, 1));
    known.insert_accepted(&id(2));
    let mut bytes = Vec::new();
    let mut body = Vec::new();
    put_field(&mut body, 2, &one.bytes());
    put_field(&mut body, 2, &two.bytes());
    put_varint(&mut bytes, body.len());
    bytes.extend(body);
    assert!(reader.read(frame(bytes), &known).unwrap().is_none());
    assert_eq!(known.dropped_copies.get(), 3);
}

#[tokio::test]
async fn what_gossipsub_rejects_is_rejected_whatever_is_known() {
    let (reader, known) = (reader(), Known::default());
    let good = Wire::signed(1, 7, b"good");
    assert_eq!(read(&reader, &known, std::slice::from_ref(&good)).0.len(), 1);
    let with = |change: fn(&mut Wire)| {
        let mut message = good.clone();
        change(&mut message);
        message
    };
    let bad = [
        ("unsigned", with(|m| m.signature = None)),
        ("empty signature", with(|m| m.signature = Some(Vec::new()))),
        ("forged", with(|m| m.signature.as_mut().unwrap()[0] ^= 1)),
        ("altered data", with(|m| m.data = Some(b"evil".to_vec()))),
        ("no data", with(|m| m.data = None)),
        ("another topic", with(|m| m.topic = Some(b"else".to_vec()))),
        ("another number", with(|m| m.sequence_number.as_mut().unwrap()[7] ^= 1)),
        ("no number", with(|m| m.sequence_number = None)),
        ("short number", with(|m| m.sequence_number = Some(vec![7]))),
        ("no source", with(|m| m.source = None)),
        (
            "another source",
            with(|m| m.source = Some(key(2).public().to_peer_id().to_bytes())),
        ),
        ("no such source", with(|m| m.source = Some(vec![0]))),
        (
            "another's key",
            with(|m| m.key = Some(key(2).public().encode_protobuf())),
        ),
        (
            "another's signature",
            Wire {
                signature: Wire::signed(2, 7, b"good").signature,
                ..good.clone()
            },
        ),
    ];
    for (what, message) in bad {
        for _ in 0..2 {
            let (messages, invalid, other) = read(&reader, &known, std::slice::from_ref(&message));
            assert_eq!((messages.len(), invalid.len(), other), (0, 1, 2), "{what}: {invalid:?}");
        }
    }
    let (_, invalid, _) = read(&reader, &known, &[with(|m| m.signature = None)]);
    assert_eq!(invalid, [ValidationError::InvalidSignature.to_string()]);
    // The key may be there, as others write it.
    let with_key = with(|m| m.key = Some(key(1).public().encode_protobuf()));
    for _ in 0..2 {
        assert_eq!(read(&reader, &known, std::slice::from_ref(&with_key)).0.len(), 1);
    }
}

#[tokio::test]
async fn what_is_not_written_plainly_is_left_to_gossipsub() {
    let (reader, known) = (reader(), Known::default());
    let good = Wire::signed(1, 7, b"good");
    let read_bytes = |message: &[u8]| {
        let mut body = Vec::new();
        put_field(&mut body, 2, message);
        let mut bytes = Vec::new();
        put_varint(&mut bytes, body.len());
        bytes.extend(body);
        match reader.read(frame(bytes), &known) {
            Ok(Some(Event::Message { rpc, invalid_messages })) => Ok((rpc.messages.len(), invalid_messages.len())),
            other => Err(other.map(|_| ()).unwrap_err()),
        }
    };
    assert_eq!(read_bytes(&good.bytes()).unwrap(), (1, 0));
    // A field twice: the last counts, for gossipsub and for the signature.
    let mut twice = good.bytes();
    put_field(&mut twice, 2, b"evil");
    assert_eq!(read_bytes(&twice).unwrap(), (0, 1));
    let mut unknown = good.bytes();
    put_field(&mut unknown, 9, b"new");
    assert_eq!(read_bytes(&unknown).unwrap(), (1, 0));
    let bytes = good.bytes();
    assert!(read_bytes(&bytes[..bytes.len() - 1]).is_err());
}

#[test]
fn what_is_remembered_is_bounded() {
    let known = Known::default();
    let nth = |n: usize| {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_be_bytes());
        digest
    };
    (0..KNOWN_MAX * 5).for_each(|n| known.insert_signed(nth(n)));
    let kept: usize = known.lock().iter().map(|generation| generation.signed.len()).sum();
    assert!(kept <= KNOWN_MAX * 2, "{kept}");
    assert!(
        known.is_signed(&nth(KNOWN_MAX * 5 - KNOWN_MAX)),
        "the last are still there"
    );
    assert!(!known.is_signed(&nth(0)));
}

/// Gives one byte at a time.
struct Slow(Cursor<Vec<u8>>);

impl AsyncRead for Slow {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, &mut buf[..1])
    }
}

#[test]
fn frames_come_whole_however_they_arrive() {
    let (one, two) = (
        frame_bytes(&[Wire::signed(1, 7, b"one")]),
        frame_bytes(&[Wire::signed(1, 8, &[5; 5000])]),
    );
    let both = [one.clone(), two.clone()].concat();
    let all = |bytes: Vec<u8>| {
        block_on(async {
            let mut slow = Frames::new(Slow(Cursor::new(bytes.clone())), FRAME_BYTES_MAX);
            let mut fast = Frames::new(Cursor::new(bytes), FRAME_BYTES_MAX);
            let mut found = Vec::new();
            loop {
                let frame = poll_fn(|cx| fast.poll_next(cx)).await;
                let same = poll_fn(|cx| slow.poll_next(cx)).await;
                match (frame, same) {
                    (Ok(Some(frame)), Ok(Some(same))) => {
                        let bytes = frame.into_bytes();
                        assert_eq!(bytes, same.into_bytes());
                        found.push(bytes);
                    }
                    (Ok(None), Ok(None)) => return Ok(found),
                    (Err(error), Err(_)) => return Err(error.kind()),
                    _ => panic!("speed makes a difference"),
                }
            }
        })
    };
    assert_eq!(all(both.clone()).unwrap(), [one, two]);
    assert_eq!(
        all(both[..both.len() - 1].to_vec()).unwrap_err(),
        io::ErrorKind::UnexpectedEof
    );
    let mut too_long = Vec::new();
    put_varint(&mut too_long, FRAME_BYTES_MAX + 1);
    assert_eq!(all(too_long).unwrap_err(), io::ErrorKind::InvalidData);
    assert_eq!(all(vec![0xff; 20]).unwrap_err(), io::ErrorKind::InvalidData);
    // No message, no bytes: nothing at all is a frame, too.
    assert_eq!(all(vec![0]).unwrap(), [[0]]);
}

#[test]
fn an_original_is_its_authors_or_it_is_not() {
    let original = Original::sign(&key(1), TOPIC.to_owned(), 7, b"data".to_vec()).unwrap();
    assert!(original.verify());
    let with = |change: fn(&mut Original)| {
        let mut other = original.clone();
        change(&mut other);
        other
    };
    assert!(!with(|o| o.source = key(2).public().to_peer_id()).verify());
    assert!(!with(|o| o.source = PeerId::random()).verify());
    assert!(!with(|o| o.sequence_number += 1).verify());
    assert!(!with(|o| o.topic.push('s')).verify());
    assert!(!with(|o| o.data.push(0)).verify());
    assert!(!with(|o| o.signature[5] ^= 1).verify());
    assert!(!with(|o| o.signature.clear()).verify());
}

async fn member_of(seed: u8, others: &[&Node]) -> Node {
    let bootstrap = others.iter().map(|node| address(node)).collect();
    let founds = others.is_empty().then_some(MeshKind::Open);
    let node = start(
        Node::builder(),
        seed,
        mesh_config(&format!("n{seed}"), bootstrap, "tcp"),
        founds,
    )
    .await;
    member(&node).await;
    node
}

async fn takes_in(mesh: &Mesh) -> mpsc::Receiver<Box<crate::mesh::Gossip>> {
    let (sink, gossip) = mpsc::channel(64);
    mesh.subscribe(TOPIC.to_owned(), sink).await.unwrap();
    gossip
}

#[tokio::test]
async fn what_comes_over_a_neighbour_is_the_original_and_its_author_signs_it_again() {
    let a = member_of(1, &[]).await;
    let b = member_of(2, &[&a]).await;
    let c = member_of(3, &[&a, &b]).await;
    for node in [&a, &b, &c] {
        peers(node, 2).await;
    }
    let (_at_a, mut at_b, mut at_c) = (
        takes_in(a.mesh()).await,
        takes_in(b.mesh()).await,
        takes_in(c.mesh()).await,
    );
    let published = tokio::time::timeout(PATIENCE, async {
        loop {
            let published = a.mesh().publish(TOPIC.to_owned(), vec![5; 1500]).await.unwrap();
            if published.peers == 2 {
                return published;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let number = published.await.unwrap().sequence_number.unwrap();
    let ours = a.mesh().sign(TOPIC.to_owned(), number, vec![5; 1500]).unwrap();
    for (mesh, gossip) in [(b.mesh(), &mut at_b), (c.mesh(), &mut at_c)] {
        let theirs = tokio::time::timeout(PATIENCE, async {
            loop {
                let gossip = gossip.recv().await.unwrap();
                mesh.validate(&gossip, Validation::Accept).await.unwrap();
                if gossip.sequence_number == number {
                    return Original {
                        source: gossip.source,
                        sequence_number: gossip.sequence_number,
                        topic: TOPIC.to_owned(),
                        data: gossip.data,
                        signature: gossip.signature,
                    };
                }
            }
        });
        let theirs = theirs.await.unwrap();
        assert!(theirs.verify());
        assert_eq!(theirs, ours);
    }
}
