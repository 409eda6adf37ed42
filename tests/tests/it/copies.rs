//! Streams that several nodes keep: whatever happens to one of them, what was acknowledged is there, once, in one order, at all of them.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use weft_tests::{Mesh, Node, http::Request, until};

/// So often a node is struck; more by hand, with the variable `WEFT_KILLS`.
const KILLS: u64 = 9;

/// Says that it is enough, also when a test stops before its end.
struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn info(node: &Node, stream: &str) -> Value {
    node.run(&["stream", "info", stream, "--json"]).json()
}

/// Which of the nodes leads those that keep a stream.
fn leader(mesh: &Mesh, stream: &str) -> usize {
    until("somebody leads", || {
        let found = mesh.0.iter().find_map(|node| {
            let one = info(node, stream);
            let copies = one["copies_at"].as_array()?.clone();
            let leads = copies.iter().find(|copy| copy["leads"] == true)?;
            Some(leads["peer"].as_str()?.to_owned())
        })?;
        mesh.0.iter().position(|node| node.id() == found)
    })
}

fn events(node: &Node, stream: &str) -> Vec<Value> {
    node.run(&["stream", "read", stream, "--json"]).json_lines()
}

#[test]
fn a_stream_is_kept_by_three_nodes() {
    let mut mesh = Mesh::of(3);
    mesh[0].run(&["stream", "create", "orders", "--replicas", "2"]).fails(2);
    mesh[0]
        .run(&["stream", "create", "orders", "--replicas", "5"])
        .fails_saying(5, &["5 copies", "there are 3", "weft peers"]);
    mesh[0].run(&["stream", "create", "orders", "--replicas", "3"]).ok();
    let one = info(&mesh[0], "orders");
    assert_eq!(
        (&one["copies"], one["copies_at"].as_array().unwrap().len()),
        (&3.into(), 3)
    );
    for number in 0..3 {
        let version = mesh[number]
            .run(&["stream", "append", "orders", "--type", "k", &number.to_string()])
            .ok();
        assert_eq!(version.trim(), (number + 1).to_string());
        for node in &mesh.0 {
            assert_eq!(events(node, "orders").len(), number + 1);
        }
    }
    let words = mesh[1].run(&["stream", "info", "orders"]).ok();
    assert!(words.contains("leads") && words.contains("has everything"), "{words}");
    mesh[1]
        .run(&["stream", "create", "orders"])
        .fails_saying(1, &["already"]);
    // Whoever leads is killed, and the two others go on.
    let killed = leader(&mesh, "orders");
    mesh[killed].kill();
    let other = (killed + 1) % 3;
    until("they go on", || {
        let append = ["stream", "append", "orders", "--type", "k", "--id", "after", "3"];
        (mesh[other].run(&append).code == Some(0)).then_some(())
    });
    let words = mesh[other].run(&["stream", "info", "orders"]).ok();
    assert!(words.contains("leads"), "{words}");
    mesh[killed].start();
    assert_eq!(events(&mesh[killed], "orders").len(), 4);
    mesh[killed].run(&["stream", "verify", "orders"]).ok();
    // With one alone nothing is acknowledged, and that is said.
    for number in (0..3).filter(|number| *number != other) {
        mesh[number].kill();
    }
    mesh[other]
        .run(&["stream", "append", "orders", "--type", "k", "4"])
        .fails(5);
    mesh[other].run(&["stream", "info", "orders"]).ok();
    for number in (0..3).filter(|number| *number != other) {
        mesh[number].start();
    }
    until("they go on", || {
        let again = mesh[other].run(&["stream", "append", "orders", "--type", "k", "--id", "last", "5"]);
        (again.code == Some(0)).then_some(())
    });
    mesh[other].run(&["stream", "delete", "orders", "--force"]).ok();
    mesh[killed].run(&["stream", "info", "orders"]).fails(3);
}

