//! The last value of a subject is known to whoever asks for it.

use std::collections::BTreeSet;

use super::Verdict;
use crate::oracle::{Item, Log, Oracle, Outcome};

/// README, "What it promises".
const SENTENCE: &str = "it is on its publisher's disk when that is acknowledged, and a moment later on that of every member that heard it, so it outlives its publisher.";

/// Each node that was asked in the end has of each sender the value that was acknowledged last, or a later one: if that sender runs, or ran long
/// enough after it for others to have heard it.
pub(super) fn known<'a>(oracle: &Oracle, logs: impl Iterator<Item = &'a Log>) -> Verdict {
    let (mut problems, mut values, mut readers) = (Vec::new(), 0, 0);
    for log in logs {
        let senders: BTreeSet<u32> = log.items.iter().map(|item| item.sender).collect();
        readers += log.reads.len();
        for sender in senders {
            let of_sender = || {
                log.items
                    .iter()
                    .enumerate()
                    .filter(move |(_, item)| item.sender == sender)
            };
            let due = of_sender()
                .filter(|(_, item)| is_due(oracle, item))
                .map(|(number, _)| number)
                .max();
            values += usize::from(due.is_some());
            for read in &log.reads {
                let found = read.items.get(&u64::from(sender)).copied();
                let wrong = match (found, due) {
                    (Some(None), _) => Some("has a value that was never sent".to_owned()),
                    (Some(Some(number)), _) if log.items.get(number).is_none_or(|item| item.sender != sender) => {
                        Some(format!("has {number}, which another sent"))
                    }
                    (Some(Some(number)), _) if log.items[number].outcome == Outcome::Refused => {
                        Some(format!("has {number}, which was refused"))
                    }
                    (Some(Some(number)), Some(due)) if number < due => {
                        Some(format!("has {number}, though {due} was acknowledged after it"))
                    }
                    (None, Some(due)) => Some(format!("has none, though {due} was acknowledged")),
                    _ => None,
                };
                if let Some(wrong) = wrong {
                    let name = &log.name;
                    problems.push(format!("of {name} of node {sender}, node {} {wrong}", read.node));
                }
            }
        }
    }
    Verdict {
        passed: problems.is_empty() && values > 0 && readers > 0,
        measured: match problems.first() {
            None => format!("{values} last values known at {readers} nodes"),
            Some(first) => format!("{} wrong; the first: {first}", problems.len()),
        },
        limit: "none wrong".to_owned(),
        sentence: SENTENCE,
    }
}

fn is_due(oracle: &Oracle, item: &Item) -> bool {
    match item.outcome {
        Outcome::Acknowledged => oracle.is_up(item.sender) || oracle.lived_on(item),
        // Nobody else has it.
        Outcome::Kept => oracle.is_up(item.sender),
        Outcome::Pending | Outcome::Refused | Outcome::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::oracle::Read;

    const S: u64 = 1_000_000_000;

    /// Values of node 1 with what became of them, a second between them; it dies at some time. And what node 2 knows of it in the end.
    fn judged(outcomes: &[Outcome], dies_s: Option<u64>, found: Option<Option<usize>>) -> bool {
        let mut oracle = Oracle::new([("doors".to_owned(), true, BTreeSet::from([2]))]);
        oracle.up(1, 0);
        for (at_s, outcome) in (1..).zip(outcomes) {
            let item = oracle.sending(0, 1, 1, at_s * S);
            oracle.outcome(0, item, *outcome);
        }
        if let Some(at_s) = dies_s {
            oracle.down(1, at_s * S);
        }
        let read = Read {
            node: 2,
            is_whole: true,
            items: found.map(|item| BTreeMap::from([(1, item)])).unwrap_or_default(),
        };
        oracle.read(0, read);
        known(&oracle, oracle.logs().iter()).passed
    }

    #[test]
    fn an_older_value_and_none_are_found() {
        use Outcome::{Acknowledged, Kept, Refused, Unknown};
        assert!(judged(&[Acknowledged, Acknowledged], None, Some(Some(1))));
        assert!(judged(&[Acknowledged, Unknown], None, Some(Some(1))), "it may be there");
        assert!(judged(&[Acknowledged, Unknown], None, Some(Some(0))), "or not");
        for found in [None, Some(None), Some(Some(0)), Some(Some(7))] {
            assert!(!judged(&[Acknowledged, Acknowledged], None, found), "{found:?}");
        }
        assert!(!judged(&[Acknowledged, Refused], None, Some(Some(1))));
        // What others had time to hear outlives its sender, and what nobody heard does not.
        assert!(!judged(&[Acknowledged, Acknowledged], Some(60), Some(Some(0))));
        assert!(judged(&[Acknowledged, Kept], Some(60), Some(Some(0))));
        assert!(!judged(&[Acknowledged, Kept], None, Some(Some(0))));
        assert!(!judged(&[Refused], None, None), "nothing was to be known");
    }
}
