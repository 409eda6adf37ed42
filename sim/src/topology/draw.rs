//! A topology as a picture: SVG that stands alone, light and dark, readable from ten to a thousand nodes.

use std::fmt::Write;

use super::layout::Place;

/// Edges beyond this are not drawn, and the picture says so.
const EDGES_DRAWN_MAX: usize = 20_000;
/// Up to this many nodes each has its number beside it.
const LABELS_NODES_MAX: usize = 60;
/// The picture is square, with room for the legend below.
const SIZE: f64 = 720.0;
const MARGIN: f64 = 28.0;

/// What is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Drawing<'a> {
    /// Places of the nodes, 0 to 1.
    pub places: &'a [Place],
    /// Pairs of numbers.
    pub edges: &'a [(u32, u32)],
    /// The group of each node, an index into `groups`; empty: all in one.
    pub group_of: &'a [usize],
    /// Names of the groups.
    pub groups: &'a [String],
    /// Nodes to be marked as cut vertices.
    pub cut_vertices: &'a [u32],
    /// Attackers.
    pub attackers: &'a [u32],
    /// What the picture shows, in words, for those who cannot see it.
    pub title: &'a str,
}

/// The classes `g0` to `g5`, and what else the picture needs. The page may define the variables itself.
const STYLE: &str = "\
svg.topology{--ink:#1f2933;--line:#8794a3;--paper:#ffffff;--bad:#c62828;--g0:#2166ac;--g1:#d97706;--g2:#1b8a5a;--g3:#8e44ad;--g4:#00838f;--g5:#ad1457;\
background:var(--paper);font:12px system-ui,sans-serif}\
@media(prefers-color-scheme:dark){svg.topology{--ink:#e6e9ed;--line:#66717f;--paper:#14181d;--bad:#ff6b6b;--g0:#6ea8fe;--g1:#f5b14c;--g2:#4fd19c;--g3:#c89bf0;--g4:#4dd0e1;--g5:#f48fb1}}\
svg.topology text{fill:var(--ink)}svg.topology .e{stroke:var(--line);fill:none}\
svg.topology .cut{fill:none;stroke:var(--bad);stroke-width:2}svg.topology .bad{fill:var(--bad)}\
svg.topology .g0{fill:var(--g0)}svg.topology .g1{fill:var(--g1)}svg.topology .g2{fill:var(--g2)}\
svg.topology .g3{fill:var(--g3)}svg.topology .g4{fill:var(--g4)}svg.topology .g5{fill:var(--g5)}";

/// The picture.
pub fn draw(drawing: &Drawing<'_>) -> String {
    let mut svg = String::new();
    write_into(&mut svg, drawing).expect("invariant: writing to a string does not fail");
    svg
}

fn write_into(svg: &mut String, drawing: &Drawing<'_>) -> std::fmt::Result {
    let legend = legend(drawing);
    let height = SIZE + 24.0 * legend.len() as f64;
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"topology\" viewBox=\"0 0 {SIZE} {height}\" role=\"img\">\n\
         <title>{}</title>\n<style>{STYLE}</style>",
        escape(drawing.title)
    )?;
    write_edges(svg, drawing)?;
    write_nodes(svg, drawing)?;
    for (row, (class, text)) in legend.iter().enumerate() {
        let y = SIZE + 4.0 + 24.0 * row as f64;
        let mark = match *class {
            "" => String::new(),
            class => format!("<circle class=\"{class}\" cx=\"{MARGIN}\" cy=\"{y}\" r=\"6\"/>"),
        };
        let (x, y, text) = (MARGIN + 14.0, y + 4.0, escape(text));
        writeln!(svg, "{mark}<text x=\"{x}\" y=\"{y}\">{text}</text>")?;
    }
    svg.push_str("</svg>\n");
    Ok(())
}

/// Where a node is in the picture.
fn at(drawing: &Drawing<'_>, node: u32) -> Place {
    let (x, y) = drawing.places.get(node as usize).copied().unwrap_or((0.5, 0.5));
    let scale = SIZE - 2.0 * MARGIN;
    (MARGIN + x * scale, MARGIN + y * scale)
}

fn write_edges(svg: &mut String, drawing: &Drawing<'_>) -> std::fmt::Result {
    let shown = drawing.edges.len().min(EDGES_DRAWN_MAX);
    if shown == 0 {
        return Ok(());
    }
    // Many edges fade, so that few nodes behind them are still seen.
    let opacity = (60.0 / (shown as f64).sqrt()).clamp(0.12, 0.8);
    let width = if shown > 2_000 { 0.5 } else { 1.0 };
    write!(
        svg,
        "<path class=\"e\" stroke-opacity=\"{opacity:.2}\" stroke-width=\"{width}\" d=\""
    )?;
    for (a, b) in drawing.edges.iter().take(shown) {
        let ((ax, ay), (bx, by)) = (at(drawing, *a), at(drawing, *b));
        write!(svg, "M{ax:.1} {ay:.1}L{bx:.1} {by:.1}")?;
    }
    writeln!(svg, "\"/>")
}

fn write_nodes(svg: &mut String, drawing: &Drawing<'_>) -> std::fmt::Result {
    let nodes = drawing.places.len();
    let radius = (140.0 / (nodes.max(1) as f64).sqrt()).clamp(1.8, 9.0);
    for node in 0..nodes as u32 {
        let (x, y) = at(drawing, node);
        let group = drawing.group_of.get(node as usize).copied().unwrap_or(0);
        let name = escape(drawing.groups.get(group).map_or("", String::as_str));
        let class = match drawing.attackers.contains(&node) {
            true => "bad".to_owned(),
            false => format!("g{}", group % 6),
        };
        write!(
            svg,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\">"
        )?;
        writeln!(svg, "<title>{node} {name}</title></circle>")?;
        if nodes <= LABELS_NODES_MAX {
            let y = y - radius - 3.0;
            writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" font-size=\"10\">{node}</text>"
            )?;
        }
    }
    for node in drawing.cut_vertices {
        let ((x, y), radius) = (at(drawing, *node), radius + 2.5);
        writeln!(
            svg,
            "<circle class=\"cut\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\"/>"
        )?;
    }
    Ok(())
}

/// What the colours mean: the class of the mark, and the words.
fn legend(drawing: &Drawing<'_>) -> Vec<(&'static str, String)> {
    const CLASSES: [&str; 6] = ["g0", "g1", "g2", "g3", "g4", "g5"];
    let mut legend = Vec::new();
    if drawing.groups.len() > 1 {
        let counted = |group: usize| drawing.group_of.iter().filter(|of| **of == group).count();
        let names = drawing.groups.iter().enumerate().take(CLASSES.len());
        legend.extend(names.map(|(group, name)| (CLASSES[group], format!("{name}: {} nodes", counted(group)))));
        if drawing.groups.len() > CLASSES.len() {
            legend.push((
                "",
                format!(
                    "{} more groups share these colours",
                    drawing.groups.len() - CLASSES.len()
                ),
            ));
        }
    }
    if !drawing.attackers.is_empty() {
        legend.push(("bad", format!("attackers: {}", drawing.attackers.len())));
    }
    if !drawing.cut_vertices.is_empty() {
        let words = "cut vertices: without one of them its part falls apart";
        legend.push(("cut", format!("{} {words}", drawing.cut_vertices.len())));
    }
    if drawing.edges.len() > EDGES_DRAWN_MAX {
        legend.push((
            "",
            format!("{} of {} edges are drawn", EDGES_DRAWN_MAX, drawing.edges.len()),
        ));
    }
    legend
}

/// Text between tags.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() && c != '\n' => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}
