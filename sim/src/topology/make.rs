//! Making a graph of a kind: the same from the same seed, everywhere.

use std::path::Path;

use super::{Graph, graphml};
use crate::{random::Random, scenario::TopologyKind};

/// Edges of one topology: beyond this a picture or a description would take longer than anybody waits.
const EDGES_MAX: usize = 5_000_000;

/// A topology that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The parameters contradict each other or the number of nodes.
    #[error("{0}")]
    Impossible(String),
    /// The file is not there.
    #[error("{0}")]
    Missing(String),
    /// The file cannot be read.
    #[error("{0}")]
    File(String),
}

fn impossible<T>(reason: String) -> Result<T, TopologyError> {
    Err(TopologyError::Impossible(reason))
}

/// Makes a topology. Of a file the number of nodes is its own, and `nodes` must be the same or 0.
///
/// # Errors
/// [`TopologyError`] when the parameters do not fit each other, or the file is no graph.
pub fn make(kind: &TopologyKind, nodes: usize, seed: u64, folder: &Path) -> Result<Graph, TopologyError> {
    if let TopologyKind::File { path } = kind {
        let graph = graphml::read(&folder.join(path))?;
        if nodes != 0 && graph.nodes() != nodes {
            return impossible(format!("{path} has {} nodes, the fleet has {nodes}", graph.nodes()));
        }
        return Ok(graph);
    }
    possible(kind, nodes)?;
    let mut random = Random::new(seed, "topology");
    let random = &mut random;
    let edges = match kind {
        TopologyKind::Ring => ring(nodes),
        TopologyKind::Line => (1..nodes).map(|n| pair(n - 1, n)).collect(),
        TopologyKind::Star => (1..nodes).map(|n| pair(0, n)).collect(),
        TopologyKind::Grid { columns } => grid(nodes, columns.unwrap_or_else(|| square(nodes))),
        TopologyKind::Tree { branching } => (1..nodes).map(|n| pair((n - 1) / branching, n)).collect(),
        TopologyKind::Clique => (0..nodes)
            .flat_map(|a| (a + 1..nodes).map(move |b| pair(a, b)))
            .collect(),
        TopologyKind::RandomRegular { degree } => regular(0, nodes, *degree, random),
        TopologyKind::SmallWorld { degree, rewire } => small_world(nodes, *degree, *rewire, random),
        TopologyKind::ScaleFree { attach } => scale_free(nodes, *attach, random),
        TopologyKind::Islands {
            islands,
            bridges,
            degree,
        } => archipelago(nodes, *islands, *bridges, *degree, random),
        // Read above.
        TopologyKind::File { .. } => Vec::new(),
    };
    Ok(Graph::new(nodes, edges))
}

/// Whether the parameters fit each other and the number of nodes. Of a file it is seen when it is read.
///
/// # Errors
/// [`TopologyError::Impossible`] with the reason.
pub(crate) fn possible(kind: &TopologyKind, nodes: usize) -> Result<(), TopologyError> {
    let (edges, reason) = match *kind {
        _ if nodes == 0 => (0, Some("a topology needs nodes".into())),
        TopologyKind::Clique => (nodes.saturating_mul(nodes - 1) / 2, None),
        TopologyKind::Tree { branching } => (nodes, (branching == 0).then(|| "branching must be 1 or more".into())),
        TopologyKind::Grid { columns } => (
            2 * nodes,
            (columns == Some(0)).then(|| "columns must be 1 or more".into()),
        ),
        TopologyKind::RandomRegular { degree } => (nodes.saturating_mul(degree) / 2, regular_fits(nodes, degree)),
        TopologyKind::SmallWorld { degree, .. } => {
            let odd =
                (!degree.is_multiple_of(2)).then(|| format!("degree must be even in a small world, not {degree}"));
            (nodes.saturating_mul(degree) / 2, odd.or(regular_fits(nodes, degree)))
        }
        TopologyKind::ScaleFree { attach } => {
            let wrong = attach == 0 || attach >= nodes;
            let reason =
                wrong.then(|| format!("attach must be from 1 to one less than the {nodes} nodes, not {attach}"));
            (nodes.saturating_mul(attach), reason)
        }
        TopologyKind::Islands {
            islands,
            bridges,
            degree,
        } => (
            nodes.saturating_mul(degree) / 2 + islands.saturating_mul(bridges),
            islands_fit(nodes, islands, bridges),
        ),
        _ => (nodes, None),
    };
    if let Some(reason) = reason {
        return impossible(reason);
    }
    if edges > EDGES_MAX {
        return impossible(format!(
            "a {} of {nodes} nodes has {edges} edges; {EDGES_MAX} is the most",
            kind.as_str()
        ));
    }
    Ok(())
}

