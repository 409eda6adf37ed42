//! `weft-sim topology`: makes a topology, describes it, draws it.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{
    CliError,
    out::{Out, write_file},
};
use crate::{
    scenario::TopologyKind,
    topology::{Description, Drawing, Graph, describe, draw, layout, make},
};

/// Make a topology, describe it and draw it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft-sim topology random-regular --nodes 100 --degree 8 --draw mesh.svg
  weft-sim topology islands --nodes 60 --islands 3 --bridges 2
  weft-sim topology net.graphml --json | jq .cut_vertices")]
pub(crate) struct TopologyArgs {
    /// ring, line, star, grid, tree, clique, random-regular, small-world, scale-free, islands, or a GraphML file
    #[arg(value_name = "KIND")]
    kind: String,
    /// How many nodes; of a file its own
    #[arg(long, short, value_name = "N")]
    nodes: Option<usize>,
    /// Of what is random in it
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Neighbours of a node (random-regular, small-world, islands) [default: 8]
    #[arg(long, value_name = "N")]
    degree: Option<usize>,
    /// Columns of a grid [default: square]
    #[arg(long, value_name = "N")]
    columns: Option<usize>,
    /// Children of a node of a tree [default: 2]
    #[arg(long, value_name = "N")]
    branching: Option<usize>,
    /// Share of edges that go far in a small world [default: 0.1]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    rewire: Option<f64>,
    /// Links a newcomer of a scale-free graph brings [default: 4]
    #[arg(long, value_name = "N")]
    attach: Option<usize>,
    /// Parts [default: 2]
    #[arg(long, value_name = "N")]
    islands: Option<usize>,
    /// Edges from an island to the next [default: 1]
    #[arg(long, value_name = "N")]
    bridges: Option<usize>,
    /// Draw it, as SVG
    #[arg(long, value_name = "FILE.svg", value_hint = clap::ValueHint::FilePath)]
    draw: Option<PathBuf>,
}

#[derive(Serialize)]
struct Document<'a> {
    kind: &'a str,
    seed: u64,
    #[serde(flatten)]
    description: &'a Description,
    edges_list: Vec<(u32, u32)>,
}

/// Makes and shows it.
pub(crate) fn execute(out: &Out, args: &TopologyArgs) -> Result<(), CliError> {
    let kind = kind(args)?;
    let of_file = matches!(kind, TopologyKind::File { .. });
    let nodes = match args.nodes {
        Some(0) => return Err(CliError::Usage("a topology needs nodes: --nodes 1 or more".into())),
        Some(nodes) => nodes,
        None if of_file => 0,
        None => {
            return Err(CliError::Usage(format!(
                "how many nodes? say for example --nodes 20 after {}",
                args.kind
            )));
        }
    };
    let graph = make(&kind, nodes, args.seed, Path::new(""))?;
    let description = describe(&graph);
    if let Some(path) = &args.draw {
        write_file(path, &picture(&graph, &kind, args, &description))?;
        out.say(&format!("the picture is in {}", path.display()));
    }
    if out.json {
        return out.document(&Document {
            kind: kind.as_str(),
            seed: args.seed,
            description: &description,
            edges_list: graph.edges().collect(),
        });
    }
    out.text(&words(&kind, &description))
}

fn kind(args: &TopologyArgs) -> Result<TopologyKind, CliError> {
    let degree = args.degree.unwrap_or(8);
    let kind = match args.kind.as_str() {
        "ring" => TopologyKind::Ring,
        "line" => TopologyKind::Line,
        "star" => TopologyKind::Star,
        "grid" => TopologyKind::Grid { columns: args.columns },
        "tree" => TopologyKind::Tree {
            branching: args.branching.unwrap_or(2),
        },
        "clique" => TopologyKind::Clique,
        "random-regular" => TopologyKind::RandomRegular { degree },
        "small-world" => TopologyKind::SmallWorld {
            degree,
            rewire: args.rewire.unwrap_or(0.1),
        },
        "scale-free" => TopologyKind::ScaleFree {
            attach: args.attach.unwrap_or(4),
        },
        "islands" => TopologyKind::Islands {
            islands: args.islands.unwrap_or(2),
            bridges: args.bridges.unwrap_or(1),
            degree,
        },
        path if path.contains('.') || path.contains('/') => TopologyKind::File { path: path.to_owned() },
        other => {
            return Err(CliError::Usage(format!(
                "`{other}` is neither a kind of topology (ring, line, star, grid, tree, clique, random-regular, small-world, scale-free, \
                 islands) nor a GraphML file"
            )));
        }
    };
    unused(args, &kind)?;
    Ok(kind)
}

/// A parameter that the kind does not have is a mistake, not nothing.
fn unused(args: &TopologyArgs, kind: &TopologyKind) -> Result<(), CliError> {
    let given = [
        (
            "--degree",
            args.degree.is_some(),
            &["random-regular", "small-world", "islands"][..],
        ),
        ("--columns", args.columns.is_some(), &["grid"]),
        ("--branching", args.branching.is_some(), &["tree"]),
        ("--rewire", args.rewire.is_some(), &["small-world"]),
        ("--attach", args.attach.is_some(), &["scale-free"]),
        ("--islands", args.islands.is_some(), &["islands"]),
        ("--bridges", args.bridges.is_some(), &["islands"]),
    ];
    match given
        .iter()
        .find(|(_, is_given, of)| *is_given && !of.contains(&kind.as_str()))
    {
        Some((flag, _, of)) => Err(CliError::Usage(format!(
            "{flag} goes with {}, not with {}",
            of.join(", "),
            kind.as_str()
        ))),
        None => Ok(()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let number = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse(),
    };
    number
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| format!("`{text}` is no share; write for example 0.1 or 10%"))
}

fn picture(graph: &Graph, kind: &TopologyKind, args: &TopologyArgs, description: &Description) -> String {
    let edges: Vec<(u32, u32)> = graph.edges().collect();
    draw(&Drawing {
        places: &layout(graph, Some(kind), args.seed),
        edges: &edges,
        group_of: &[],
        groups: &[],
        cut_vertices: &description.cut_vertices,
        attackers: &[],
        title: &format!("{} of {} nodes", kind.as_str(), graph.nodes()),
    })
}

fn words(kind: &TopologyKind, description: &Description) -> String {
    const NAMED_MAX: usize = 20;
    let at_least = if description.diameter_exact { "" } else { "at least " };
    let mut cut: Vec<String> = description
        .cut_vertices
        .iter()
        .take(NAMED_MAX)
        .map(u32::to_string)
        .collect();
    if description.cut_vertices.len() > NAMED_MAX {
        cut.push("…".into());
    }
    let cut = match description.cut_vertices.len() {
        0 => "none".to_owned(),
        count => format!("{count} ({})", cut.join(", ")),
    };
    format!(
        "kind          {}\nnodes         {}\nedges         {}\ncomponents    {}\ndiameter      {at_least}{} hops, {:.2} on average\n\
         degree        {} to {}, {:.2} on average\nclustering    {:.3}\ncut vertices  {cut}\n",
        kind.as_str(),
        description.nodes,
        description.edges,
        description.components,
        description.diameter,
        description.distance_mean,
        description.degree_min,
        description.degree_max,
        description.degree_mean,
        description.clustering,
    )
}
