//! What a node costs.

use super::Verdict;
use crate::{oracle::Oracle, report::Report};

/// README, "What it promises".
const BOUNDS: &str = "Everything has a bound: sizes, queues, streams, connections";

fn mib(bytes: f64) -> String {
    format!("{:.2} MiB", bytes / f64::from(1 << 20))
}

pub(super) fn memory(max_per_node: u64, report: &Report) -> Verdict {
    let each = report.rss_bytes_peak as f64 / report.nodes.max(1) as f64;
    Verdict {
        passed: report.rss_bytes_peak > 0 && each <= max_per_node as f64,
        measured: format!("{} a node", mib(each)),
        limit: format!("at most {} a node", mib(max_per_node as f64)),
        sentence: BOUNDS,
    }
}

pub(super) fn bytes(max: u64, report: &Report) -> Verdict {
    let sum: u64 = report.bytes_sent.iter().sum();
    let each = sum as f64 / report.bytes_sent.len().max(1) as f64;
    Verdict {
        passed: sum > 0 && each <= max as f64,
        measured: format!("{} a node", mib(each)),
        limit: format!("at most {} a node", mib(max as f64)),
        sentence: BOUNDS,
    }
}

pub(super) fn duplicates(max: f64, report: &Report, oracle: &Oracle) -> Verdict {
    let limit = format!("at most {max} a message and node");
    if report.duplicates.is_empty() {
        return Verdict {
            passed: false,
            measured: "not measured this way of running".to_owned(),
            limit,
            sentence: BOUNDS,
        };
    }
    let copies: u64 = report.duplicates.iter().sum();
    let arrivals: usize = oracle
        .logs()
        .iter()
        .flat_map(|log| &log.items)
        .map(|item| item.arrivals.len())
        .sum();
    let ratio = copies as f64 / arrivals.max(1) as f64;
    Verdict {
        passed: ratio <= max,
        measured: format!("{ratio:.2} a message and node"),
        limit,
        sentence: BOUNDS,
    }
}
