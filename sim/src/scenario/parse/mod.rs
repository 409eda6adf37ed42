//! From the text of a scenario to what it says, or to everything that is wrong with it.

mod faults;
mod fleet;
mod links;
mod threats;
mod work;

use std::time::Duration;

use toml::de::DeTable;
use weft_node::config::format_duration;

use super::{
    data::{Dial, Scenario, Topology, TopologyKind, Transport},
    error::ScenarioError,
    field::Share,
    reader::{Doc, Keys},
};
use crate::topology;

/// The longest run: a week.
const DURATION_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The shortest run.
const DURATION_MIN: Duration = Duration::from_secs(1);
/// The quiet phase, unless the scenario says otherwise.
const QUIET_DEFAULT: Duration = Duration::from_secs(10);
/// Links of each node, where nothing is said.
const DEGREE_DEFAULT: usize = 8;
/// Nodes of one scenario; more could not be told apart by the addresses they get.
pub(super) const NODES_MAX: usize = 1_000_000;

/// Where the rest of a scenario is read, and what it may refer to.
struct Frame {
    duration: Duration,
    quiet_from: Duration,
    groups: Vec<(String, usize)>,
    nodes: usize,
}

impl Frame {
    /// The nodes of a group, of all groups where none is named; none where there is no such group.
    fn count(&self, group: Option<&str>) -> Option<usize> {
        let Some(name) = group else { return Some(self.nodes) };
        self.groups
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, count)| *count)
    }

    /// The group a key names, if it is there.
    fn group(&self, keys: &mut Keys<'_>, key: &'static str) -> Option<String> {
        let name: String = keys.opt(key)?;
        // What is wrong with a fleet that could not be read was said.
        if self.count(Some(&name)).is_none() && !self.groups.is_empty() {
            let known: Vec<&str> = self.groups.iter().map(|(name, _)| name.as_str()).collect();
            keys.wrong(
                key,
                format!(
                    "names the group {}, which the fleet does not have; it has {}",
                    super::field::shorten(&name),
                    known.join(", ")
                ),
            );
            return None;
        }
        Some(name)
    }
}

/// Reads a scenario; `file` is its name in errors.
pub(super) fn parse(file: &str, text: &str) -> Result<Scenario, ScenarioError> {
    let doc = Doc::new(file, text);
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let offset = error.span().map_or(text.len(), |span| span.start);
            doc.wrong_at(Some(offset), "", error.message().lines().collect::<Vec<_>>().join(", "));
            return Err(ScenarioError::Invalid(doc.into_problems()));
        }
    };
    let scenario = {
        let mut keys = Keys::new(&doc, "", Some(table.get_ref()), None);
        let scenario = whole(&mut keys, file, text);
        // Without a duration the rest was not looked at: its keys are not unknown for that.
        if scenario.is_some() {
            keys.done();
        }
        scenario
    };
    match scenario {
        Some(scenario) if doc.is_clean() => Ok(scenario),
        _ => Err(ScenarioError::Invalid(doc.into_problems())),
    }
}

/// Every key that any section may have, by section: the manual is held against it.
#[cfg(test)]
pub(super) fn known_keys(text: &str) -> std::collections::BTreeMap<String, std::collections::BTreeSet<&'static str>> {
    let doc = Doc::new("test", text);
    let table = DeTable::parse(text).unwrap();
    let mut keys = Keys::new(&doc, "", Some(table.get_ref()), None);
    whole(&mut keys, "test", text).unwrap();
    keys.done();
    let known = doc.known();
    assert_eq!(doc.into_problems(), [], "the example of every key is not right itself");
    known
}

