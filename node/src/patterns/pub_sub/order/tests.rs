use proptest::prelude::*;
use weft_protocol::SecretKey;

use super::*;

const SINCE_MS: u64 = 1000;

fn peer(seed: u8) -> PeerId {
    SecretKey::from_bytes(&[seed; 32]).public().peer_id()
}

fn line(epoch: u64) -> Line {
    Line::new(&peer(1), epoch, 0).unwrap()
}

impl<T> Items for Vec<T> {
    fn count(&self) -> usize {
        self.len()
    }

    fn skip(&mut self, count: usize) {
        self.drain(..count);
    }
}

/// A frame whose items are their own numbers.
fn frame(line: Line, first_seq: u64, count: u64, before_ms: u64) -> Arrived<Vec<u64>> {
    Arrived {
        line,
        first_seq,
        before_ms,
        items: (first_seq..first_seq + count).collect(),
        bytes: 100,
        from: peer(2),
    }
}

struct Follower {
    orders: Orders<Vec<u64>>,
    now: Instant,
    /// What was handed on, with gaps as ranges.
    got: Vec<Result<u64, (u64, u64)>>,
}

impl Follower {
    fn new() -> Self {
        Follower {
            orders: Orders::new(SINCE_MS),
            now: Instant::now(),
            got: Vec::new(),
        }
    }

    fn note(&mut self, steps: Vec<Step<Vec<u64>>>) {
        for step in steps {
            match step {
                Step::Run { first_seq, items, .. } => {
                    assert_eq!(items.first(), Some(&first_seq), "numbered from its first");
                    self.got.extend(items.into_iter().map(Ok));
                }
                Step::Gap {
                    first_seq, last_seq, ..
                } => self.got.push(Err((first_seq, last_seq))),
            }
        }
    }

    fn take(&mut self, line: Line, first: u64, count: u64) -> Freshness {
        self.take_frame(frame(line, first, count, 0))
    }

    fn take_frame(&mut self, frame: Arrived<Vec<u64>>) -> Freshness {
        let mut steps = Vec::new();
        let freshness = self.orders.take(frame, self.now, &mut steps);
        self.note(steps);
        freshness
    }

    fn due(&mut self, after: Duration) -> Vec<(u64, u64)> {
        self.now += after;
        let mut steps = Vec::new();
        let wants = self.orders.due(self.now, &mut steps);
        self.note(steps);
        wants.iter().map(|want| (want.from_seq, want.to_seq)).collect()
    }
}

#[test]
fn what_overtakes_waits_and_what_comes_twice_is_refused() {
    let (mut f, line) = (Follower::new(), line(2000));
    assert_eq!(f.take(line, 1, 2), Freshness::Fresh);
    assert_eq!(f.take(line, 5, 2), Freshness::Fresh);
    assert_eq!(f.take(line, 5, 2), Freshness::Stale, "it waits already");
    assert_eq!(f.got, [Ok(1), Ok(2)]);
    assert_eq!(f.due(Duration::ZERO), [], "it may only have been overtaken");
    assert_eq!(f.due(FIRST_WAIT), [(3, 4)]);
    assert_eq!(f.due(Duration::ZERO), [], "one question at a time");
    assert_eq!(f.take(line, 2, 3), Freshness::Fresh, "overlapping");
    assert_eq!(f.got, [1, 2, 3, 4, 5, 6].map(Ok));
    assert_eq!(f.take(line, 1, 6), Freshness::Stale);
    assert_eq!(f.orders.next_due(), None);
    assert_eq!(f.orders.parked_bytes, 0);
}

#[test]
fn what_does_not_come_is_a_gap_and_refused_when_it_comes_after_all() {
    let (mut f, line) = (Follower::new(), line(2000));
    f.take(line, 1, 1);
    f.take(line, 4, 1);
    f.due(FIRST_WAIT);
    assert_eq!(f.due(PATIENCE), []);
    assert_eq!(f.got, [Ok(1), Err((2, 3)), Ok(4)]);
    assert_eq!(f.take(line, 2, 2), Freshness::Stale);
    assert_eq!(f.take(line, 5, 1), Freshness::Fresh);
    assert_eq!(f.got.len(), 4);
}

#[test]
fn a_message_is_held_back_for_a_bounded_time_however_many_are_missing() {
    let (mut f, line) = (Follower::new(), line(2000));
    for n in 0..100 {
        f.take(line, 2 + n * 2, 1);
    }
    f.now += PATIENCE;
    for _ in 0..100 {
        f.due(Duration::ZERO);
    }
    assert_eq!(f.got.iter().filter(|got| got.is_ok()).count(), 100);
    assert_eq!(f.got.iter().filter(|got| got.is_err()).count(), 100);
}

#[test]
fn the_loss_of_the_last_one_is_noticed() {
    let (mut f, line) = (Follower::new(), line(2000));
    f.take(line, 1, 1);
    assert_eq!(f.take(line, 3, 0), Freshness::Fresh);
    assert_eq!(f.due(FIRST_WAIT), [(2, 2)]);
    f.take(line, 2, 1);
    assert_eq!(f.got, [Ok(1), Ok(2)]);
    assert_eq!(f.take(line, 2, 0), Freshness::Stale, "an announcement of before");
    // Of a line of which nothing else is known either.
    let other = Line::new(&peer(3), 2000, 1).unwrap();
    assert_eq!(f.take(other, 2, 0), Freshness::Fresh);
    assert_eq!(f.due(FIRST_WAIT), [(1, 1)]);
}

