//! Services through the command line: versions, cancel, keys, statistics, schemas, drain.

use std::path::Path;

use rustix::process::Signal;
use weft_tests::{Mesh, Node, until};

fn wait_knows(node: &Node, count: usize) {
    until("it knows the services", || {
        (node.get("/v1/services").as_array()?.len() == count).then_some(())
    });
}

/// A command that writes its number to a file, then waits for its end.
fn sleeper(file: &Path) -> String {
    format!("echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000", file.display())
}

fn wait_pid(file: &Path) -> String {
    until("the command runs", || std::fs::read_to_string(file).ok())
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn who_leaves_takes_the_call_back_and_its_process_ends() {
    let mesh = Mesh::of(2);
    let (alpha, beta) = (&mesh[0], &mesh[1]);
    let file = alpha.home().join("pid");
    let _slow = alpha.serve("slow", &["--exec", &sleeper(&file), "--timeout", "1h"]);
    wait_knows(beta, 1);
    // Ctrl-C of the first call to a node, and of a later one; each takes its own way there.
    for _ in 0..2 {
        let mut call = beta.background(&["call", "slow", "x", "--timeout", "1h"]);
        let pid = wait_pid(&file);
        assert!(is_alive(&pid));
        call.signal(Signal::INT);
        call.wait_ended();
        until("the process is gone", || (!is_alive(&pid)).then_some(()));
        std::fs::remove_file(&file).unwrap();
    }
    // At the caller's deadline as well, which travels.
    beta.run(&["call", "slow", "x", "--timeout", "300ms"]).fails(5);
    let pid = wait_pid(&file);
    until("the process is gone", || (!is_alive(&pid)).then_some(()));
    let stats = beta.run(&["service", "stats", "slow", "--json"]).json();
    let endpoint = &stats["stats"]["endpoints"][0];
    assert_eq!(endpoint["requests"], 3, "{stats}");
    assert_eq!(endpoint["in_flight"], 0, "{stats}");
}

#[test]
fn versions_choose_and_a_key_is_served_once() {
    let mesh = Mesh::of(2);
    let (alpha, beta) = (&mesh[0], &mesh[1]);
    let count = alpha.home().join("count");
    let counting = format!("echo x >>{}; printf one", count.display());
    let _one = alpha.serve("stock", &["--exec", &counting, "--service-version", "1.4.2"]);
    let _two = beta.serve("stock", &["--exec", "printf two", "--service-version", "2.0.0"]);
    for node in [alpha, beta] {
        wait_knows(node, 2);
        for (target, answer) in [("stock@^1.2", "one"), ("stock@2", "two"), ("stock@>=1.5", "two")] {
            assert_eq!(node.run(&["call", target, "x"]).ok(), answer, "{target}");
        }
        node.run(&["call", "stock@^3", "x"]).fails_saying(3, &["stock@^3"]);
    }
    node_refuses_a_bad_version(beta);
    let before = std::fs::read_to_string(&count).unwrap();
    for _ in 0..3 {
        let call = ["call", "stock@1", "x", "--key", "order-1"];
        assert_eq!(beta.run(&call).ok(), "one");
    }
    let after = std::fs::read_to_string(&count).unwrap();
    assert_eq!(after.len(), before.len() + 2, "served once");
    beta.run(&["call", "stock@1", "y", "--key", "order-1"])
        .fails_saying(1, &["another body"]);
}

fn node_refuses_a_bad_version(node: &Node) {
    node.run(&["call", "stock@one", "x"]).fails(2);
    let refused = node.send(
        &node
            .request("POST", "/v1/services/stock")
            .header("weft-version", "one")
            .body(b"x"),
    );
    assert_eq!(refused.status, 400);
}

#[test]
fn statistics_schemas_and_pings_are_told_across_the_mesh() {
    let mesh = Mesh::of(2);
    let (alpha, beta) = (&mesh[0], &mesh[1]);
    let schema = alpha.home().join("create.json");
    std::fs::write(&schema, r#"{"type":"object","required":["id"]}"#).unwrap();
    let with_schema = format!("create={}", schema.display());
    let command = "read x; case $x in bad) echo no apples >&2; exit 3;; esac; printf done";
    let endpoints = [
        "--endpoint",
        "create",
        "--endpoint",
        "admin.reset",
        "--schema",
        &with_schema,
        "--idempotent",
    ];
    let _orders = alpha.serve("orders", &[&["--exec", command][..], &endpoints[..]].concat());
    until("beta knows the schema's hash", || {
        let services = beta.get("/v1/services");
        services[0]["endpoints"][0]["schema_sha256"].is_string().then_some(())
    });
    assert_eq!(beta.run(&["call", "orders/admin.reset", "x"]).ok(), "done");
    assert_eq!(beta.run(&["call", "orders/create", "x"]).ok(), "done");
    beta.run(&["call", "orders/create", "bad"])
        .fails_saying(1, &["no apples"]);
    beta.run(&["call", "orders", "x"]).fails(3);
    let info = beta.run(&["service", "info", "orders", "--json"]).json();
    assert_eq!(info["endpoints"][1]["group"], "admin", "{info}");
    assert_eq!(info["endpoints"][1]["idempotent"], true, "{info}");
    let stats = beta.run(&["service", "stats", "orders", "--json"]).json();
    let create = stats["stats"]["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["name"] == "create")
        .unwrap();
    assert_eq!(
        (&create["requests"], &create["errors"]),
        (&2.into(), &1.into()),
        "{stats}"
    );
    assert!(create["last_error"].as_str().unwrap().contains("no apples"), "{stats}");
    assert!(create["p99_us"].as_u64() >= create["p50_us"].as_u64(), "{stats}");
    let described = beta.run(&["service", "describe", "orders/create"]).json();
    assert_eq!(described["required"][0], "id");
    beta.run(&["service", "describe", "orders/admin.reset"]).fails(3);
    let pong = beta.run(&["service", "ping", "orders", "--json"]).json();
    assert!(
        pong["rtt_ms"].as_f64().unwrap() > 0.0 && pong["error"].is_null(),
        "{pong}"
    );
    beta.run(&["service", "stats", "nobody"]).fails_saying(3, &["nobody"]);
}

#[test]
fn a_drained_service_finishes_what_it_has_and_ends() {
    let mesh = Mesh::of(2);
    let (alpha, beta) = (&mesh[0], &mesh[1]);
    for by_signal in [true, false] {
        let (go, started) = (alpha.home().join("go"), alpha.home().join("started"));
        let command = format!(
            "touch {}; while [ ! -e {} ]; do sleep 0.01; done; printf done",
            started.display(),
            go.display()
        );
        let mut last = alpha.serve("last", &["--exec", &command]);
        wait_knows(beta, 1);
        let call = beta.background(&["call", "last", "x", "--timeout", "1m"]);
        until("the call runs", || started.exists().then_some(()));
        if by_signal {
            last.signal(Signal::TERM);
        } else {
            let drained = alpha.run(&["service", "drain", "last", "--json"]).json();
            assert_eq!(drained["instances"].as_array().unwrap().len(), 1);
        }
        // Who has not heard of it yet is refused, who has knows of nobody: the same to a caller.
        until("nobody takes new calls", || {
            let refused = beta.run(&["call", "last", "y", "--timeout", "1s"]);
            (refused.code == Some(3)).then_some(())
        });
        std::fs::write(&go, "").unwrap();
        assert_eq!(call.wait_lines(1), ["done"]);
        assert_eq!(last.wait_ended(), Some(0), "{}", last.stderr());
        wait_knows(beta, 0);
        for file in [&go, &started] {
            std::fs::remove_file(file).unwrap();
        }
    }
    alpha.run(&["service", "drain", "last"]).fails(3);
}

#[test]
fn a_receipt_holds_without_the_mesh_and_only_for_its_call() {
    let mesh = Mesh::of(2);
    let (alpha, beta) = (&mesh[0], &mesh[1]);
    let _pay = alpha.serve("pay", &["--exec", "printf paid"]);
    wait_knows(beta, 1);
    let home = beta.home();
    let file = |name: &str| home.join(name).display().to_string();
    for (name, text) in [("order", "10 apples"), ("other", "11 apples"), ("answer", "paid")] {
        std::fs::write(home.join(name), text).unwrap();
    }
    let (order, other, answer, receipt) = (file("order"), file("other"), file("answer"), file("receipt"));
    let paid = beta.run(&["call", "pay", "--file", &order, "--receipt", &receipt]);
    assert_eq!(paid.ok(), "paid");
    let nowhere = home.join("nowhere");
    let verify = |args: &[&str]| {
        let args = [&["receipt", "verify", &receipt], args].concat();
        weft_tests::command::weft(home, &nowhere, &args)
    };
    let told = verify(&["--request", &order, "--answer", &answer, "--json"]).json();
    assert_eq!(told["signer"], alpha.id());
    assert_eq!(told["caller"], beta.id());
    assert_eq!(told["signer_was_member"], true);
    let mesh_id = told["mesh_id"].as_str().unwrap();
    verify(&["--mesh", mesh_id]).ok();
    verify(&["--request", &other]).fails_saying(4, &["another request"]);
    verify(&["--answer", &order]).fails_saying(4, &["another answer"]);
    let text = std::fs::read_to_string(&receipt).unwrap();
    let bent = text.replacen(&text[200..203], "AAA", 1);
    std::fs::write(
        &receipt,
        if bent == text {
            text.replacen(&text[200..203], "BBB", 1)
        } else {
            bent
        },
    )
    .unwrap();
    verify(&[]).fails(4);
    std::fs::write(&receipt, "no receipt").unwrap();
    verify(&[]).fails(2);
}

#[test]
fn the_bench_needs_no_node_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut command = weft_tests::command::command(home.path());
    let args = [
        "bench",
        "call",
        "--for",
        "200ms",
        "--size",
        "64,1KiB",
        "--in-flight",
        "2",
        "--json",
    ];
    command.env("TMPDIR", home.path()).args(args);
    let figures = weft_tests::command::run(command, b"").json_lines();
    assert_eq!(figures.len(), 2, "{figures:?}");
    for figure in &figures {
        assert!(figure["calls_per_s"].as_f64().unwrap() > 0.0, "{figure}");
        assert!(figure["p50_us"].as_u64() <= figure["p99_us"].as_u64(), "{figure}");
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    let mut command = weft_tests::command::command(home.path());
    command.args(["bench", "call", "--size", "2MiB"]);
    weft_tests::command::run(command, b"").fails_saying(2, &["1048576"]);
}
