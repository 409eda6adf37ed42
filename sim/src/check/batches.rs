//! Every record that a queue acknowledged is served, or kept among the dead; in the order of its key, and no poison takes another with it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Verdict, percent};
use crate::oracle::{Item, Log, Outcome};

/// README, "What it promises".
const SENTENCE: &str = "at least once, in the order of its key. A batch that fails is halved until";

/// Of nodes that run in the end, after their queues had time to be emptied: each acknowledged record was served or is dead, poison is dead, and
/// of the others at most the share `dead_max`. What was answered before another of its key was put was served before that.
pub(super) fn handed_over<'a>(logs: impl Iterator<Item = &'a Log>, dead_max: f64) -> Verdict {
    let (mut problems, mut count) = (Vec::new(), Count::default());
    for log in logs {
        problems.extend(weigh(log, &mut count));
        problems.extend(out_of_order(log));
    }
    let share = count.innocent as f64 / count.acknowledged.max(1) as f64;
    Verdict {
        passed: problems.is_empty() && share <= dead_max && count.acknowledged > 0,
        measured: match problems.first() {
            None => format!(
                "{} acknowledged, none lost; dead: {} of poison, {} others",
                count.acknowledged, count.poison, count.innocent
            ),
            Some(first) => format!("{} wrong; the first: {first}", problems.len()),
        },
        limit: format!("none lost, {} of the others dead", percent(dead_max)),
        sentence: SENTENCE,
    }
}

/// How many records were acknowledged, and how many of what is dead is poison and is none.
#[derive(Default)]
struct Count {
    acknowledged: u64,
    poison: u64,
    innocent: u64,
}

/// What is wrong with the records of a workload.
fn weigh(log: &Log, count: &mut Count) -> Vec<String> {
    let mut problems = Vec::new();
    let emptied: BTreeMap<u32, BTreeSet<usize>> = log
        .reads
        .iter()
        .map(|read| (read.node, read.items.values().flatten().copied().collect()))
        .collect();
    for read in log.reads.iter().filter(|read| !read.is_whole) {
        problems.push(format!("node {} still holds records of {}", read.node, log.name));
    }
    for (number, item) in log.items.iter().enumerate() {
        // Who does not run in the end has them on its disk.
        let Some(dead) = emptied.get(&item.sender) else {
            continue;
        };
        let (is_dead, is_poison) = (
            dead.contains(&number),
            item.record.is_some_and(|record| record.is_poison),
        );
        let wrong = match item.outcome {
            Outcome::Refused if is_dead || !item.arrivals.is_empty() => Some("was refused, and is there"),
            Outcome::Acknowledged if is_poison && !is_dead => Some("is poison, and not among the dead"),
            Outcome::Acknowledged if !is_dead && item.arrivals.is_empty() => Some("was neither served nor kept"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            let (at_s, name) = (item.at_ns as f64 / 1e9, &log.name);
            problems.push(format!(
                "{name} {number}, of node {} at {at_s:.3} s, {wrong}",
                item.sender
            ));
        }
        count.acknowledged += u64::from(item.outcome == Outcome::Acknowledged);
        count.poison += u64::from(is_dead && is_poison);
        count.innocent += u64::from(is_dead && !is_poison);
    }
    if log.impossible > 0 {
        problems.push(format!("{} records of {} that nobody put", log.impossible, log.name));
    }
    problems
}

/// Records that were served for the first time before one of their key that had been answered before they were put.
fn out_of_order(log: &Log) -> Vec<String> {
    let mut problems = Vec::new();
    let mut lines: BTreeMap<(u32, usize), Vec<(usize, &Item)>> = BTreeMap::new();
    for (number, item) in log.items.iter().enumerate() {
        if let Some(key) = item.record.and_then(|record| record.key) {
            lines.entry((item.sender, key)).or_default().push((number, item));
        }
    }
    for line in lines.values() {
        for (place, (number, item)) in line.iter().enumerate() {
            let Some(first_ns) = first_arrival(item) else { continue };
            // Those that were answered long before are served, or were found out of order with one between.
            let before = line[..place].iter().rev().take(NEAR);
            for (other_number, other) in before {
                let was_before = kept_ns(other).is_some_and(|kept_ns| kept_ns < item.at_ns);
                if was_before && first_arrival(other).is_some_and(|other_ns| other_ns > first_ns) {
                    problems.push(format!(
                        "{} {number} was served before {other_number}, which is of the same key and was there first",
                        log.name
                    ));
                }
            }
        }
    }
    problems
}

/// How many records of a key before one are compared with it.
const NEAR: usize = 1_000;

fn kept_ns(item: &Item) -> Option<u64> {
    item.record?.kept_ns
}

fn first_arrival(item: &Item) -> Option<u64> {
    item.arrivals.iter().map(|arrival| arrival.at_ns).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{Arrival, Oracle, Read, Record};

    /// Records with when they were put, when that was answered, and when they were served; and what is dead in the end.
    fn judged(records: &[(u64, Option<u64>, &[u64])], dead: &[usize], is_whole: bool) -> bool {
        let mut oracle = Oracle::new([("logs".to_owned(), false, BTreeSet::new())]);
        for (at_ns, kept_ns, served) in records {
            let item = oracle.sending(0, 1, 1, *at_ns);
            // Two keys; the fourth record is poison.
            let record = Record {
                key: Some(item % 2),
                is_poison: item == 3,
                kept_ns: None,
            };
            oracle.putting(0, item, record);
            match kept_ns {
                Some(kept_ns) => oracle.kept(0, item, *kept_ns),
                None => oracle.outcome(0, item, Outcome::Refused),
            }
            for at_ns in *served {
                let arrival = Arrival {
                    node: 2,
                    boot: 1,
                    at_ns: *at_ns,
                    from: Some(1),
                };
                oracle.handed_over(0, item, arrival, true);
            }
        }
        let items = (1..).zip(dead.iter().map(|item| Some(*item))).collect();
        let read = Read {
            node: 1,
            is_whole,
            items,
        };
        oracle.read(0, read);
        handed_over(oracle.logs().iter(), 0.0).passed
    }

    #[test]
    fn a_record_that_is_nowhere_is_found() {
        let all: &[(u64, Option<u64>, &[u64])] = &[
            (0, Some(1), &[50]),
            (2, Some(3), &[20, 60]),
            (4, Some(5), &[70]),
            (6, Some(7), &[]),
            (8, None, &[]),
        ];
        assert!(judged(all, &[3], true));
        let with = |place: usize, record: (u64, Option<u64>, &'static [u64])| {
            let mut records = all.to_vec();
            records[place] = record;
            records
        };
        assert!(!judged(&with(0, (0, Some(1), &[])), &[3], true), "served by nobody");
        assert!(
            !judged(&with(0, (0, Some(1), &[])), &[3, 0], true),
            "dead, and no poison"
        );
        assert!(!judged(all, &[], true), "poison that is not kept");
        assert!(!judged(&with(4, (8, None, &[90])), &[3], true), "refused, and served");
        assert!(!judged(all, &[3], false), "something is left in the queue");
        assert!(
            !judged(&with(2, (4, Some(5), &[40])), &[3], true),
            "before the first of its key"
        );
        assert!(
            judged(&with(0, (0, Some(9), &[80])), &[3], true),
            "both were on their way at once"
        );
        assert!(!judged(&[], &[], true), "nothing was put");
    }
}
