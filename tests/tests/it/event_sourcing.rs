//! Streams of events: what was acknowledged is there, in its place, once, whatever is killed; and anybody can check it.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use serde_json::{Value, json};
use weft_tests::{Mesh, Node, command::weft, until};

fn text(path: &std::path::Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Waits until a node knows a stream of another.
fn knows(node: &Node, stream: &str) {
    until("the stream is known", || {
        let listed = node.run(&["stream", "ls", "--json"]).json_lines();
        listed
            .iter()
            .any(|one| one["name"] == stream && one["version"].is_u64())
            .then_some(())
    });
}

#[test]
fn a_stream_is_appended_to_read_and_proved_from_every_node() {
    let mesh = Mesh::of(2);
    let order = mesh[1].file("order.json");
    fs::write(&order, "{\"id\":1}").unwrap();
    mesh[0].run(&["stream", "create", "orders", "--retain", "30d"]).ok();
    knows(&mesh[1], "orders");
    mesh[1]
        .run(&["stream", "create", "orders"])
        .fails_saying(1, &["already"]);
    let at_order = format!("@{}", text(&order));
    let append = |args: &[&str]| {
        let all: Vec<&str> = ["stream", "append", "orders"].iter().chain(args).copied().collect();
        mesh[1].run(&all)
    };
    assert_eq!(
        append(&[
            "--type",
            "order.created",
            "--subject",
            "order-1",
            "--tag",
            "customer=1",
            &at_order
        ])
        .ok()
        .trim(),
        "1"
    );
    assert_eq!(
        append(&["--type", "order.paid", "--expect", "1", &at_order])
            .ok()
            .trim(),
        "2"
    );
    append(&["--type", "order.paid", "--expect", "1", &at_order])
        .fails_saying(1, &["version 2, not 1", "decide again"]);
    // What must not have happened.
    append(&[
        "--type",
        "seat.taken",
        "--tag",
        "seat=12A",
        "x",
        "--unless-tag",
        "seat=12A",
    ])
    .ok();
    append(&[
        "--type",
        "seat.taken",
        "--tag",
        "seat=12A",
        "y",
        "--unless-tag",
        "seat=12A",
    ])
    .fails_saying(1, &["the event at 3"]);
    append(&[
        "--type",
        "seat.taken",
        "--tag",
        "seat=12A",
        "y",
        "--unless-tag",
        "seat=12A",
        "--after",
        "3",
    ])
    .ok();
    // Sent again it is recorded once; another of this id is none.
    let again = append(&["--type", "k", "--id", "e1", "x", "--json"]).json();
    assert_eq!((&again["last"], &again["duplicate"]), (&json!(5), &json!(false)));
    assert_eq!(
        append(&["--type", "k", "--id", "e1", "x", "--json"]).json()["duplicate"],
        true
    );
    append(&["--type", "k", "--id", "e1", "y"]).fails_saying(1, &["e1", "at 5"]);
    for number in ["3", "4", "4"] {
        append(&["--producer", &format!("till-1/{number}"), "x"]).ok();
    }
    append(&["--producer", "till-1/6", "x"]).fails_saying(1, &["goes on with 5"]);
    let lines = (1..=2500).map(|n| format!("{n}\n")).collect::<String>();
    let appended = mesh[1].run_with_input(
        &["stream", "append", "orders", "--type", "n", "--lines", "--json"],
        lines.as_bytes(),
    );
    assert_eq!(
        (&appended.json()["first"], &appended.json()["version"]),
        (&json!(8), &json!(2507))
    );
    let read = |args: &[&str]| -> Vec<Value> {
        let all: Vec<&str> = ["stream", "read", "orders", "--json"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        mesh[1].run(&all).json_lines()
    };
    let sequences = |events: &[Value]| -> Vec<String> {
        events
            .iter()
            .map(|event| event["sequence"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(read(&[]).len(), 2507);
    let first = &read(&["--limit", "1"])[0];
    assert_eq!(
        (
            &first["type"],
            &first["subject"],
            &first["tags"],
            &first["data"],
            &first["author"]
        ),
        (
            &json!("order.created"),
            &json!("order-1"),
            &json!("customer=1"),
            &json!({"id": 1}),
            &json!(mesh[1].id())
        )
    );
    assert_eq!(sequences(&read(&["--type", "order.paid,seat.taken"])), ["2", "3", "4"]);
    assert_eq!(sequences(&read(&["--tag", "seat=12A", "--last", "1"])), ["4"]);
    assert_eq!(sequences(&read(&["--last", "2"])), ["2506", "2507"]);
    assert_eq!(
        sequences(&read(&["--at", first["recordedtime"].as_str().unwrap(), "-n", "1"])),
        ["1"]
    );
    assert_eq!(
        mesh[1]
            .run(&["stream", "read", "orders", "--from", "2507", "--raw"])
            .ok(),
        "2500\n"
    );
    let info = mesh[1].run(&["stream", "info", "orders", "--json"]).json();
    assert_eq!(
        (&info["version"], &info["owner"], &info["here"]),
        (&json!(2507), &json!(mesh[0].id()), &json!(false))
    );
    // Both find it right; the proof is checked by whoever has it, without a node.
    for node in [&mesh[0], &mesh[1]] {
        assert_eq!(
            node.run(&["stream", "verify", "orders", "--json"]).json()["records"],
            2507
        );
    }
    let proof = mesh[1].file("order.proof");
    mesh[1]
        .run(&["stream", "prove", "orders", "--id", "e1", "-o", &text(&proof)])
        .ok();
    let nowhere = mesh[1].file("nowhere");
    let verified = weft(mesh[1].home(), &nowhere, &["verify-proof", &text(&proof), "--json"]).json();
    assert_eq!(
        (&verified["position"], &verified["event"]["data"], &verified["owner"]),
        (&json!(5), &json!("x"), &json!(mesh[0].id()))
    );
    weft(
        mesh[1].home(),
        &nowhere,
        &["verify-proof", &text(&proof), "--owner", mesh[1].id()],
    )
    .fails(4);
    let good = fs::read(&proof).unwrap();
    for at in (0..good.len()).step_by(29) {
        let mut changed = good.clone();
        changed[at] ^= 1;
        fs::write(&proof, &changed).unwrap();
        weft(mesh[1].home(), &nowhere, &["verify-proof", &text(&proof)]).fails(4);
    }
}

#[test]
fn a_stream_goes_out_and_comes_in_whole_and_is_deleted_on_purpose_only() {
    let mesh = Mesh::of(2);
    mesh[0].run(&["stream", "create", "orders"]).ok();
    mesh[0]
        .run_with_input(&["stream", "append", "orders", "--lines"], b"a\nb\nc\n")
        .ok();
    let file = mesh[0].file("orders.export");
    mesh[0].run(&["stream", "export", "orders", "-o", &text(&file)]).ok();
    let imported = mesh[1]
        .run(&["stream", "import", "copy", &text(&file), "--json"])
        .json();
    assert_eq!(
        (&imported["records"], &imported["owner"]),
        (&json!(3), &json!(mesh[0].id()))
    );
    assert_eq!(mesh[1].run(&["stream", "read", "copy", "--raw"]).ok(), "a\nb\nc\n");
    let good = fs::read_to_string(&file).unwrap();
    let tampered = good.replacen('A', "B", 1);
    assert_ne!(good, tampered);
    fs::write(&file, &tampered).unwrap();
    mesh[1]
        .run(&["stream", "import", "other", &text(&file)])
        .fails_saying(1, &["export"]);
    mesh[1].run(&["stream", "info", "other"]).fails(3);
    mesh[1]
        .run(&["stream", "delete", "copy"])
        .fails_saying(2, &["3 records", "--force"]);
    knows(&mesh[1], "orders");
    mesh[1]
        .run(&["stream", "delete", "orders", "--force"])
        .fails_saying(1, &["deleted there"]);
    mesh[1].run(&["stream", "delete", "copy", "--force"]).ok();
    mesh[1].run(&["stream", "read", "copy"]).fails(3);
}

#[test]
fn streams_are_for_those_who_may() {
    let alpha = Node::founder("alpha");
    let join = |name: &str, role: &str| {
        let ticket = alpha.run(&["invite", "--role", role]).ok();
        let node = Node::joined(name, ticket.trim());
        node.wait_sees(alpha.id());
        node
    };
    let shop = join("shop", "shop");
    let web = join("web", "web");
    shop.run(&["stream", "create", "orders"]).ok();
    knows_of(&web, "orders");
    web.run(&["stream", "append", "orders", "x"]).fails_saying(4, &["role"]);
    web.run(&["stream", "read", "orders"]).fails(4);
    alpha.run(&["cap", "grant", "role:web", "read", "orders"]).ok();
    until("it may read", || {
        let read = web.run(&["stream", "read", "orders"]);
        (read.code == Some(0)).then_some(())
    });
    web.run(&["stream", "append", "orders", "x"]).fails(4);
    web.run(&["consumer", "add", "orders", "c"]).ok();
}

/// Waits until a node has heard of a stream, whether it may look at it or not.
fn knows_of(node: &Node, stream: &str) {
    until("the stream is known", || {
        let listed = node.run(&["stream", "ls", "--json"]).json_lines();
        listed.iter().any(|one| one["name"] == stream).then_some(())
    });
}

#[test]
fn applications_use_it_over_http() {
    let node = Node::founder("alpha");
    let create = node.request("PUT", "/v1/streams/shop.orders").json(&json!({}));
    assert_eq!(node.send(&create).status, 201);
    node.send(&create).problem(409, "conflict");
    let path = "/v1/streams/shop.orders/records";
    let event = json!({"specversion": "1.0", "id": "a", "source": "/till", "type": "paid", "data": {"total": 3}, "tags": "c=1,d=2"});
    let structured = node
        .request("POST", path)
        .header("content-type", "application/cloudevents+json");
    let answer = node.send(&structured.clone().body(event.to_string().as_bytes()));
    assert_eq!((answer.status, &answer.json()["version"]), (201, &json!(1)));
    assert_eq!(node.send(&structured.body(event.to_string().as_bytes())).status, 200);
    let batch = json!([{"type": "a", "data": 1}, {"type": "b", "data_base64": "/w=="}]);
    let batch = node
        .request("POST", &format!("{path}?expect=1"))
        .header("content-type", "application/cloudevents-batch+json")
        .body(batch.to_string().as_bytes());
    assert_eq!(node.send(&batch).json()["version"], 3);
    node.send(&batch).problem(409, "conflict");
    let keyed = node
        .request("POST", path)
        .header("idempotency-key", "pay-7")
        .header("ce-type", "pay")
        .header("ce-subject", "order-7")
        .header("content-type", "text/plain")
        .body(b"once");
    assert_eq!(node.send(&keyed).status, 201);
    assert_eq!(
        (node.send(&keyed).status, node.send(&keyed).json()["duplicate"].clone()),
        (200, json!(true))
    );
    let condition = json!({"query": {"items": [{"types": ["paid"], "tags": ["c=1"]}]}, "after": 0});
    let conditional = node
        .request("POST", path)
        .header("weft-condition", &condition.to_string())
        .body(b"x");
    node.send(&conditional).problem(409, "conflict");
    let list = node.get(path);
    assert_eq!(list.as_array().unwrap().len(), 4);
    assert_eq!(
        (&list[0]["data"], &list[2]["data_base64"], &list[3]["data"]),
        (&json!({"total": 3}), &json!("/w=="), &json!("once"))
    );
    assert_eq!(node.get(&format!("{path}/4"))["subject"], "order-7");
    node.send(&node.request("GET", &format!("{path}/5")))
        .problem(404, "not_found");
    let lines = node.send(&node.request("GET", path).header("accept", "application/x-ndjson"));
    assert_eq!(lines.text().lines().count(), 4);
    // What follows goes on behind the last one that was seen.
    let tail = node
        .request("GET", &format!("{path}?limit=2"))
        .header("accept", "text/event-stream")
        .header("last-event-id", "2");
    let tail = node.send(&tail).text();
    assert!(
        tail.contains("id: 3") && tail.contains("id: 4") && !tail.contains("id: 2"),
        "{tail}"
    );
    for (target, header) in [
        (format!("{path}?expect=x"), ("a", "b")),
        (format!("{path}?ack=never"), ("a", "b")),
        (path.to_owned(), ("weft-condition", "{")),
        (path.to_owned(), ("weft-producer", "p")),
        (path.to_owned(), ("ce-time", "tomorrow")),
        (path.to_owned(), ("ce-UPPER_case", "x")),
        (path.to_owned(), ("content-type", "application/cloudevents+json")),
    ] {
        let wrong = node.request("POST", &target).header(header.0, header.1).body(b"x");
        node.send(&wrong).problem(400, "invalid");
    }
    let tags = vec!["t"; 10_000].join(",");
    let many = node
        .request("POST", path)
        .header("content-type", "application/cloudevents+json");
    let many = many.body(json!({"type": "k", "tags": tags}).to_string().as_bytes());
    node.send(&many).problem(400, "invalid");
    let large = node.request("POST", path).body(&vec![b'x'; 1_100_000]);
    assert!((400..500).contains(&node.send(&large).status));
    node.send(&node.request("GET", &format!("{path}?from=1&last=2")))
        .problem(400, "invalid");
    node.send(&node.request("GET", "/v1/streams/nothing/records"))
        .problem(404, "not_found");
    assert_eq!(node.get("/v1/streams/shop.orders")["version"], 4);
}

#[test]
fn who_follows_gets_everything_once_through_restarts() {
    let mut mesh = Mesh::of(2);
    mesh[0].run(&["stream", "create", "orders"]).ok();
    knows(&mesh[1], "orders");
    let own = mesh[0].background(&["stream", "read", "orders", "--follow", "--raw"]);
    let other = mesh[1].background(&["stream", "read", "orders", "--follow", "--raw"]);
    let mut expected = Vec::new();
    for round in 0..3 {
        let lines: Vec<String> = (0..200).map(|n| (round * 200 + n).to_string()).collect();
        let input = lines.join("\n") + "\n";
        mesh[0]
            .run_with_input(&["stream", "append", "orders", "--lines"], input.as_bytes())
            .ok();
        expected.extend(lines);
        if round < 2 {
            mesh[0].kill();
            mesh[0].start();
        }
    }
    for background in [&own, &other] {
        assert_eq!(background.wait_lines(600), expected);
    }
}

#[test]
fn workers_settle_what_they_are_handed() {
    let mut mesh = Mesh::of(2);
    mesh[0].run(&["stream", "create", "orders"]).ok();
    knows(&mesh[1], "orders");
    mesh[1]
        .run(&[
            "consumer",
            "add",
            "orders",
            "billing",
            "--group",
            "--ack",
            "explicit",
            "--max-deliver",
            "2",
            "--backoff",
            "1ms,10s,1m",
        ])
        .ok();
    mesh[1]
        .run(&["consumer", "add", "orders", "billing", "--any-order", "--group"])
        .fails_saying(1, &["defined otherwise"]);
    mesh[1]
        .run(&["consumer", "next", "orders", "billing", "--wait", "0s"])
        .fails(5);
    for n in ["1", "2", "3"] {
        mesh[0].run(&["stream", "append", "orders", "--subject", "one", n]).ok();
    }
    let next = |node: &Node| {
        node.run(&["consumer", "next", "orders", "billing", "--json", "-n", "10"])
            .json_lines()
    };
    let handed = next(&mesh[1]);
    assert_eq!(
        (handed.len(), &handed[0]["position"], &handed[0]["event"]["data"]),
        (1, &json!(1), &json!("1"))
    );
    mesh[1]
        .run(&["consumer", "ack", "orders", "billing", "1:2"])
        .fails_saying(1, &["0 of 1"]);
    mesh[1].run(&["consumer", "ack", "orders", "billing", "1:1"]).ok();
    // Settled is settled, also when the owner is killed; what was handed out comes again.
    assert_eq!(next(&mesh[0])[0]["position"], 2);
    mesh[0].kill();
    mesh[0].start();
    mesh[1].wait_sees(mesh[0].id());
    for delivery in ["2:1", "2:2"] {
        assert_eq!(next(&mesh[1])[0]["position"], 2);
        mesh[1]
            .run(&[
                "consumer",
                "nack",
                "orders",
                "billing",
                delivery,
                "--reason",
                "no such customer",
            ])
            .ok();
    }
    let dead = mesh[1]
        .run(&["consumer", "dead-letters", "orders", "billing", "--json"])
        .json_lines();
    assert_eq!(
        (dead.len(), &dead[0]["position"], &dead[0]["reason"]),
        (1, &json!(2), &json!("no such customer"))
    );
    assert_eq!(
        mesh[1]
            .run(&["consumer", "next", "orders", "billing", "--ack", "--json"])
            .json()["position"],
        3
    );
    mesh[1].run(&["consumer", "redrive", "orders", "billing"]).ok();
    assert_eq!(
        mesh[1]
            .run(&["consumer", "next", "orders", "billing", "--ack", "--json"])
            .json()["position"],
        2
    );
    let info = mesh[0].run(&["consumer", "info", "orders", "billing", "--json"]).json();
    assert_eq!(
        (&info["settled"], &info["dead"], &info["pending"], &info["behind"]),
        (&json!(3), &json!(0), &json!(0), &json!(0))
    );
    mesh[1]
        .run(&["consumer", "reset", "orders", "billing", "--from", "3"])
        .ok();
    assert_eq!(next(&mesh[1])[0]["position"], 3);
    mesh[1].run(&["consumer", "rm", "orders", "billing"]).ok();
    mesh[1].run(&["consumer", "info", "orders", "billing"]).fails(3);
}

/// So often the node is killed; more by hand, with the variable `WEFT_KILLS`.
const KILLS: u64 = 12;

#[test]
fn nothing_acknowledged_is_lost_when_the_node_is_killed() {
    let kills = std::env::var("WEFT_KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(KILLS);
    let mut node = Node::founder("alpha");
    node.run(&["stream", "create", "orders"]).ok();
    let (acknowledged, next) = (Mutex::new(BTreeMap::<u64, u64>::new()), AtomicU64::new(0));
    for round in 0..kills {
        let (stop, (to, token)) = (AtomicBool::new(false), (node.api(), node.token().to_owned()));
        let before = acknowledged.lock().unwrap().len();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let append = weft_tests::http::Request::new("POST", "/v1/streams/orders/records")
                            .token(&token)
                            .header("ce-id", &format!("event-{number}"))
                            .body(number.to_string().as_bytes());
                        // Who is not answered does not know: the number is used for nothing else.
                        let Ok(answer) = append.send(to) else { return };
                        if answer.status == 201 {
                            let position = answer.json()["last"].as_u64().unwrap();
                            acknowledged.lock().unwrap().insert(number, position);
                        }
                    }
                });
            }
            until("some are acknowledged", || {
                let count = acknowledged.lock().unwrap().len() - before;
                (count as u64 > 20 + round * 7 % 60).then_some(())
            });
            node.kill();
            stop.store(true, Ordering::Relaxed);
        });
        node.start();
    }
    let acknowledged = acknowledged.into_inner().unwrap();
    let events = node.run(&["stream", "read", "orders", "--json"]).json_lines();
    let mut found = BTreeMap::new();
    for (event, position) in events.iter().zip(1_u64..) {
        assert_eq!(event["sequence"], position.to_string());
        let number: u64 = event["data"].as_str().unwrap().parse().unwrap();
        assert_eq!(event["id"], format!("event-{number}"));
        assert!(found.insert(number, position).is_none(), "{number} is there twice");
    }
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|(number, position)| found.get(number) != Some(position))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
    node.run(&["stream", "verify", "orders"]).ok();
    // What was not acknowledged may be there; sent again, it is recorded once.
    let total = next.load(Ordering::Relaxed);
    for number in (0..total).rev().take(50) {
        let id = format!("event-{number}");
        let again = node
            .request("POST", "/v1/streams/orders/records")
            .header("ce-id", &id)
            .body(number.to_string().as_bytes());
        let answer = node.send(&again).json();
        assert_eq!(answer["duplicate"], found.contains_key(&number), "{number}");
    }
}

