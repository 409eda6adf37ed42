//! Where the nodes of a topology are drawn: by its kind where the kind has a shape, by forces otherwise.

use super::Graph;
use crate::{random::Random, scenario::TopologyKind};

/// A place, each coordinate from 0 to 1.
pub type Place = (f64, f64);

/// Steps of the forces; more do not look better.
const STEPS: usize = 120;
/// Beyond this many nodes the forces would take too long; then nodes stand where the first guess puts them.
const FORCES_NODES_MAX: usize = 20_000;

/// Places for the nodes of a graph. Of a graph that came from elsewhere the kind is none.
pub fn layout(graph: &Graph, kind: Option<&TopologyKind>, seed: u64) -> Vec<Place> {
    let nodes = graph.nodes();
    let places = match kind {
        _ if nodes == 1 => vec![(0.5, 0.5)],
        Some(TopologyKind::Ring | TopologyKind::Clique) => circle(nodes),
        Some(TopologyKind::SmallWorld { .. }) => circle(nodes),
        Some(TopologyKind::Star) => star(nodes),
        Some(TopologyKind::Line) => snake(nodes),
        Some(TopologyKind::Grid { columns }) => {
            let side = (1..).find(|side| side * side >= nodes).unwrap_or(1);
            grid(nodes, columns.unwrap_or(side).min(nodes))
        }
        Some(TopologyKind::Tree { branching }) => tree(nodes, *branching),
        _ => forces(graph, seed),
    };
    fit(places)
}

fn circle(nodes: usize) -> Vec<Place> {
    (0..nodes).map(|n| on_circle(n as f64 / nodes as f64, 1.0)).collect()
}

fn on_circle(turn: f64, radius: f64) -> Place {
    let angle = turn * std::f64::consts::TAU - std::f64::consts::FRAC_PI_2;
    (angle.cos() * radius, angle.sin() * radius)
}

fn star(nodes: usize) -> Vec<Place> {
    let mut places = vec![(0.0, 0.0)];
    places.extend((1..nodes).map(|n| on_circle((n - 1) as f64 / (nodes - 1) as f64, 1.0)));
    places
}

/// Rows that turn around at their ends: a line of a thousand nodes would not be seen.
fn snake(nodes: usize) -> Vec<Place> {
    let columns = (1..)
        .find(|side| side * side * 2 >= nodes * 3)
        .unwrap_or(1)
        .max(10)
        .min(nodes);
    (0..nodes)
        .map(|n| {
            let (row, at) = (n / columns, n % columns);
            let column = if row % 2 == 0 { at } else { columns - 1 - at };
            (column as f64, row as f64)
        })
        .collect()
}

fn grid(nodes: usize, columns: usize) -> Vec<Place> {
    (0..nodes)
        .map(|n| ((n % columns) as f64, (n / columns) as f64))
        .collect()
}

/// Circles around the root, one for each generation; a child has a part of its parent's part of the circle.
fn tree(nodes: usize, branching: usize) -> Vec<Place> {
    let mut part = vec![(0.0, 1.0); nodes];
    let mut depth = vec![0_u32; nodes];
    let mut places = vec![(0.0, 0.0); nodes];
    for n in 1..nodes {
        let parent = (n - 1) / branching;
        let (from, to) = part[parent];
        let width = (to - from) / branching as f64;
        let start = from + width * ((n - 1) % branching) as f64;
        part[n] = (start, start + width);
        depth[n] = depth[parent] + 1;
        places[n] = on_circle(start + width / 2.0, f64::from(depth[n]));
    }
    places
}

/// Linked nodes pull, near ones push (Fruchterman and Reingold), starting from where a few far nodes see them.
fn forces(graph: &Graph, seed: u64) -> Vec<Place> {
    let nodes = graph.nodes();
    let mut places = first_guess(graph, seed);
    if nodes > FORCES_NODES_MAX {
        return places;
    }
    // In a square of area `nodes` the natural distance is 1.
    let side = (nodes as f64).sqrt();
    places = fit(places).into_iter().map(|(x, y)| (x * side, y * side)).collect();
    for step in 0..STEPS {
        let heat = side / 8.0 * (1.0 - step as f64 / STEPS as f64).powi(2) + 0.01;
        let mut push = repulsion(&places, side);
        for (a, b) in graph.edges() {
            let (pa, pb) = (places[a as usize], places[b as usize]);
            let (dx, dy) = (pa.0 - pb.0, pa.1 - pb.1);
            let distance = dx.hypot(dy).max(0.01);
            // Pull with the square of the distance, less for those with many links, who would be torn into the middle.
            let ends = graph.neighbours(a).len().max(graph.neighbours(b).len()) as f64;
            let pull = distance / (1.0 + ends / 4.0);
            push[a as usize].0 -= dx * pull;
            push[a as usize].1 -= dy * pull;
            push[b as usize].0 += dx * pull;
            push[b as usize].1 += dy * pull;
        }
        for (place, force) in places.iter_mut().zip(push) {
            let strength = force.0.hypot(force.1).max(1e-9);
            let stride = strength.min(heat) / strength;
            place.0 += force.0 * stride;
            place.1 += force.1 * stride;
        }
    }
    places
}

