//! A report as one page that stands alone: no scripts, nothing loaded, light and dark.

mod charts;

use std::fmt::{self, Write};

use charts::{Chart, Line, bars, lines, spread};

use super::{Distribution, Report, bytes, millis, table};
use crate::topology::{Drawing, draw, escape};

/// Faults listed in the table; the charts shade all of them.
const FAULTS_LISTED_MAX: usize = 100;

/// The page of one run, or of several of one scenario: the first has the pictures, and a table puts all side by side.
pub fn page(reports: &[Report]) -> String {
    let mut html = String::new();
    write_page(&mut html, reports).expect("invariant: writing to a string does not fail");
    html
}

fn write_page(html: &mut String, reports: &[Report]) -> fmt::Result {
    let title = reports.first().map_or("weft-sim", |report| report.scenario.as_str());
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{} – weft-sim</title>\n<style>{}</style></head>\n<body>\n",
        escape(title),
        include_str!("style.css")
    )?;
    if reports.len() > 1 {
        write_comparison(html, reports)?;
    }
    for report in reports {
        write_report(html, report, reports.len() > 1)?;
    }
    html.push_str("</body></html>\n");
    Ok(())
}

fn write_comparison(html: &mut String, reports: &[Report]) -> fmt::Result {
    html.push_str("<h1>Side by side</h1>\n<div class=\"grid2\"><div class=\"card wide\"><table><tr><th></th>");
    for report in reports {
        write!(html, "<th>{}</th>", report.mode.as_str())?;
    }
    html.push_str("</tr>\n");
    for (name, cells) in table::side_by_side(reports) {
        write!(html, "<tr><td>{}</td>", escape(&name))?;
        for cell in cells {
            let class = if cell.starts_with("FAILED") {
                " class=\"bad\""
            } else {
                ""
            };
            write!(html, "<td{class}>{}</td>", escape(&cell))?;
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    let curves: Vec<Line> = reports
        .iter()
        .map(|report| Line {
            name: report.mode.as_str().to_owned(),
            points: curve(&report.propagation),
        })
        .collect();
    card(
        html,
        "Delivery",
        "The share of deliveries made within a time, in each mode.",
        &cdf(curves),
    )?;
    html.push_str("</div>\n<hr>\n");
    Ok(())
}

fn write_report(html: &mut String, report: &Report, one_of_several: bool) -> fmt::Result {
    let (class, verdict) = verdict(report);
    let mode = if one_of_several {
        format!(", {}", report.mode.as_str())
    } else {
        String::new()
    };
    writeln!(
        html,
        "<header><h1>{}{mode}</h1> <span class=\"verdict {class}\">{verdict}</span>\n<p class=\"about\">{}</p>\n<dl>",
        escape(&report.scenario),
        escape(&report.about)
    )?;
    for (name, value) in table::facts(report) {
        writeln!(html, "<dt>{name}</dt><dd>{}</dd>", escape(&value))?;
    }
    writeln!(
        html,
        "<dt>version</dt><dd>{}</dd></dl></header>",
        escape(&report.version)
    )?;
    for note in &report.notes {
        writeln!(html, "<p><strong>Note:</strong> {}</p>", escape(note))?;
    }
    write_checks(html, report)?;
    write_workloads(html, report)?;
    write_attacks(html, report)?;
    write_pictures(html, report)?;
    write_faults(html, report)?;
    if !report.source.is_empty() {
        writeln!(
            html,
            "<h2>Scenario</h2>\n<details><summary>The file it was run from</summary>\n<pre>{}</pre></details>",
            escape(&report.source)
        )?;
    }
    Ok(())
}

fn verdict(report: &Report) -> (&'static str, String) {
    let failed = report.checks.iter().filter(|check| !check.passed).count();
    match (failed, &report.ended_early, report.checks.len()) {
        (0, Some(_), _) => ("bad", "ended early".to_owned()),
        (0, None, 0) => ("good", "no checks".to_owned()),
        (0, None, all) => ("good", format!("{all} checks held")),
        (failed, _, all) => ("bad", format!("{failed} of {all} checks failed")),
    }
}

fn write_checks(html: &mut String, report: &Report) -> fmt::Result {
    if report.checks.is_empty() {
        return Ok(());
    }
    html.push_str(
        "<h2>Checks</h2>\n<div class=\"wide\"><table><tr><th></th><th>check</th><th>measured</th><th>limit</th><th>what is checked</th></tr>\n",
    );
    for check in &report.checks {
        let (class, word) = if check.passed {
            ("good", "held")
        } else {
            ("bad", "failed")
        };
        writeln!(
            html,
            "<tr><td class=\"{class}\">{word}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&check.name),
            escape(&check.measured),
            escape(&check.limit),
            escape(&check.sentence)
        )?;
    }
    html.push_str("</table></div>\n");
    Ok(())
}

fn write_workloads(html: &mut String, report: &Report) -> fmt::Result {
    if report.workloads.is_empty() {
        return Ok(());
    }
    html.push_str("<h2>What applications got</h2>\n<div class=\"wide\"><table><tr><th>workload</th><th>kind</th>");
    for name in [
        "sent",
        "acknowledged",
        "kept",
        "refused",
        "unknown",
        "expected",
        "delivered",
        "twice",
        "out of order",
        "impossible",
    ] {
        write!(html, "<th class=\"n\">{name}</th>")?;
    }
    html.push_str("</tr>\n");
    for tally in &report.workloads {
        write!(
            html,
            "<tr><td>{}</td><td>{}</td>",
            escape(&tally.name),
            escape(&tally.kind)
        )?;
        for number in [
            tally.sent,
            tally.acknowledged,
            tally.kept,
            tally.refused,
            tally.unknown,
            tally.expected,
            tally.delivered,
            tally.duplicates,
            tally.out_of_order,
            tally.impossible,
        ] {
            write!(html, "<td class=\"n\">{}</td>", super::count(number))?;
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    Ok(())
}

fn write_attacks(html: &mut String, report: &Report) -> fmt::Result {
    if report.attacks.is_empty() {
        return Ok(());
    }
    html.push_str(
        "<h2>Attacks</h2>\n<div class=\"wide\"><table><tr><th>attack</th><th class=\"n\">attackers</th><th>scoring</th>\
         <th class=\"n\">delivered</th><th class=\"n\">to the victim</th><th class=\"n\">99 % within</th><th class=\"n\">attackers among gossip neighbours</th></tr>\n",
    );
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    for figures in &report.attacks {
        writeln!(
            html,
            "<tr><td>{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            escape(&figures.kind),
            figures.attackers,
            if figures.scoring { "on" } else { "off" },
            percent(figures.delivery_ratio),
            figures.victim_delivery_ratio.map_or("–".to_owned(), percent),
            millis(figures.latency_p99_ms),
            percent(figures.attacker_share_of_mesh)
        )?;
    }
    html.push_str("</table></div>\n");
    Ok(())
}

fn card(html: &mut String, title: &str, words: &str, picture: &str) -> fmt::Result {
    writeln!(
        html,
        "<section class=\"card\"><h3>{}</h3>\n{picture}\n<p>{}</p></section>",
        escape(title),
        escape(words)
    )
}

fn write_pictures(html: &mut String, report: &Report) -> fmt::Result {
    html.push_str("<h2>The mesh over time</h2>\n<div class=\"grid2\">\n");
    write_time(html, report)?;
    html.push_str("</div>\n<h2>Messages</h2>\n<div class=\"grid2\">\n");
    for (name, words, distribution) in [
        (
            "Delivery",
            "The share of deliveries made within a time after sending.",
            &report.propagation,
        ),
        ("Calls", "The share of calls answered within a time.", &report.calls),
    ] {
        if distribution.count > 0 {
            let line = Line {
                name: String::new(),
                points: curve(distribution),
            };
            card(html, name, words, &cdf(vec![line]))?;
        }
    }
    write_spreads(html, report)?;
    html.push_str("</div>\n");
    if report.topology.nodes.is_empty() {
        return Ok(());
    }
    html.push_str("<h2>Topology</h2>\n<section class=\"card\">\n");
    html.push_str(&topology(report));
    writeln!(
        html,
        "<p>{}: {} nodes, {} links as laid out at the start.</p></section>",
        escape(&report.topology.kind),
        report.topology.nodes.len(),
        report.topology.edges.len()
    )
}

/// The curve of a distribution, from the axis on.
fn curve(distribution: &Distribution) -> Vec<(f64, f64)> {
    let first = distribution.cdf.first().map(|(value, _)| (*value, 0.0));
    first.into_iter().chain(distribution.cdf.iter().copied()).collect()
}

fn cdf(curves: Vec<Line>) -> String {
    lines(&Chart {
        title: "Cumulative distribution".into(),
        x: "milliseconds".into(),
        y: "share".into(),
        lines: curves,
        y_end: 1.0,
        ..Chart::default()
    })
}

/// A quantity over time.
type Of<'a> = &'a dyn Fn(&super::Sample) -> f64;

fn write_time(html: &mut String, report: &Report) -> fmt::Result {
    if report.series.is_empty() {
        return writeln!(html, "<p>No samples were taken.</p>");
    }
    if report.series.iter().any(|sample| sample.mesh_degree.2 > 0) {
        let of: [(&str, Of<'_>); 3] = [
            ("average", &|s| s.mesh_degree.1),
            ("most", &|s| f64::from(s.mesh_degree.2)),
            ("fewest", &|s| f64::from(s.mesh_degree.0)),
        ];
        let picture = over_time(report, "neighbours", &of);
        card(
            html,
            "Mesh degree",
            "Gossip neighbours of a node; faults are shaded.",
            &picture,
        )?;
    }
    let of: [(&str, Of<'_>); 3] = [
        ("average", &|s| s.connections.1),
        ("most", &|s| f64::from(s.connections.2)),
        ("fewest", &|s| f64::from(s.connections.0)),
    ];
    let picture = over_time(report, "connections", &of);
    card(html, "Connections", "Members a node is connected with.", &picture)?;
    let of: [(&str, Of<'_>); 2] = [
        ("nodes that run", &|s| f64::from(s.nodes_up)),
        ("parts that do not reach each other", &|s| f64::from(s.components)),
    ];
    let words = "Nodes that run, and the parts the mesh is in: one is whole.";
    card(html, "Nodes", words, &over_time(report, "nodes, parts", &of))?;
    let deliveries = Line {
        name: "deliveries".into(),
        points: rates(report),
    };
    let picture = lines(&time_axis(report, "a second", vec![deliveries]));
    card(html, "Deliveries", "Deliveries and answers a second.", &picture)
}

fn over_time(report: &Report, y: &str, of: &[(&str, Of<'_>)]) -> String {
    let line = |(name, of): &(&str, Of<'_>)| Line {
        name: (*name).to_owned(),
        points: report.series.iter().map(|sample| (sample.at, of(sample))).collect(),
    };
    lines(&time_axis(report, y, of.iter().map(line).collect()))
}

/// A chart over the run's time, its faults shaded.
fn time_axis(report: &Report, y: &str, lines: Vec<Line>) -> Chart {
    let faults = report.faults.iter();
    Chart {
        title: format!("{y} over time"),
        x: "seconds".into(),
        y: y.to_owned(),
        lines,
        spans: faults
            .map(|fault| (fault.from, fault.until, fault.what.clone()))
            .collect(),
        x_end: report.virtual_seconds,
        y_end: 1.0,
    }
}

fn rates(report: &Report) -> Vec<(f64, f64)> {
    let before = std::iter::once(0.0).chain(report.series.iter().map(|sample| sample.at));
    before
        .zip(&report.series)
        .map(|(before, sample)| (sample.at, sample.delivered as f64 / (sample.at - before).max(1e-3)))
        .collect()
}

fn write_spreads(html: &mut String, report: &Report) -> fmt::Result {
    let whole = |value: f64| format!("{value:.0}");
    if !report.bytes_sent.is_empty() {
        let picture = bars(
            "Bytes sent by node",
            "sent by a node",
            "nodes",
            &spread(&report.bytes_sent, &bytes),
        );
        card(html, "Bytes", "How many nodes sent how much.", &picture)?;
    }
    if !report.duplicates.is_empty() {
        let picture = bars(
            "Duplicates by node",
            "copies beyond the first",
            "nodes",
            &spread(&report.duplicates, &whole),
        );
        card(
            html,
            "Duplicates",
            "How many nodes received how many copies beyond the first.",
            &picture,
        )?;
    }
    if report.hops.iter().any(|count| *count > 0) {
        let values: Vec<(String, f64)> = report
            .hops
            .iter()
            .enumerate()
            .map(|(hops, count)| (hops.to_string(), *count as f64))
            .collect();
        let picture = bars("Hops of a delivery", "hops", "deliveries", &values);
        card(html, "Hops", "From publisher to subscriber.", &picture)?;
    }
    Ok(())
}

fn topology(report: &Report) -> String {
    let nodes = &report.topology.nodes;
    let mut groups: Vec<String> = Vec::new();
    let mut group_of = Vec::with_capacity(nodes.len());
    for node in nodes {
        let known = groups.iter().position(|group| *group == node.group);
        group_of.push(known.unwrap_or_else(|| {
            groups.push(node.group.clone());
            groups.len() - 1
        }));
    }
    let attackers: Vec<u32> = (0..nodes.len() as u32)
        .filter(|n| nodes[*n as usize].attacker)
        .collect();
    let places: Vec<(f64, f64)> = nodes.iter().map(|node| (node.x, node.y)).collect();
    draw(&Drawing {
        places: &places,
        edges: &report.topology.edges,
        group_of: &group_of,
        groups: &groups,
        cut_vertices: &[],
        attackers: &attackers,
        title: "The topology as it was laid out",
    })
}

fn write_faults(html: &mut String, report: &Report) -> fmt::Result {
    if report.faults.is_empty() {
        return Ok(());
    }
    html.push_str("<h2>Faults</h2>\n<div class=\"wide\"><table><tr><th>what</th><th class=\"n\">from</th><th class=\"n\">until</th><th>nodes</th></tr>\n");
    for fault in report.faults.iter().take(FAULTS_LISTED_MAX) {
        let mut nodes: Vec<String> = fault.nodes.iter().take(20).map(u32::to_string).collect();
        if fault.nodes.len() > nodes.len() {
            nodes.push(format!("and {} more", fault.nodes.len() - nodes.len()));
        }
        writeln!(
            html,
            "<tr><td>{}</td><td class=\"n\">{:.1} s</td><td class=\"n\">{:.1} s</td><td>{}</td></tr>",
            escape(&fault.what),
            fault.from,
            fault.until,
            nodes.join(", ")
        )?;
    }
    html.push_str("</table></div>\n");
    if report.faults.len() > FAULTS_LISTED_MAX {
        writeln!(html, "<p>and {} more</p>", report.faults.len() - FAULTS_LISTED_MAX)?;
    }
    Ok(())
}
