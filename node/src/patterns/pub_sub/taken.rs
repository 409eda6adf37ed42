//! What this node has taken in of what one member hands to it directly.
//!
//! Promises: what comes again is known again; what comes behind later ones for the first time, because its publisher did not know in time that
//! it is wanted here, is told from it. Decisions without I/O.

use std::collections::BTreeMap;

use weft_protocol::patterns::pub_sub::SHARDS;

use super::ring;

/// Stretches of numbers that are remembered: as many as a publisher can have items that it still hands over. What comes late before the oldest
/// of them is taken for something that comes again.
const STRETCHES_MAX: usize = ring::ITEMS_MAX;
/// Stretches of lost publications that are told one by one.
const LOST_MAX: usize = 64;

/// What a frame is to who has taken in others of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// It stands behind all that was taken in.
    Next,
    /// It was not here, and later ones were.
    Late,
    /// It was here, or may have been.
    Again,
}

/// The numbers of one line that were taken in: stretches between which others got what there was.
#[derive(Debug, Default)]
struct Numbers {
    /// The last number of each, by the first one. No two touch each other.
    stretches: BTreeMap<u64, u64>,
    /// Up to here nothing is known any more.
    forgotten: u64,
}

impl Numbers {
    fn last(&self) -> u64 {
        self.stretches
            .last_key_value()
            .map_or(self.forgotten, |(_, last)| *last)
    }

    fn take(&mut self, (first, last): (u64, u64)) -> Came {
        let came = if first > self.last() { Came::Next } else { Came::Late };
        let before = self.stretches.range(..=last).next_back();
        if first <= self.forgotten || before.is_some_and(|(_, end)| *end >= first) {
            return Came::Again;
        }
        let touches = before.filter(|(_, end)| end.saturating_add(1) == first);
        let begin = touches.map_or(first, |(begin, _)| *begin);
        let end = self.stretches.remove(&last.saturating_add(1)).unwrap_or(last);
        self.stretches.insert(begin, end);
        came
    }

    /// What was not taken in between two numbers, both included.
    fn lacking(&self, (first, last): (u64, u64)) -> Vec<(u64, u64)> {
        let (mut next, mut lacking) = (first.max(self.forgotten.saturating_add(1)), Vec::new());
        if let Some((_, end)) = self.stretches.range(..=next).next_back() {
            next = next.max(end.saturating_add(1));
        }
        // The largest number of all is nobody's.
        if next > last || last == u64::MAX {
            return lacking;
        }
        for (begin, end) in self.stretches.range(next..=last) {
            lacking.push((next, begin - 1));
            next = end.saturating_add(1);
        }
        if next <= last {
            lacking.push((next, last));
        }
        lacking
    }

