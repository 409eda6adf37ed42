//! The README's way in, as a new user walks it.

use serde_json::Value;
use weft_tests::{Mesh, Node, command, until};

#[test]
fn a_node_alone_is_a_mesh_of_one() {
    let mut node = Node::founder("alpha");
    let status = node.status();
    assert_eq!(status["state"], "ready");
    assert_eq!(status["name"], "alpha");
    assert_eq!(status["mesh_kind"], "private");
    assert_eq!(status["members"], 1);
    assert_eq!(status["peers"], 0);
    assert!(status["mesh_id"].as_str().unwrap().starts_with("mesh-"));
    for field in [
        "peer_id",
        "version",
        "agent",
        "listen",
        "external",
        "api",
        "socket",
        "uptime_s",
        "started_at",
        "data_dir",
    ] {
        assert!(!status[field].is_null(), "{field}");
    }
    for field in ["roles", "certificate", "warnings", "reachability", "relays", "kad_mode"] {
        assert!(!status[field].is_null(), "{field}");
    }
    assert_eq!(node.run(&["status", "--json"]).json()["peer_id"], status["peer_id"]);
    let log = node.log();
    assert!(
        log.contains(node.id()) && log.contains("--bootstrap") && log.contains("--join"),
        "{log}"
    );
    assert_eq!(node.stop(), Some(0));
    node.run(&["status"])
        .fails_saying(5, &["no node is running", "weft run"]);
}

