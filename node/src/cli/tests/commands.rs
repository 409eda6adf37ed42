//! What each command asks the node and what it makes of the answer.

use serde_json::{Value, json as value};

use super::{code, run, run_on};
use crate::cli::testing::{FakeNode, json, problem, reply, session_on};

#[tokio::test]
async fn without_a_node_the_user_learns_how_to_start_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let (session, _) = session_on(dir.path().join("nothing"), false);
    let error = run(&session, &["peers"]).await.expect_err("no node");
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("no node is running on"), "{error}");
    assert!(error.hint().expect("a hint").contains("weft run --data-dir"));
}

#[tokio::test]
async fn a_list_is_columns_or_one_object_a_line() {
    let peers = value!([
        { "peer_id": "12D3KooWAbc", "name": "beta\u{1b}[31m", "addresses": ["/ip4/10.0.0.2/tcp/7400"], "rtt_ms": 1.5,
          "relayed": false, "roles": ["member", "gateway"], "agent": "weft/0.1.0", "version": "0.1.0", "extra": 1 },
        { "peer_id": "12D3KooWXyz", "name": "", "addresses": [], "rtt_ms": null, "relayed": true },
    ]);
    let node = FakeNode::start(move |_| json(&peers));
    let (outcome, captured) = run_on(&node, &["peers"]).await;
    outcome.expect("a list");
    let lines: Vec<Vec<String>> = captured
        .stdout()
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect();
    assert_eq!(lines[0][..3], ["NAME", "PEER", "RTT"]);
    assert_eq!(lines[1][..4], ["beta\\u{1b}[31m", "12D3KooWAbc", "1.5", "-"]);
    assert_eq!(lines[2], ["-", "12D3KooWXyz", "-", "relay", "-", "-", "-", "-"]);

    let (outcome, captured) = run_on(&node, &["peers", "--json"]).await;
    outcome.expect("a list");
    let objects: Vec<Value> = captured
        .stdout()
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert_eq!(objects.len(), 2);
    assert_eq!(objects[0]["extra"], 1, "a newer node's fields are kept");
}

#[tokio::test]
async fn a_call_writes_the_answer_and_nothing_else() {
    let node = FakeNode::start(|seen| {
        let mut response = reply(200, [b"got ".as_slice(), &seen.body, &[0, 0xff]].concat());
        response
            .headers_mut()
            .insert("weft-node", "12D3KooWB".parse().expect("a value"));
        response
            .headers_mut()
            .insert("weft-rtt-ms", "0.7".parse().expect("a value"));
        response
    });
    let line = [
        "call",
        "orders/create",
        "hi",
        "--node",
        "beta",
        "--timeout",
        "3s",
        "--header",
        "k: v",
    ];
    let (session, _) = node.session(false);
    run(&session, &line).await.expect("an answer");
    let seen = node.last();
    assert_eq!(
        (seen.method.as_str(), seen.path.as_str()),
        ("POST", "/v1/services/orders/endpoints/create")
    );
    let header = |name| seen.header(name);
    assert_eq!(header("weft-timeout-ms"), Some("3000"));
    assert_eq!(header("weft-node"), Some("beta"));
    assert_eq!(header("weft-header-k"), Some("v"));
    assert_eq!(header("host"), Some("localhost"));
    assert_eq!(&seen.body[..], b"hi");

    let (outcome, captured) = run_on(&node, &["call", "greet", "hi", "--json"]).await;
    outcome.expect("an answer");
    let object: Value = serde_json::from_str(&captured.stdout()).expect("JSON");
    assert_eq!(
        (&object["node"], &object["rtt_ms"]),
        (&value!("12D3KooWB"), &value!(0.7))
    );
    assert_eq!(object["data_base64"], "Z290IGhpAP8=");
}

