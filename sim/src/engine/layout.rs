//! From the scenario to what each host is and what lies between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    attack::Behaviour,
    fleet::{Plan, peer_of},
    network::{HostId, Links, Rule},
    scenario::{
        AttackKind, Latency, Nat, Scenario, Version,
        cities::{CITIES, city, one_way},
    },
    topology::Graph,
    virtual_os::split_mix,
};

/// What an older version says of itself.
const PREVIOUS_AGENT: &str = "weft/0.0.1";

/// The links between the nodes of a scenario, whose groups are given by number.
pub(crate) fn links(scenario: &Scenario, seed: u64, groups: &[usize]) -> Links {
    let number = |name: &Option<String>| {
        let name = name.as_ref()?;
        scenario
            .fleet
            .iter()
            .position(|group| group.name == *name)
            .map(|group| group as u16)
    };
    let mut rules = Vec::new();
    for between in &scenario.links.between {
        let (from, to) = (number(&between.from), number(&between.to));
        let link = between.link.clone();
        if between.both {
            rules.push(Rule {
                from: to,
                to: from,
                link: link.clone(),
            });
        }
        rules.push(Rule { from, to, link });
    }
    let mut links = Links::new(seed, scenario.links.default.clone())
        .with_rules(groups.iter().map(|group| *group as u16).collect(), rules);
    let all = std::iter::once(&scenario.links.default).chain(scenario.links.between.iter().map(|b| &b.link));
    if all.into_iter().any(|link| link.latency == Latency::Cities) {
        let round_trips: Vec<Vec<Duration>> = (0..CITIES.len())
            .map(|from| (0..CITIES.len()).map(|to| one_way(from, to) * 2).collect())
            .collect();
        links = links.with_cities(
            cities(scenario).into_iter().map(|city| city as u16).collect(),
            &round_trips,
        );
    }
    links
}

/// The city of each node: its group's in turn, or all there are.
pub(super) fn cities(scenario: &Scenario) -> Vec<usize> {
    let mut all = Vec::new();
    for group in &scenario.fleet {
        let own: Vec<usize> = group.cities.iter().filter_map(|name| city(name)).collect();
        let own = if own.is_empty() {
            (0..CITIES.len()).collect()
        } else {
            own
        };
        all.extend((0..group.count).map(|index| own[index % own.len()]));
    }
    all
}

/// Beyond so many nodes each node of an open mesh remembers [`REMEMBERED`] of the others, and not all: together they would
/// remember the square of their number.
const SMALL_MESH: usize = 300;
const REMEMBERED: usize = 32;

fn directory_max(scenario: &Scenario, config: &BTreeMap<String, String>) -> Option<usize> {
    let configured = config.get("trust.directory_max").and_then(|text| text.parse().ok());
    configured.or((scenario.open && scenario.nodes() > SMALL_MESH).then_some(REMEMBERED))
}

/// What the fleet's nodes are to be.
pub(super) fn honest(scenario: &Scenario, graph: &Graph, groups: &[usize]) -> Vec<Plan> {
    let plan = |node: usize| {
        let group = &scenario.fleet[groups[node]];
        Plan {
            name: format!("{}-{node}", group.name),
            role: group.role.clone(),
            config: group.config.clone(),
            neighbours: Vec::new(),
            connection_target: graph.neighbours(node as u32).len().max(1),
            agent: (group.version == Version::Previous).then(|| PREVIOUS_AGENT.to_owned()),
            scoring: scenario.scoring,
            directory_max: directory_max(scenario, &group.config),
            clock_skew_ms: group.clock_skew_ms,
            attacks: None,
        }
    };
    let mut plans: Vec<Plan> = (0..scenario.nodes()).map(plan).collect();
    for (a, b) in graph.edges() {
        // One of the two dials, so that they do not cross; each about as often as the other. Nobody can dial into a NAT.
        let behind = |host: HostId| scenario.fleet[groups[host as usize]].nat != Nat::None;
        let a_dials = if behind(a) == behind(b) {
            (a ^ b) & 1 == 0
        } else {
            behind(a)
        };
        let (from, to) = if a_dials { (a, b) } else { (b, a) };
        plans[from as usize].neighbours.push(to);
    }
    plans
}

/// Adds the attackers of each attack, and the edges along which they may dial; returns how those of each behave.
pub(super) fn hostile(
    scenario: &Scenario,
    seed: u64,
    plans: &mut Vec<Plan>,
    edges: &mut Vec<(HostId, HostId)>,
    dice: &mut u64,
) -> Vec<Arc<Behaviour>> {
    let nodes = scenario.nodes();
    let mut behaviours = Vec::new();
    for (index, attack) in scenario.attacks.iter().enumerate() {
        let victim = attack.victim.map(|victim| peer_of(seed, victim as HostId));
        let behaviour = Behaviour::new(attack.kind, victim, attack.breaks_rules, seed ^ index as u64);
        for number in 0..attack.attackers {
            let host = plans.len() as HostId;
            let mut neighbours = BTreeSet::new();
            if let Some(victim) = attack.victim.filter(|_| attack.kind == AttackKind::Eclipse) {
                neighbours.insert(victim as HostId);
            }
            while neighbours.len() < attack.connections.min(nodes) {
                neighbours.insert((split_mix(dice) % nodes as u64) as HostId);
            }
            edges.extend(neighbours.iter().map(|other| (host, *other)));
            plans.push(Plan {
                name: format!("attacker-{index}-{number}"),
                role: None,
                config: BTreeMap::new(),
                connection_target: neighbours.len(),
                neighbours: neighbours.into_iter().collect(),
                agent: None,
                scoring: false,
                directory_max: directory_max(scenario, &BTreeMap::new()),
                clock_skew_ms: 0,
                attacks: Some(Arc::clone(&behaviour)),
            });
        }
        behaviours.push(behaviour);
    }
    behaviours
}
