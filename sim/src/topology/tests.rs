//! Every kind of topology, and what is said about it.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::scenario::TopologyKind;

fn made(kind: &TopologyKind, nodes: usize, seed: u64) -> Graph {
    make(kind, nodes, seed, Path::new("")).unwrap()
}

fn refused(kind: &TopologyKind, nodes: usize) -> String {
    make(kind, nodes, 1, Path::new("")).unwrap_err().to_string()
}

#[test]
fn the_kinds_are_what_their_names_say() {
    let ring = describe(&made(&TopologyKind::Ring, 10, 1));
    assert_eq!(
        (ring.edges, ring.diameter, ring.degree_min, ring.degree_max),
        (10, 5, 2, 2)
    );
    assert!(ring.cut_vertices.is_empty());
    let line = describe(&made(&TopologyKind::Line, 5, 1));
    assert_eq!(
        (line.edges, line.diameter, line.cut_vertices.as_slice()),
        (4, 4, &[1, 2, 3][..])
    );
    let star = describe(&made(&TopologyKind::Star, 5, 1));
    assert_eq!(
        (star.edges, star.diameter, star.cut_vertices.as_slice()),
        (4, 2, &[0][..])
    );
    let clique = describe(&made(&TopologyKind::Clique, 6, 1));
    assert_eq!((clique.edges, clique.diameter, clique.clustering), (15, 1, 1.0));
    let grid = describe(&made(&TopologyKind::Grid { columns: Some(3) }, 9, 1));
    assert_eq!((grid.edges, grid.diameter, grid.clustering), (12, 4, 0.0));
    let tree = describe(&made(&TopologyKind::Tree { branching: 2 }, 7, 1));
    assert_eq!(
        (tree.edges, tree.diameter, tree.cut_vertices.as_slice()),
        (6, 4, &[0, 1, 2][..])
    );
}

#[test]
fn what_cannot_be_says_why() {
    let regular = |degree| TopologyKind::RandomRegular { degree };
    assert_eq!(refused(&TopologyKind::Ring, 0), "a topology needs nodes");
    assert_eq!(refused(&regular(8), 5), "degree 8 needs at least 9 nodes, there are 5");
    assert_eq!(
        refused(&regular(3), 5),
        "5 nodes cannot all have degree 3: one of the two numbers must be even"
    );
    assert_eq!(
        refused(&regular(1), 4),
        "with degree 1 only two nodes are connected: degree must be 2 or more"
    );
    assert_eq!(
        refused(&TopologyKind::Clique, 10_000),
        "a clique of 10000 nodes has 49995000 edges; 5000000 is the most"
    );
    let archipelago = TopologyKind::Islands {
        islands: 5,
        bridges: 9,
        degree: 4,
    };
    assert_eq!(
        refused(&archipelago, 10),
        "bridges must be from 1 to 4 between islands of 2 nodes, not 9"
    );
    assert_eq!(
        refused(&TopologyKind::ScaleFree { attach: 4 }, 4),
        "attach must be from 1 to one less than the 4 nodes, not 4"
    );
    assert!(make(&TopologyKind::Clique, usize::MAX, 1, Path::new("")).is_err());
}

#[test]
fn a_seed_makes_one_graph_and_one_picture() {
    let kind = TopologyKind::RandomRegular { degree: 8 };
    let (one, again, other) = (made(&kind, 200, 7), made(&kind, 200, 7), made(&kind, 200, 8));
    assert_eq!(one, again);
    assert_ne!(one, other);
    assert_eq!(layout(&one, Some(&kind), 7), layout(&again, Some(&kind), 7));
    // Random: hardly any two neighbours are neighbours, and everybody is near.
    let described = describe(&one);
    assert!(described.clustering < 0.15 && described.diameter <= 5, "{described:?}");
}

#[test]
fn a_scale_free_graph_has_hubs() {
    let described = describe(&made(&TopologyKind::ScaleFree { attach: 2 }, 1000, 3));
    assert!(described.degree_max > 30 && described.degree_min == 2, "{described:?}");
}

#[test]
fn a_long_line_does_not_overflow_the_stack() {
    let described = describe(&made(&TopologyKind::Line, 200_000, 1));
    assert_eq!(described.cut_vertices.len(), 199_998);
    assert!(
        !described.diameter_exact && described.diameter == 199_999,
        "{}",
        described.diameter
    );
}

#[test]
fn a_graphml_file_is_read() {
    let text = "<?xml version='1.0'?><graphml xmlns='http://graphml.graphdrawing.org/xmlns'><graph edgedefault='undirected'>\
                <node id='a'/><node id='b'><data key='x'>1</data></node><node id='c'/><edge source='a' target='b'/>\
                <edge source='b' target='c'/><edge source='c' target='b'/></graph></graphml>";
    let graph = graphml::parse(text).unwrap();
    assert_eq!(graph.names, ["a", "b", "c"]);
    assert_eq!(graph.edges().collect::<Vec<_>>(), [(0, 1), (1, 2)]);
}

