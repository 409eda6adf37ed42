//! Reports: what is computed, what is shown, and that a page is whole.

use super::*;

fn sample_report() -> Report {
    let mut report = Report {
        format: Report::FORMAT,
        scenario: "hello <world>".into(),
        about: "A & B".into(),
        seed: 7,
        version: "0.1.0".into(),
        nodes: 3,
        virtual_seconds: 60.0,
        wall_seconds: 2.5,
        cpu_seconds: 2.4,
        rss_bytes_peak: 3 << 20,
        trace_hash: Some("00ff".into()),
        trace_events: 12_345,
        propagation: Distribution::of((1..=1000).map(f64::from).collect()),
        hops: vec![0, 2, 5, 1],
        bytes_sent: vec![1000, 2000, 500_000],
        duplicates: vec![0, 3, 9],
        source: "duration = \"60s\"".into(),
        ..Report::default()
    };
    report.topology.kind = "line".into();
    for n in 0..3 {
        report.topology.nodes.push(NodeReport {
            name: format!("n{n}"),
            group: if n == 2 { "edge" } else { "core" }.into(),
            x: f64::from(n) / 2.0,
            y: 0.5,
            ..NodeReport::default()
        });
    }
    report.topology.edges = vec![(0, 1), (1, 2)];
    report.series = (0..=60)
        .map(|at| Sample {
            at: f64::from(at),
            nodes_up: 3,
            connections: (1, 1.3, 2),
            mesh_degree: (1, 1.3, 2),
            components: 1,
            sent: 1,
            delivered: 2,
        })
        .collect();
    report.faults.push(FaultSpan {
        what: "islands: 2".into(),
        from: 20.0,
        until: 30.0,
        nodes: (0..30).collect(),
    });
    report.workloads.push(Tally {
        name: "news".into(),
        kind: "publish".into(),
        sent: 10,
        acknowledged: 10,
        expected: 30,
        delivered: 29,
        ..Tally::default()
    });
    report.checks.push(CheckResult {
        name: "delivery-ratio of news".into(),
        passed: false,
        measured: "96.6 %".into(),
        limit: "100 %".into(),
        sentence: "A message reaches the subscribers.".into(),
    });
    report
}

#[test]
fn a_distribution_knows_its_percentiles() {
    let distribution = Distribution::of((1..=1000).rev().map(f64::from).collect());
    assert_eq!(distribution.count, 1000);
    assert_eq!(distribution.mean, 500.5);
    assert!(distribution.cdf.len() == Distribution::POINTS_MAX);
    let half = distribution.percentile(50.0).unwrap();
    assert!((495.0..=510.0).contains(&half), "{half}");
    assert_eq!(distribution.percentile(100.0), Some(1000.0));
    assert_eq!(distribution.cdf.first(), Some(&(1.0, 0.001)));
    assert_eq!(Distribution::of(Vec::new()).percentile(50.0), None);
    assert_eq!(Distribution::of(vec![5.0]).percentile(1.0), Some(5.0));
}

#[test]
fn numbers_are_written_for_people() {
    assert_eq!(bytes(1023.0), "1023 B");
    assert_eq!(bytes(1536.0), "1.5 KiB");
    assert_eq!(count(1_234_567), "1 234 567");
    assert_eq!(
        (millis(230.0), millis(1234.0)),
        ("230 ms".to_owned(), "1.23 s".to_owned())
    );
    assert_eq!(
        (seconds(12.34), seconds(245.0)),
        ("12.3 s".to_owned(), "4 m 05 s".to_owned())
    );
}

#[test]
fn the_document_is_read_back_as_it_was_written() {
    let report = sample_report();
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    assert!(text.contains("\"trace_hash\":\"00ff\"") && text.contains("\"mode\":\"virtual\""));
}

#[test]
fn a_terminal_sees_what_failed() {
    let text = summary(&sample_report(), false);
    assert!(text.contains("hello <world> (seed 7, mode virtual)"), "{text}");
    assert!(
        text.contains("60 s simulated in 2.5 s, 2.4 s of processor time"),
        "{text}"
    );
    assert!(text.contains("FAILED  delivery-ratio of news"), "{text}");
    // What is not everything does not read 100 %.
    assert!(text.contains("96.66 %"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_page_stands_alone_and_is_well_formed() {
    let html = page(&[sample_report()]);
    assert!(
        !html.contains("<script") && !html.contains(" src=") && !html.contains("url(") && !html.contains("@import")
    );
    let links: Vec<_> = html
        .match_indices("http")
        .map(|(at, _)| &html[at..(at + 26).min(html.len())])
        .collect();
    assert!(
        links.iter().all(|link| link.starts_with("http://www.w3.org/2000/svg")),
        "{links:?}"
    );
    assert!(html.contains("hello &lt;world&gt;") && !html.contains("hello <world>"));
    let mut pictures = 0;
    let mut rest = html.as_str();
    while let Some(start) = rest.find("<svg") {
        let end = start + rest[start..].find("</svg>").unwrap() + "</svg>".len();
        let picture = &rest[start..end];
        roxmltree::Document::parse(picture).unwrap_or_else(|error| panic!("{error}: {picture}"));
        assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
        pictures += 1;
        rest = &rest[end..];
    }
    assert_eq!(pictures, 9);
    assert!(html.contains("class=\"span\""), "the fault is not on the axis");
}

#[test]
fn an_empty_report_is_a_page_too() {
    let html = page(&[Report::default()]);
    assert!(html.contains("no checks") && !html.contains("NaN"));
    assert!(!summary(&Report::default(), true).is_empty());
}

#[test]
fn modes_stand_side_by_side() {
    let mut real = sample_report();
    real.mode = Mode::Processes;
    real.checks[0].passed = true;
    let both = [sample_report(), real];
    let text = compared(&both, false);
    assert!(text.contains("virtual") && text.contains("processes"), "{text}");
    assert!(text.contains("FAILED, 96.6 %") && text.contains("ok, 96.6 %"), "{text}");
    // Two took one hop, five two, one three.
    assert_eq!(sample_report().hops_mean_and_most(), Some((15.0 / 8.0, 3)));
    assert_eq!(Report::default().hops_mean_and_most(), None);
    assert!(text.contains("1.9, 3"), "{text}");
    assert!(page(&both).contains("Side by side"));
}
