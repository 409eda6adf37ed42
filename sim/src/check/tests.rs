use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::{
    oracle::{Arrival, Outcome},
    report::Sample,
};

const S: u64 = 1_000_000_000;

fn check(kind: CheckKind) -> Check {
    Check {
        name: "it".to_owned(),
        kind,
        workload: None,
    }
}

/// Three nodes; one message, which reaches `reached` of the two that are due.
fn oracle(reached: u32) -> Oracle {
    let mut oracle = Oracle::new([("news".to_owned(), true, BTreeSet::from([0, 1, 2]))]);
    (0..3).for_each(|node| oracle.up(node, 0));
    let item = oracle.sending(0, 0, 1, 20 * S);
    oracle.outcome(0, item, Outcome::Acknowledged);
    for node in 1..=reached {
        let arrival = Arrival {
            node,
            boot: 1,
            at_ns: 20 * S + u64::from(node) * S / 10,
            from: Some(0),
        };
        oracle.arrived(0, item, arrival, true);
    }
    oracle
}

fn passes(kind: CheckKind, oracle: &Oracle, report: &Report) -> bool {
    let evidence = Evidence {
        oracle,
        convergence_ns: None,
        disks_were_sound: true,
    };
    judge(&check(kind), &evidence, report).passed
}

#[test]
fn every_check_can_fail_and_pass() {
    let (none, one, both) = (oracle(0), oracle(1), oracle(2));
    let empty = Report::default();
    let ratio = |min| CheckKind::DeliveryRatio { min };
    assert!(passes(ratio(0.5), &one, &empty) && !passes(ratio(0.51), &one, &empty));
    assert!(passes(ratio(1.0), &both, &empty));
    let latency = |ms| CheckKind::Latency {
        percentile: 99.0,
        max: Duration::from_millis(ms),
    };
    assert!(passes(latency(200), &both, &empty) && !passes(latency(199), &both, &empty));
    assert!(!passes(latency(199), &none, &empty), "nothing arrived in time");
    let mut twice = both.clone();
    twice.arrived(
        0,
        0,
        Arrival {
            node: 1,
            boot: 1,
            at_ns: 30 * S,
            from: None,
        },
        true,
    );
    assert!(passes(CheckKind::NoDuplicates, &both, &empty) && !passes(CheckKind::NoDuplicates, &twice, &empty));
    let mut broken = both.clone();
    broken.broken("node 1 forgot that it is a member".to_owned());
    assert!(passes(CheckKind::NoAcknowledgedLoss, &both, &empty));
    assert!(!passes(CheckKind::NoAcknowledgedLoss, &broken, &empty));
    assert!(!passes(
        CheckKind::ConvergenceTime {
            max: Duration::from_secs(9)
        },
        &both,
        &empty
    ));
    assert!(
        passes(CheckKind::OrderPerPublisher, &both, &empty) && !passes(CheckKind::OrderPerPublisher, &none, &empty)
    );
}

#[test]
fn checks_of_the_whole_run_read_the_report() {
    let oracle = oracle(2);
    let report = Report {
        nodes: 2,
        rss_bytes_peak: 2000,
        bytes_sent: vec![10, 30],
        duplicates: vec![1, 1],
        series: vec![Sample {
            connections: (2, 3.0, 4),
            ..Sample::default()
        }],
        ..Report::default()
    };
    let degree = |min, max| CheckKind::Degree { min, max };
    for (kind, expected) in [
        (CheckKind::MemoryBound { max_per_node: 1000 }, true),
        (CheckKind::MemoryBound { max_per_node: 999 }, false),
        (CheckKind::BytesPerNode { max: 20 }, true),
        (CheckKind::BytesPerNode { max: 19 }, false),
        (CheckKind::DuplicateRatio { max: 1.0 }, true),
        (CheckKind::DuplicateRatio { max: 0.9 }, false),
        (degree(2, Some(4)), true),
        (degree(3, None), false),
        (degree(2, Some(3)), false),
    ] {
        assert_eq!(passes(kind.clone(), &oracle, &report), expected, "{kind:?}");
    }
}

#[test]
fn what_is_not_all_does_not_look_like_it() {
    assert_eq!(percent(0.999_999), "99.999 %");
    assert_eq!(percent(1.0), "100 %");
}

/// Calls one a second to nodes 1 and 2 in turn, of which 1 hangs from 10 s to 20 s. It is called then when `calls_it` says so, and
/// answers whenever it does not hang.
fn hanging(calls_it: impl Fn(u64) -> bool) -> Oracle {
    let mut oracle = Oracle::new([("orders".to_owned(), false, BTreeSet::from([1, 2]))]);
    for second in 0..60 {
        if second == 10 || second == 20 {
            oracle.hangs(1, second == 10, second * S);
        }
        let node = if second % 2 == 0 && calls_it(second) { 1 } else { 2 };
        let item = oracle.sending(0, 0, 1, second * S);
        let arrival = Arrival {
            node,
            boot: 1,
            at_ns: second * S + 1,
            from: Some(0),
        };
        oracle.arrived(0, item, arrival, true);
        if oracle.is_hanging(node) {
            oracle.outcome(0, item, Outcome::Unknown);
        } else {
            oracle.answered(0, item, node, second * S + 2);
        }
    }
    oracle
}

#[test]
fn who_hangs_is_to_be_left_alone_and_asked_again() {
    let left_alone = |max, closes| CheckKind::LeftAlone {
        max,
        opens: Duration::from_secs(4),
        closes: Duration::from_secs(closes),
    };
    let empty = Report::default();
    let good = hanging(|second| !(14..25).contains(&second));
    assert!(passes(left_alone(0.0, 10), &good, &empty));
    assert!(
        !passes(left_alone(0.0, 5), &good, &empty),
        "it was asked again after 26 s only"
    );
    let stubborn = hanging(|_| true);
    assert!(!passes(left_alone(0.4, 10), &stubborn, &empty) && passes(left_alone(0.5, 10), &stubborn, &empty));
    assert!(
        !passes(left_alone(1.0, 30), &hanging(|second| second < 14), &empty),
        "never asked again"
    );
    let nobody_hangs = Oracle::new([("orders".to_owned(), false, BTreeSet::from([1, 2]))]);
    assert!(!passes(left_alone(1.0, 30), &nobody_hangs, &empty));
}
