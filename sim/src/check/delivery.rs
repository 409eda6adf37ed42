//! Messages arrive, each once; calls are answered.

use super::{Verdict, percent};
use crate::oracle::{Log, Oracle};

/// README, "What it promises".
const MESSAGE: &str = "A message reaches the subscribers whose pattern it matches, each once";
/// README, "What it promises".
const CALL: &str = "A call is answered, refused with a reason, or ends at its deadline. It is served at most once";

pub(super) fn ratio<'a>(oracle: &Oracle, logs: impl Iterator<Item = &'a Log>, min: f64) -> Verdict {
    let (mut due, mut delivered, mut impossible) = (0, 0, 0);
    for log in logs {
        let (log_due, log_delivered) = oracle.deliveries(log, |_, _| true);
        due += log_due;
        delivered += log_delivered;
        impossible += log.impossible;
    }
    let share = if due == 0 { 0.0 } else { delivered as f64 / due as f64 };
    let forged = if impossible > 0 {
        format!(", and {impossible} that nobody sent")
    } else {
        String::new()
    };
    Verdict {
        // Of nothing due nothing can be said: a check that cannot fail is none.
        passed: due > 0 && share >= min && impossible == 0,
        measured: format!("{} ({delivered} of {due}){forged}", percent(share)),
        limit: format!("at least {}", percent(min)),
        sentence: MESSAGE,
    }
}

pub(super) fn no_duplicates<'a>(oracle: &Oracle, logs: impl Iterator<Item = &'a Log>) -> Verdict {
    let wanted: Vec<&str> = logs.map(|log| log.name.as_str()).collect();
    let tallies = (0..oracle.logs().len()).map(|index| oracle.tally(index));
    let count: u64 = tallies
        .filter(|tally| wanted.contains(&tally.name.as_str()))
        .map(|t| t.duplicates)
        .sum();
    Verdict {
        passed: count == 0,
        measured: format!("{count} repeated"),
        limit: "none".to_owned(),
        sentence: MESSAGE,
    }
}

pub(super) fn answered<'a>(logs: impl Iterator<Item = &'a Log>, min: f64) -> Verdict {
    let (mut made, mut answered, mut twice, mut impossible) = (0_u64, 0_u64, 0_u64, 0);
    for log in logs {
        impossible += log.impossible;
        for item in &log.items {
            made += 1;
            answered += u64::from(item.answered_ns.is_some());
            twice += u64::from(item.arrivals.len() > 1);
        }
    }
    let share = if made == 0 { 0.0 } else { answered as f64 / made as f64 };
    let more = if twice > 0 {
        format!(", {twice} served more than once")
    } else {
        String::new()
    };
    Verdict {
        passed: made > 0 && share >= min && twice == 0 && impossible == 0,
        measured: format!("{} ({answered} of {made}){more}", percent(share)),
        limit: format!("at least {}", percent(min)),
        sentence: CALL,
    }
}
