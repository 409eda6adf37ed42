//! Who does not answer is left alone, and found again.

use std::time::Duration;

use super::{Verdict, percent};
use crate::oracle::{Log, Oracle};

/// docs/design/services.md, "Too much".
const SENTENCE: &str = "An instance that gives no answer five times in a row is left alone for a second, then two, up to half a minute; then one call is let through";

/// Of the calls that reached anybody while some hung, at most `max` went to those, once callers had `opens` to find out; and each of
/// them answered one within `closes` after its end.
pub(super) fn left_alone<'a>(
    oracle: &Oracle,
    logs: impl Iterator<Item = &'a Log>,
    max: f64,
    (opens, closes): (Duration, Duration),
) -> Verdict {
    let (opens_ns, closes_ns) = (opens.as_nanos() as u64, closes.as_nanos() as u64);
    let items: Vec<_> = logs.flat_map(|log| &log.items).collect();
    let mut spans: Vec<(u32, u64, u64, bool)> = oracle
        .hangings()
        .map(|(node, from, until)| (node, from, until.unwrap_or(u64::MAX), false))
        .collect();
    let (mut all, mut lost) = (0_u64, 0_u64);
    for item in &items {
        for arrival in &item.arrivals {
            let known = |(_, from, until, _): &&(u32, u64, u64, bool)| (from + opens_ns..*until).contains(&item.at_ns);
            let mut during = spans.iter().filter(known).peekable();
            all += u64::from(during.peek().is_some());
            lost += u64::from(during.any(|(node, ..)| *node == arrival.node));
        }
        // The last who had it is the one that answered.
        let (Some(answered_ns), Some(server)) = (item.answered_ns, item.arrivals.last().map(|a| a.node)) else {
            continue;
        };
        for (node, _, until, is_back) in &mut spans {
            let in_time = *until..until.saturating_add(closes_ns);
            *is_back |= *node == server && item.at_ns >= *until && in_time.contains(&answered_ns);
        }
    }
    let back = spans.iter().filter(|(.., is_back)| *is_back).count();
    let share = if all == 0 { 1.0 } else { lost as f64 / all as f64 };
    Verdict {
        passed: !spans.is_empty() && all > 0 && share <= max && back == spans.len(),
        measured: format!(
            "{} ({lost} of {all}), {back} of {} asked again",
            percent(share),
            spans.len()
        ),
        limit: format!(
            "at most {} after {opens:?}, asked again within {closes:?}",
            percent(max)
        ),
        sentence: SENTENCE,
    }
}