#[tokio::test]
async fn refusals_become_words_and_exit_codes() {
    for (status, kind, exit) in [
        (404, "not_found", 3),
        (401, "denied", 4),
        (503, "unreachable", 5),
        (504, "timeout", 5),
        (400, "invalid", 2),
        (413, "invalid", 2),
        (429, "busy", 1),
        (502, "internal", 1),
        // From something that is not our node: the status must do.
        (403, "", 4),
        (404, "made up", 3),
    ] {
        let node = FakeNode::start(move |_| problem(status, kind, "service \u{1b}[31mgreet is not there"));
        let (outcome, captured) = run_on(&node, &["call", "greet", "hi"]).await;
        assert_eq!(code(&outcome), exit, "{status} {kind}");
        let error = outcome.expect_err("a refusal").to_string();
        assert!(
            error.contains("greet is not there") && !error.contains('\u{1b}'),
            "{error}"
        );
        assert_eq!(captured.stdout(), "");
    }
    let node = FakeNode::start(|_| reply(418, "no JSON at all"));
    let (outcome, _) = run_on(&node, &["call", "greet", "hi"]).await;
    assert!(outcome.expect_err("a refusal").to_string().contains("418"));
}

#[tokio::test]
async fn a_services_own_failure_shows_its_code() {
    let node = FakeNode::start(|_| {
        reply(
            502,
            value!({ "kind": "internal", "detail": "out of stock", "code": 409 }).to_string(),
        )
    });
    let (outcome, _) = run_on(&node, &["call", "orders", "hi"]).await;
    let error = outcome.expect_err("a failure");
    assert_eq!(
        (error.to_string().as_str(), error.exit_code()),
        ("out of stock (code 409)", 1)
    );
}

#[tokio::test]
async fn publishing_keeps_the_media_type_and_counts() {
    let node = FakeNode::start(|_| json(&value!({ "id": "m1", "seq": 1, "peers": 2 })));
    for (data, media) in [
        (r#"{"id":1}"#, "application/json"),
        ("[1", "text/plain; charset=utf-8"),
        ("42", "text/plain; charset=utf-8"),
    ] {
        let (outcome, captured) = run_on(&node, &["pub", "orders.new", data]).await;
        outcome.expect("published");
        assert_eq!(captured.stdout(), "");
        assert_eq!(captured.stderr(), "published m1 to orders.new (2 peers connected)\n");
        assert_eq!(node.last().header("content-type"), Some(media));
    }
    let before = node.seen.lock().expect("not poisoned").len();
    run_on(&node, &["pub", "orders.new", "x", "--count", "5"])
        .await
        .0
        .expect("published");
    assert_eq!(node.seen.lock().expect("not poisoned").len() - before, 5);

    let file = node.dir.path().join("lines");
    std::fs::write(&file, "one\r\ntwo\n\nlast").expect("a file");
    run_on(
        &node,
        &["pub", "logs", "--lines", "--file", file.to_str().expect("text")],
    )
    .await
    .0
    .expect("published");
    let seen = node.seen.lock().expect("not poisoned");
    let bodies: Vec<_> = seen.iter().rev().take(4).rev().map(|seen| seen.body.clone()).collect();
    assert_eq!(bodies, ["one", "two", "", "last"]);
}

#[tokio::test]
async fn waiting_for_a_node_that_is_not_there_yet() {
    let dir = tempfile::tempdir().expect("a folder");
    let (session, captured) = session_on(dir.path().to_owned(), true);
    // It appears after the first look, and the first two looks at it find it still starting.
    let looks = std::sync::atomic::AtomicU32::new(0);
    let appear = async {
        tokio::task::yield_now().await;
        FakeNode::start_in(dir, move |_| {
            let ready = looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= 2;
            json(&value!({ "ready": ready, "state": if ready { "ready" } else { "starting" } }))
        })
    };
    let (outcome, _node) = tokio::join!(run(&session, &["status", "--wait", "10s"]), appear);
    outcome.expect("ready");
    assert!(captured.stdout().contains("\"ready\":true"));

    let (session, _) = session_on("/nonexistent/weft".into(), true);
    let error = run(&session, &["status", "--wait", "200ms"])
        .await
        .expect_err("never ready");
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("no node is running"), "{error}");
}

