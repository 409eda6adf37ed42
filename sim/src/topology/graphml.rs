//! A topology from a GraphML file, as yEd, Gephi and NetworkX write it.
//!
//! Nodes and edges count; data, ports and hyperedges do not. Directed edges are taken as links like any other.

use std::{
    collections::HashMap,
    fmt::Display,
    io::{self, Read as _},
    path::Path,
};

use super::{Graph, TopologyError};

/// The largest file.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Nodes of the document: elements, texts and comments.
const XML_NODES_MAX: u32 = 4_000_000;

pub(super) fn read(path: &Path) -> Result<Graph, TopologyError> {
    let words = |reason: &dyn Display| format!("cannot read the topology {}: {reason}", path.display());
    let unread = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => TopologyError::Missing(words(&error)),
        // No text.
        io::ErrorKind::InvalidData => TopologyError::Impossible(words(&error)),
        _ => TopologyError::File(words(&error)),
    };
    let file = std::fs::File::open(path).map_err(unread)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unread)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let reason = format!("it is larger than {FILE_BYTES_MAX} bytes");
        return Err(TopologyError::Impossible(words(&reason)));
    }
    parse(&text).map_err(|reason| TopologyError::Impossible(words(&reason)))
}

/// The graph in a document, or what is wrong with it.
pub(super) fn parse(text: &str) -> Result<Graph, String> {
    let options = roxmltree::ParsingOptions {
        nodes_limit: XML_NODES_MAX,
        ..Default::default()
    };
    let document =
        roxmltree::Document::parse_with_options(text, options).map_err(|error| format!("it is not XML: {error}"))?;
    let line = |node: &roxmltree::Node<'_, '_>| document.text_pos_at(node.range().start).row;
    let graph = document
        .root_element()
        .descendants()
        .find(|node| node.has_tag_name_any("graph"))
        .ok_or("it has no element graph")?;
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    let mut names = Vec::new();
    for node in graph.descendants().filter(|node| node.has_tag_name_any("node")) {
        let id = node
            .attribute("id")
            .ok_or_else(|| format!("line {}: a node without id", line(&node)))?;
        if numbers.insert(id, names.len() as u32).is_some() {
            return Err(format!("line {}: the node {id:?} is there twice", line(&node)));
        }
        names.push(id.to_owned());
    }
    if names.is_empty() {
        return Err("it has no nodes".into());
    }
    let mut edges = Vec::new();
    for edge in graph.descendants().filter(|node| node.has_tag_name_any("edge")) {
        let end = |key: &str| {
            let id = edge
                .attribute(key)
                .ok_or_else(|| format!("line {}: an edge without {key}", line(&edge)))?;
            numbers
                .get(id)
                .copied()
                .ok_or_else(|| format!("line {}: an edge names {id:?}, which is no node", line(&edge)))
        };
        edges.push((end("source")?, end("target")?));
    }
    let mut graph = Graph::new(names.len(), edges);
    graph.names = names;
    Ok(graph)
}

/// Files come with and without the namespace of GraphML.
trait AnyNamespace {
    fn has_tag_name_any(&self, name: &str) -> bool;
}

impl AnyNamespace for roxmltree::Node<'_, '_> {
    fn has_tag_name_any(&self, name: &str) -> bool {
        self.is_element() && self.tag_name().name() == name
    }
}
