//! What is written for other engines.

use super::*;
use crate::scenario::parse;

const SCENARIO: &str = r#"
name = "two-sites"
about = "Two sites."
duration = "60s"
[fleet.office]
count = 4
config = { mesh = { connection_target = 8 } }
[fleet.ship_a]
count = 2
start = "2s"
cities = ["Tokyo"]
[topology]
kind = "ring"
[links]
latency = "cities"
loss = "1%"
[[fault]]
kind = "kill"
at = "20s"
nodes = [5]
[[fault]]
kind = "pause"
at = "20s"
for = "5s"
[[workload]]
kind = "publish"
name = "news"
from = "office"
senders = 2
[[workload]]
kind = "call"
name = "greet"
to = "ship_a"
[[check]]
kind = "answered"
min = 1.0
"#;

fn text_of<'f>(files: &'f [File], name: &str) -> &'f str {
    &files.iter().find(|file| file.name == name).unwrap().text
}

#[test]
fn shadow_gets_hosts_links_and_the_load() {
    let files = shadow(&parse("two-sites", SCENARIO).unwrap(), 7).unwrap();
    let yaml = text_of(&files, "shadow.yaml");
    assert_eq!(yaml.matches("    network_node_id: ").count(), 6);
    // Ten cities of the office, one of the ship; each with each.
    assert_eq!(yaml.matches("        edge [").count(), 11 * 11);
    assert!(yaml.contains("stop_time: 60000 ms") && yaml.contains("seed: 7"));
    assert!(
        yaml.contains("run --name n0 --no-mdns --log info --listen /ip4/11.0.0.1/tcp/7400") && yaml.contains(" --open")
    );
    assert!(
        yaml.contains("--insecure-bootstrap --bootstrap /ip4/11.0.0.1/tcp/7400 --bootstrap /ip4/11.0.0.5/tcp/7400")
    );
    assert!(yaml.contains("WEFT__MESH__CONNECTION_TARGET: '8'"));
    assert_eq!(yaml.matches("shutdown_signal: SIGKILL").count(), 1);
    assert!(text_of(&files, "load-0.sh").contains("pub 'sim.news'"));
    assert!(text_of(&files, "load-4.sh").contains("serve 'greet' --echo"));
    let readme = text_of(&files, "README.md");
    assert!(readme.contains("- the fault pause that begins at 20.0 s") && !readme.contains("the fault kill"));
}

/// Shadow's own configuration has these keys, and reads these units: case-sensitive, and it refuses everything else.
#[test]
fn shadow_gets_no_key_and_no_unit_it_does_not_know() {
    const KEYS: [&str; 22] = [
        "general",
        "stop_time",
        "seed",
        "model_unblocked_syscall_latency",
        "progress",
        "network",
        "graph",
        "type",
        "inline",
        "hosts",
        "network_node_id",
        "ip_addr",
        "processes",
        "path",
        "args",
        "environment",
        "start_time",
        "shutdown_time",
        "shutdown_signal",
        "expected_final_state",
        "bandwidth_down",
        "bandwidth_up",
    ];
    const UNITS: [&str; 3] = ["ms", "us", "Kbit"];
    let files = shadow(&parse("two-sites", SCENARIO).unwrap(), 7).unwrap();
    let mut quantities = 0;
    for line in text_of(&files, "shadow.yaml")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let words: Vec<&str> = line.trim().trim_start_matches("- ").split_whitespace().collect();
        let [first, rest @ ..] = &words[..] else { continue };
        if let Some(key) = first.strip_suffix(':') {
            let is_host = key
                .strip_prefix('n')
                .is_some_and(|number| number.parse::<u32>().is_ok());
            let is_variable = key.starts_with("WEFT__");
            assert!(KEYS.contains(&key) || is_host || is_variable, "{line}");
        }
        let is_quantity =
            ["latency", "host_bandwidth_down", "host_bandwidth_up"].contains(first) || first.ends_with("_time:");
        if is_quantity {
            let [number, unit] = rest else { panic!("{line}") };
            assert!(number.trim_matches('"').parse::<u64>().is_ok(), "{line}");
            assert!(UNITS.contains(&unit.trim_matches('"')), "{line}");
            quantities += 1;
        }
    }
    assert!(quantities > 100, "{quantities}");
}

#[test]
fn kubernetes_gets_plain_manifests() {
    let files = kubernetes(&parse("two-sites", SCENARIO).unwrap(), 7).unwrap();
    let map = text_of(&files, "configmap.yaml");
    assert!(
        map.contains("  ways-weft-ship-a-1: |\n    weft-office-0\n    weft-ship-a-0\n"),
        "{map}"
    );
    assert!(map.contains("  weft-office.toml: |\n    mesh.connection_target = 8\n"));
    let sets = text_of(&files, "statefulsets.yaml");
    assert_eq!(sets.matches("kind: StatefulSet").count(), 2);
    assert!(sets.contains("name: weft-ship-a") && sets.contains("replicas: 2"));
    assert!(text_of(&files, "README.md").contains("latency, loss and bandwidth"));
    // Nothing in it is indented by tabs, which YAML forbids.
    assert!(
        files
            .iter()
            .filter(|file| file.name.ends_with("yaml"))
            .all(|file| !file.text.contains('\t'))
    );
}
