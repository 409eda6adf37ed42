//! Projections from the command line and over HTTP: each event once, whatever is killed.

use serde_json::{Value, json};
use weft_tests::{Mesh, Node, http::Request, until};

const TOTALS: &str = "SELECT data.customer AS customer, count(*) AS orders, sum(data.amount) AS total FROM orders \
                      WHERE type = 'order.created' GROUP BY data.customer";
/// How often the node with the projection is killed.
const KILLS: u64 = 6;

fn append(node: &Node, lines: &str) -> u64 {
    let file = node.file("lines");
    std::fs::write(&file, lines).unwrap();
    let file = file.to_str().unwrap();
    let args = [
        "stream",
        "append",
        "orders",
        "--type",
        "order.created",
        "--content-type",
        "application/json",
        "--lines",
        "--file",
        file,
    ];
    node.run(&args).ok().trim().parse().unwrap()
}

fn show(node: &Node, more: &[&str]) -> Vec<Value> {
    let all: Vec<&str> = ["projection", "show", "totals", "--json"]
        .iter()
        .chain(more)
        .copied()
        .collect();
    let outcome = node.run(&all);
    outcome.ok();
    outcome.json_lines()
}

#[test]
fn what_a_stream_comes_to() {
    let mesh = Mesh::of(2);
    mesh[0].run(&["stream", "create", "orders"]).ok();
    let node = &mesh[1];
    node.run(&["projection", "add", "totals", "--sql", "SELECT * FROM orders"])
        .fails_saying(2, &["say which ones"]);
    node.run(&["projection", "add", "totals", "--sql", TOTALS]).ok();
    node.run(&["projection", "add", "totals", "--sql", TOTALS]).ok();
    node.run(&["projection", "add", "totals", "--sql", "SELECT count(*) FROM orders"])
        .fails_saying(1, &["rebuild totals"]);
    let version = append(
        &mesh[0],
        "{\"customer\":\"al\",\"amount\":2.5}\n{\"customer\":\"bo\",\"amount\":10}\n{\"customer\":\"bo\",\"amount\":\"?\"}\n",
    );
    assert_eq!(version, 3);
    let wait = ["--wait-for", "3"];
    let rows = json!([{ "customer": "al", "orders": 1, "total": 2.5 }, { "customer": "bo", "orders": 2, "total": 10 }]);
    assert_eq!(json!(show(node, &wait)), rows);
    assert_eq!(json!(show(node, &["--key", "bo"])), json!([rows[1]]));
    assert_eq!(json!(show(node, &["--at", "1"])), json!([rows[0]]));
    let table = node.run(&["projection", "show", "totals"]).ok();
    assert!(table.contains("customer") && table.contains("2.5"), "{table}");
    node.run(&["projection", "show", "totals", "--wait-for", "4", "--timeout", "100ms"])
        .fails_saying(5, &["has come to 3"]);
    node.run(&["projection", "show", "totals", "--at", "9"])
        .fails_saying(3, &["ends at 3"]);
    node.run(&["projection", "show", "totals", "--at", "noon"])
        .fails_saying(2, &["neither a position nor a time"]);
    let taken = node.run(&["snapshot", "take", "totals", "--json"]).json();
    assert_eq!((&taken["position"], &taken["groups"]), (&json!(3), &json!(2)));
    append(&mesh[0], "{\"customer\":\"cy\",\"amount\":1}\n");
    show(node, &["--wait-for", "4"]);
    let changes = node.run(&["projection", "diff", "totals", "3", "--json"]).json_lines();
    assert_eq!(
        changes,
        [json!({ "before": null, "after": { "customer": "cy", "orders": 1, "total": 1 } })]
    );
    let words = node.run(&["projection", "diff", "totals", "0", "1"]).ok();
    assert!(words.contains("+ {\"customer\":\"al\""), "{words}");
    let info = node.run(&["projection", "info", "totals", "--json"]).json();
    assert_eq!(
        (&info["state"], &info["behind"], &info["misfits"]),
        (&json!("live"), &json!(0), &json!(1))
    );
    let words = node.run(&["projection", "info", "totals"]).ok();
    assert!(
        words.contains("which is all there is") && words.contains("1 values were of no use"),
        "{words}"
    );
    let listed = node.run(&["snapshot", "ls", "totals", "--json"]).json_lines();
    assert_eq!((listed.len(), &listed[0]["asked_for"]), (1, &json!(true)));
    node.run(&["snapshot", "rm", "totals", "3"]).ok();
    node.run(&["snapshot", "rm", "totals", "3"])
        .fails_saying(3, &["snapshot ls"]);
    let counted = [
        "projection",
        "rebuild",
        "totals",
        "--wait",
        "--sql",
        "SELECT count(*) AS n FROM orders",
    ];
    node.run(&counted).ok();
    assert_eq!(show(node, &[]), [json!({ "n": 4 })]);
    let listed = node.run(&["projection", "ls", "--json"]).json_lines();
    assert_eq!((listed.len(), &listed[0]["name"]), (1, &json!("totals")));
    node.run(&["projection", "rm", "totals"]).ok();
    node.run(&["projection", "show", "totals"])
        .fails_saying(3, &["projection add totals"]);
}

