//! Charts as inline SVG: a few lines over one axis, bars, and shaded spans of time.

use std::fmt::Write;

use super::super::units::short;
use crate::topology::escape;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 40.0;
/// Shaded spans beyond this would be one grey.
const SPANS_MAX: usize = 400;

/// One line of a chart.
pub(super) struct Line {
    /// Its name; empty for the only one.
    pub(super) name: String,
    /// Its points, from left to right.
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart of lines.
#[derive(Default)]
pub(super) struct Chart {
    /// What it shows, for those who cannot see it.
    pub(super) title: String,
    /// The axis to the right.
    pub(super) x: String,
    /// The axis upwards.
    pub(super) y: String,
    /// The lines, at most six.
    pub(super) lines: Vec<Line>,
    /// Spans of the horizontal axis, with what they are.
    pub(super) spans: Vec<(f64, f64, String)>,
    /// Where the horizontal axis ends at least.
    pub(super) x_end: f64,
    /// Where the vertical axis ends at least.
    pub(super) y_end: f64,
}

/// Round steps for an axis from 0: how far apart, and how many.
fn steps(end: f64) -> (f64, usize) {
    const WANTED: f64 = 5.0;
    let raw = (end / WANTED).max(1e-9);
    let magnitude = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * magnitude)
        .find(|step| *step >= raw * 0.999)
        .unwrap_or(10.0 * magnitude);
    (step, (end / step).ceil().max(1.0) as usize)
}

struct Frame {
    x_end: f64,
    y_end: f64,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        LEFT + (value / self.x_end).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (value / self.y_end).clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }

    /// The frame, the grid, and the words on it.
    fn write(&self, svg: &mut String, x_label: &str, y_label: &str, x_ticks: bool) -> std::fmt::Result {
        let (step, count) = steps(self.y_end);
        for tick in 0..=count {
            let value = step * tick as f64;
            if value > self.y_end * 1.001 {
                break;
            }
            let y = self.y(value);
            write!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/>", WIDTH - RIGHT)?;
            write!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                tick_text(value)
            )?;
        }
        let (step, count) = steps(self.x_end);
        for tick in (0..=count).take_while(|_| x_ticks) {
            let value = step * tick as f64;
            if value > self.x_end * 1.001 {
                break;
            }
            let x = self.x(value);
            write!(
                svg,
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - BOTTOM + 16.0,
                tick_text(value)
            )?;
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        write!(
            svg,
            "<text class=\"axis\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 6.0,
            escape(x_label)
        )?;
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        write!(
            svg,
            "<text class=\"axis\" transform=\"translate(12 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escape(y_label)
        )
    }
}

fn tick_text(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{}G", short(v / 1e9)),
        v if v >= 1e6 => format!("{}M", short(v / 1e6)),
        v if v >= 1e4 => format!("{}k", short(v / 1e3)),
        v => short(v),
    }
}

fn open(svg: &mut String, title: &str) -> std::fmt::Result {
    write!(
        svg,
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\"><title>{}</title>",
        escape(title)
    )
}

/// A chart of lines, over shaded spans.
pub(super) fn lines(chart: &Chart) -> String {
    let mut svg = String::new();
    write_lines(&mut svg, chart).expect("invariant: writing to a string does not fail");
    svg
}