fn whole(keys: &mut Keys<'_>, file: &str, text: &str) -> Option<Scenario> {
    let stem = std::path::Path::new(file)
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    let name = keys.opt("name").or(stem).unwrap_or_default();
    let about = keys.or("about", String::new());
    let seed = keys.or("seed", 1);
    let open = keys.or("open", false);
    // As the program does.
    let scoring = keys.or("scoring", open);
    let transport = keys.word("transport", &["tcp", "quic"]).map(|word| match word {
        "quic" => Transport::Quic,
        _ => Transport::Tcp,
    });
    let (duration, quiet) = times(keys)?;
    let fleet = fleet::fleet(&mut keys.section("fleet"));
    let frame = Frame {
        duration,
        quiet_from: duration.saturating_sub(quiet),
        nodes: fleet.iter().map(|group| group.count).sum(),
        groups: fleet.iter().map(|group| (group.name.clone(), group.count)).collect(),
    };
    let topology = topology(keys.section("topology"), frame.nodes);
    let links = links::links(keys.section("links"), &frame);
    let faults = faults::faults(keys, &frame, &links.default);
    let workloads = work::workloads(keys, &frame);
    let checks = work::checks(keys, &frame, &workloads);
    let attacks = threats::attacks(keys, &frame);
    Some(Scenario {
        name,
        about,
        seed,
        duration,
        quiet,
        fleet,
        topology: topology?,
        links,
        faults,
        workloads,
        checks,
        attacks,
        scoring,
        transport,
        open,
        source: text.to_owned(),
    })
}

fn times(keys: &mut Keys<'_>) -> Option<(Duration, Duration)> {
    let duration: Option<Duration> = keys.need("duration");
    let quiet: Option<Duration> = keys.opt("quiet");
    let duration = duration?;
    if !(DURATION_MIN..=DURATION_MAX).contains(&duration) {
        keys.wrong(
            "duration",
            format!("must be from 1s to 7d, not {}", format_duration(duration)),
        );
        return None;
    }
    let quiet = quiet.unwrap_or_else(|| QUIET_DEFAULT.min(duration / 4));
    if quiet >= duration {
        keys.wrong("quiet", "must be shorter than the duration");
        return None;
    }
    Some((duration, quiet))
}

fn topology(mut keys: Keys<'_>, nodes: usize) -> Option<Topology> {
    const KINDS: [&str; 11] = [
        "random-regular",
        "ring",
        "line",
        "star",
        "grid",
        "tree",
        "clique",
        "small-world",
        "scale-free",
        "islands",
        "file",
    ];
    let word = if keys.has("kind") {
        keys.word("kind", &KINDS)
    } else {
        keys.raw("kind");
        Some(KINDS[0])
    };
    let dial = match keys.word("dial", &["edges", "anyone"]) {
        Some("anyone") => Dial::Anyone,
        _ => Dial::Edges,
    };
    let seed = keys.opt("seed");
    // In a small fleet everybody is linked to everybody.
    let degree = DEGREE_DEFAULT.min(nodes.saturating_sub(1));
    let kind = match word? {
        "ring" => Some(TopologyKind::Ring),
        "line" => Some(TopologyKind::Line),
        "star" => Some(TopologyKind::Star),
        "clique" => Some(TopologyKind::Clique),
        "grid" => Some(TopologyKind::Grid {
            columns: keys.opt("columns"),
        }),
        "tree" => Some(TopologyKind::Tree {
            branching: keys.or("branching", 2),
        }),
        "random-regular" => Some(TopologyKind::RandomRegular {
            degree: keys.or("degree", degree),
        }),
        "small-world" => Some(TopologyKind::SmallWorld {
            degree: keys.or("degree", degree / 2 * 2),
            rewire: keys.or("rewire", Share(0.1)).0,
        }),
        "scale-free" => Some(TopologyKind::ScaleFree {
            attach: keys.or("attach", 4),
        }),
        "islands" => Some(TopologyKind::Islands {
            islands: keys.or("islands", 2),
            bridges: keys.or("bridges", 1),
            degree: keys.or("degree", DEGREE_DEFAULT),
        }),
        _ => keys.need("path").map(|path| TopologyKind::File { path }),
    };
    if let Some(kind) = kind.as_ref().filter(|_| nodes > 0)
        && let Err(error) = topology::possible(kind, nodes)
    {
        keys.wrong("kind", format!("cannot be: {error}"));
    }
    keys.done();
    Some(Topology {
        kind: kind?,
        dial,
        seed,
    })
}
