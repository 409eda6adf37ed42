//! Messages and answers arrive soon.

use std::time::Duration;

use super::Verdict;
use crate::oracle::{Log, Oracle};

/// docs/simulator.md, "What the figures mean".
const SENTENCE: &str = "Delivery counts from the moment the sender's node took the message to the moment a subscriber's application was given it";

pub(super) fn latency<'a>(
    oracle: &'a Oracle,
    logs: impl Iterator<Item = &'a Log>,
    percentile: f64,
    max: Duration,
) -> Verdict {
    let mut all: Vec<f64> = logs.flat_map(|log| oracle.latencies_ms(log, |_| true)).collect();
    all.sort_by(f64::total_cmp);
    let max_ms = max.as_secs_f64() * 1000.0;
    let limit = format!("at most {max_ms:.0} ms");
    // The smallest value that so many per cent do not exceed.
    let rank = ((percentile / 100.0 * all.len() as f64).ceil() as usize).clamp(1, all.len().max(1));
    match all.get(rank - 1) {
        Some(value) => Verdict {
            passed: *value <= max_ms,
            measured: format!("{value:.0} ms at {percentile} % of {}", all.len()),
            limit,
            sentence: SENTENCE,
        },
        None => Verdict {
            passed: false,
            measured: "nothing arrived".to_owned(),
            limit,
            sentence: SENTENCE,
        },
    }
}