/// How nodes push each other away. Of many, only near ones count, the less the farther: cells keep it linear.
fn repulsion(places: &[Place], side: f64) -> Vec<Place> {
    /// Up to this many nodes every pair is looked at.
    const PAIRS_NODES_MAX: usize = 1_500;
    /// In natural distances.
    const REACH: f64 = 5.0;
    let mut push = vec![(0.0, 0.0); places.len()];
    if places.len() <= PAIRS_NODES_MAX {
        for (node, place) in places.iter().enumerate() {
            for other in places {
                add(&mut push[node], away(*place, *other, f64::INFINITY));
            }
        }
        return push;
    }
    let cells = ((side / REACH).ceil() as usize).clamp(1, 400);
    let (low_x, _) = span(places.iter().map(|p| p.0));
    let (low_y, _) = span(places.iter().map(|p| p.1));
    let cell = |value: f64, low: f64| (((value - low) / REACH) as usize).min(cells - 1);
    let mut members = vec![Vec::new(); cells * cells];
    let at = |place: &Place| (cell(place.0, low_x), cell(place.1, low_y));
    for (node, place) in places.iter().enumerate() {
        let (column, row) = at(place);
        members[row * cells + column].push(node);
    }
    for (node, place) in places.iter().enumerate() {
        let (column, row) = at(place);
        for near_row in row.saturating_sub(1)..=(row + 1).min(cells - 1) {
            for near_column in column.saturating_sub(1)..=(column + 1).min(cells - 1) {
                for other in &members[near_row * cells + near_column] {
                    add(&mut push[node], away(*place, places[*other], REACH));
                }
            }
        }
    }
    push
}

fn add(sum: &mut Place, force: Place) {
    sum.0 += force.0;
    sum.1 += force.1;
}

/// The push away from another, which fades to nothing at the reach: an edge there would be seen in the picture.
fn away(place: Place, other: Place, reach: f64) -> Place {
    let (dx, dy) = (place.0 - other.0, place.1 - other.1);
    let square = (dx * dx + dy * dy).max(1e-4);
    let left = 1.0 - square.sqrt() / reach;
    if left <= 0.0 {
        return (0.0, 0.0);
    }
    (dx / square * left, dy / square * left)
}

/// Each node where two far ends see it: by its distance from one and from another (pivots), with a little noise so that no two
/// stand on one spot.
fn first_guess(graph: &Graph, seed: u64) -> Vec<Place> {
    let mut random = Random::new(seed, "layout");
    let nodes = graph.nodes();
    let (component, _) = graph.components();
    let far = |from: u32| {
        let distances = graph.distances(from);
        let far = (0..nodes as u32).max_by_key(|n| (distances[*n as usize].unwrap_or(0), std::cmp::Reverse(*n)));
        (far.unwrap_or(0), distances)
    };
    let (first, _) = far(0);
    let (second, from_first) = far(first);
    // The third is the one that is far from both.
    let from_second = graph.distances(second);
    let hops = |distances: &[Option<u32>], node: usize| f64::from(distances[node].unwrap_or(0));
    let third = (0..nodes)
        .max_by(|a, b| {
            let off = |n: usize| hops(&from_first, n).min(hops(&from_second, n));
            off(*a).total_cmp(&off(*b)).then(b.cmp(a))
        })
        .unwrap_or(0);
    let from_third = graph.distances(third as u32);
    (0..nodes)
        .map(|node| {
            let noise = |random: &mut Random| (random.unit() - 0.5) * 0.9;
            let x = hops(&from_first, node) - hops(&from_second, node) + noise(&mut random);
            let y = 1.7 * hops(&from_third, node) + noise(&mut random);
            (x + 4.0 * f64::from(component[node]), y)
        })
        .collect()
}

fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

/// Moved and scaled into the unit square, sides kept in proportion.
fn fit(places: Vec<Place>) -> Vec<Place> {
    let (low_x, high_x) = span(places.iter().map(|p| p.0));
    let (low_y, high_y) = span(places.iter().map(|p| p.1));
    let size = (high_x - low_x).max(high_y - low_y).max(1e-9);
    let (off_x, off_y) = (
        (1.0 - (high_x - low_x) / size) / 2.0,
        (1.0 - (high_y - low_y) / size) / 2.0,
    );
    places
        .into_iter()
        .map(|(x, y)| ((x - low_x) / size + off_x, (y - low_y) / size + off_y))
        .collect()
}
