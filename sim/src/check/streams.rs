//! Every append that was answered is in the stream where it was said to be, at whoever is asked, and behind what was answered before it began.

use std::collections::BTreeMap;

use super::{Verdict, percent};
use crate::oracle::{Log, Oracle, Outcome};

/// README, "What it promises".
const SENTENCE: &str = "whichever of the others fails, it is there, once, in one order, at all of them";

/// The appends of one stream are as if they had been done one after the other, each at some moment between its beginning and its answer
/// (Herlihy and Wing, *Linearizability*, 1990): their positions are that order, and what is left to check is that the order does not contradict the time.
/// At least `min` of them must have been answered.
pub(super) fn one_order<'a>(oracle: &Oracle, logs: impl Iterator<Item = &'a Log>, min: f64) -> Verdict {
    let (mut problems, mut sent, mut answered, mut readers) = (Vec::new(), 0, 0, 0);
    for log in logs {
        sent += log.items.len();
        answered += log.items.iter().filter(|item| item.position.is_some()).count();
        readers += log.reads.iter().filter(|read| read.is_whole).count();
        problems.extend(against_time(log));
        problems.extend(as_read(log));
    }
    problems.extend(
        oracle
            .broken_promises()
            .iter()
            .filter(|what| what.starts_with("the event "))
            .cloned(),
    );
    let share = answered as f64 / (sent.max(1)) as f64;
    Verdict {
        passed: problems.is_empty() && share >= min && sent > 0 && readers > 0,
        measured: match problems.first() {
            None => format!("{answered} of {sent} answered, the same at {readers} readers"),
            Some(first) => format!("{} wrong; the first: {first}", problems.len()),
        },
        limit: format!("none wrong, {} answered", percent(min)),
        sentence: SENTENCE,
    }
}

/// What began after something else was answered comes behind it.
fn against_time(log: &Log) -> Vec<String> {
    let mut answered: Vec<(u64, u64)> = log
        .items
        .iter()
        .filter_map(|item| Some((item.answered_ns?, item.position?)))
        .collect();
    answered.sort_unstable();
    // The last position of all that were answered up to then.
    let mut highest = 0;
    for one in &mut answered {
        highest = highest.max(one.1);
        one.1 = highest;
    }
    let mut problems = Vec::new();
    for (number, item) in log.items.iter().enumerate() {
        let Some(position) = item.position else { continue };
        let before = answered.partition_point(|(at_ns, _)| *at_ns < item.at_ns);
        if let Some((_, highest)) = before.checked_sub(1).and_then(|last| answered.get(last))
            && position <= *highest
        {
            problems.push(format!(
                "{} {number} is at {position}, before what was answered before it began",
                log.name
            ));
        }
    }
    problems
}

/// What readers found in the end.
fn as_read(log: &Log) -> Vec<String> {
    let mut problems = Vec::new();
    let mut first: Option<(u32, &BTreeMap<u64, Option<usize>>)> = None;
    for read in log.reads.iter().filter(|read| read.is_whole) {
        let mut found = BTreeMap::new();
        for ((position, item), expected) in read.items.iter().zip(1_u64..) {
            match item {
                _ if *position != expected => {
                    problems.push(format!("node {} has no record {expected} of {}", read.node, log.name));
                    break;
                }
                None => problems.push(format!("node {} has at {position} what nobody appended", read.node)),
                Some(item) if found.insert(*item, *position).is_some() => {
                    problems.push(format!("node {} has {} {item} twice", read.node, log.name));
                }
                Some(_) => {}
            }
        }
        for (number, item) in log.items.iter().enumerate() {
            let place = found.get(&number).copied();
            if item.position.is_some() && item.position != place {
                let (said, name) = (item.position.unwrap_or_default(), &log.name);
                problems.push(format!(
                    "node {} has {name} {number} at {place:?}, not at {said} as was said",
                    read.node
                ));
            }
            if item.outcome == Outcome::Refused && place.is_some() {
                problems.push(format!(
                    "node {} has {} {number}, which was refused",
                    read.node, log.name
                ));
            }
        }
        match first {
            None => first = Some((read.node, &read.items)),
            Some((_, items)) if *items == read.items => {}
            Some((other, _)) => problems.push(format!("nodes {other} and {} have not the same", read.node)),
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::oracle::Read;

    /// Appends with when they began, when they were answered, and where they are; and what two nodes read.
    fn judged(appends: &[(u64, u64, u64)], reads: [&[(u64, usize)]; 2]) -> bool {
        let mut oracle = Oracle::new([("orders".to_owned(), false, BTreeSet::new())]);
        for (began, answered, position) in appends {
            let item = oracle.sending(0, 1, 1, *began);
            oracle.appended(0, item, *position, *answered);
        }
        for (node, read) in (0..).zip(reads) {
            let items = read.iter().map(|(position, item)| (*position, Some(*item))).collect();
            oracle.read(
                0,
                Read {
                    node,
                    is_whole: true,
                    items,
                },
            );
        }
        let logs: Vec<Log> = oracle.logs().to_vec();
        one_order(&oracle, logs.iter(), 0.5).passed
    }

    #[test]
    fn a_history_that_cannot_be_is_found() {
        let both: &[(u64, usize)] = &[(1, 0), (2, 1)];
        assert!(judged(&[(0, 10, 1), (20, 30, 2)], [both, both]));
        // At the same time: either order.
        let other: &[(u64, usize)] = &[(1, 1), (2, 0)];
        assert!(judged(&[(0, 10, 2), (5, 30, 1)], [other, other]));
        // The second began after the first was answered.
        assert!(!judged(&[(0, 10, 2), (20, 30, 1)], [other, other]));
        // One lacks it, has it elsewhere, has it twice, has a hole.
        for wrong in [&both[..1], other, &[(1, 0), (2, 1), (3, 1)], &[(1, 0), (3, 1)]] {
            assert!(!judged(&[(0, 10, 1), (20, 30, 2)], [both, wrong]), "{wrong:?}");
        }
        // Nothing was answered, or nobody read.
        assert!(!judged(&[], [&[], &[]]));
    }
}
