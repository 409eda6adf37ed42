//! A report in a terminal.

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};

use super::{CheckResult, Report, bytes, count, millis, seconds};

fn table(color: bool) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    if color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

fn head(table: &mut Table, names: &[&str]) {
    table.set_header(names.iter().map(|name| Cell::new(name).add_attribute(Attribute::Dim)));
}

fn lines(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn ratio(value: f64) -> String {
    // Rounded down: what is not all of it must not read 100 %.
    format!("{:.2} %", (value * 10_000.0).floor() / 100.0)
}

/// What was answered, in a word.
fn answers(report: &Report) -> &'static str {
    let mut kinds: Vec<&str> = report.workloads.iter().map(|tally| tally.kind.as_str()).collect();
    kinds.retain(|kind| *kind != "publish");
    kinds.sort_unstable();
    kinds.dedup();
    match kinds[..] {
        ["append"] => "appends",
        ["batch"] => "records",
        [_, _, ..] => "answers",
        _ => "calls",
    }
}

/// The facts of a run, each with its name.
pub(super) fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let per_node = |value: f64| value / report.nodes.max(1) as f64;
    let mut facts = vec![
        (
            "scenario",
            format!(
                "{} (seed {}, mode {})",
                report.scenario,
                report.seed,
                report.mode.as_str()
            ),
        ),
        (
            "nodes",
            format!("{}, {} links laid out", report.nodes, report.topology.edges.len()),
        ),
        (
            "time",
            format!(
                "{} simulated in {}, {} of processor time",
                seconds(report.virtual_seconds),
                seconds(report.wall_seconds),
                seconds(report.cpu_seconds)
            ),
        ),
        (
            "memory",
            format!(
                "{} at most, {} a node",
                bytes(report.rss_bytes_peak as f64),
                bytes(per_node(report.rss_bytes_peak as f64))
            ),
        ),
    ];
    let answers = answers(report);
    for (name, distribution) in [("delivery", &report.propagation), (answers, &report.calls)] {
        let percentile = |p| distribution.percentile(p).map_or("-".to_owned(), millis);
        if distribution.count > 0 {
            let (half, most, last) = (percentile(50.0), percentile(99.0), percentile(100.0));
            let all = count(distribution.count);
            facts.push((
                name,
                format!("{all}: median {half}, 99 % within {most}, all within {last}"),
            ));
        }
    }
    if let Some((mean, most)) = report.hops_mean_and_most() {
        facts.push(("hops", format!("{mean:.1} a delivery, {most} at most")));
    }
    let sent: u64 = report.bytes_sent.iter().sum();
    if sent > 0 {
        facts.push(("traffic", format!("{} sent a node", bytes(per_node(sent as f64)))));
    }
    if let Some(hash) = &report.trace_hash {
        facts.push((
            "trace_hash",
            format!("{hash} over {} events", count(report.trace_events)),
        ));
    }
    if let Some(why) = &report.ended_early {
        facts.push(("ended early", why.clone()));
    }
    facts
}