fn write_lines(svg: &mut String, chart: &Chart) -> std::fmt::Result {
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let frame = Frame {
        x_end: points().fold(chart.x_end, |end, point| end.max(point.0)).max(1e-9),
        y_end: points().fold(chart.y_end, |end, point| end.max(point.1)).max(1e-9) * 1.02,
    };
    open(svg, &chart.title)?;
    for (from, until, what) in chart.spans.iter().take(SPANS_MAX) {
        let (x, end) = (frame.x(*from), frame.x(*until));
        // What happens at once is a line.
        let width = (end - x).max(1.5);
        let height = HEIGHT - TOP - BOTTOM;
        write!(
            svg,
            "<rect class=\"span\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\">"
        )?;
        write!(svg, "<title>{}</title></rect>", escape(what))?;
    }
    frame.write(svg, &chart.x, &chart.y, true)?;
    for (index, line) in chart.lines.iter().enumerate() {
        write!(svg, "<path class=\"line l{}\" d=\"", index % 6)?;
        for (at, (x, y)) in line.points.iter().enumerate() {
            let letter = if at == 0 { 'M' } else { 'L' };
            write!(svg, "{letter}{:.1} {:.1}", frame.x(*x), frame.y(*y))?;
        }
        svg.push_str("\"/>");
    }
    svg.push_str("</svg>");
    let named: Vec<&Line> = chart.lines.iter().filter(|line| !line.name.is_empty()).collect();
    if !named.is_empty() {
        svg.push_str("<p class=\"key\">");
        for (index, line) in named.iter().enumerate() {
            write!(svg, "<span class=\"k{}\">{}</span> ", index % 6, escape(&line.name))?;
        }
        if !chart.spans.is_empty() {
            svg.push_str("<span class=\"kspan\">fault</span>");
        }
        svg.push_str("</p>");
    }
    Ok(())
}

/// Bars, each with the words below it.
pub(super) fn bars(title: &str, x_label: &str, y_label: &str, values: &[(String, f64)]) -> String {
    let mut svg = String::new();
    write_bars(&mut svg, title, x_label, y_label, values).expect("invariant: writing to a string does not fail");
    svg
}

fn write_bars(svg: &mut String, title: &str, x: &str, y: &str, values: &[(String, f64)]) -> std::fmt::Result {
    let frame = Frame {
        x_end: values.len().max(1) as f64,
        y_end: values.iter().fold(0.0_f64, |end, (_, value)| end.max(*value)).max(1e-9) * 1.05,
    };
    open(svg, title)?;
    frame.write(svg, x, y, false)?;
    // Not more words than fit beside each other.
    let every = values.len().div_ceil(10).max(1);
    for (index, (name, value)) in values.iter().enumerate() {
        let (left, right) = (frame.x(index as f64), frame.x(index as f64 + 1.0));
        let (top, bottom) = (frame.y(*value), frame.y(0.0));
        let gap = ((right - left) * 0.1).min(3.0);
        write!(
            svg,
            "<rect class=\"bar\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}: {}</title></rect>",
            left + gap,
            (right - left - 2.0 * gap).max(0.5),
            (bottom - top).max(0.0),
            escape(name),
            short(*value)
        )?;
        if index % every == 0 {
            let middle = (left + right) / 2.0;
            let y = HEIGHT - BOTTOM + 16.0;
            write!(
                svg,
                "<text x=\"{middle:.1}\" y=\"{y}\" text-anchor=\"middle\">{}</text>",
                escape(name)
            )?;
        }
    }
    svg.push_str("</svg>");
    Ok(())
}

/// How many values lie where: bars of even width from the smallest to the largest.
pub(super) fn spread(values: &[u64], show: &dyn Fn(f64) -> String) -> Vec<(String, f64)> {
    const BARS: usize = 24;
    let (Some(low), Some(high)) = (values.iter().min(), values.iter().max()) else {
        return Vec::new();
    };
    let distinct = (high - low).saturating_add(1);
    let bars = usize::try_from(distinct).unwrap_or(BARS).min(BARS);
    let width = (high - low) as f64 / bars as f64;
    let mut counts = vec![0_u64; bars];
    for value in values {
        let at = if width > 0.0 {
            ((value - low) as f64 / width) as usize
        } else {
            0
        };
        counts[at.min(bars - 1)] += 1;
    }
    let name = |bar: usize| {
        let middle = if distinct <= BARS as u64 {
            (*low + bar as u64) as f64
        } else {
            *low as f64 + width * (bar as f64 + 0.5)
        };
        show(middle)
    };
    counts
        .iter()
        .enumerate()
        .map(|(bar, count)| (name(bar), *count as f64))
        .collect()
}