#[tokio::test]
async fn the_ticket_is_alone_on_standard_output() {
    let node =
        FakeNode::start(|_| json(&value!({ "ticket": "weft1abc", "uses": 3, "role": "worker", "expires_at": "x" })));
    let line = [
        "invite", "--ttl", "2h", "--uses", "3", "--role", "worker", "--label", "zone=eu",
    ];
    let (outcome, captured) = run_on(&node, &line).await;
    outcome.expect("a ticket");
    assert_eq!(
        (captured.stdout().as_str(), captured.stderr().as_str()),
        ("weft1abc\n", "")
    );
    assert_eq!(
        node.last().json(),
        value!({ "ttl_s": 7200, "uses": 3, "role": "worker", "labels": { "zone": "eu" } })
    );
    run_on(&node, &["invite", "rm", "a/b"]).await.0.expect("taken back");
    assert_eq!(
        (node.last().method.as_str(), node.last().path.as_str()),
        ("DELETE", "/v1/invites/a%2Fb")
    );
}

#[tokio::test]
async fn verdicts_and_diagnoses_are_exit_codes() {
    let node = FakeNode::start(|seen| match seen.path.split('?').next() {
        Some("/v1/doctor") => json(&value!({ "healthy": false, "checks": [
            { "name": "clock", "status": "ok", "summary": "fine" },
            { "name": "disk", "status": "fail", "summary": "full", "detail": "0 bytes free", "advice": "make room" },
        ] })),
        _ => {
            let allowed = seen.path.contains("who=beta");
            json(&value!({ "allowed": allowed, "rule": "grant", "because": ["one", "two"] }))
        }
    });
    let (outcome, captured) = run_on(&node, &["cap", "explain", "beta", "call", "orders.>"]).await;
    assert_eq!(code(&outcome), 0);
    assert_eq!(
        captured.stdout(),
        "allowed: beta call orders.> (rule: grant)\n  one\n  two\n"
    );
    assert_eq!(code(&run_on(&node, &["cap", "explain", "eve", "call", "x"]).await.0), 4);
    let (outcome, captured) = run_on(&node, &["doctor"]).await;
    assert_eq!(code(&outcome), 1);
    assert!(captured.stdout().contains("FAIL  disk   full") && captured.stdout().contains("make room"));
}

#[tokio::test]
async fn pinging_counts_what_came_back() {
    let turns = std::sync::atomic::AtomicU32::new(0);
    let node = FakeNode::start(
        move |_| match turns.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            1 => problem(504, "timeout", "no answer"),
            _ => json(
                &value!({ "peer_id": "12D3KooWAbcdefghijkl", "rtt_ms": 2.0, "transport": "quic", "relayed": false }),
            ),
        },
    );
    let (outcome, captured) = run_on(&node, &["ping", "beta", "--count", "3", "--interval", "1ms"]).await;
    outcome.expect("some answers");
    let text = captured.stdout();
    assert!(
        text.contains("3 sent, 2 answered, 33 % lost") && text.contains("min/avg/max = 2.000/2.000/2.000 ms"),
        "{text}"
    );
    let node = FakeNode::start(|_| problem(404, "not_found", "no node is called beta"));
    assert_eq!(code(&run_on(&node, &["ping", "beta"]).await.0), 3);
    let node = FakeNode::start(|_| problem(503, "unreachable", "gone"));
    assert_eq!(
        code(
            &run_on(&node, &["ping", "beta", "--count", "2", "--interval", "1ms"])
                .await
                .0
        ),
        5
    );
}

#[tokio::test]
async fn revoking_without_a_person_needs_yes() {
    let node = FakeNode::start(|_| json(&value!({ "peer_id": "12D3KooWX", "told": 1, "adopted": [] })));
    let (session, _) = node.session(false);
    if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        assert_eq!(code(&run(&session, &["member", "revoke", "beta"]).await), 2);
        assert!(node.seen.lock().expect("not poisoned").is_empty());
    }
    run(&session, &["member", "revoke", "beta", "--yes", "--reason", "lost"])
        .await
        .expect("revoked");
    assert_eq!(node.last().path, "/v1/members/beta/revoke");
    assert_eq!(node.last().json(), value!({ "reason": "lost" }));
}

