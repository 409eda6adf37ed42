//! Data too large for a message: published, fetched, kept and refused, by several nodes and through their deaths.

use std::{fs, path::PathBuf};

use serde_json::Value;
use weft_tests::{Mesh, Node, until};

const MIB: usize = 1 << 20;

/// A file with content that does not repeat.
fn file(node: &Node, name: &str, bytes: usize) -> (PathBuf, Vec<u8>) {
    let mut state = 88_172_645_463_325_252_u64;
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(bytes);
    let path = node.home().join(name);
    fs::write(&path, &content).unwrap();
    (path, content)
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn data_of_any_size_arrive_and_outlive_their_publisher() {
    let mut mesh = Mesh::of(3);
    let (film, content) = file(&mesh[0], "film", 20 * MIB + 5);
    let films = mesh[1].home().join("films");
    let saving = mesh[1].subscribe(&["cameras.*", "--save", text(&films)]);
    let telling = mesh[2].subscribe(&["cameras.*", "--json"]);
    let published = mesh[0]
        .run(&["pub", "cameras.7", "--file", text(&film), "--json"])
        .json();
    let dataref = published["dataref"].as_str().unwrap().to_owned();
    let saved = PathBuf::from(&saving.wait_lines(1)[0]);
    assert!(saved.starts_with(&films) && fs::read(&saved).unwrap() == content);
    let told: Value = serde_json::from_str(&telling.wait_lines(1)[0]).unwrap();
    assert_eq!((&told["dataref"], told.get("data")), (&dataref.clone().into(), None));

    // From here on, its publisher is not needed: who has fetched it gives it on.
    mesh[0].kill();
    let copy = mesh[2].home().join("copy");
    mesh[2].run(&["blob", "get", &dataref, "-o", text(&copy)]).ok();
    assert!(fs::read(&copy).unwrap() == content);

    // What was fetched is on the disk, also when the power goes.
    mesh[2].kill();
    mesh[2].start();
    let stored = mesh[2].run(&["blob", "ls", "--json"]).json_lines();
    assert_eq!(stored.len(), 1);
    assert_eq!(
        (&stored[0]["whole"], &stored[0]["bytes"]),
        (&true.into(), &content.len().into())
    );
    let hash = stored[0]["hash"].as_str().unwrap().to_owned();
    fs::remove_file(&copy).unwrap();
    mesh[2].run(&["blob", "get", &hash, "-o", text(&copy)]).ok();
    assert!(fs::read(&copy).unwrap() == content);

    // By the API, a part of it.
    let part = mesh[2].send(
        &mesh[2]
            .request("GET", &dataref)
            .header("range", "bytes=1048570-1048585"),
    );
    assert_eq!((part.status, &part.body[..]), (206, &content[1_048_570..=1_048_585]));
    let beyond = mesh[2].request("GET", &dataref).header("range", "bytes=999999999-");
    mesh[2].send(&beyond).problem(416, "invalid");

    mesh[2].run(&["blob", "rm", &hash]).ok();
    mesh[2].run(&["blob", "rm", &hash]).fails(3);
    mesh[2].run(&["blob", "get", &hash]).fails(3);
    assert!(mesh[2].run(&["blob", "ls", "--json"]).json_lines().is_empty());
    // The rest of the disk is as it was before.
    let logs = mesh[2].data_dir().join("store/logs");
    let left = fs::read_dir(logs).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[test]
fn what_cannot_be_had_is_an_error_that_says_why() {
    let mesh = Mesh::of(2);
    let (film, _) = file(&mesh[0], "film", 2 * MIB);
    let published = mesh[0]
        .run(&["pub", "cameras.7", "--file", text(&film), "--json"])
        .json();
    let dataref = published["dataref"].as_str().unwrap();
    let (hash, rest) = dataref["/v1/blobs/".len()..].split_once('?').unwrap();
    let get = |reference: &str| mesh[1].run(&["blob", "get", reference, "-o", "/dev/null"]);
    get("film").fails_saying(2, &["neither the dataref of a message"]);
    get(hash).fails_saying(3, &["does not have the blob"]);
    // Another hash, another subject, another length.
    let other = format!("/v1/blobs/{}?{rest}", hash.chars().rev().collect::<String>());
    get(&other).fails_saying(5, &["does not have it"]);
    get(&dataref.replace("cameras.7", "cameras.8")).fails_saying(5, &["does not have it"]);
    get(&dataref.replace("bytes=2097152", "bytes=2097153")).fails_saying(5, &["2097152 bytes"]);
    // Its publisher has let go of it, and nobody else ever had it.
    mesh[0].run(&["blob", "rm", hash]).ok();
    mesh[0]
        .run(&["blob", "get", dataref, "-o", "/dev/null"])
        .fails_saying(5, &["nobody is known"]);
    get(dataref).fails_saying(5, &["does not have it"]);
    // Nothing of it is left.
    assert!(mesh[1].run(&["blob", "ls", "--json"]).json_lines().is_empty());
    let output = mesh[1].home().join("film");
    mesh[1].run(&["blob", "get", &other, "-o", text(&output)]).fails(5);
    assert!(!output.exists() && !output.with_extension("part").exists());
}

#[test]
fn who_may_not_subscribe_may_not_fetch() {
    let alpha = Node::founder("alpha");
    let join = |name: &str| {
        let ticket = alpha.run(&["invite", "--role", name]).ok();
        Node::joined(name, ticket.trim())
    };
    let (shop, web) = (join("shop"), join("web"));
    shop.wait_sees(web.id());
    let (film, content) = file(&shop, "film", 2 * MIB);
    let published = shop
        .run(&["pub", "plans.secret", "--file", text(&film), "--json"])
        .json();
    let dataref = published["dataref"].as_str().unwrap();
    let copy = web.home().join("copy");
    web.run(&["blob", "get", dataref, "-o", text(&copy)]).fails(4);
    alpha.run(&["cap", "grant", "web", "sub", "plans.>"]).ok();
    until("the grant has come", || {
        let fetched = web.run(&["blob", "get", dataref, "-o", text(&copy)]);
        (fetched.code == Some(0)).then_some(())
    });
    assert!(fs::read(&copy).unwrap() == content);
}