#[test]
fn a_bad_graphml_file_says_where() {
    let wrong = |inner: &str| graphml::parse(&format!("<graphml>\n<graph>\n{inner}\n</graph></graphml>")).unwrap_err();
    assert_eq!(wrong(""), "it has no nodes");
    assert_eq!(wrong("<node/>"), "line 3: a node without id");
    assert_eq!(
        wrong("<node id='a'/>\n<node id='a'/>"),
        "line 4: the node \"a\" is there twice"
    );
    assert_eq!(
        wrong("<node id='a'/>\n<edge source='a' target='z'/>"),
        "line 4: an edge names \"z\", which is no node"
    );
    assert_eq!(graphml::parse("<x/>").unwrap_err(), "it has no element graph");
    assert!(graphml::parse("no").unwrap_err().starts_with("it is not XML: "));
    // Entities that explode are refused by the parser.
    let bomb = "<!DOCTYPE g [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><graphml>&b;</graphml>";
    assert!(graphml::parse(bomb).is_err());
}

#[test]
fn a_picture_is_well_formed_and_has_every_node() {
    for nodes in [1, 2, 10, 300] {
        let kind = TopologyKind::SmallWorld { degree: 2, rewire: 0.1 };
        let kind = if nodes < 3 { TopologyKind::Line } else { kind };
        let graph = made(&kind, nodes, 1);
        let places = layout(&graph, None, 1);
        let edges: Vec<_> = graph.edges().collect();
        let svg = draw(&Drawing {
            places: &places,
            edges: &edges,
            group_of: &[],
            groups: &["<b>&".to_owned()],
            cut_vertices: &graph.cut_vertices(),
            attackers: &[],
            title: "a & b",
        });
        let document = roxmltree::Document::parse(&svg).unwrap();
        let circles = document.descendants().filter(|node| node.has_tag_name_circle()).count();
        assert!(circles >= nodes, "{circles} circles for {nodes} nodes");
        assert!(
            places
                .iter()
                .all(|(x, y)| (0.0..=1.0).contains(x) && (0.0..=1.0).contains(y)),
            "{places:?}"
        );
    }
}

trait Circle {
    fn has_tag_name_circle(&self) -> bool;
}

impl Circle for roxmltree::Node<'_, '_> {
    fn has_tag_name_circle(&self) -> bool {
        self.tag_name().name() == "circle" && self.attribute("class") != Some("cut")
    }
}

/// The definition itself, for graphs small enough.
fn cut_vertices_by_trying(graph: &Graph) -> Vec<u32> {
    let (_, whole) = graph.components();
    (0..graph.nodes() as u32)
        .filter(|without| {
            let edges = graph.edges().filter(|(a, b)| a != without && b != without);
            let (_, parts) = Graph::new(graph.nodes(), edges).components();
            // The node itself is now a part of its own.
            parts > whole + usize::from(!graph.neighbours(*without).is_empty())
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_regular_is_regular_and_connected(nodes in 2_usize..120, degree in 2_usize..9, seed: u64) {
        let degree = degree.min(nodes - 1);
        prop_assume!(nodes * degree % 2 == 0 && (degree > 1 || nodes == 2));
        let graph = made(&TopologyKind::RandomRegular { degree }, nodes, seed);
        prop_assert!((0..nodes as u32).all(|n| graph.neighbours(n).len() == degree));
        prop_assert_eq!(graph.components().1, 1);
    }

    #[test]
    fn every_kind_is_connected(nodes in 8_usize..90, seed: u64, pick in 0_usize..4) {
        let kind = match pick {
            0 => TopologyKind::SmallWorld { degree: 4, rewire: 0.5 },
            1 => TopologyKind::ScaleFree { attach: 3 },
            2 => TopologyKind::Islands { islands: 3, bridges: 2, degree: 4 },
            _ => TopologyKind::Tree { branching: 3 },
        };
        let graph = made(&kind, nodes, seed);
        prop_assert_eq!(graph.components().1, 1);
        prop_assert!(graph.edges().all(|(a, b)| a < b && (b as usize) < nodes));
    }

    #[test]
    fn cut_vertices_are_what_they_are_defined_to_be(nodes in 1_usize..14, edges in prop::collection::vec((0_u32..14, 0_u32..14), 0..24)) {
        let edges = edges.into_iter().map(|(a, b)| (a % nodes as u32, b % nodes as u32));
        let graph = Graph::new(nodes, edges);
        prop_assert_eq!(graph.cut_vertices(), cut_vertices_by_trying(&graph));
    }
}
