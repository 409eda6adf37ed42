//! After the last fault the mesh heals.

use std::time::Duration;

use super::Verdict;
use crate::report::Report;

/// docs/simulator.md.
const WHOLE: &str = "after the last fault the mesh is whole within `max`";
/// docs/simulator.md.
const DEGREE: &str = "at the end each node has `min` to `max` connections";

pub(super) fn time(took_ns: Option<u64>, max: Duration) -> Verdict {
    let limit = format!("within {:.0} s", max.as_secs_f64());
    match took_ns {
        None => Verdict {
            passed: false,
            measured: "in parts at the end".to_owned(),
            limit,
            sentence: WHOLE,
        },
        Some(took_ns) => Verdict {
            passed: took_ns as f64 / 1e9 <= max.as_secs_f64(),
            measured: format!("{:.1} s", took_ns as f64 / 1e9),
            limit,
            sentence: WHOLE,
        },
    }
}

pub(super) fn degree(report: &Report, min: usize, max: Option<usize>) -> Verdict {
    let last = report.series.last().map(|sample| sample.connections);
    let (fewest, average, most) = last.unwrap_or_default();
    let within = fewest as usize >= min && max.is_none_or(|max| most as usize <= max);
    Verdict {
        passed: last.is_some() && within,
        measured: format!("{fewest} to {most}, {average:.1} on average"),
        limit: match max {
            Some(max) => format!("{min} to {max}"),
            None => format!("at least {min}"),
        },
        sentence: DEGREE,
    }
}
