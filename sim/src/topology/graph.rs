//! A graph: who is linked with whom.

use std::collections::BTreeSet;

/// An undirected graph without loops and without double edges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Graph {
    neighbours: Vec<Vec<u32>>,
    /// Names from a file, by number; empty where nodes have none.
    pub names: Vec<String>,
}

impl Graph {
    /// Of these edges; loops and doubles are left out. An edge to a node that is not there is the caller's mistake.
    pub fn new(nodes: usize, edges: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut neighbours = vec![Vec::new(); nodes];
        for (a, b) in edges {
            if a != b {
                neighbours[a as usize].push(b);
                neighbours[b as usize].push(a);
            }
        }
        for list in &mut neighbours {
            list.sort_unstable();
            list.dedup();
        }
        Self {
            neighbours,
            names: Vec::new(),
        }
    }

    /// How many nodes.
    pub fn nodes(&self) -> usize {
        self.neighbours.len()
    }

    /// How many edges.
    pub fn edge_count(&self) -> usize {
        self.neighbours.iter().map(Vec::len).sum::<usize>() / 2
    }

    /// The edges, the smaller number first, in order.
    pub fn edges(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.neighbours
            .iter()
            .enumerate()
            .flat_map(|(a, list)| list.iter().map(move |b| (a as u32, *b)))
            .filter(|(a, b)| a < b)
    }

    /// The neighbours of a node, in order.
    pub fn neighbours(&self, node: u32) -> &[u32] {
        &self.neighbours[node as usize]
    }

    /// The component of each node, counted from 0 in the order of their first nodes; and how many there are.
    pub fn components(&self) -> (Vec<u32>, usize) {
        const NONE: u32 = u32::MAX;
        let mut component = vec![NONE; self.nodes()];
        let mut count = 0;
        let mut stack = Vec::new();
        for start in 0..self.nodes() {
            if component[start] != NONE {
                continue;
            }
            component[start] = count;
            stack.push(start as u32);
            while let Some(node) = stack.pop() {
                for next in self.neighbours(node) {
                    if component[*next as usize] == NONE {
                        component[*next as usize] = count;
                        stack.push(*next);
                    }
                }
            }
            count += 1;
        }
        (component, count as usize)
    }

    /// Hops from one node to each; none where there is no way.
    pub fn distances(&self, from: u32) -> Vec<Option<u32>> {
        let mut distance = vec![None; self.nodes()];
        distance[from as usize] = Some(0);
        let mut queue = std::collections::VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            let next_distance = distance[node as usize].map(|hops| hops + 1);
            for next in self.neighbours(node) {
                if distance[*next as usize].is_none() {
                    distance[*next as usize] = next_distance;
                    queue.push_back(*next);
                }
            }
        }
        distance
    }

    /// The nodes without which their component falls apart, in order.
    pub fn cut_vertices(&self) -> Vec<u32> {
        let mut search = Search {
            graph: self,
            order: vec![0; self.nodes()],
            low: vec![0; self.nodes()],
            clock: 0,
            found: BTreeSet::new(),
        };
        for root in 0..self.nodes() as u32 {
            if search.order[root as usize] == 0 {
                search.search(root);
            }
        }
        search.found.into_iter().collect()
    }
}

/// Tarjan's search for articulation points, without recursion: a line of a million nodes is as deep.
struct Search<'g> {
    graph: &'g Graph,
    order: Vec<u32>,
    low: Vec<u32>,
    clock: u32,
    found: BTreeSet<u32>,
}

impl Search<'_> {
    fn enter(&mut self, node: u32) {
        self.clock += 1;
        self.order[node as usize] = self.clock;
        self.low[node as usize] = self.clock;
    }

    fn search(&mut self, root: u32) {
        let graph = self.graph;
        self.enter(root);
        let mut root_children = 0;
        // (node, parent, next neighbour to look at)
        let mut stack = vec![(root, root, 0_usize)];
        while let Some((node, parent, at)) = stack.last_mut() {
            let (node, parent) = (*node, *parent);
            let Some(next) = graph.neighbours(node).get(*at).copied() else {
                stack.pop();
                self.leave(node, parent, root);
                continue;
            };
            *at += 1;
            if self.order[next as usize] == 0 {
                if node == root {
                    root_children += 1;
                }
                self.enter(next);
                stack.push((next, node, 0));
            } else if next != parent {
                self.low[node as usize] = self.low[node as usize].min(self.order[next as usize]);
            }
        }
        if root_children > 1 {
            self.found.insert(root);
        }
    }

    fn leave(&mut self, node: u32, parent: u32, root: u32) {
        if node == root {
            return;
        }
        let low = self.low[node as usize];
        self.low[parent as usize] = self.low[parent as usize].min(low);
        if parent != root && low >= self.order[parent as usize] {
            self.found.insert(parent);
        }
    }
}