#[test]
fn what_was_before_our_time_is_not_missed_and_what_was_in_it_is() {
    let (mut f, old) = (Follower::new(), line(500));
    // The one before was made before our time.
    f.take_frame(frame(old, 7, 1, SINCE_MS - 1));
    assert_eq!(f.got, [Ok(7)]);
    // Of another line two were made in our time before the one that came first.
    let other = Line::new(&peer(3), 500, 0).unwrap();
    f.take_frame(frame(other, 9, 1, SINCE_MS + 5));
    assert_eq!(f.due(FIRST_WAIT), [(8, 8)]);
    f.take_frame(frame(other, 8, 1, SINCE_MS));
    assert_eq!(f.got, [Ok(7)], "there is one more");
    assert_eq!(f.due(FIRST_WAIT), [(7, 7)]);
    f.take_frame(frame(other, 7, 1, SINCE_MS - 1));
    assert_eq!(f.got, [7, 7, 8, 9].map(Ok));
    // An announcement alone: nothing of our time, then one.
    let quiet = Line::new(&peer(4), 500, 0).unwrap();
    f.take_frame(frame(quiet, 5, 0, SINCE_MS - 1));
    assert_eq!(f.due(FIRST_WAIT), []);
    f.take_frame(frame(quiet, 6, 0, SINCE_MS));
    assert_eq!(f.due(FIRST_WAIT), [(5, 5)]);
}

#[test]
fn a_publisher_that_restarts_begins_anew_and_its_last_run_is_heard_out() {
    let (mut f, first) = (Follower::new(), line(500));
    f.take(first, 3, 1);
    assert_eq!(f.take(line(501), 2, 1), Freshness::Fresh);
    assert_eq!(
        f.due(FIRST_WAIT),
        [(1, 1)],
        "a known publisher's new run is followed from its start"
    );
    assert_eq!(f.take(first, 4, 1), Freshness::Fresh);
    assert_eq!(f.take(line(502), 1, 1), Freshness::Fresh);
    assert_eq!(f.take(first, 5, 1), Freshness::Old);
    assert_eq!(f.take(line(499), 1, 1), Freshness::Old);
    assert_eq!(f.orders.lines.len(), 2);
}

#[test]
fn a_restart_of_ours_forgets_nothing() {
    let (mut f, line) = (Follower::new(), line(2000));
    f.take(line, 1, 3);
    let saved = f.orders.take_dirty();
    assert_eq!(saved, [(line, Some(4))]);
    assert_eq!(f.orders.take_dirty(), []);
    let mut again = Follower::new();
    again.orders.restore(line, 4, again.now);
    assert_eq!(again.take(line, 1, 3), Freshness::Stale);
    let head = Head {
        line,
        last_seq: 9,
        first_seq: 10,
    };
    assert_eq!(again.orders.behind(&head), Some(4));
    assert_eq!(again.take(line, 4, 1), Freshness::Fresh);
    assert_eq!(again.got, [Ok(4)]);
}

#[test]
fn the_word_of_others_makes_no_gap() {
    let (mut f, old) = (Follower::new(), line(500));
    let lie = |line, last_seq, first_seq| Head {
        line,
        last_seq,
        first_seq,
    };
    assert_eq!(f.orders.behind(&lie(old, 9, 5)), Some(5));
    assert_eq!(f.orders.behind(&lie(old, 9, 10)), None, "nothing of our time");
    assert_eq!(f.orders.behind(&lie(line(2000), 9, 10)), Some(1), "all of it is");
    assert_eq!(f.orders.next_due(), None);
    f.take_frame(frame(old, 5, 1, 0));
    assert_eq!(f.orders.behind(&lie(old, 5, 1)), None);
}

#[test]
fn what_waits_is_bounded_and_fetched_again() {
    let (mut f, line) = (Follower::new(), line(2000));
    for seq in 2..1000 {
        let mut large = frame(line, seq, 1, 0);
        large.bytes = 1 << 20;
        f.take_frame(large);
    }
    assert!(f.orders.parked_bytes <= PARKED_LINE_BYTES_MAX);
    f.take(line, 1, 1);
    assert_eq!(f.got.len(), 5);
    assert_eq!(f.due(FIRST_WAIT), [(6, 999)]);
}

proptest! {
    /// However frames come, are lost and repeated: each publication is handed on once and in order, or is in a gap.
    #[test]
    fn nothing_is_lost_without_a_word(
        arrivals in prop::collection::vec((1u64..60, 1u64..4), 0..80),
        waits in prop::collection::vec(0u64..3000, 80),
    ) {
        let (mut f, line) = (Follower::new(), line(2000));
        for ((first, count), wait) in arrivals.iter().zip(&waits) {
            f.take(line, *first, *count);
            f.due(Duration::from_millis(*wait));
        }
        let last = arrivals.iter().map(|(first, count)| first + count - 1).max().unwrap_or(0);
        for _ in 0..200 {
            f.due(PATIENCE);
        }
        let mut next = 1;
        for got in &f.got {
            let (first, end) = match got {
                Ok(seq) => (*seq, *seq),
                Err(gap) => *gap,
            };
            prop_assert_eq!(first, next);
            next = end + 1;
        }
        prop_assert_eq!(next, last + 1);
        prop_assert_eq!(f.orders.parked_bytes, 0);
    }
}
