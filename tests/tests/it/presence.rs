//! What is there, seen from another node, while applications and nodes come and go.

use rustix::process::Signal;
use serde_json::Value;
use weft_tests::{Background, Mesh};

/// Changes as `word subject`.
fn changes(lines: &[String]) -> Vec<String> {
    let changes: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    told(&changes)
}

fn told(changes: &[Value]) -> Vec<String> {
    let word = |change: &Value| {
        format!(
            "{} {}",
            change["change"].as_str().unwrap(),
            change["subject"].as_str().unwrap()
        )
    };
    changes.iter().map(word).collect()
}

#[test]
fn who_leaves_without_a_word_has_its_will_said() {
    let mut mesh = Mesh::of(3);
    let mut watch = mesh[0].background(&["presence", "watch", "sensors.*", "--json"]);
    watch.wait_said("watching sensors.*");
    let alarms = mesh[0].subscribe(&["alarms.*", "--json"]);
    let declare = |node: usize, mesh: &Mesh| -> Background {
        let args = [
            "presence",
            "declare",
            "sensors.7",
            "--will",
            "gone",
            "--will-subject",
            "alarms.7",
        ];
        let mut declared = mesh[node].background(&args);
        declared.wait_said("sensors.7 is there");
        declared
    };
    let mut told = Vec::new();
    let mut follows = |watch: &Background, change: &str| {
        told.push(change.to_owned());
        assert_eq!(changes(&watch.wait_lines(told.len())), told);
    };

    // It takes its leave.
    let mut declared = declare(2, &mesh);
    follows(&watch, "present sensors.7");
    let present = mesh[0].run(&["presence", "ls", "--json"]).json_lines();
    assert_eq!(present.len(), 1);
    assert_eq!(present[0]["node"], mesh[2].id());
    assert_eq!(
        (&present[0]["subject"], &present[0]["will"]),
        (&"sensors.7".into(), &true.into())
    );
    declared.signal(Signal::TERM);
    assert_eq!(declared.wait_ended(), Some(0));
    follows(&watch, "withdrawn sensors.7");
    assert_eq!(
        mesh[0].run(&["presence", "ls", "--json"]).json_lines(),
        Vec::<Value>::new()
    );

    // The application is killed: its node says its will.
    let declared = declare(2, &mesh);
    follows(&watch, "present sensors.7");
    declared.signal(Signal::KILL);
    follows(&watch, "gone sensors.7");
    let will: Value = serde_json::from_str(&alarms.wait_lines(1)[0]).unwrap();
    assert_eq!(
        (&will["data"], &will["weftpublisher"]),
        (&"gone".into(), &mesh[2].id().into())
    );
    assert_eq!(will.get("weftwill"), None);

    // The node is killed: the others say it, as its own.
    let mut declared = declare(2, &mesh);
    follows(&watch, "present sensors.7");
    let elsewhere = mesh[1].subscribe(&["alarms.*", "--json"]);
    let dead = mesh[2].id().to_owned();
    mesh[2].kill();
    follows(&watch, "gone sensors.7");
    for will in [&alarms.wait_lines(2)[1], &elsewhere.wait_lines(1)[0]] {
        let will: Value = serde_json::from_str(will).unwrap();
        assert_eq!((&will["data"], &will["subject"]), (&"gone".into(), &"alarms.7".into()));
        assert_eq!(
            (&will["weftwill"], &will["weftpublisher"]),
            (&"true".into(), &dead.as_str().into())
        );
    }
    assert_eq!(
        mesh[0].run(&["presence", "ls", "--json"]).json_lines(),
        Vec::<Value>::new()
    );

    // It comes back, and the command that went on waiting with it.
    mesh[2].start();
    follows(&watch, "present sensors.7");
    // What the node said in its run before is not believed, and nothing of it is said again.
    declared.signal(Signal::TERM);
    assert_eq!(declared.wait_ended(), Some(0));
    follows(&watch, "withdrawn sensors.7");
    assert_eq!(alarms.lines().len(), 2);
}

#[test]
fn what_a_node_said_in_its_run_before_is_nobodys_news() {
    let mut mesh = Mesh::of(3);
    let declared = {
        let mut declared = mesh[2].background(&["presence", "declare", "sensors.7", "--will", "gone"]);
        declared.wait_said("sensors.7 is there");
        declared
    };
    let watch = [
        "presence",
        "watch",
        "sensors.*",
        "--json",
        "--count",
        "1",
        "--timeout",
        "40s",
    ];
    assert_eq!(told(&mesh[0].run(&watch).json_lines()), ["present sensors.7"]);
    // It knows the record when it comes back, and has missed that the node in it went.
    mesh[0].stop();
    mesh[2].kill();
    declared.signal(Signal::KILL);
    mesh[2].start();
    mesh[0].start();
    let words = mesh[0].subscribe(&["sensors.*", "--raw"]);
    let mut declared = mesh[1].background(&["presence", "declare", "sensors.9"]);
    declared.wait_said("sensors.9 is there");
    assert_eq!(told(&mesh[0].run(&watch).json_lines()), ["present sensors.9"]);
    mesh[0].run(&["pub", "sensors.9", "marker"]).ok();
    assert_eq!(words.wait_lines(1), ["marker"]);
}

#[test]
fn mistakes_are_named() {
    let mesh = Mesh::of(1);
    let node = &mesh[0];
    let long = "x".repeat(1025);
    node.run(&["presence", "declare", "sensors.*"]).fails(2);
    node.run(&["presence", "declare", "sensors.1", "--will", &long])
        .fails_saying(2, &["will"]);
    node.run(&[
        "presence",
        "declare",
        "sensors.1",
        "--will",
        "x",
        "--will-subject",
        "a..b",
    ])
    .fails(2);
    node.run(&["presence", "ls", "a..b"]).fails(2);
    node.run(&["presence", "watch", "--count", "1", "--timeout", "1s"])
        .fails(5);
    let withdrawn = node.send(&node.request("DELETE", "/v1/presences/sensors.1?number=7"));
    assert_eq!(withdrawn.status, 404);
}
