use std::collections::BTreeSet;

use proptest::prelude::*;
use weft_protocol::patterns::event_sourcing::{From, Query};

use super::*;

fn options() -> ConsumerOptions {
    ConsumerOptions {
        from: From::Position(1),
        query: Query::default(),
        ack_wait_ms: 1000,
        deliver_max: Some(3),
        backoff_ms: vec![100, 500],
        pending_max: 4,
        order: Order::Key,
        is_acked: true,
        idle_ms: None,
        is_upcast: None,
    }
}

fn positions(handed: &[Handed]) -> Vec<u64> {
    handed.iter().map(|handed| handed.position).collect()
}

const AGAIN: Settlement = Settlement::Again {
    pause_ms: None,
    reason: String::new(),
};

#[test]
fn records_of_a_key_come_one_after_the_other() {
    let (mut core, now) = (Core::new(options(), 0), Instant::now());
    for (position, key) in [(1, 7), (2, 7), (3, 8), (4, 7)] {
        core.offer(position, Some(Some(key)));
    }
    let first = core.take(10, now);
    assert_eq!(positions(&first), [1, 3]);
    // Failed, it still comes before the next of its key.
    core.settle(first[0], &AGAIN, now, 0).unwrap();
    core.settle(first[1], &Settlement::Done, now, 0).unwrap();
    assert!(core.take(10, now).is_empty());
    core.tick(now + Duration::from_millis(100), 0);
    let again = core.take(10, now);
    assert_eq!((positions(&again), again[0].delivery), (vec![1], 2));
    core.settle(again[0], &Settlement::Done, now, 0).unwrap();
    assert_eq!(core.settled(), 1);
    let next = core.take(10, now);
    assert_eq!(positions(&next), [2]);
    core.settle(next[0], &Settlement::Done, now, 0).unwrap();
    assert_eq!(core.settled(), 3);
    assert_eq!(positions(&core.take(10, now)), [4]);
}

#[test]
fn what_no_worker_got_does_not_count() {
    let (mut core, now) = (Core::new(options(), 0), Instant::now());
    for (position, key) in [(1, 7), (2, 7), (3, 8)] {
        core.offer(position, Some(Some(key)));
    }
    // More often than it may be tried.
    for _ in 0..10 {
        let handed = core.take(10, now);
        assert_eq!(positions(&handed), [1, 3]);
        for one in handed {
            assert_eq!(one.delivery, 1);
            assert_eq!(core.settle(one, &Settlement::Unseen, now, 0), Some(None));
            // Who says so twice is not heard.
            assert_eq!(core.settle(one, &Settlement::Unseen, now, 0), None);
        }
        assert_eq!((core.pending(), core.next_due()), (0, None));
    }
    let handed = core.take(1, now);
    core.settle(handed[0], &AGAIN, now, 0).unwrap();
    core.tick(now + Duration::from_millis(100), 0);
    let again = core.take(10, now);
    assert_eq!(again.iter().find(|one| one.position == 1).unwrap().delivery, 2);
}

#[test]
fn a_record_is_tried_with_pauses_and_then_dead() {
    let (mut core, mut now) = (Core::new(options(), 0), Instant::now());
    core.offer(1, Some(None));
    for pause_ms in [100, 500] {
        let handed = core.take(1, now);
        assert_eq!(core.settle(handed[0], &AGAIN, now, 0), Some(None));
        assert_eq!(core.next_due(), Some(now + Duration::from_millis(pause_ms)));
        now += Duration::from_millis(pause_ms);
        core.tick(now, 0);
    }
    // The third time nobody says anything.
    let handed = core.take(1, now);
    assert_eq!(handed[0].delivery, 3);
    now += Duration::from_secs(1);
    let dead = core.tick(now, 77);
    assert_eq!((dead[0].position, dead[0].deliveries, dead[0].since_ms), (1, 3, 77));
    assert_eq!((core.settled(), core.dead(), core.waiting()), (1, 1, 0));
    assert_eq!(core.settle(handed[0], &Settlement::Done, now, 0), None, "too late");
    // It gets another life, also after a restart.
    assert!(core.revive(1, None));
    let mut core = Core::of(core.saved());
    let handed = core.take(1, now);
    assert_eq!((handed[0].position, handed[0].delivery), (1, 1));
    core.settle(handed[0], &Settlement::Done, now, 0).unwrap();
    assert_eq!((core.settled(), core.waiting(), core.dead()), (1, 0, 0));
}