#[test]
fn nothing_acknowledged_is_lost_when_those_that_keep_it_are_killed() {
    let kills = std::env::var("WEFT_KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(KILLS);
    let mut mesh = Mesh::of(3);
    mesh[0].run(&["stream", "create", "orders", "--replicas", "3"]).ok();
    let (acknowledged, next) = (Mutex::new(BTreeMap::<u64, u64>::new()), AtomicU64::new(0));
    for round in 0..kills {
        let stop = AtomicBool::new(false);
        let before = acknowledged.lock().unwrap().len();
        let doors: Vec<_> = mesh
            .0
            .iter()
            .map(|node| (node.api(), node.token().to_owned()))
            .collect();
        std::thread::scope(|scope| {
            for (to, token) in doors.iter().chain(&doors) {
                let (stop, next, acknowledged) = (&stop, &next, &acknowledged);
                scope.spawn(move || {
                    let mut last = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let append = Request::new("POST", "/v1/streams/orders/records")
                            .token(token)
                            .header("ce-id", &format!("event-{number}"))
                            .body(number.to_string().as_bytes());
                        // Who is not answered does not know: the number is used for nothing else.
                        let Ok(answer) = append.send(*to) else { return };
                        if answer.status == 201 {
                            let position = answer.json()["last"].as_u64().unwrap();
                            // What one appends after another was answered comes behind it.
                            assert!(position > last, "{position} after {last}");
                            last = position;
                            acknowledged.lock().unwrap().insert(number, position);
                        }
                    }
                });
            }
            let enough = Enough(&stop);
            let some = |count: u64| {
                until("some are acknowledged", || {
                    let now = acknowledged.lock().unwrap().len() - before;
                    (now as u64 > count).then_some(())
                });
            };
            some(20 + round * 7 % 60);
            // The leader, one that follows, and the leader again, but standing still and coming back.
            let leads = leader(&mesh, "orders");
            let struck = if round % 3 == 1 { (leads + 1) % 3 } else { leads };
            if round % 3 == 2 {
                mesh[struck].signal(Signal::STOP);
                std::thread::sleep(Duration::from_secs(3));
                mesh[struck].signal(Signal::CONT);
            } else {
                mesh[struck].kill();
            }
            let now = acknowledged.lock().unwrap().len() - before;
            some(now as u64 + 20);
            drop(enough);
            if round % 3 != 2 {
                mesh[struck].start();
            }
        });
    }
    let acknowledged = acknowledged.into_inner().unwrap();
    let all = events(&mesh[0], "orders");
    let mut found = BTreeMap::new();
    for (event, position) in all.iter().zip(1_u64..) {
        assert_eq!(event["sequence"], position.to_string());
        let number: u64 = event["data"].as_str().unwrap().parse().unwrap();
        assert!(found.insert(number, position).is_none(), "{number} is there twice");
    }
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|(number, position)| found.get(number) != Some(position))
        .collect();
    assert!(lost.is_empty(), "{lost:?} of {}", acknowledged.len());
    // The same at each of them, down to the last byte.
    let mut roots = Vec::new();
    for node in &mesh.0 {
        assert_eq!(events(node, "orders"), all);
        let verified = node.run(&["stream", "verify", "orders", "--json"]).json();
        let checkpoint = verified["checkpoint"].as_str().unwrap().to_owned();
        roots.push(
            checkpoint
                .lines()
                .skip(1)
                .take(2)
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        );
    }
    assert!(roots.iter().all(|root| *root == roots[0]), "{roots:?}");
}

/// Which of the nodes have a copy that counts.
fn keepers(mesh: &Mesh, at: usize, stream: &str) -> Vec<usize> {
    let one = info(&mesh[at], stream);
    let copies = one["copies_at"].as_array().unwrap();
    let counts = |node: &Node| {
        copies
            .iter()
            .any(|copy| copy["peer"] == node.id() && copy["is_new"].is_null())
    };
    (0..mesh.0.len()).filter(|number| counts(&mesh[*number])).collect()
}

fn append(node: &Node, id: u64) {
    let append = [
        "stream",
        "append",
        "orders",
        "--type",
        "k",
        "--id",
        &id.to_string(),
        &id.to_string(),
    ];
    until("it is appended", || (node.run(&append).code == Some(0)).then_some(()));
}

/// All of them have the same, and it is as it was signed.
fn check_all(mesh: &Mesh, count: usize) {
    for node in &mesh.0 {
        let ids: Vec<Value> = events(node, "orders").iter().map(|event| event["id"].clone()).collect();
        let expected: Vec<Value> = (0..count).map(|id| id.to_string().into()).collect();
        assert_eq!(ids, expected);
        node.run(&["stream", "verify", "orders"]).ok();
    }
}

