//! What one publisher sends while it runs arrives in its order.

use super::Verdict;
use crate::oracle::{Log, Oracle};

/// README, "What it promises".
const SENTENCE: &str =
    "Messages of one publisher whose subjects begin with the same token arrive in its order, as long as it runs";

pub(super) fn per_publisher<'a>(oracle: &Oracle, logs: impl Iterator<Item = &'a Log>) -> Verdict {
    let wanted: Vec<&str> = logs.map(|log| log.name.as_str()).collect();
    let tallies = (0..oracle.logs().len()).map(|index| oracle.tally(index));
    let chosen = tallies.filter(|tally| wanted.contains(&tally.name.as_str()));
    let (count, delivered) = chosen.fold((0, 0), |sum, t| (sum.0 + t.out_of_order, sum.1 + t.delivered));
    Verdict {
        passed: count == 0 && delivered > 0,
        measured: format!("{count} of {delivered} out of order"),
        limit: "none".to_owned(),
        sentence: SENTENCE,
    }
}
