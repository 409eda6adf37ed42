//! Reading scenarios: what is right is read as meant, what is wrong is refused with line, key and reason.

use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::report::Mode;

const HEAD: &str = "duration = \"60s\"\n[fleet]\nnodes = 10\n";

/// The errors of a scenario, one a line; `HEAD` comes before `text`, so that its lines begin with 4.
fn errors(text: &str) -> String {
    match parse("x.toml", &format!("{HEAD}{text}")) {
        Err(ScenarioError::Invalid(problems)) => problems.iter().map(|p| format!("{p}\n")).collect(),
        other => panic!("not refused: {other:?}"),
    }
}

fn whole_errors(text: &str) -> String {
    parse("x.toml", text).unwrap_err().to_string()
}

#[test]
fn the_smallest_scenario_has_sensible_defaults() {
    let scenario = parse("small.toml", HEAD).unwrap();
    assert_eq!(
        (scenario.name.as_str(), scenario.seed, scenario.nodes()),
        ("small", 1, 10)
    );
    assert_eq!(scenario.quiet_from(), Duration::from_secs(50));
    assert_eq!(scenario.topology.kind, TopologyKind::RandomRegular { degree: 8 });
    assert_eq!(
        scenario.links.default.latency,
        Latency::Constant(Duration::from_millis(20))
    );
    assert!(!scenario.scoring && scenario.faults.is_empty());
}