#[test]
fn over_http() {
    let mesh = Mesh::of(1);
    let (token, api) = (mesh[0].token(), mesh[0].api());
    let call = |method: &str, path: &str, body: Option<&Value>| {
        let request = Request::new(method, path).token(token);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        request.send(api).unwrap()
    };
    mesh[0].run(&["stream", "create", "orders"]).ok();
    append(
        &mesh[0],
        "{\"customer\":\"al\",\"amount\":1}\n{\"customer\":\"bo\",\"amount\":2}\n",
    );
    assert_eq!(
        call("PUT", "/v1/projections/totals", Some(&json!({ "sql": TOTALS }))).status,
        201
    );
    assert_eq!(
        call("PUT", "/v1/projections/totals", Some(&json!({ "sql": TOTALS }))).status,
        200
    );
    call(
        "PUT",
        "/v1/projections/totals",
        Some(&json!({ "sql": "SELECT count(*) FROM orders" })),
    )
    .problem(409, "conflict");
    call("PUT", "/v1/projections/other", Some(&json!({ "sql": "SELECT" }))).problem(400, "invalid");
    call("PUT", "/v1/projections/a%20b", Some(&json!({ "sql": TOTALS }))).problem(400, "invalid");
    let page = call("GET", "/v1/projections/totals/rows?wait_for=2&limit=1", None).json();
    assert_eq!(page["rows"], json!([{ "customer": "al", "orders": 1, "total": 1 }]));
    let next = format!(
        "/v1/projections/totals/rows?limit=1&after={}",
        page["next"].as_str().unwrap()
    );
    let page = call("GET", &next, None).json();
    assert_eq!(page["rows"], json!([{ "customer": "bo", "orders": 1, "total": 2 }]));
    let keyed = call("GET", "/v1/projections/totals/rows?keys=%5B%22bo%22%5D", None).json();
    assert_eq!(keyed["rows"], page["rows"]);
    call("GET", "/v1/projections/totals/rows?keys=bo", None).problem(400, "invalid");
    call("GET", "/v1/projections/totals/rows?after=%21", None).problem(400, "invalid");
    call("GET", "/v1/projections/totals/rows?wait_for=9&wait_ms=1", None).problem(504, "timeout");
    let difference = call("GET", "/v1/projections/totals/difference?from=1", None).json();
    assert_eq!(
        (&difference["to"], difference["changes"].as_array().unwrap().len()),
        (&json!(2), 1)
    );
    assert_eq!(call("POST", "/v1/projections/totals/snapshots", None).status, 201);
    assert_eq!(call("DELETE", "/v1/projections/totals/snapshots/2", None).status, 204);
    assert_eq!(
        call("POST", "/v1/projections/totals/rebuild", Some(&json!({}))).status,
        202
    );
    assert_eq!(call("DELETE", "/v1/projections/totals", None).status, 204);
    call("GET", "/v1/projections/totals", None).problem(404, "not_found");
}

#[test]
fn each_event_counts_once_whatever_is_killed() {
    let mut mesh = Mesh::of(2);
    mesh[0].run(&["stream", "create", "orders"]).ok();
    mesh[1].run(&["projection", "add", "totals", "--sql", TOTALS]).ok();
    let (mut version, mut sums) = (0, [0_u64; 3]);
    for round in 0..KILLS {
        let mut lines = String::new();
        for number in 0..200 {
            let (customer, amount) = ((number * 7 + round) % 3, number + round);
            sums[customer as usize] += amount;
            lines.push_str(&json!({ "customer": customer, "amount": amount }).to_string());
            lines.push('\n');
        }
        version = append(&mesh[0], &lines);
        // Sometimes the owner of the stream goes as well.
        mesh[1].kill();
        if round % 3 == 2 {
            mesh[0].kill();
            mesh[0].start();
        }
        mesh[1].start();
    }
    assert_eq!(version, KILLS * 200);
    let wait = ["--wait-for", &version.to_string(), "--timeout", "60s"];
    let rows = until("it has everything", || {
        let all: Vec<&str> = ["projection", "show", "totals", "--json"]
            .iter()
            .chain(&wait)
            .copied()
            .collect();
        let outcome = mesh[1].run(&all);
        (outcome.code == Some(0)).then(|| outcome.json_lines())
    });
    let totals: Vec<u64> = rows.iter().map(|row| row["total"].as_u64().unwrap()).collect();
    assert_eq!(totals, sums);
    let counted: u64 = rows.iter().map(|row| row["orders"].as_u64().unwrap()).sum();
    assert_eq!(counted, version);
    let info = mesh[1].run(&["projection", "info", "totals", "--json"]).json();
    assert_eq!((&info["taken"], &info["missed"]), (&json!(version), &json!(0)));
}