    fn forget_first(&mut self) {
        if let Some((_, last)) = self.stretches.pop_first() {
            self.forgotten = last;
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Taken {
    epoch: u64,
    lines: [Numbers; SHARDS as usize],
}

impl Taken {
    /// Nothing yet, of a member's run.
    pub(super) fn new(epoch: u64) -> Self {
        Taken {
            epoch,
            lines: Default::default(),
        }
    }

    /// Takes in the numbers of a frame, the last of which is no less than the first. `None`: it is of an earlier run.
    pub(super) fn take(&mut self, epoch: u64, shard: u16, numbers: (u64, u64)) -> Option<Came> {
        if epoch < self.epoch {
            return None;
        }
        if epoch > self.epoch {
            *self = Taken::new(epoch);
        }
        let came = self.lines[usize::from(shard % SHARDS)].take(numbers);
        let stretches: usize = self.lines.iter().map(|line| line.stretches.len()).sum();
        if stretches > STRETCHES_MAX {
            self.lines[usize::from(shard % SHARDS)].forget_first();
        }
        Some(came)
    }

    /// Its publisher has lost these. Those of them that were not here either, in stretches; when these are many, with what lies between.
    pub(super) fn lose(&mut self, shard: u16, numbers: (u64, u64)) -> Vec<(u64, u64)> {
        let line = &mut self.lines[usize::from(shard % SHARDS)];
        let mut lost = line.lacking(numbers);
        for stretch in &lost {
            line.take(*stretch);
        }
        if let [first, .., last] = lost[..]
            && lost.len() > LOST_MAX
        {
            lost = vec![(first.0, last.1)];
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn late_is_what_was_not_here_and_again_what_was() {
        let mut taken = Taken::new(5);
        let mut take = |numbers| taken.take(5, 9, numbers).unwrap();
        assert_eq!([take((1, 3)), take((4, 4)), take((8, 9))], [Came::Next; 3]);
        assert_eq!(
            [take((1, 3)), take((8, 9)), take((4, 5)), take((3, 20))],
            [Came::Again; 4]
        );
        assert_eq!([take((6, 6)), take((6, 6))], [Came::Late, Came::Again]);
        assert_eq!([take((7, 7)), take((5, 5))], [Came::Late; 2]);
        assert_eq!(taken.lines[1].stretches, BTreeMap::from([(1, 9)]));
        assert_eq!(taken.lose(9, (4, 9)), []);
        assert_eq!(taken.lose(9, (8, 12)), [(10, 12)]);
        assert_eq!(taken.take(5, 9, (11, 11)), Some(Came::Again), "it was told as lost");
        assert_eq!(taken.take(5, 9, (15, 15)), Some(Came::Next));
        assert_eq!(taken.take(5, 9, (17, 17)), Some(Came::Next));
        assert_eq!(
            taken.lose(9, (11, 18)),
            [(13, 14), (16, 16), (18, 18)],
            "others too that were to come late"
        );
        assert_eq!(taken.lose(9, (1, u64::MAX)), [], "no number is so large");
        assert_eq!(taken.take(5, 2, (1, 1)), Some(Came::Next), "another line");
        assert_eq!(taken.take(4, 9, (20, 20)), None, "an earlier run");
        assert_eq!(taken.take(6, 9, (1, 1)), Some(Came::Next), "a later one");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut taken = Taken::new(5);
        let most = STRETCHES_MAX as u64;
        for n in 1..=most + 10 {
            assert_eq!(taken.take(5, 0, (2 * n, 2 * n)), Some(Came::Next));
        }
        assert_eq!(taken.lines[0].stretches.len(), STRETCHES_MAX);
        assert_eq!(taken.take(5, 0, (3, 3)), Some(Came::Again), "not known any more");
        assert_eq!(taken.take(5, 0, (2 * most + 1, 2 * most + 1)), Some(Came::Late));
        assert_eq!(taken.lines[0].stretches.len(), STRETCHES_MAX - 1, "three are one");
        for n in 1..=most {
            taken.take(5, 1, (2 * n, 2 * n));
        }
        let all: usize = taken.lines.iter().map(|line| line.stretches.len()).sum();
        assert_eq!(all, STRETCHES_MAX, "of all lines together");
    }

    proptest! {
        /// Against a set of numbers.
        #[test]
        fn each_number_is_taken_once(frames in proptest::collection::vec((1_u64..60, 0_u64..4), 0..80)) {
            let (mut taken, mut known) = (Taken::new(1), std::collections::BTreeSet::new());
            for (first, more) in frames {
                let numbers = first..=first + more;
                let came = taken.take(1, 3, (first, first + more)).unwrap();
                let expected = match known.last() {
                    Some(last) if first <= *last => match numbers.clone().any(|n| known.contains(&n)) {
                        true => Came::Again,
                        false => Came::Late,
                    },
                    _ => Came::Next,
                };
                prop_assert_eq!(came, expected);
                if came != Came::Again {
                    known.extend(numbers);
                }
                let stretches: Vec<u64> = taken.lines[3].stretches.iter().flat_map(|(a, b)| *a..=*b).collect();
                prop_assert_eq!(&stretches, &known.iter().copied().collect::<Vec<u64>>());
            }
        }
    }
}
