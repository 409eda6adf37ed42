//! Schemas of streams: what is refused, what old data become, and who may say so.

use std::fs;

use serde_json::{Value, json};
use weft_tests::{Mesh, Node, until};

fn file(node: &Node, name: &str, json: &Value) -> String {
    let path = node.file(name);
    fs::write(&path, json.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn data(events: &[Value]) -> Vec<&Value> {
    events.iter().map(|event| &event["data"]).collect()
}

#[test]
fn old_data_read_like_new_ones_and_wrong_ones_are_refused() {
    let mesh = Mesh::of(2);
    let (alpha, beta) = (&mesh[0], &mesh[1]);
    alpha.run(&["stream", "create", "bills"]).ok();
    until("the stream is known", || {
        beta.run(&["stream", "info", "bills"]).code.filter(|code| *code == 0)
    });
    let append = |node: &Node, schema: &[&str], data: &str| {
        let mut all = vec!["stream", "append", "bills", "--type", "bill", data];
        all.extend(schema);
        node.run(&all)
    };
    append(beta, &[], r#"{"total":3}"#).ok();
    let needs = |what: &str| json!({"required": [what], "properties": {what: {"type": "integer"}}});
    let (first, second) = (
        file(alpha, "v1.json", &needs("total")),
        file(alpha, "v2.json", &needs("cents")),
    );
    let nothing = file(alpha, "nothing.json", &json!([]));
    let rename = file(
        alpha,
        "rename.json",
        &json!([{"op": "move", "from": "/total", "path": "/cents"}]),
    );
    let add = |args: &[&str]| alpha.run(&[&["schema", "add", "bills"], args].concat());
    let mark = ["--type", "bill", "--from", "none", "--patch", &nothing];
    add(&[&["bill/v1", &first], &mark[..]].concat()).ok();
    add(&[&["bill/v1", &first], &mark[..]].concat()).ok();
    add(&["bill/v1", &second]).fails_saying(1, &["says something else"]);
    add(&["bill/v2", &second, "--from", "bill/v1"]).fails(2);
    add(&["bill/v2", alpha.file("missing").to_str().unwrap()]).fails(3);
    let broken = file(alpha, "broken.json", &json!({"type": "bill"}));
    add(&["bill/v2", &broken]).fails_saying(2, &["no JSON Schema"]);
    beta.run(&["schema", "add", "bills", "bill/v2", &second])
        .fails_saying(1, &["changed there"]);
    // Whoever appends, and however.
    for node in [alpha, beta] {
        append(node, &["--schema", "bill/v1"], r#"{"total":"four"}"#)
            .fails_saying(2, &["/total", "bill/v1", "weft schema ls"]);
        append(node, &["--schema", "bill/v7"], "{}").fails_saying(2, &["does not have"]);
        append(node, &[], r#"{"total":4}"#).fails_saying(2, &["must name its schema"]);
    }
    append(beta, &["--schema", "bill/v1"], r#"{"total":4}"#).ok();
    add(&[
        "bill/v2", &second, "--type", "bill", "--from", "bill/v1", "--patch", &rename,
    ])
    .ok();
    append(beta, &["--schema", "bill/v2"], r#"{"cents":5}"#).ok();
    // Data of one that no patch fits stay as they are: this one has no type that a schema is for.
    beta.run(&["stream", "append", "bills", "--type", "note", "paid twice"])
        .ok();
    let listed = beta.run(&["schema", "ls", "bills", "--json"]).json_lines();
    let ids: Vec<&Value> = listed.iter().map(|schema| &schema["id"]).collect();
    assert_eq!(ids, ["bill/v1", "bill/v2"]);
    let shown: Value = serde_json::from_str(&beta.run(&["schema", "show", "bills", "bill/v2"]).ok()).unwrap();
    assert_eq!(shown, needs("cents"));
    for node in [alpha, beta] {
        let read = |args: &[&str]| {
            node.run(&[&["stream", "read", "bills", "--json"], args].concat())
                .json_lines()
        };
        let recorded = read(&[]);
        let as_recorded = [
            json!({"total": 3}),
            json!({"total": 4}),
            json!({"cents": 5}),
            json!("paid twice"),
        ];
        assert_eq!(data(&recorded), as_recorded.iter().collect::<Vec<_>>());
        let upcast = read(&["--upcast"]);
        let newest = [
            json!({"cents": 3}),
            json!({"cents": 4}),
            json!({"cents": 5}),
            json!("paid twice"),
        ];
        assert_eq!(data(&upcast), newest.iter().collect::<Vec<_>>());
        assert_eq!(upcast[0]["dataschema"], "bill/v2");
        assert!(upcast[0].get("recordedschema").is_none());
        assert_eq!(upcast[1]["recordedschema"], "bill/v1");
    }
    // What is worked off and what is summed up has the newest form; what is proved is what was recorded.
    beta.run(&["consumer", "add", "bills", "clerk", "--upcast"]).ok();
    let handed = beta
        .run(&["consumer", "next", "bills", "clerk", "-n", "2", "--ack", "--json"])
        .json_lines();
    assert!(
        handed.iter().any(|one| one.to_string().contains(r#""cents":4"#)),
        "{handed:?}"
    );
    let sum = "SELECT sum(data.cents) AS cents FROM bills WHERE type = 'bill'";
    beta.run(&["projection", "add", "totals", "--sql", sum]).ok();
    let shown = beta
        .run(&["projection", "show", "totals", "--wait-for", "4", "--json"])
        .json_lines();
    assert_eq!(shown[0]["cents"], 12, "{shown:?}");
    let proof = beta.file("bill.proof");
    let proof = proof.to_str().unwrap();
    beta.run(&["stream", "prove", "bills", "2", "-o", proof]).ok();
    let proved = beta.run(&["verify-proof", proof, "--json"]).ok();
    assert!(proved.contains(r#""total":4"#), "{proved}");
    alpha
        .run(&["schema", "rm", "bills", "bill/v1"])
        .fails_saying(1, &["bill/v2"]);
    alpha.run(&["schema", "rm", "bills", "bill/v2"]).ok();
    alpha.run(&["schema", "rm", "bills", "bill/v2"]).fails(3);
    append(beta, &["--schema", "bill/v2"], r#"{"cents":5}"#).fails(2);
}

#[test]
fn schemas_outlive_kills_and_leaders() {
    let mut mesh = Mesh::of(3);
    mesh[0].run(&["stream", "create", "bills", "--replicas", "3"]).ok();
    let schema = file(&mesh[0], "v1.json", &json!({"required": ["total"]}));
    mesh[0]
        .run(&["schema", "add", "bills", "bill/v1", &schema, "--type", "bill"])
        .ok();
    for killed in 0..3 {
        mesh[killed].kill();
        let asked = &mesh[(killed + 1) % 3];
        let append = |id: &str, data: &str| {
            asked.run(&[
                "stream", "append", "bills", "--type", "bill", "--schema", "bill/v1", "--id", id, data,
            ])
        };
        until("another leads", || {
            append(&format!("good-{killed}"), r#"{"total":1}"#)
                .code
                .filter(|code| *code == 0)
        });
        append("wrong", "{}").fails_saying(2, &["total"]);
        mesh[killed].start();
    }
    let read = mesh[1].run(&["stream", "read", "bills", "--json"]).json_lines();
    assert_eq!(read.len(), 3, "{read:?}");
}

#[test]
fn an_export_has_the_schemas_that_its_owner_signed() {
    let mesh = Mesh::of(2);
    let (alpha, beta) = (&mesh[0], &mesh[1]);
    for stream in ["bills", "other"] {
        alpha.run(&["stream", "create", stream]).ok();
        alpha.run(&["stream", "append", stream, "--type", "bill", "{}"]).ok();
    }
    let schema = |needs: &str| file(alpha, needs, &json!({"required": [needs]}));
    alpha
        .run(&["schema", "add", "bills", "bill/v1", &schema("total"), "--type", "bill"])
        .ok();
    alpha
        .run(&["schema", "add", "other", "bill/v1", &schema("cents"), "--type", "bill"])
        .ok();
    let export = |stream: &str| {
        let path = alpha.file(stream);
        alpha
            .run(&["stream", "export", stream, "-o", path.to_str().unwrap()])
            .ok();
        fs::read_to_string(path).unwrap()
    };
    let (bills, other) = (export("bills"), export("other"));
    let import = |name: &str, text: &str| beta.run_with_input(&["stream", "import", name, "-"], text.as_bytes());
    import("copy", &bills).ok();
    assert_eq!(
        beta.run(&["schema", "ls", "copy", "--json"]).json_lines()[0]["id"],
        "bill/v1"
    );
    beta.run(&[
        "stream", "append", "copy", "--type", "bill", "--schema", "bill/v1", "{}",
    ])
    .fails_saying(2, &["total"]);
    // Those of another export, and those that somebody has changed, are not taken; nothing is left of it.
    let tail = |text: &str| -> Value { serde_json::from_str(text.lines().last().unwrap()).unwrap() };
    let with = |schemas: Value| {
        let mut last = tail(&bills);
        last["schemas"] = schemas;
        let mut lines: Vec<String> = bills.lines().map(str::to_owned).collect();
        *lines.last_mut().unwrap() = last.to_string();
        lines.join("\n") + "\n"
    };
    let own = tail(&bills)["schemas"].as_str().unwrap().to_owned();
    let changed = format!("{}{}", if own.starts_with('g') { 'h' } else { 'g' }, &own[1..]);
    for wrong in [tail(&other)["schemas"].clone(), changed.into(), "?".into()] {
        import("wrong", &with(wrong)).fails_saying(1, &["schemas"]);
        beta.run(&["stream", "info", "wrong"]).fails(3);
    }
}

#[test]
fn applications_say_them_over_http() {
    let node = Node::founder("alpha");
    node.run(&["stream", "create", "bills"]).ok();
    let schema = json!({
        "id": "https://example.org/bill?v=1", "types": ["bill"], "schema": {"required": ["cents"]},
        "upcast": {"patch": [{"op": "move", "from": "/total", "path": "/cents"}]},
    });
    let answer = node.send(&node.request("POST", "/v1/streams/bills/schemas").json(&schema));
    assert_eq!(answer.status, 201, "{}", answer.text());
    let added = answer.json();
    assert_eq!(added["id"], schema["id"]);
    assert!(added["added"].as_str().unwrap().ends_with('Z'));
    let one = node.get("/v1/streams/bills/schemas/https%3A%2F%2Fexample.org%2Fbill%3Fv%3D1");
    assert_eq!(one, added);
    assert_eq!(node.get("/v1/streams/bills/schemas"), json!([added]));
}
