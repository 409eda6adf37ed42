//! For Shadow, which runs real programs on a simulated kernel and network. <https://shadow.github.io>

use std::fmt::Write;

use super::{File, Plan, bullets, left_out, load_script};
use crate::{
    scenario::{FaultKind, Latency, Link, Scenario, When, cities},
    topology::TopologyError,
};

/// Bandwidth where a scenario has no limit: Shadow wants one.
const BANDWIDTH_DEFAULT_BITS: u64 = 1_000_000_000;

/// A configuration for Shadow: `shadow.yaml`, and a script for each node that has a part in the workloads.
///
/// # Errors
/// [`TopologyError`] when the topology cannot be made.
pub fn shadow(scenario: &Scenario, seed: u64) -> Result<Vec<File>, TopologyError> {
    let plan = Plan::new(scenario, seed)?;
    let mut yaml = String::new();
    let mut files = Vec::new();
    write_yaml(&mut yaml, &plan, seed).expect("invariant: writing to a string does not fail");
    for node in 0..scenario.nodes() {
        if let Some(text) = load_script(&plan, node, &format!("weft --data-dir ../../../data/{}", name(node))) {
            files.push(File {
                name: format!("load-{node}.sh"),
                text,
            });
        }
    }
    files.insert(
        0,
        File {
            name: "shadow.yaml".into(),
            text: yaml,
        },
    );
    files.push(File {
        name: "README.md".into(),
        text: readme(scenario),
    });
    Ok(files)
}

fn name(node: usize) -> String {
    format!("n{node}")
}

