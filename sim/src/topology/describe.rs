//! What a topology is like, in numbers.

use serde::Serialize;

use super::Graph;

/// Up to this many nodes every distance is measured; beyond it the diameter is a lower bound from a few far ends.
const EXACT_NODES_MAX: usize = 5_000;
/// Up to this many nodes neighbours are compared as bit sets.
const BITSET_NODES_MAX: usize = 8_192;

/// A topology in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// How many nodes.
    pub nodes: usize,
    /// How many edges.
    pub edges: usize,
    /// Parts that do not reach each other.
    pub components: usize,
    /// The longest of the shortest ways, in hops, within a component.
    pub diameter: u32,
    /// Whether that is exact; otherwise it may be a little more.
    pub diameter_exact: bool,
    /// The mean of the shortest ways, in hops, over the nodes measured from.
    pub distance_mean: f64,
    /// The fewest neighbours of a node.
    pub degree_min: usize,
    /// Neighbours of a node, on average.
    pub degree_mean: f64,
    /// The most neighbours of a node.
    pub degree_max: usize,
    /// How often two neighbours of a node are neighbours too, on average over the nodes, 0 to 1.
    pub clustering: f64,
    /// The nodes without which their part falls apart.
    pub cut_vertices: Vec<u32>,
}

/// Describes a topology.
pub fn describe(graph: &Graph) -> Description {
    let nodes = graph.nodes();
    let degrees: Vec<usize> = (0..nodes as u32).map(|n| graph.neighbours(n).len()).collect();
    let (diameter, distance_mean, diameter_exact) = distances(graph);
    Description {
        nodes,
        edges: graph.edge_count(),
        components: graph.components().1,
        diameter,
        diameter_exact,
        distance_mean,
        degree_min: degrees.iter().copied().min().unwrap_or(0),
        degree_mean: degrees.iter().sum::<usize>() as f64 / nodes.max(1) as f64,
        degree_max: degrees.iter().copied().max().unwrap_or(0),
        clustering: clustering(graph),
        cut_vertices: graph.cut_vertices(),
    }
}

fn distances(graph: &Graph) -> (u32, f64, bool) {
    let nodes = graph.nodes() as u32;
    let exact = graph.nodes() <= EXACT_NODES_MAX;
    let mut longest = 0;
    let (mut sum, mut ways) = (0_u64, 0_u64);
    let mut from = |start: u32| {
        let mut farthest = (0, start);
        for (node, hops) in graph.distances(start).into_iter().enumerate() {
            let Some(hops) = hops else { continue };
            if hops > 0 {
                sum += u64::from(hops);
                ways += 1;
            }
            farthest = farthest.max((hops, node as u32));
        }
        longest = longest.max(farthest.0);
        farthest.1
    };
    if exact {
        (0..nodes).for_each(|start| {
            from(start);
        });
    } else {
        // From a far end to its own far end, again and again: rarely less than the truth.
        const SWEEPS: usize = 32;
        let mut at = 0;
        for sweep in 0..SWEEPS {
            at = if sweep % 4 == 3 {
                (at + nodes / 7) % nodes
            } else {
                from(at)
            };
        }
    }
    (longest, sum as f64 / ways.max(1) as f64, exact)
}

/// The mean over all nodes of how many pairs of their neighbours are linked.
fn clustering(graph: &Graph) -> f64 {
    let nodes = graph.nodes();
    let mut triangles = vec![0_u64; nodes];
    let bits = (nodes <= BITSET_NODES_MAX).then(|| bitsets(graph));
    for (a, b) in graph.edges() {
        let common = match &bits {
            Some(bits) => {
                let pairs = bits[a as usize].iter().zip(&bits[b as usize]);
                pairs.map(|(x, y)| u64::from((x & y).count_ones())).sum()
            }
            None => in_both(graph.neighbours(a), graph.neighbours(b)),
        };
        triangles[a as usize] += common;
        triangles[b as usize] += common;
    }
    let sum: f64 = (0..nodes)
        .map(|node| {
            let degree = graph.neighbours(node as u32).len() as f64;
            // Each triangle was counted at both of its edges here.
            if degree < 2.0 {
                0.0
            } else {
                triangles[node] as f64 / (degree * (degree - 1.0))
            }
        })
        .sum();
    sum / nodes.max(1) as f64
}

fn bitsets(graph: &Graph) -> Vec<Vec<u64>> {
    let words = graph.nodes().div_ceil(64);
    (0..graph.nodes() as u32)
        .map(|node| {
            let mut set = vec![0_u64; words];
            for next in graph.neighbours(node) {
                set[*next as usize / 64] |= 1 << (next % 64);
            }
            set
        })
        .collect()
}

fn in_both(a: &[u32], b: &[u32]) -> u64 {
    let (small, large) = if a.len() < b.len() { (a, b) } else { (b, a) };
    small.iter().filter(|node| large.binary_search(node).is_ok()).count() as u64
}