fn regular_fits(nodes: usize, degree: usize) -> Option<String> {
    if degree == 0 && nodes > 1 {
        return Some("degree must be 1 or more".into());
    }
    if degree == 1 && nodes > 2 {
        return Some("with degree 1 only two nodes are connected: degree must be 2 or more".into());
    }
    if degree >= nodes && nodes > 1 {
        return Some(format!(
            "degree {degree} needs at least {} nodes, there are {nodes}",
            degree.saturating_add(1)
        ));
    }
    let odd = !nodes.is_multiple_of(2) && !degree.is_multiple_of(2) && nodes > 1;
    odd.then(|| format!("{nodes} nodes cannot all have degree {degree}: one of the two numbers must be even"))
}

fn islands_fit(nodes: usize, islands: usize, bridges: usize) -> Option<String> {
    if islands == 0 || islands > nodes {
        return Some(format!("islands must be from 1 to the {nodes} nodes, not {islands}"));
    }
    let smallest = nodes / islands;
    let most = smallest.saturating_mul(smallest);
    (bridges == 0 || bridges > most)
        .then(|| format!("bridges must be from 1 to {most} between islands of {smallest} nodes, not {bridges}"))
}

fn pair(a: usize, b: usize) -> (u32, u32) {
    (a.min(b) as u32, a.max(b) as u32)
}

fn ring(nodes: usize) -> Vec<(u32, u32)> {
    (0..nodes)
        .map(|n| pair(n, (n + 1) % nodes))
        .filter(|(a, b)| a != b)
        .collect()
}

/// Columns that make a grid as square as it gets.
fn square(nodes: usize) -> usize {
    (1..).find(|side| side * side >= nodes).unwrap_or(1)
}

fn grid(nodes: usize, columns: usize) -> Vec<(u32, u32)> {
    let mut edges = Vec::new();
    for n in 0..nodes {
        if (n + 1) % columns != 0 && n + 1 < nodes {
            edges.push(pair(n, n + 1));
        }
        if n + columns < nodes {
            edges.push(pair(n, n + columns));
        }
    }
    edges
}

/// A ring in which each is linked with the nearest `degree` others; for an odd degree also with the opposite one.
fn lattice(first: usize, nodes: usize, degree: usize) -> Vec<(u32, u32)> {
    let at = |n: usize| first + n % nodes;
    let mut edges = Vec::new();
    for n in 0..nodes {
        for step in 1..=degree / 2 {
            edges.push(pair(at(n), at(n + step)));
        }
        if degree % 2 == 1 && n < nodes / 2 {
            edges.push(pair(at(n), at(n + nodes / 2)));
        }
    }
    edges.sort_unstable();
    edges.dedup();
    edges
}

/// Random, connected, every node with the same degree: a lattice whose edges swap ends until nothing of it is left.
///
/// A swap keeps every degree; only one that keeps the whole connected is wanted, so swaps go on until it is.
fn regular(first: usize, nodes: usize, degree: usize, random: &mut Random) -> Vec<(u32, u32)> {
    let mut order: Vec<usize> = (0..nodes).collect();
    random.shuffle(&mut order);
    let renamed = |(a, b): (u32, u32)| pair(first + order[a as usize], first + order[b as usize]);
    if nodes <= 2 || degree + 1 >= nodes || degree <= 2 {
        // One ring, or all with all: nothing could be swapped, or swapping would break the ring.
        return lattice(0, nodes.max(1), degree.min(nodes - 1))
            .into_iter()
            .map(renamed)
            .filter(|(a, b)| a != b)
            .collect();
    }
    let mut edges: Vec<(u32, u32)> = lattice(0, nodes, degree);
    let mut present: std::collections::HashSet<(u32, u32)> = edges.iter().copied().collect();
    const ROUNDS_MAX: usize = 100;
    for _ in 0..ROUNDS_MAX {
        for _ in 0..edges.len() * 8 {
            swap(&mut edges, &mut present, random);
        }
        if Graph::new(nodes, edges.iter().copied()).components().1 == 1 {
            break;
        }
    }
    edges.into_iter().map(renamed).collect()
}