#[tokio::test]
async fn completions_and_manual_pages() {
    let dir = tempfile::tempdir().expect("a folder");
    let (session, captured) = session_on(dir.path().to_owned(), false);
    run(&session, &["completions", "bash"]).await.expect("a script");
    assert!(captured.stdout().contains("weft"));
    let pages = dir.path().join("man");
    run(&session, &["man", pages.to_str().expect("text")])
        .await
        .expect("pages");
    assert!(
        pages.join("weft.1").exists() && pages.join("weft-call.1").exists() && pages.join("weft-cap-grant.1").exists()
    );
}

#[tokio::test]
async fn an_identity_is_exported_and_imported_but_never_replaced() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().expect("a folder");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::create_dir(&a).expect("a folder");
    std::fs::set_permissions(&a, std::fs::Permissions::from_mode(0o700)).expect("private");
    let (session, _) = session_on(a.clone(), false);
    let error = run(&session, &["id", "show"]).await.expect_err("no key yet");
    assert_eq!(error.exit_code(), 3, "{error}");

    let key = weft_protocol::ident::SecretKey::from_bytes(&[7; 32]);
    let peer_id = key.public().peer_id().to_string();
    crate::trust::keyfile::create(&a.join("node.key"), &key, None).expect("a key");
    let (session, captured) = session_on(a, false);
    run(&session, &["id", "show"]).await.expect("an id");
    assert_eq!(captured.stdout(), format!("{peer_id}\n"));

    let backup = dir.path().join("backup");
    let (session, captured) = session_on(dir.path().join("a"), false);
    run(&session, &["id", "export"]).await.expect("a key");
    std::fs::write(&backup, captured.stdout()).expect("a file");
    let backup = backup.to_str().expect("text");
    let (session, captured) = session_on(b.clone(), true);
    run(&session, &["id", "import", backup]).await.expect("taken over");
    assert_eq!(
        serde_json::from_str::<Value>(&captured.stdout()).expect("JSON")["peer_id"],
        peer_id.as_str()
    );
    let before = std::fs::read(b.join("node.key")).expect("a key file");
    assert!(
        run(&session, &["id", "import", backup]).await.is_err(),
        "one is there already"
    );
    assert_eq!(std::fs::read(b.join("node.key")).expect("a key file"), before);
    assert_eq!(code(&run(&session, &["id", "import", "/nonexistent"]).await), 3);
}

#[tokio::test]
async fn the_configuration_comes_from_the_node_or_from_the_file() {
    let node = FakeNode::start(|_| reply(200, "[node]\nname = \"live\"\n"));
    let (outcome, captured) = run_on(&node, &["config", "show"]).await;
    outcome.expect("the live values");
    assert_eq!(captured.stdout(), "[node]\nname = \"live\"\n");
    let (outcome, captured) = run_on(&node, &["config", "show", "--defaults"]).await;
    outcome.expect("the defaults");
    assert!(captured.stdout().contains("[mesh]"));

    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "[mesh]\nmndns = true\n").expect("a file");
    let (session, captured) = session_on(dir.path().to_owned(), false);
    let error = run(&session, &["config", "validate"])
        .await
        .expect_err("an unknown key");
    assert_eq!(error.exit_code(), 2);
    assert!(
        error.to_string().contains("mndns") && error.to_string().contains("mdns"),
        "{error}"
    );
    assert_eq!(
        code(&run(&session, &["config", "validate", "/nonexistent.toml"]).await),
        2
    );
    std::fs::write(&file, "[mesh]\nmdns = false\n").expect("a file");
    run(&session, &["config", "validate"]).await.expect("a good file");
    run(&session, &["config", "show"])
        .await
        .expect("what a start would have");
    assert!(captured.stdout().contains("mdns = false"), "{}", captured.stdout());
}