#[test]
fn records_of_a_queue_go_when_they_are_worked_off() {
    let mesh = Mesh::of(1);
    let node = &mesh[0];
    node.run(&["stream", "create", "jobs", "--keep", "queue"]).ok();
    node.run(&["stream", "create", "other", "--keep", "all"]).fails(2);
    let words = node.run(&["stream", "info", "jobs"]).ok();
    assert!(words.contains("until it is worked off"), "{words}");
    for number in 0..3 {
        node.run(&["stream", "append", "jobs", "--type", "job", &number.to_string()])
            .ok();
    }
    node.run(&["consumer", "add", "jobs", "workers", "--group"]).ok();
    for _ in 0..2 {
        node.run(&["consumer", "next", "jobs", "workers", "--ack"]).ok();
    }
    until("what is done is gone", || {
        let one = node.run(&["stream", "info", "jobs", "--json"]).json();
        assert_eq!(one["keep"], "queue");
        (one["first"] == 3 && one["records"] == 1).then_some(())
    });
}

#[test]
fn a_stream_that_refuses_what_is_too_much_has_room_again_when_work_is_done() {
    let mesh = Mesh::of(3);
    mesh[0]
        .run(&["stream", "create", "none", "--refuse-when-full"])
        .fails_saying(2, &["needs a number of records or bytes"]);
    let create = |name: &str, more: &[&str]| {
        let all = [
            "stream",
            "create",
            name,
            "--keep",
            "queue",
            "--retain-records",
            "3",
            "--refuse-when-full",
        ];
        let all: Vec<&str> = all.iter().chain(more).copied().collect();
        mesh[0].run(&all).ok();
    };
    create("jobs", &[]);
    create("copied", &["--replicas", "3"]);
    for name in ["jobs", "copied"] {
        knows(&mesh[1], name);
        mesh[0].run(&["consumer", "add", name, "workers", "--group"]).ok();
        let append = |id: &str| mesh[1].run(&["stream", "append", name, "--type", "k", "--id", id, "x"]);
        for id in ["a", "b", "c"] {
            append(id).ok();
        }
        append("d").fails_saying(1, &["the stream is full", "3 of 3 records"]);
        // What was recorded needs no room, and nothing is let go of.
        append("a").ok();
        assert_eq!(mesh[1].run(&["stream", "read", name, "--json"]).json_lines().len(), 3);
        mesh[2].run(&["consumer", "next", name, "workers", "--ack"]).ok();
        until("there is room again", || (append("d").code == Some(0)).then_some(()));
        append("e").fails_saying(1, &["the stream is full"]);
        let words = mesh[0].run(&["stream", "info", name]).ok();
        assert!(words.contains("at most 3 records, until it is worked off"), "{words}");
    }
}