/// `a–b, c–d` become `a–d, c–b`, if neither is there already.
fn swap(edges: &mut [(u32, u32)], present: &mut std::collections::HashSet<(u32, u32)>, random: &mut Random) {
    let (i, j) = (random.below(edges.len()), random.below(edges.len()));
    let ((a, b), (mut c, mut d)) = (edges[i], edges[j]);
    if random.bits() & 1 == 1 {
        std::mem::swap(&mut c, &mut d);
    }
    let (one, two) = (pair(a as usize, d as usize), pair(c as usize, b as usize));
    if a == d || c == b || a == c || b == d || present.contains(&one) || present.contains(&two) {
        return;
    }
    present.remove(&edges[i]);
    present.remove(&edges[j]);
    present.insert(one);
    present.insert(two);
    edges[i] = one;
    edges[j] = two;
}

/// A lattice in which a share of the edges lets go at one end and takes somebody else. The ring of nearest neighbours stays,
/// so that it stays connected.
fn small_world(nodes: usize, degree: usize, rewire: f64, random: &mut Random) -> Vec<(u32, u32)> {
    let edges = lattice(0, nodes, degree);
    let mut present: std::collections::HashSet<(u32, u32)> = edges.iter().copied().collect();
    for (a, b) in edges {
        let apart = (b - a) as usize;
        let nearest = apart == 1 || apart == nodes - 1;
        if nearest || random.unit() >= rewire {
            continue;
        }
        let to = pair(a as usize, random.below(nodes));
        if to.0 != to.1 && !present.contains(&to) {
            present.remove(&(a, b));
            present.insert(to);
        }
    }
    sorted(present)
}

fn sorted(edges: std::collections::HashSet<(u32, u32)>) -> Vec<(u32, u32)> {
    let mut edges: Vec<_> = edges.into_iter().collect();
    edges.sort_unstable();
    edges
}

/// Each newcomer is linked with some who are there, who are chosen by how many links they have.
fn scale_free(nodes: usize, attach: usize, random: &mut Random) -> Vec<(u32, u32)> {
    let mut edges: Vec<(u32, u32)> = (1..=attach).map(|n| pair(0, n)).collect();
    // Every node stands here once for each of its links.
    let mut ends: Vec<u32> = edges.iter().flat_map(|(a, b)| [*a, *b]).collect();
    for newcomer in attach + 1..nodes {
        let mut chosen = std::collections::BTreeSet::new();
        while chosen.len() < attach {
            chosen.insert(ends[random.below(ends.len())]);
        }
        for old in chosen {
            edges.push(pair(old as usize, newcomer));
            ends.extend([old, newcomer as u32]);
        }
    }
    edges
}

/// Islands in a ring (two of them in a line), each random and regular, with bridges from one to the next.
fn archipelago(nodes: usize, islands: usize, bridges: usize, degree: usize, random: &mut Random) -> Vec<(u32, u32)> {
    let start = |island: usize| island * nodes / islands;
    let mut edges = Vec::new();
    for island in 0..islands {
        let (first, size) = (start(island), start(island + 1) - start(island));
        edges.extend(regular(first, size, fitting(size, degree), random));
    }
    let gaps = if islands > 2 { islands } else { islands - 1 };
    for gap in 0..gaps {
        let next = (gap + 1) % islands;
        let mut made = std::collections::BTreeSet::new();
        while made.len() < bridges {
            let from = start(gap) + random.below(start(gap + 1) - start(gap));
            let to = start(next) + random.below(start(next + 1) - start(next));
            made.insert(pair(from, to));
        }
        edges.extend(made);
    }
    edges
}

/// The degree an island of this size can have: at most all others, and even where the size is odd.
fn fitting(size: usize, degree: usize) -> usize {
    let degree = degree.max(2).min(size - 1);
    if size % 2 == 1 && degree % 2 == 1 {
        degree - 1
    } else {
        degree
    }
}