#[test]
fn a_copy_is_given_to_another_member() {
    let mut mesh = Mesh::of(4);
    mesh[0].run(&["stream", "create", "orders", "--replicas", "3"]).ok();
    (0..30).for_each(|id| append(&mesh[id as usize % 4], id));
    let before = keepers(&mesh, 0, "orders");
    let spare = (0..4).find(|number| !before.contains(number)).unwrap();
    let replace = |at: usize, more: &[&str]| {
        let all: Vec<&str> = ["stream", "replace", "orders"].iter().chain(more).copied().collect();
        mesh[at].run(&all)
    };
    replace(0, &[mesh[spare].id()]).fails_saying(2, &["has no copy"]);
    replace(spare, &[mesh[0].id()]).fails_saying(1, &["stream info orders"]);
    replace(0, &[mesh[before[1]].id(), "--by", mesh[before[2]].id()]).fails_saying(1, &["has a copy already"]);
    replace(0, &["nobody"]).fails(3);
    // Whoever leads gives its place away, and leads no more.
    let leads = leader(&mesh, "orders");
    replace(leads, &[mesh[leads].id(), "--by", mesh[spare].id(), "--wait"]).ok();
    let after = keepers(&mesh, spare, "orders");
    let stay: Vec<usize> = before.iter().copied().filter(|number| *number != leads).collect();
    assert!(
        after.contains(&spare) && stay.iter().all(|number| after.contains(number)) && after.len() == 3,
        "{after:?}"
    );
    (30..40).for_each(|id| append(&mesh[id as usize % 4], id));
    check_all(&mesh, 40);
    // It counts: with it and one other the stream goes on.
    mesh[stay[0]].kill();
    append(&mesh[stay[1]], 40);
    mesh[stay[0]].start();
    check_all(&mesh, 41);
    // And back again, to whoever let go of everything.
    until("it has let go", || {
        let again = mesh[spare].run(&[
            "stream",
            "replace",
            "orders",
            mesh[spare].id(),
            "--by",
            mesh[leads].id(),
            "--wait",
        ]);
        (again.code == Some(0)).then_some(())
    });
    append(&mesh[spare], 41);
    check_all(&mesh, 42);
}

/// What a node's log of a group has on the disk: where it begins, and how many bytes.
fn group_log(node: &Node) -> (u64, u64) {
    let logs = std::fs::read_dir(node.file("store").join("logs")).unwrap();
    let is_groups = |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("group.");
    let log = logs.map(|entry| entry.unwrap().path()).find(is_groups).unwrap();
    let segments = std::fs::read_dir(log).unwrap().flatten().filter_map(|entry| {
        let first = entry
            .file_name()
            .to_string_lossy()
            .strip_suffix(".seg")?
            .parse::<u64>()
            .ok()?;
        // One that is removed just now is not there.
        Some((first, entry.metadata().ok()?.len()))
    });
    segments.fold((u64::MAX, 0), |(least, bytes), (first, more)| {
        (least.min(first), bytes + more)
    })
}

