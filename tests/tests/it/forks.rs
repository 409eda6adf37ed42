//! Histories that were changed after they had been signed: found out by comparing, and proved to strangers.

use std::{fs, path::Path};

use weft_tests::{Mesh, Node, command::weft};

/// What a node keeps, as it is now; and put back, as if its disk were an old copy.
fn copied(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copied(&entry.path(), &place),
            false => drop(fs::copy(entry.path(), place).unwrap()),
        }
    }
}

#[test]
fn a_history_that_was_changed_is_found_out_by_what_others_have_seen_and_proved_to_strangers() {
    let mut mesh = Mesh::of(3);
    let append = |node: &Node, text: &str| node.run(&["stream", "append", "orders", "--type", "k", text]).ok();
    mesh[0].run(&["stream", "create", "orders"]).ok();
    (0..3).for_each(|n| drop(append(&mesh[0], &n.to_string())));
    mesh[0].stop();
    let (store, old) = (mesh[0].data_dir().join("store"), mesh[0].file("old"));
    copied(&store, &old);
    mesh[0].start();
    mesh.wait_complete();
    (3..6).for_each(|n| drop(append(&mesh[0], &n.to_string())));
    // One member has seen six records; there is no fork of what goes on.
    mesh[1].run(&["stream", "verify", "orders"]).ok();
    append(&mesh[0], "6");
    mesh[2].run(&["stream", "verify", "orders"]).ok();
    mesh[1].run(&["stream", "verify", "orders"]).ok();
    mesh[1]
        .run(&["stream", "evidence", "orders"])
        .fails_saying(3, &["no fork"]);
    // The owner comes back with an old disk: it has less than it signed, and then others in their place.
    mesh[0].stop();
    copied(&old, &store);
    mesh[0].start();
    mesh.wait_complete();
    mesh[1]
        .run(&["stream", "verify", "orders"])
        .fails_saying(1, &["has signed 7 records", "has fewer now"]);
    (0..9).for_each(|n| drop(append(&mesh[0], &format!("other {n}"))));
    let found = mesh[2].run(&["stream", "verify", "orders"]);
    found.fails_saying(1, &["two histories", "weft stream evidence orders"]);
    // Who has never looked hears of it from those who have.
    let ticket = mesh[0].ticket(1);
    let newcomer = Node::joined("newcomer", &ticket);
    newcomer.wait_sees(mesh[0].id());
    newcomer.wait_sees(mesh[1].id());
    newcomer
        .run(&["stream", "verify", "orders"])
        .fails_saying(1, &["two histories", "seen by 12D3"]);
    let file = newcomer.file("orders.fork");
    let path = file.to_str().unwrap().to_owned();
    newcomer.run(&["stream", "evidence", "orders", "-o", &path]).ok();
    // A stranger needs the file, and nothing else.
    let stranger = tempfile::tempdir().unwrap();
    let check = |args: &[&str]| {
        let all: Vec<&str> = ["verify-proof", &path].iter().chain(args).copied().collect();
        weft(stranger.path(), stranger.path(), &all)
    };
    let told = check(&["--json"]).json();
    assert_eq!((&told["forked"], &told["owner"]), (&true.into(), &mesh[0].id().into()));
    assert_eq!(
        (&told["earlier"]["size"], &told["later"]["size"]),
        (&7.into(), &12.into())
    );
    let words = check(&[]).ok();
    assert!(
        words.contains("has signed two histories of the stream orders"),
        "{words}"
    );
    check(&["--owner", mesh[1].id()]).fails(4);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\n7\n", "\n8\n", 1)).unwrap();
    check(&[]).fails(4);
}

#[test]
fn a_proof_of_a_stream_with_copies_is_cosigned_by_who_keeps_them() {
    let mut mesh = Mesh::of(3);
    mesh[0].run(&["stream", "create", "orders", "--replicas", "3"]).ok();
    for n in 0..300 {
        mesh[n % 3]
            .run(&["stream", "append", "orders", "--type", "k", &n.to_string()])
            .ok();
    }
    let info = mesh[0].run(&["stream", "info", "orders", "--json"]).json();
    let leader = info["owner"].as_str().unwrap().to_owned();
    let cosigned = |node: &Node| {
        let file = node.file("order.proof");
        let path = file.to_str().unwrap();
        node.run(&["stream", "prove", "orders", "17", "-o", path]).ok();
        let proved = node.run(&["verify-proof", path, "--json"]).json();
        assert_eq!(
            (&proved["position"], &proved["owner"]),
            (&17.into(), &leader.as_str().into())
        );
        let by = proved["cosigned"].as_array().unwrap().iter();
        let mut by: Vec<String> = by.map(|one| one["peer"].as_str().unwrap().to_owned()).collect();
        by.sort();
        by
    };
    let mut others: Vec<String> = mesh
        .0
        .iter()
        .map(|node| node.id().to_owned())
        .filter(|id| *id != leader)
        .collect();
    others.sort();
    for node in &mesh.0 {
        assert_eq!(cosigned(node), others);
    }
    // Who is away says nothing, and nobody waits long for it.
    let away = mesh.0.iter().position(|node| node.id() == others[0]).unwrap();
    mesh[away].kill();
    assert_eq!(cosigned(&mesh[(away + 1) % 3]), others[1..]);
}
