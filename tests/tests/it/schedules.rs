//! Schedules from the command line: each occurrence once, whatever is killed.

use serde_json::{Value, json};
use weft_tests::{Mesh, Node, until};

fn events(node: &Node) -> Vec<Value> {
    node.run(&["stream", "read", "orders", "--json"]).json_lines()
}

#[test]
fn events_are_appended_later() {
    let mesh = Mesh::of(2);
    mesh[0].run(&["stream", "create", "orders"]).ok();
    let node = &mesh[1];
    let append = |more: &[&str]| {
        let all: Vec<&str> = ["stream", "append", "orders", "--type", "reminder"]
            .iter()
            .chain(more)
            .copied()
            .collect();
        node.run(&all)
    };
    let soon = append(&["--delay", "300ms", "--subject", "order-1", "{\"id\":1}"]).ok();
    assert!(soon.starts_with("once-"), "{soon}");
    let never = append(&["--due", "2126-01-01T00:00:00Z", "x"]).ok();
    append(&["--delay", "1s", "--expect", "3", "x"]).fails(2);
    append(&["--due", "soon", "x"]).fails_saying(2, &["no time"]);
    let event = until("it is there", || events(&mesh[0]).first().cloned());
    assert_eq!(
        (&event["type"], &event["subject"], &event["data"]),
        (&json!("reminder"), &json!("order-1"), &json!({ "id": 1 }))
    );
    let listed = node.run(&["schedule", "ls", "--json"]).json_lines();
    let waits = listed.iter().find(|one| one["name"] == never.trim()).unwrap();
    assert_eq!(
        (&waits["due"], &waits["event"]["type"]),
        (&json!("2126-01-01T00:00:00.000Z"), &json!("reminder"))
    );
    node.run(&["schedule", "rm", never.trim()]).ok();
    node.run(&["schedule", "rm", never.trim()])
        .fails_saying(3, &["schedule ls"]);
    let add = |more: &[&str]| {
        let all: Vec<&str> = ["schedule", "add", "nightly", "--stream", "orders", "--type", "k"]
            .iter()
            .chain(more)
            .copied()
            .collect();
        node.run(&all)
    };
    add(&[]).fails(2);
    add(&["--cron", "soon"]).fails_saying(2, &["no cron expression"]);
    add(&["--every", "10ms"]).fails_saying(2, &["once a second"]);
    add(&["--cron", "0 3 * * *", "--tag", "a=b"]).ok();
    add(&["--cron", "0 3 * * *", "--tag", "a=b"]).ok();
    add(&["--cron", "0 4 * * *"]).fails_saying(1, &["schedule rm nightly"]);
    let words = node.run(&["schedule", "ls"]).ok();
    assert!(
        words.contains("0 3 * * *") && words.contains("T03:00:00.000Z"),
        "{words}"
    );
    assert_eq!(events(&mesh[0]).len(), 1);
}

#[test]
fn each_occurrence_is_there_once_whatever_is_killed() {
    let mut mesh = Mesh::of(2);
    mesh[0].run(&["stream", "create", "orders"]).ok();
    mesh[1]
        .run(&[
            "schedule", "add", "beat", "--stream", "orders", "--type", "beat", "--every", "1s",
        ])
        .ok();
    for round in 0..4_usize {
        let before = events(&mesh[0]).len();
        until("it beats", || (events(&mesh[0]).len() > before).then_some(()));
        let killed = 1 - round % 2;
        mesh[killed].kill();
        mesh[killed].start();
    }
    let before = events(&mesh[0]).len();
    until("it beats", || (events(&mesh[0]).len() > before).then_some(()));
    let all = events(&mesh[0]);
    let mut ids: Vec<&Value> = all.iter().map(|event| &event["id"]).collect();
    assert!(
        all.iter()
            .all(|event| event["schedule"] == "beat" && event["id"].as_str().unwrap().starts_with("beat@"))
    );
    ids.dedup();
    assert_eq!(ids.len(), all.len());
    // None before its time, each later than the one before.
    let times: Vec<&str> = all.iter().map(|event| event["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    for event in &all {
        assert!(event["time"].as_str() <= event["recordedtime"].as_str(), "{event}");
    }
}