#[test]
fn every_shipped_scenario_is_right_and_its_topology_can_be_made() {
    for shipped in shipped() {
        let scenario = parse(shipped.name, shipped.text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(scenario.name, shipped.name);
        assert!(
            !scenario.about.is_empty() && !scenario.checks.is_empty(),
            "{}",
            shipped.name
        );
        crate::topology::make(&scenario.topology.kind, scenario.nodes(), 1, Path::new("")).unwrap();
        // By its name and by its path, both without a file.
        assert_eq!(
            load(shipped.name, &[]).unwrap().scenario,
            load(&format!("scenarios/{}.toml", shipped.name), &[]).unwrap().scenario
        );
    }
    let error = load("helo", &[]).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert_eq!(
        error.to_string(),
        "there is no file helo, and no shipped scenario of that name; did you mean hello?; `weft-sim scenarios` lists them"
    );
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    assert_eq!(
        errors("[links]\nlatncy = \"5ms\"\n"),
        "x.toml:5: links.latncy is no key that means anything here; did you mean latency?\n"
    );
    assert_eq!(
        errors("[[fault]]\nkind = \"kil\"\nat = \"5s\"\n")
            .lines()
            .next()
            .unwrap(),
        "x.toml:5: fault.kind \"kil\" is none of churn, partition, islands, kill, pause, hang, skew, flash-crowd, cut, degrade, disk-full, \
         lost-fsync, torn-write, bit-flip; did you mean kill?"
    );
    // A key of another kind of fault is none here.
    assert_eq!(
        errors("[[fault]]\nkind = \"kill\"\nat = \"5s\"\ndown = \"3s\"\n"),
        "x.toml:7: fault.down is no key that means anything here\n"
    );
}

#[test]
fn a_value_of_another_kind_says_what_is_expected() {
    assert_eq!(
        errors("[[workload]]\nkind = \"publish\"\nrate = \"fast\"\nsize = -1\nstart = 5\n"),
        "x.toml:6: workload.rate expects a rate such as \"10/s\", \"2/min\" or \"1/h\", or a number a second, found the string \"fast\"\n\
         x.toml:7: workload.size expects a size such as \"256MiB\" (B, KiB, MiB, GiB, TiB) or a number of bytes, found the number -1\n\
         x.toml:8: workload.start expects a duration such as \"30s\" (ms, s, m, h, d), found the number 5\n"
    );
    assert_eq!(
        errors("[links]\nloss = 1.5\n"),
        "x.toml:5: links.loss expects a share such as 0.01 or \"1%\", found the number 1.5\n"
    );
    assert_eq!(
        errors("fault = 3\n"),
        "x.toml:4: fleet expects groups such as [fleet.edge], or nodes = 100; found \"fault\" = the number 3\n"
    );
    assert_eq!(
        errors("[[links]]\n"),
        "x.toml:4: links expects a section [links], found a list\n"
    );
}

#[test]
fn text_that_is_no_toml_says_where() {
    let error = whole_errors("duration = \"60s\"\n[fleet\n");
    assert!(error.starts_with("x.toml:2: "), "{error}");
    assert_eq!(parse("x", "a = = 1").unwrap_err().exit_code(), 2);
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    assert_eq!(
        whole_errors("duration = \"60s\"\n[fleet]\nnodes = 0\n"),
        "x.toml:2: fleet has no nodes: say nodes = 100, or give groups a count"
    );
    assert_eq!(
        whole_errors("[fleet]\nnodes = 3\n"),
        "x.toml: duration is missing; it expects a duration such as \"30s\" (ms, s, m, h, d)"
    );
    assert_eq!(
        whole_errors("duration = \"60s\"\n[fleet]\nnodes = 2000000\n"),
        "x.toml:2: fleet has 2000000 nodes; 1000000 is the most"
    );
    assert_eq!(
        errors("[topology]\ndegree = 10\n"),
        "x.toml:4: topology.kind cannot be: degree 10 needs at least 11 nodes, there are 10\n"
    );
    assert_eq!(
        errors("[topology]\nkind = \"small-world\"\ndegree = 3\n"),
        "x.toml:5: topology.kind cannot be: degree must be even in a small world, not 3\n"
    );
    assert_eq!(
        errors("[[fault]]\nkind = \"kill\"\nat = \"5s\"\ncount = 11\n"),
        "x.toml:7: fault.count is 11, but the fleet has only 10 nodes\n"
    );
    assert_eq!(
        errors("[[fault]]\nkind = \"kill\"\nrate = \"1/s\"\n"),
        "x.toml:6: fault.rate kills about 50 nodes for good, but there are only 10: give restart, a lower rate, or until\n"
    );
    assert_eq!(
        errors("[[fault]]\nkind = \"pause\"\nat = \"45s\"\nfor = \"10s\"\n"),
        "x.toml:7: fault.for lasts into the quiet phase, which begins at 50s\n"
    );
    assert_eq!(
        errors("[[fault]]\nkind = \"kill\"\nat = \"55s\"\n"),
        "x.toml:6: fault.at must be before the quiet phase, which begins at 50s\n"
    );
    assert_eq!(
        errors("[[fault]]\nkind = \"kill\"\nat = \"5s\"\nnodes = [3, 10]\n"),
        "x.toml:7: fault.nodes has 10; the nodes are 0 to 9\n"
    );
    assert_eq!(
        errors("[[fault]]\nkind = \"partition\"\nat = \"5s\"\ncount = 10\n"),
        "x.toml:7: fault.count is everybody: a partition needs somebody on the other side\n"
    );
}

#[test]
fn a_check_needs_its_workload() {
    assert_eq!(
        errors("[[check]]\nkind = \"delivery-ratio\"\nworkload = \"news\"\nmin = 1\n"),
        "x.toml:6: check.workload names \"news\", but the scenario has no workload\n"
    );
    assert_eq!(
        errors(
            "[[workload]]\nkind = \"publish\"\nname = \"news\"\n[[check]]\nkind = \"delivery-ratio\"\nworkload = \"nws\"\nmin = 1\n"
        ),
        "x.toml:9: check.workload names \"nws\"; there is news; did you mean news?\n"
    );
    assert_eq!(
        errors("[[workload]]\nkind = \"publish\"\n[[check]]\nkind = \"answered\"\nmin = 1\n"),
        "x.toml:7: check.kind answered checks a workload of the kind call, but the scenario has none\n"
    );
    // Without a name it is of every workload it fits.
    let text = format!(
        "{HEAD}[[workload]]\nkind = \"publish\"\n[[workload]]\nkind = \"call\"\n[[check]]\nkind = \"latency\"\nmax = \"1s\"\n"
    );
    let names: Vec<String> = parse("x", &text)
        .unwrap()
        .checks
        .into_iter()
        .map(|check| check.name)
        .collect();
    assert_eq!(names, ["latency of publish", "latency of call-2"]);
}

#[test]
fn a_queue_that_cannot_be_is_refused() {
    let batch = |more: &str| errors(&format!("[[workload]]\nkind = \"batch\"\n{more}\n"));
    assert_eq!(
        batch("name = \"my logs\"\nservice = \"lake\""),
        "x.toml:6: workload.name cannot be a queue's: a queue's name has 1 to 64 letters, digits, - and _; `my logs` does not fit\n"
    );
    assert_eq!(
        batch("records = 0"),
        "x.toml:5: workload.kind cannot be a queue: the records of a batch: 0 is not 1 to 1000\n"
    );
    assert!(batch("age = \"2d\"").contains("the age of a batch in milliseconds: 172800000 is not"));
    assert!(batch("stream = \"a..b\"").contains("workload.stream is not one"));
    assert!(batch("stream = \"orders\"\nreplicas = 2").contains("workload.replicas must be 1, 3 or 5"));
    assert!(batch("stream = \"orders\"\npoison = \"1%\"").contains("a stream takes every record"));
    assert!(batch("stream = \"orders\"\nservice = \"lake\"").contains("service"));
    // An echo takes no batch.
    assert_eq!(
        batch("service = \"lake\"\n[[workload]]\nkind = \"call\"\nservice = \"lake\""),
        "x.toml:9: workload.service \"lake\" is that of \"batch\", which is of another kind: it cannot answer both\n"
    );
}

#[test]
fn what_is_wrong_with_a_fleet_is_said_once() {
    assert_eq!(
        whole_errors("duration = \"60s\"\n[fleet.edge]\ncount = 0\n[[workload]]\nkind = \"call\"\nto = \"edge\"\n")
            .lines()
            .count(),
        1
    );
}

#[test]
fn a_configuration_is_tried_on_the_nodes_own_reading() {
    let with = |config: &str| {
        let text = format!("duration = \"9s\"\n[fleet.edge]\ncount = 2\nconfig = {{ {config} }}\n");
        parse("x.toml", &text)
            .map(|scenario| scenario.fleet[0].config.clone())
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        with("mesh = { connection_target = 8 }").unwrap()["mesh.connection_target"],
        "8"
    );
    assert_eq!(with("\"mesh.mdns\" = false").unwrap()["mesh.mdns"], "false");
    assert_eq!(
        with("mesh = { conection_target = 8 }").unwrap_err(),
        "x.toml:4: fleet.GROUP.config has \"mesh.conection_target\", which is no key of a node; did you mean mesh.connection_target?"
    );
    assert_eq!(
        with("node = { name = \"a\" }").unwrap_err(),
        "x.toml:4: fleet.GROUP.config cannot set node.name: the simulator does"
    );
    assert!(
        with("mesh = { connections_max = \"x\" }")
            .unwrap_err()
            .contains("mesh.connections_max expects")
    );
}

#[test]
fn a_fleet_that_outgrows_the_memory_is_refused() {
    let scenario = parse("x", "duration = \"9s\"\n[fleet]\nnodes = 1000000\n").unwrap();
    let reason = unfit(&scenario, Mode::Virtual, 8 << 30).unwrap();
    assert_eq!(
        reason,
        "1000000 nodes need at least 390689 MiB of memory in mode virtual, and 8192 MiB are available here; \
         `weft-sim export` writes it for machines that outgrow this one"
    );
    assert_eq!(unfit(&scenario, Mode::Virtual, 1 << 40), None);
    assert!(memory_available().is_some_and(|bytes| bytes > 1 << 20));
}

#[test]
fn no_text_makes_the_reader_panic() {
    // Every shipped scenario with a piece cut out, at many places.
    for shipped in shipped().iter().take(6) {
        let text = shipped.text;
        for at in (0..text.len()).step_by(7) {
            let cut = format!("{}{}", &text[..at], &text[(at + 5).min(text.len())..]);
            let _ = parse("cut", &cut);
        }
    }
    let deep = format!("duration = {}1{}", "[".repeat(5000), "]".repeat(5000));
    assert!(parse("deep", &deep).is_err());
    assert!(
        parse(
            "far",
            "duration = \"99999999999999999999d\"\n[fleet]\nnodes = 99999999999999999999\n"
        )
        .is_err()
    );
}

/// One of every kind, so that every key is asked for.
const EVERY_KEY: &str = include_str!("tests/every.toml");

#[test]
fn the_manual_has_every_key_and_no_other() {
    let manual = include_str!("../../../docs/simulator.md");
    let mut documented: BTreeSet<(String, String)> = BTreeSet::new();
    let mut section = String::new();
    for line in manual.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            section = title.trim_matches(|c| "`[]".contains(c)).to_owned();
        } else if let Some(row) = line.strip_prefix("| `") {
            let key = row.split('`').next().unwrap_or_default();
            documented.insert((section.clone(), key.to_owned()));
        }
    }
    let topologies = [
        "grid",
        "tree",
        "small-world",
        "scale-free",
        "file\"\npath = \"x.graphml",
    ];
    let with = |kind: &str| format!("duration = \"9s\"\n[fleet]\nnodes = 10\n[topology]\nkind = \"{kind}\"\n");
    let texts = topologies.into_iter().map(with).chain([EVERY_KEY.to_owned()]);
    let known: BTreeSet<(String, String)> = texts
        .flat_map(|text| super::parse::known_keys(&text))
        .flat_map(|(section, keys)| {
            let section = if section.is_empty() { "top".to_owned() } else { section };
            keys.into_iter().map(move |key| (section.clone(), key.to_owned()))
        })
        .filter(|(section, key)| {
            section != "top"
                || !["fleet", "topology", "links", "fault", "workload", "check", "attack"].contains(&key.as_str())
        })
        .filter(|(section, key)| (section.as_str(), key.as_str()) != ("links", "between"))
        .collect();
    let missing: Vec<_> = known.difference(&documented).collect();
    let stale: Vec<_> = documented
        .difference(&known)
        .filter(|(section, _)| known.iter().any(|(known, _)| known == section))
        .collect();
    assert!(missing.is_empty(), "not in the manual: {missing:?}");
    assert!(stale.is_empty(), "in the manual, but read by nobody: {stale:?}");
}