#[test]
fn what_the_group_forgot_is_got_from_the_streams() {
    let kills = std::env::var("WEFT_KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(KILLS);
    let mut mesh = Mesh::with(4, &[("WEFT__STORE__SEGMENT_BYTES", "64KiB")]);
    mesh[0].run(&["stream", "create", "orders", "--replicas", "3"]).ok();
    (0..5).for_each(|id| append(&mesh[0], id));
    let keep = keepers(&mesh, 0, "orders");
    let spare = (0..4).find(|number| !keep.contains(number)).unwrap();
    let leads = leader(&mesh, "orders");
    let away = *keep.iter().find(|number| **number != leads).unwrap();
    let (to, token) = (mesh[leads].api(), mesh[leads].token().to_owned());
    let mut next = 5;
    let mut append_large = |count: usize| {
        for _ in 0..count {
            let body = vec![b'x'; 12 << 10];
            let request = Request::new("POST", "/v1/streams/orders/records").token(&token);
            let request = request.header("ce-id", &next.to_string()).body(&body);
            until("it is appended", || {
                (request.send(to).ok()?.status == 201).then_some(())
            });
            next += 1;
        }
        next
    };
    for round in 0..kills.div_ceil(2) {
        mesh[away].kill();
        let before = group_log(&mesh[leads]).0;
        append_large(24);
        until("the log is shortened", || {
            let (first, bytes) = group_log(&mesh[leads]);
            (first > before && bytes < 4 * (64 << 10)).then_some(())
        });
        // It is killed again on its way, once and again, before it has what it lacks.
        mesh[away].spawn();
        std::thread::sleep(Duration::from_millis(round * 130));
        mesh[away].kill();
        mesh[away].start();
        until("it has what it lacks", || {
            let one = info(&mesh[leads], "orders");
            let copies = one["copies_at"].as_array()?.clone();
            let it = copies.iter().find(|copy| copy["peer"] == mesh[away].id())?;
            (it["behind"] == 0).then_some(())
        });
    }
    let count = append_large(2);
    check_all(&mesh, count);
    // Another one begins with the streams as well, and counts then.
    let replace = [
        "stream",
        "replace",
        "orders",
        mesh[away].id(),
        "--by",
        mesh[spare].id(),
        "--wait",
    ];
    mesh[leads].run(&replace).ok();
    mesh[leads].kill();
    append(&mesh[spare], count as u64);
    mesh[leads].start();
    check_all(&mesh, count + 1);
    let known = mesh[spare].run(&["stream", "append", "orders", "--type", "k", "--id", "3", "3", "--json"]);
    assert_eq!(known.json()["last"], 4);
}

#[test]
fn a_member_whose_disk_is_another_one_gets_its_copy_again() {
    let mut mesh = Mesh::of(3);
    mesh[0].run(&["stream", "create", "orders", "--replicas", "3"]).ok();
    (0..20).for_each(|id| append(&mesh[id as usize % 3], id));
    mesh[2].kill();
    std::fs::remove_dir_all(mesh[2].file("store")).unwrap();
    append(&mesh[0], 20);
    mesh[2].start();
    // First it is out, then it is in again.
    until("it has a copy again", || {
        let one = info(&mesh[0], "orders");
        let copies = one["copies_at"].as_array()?.clone();
        let again = copies.iter().find(|copy| copy["peer"] == mesh[2].id())?;
        (again["is_new"].is_null() && again["behind"] == 0).then_some(())
    });
    let listed = until("it has what it says", || {
        let read = mesh[2].run(&["stream", "read", "orders", "--json"]);
        (read.code == Some(0)).then(|| read.json_lines())
    });
    assert_eq!(listed.len(), 21);
    mesh[1].kill();
    append(&mesh[0], 21);
    mesh[1].start();
    check_all(&mesh, 22);
}

#[test]
fn copies_are_where_their_labels_say() {
    let founder = Node::founder("alpha");
    let labelled = founder
        .run(&["invite", "--uses", "3", "--label", "zone=eu"])
        .ok()
        .trim()
        .to_owned();
    let plain = founder.ticket(1);
    let mut nodes = vec![founder];
    for name in ["beta", "gamma", "delta"] {
        nodes.push(Node::joined(name, &labelled));
    }
    nodes.push(Node::joined("epsilon", &plain));
    let mesh = Mesh(nodes);
    mesh.wait_complete();
    let create = ["stream", "create", "orders", "--replicas", "3", "--place", "zone=eu"];
    mesh[0].run(&create).fails_saying(2, &["is not labelled zone=eu"]);
    mesh[0]
        .run(&["stream", "create", "orders", "--place", "zone=eu"])
        .fails_saying(2, &["one copy"]);
    mesh[1].run(&create).ok();
    assert_eq!(keepers(&mesh, 1, "orders"), [1, 2, 3]);
    let words = mesh[0].run(&["stream", "info", "orders"]).ok();
    assert!(words.contains("zone=eu"), "{words}");
    append(&mesh[4], 0);
    // Another place is another group, though it has room.
    mesh[1].run(&["stream", "create", "bills", "--replicas", "3"]).ok();
    let replaced = mesh[1].run(&["stream", "replace", "orders", "gamma"]);
    replaced.fails_saying(5, &["labelled zone=eu"]);
}