#[test]
fn who_was_too_slow_settles_nothing_and_who_asks_has_longer() {
    let (mut core, now) = (Core::new(options(), 0), Instant::now());
    core.offer(1, Some(None));
    let slow = core.take(1, now)[0];
    let half = Duration::from_millis(500);
    core.settle(slow, &Settlement::Longer, now + half, 0).unwrap();
    assert!(core.tick(now + half * 2, 0).is_empty());
    assert_eq!(core.pending(), 1);
    core.tick(now + half * 3, 0);
    core.tick(now + half * 4, 0);
    let other = core.take(1, now + half * 4)[0];
    assert_eq!(other.delivery, 2);
    assert_eq!(core.settle(slow, &Settlement::Done, now, 0), None);
    assert_eq!(core.settle(other, &Settlement::Done, now, 0), Some(None));
}

#[test]
fn in_the_streams_order_what_is_handed_out_together_is_settled_before_more_is() {
    let in_order = ConsumerOptions {
        order: Order::Stream,
        ..options()
    };
    let (mut core, now) = (Core::new(in_order, 0), Instant::now());
    (1..=4).for_each(|position| core.offer(position, Some(Some(position))));
    let first = core.take(2, now);
    assert_eq!(positions(&first), [1, 2]);
    assert!(core.take(2, now).is_empty());
    core.settle(first[1], &Settlement::Done, now, 0).unwrap();
    core.settle(first[0], &AGAIN, now, 0).unwrap();
    assert!(core.take(2, now).is_empty(), "the first waits");
    core.tick(now + Duration::from_millis(100), 0);
    assert_eq!(positions(&core.take(2, now)), [1, 3]);
}

#[test]
fn no_more_is_handed_out_than_may_be_pending() {
    let (mut core, now) = (Core::new(options(), 0), Instant::now());
    (1..=9).for_each(|position| core.offer(position, Some(None)));
    assert_eq!(core.take(100, now).len(), 4);
    assert!(!core.has_room());
    assert_eq!(core.take(100, now).len(), 0);
}

proptest! {
    /// Whatever workers and restarts do, every record that is meant is done in the end, none is lost, and of one key no two are out at once.
    #[test]
    fn nothing_is_lost(
        keys in proptest::collection::vec(proptest::option::of(0_u64..4), 1..60),
        acts in proptest::collection::vec((0_u8..6, any::<u8>()), 0..200),
    ) {
        let unlimited = ConsumerOptions { deliver_max: None, ..options() };
        let (mut core, mut now) = (Core::new(unlimited, 0), Instant::now());
        let meant: BTreeSet<u64> = (1..).zip(&keys).filter(|(_, key)| key.is_some()).map(|(at, _)| at).collect();
        let (mut out, mut finished): (Vec<Handed>, BTreeSet<u64>) = (Vec::new(), BTreeSet::new());
        let more = |core: &mut Core| {
            while core.has_room() && core.reached() < keys.len() as u64 {
                let at = core.reached() + 1;
                core.offer(at, keys[at as usize - 1].map(Some));
            }
        };
        let ending = std::iter::repeat_n([(0, 9), (1, 0), (4, 0)], keys.len() * 4).flatten();
        for (act, number) in acts.into_iter().chain(ending) {
            match act {
                0 => {
                    more(&mut core);
                    let handed = core.take(number as usize % 5 + 1, now);
                    for one in &handed {
                        let key = keys[one.position as usize - 1];
                        let others = out.iter().filter(|other| other.position != one.position);
                        prop_assert!(others.clone().all(|other| keys[other.position as usize - 1] != key));
                    }
                    out.retain(|old| handed.iter().all(|one| one.position != old.position));
                    out.extend(handed);
                }
                1..=3 if !out.is_empty() => {
                    let one = out.swap_remove(number as usize % out.len());
                    let settlement = if act == 3 { AGAIN } else { Settlement::Done };
                    if core.settle(one, &settlement, now, 0).is_some() && act != 3 {
                        finished.insert(one.position);
                    }
                }
                4 => {
                    now += Duration::from_millis(2000);
                    core.tick(now, 0);
                    core.tick(now, 0);
                    // Those that were not settled in time may be handed out again.
                    out.clear();
                }
                5 => {
                    core = Core::of(core.saved());
                    out.clear();
                }
                _ => {}
            }
        }
        prop_assert_eq!(&finished, &meant);
        prop_assert_eq!(core.settled(), keys.len() as u64);
        prop_assert_eq!(core.saved().tried, vec![]);
    }
}
