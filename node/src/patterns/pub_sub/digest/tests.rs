use weft_protocol::{PeerId, Wire as _};

use super::*;

const START_MS: u64 = 1_800_000_000_000;

fn line(shard: u16) -> Line {
    let key = libp2p::identity::Keypair::ed25519_from_bytes([7; 32]).expect("32 bytes");
    Line::new(&PeerId::from(key.public()), START_MS, shard).expect("an Ed25519 key")
}

/// Whether two that both began at the start find that they differ, some seconds later.
fn differ(ours: &Digests, theirs: &Digests, after_s: u64) -> bool {
    let now_ms = START_MS + after_s * 1000;
    let said = |d: &Digests| Digest::from_bytes(&d.digest(now_ms).to_bytes()).expect("what we say can be read");
    let (here, there) = (ours.differs(&said(theirs)), theirs.differs(&said(ours)));
    assert_eq!(here, there, "both sides began at once, so both see it");
    here
}

#[test]
fn the_order_of_arrival_does_not_matter_and_one_missing_frame_does() {
    let (mut here, mut there) = (Digests::new(START_MS), Digests::new(START_MS));
    assert!(!differ(&here, &there, 100));
    let frames = [(line(0), (1, 4)), (line(0), (5, 5)), (line(6), (1, 1))];
    for (line, seqs) in &frames {
        here.add(line, *seqs, START_MS + 20_000, START_MS + 20_000);
    }
    for (line, seqs) in frames.iter().rev().take(2) {
        there.add(line, *seqs, START_MS + 20_000, START_MS + 21_000);
    }
    assert!(differ(&here, &there, 30));
    there.add(&frames[0].0, frames[0].1, START_MS + 20_000, START_MS + 31_000);
    assert!(!differ(&here, &there, 32));
}

#[test]
fn what_may_be_on_its_way_is_not_missed() {
    let (mut here, there) = (Digests::new(START_MS), Digests::new(START_MS));
    here.add(&line(1), (1, 1), START_MS + 20_500, START_MS + 20_500);
    assert!(!differ(&here, &there, 20 + SETTLED_S - 1));
    assert!(differ(&here, &there, 20 + SETTLED_S));
}

#[test]
fn what_a_run_published_at_once_is_said_by_it() {
    let (mut here, there) = (Digests::new(START_MS), Digests::new(START_MS));
    here.add(&line(1), (1, 1), START_MS + 10, START_MS + 10);
    assert!(differ(&here, &there, 2 + SETTLED_S));
}

#[test]
fn what_can_no_longer_be_had_is_not_missed() {
    let (mut here, there) = (Digests::new(START_MS), Digests::new(START_MS));
    here.add(&line(1), (1, 1), START_MS + 20_000, START_MS + 20_000);
    assert!(differ(&here, &there, 20 + WINDOW_S));
    assert!(!differ(&here, &there, 21 + WINDOW_S));
}

#[test]
fn who_began_later_is_judged_by_the_other() {
    let (mut old, mut young) = (Digests::new(START_MS), Digests::new(START_MS + 60_000));
    old.add(&line(2), (1, 1), START_MS + 50_000, START_MS + 50_000);
    let now_ms = START_MS + 80_000;
    assert!(!young.differs(&old.digest(now_ms)), "it cannot know what was before it");
    assert!(
        !old.differs(&young.digest(now_ms)),
        "it need not have what was before it"
    );
    old.add(&line(2), (2, 2), START_MS + 70_000, START_MS + 70_000);
    assert!(old.differs(&young.digest(now_ms)));
    young.add(&line(2), (2, 2), START_MS + 70_000, now_ms);
    assert!(!old.differs(&young.digest(now_ms)));
}

#[test]
fn frames_of_impossible_times_take_no_room() {
    let mut digests = Digests::new(START_MS);
    let mut ancient = line(0);
    ancient.epoch = 0;
    for made_ms in [0, START_MS - (WINDOW_S + 1) * 1000, START_MS * 2, u64::MAX] {
        digests.add(&ancient, (1, 1), made_ms, START_MS);
    }
    assert!(digests.sums.is_empty());
    let backwards = Digest {
        from_s: u64::MAX,
        until_s: 0,
        sums: Vec::new(),
    };
    assert!(!digests.differs(&backwards));
}