#[test]
fn a_ticket_lets_another_machine_in_and_they_see_each_other() {
    let alpha = Node::founder("alpha");
    let invited = alpha.run(&["invite"]);
    let ticket = invited.ok();
    assert_eq!(ticket.lines().count(), 1, "the ticket alone: {ticket:?}");
    assert!(ticket.starts_with("weft1"));
    let beta = Node::joined("beta", ticket.trim());
    alpha.wait_sees(beta.id());
    beta.wait_sees(alpha.id());
    let peers = beta.run(&["peers", "--json"]).json_lines();
    assert_eq!(peers.len(), 1);
    let peer = &peers[0];
    assert_eq!(peer["peer_id"], alpha.id());
    assert_eq!(peer["name"], "alpha");
    assert_eq!(peer["relayed"], false);
    assert!(peer["agent"].as_str().unwrap().starts_with("weft/"));
    assert!(!peer["addresses"].as_array().unwrap().is_empty());
    until("the round trip is measured", || {
        let rtt = beta.get("/v1/peers")[0]["rtt_ms"].as_f64()?;
        (rtt > 0.0 && beta.get("/v1/peers")[0]["version"] == env!("CARGO_PKG_VERSION")).then_some(())
    });
    let pong = beta.run(&["ping", "alpha", "--count", "2", "--interval", "10ms", "--json"]);
    assert!(
        pong.json_lines()
            .iter()
            .any(|l| l["rtt_ms"].as_f64().is_some_and(|ms| ms > 0.0)),
        "{}",
        pong.describe()
    );
    let names: Vec<Value> = alpha
        .run(&["member", "ls", "--json"])
        .json_lines()
        .into_iter()
        .map(|m| m["name"].clone())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_bare_bootstrap_waits_until_somebody_approves() {
    let alpha = Node::founder("alpha");
    for transport in ["/tcp/", "/quic-v1"] {
        let mut beta = Node::new("beta").arg("--bootstrap").arg(&alpha.address(transport));
        beta.spawn();
        beta.wait_up();
        until("it says that it waits", || {
            (beta.status()["state"] == "pending").then_some(())
        });
        let waiting = until("alpha knows who waits", || {
            let list = alpha.run(&["member", "ls", "--pending", "--json"]).json_lines();
            list.into_iter().find(|m| m["peer_id"] == beta.id())
        });
        assert_eq!(waiting["name"], "beta");
        assert!(
            beta.peers().is_empty() && alpha.peers().iter().all(|p| p != beta.id()),
            "not a member yet"
        );
        beta.run(&["call", "greet", "x"]).fails(3);
        let approved = alpha.run(&["member", "approve", beta.id(), "--json"]).json();
        assert_eq!(approved["peer_id"], beta.id());
        beta.wait_ready();
        alpha.wait_sees(beta.id());
        assert_eq!(alpha.run(&["member", "ls", "--pending"]).ok().trim(), "");
    }
}

#[test]
fn calls_reach_a_service_on_another_node_byte_for_byte() {
    let mesh = Mesh::of(2);
    let (alpha, beta) = (&mesh[0], &mesh[1]);
    let _greet = alpha.serve("greet", &["--exec", "printf 'hello '; cat"]);
    let _echo = alpha.serve("echo", &["--echo"]);
    until("beta knows the services", || {
        (beta.get("/v1/services").as_array()?.len() >= 2).then_some(())
    });
    assert_eq!(beta.run(&["call", "greet", "world"]).ok(), "hello world");
    let every_byte: Vec<u8> = (0..=255u8).cycle().take(70_000).collect();
    for body in [&b""[..], b"\n", b"\0", b"\xff\xfe\r\n", &every_byte] {
        let answer = beta.run_with_input(&["call", "echo", "--file", "-"], body);
        assert_eq!(answer.code, Some(0), "{}", answer.describe());
        assert_eq!(answer.stdout.len(), body.len());
        assert!(answer.stdout == body, "the bytes differ");
        assert_eq!(
            beta.run_with_input(&["call", "echo"], body).stdout,
            body,
            "from standard input"
        );
    }
    let services = beta.run(&["services", "--json"]).json_lines();
    let names: Vec<&str> = services.iter().filter_map(|s| s["name"].as_str()).collect();
    assert!(names.contains(&"greet") && names.contains(&"echo"), "{names:?}");
    assert_eq!(alpha.run(&["call", "greet", "me"]).ok(), "hello me", "its own service");
}

#[test]
fn failures_of_calls_have_words_and_exit_codes() {
    let mesh = Mesh::of(2);
    let (alpha, beta) = (&mesh[0], &mesh[1]);
    let _bad = alpha.serve("bad", &["--exec", "echo broken bulb >&2; exit 7"]);
    let _slow = alpha.serve("slow", &["--exec", "exec sleep 600"]);
    until("beta knows the services", || {
        (beta.get("/v1/services").as_array()?.len() >= 2).then_some(())
    });
    beta.run(&["call", "bad", "x"]).fails_saying(1, &["broken bulb"]);
    beta.run(&["call", "slow", "x", "--timeout", "300ms"]).fails(5);
    beta.run(&["call", "nobody", "x"]).fails_saying(3, &["nobody"]);
    beta.run(&["call", "not a name!", "x"]).fails(2);
    beta.run(&["call"]).fails(2);
    beta.run(&["ping", "nosuchnode"]).fails(3);
    beta.run(&["pub", "orders.*", "x"]).fails(2);
    beta.run(&["frobnicate"]).fails(2);
    let usage = command::weft(beta.home(), &beta.data_dir(), &[] as &[&str]);
    assert_eq!(usage.code, Some(2), "{}", usage.describe());
    let nowhere = beta.home().join("nowhere");
    command::weft(beta.home(), &nowhere, &["call", "greet", "x"]).fails_saying(5, &["no node is running", "nowhere"]);
    assert!(!nowhere.exists(), "a command makes no data dir");
    let big = vec![7u8; 1_100_000];
    let refused = beta.run_with_input(&["call", "bad", "--file", "-"], &big);
    assert!(matches!(refused.code, Some(1 | 2)), "{}", refused.describe());
}

#[test]
fn a_service_can_stand_behind_http() {
    use std::io::Write as _;
    let mesh = Mesh::of(2);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/up", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let (head, body) = read_request(&mut socket);
        socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nfine\n")
            .unwrap();
        (head, body)
    });
    let _up = mesh[0].serve("up", &["--http", &url]);
    until("it is known", || {
        (!mesh[1].get("/v1/services").as_array()?.is_empty()).then_some(())
    });
    assert_eq!(mesh[1].run(&["call", "up", "question"]).ok(), "fine\n");
    let (head, body) = server.join().unwrap();
    assert!(head.starts_with("POST /up"), "{head}");
    assert_eq!(body, b"question");
}

fn read_request(socket: &mut std::net::TcpStream) -> (String, Vec<u8>) {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = socket.read(&mut buffer).unwrap();
        assert!(read > 0, "the request ended early");
        bytes.extend_from_slice(&buffer[..read]);
        let Some(end) = weft_tests::http::find(&bytes, b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head
            .to_lowercase()
            .lines()
            .find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if bytes.len() >= end + 4 + length.expect("a length") {
            return (head, bytes[end + 4..].to_vec());
        }
    }
}