/// A run in a terminal: facts, what applications got, what held.
pub fn summary(report: &Report, color: bool) -> String {
    let mut text = String::new();
    let mut about = table(color);
    for (name, value) in facts(report) {
        about.add_row([Cell::new(name).add_attribute(Attribute::Dim), Cell::new(value)]);
    }
    text.push_str(&lines(&about));
    if !report.workloads.is_empty() {
        let mut work = table(color);
        head(
            &mut work,
            &[
                "workload",
                "sent",
                "acknowledged",
                "kept",
                "refused",
                "unknown",
                "delivered",
                "of expected",
                "ratio",
            ],
        );
        for tally in &report.workloads {
            work.add_row([
                tally.name.clone(),
                count(tally.sent),
                count(tally.acknowledged),
                count(tally.kept),
                count(tally.refused),
                count(tally.unknown),
                count(tally.delivered),
                count(tally.expected),
                ratio(tally.delivery_ratio()),
            ]);
        }
        text.push('\n');
        text.push_str(&lines(&work));
    }
    if !report.attacks.is_empty() {
        text.push('\n');
        text.push_str(&attacks(report, color));
    }
    if !report.checks.is_empty() {
        text.push('\n');
        text.push_str(&checks(&report.checks, color));
    }
    for note in &report.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

fn attacks(report: &Report, color: bool) -> String {
    let mut attacks = table(color);
    head(
        &mut attacks,
        &[
            "attack",
            "attackers",
            "scoring",
            "delivered",
            "to the victim",
            "99 % within",
            "of gossip neighbours",
        ],
    );
    for figures in &report.attacks {
        attacks.add_row([
            figures.kind.clone(),
            figures.attackers.to_string(),
            if figures.scoring { "on" } else { "off" }.to_owned(),
            ratio(figures.delivery_ratio),
            figures.victim_delivery_ratio.map_or("-".to_owned(), ratio),
            millis(figures.latency_p99_ms),
            ratio(figures.attacker_share_of_mesh),
        ]);
    }
    lines(&attacks)
}

fn checks(results: &[CheckResult], color: bool) -> String {
    let mut checks = table(color);
    head(&mut checks, &["", "check", "measured", "limit", "what is checked"]);
    for result in results {
        let (word, shade) = if result.passed {
            ("ok", Color::Green)
        } else {
            ("FAILED", Color::Red)
        };
        let mut verdict = Cell::new(word);
        if color {
            verdict = verdict.fg(shade);
        }
        checks.add_row([
            verdict,
            Cell::new(&result.name),
            Cell::new(&result.measured),
            Cell::new(&result.limit),
            Cell::new(&result.sentence),
        ]);
    }
    lines(&checks)
}

/// Runs of one scenario side by side, in the terminal.
pub fn compared(reports: &[Report], color: bool) -> String {
    let mut table = table(color);
    let mut names = vec![""];
    names.extend(reports.iter().map(|report| report.mode.as_str()));
    head(&mut table, &names);
    for (name, cells) in side_by_side(reports) {
        let mut row = vec![Cell::new(name).add_attribute(Attribute::Dim)];
        row.extend(cells.into_iter().map(Cell::new));
        table.add_row(row);
    }
    lines(&table)
}

/// The rows of a comparison.
pub(super) fn side_by_side(reports: &[Report]) -> Vec<(String, Vec<String>)> {
    let row = |name: &str, of: &dyn Fn(&Report) -> String| (name.to_owned(), reports.iter().map(of).collect());
    let percentile = |distribution: &super::Distribution, p| distribution.percentile(p).map_or("-".to_owned(), millis);
    let mut rows: Vec<(String, Vec<String>)> = vec![
        row("nodes", &|r| r.nodes.to_string()),
        row("took", &|r| seconds(r.wall_seconds)),
        row("processor time", &|r| seconds(r.cpu_seconds)),
        row("memory", &|r| bytes(r.rss_bytes_peak as f64)),
        row("sent a node", &|r| match r.bytes_sent.iter().sum::<u64>() {
            0 => "-".to_owned(),
            sum => bytes(sum as f64 / r.nodes.max(1) as f64),
        }),
        row("copies a node", &|r| match r.duplicates.is_empty() {
            true => "-".to_owned(),
            false => format!("{:.1}", r.duplicates.iter().sum::<u64>() as f64 / r.nodes.max(1) as f64),
        }),
        row("gossip neighbours", &|r| match r.series.last() {
            Some(sample) if sample.mesh_degree.2 > 0 => format!("{:.1}", sample.mesh_degree.1),
            _ => "-".to_owned(),
        }),
        row("deliveries", &|r| count(r.propagation.count)),
        row("delivery, median", &|r| percentile(&r.propagation, 50.0)),
        row("delivery, 90 %", &|r| percentile(&r.propagation, 90.0)),
        row("delivery, 99 %", &|r| percentile(&r.propagation, 99.0)),
        row("hops, mean and most", &|r| {
            r.hops_mean_and_most()
                .map_or("-".to_owned(), |(mean, most)| format!("{mean:.1}, {most}"))
        }),
        row("calls, median", &|r| percentile(&r.calls, 50.0)),
        row("calls, 99 %", &|r| percentile(&r.calls, 99.0)),
    ];
    let Some(first) = reports.first() else { return rows };
    for (index, tally) in first.workloads.iter().enumerate() {
        rows.push(row(&format!("{}: sent", tally.name), &|r| {
            r.workloads.get(index).map_or("-".to_owned(), |tally| count(tally.sent))
        }));
        rows.push(row(&format!("{}: delivered", tally.name), &|r| {
            r.workloads
                .get(index)
                .map_or("-".to_owned(), |tally| ratio(tally.delivery_ratio()))
        }));
    }
    for (index, result) in first.checks.iter().enumerate() {
        rows.push(row(&result.name, &|r| match r.checks.get(index) {
            Some(result) if result.passed => format!("ok, {}", result.measured),
            Some(result) => format!("FAILED, {}", result.measured),
            None => "-".to_owned(),
        }));
    }
    rows
}