/// Addresses outside every reserved network: 11.0.0.1 and on.
fn address(node: usize) -> String {
    let number = node + 1;
    format!("11.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255)
}

fn write_yaml(yaml: &mut String, plan: &Plan<'_>, seed: u64) -> std::fmt::Result {
    let scenario = plan.scenario;
    writeln!(yaml, "# {}: {}", scenario.name, scenario.about.replace('\n', " "))?;
    writeln!(
        yaml,
        "general:\n  stop_time: {} ms\n  seed: {}\n  model_unblocked_syscall_latency: true\n  progress: true\nnetwork:\n  graph:\n    type: gml\n    inline: |",
        scenario.duration.as_millis(),
        // Shadow's seed has 32 bits.
        seed & u64::from(u32::MAX)
    )?;
    write_graph(yaml, plan)?;
    writeln!(yaml, "hosts:")?;
    for node in 0..scenario.nodes() {
        write_host(yaml, plan, node)?;
    }
    Ok(())
}

/// One network node for each group and city; edges between all of them, also each with itself.
fn write_graph(yaml: &mut String, plan: &Plan<'_>) -> std::fmt::Result {
    let places = places(plan);
    writeln!(yaml, "      graph [\n        directed 1")?;
    for (id, (group, city)) in places.iter().enumerate() {
        let group_name = &plan.scenario.fleet[*group].name;
        let bits = link(plan.scenario, *group, *group)
            .bandwidth_bits
            .unwrap_or(BANDWIDTH_DEFAULT_BITS);
        let label = city.map_or(group_name.clone(), |city| {
            format!("{group_name}, {}", cities::CITIES[city])
        });
        writeln!(
            yaml,
            "        node [\n          id {id}\n          label \"{label}\"\n          host_bandwidth_down \"{} Kbit\"\n          host_bandwidth_up \"{} Kbit\"\n        ]",
            // Units are case-sensitive: it knows no "kbit".
            bits.div_ceil(1000),
            bits.div_ceil(1000)
        )?;
    }
    for (from, (from_group, from_city)) in places.iter().enumerate() {
        for (to, (to_group, to_city)) in places.iter().enumerate() {
            let link = link(plan.scenario, *from_group, *to_group);
            let latency = match link.latency {
                Latency::Constant(latency) => latency,
                Latency::Normal { mean, .. } => mean,
                Latency::Cities => cities::one_way(from_city.unwrap_or(0), to_city.unwrap_or(0)),
            };
            writeln!(
                yaml,
                "        edge [\n          source {from}\n          target {to}\n          latency \"{} us\"\n          packet_loss {}\n        ]",
                // Shadow wants more than nothing.
                latency.as_micros().max(1),
                if link.loss == 0.0 {
                    "0.0".to_owned()
                } else {
                    link.loss.to_string()
                }
            )?;
        }
    }
    writeln!(yaml, "      ]")
}

/// Where hosts can be: a group, and its cities.
fn places(plan: &Plan<'_>) -> Vec<(usize, Option<usize>)> {
    let by_cities = plan.scenario.links.default.latency == Latency::Cities
        || plan
            .scenario
            .links
            .between
            .iter()
            .any(|between| between.link.latency == Latency::Cities);
    let mut places = Vec::new();
    for (group, members) in plan.scenario.fleet.iter().enumerate() {
        if !by_cities {
            places.push((group, None));
        } else if members.cities.is_empty() {
            places.extend((0..cities::CITIES.len()).map(|city| (group, Some(city))));
        } else {
            places.extend(members.cities.iter().map(|name| (group, cities::city(name))));
        }
    }
    places
}

/// What a link between two groups is like: the last exception that fits, or what holds for all.
fn link(scenario: &Scenario, from: usize, to: usize) -> &Link {
    let (from, to) = (&scenario.fleet[from].name, &scenario.fleet[to].name);
    let is = |wanted: &Option<String>, name: &String| wanted.as_ref().is_none_or(|wanted| wanted == name);
    let fits = |between: &&crate::scenario::LinkBetween| {
        is(&between.from, from) && is(&between.to, to) || between.both && is(&between.from, to) && is(&between.to, from)
    };
    scenario
        .links
        .between
        .iter()
        .rev()
        .find(fits)
        .map_or(&scenario.links.default, |between| &between.link)
}

fn write_host(yaml: &mut String, plan: &Plan<'_>, node: usize) -> std::fmt::Result {
    let group = &plan.scenario.fleet[plan.group_of[node]];
    let places = places(plan);
    let of_group: Vec<usize> = (0..places.len())
        .filter(|place| places[*place].0 == plan.group_of[node])
        .collect();
    let member = plan
        .scenario
        .nodes_of(Some(&group.name))
        .iter()
        .position(|known| *known == node)
        .unwrap_or(0);
    let place = of_group[member % of_group.len()];
    let offset = group.start + group.start_over.mul_f64(member as f64 / group.count.max(1) as f64);
    writeln!(
        yaml,
        "  {}:\n    network_node_id: {place}\n    ip_addr: {}\n    processes:",
        name(node),
        address(node)
    )?;
    writeln!(yaml, "    - path: weft\n      args: {}", arguments(plan, node))?;
    let variables: Vec<String> = group
        .config
        .iter()
        .map(|(key, text)| {
            let name = format!("WEFT__{}", key.to_uppercase().replace('.', "__"));
            format!("        {name}: '{}'", text.replace('\'', "''"))
        })
        .collect();
    if !variables.is_empty() {
        writeln!(yaml, "      environment:\n{}", variables.join("\n"))?;
    }
    // A node joins only whom it finds: the founder has a moment's start.
    let start = offset.as_millis() + if node == 0 { 0 } else { 1000 };
    writeln!(yaml, "      start_time: {start} ms")?;
    match killed_at(plan.scenario, node) {
        Some(ms) => writeln!(
            yaml,
            "      shutdown_time: {ms} ms\n      shutdown_signal: SIGKILL\n      expected_final_state: {{signaled: SIGKILL}}"
        )?,
        None => writeln!(yaml, "      expected_final_state: running")?,
    }
    if load_script(plan, node, "weft").is_some() {
        writeln!(
            yaml,
            "    - path: /bin/sh\n      args: ../../../load-{node}.sh\n      start_time: {} ms\n      expected_final_state: running",
            start + 500
        )?;
    }
    Ok(())
}

/// When a node is killed for good, in milliseconds.
fn killed_at(scenario: &Scenario, node: usize) -> Option<u128> {
    scenario
        .faults
        .iter()
        .find_map(|fault| match (&fault.kind, fault.when) {
            (FaultKind::Kill { restart: None }, When::At(at)) if fault.target.nodes.contains(&node) => {
                Some(at.as_millis())
            }
            _ => None,
        })
}

/// `weft run` of a node.
fn arguments(plan: &Plan<'_>, node: usize) -> String {
    let (name, own) = (name(node), address(node));
    let way_in = if node == 0 { "--open" } else { "--insecure-bootstrap" };
    let ways: String = plan
        .ways_in(node)
        .into_iter()
        .map(|way| format!(" --bootstrap /ip4/{}/tcp/7400", address(way)))
        .collect();
    format!(
        "--data-dir ../../../data/{name} run --name {name} --no-mdns --log info --listen /ip4/{own}/tcp/7400 \
         --external /ip4/{own}/tcp/7400 {way_in}{ways}"
    )
}

fn readme(scenario: &Scenario) -> String {
    let left = left_out(scenario, true);
    format!(
        "# {} for Shadow\n\n{}\n\n```sh\n# weft must be on PATH; the data of earlier runs is in the way\nrm -rf shadow.data data\nshadow shadow.yaml\n```\n\n\
         Each node's log is `shadow.data/hosts/nN/weft.*.stderr`; what its part in the workloads came to is beside it, in `messages.log`, `sent.log`, `called.log`.\n\
         Bodies are cut at 1 KiB. A kill is carried where it names its nodes and has no restart. Latencies that vary are given by their mean.\n\n\
         ## Not carried\n\n{}",
        scenario.name,
        scenario.about,
        bullets(&left)
    )
}