#[test]
fn published_messages_reach_subscribers_on_other_nodes() {
    let mesh = Mesh::of(3);
    let mut json = mesh[1].subscribe(&["orders.>", "--count", "3", "--json"]);
    let plain = mesh[2].subscribe(&["orders.eu.*"]);
    let own = mesh[0].subscribe(&["orders.>"]);
    for id in 1..=3 {
        mesh[0]
            .run(&["pub", "orders.eu.created", &format!("{{\"id\":{id}}}")])
            .ok();
    }
    mesh[0].run(&["pub", "payments.eu", "no"]).ok();
    let lines = json.wait_lines(3);
    assert_eq!(json.wait_ended(), Some(0), "it ends after three");
    assert_eq!(lines.len(), 3);
    for (index, line) in lines.iter().enumerate() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["subject"], "orders.eu.created");
        for field in ["id", "source", "type", "time"] {
            assert!(event[field].is_string(), "{field}: {event}");
        }
        let data = event["data"]
            .as_str()
            .map_or_else(|| event["data"].clone(), |t| serde_json::from_str(t).unwrap());
        assert_eq!(data["id"], index + 1, "in the publisher's order: {event}");
    }
    let shown = plain.wait_lines(3);
    assert!(
        shown[0].contains("orders.eu.created") && shown[0].contains("{\"id\":1}"),
        "{shown:?}"
    );
    own.wait_lines(3);
    assert!(
        plain.lines().len() == 3 && own.lines().len() == 3,
        "payments were not asked for"
    );
}

#[test]
fn a_second_process_on_the_data_dir_is_told_who_the_first_is() {
    let node = Node::founder("alpha");
    let pid = node.pid().to_string();
    let second = node.run(&[
        "run",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--api",
        "127.0.0.1:0",
        "--no-mdns",
    ]);
    assert!(second.code.is_some_and(|c| c != 0), "{}", second.describe());
    assert!(second.stderr.contains(&pid), "{}", second.describe());
    assert_eq!(node.status()["ready"], true, "the first lives on");
    let init = node.run(&["init"]);
    assert!(
        init.code.is_some_and(|c| c != 0) && init.stderr.contains(&pid),
        "{}",
        init.describe()
    );
}

#[test]
fn after_a_kill_a_node_is_the_same_and_the_subscription_goes_on() {
    let mut mesh = Mesh::of(2);
    let subscription = mesh[1].subscribe(&["orders.>"]);
    mesh[0].run(&["pub", "orders.a", "before"]).ok();
    subscription.wait_lines(1);
    let id = mesh[0].id().to_owned();
    mesh[0].kill();
    mesh[1].wait_lost(&id);
    mesh[0].start();
    assert_eq!(mesh[0].id(), id, "the same identity");
    mesh.wait_complete();
    // The first message may be published before gossip knows again who listens: it is repeated until one arrives.
    until("the subscription goes on", || {
        mesh[0].run(&["pub", "orders.a", "after"]).ok();
        subscription.lines().iter().any(|l| l.contains("after")).then_some(())
    });
    assert!(mesh[0].log().matches("panicked").count() == 0);
}

#[test]
fn a_joiner_that_is_killed_comes_back_by_its_address_book() {
    let mut mesh = Mesh::of(2);
    let id = mesh[1].id().to_owned();
    mesh[1].kill();
    mesh[1].forget_way_in();
    mesh[0].wait_lost(&id);
    mesh[1].start();
    assert_eq!(mesh[1].id(), id);
    mesh.wait_complete();
}

#[test]
fn doctor_finds_a_fresh_node_healthy() {
    let mesh = Mesh::of(2);
    let report = mesh[1].run(&["doctor", "--json"]);
    let report = report.json();
    assert_eq!(report["healthy"], true, "{report}");
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 6, "{report}");
    for check in checks {
        assert!(check["name"].is_string() && check["summary"].is_string(), "{check}");
        assert!(
            ["ok", "warn", "fail", "skip"].contains(&check["status"].as_str().unwrap()),
            "{check}"
        );
    }
    assert!(!mesh[1].run(&["doctor"]).ok().is_empty());
}
