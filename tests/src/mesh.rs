//! Several nodes of one mesh.

use std::ops::{Index, IndexMut};

use crate::{node::Node, wait::until};

/// Names of the first nodes; the others are numbered.
const NAMES: [&str; 6] = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"];

/// Nodes of one mesh; the first one founded it.
pub struct Mesh(pub Vec<Node>);

impl Mesh {
    /// A mesh in which each node is connected to each other one.
    pub fn of(size: usize) -> Self {
        Mesh::with(size, &[])
    }

    /// The same with these variables in each node's environment.
    pub fn with(size: usize, env: &[(&str, &str)]) -> Self {
        let new = |name: &str| {
            let nodes = env.iter();
            nodes.fold(Node::new(name), |node, (name, value)| node.env(name, value))
        };
        let founder = new(NAMES[0]).started();
        let ticket = founder.ticket(size);
        let mut nodes = vec![founder];
        for index in 1..size {
            let name = NAMES
                .get(index)
                .map_or_else(|| format!("node{index}"), |n| (*n).to_owned());
            let mut node = new(&name).arg("--join").arg(&ticket);
            node.spawn();
            nodes.push(node);
        }
        nodes[1..].iter_mut().for_each(Node::wait_ready);
        let mesh = Mesh(nodes);
        mesh.wait_complete();
        mesh
    }

    /// Waits until each node is connected to each other one.
    #[track_caller]
    pub fn wait_complete(&self) {
        for node in &self.0 {
            for other in self.0.iter().filter(|n| n.id() != node.id()) {
                node.wait_sees(other.id());
            }
        }
    }

    /// Waits until `check` holds for each node.
    #[track_caller]
    pub fn wait_all(&self, what: &str, check: impl Fn(&Node) -> bool) {
        for node in &self.0 {
            until(&format!("{what} ({})", node.id()), || check(node).then_some(()));
        }
    }
}

impl Index<usize> for Mesh {
    type Output = Node;

    fn index(&self, index: usize) -> &Node {
        &self.0[index]
    }
}

impl IndexMut<usize> for Mesh {
    fn index_mut(&mut self, index: usize) -> &mut Node {
        &mut self.0[index]
    }
}
