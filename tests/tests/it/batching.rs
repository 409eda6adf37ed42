//! Queues of records: what was acknowledged arrives or is kept among the dead, whatever is killed meanwhile.

use std::{collections::BTreeSet, fs};

use weft_tests::{Mesh, until};

#[test]
fn acknowledged_records_survive_kills_on_both_sides() {
    let mut mesh = Mesh::of(2);
    let into = mesh[1].file("taken");
    // The destination takes whole batches, and none with poison in it.
    let take = format!(
        "t=$(mktemp); cat >$t; if grep -q poison $t; then echo no poison >&2; exit 7; fi; cat $t >>{}",
        into.display()
    );
    let create = [
        "batch",
        "create",
        "mails",
        "--to-service",
        "mailer",
        "--count",
        "50",
        "--age",
        "200ms",
        "--attempts",
        "2",
    ];
    mesh[0].run(&create).ok();
    let lines = |range: std::ops::Range<u32>| -> Vec<u8> {
        let line = |n| {
            if n == 333 {
                "poison\n".to_owned()
            } else {
                format!("{n}\n")
            }
        };
        range.map(line).collect::<String>().into_bytes()
    };
    // Nobody takes it yet: it waits on the disk, and is there after a kill.
    let put = mesh[0]
        .run_with_input(&["batch", "put", "mails", "--lines", "--json"], &lines(0..500))
        .json();
    assert_eq!(put["records"], 500);
    mesh[0].kill();
    mesh[0].start();
    let waiting = mesh[0].run(&["batch", "ls", "--json"]).json();
    assert_eq!(
        (&waiting["name"], &waiting["records"]),
        (&"mails".into(), &500.into()),
        "{waiting}"
    );
    let serving = mesh[1].serve("mailer", &["--exec", &take]);
    let taken = || -> BTreeSet<String> {
        let text = fs::read_to_string(&into).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    until("some have arrived", || (taken().len() > 50).then_some(()));
    // In the midst of it both sides are killed.
    mesh[0].kill();
    drop(serving);
    mesh[1].kill();
    mesh[0].start();
    mesh[1].start();
    let _serving = mesh[1].serve("mailer", &["--exec", &take]);
    mesh[0]
        .run_with_input(&["batch", "put", "mails", "--lines"], &lines(500..700))
        .ok();
    until("all have arrived", || (taken().len() == 699).then_some(()));
    let expected: BTreeSet<String> = (0..700).filter(|n| *n != 333).map(|n| n.to_string()).collect();
    assert_eq!(taken(), expected);
    until("the poison is dead", || {
        let queue = mesh[0].run(&["batch", "ls", "--json"]).json();
        (queue["dead"] == 1 && queue["records"] == 0).then_some(())
    });
    let dead = mesh[0].run(&["batch", "dead", "mails", "--json"]).json();
    assert_eq!(dead["data"], "poison");
    assert!(dead["reason"].as_str().unwrap().contains("no poison"), "{dead}");
    mesh[0].run(&["batch", "rm", "mails"]).fails_saying(1, &["1 dead"]);
    mesh[0].run(&["batch", "purge", "mails"]).ok();
    mesh[0].run(&["batch", "rm", "mails"]).ok();
    mesh[0]
        .run(&["batch", "put", "mails", "x"])
        .fails_saying(3, &["no queue mails", "weft batch create"]);
}

#[test]
fn records_go_into_a_stream_once_whatever_is_killed() {
    let mut mesh = Mesh::of(2);
    // The queue is there before its stream is, and waits for it.
    let create = [
        "batch",
        "create",
        "placed",
        "--to-stream",
        "orders",
        "--type",
        "order.placed",
    ];
    let options = [
        "--schema",
        "order/v1",
        "--count",
        "20",
        "--age",
        "50ms",
        "--attempts",
        "2",
    ];
    mesh[0].run(&[&create[..], &options].concat()).ok();
    let put = |mesh: &Mesh, range: std::ops::Range<u32>| {
        let line = |n: u32| match n {
            // Not as the schema says.
            177 => "{\"total\":\"many\"}\n".to_owned(),
            n => format!("{{\"total\":{n}}}\n"),
        };
        let lines: String = range.map(line).collect();
        mesh[0]
            .run_with_input(
                &["batch", "put", "placed", "--lines", "--key", "shop"],
                lines.as_bytes(),
            )
            .ok();
    };
    put(&mesh, 0..100);
    until("it says what it waits for", || {
        let text = mesh[0].run(&["batch", "ls"]).text();
        (text.contains("stream orders") && text.contains("there is no stream orders")).then_some(())
    });
    mesh[1].run(&["stream", "create", "orders"]).ok();
    let schema = mesh[1].file("schema.json");
    fs::write(
        &schema,
        r#"{"type":"object","properties":{"total":{"type":"integer"}}}"#,
    )
    .unwrap();
    let add = [
        "schema",
        "add",
        "orders",
        "order/v1",
        schema.to_str().unwrap(),
        "--type",
        "order.placed",
    ];
    mesh[1].run(&add).ok();
    let version = |mesh: &Mesh| mesh[1].run(&["stream", "info", "orders", "--json"]).json()["version"].as_u64();
    until("some are in it", || version(&mesh).filter(|version| *version > 20));
    // In the midst of it each side is killed, one after the other.
    put(&mesh, 100..400);
    mesh[0].kill();
    mesh[0].start();
    put(&mesh, 400..600);
    mesh[1].kill();
    mesh[1].start();
    put(&mesh, 600..650);
    until("all have arrived", || {
        let queue = mesh[0].run(&["batch", "ls", "--json"]).json();
        (queue["records"] == 0 && queue["dead"] == 1).then_some(())
    });
    let read = mesh[1].run(&["stream", "read", "orders", "--json"]).json_lines();
    let totals: Vec<u64> = read
        .iter()
        .filter_map(|event| event["data"]["total"].as_u64())
        .collect();
    let expected: Vec<u64> = (0..650).filter(|n| *n != 177).collect();
    assert_eq!(totals, expected, "each once, in the order of their key");
    assert!(
        read.iter()
            .all(|event| event["type"] == "order.placed" && event["partitionkey"] == "shop")
    );
    let dead = mesh[0].run(&["batch", "dead", "placed", "--json"]).json();
    assert!(dead["data"].to_string().contains("many"), "{dead}");
    mesh[0]
        .run(&["batch", "create", "z", "--to-stream", "orders", "--compress", "gzip"])
        .fails_saying(2, &["each record as an event"]);
    mesh[0]
        .run(&["batch", "create", "z", "--to-subject", "orders", "--type", "t"])
        .fails(2);
    mesh[0].run(&["batch", "create", "z", "--to-stream", "a..b"]).fails(2);
    let long = "t".repeat(100_000);
    mesh[0]
        .run(&["batch", "create", "z", "--to-stream", "orders", "--type", &long])
        .fails_saying(2, &["event type"]);
}

#[test]
fn wrong_queues_and_records_are_refused_with_words() {
    let node = weft_tests::Node::founder("alpha");
    node.run(&["batch", "create", "q"]).fails(2);
    node.run(&["batch", "create", "q/x", "--to-service", "s"])
        .fails_saying(2, &["letters, digits"]);
    node.run(&["batch", "create", "q", "--to-service", "s", "--count", "0"])
        .fails_saying(2, &["records of a batch"]);
    node.run(&["batch", "create", "q", "--to-subject", "a..b"]).fails(2);
    node.run(&["batch", "create", "q", "--to-service", "s", "--records", "2"])
        .ok();
    node.run(&["batch", "put", "q", "two\nlines"])
        .fails_saying(2, &["newline"]);
    node.run(&["batch", "put", "q", "1"]).ok();
    node.run(&["batch", "put", "q", "2"]).ok();
    node.run(&["batch", "put", "q", "3"])
        .fails_saying(1, &["is full with 2 records"]);
    let unknown = node.run(&["batch", "dead", "nothing"]);
    unknown.fails(3);
    until("it says what it waits for", || {
        let text = node.run(&["batch", "ls"]).text();
        text.contains("no member offers the service s").then_some(())
    });
}
