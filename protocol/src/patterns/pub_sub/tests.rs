use super::*;
use crate::codec::Wire as _;
use crate::limits::CAPABILITIES_MAX;
use crate::patterns::pub_sub::direct::DirectItem;
use crate::patterns::pub_sub::hop::{TRACE, Trace};
use crate::patterns::pub_sub::repair::{Original, PastFrame, PastPlace, RepairReply, RepairRequest};
use crate::testing::{mesh, public};

fn run<'a>(subject: &str, data: &[&'a [u8]]) -> Run<'a> {
    Run {
        attributes: Cow::Owned(Attributes::new(subject.parse().unwrap())),
        data: data.to_vec(),
    }
}

fn frame(runs: Vec<Run<'_>>) -> Frame<'_> {
    Frame {
        epoch: 5,
        shard: "orders".parse::<Subject>().unwrap().shard(SHARDS),
        first_seq: 3,
        before_ms: 0,
        runs,
    }
}

fn refused(frame: &Frame<'_>) -> String {
    let error = frame.to_checked_bytes().unwrap_err();
    assert!(
        Frame::read(&frame.to_bytes()).is_err(),
        "the receiver refuses it too: {error}"
    );
    error.to_string()
}

#[test]
fn an_id_follows_from_the_place() {
    let line = Line::new(&public(1).peer_id(), 0xe0, 2).unwrap();
    assert_eq!(message_id(&line, 7), "e0-2-7");
    assert_eq!(line.publisher(), public(1).peer_id());
}

#[test]
fn a_frame_is_of_one_shard_and_knows_its_last_number() {
    let mut many = frame(vec![run("orders.eu", &[b"a", b"", b"c"]), run("orders.us", &[b"d"])]);
    assert_eq!((many.len(), many.last_seq()), (4, 6));
    let bytes = many.to_checked_bytes().unwrap();
    let read = Frame::read(&bytes).unwrap();
    assert_eq!(read, many);
    let inside = bytes.as_ptr_range();
    let stays = |data: &&[u8]| inside.contains(&data.as_ptr());
    assert!(
        read.runs.iter().flat_map(|run| &run.data).all(stays),
        "nothing is copied"
    );
    let other = (0..100)
        .map(|n| run(&format!("t{n}"), &[b"x"]))
        .find(|run| run.attributes.subject.shard(SHARDS) != many.shard);
    many.runs.extend(other);
    assert!(refused(&many).contains("another shard"));
    many.runs.pop();
    many.runs.push(run("orders.eu", &[]));
    assert!(refused(&many).contains("no publications"));
    many.runs.pop();
    let empty = frame(Vec::new());
    assert_eq!((empty.last_seq(), empty.is_empty()), (2, true));
    let good = many.clone();
    for wrong in [0, u64::MAX] {
        many.first_seq = wrong;
        refused(&many);
    }
    refused(&Frame {
        shard: SHARDS + DIRECT,
        ..good
    });
}

#[test]
fn the_publications_of_all_runs_together_are_bounded() {
    let half = vec![&b"x"[..]; FRAME_PUBLICATIONS_MAX / 2];
    let mut most = frame(vec![run("orders.eu", &half), run("orders.us", &half)]);
    assert_eq!(
        Frame::read(&most.to_checked_bytes().unwrap()).unwrap().len(),
        FRAME_PUBLICATIONS_MAX
    );
    most.runs.push(run("orders.eu", &[b"x"]));
    assert!(refused(&most).contains("too large"));
}

#[test]
fn attributes_have_limits() {
    let refused = |change: fn(&mut Attributes)| {
        let mut one = run("orders.eu", &[b"x"]);
        change(one.attributes.to_mut());
        refused(&frame(vec![one]))
    };
    assert!(refused(|a| a.extensions = vec![("Loud".into(), "x".into())]).contains("extension name"));
    assert!(refused(|a| a.extensions = vec![("a".into(), "x".into()); 2]).contains("extensions"));
    assert!(
        refused(|a| a.extensions = vec![("a".into(), "x".repeat(MESSAGE_ATTRIBUTES_BYTES_MAX + 1))]).contains("large")
    );
    assert!(refused(|a| a.datacontenttype = Some("x".repeat(MESSAGE_ATTRIBUTE_BYTES_MAX + 1))).contains("large"));
    assert!(refused(|a| a.capability = vec![Vec::new(); CAPABILITIES_MAX + 1]).contains("apabilit"));
    let picks = |count: usize| {
        let pick = Pick::new(String::from("workers"), &public(1).peer_id()).unwrap();
        Some(Picks(vec![pick; count]))
    };
    let mut one = run("orders.eu", &[b"x"]);
    one.attributes.to_mut().picks = picks(PICKS_MAX + 1);
    assert!(self::refused(&frame(vec![one.clone()])).contains("picks"));
    one.attributes.to_mut().picks = picks(1);
    assert_eq!(one.attributes.is_for("workers", &public(1).peer_id()), Some(true));
    assert_eq!(one.attributes.is_for("workers", &public(2).peer_id()), Some(false));
    assert_eq!(one.attributes.is_for("others", &public(1).peer_id()), None);
}

#[test]
fn the_largest_publication_is_sent_read_and_repaired() {
    let data = vec![0x55; PUBLISH_BODY_BYTES_MAX + 1];
    let mut largest = run("orders.eu", &[&data[1..]]);
    largest.attributes.to_mut().capability = vec![vec![0; 3072]; CAPABILITIES_MAX];
    let alone = frame(vec![largest.clone()]);
    let bytes = alone.to_checked_bytes().unwrap();
    assert_eq!(Frame::read(&bytes), Ok(alone));
    let originals = vec![Original {
        gossip_seq: u64::MAX,
        data: vec![0; FRAME_BYTES_MAX],
        signature: vec![0; 64],
    }];
    let reply = RepairReply::Originals { originals }.to_checked_bytes().unwrap();
    assert!(reply.len() <= crate::direct::DIRECT_PAYLOAD_BYTES_MAX);
    largest.data = vec![&data];
    let expected = DecodeError::TooLarge {
        what: "message data",
        limit: PUBLISH_BODY_BYTES_MAX,
        got: PUBLISH_BODY_BYTES_MAX + 1,
    };
    assert_eq!(refused(&frame(vec![largest])), expected.to_string());
}

#[test]
fn a_frame_that_goes_directly_has_its_head_before_it() {
    for (ordinal, length) in [(0, 0), (23, 23), (24, 24), (300, 300), (1 << 40, 70_000)] {
        let data = vec![7; length];
        let whole = DirectItem::Frame {
            ordinal,
            data: data.clone(),
        };
        let head = DirectItem::head_of_frame(ordinal, length);
        assert_eq!(
            [head, data].concat(),
            crate::codec::frame::encode(&whole.to_bytes()),
            "{ordinal}"
        );
    }
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

#[test]
fn a_message_says_that_it_is_traced() {
    let trace = |value: &str| {
        let mut attributes = Attributes::new("orders.eu".parse().unwrap());
        attributes.set_extension(TRACE, value);
        Trace::of(&attributes)
    };
    let digits = "00112233445566778899aabbccddeeff";
    for (value, is_only) in [(digits.to_owned(), false), (format!("{digits}-only"), true)] {
        let read = trace(&value).unwrap();
        assert_eq!((read.is_only, read.value()), (is_only, value));
    }
    for wrong in ["", "-only", "0011", "00112233445566778899AABBCCDDEEFF", "yes"] {
        assert_eq!(trace(wrong), None, "{wrong}");
    }
    assert_eq!(Trace::of(&Attributes::new("a".parse().unwrap())), None);
}
