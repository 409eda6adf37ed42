//! A mesh that loses and regains nodes, and ways in that are dead.

use rustix::process::Signal;
use weft_tests::{Mesh, Node, until};

/// A well-formed address at which nobody is.
const DEAD: &str = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

#[test]
fn a_dead_bootstrap_address_does_not_stop_a_start() {
    let alpha = Node::founder("alpha");
    // One of several that answers suffices.
    let beta = Node::new("beta")
        .arg("--bootstrap")
        .arg(DEAD)
        .arg("--bootstrap")
        .arg(&alpha.address("/tcp/"));
    let mut beta = beta
        .arg("--bootstrap")
        .arg("/ip4/127.0.0.1/udp/9/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN");
    beta.spawn();
    beta.wait_up();
    until("it waits for approval", || {
        (beta.status()["state"] == "pending").then_some(())
    });
    alpha.run(&["member", "approve", "beta"]).ok();
    beta.wait_ready();
    alpha.wait_sees(beta.id());
    // A member starts although nobody at all answers.
    drop(alpha);
    assert_eq!(beta.stop(), Some(0));
    beta.start();
    assert_eq!(beta.status()["ready"], true);
    let doctor = beta.get("/v1/doctor");
    let bootstrap = doctor["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["name"].as_str().unwrap().contains("bootstrap"));
    assert!(
        bootstrap.is_some_and(|c| c["status"] != "ok"),
        "doctor says that nobody answers: {doctor}"
    );
    // A newcomer with nobody to talk to is up, and says what it waits for.
    let mut lost = Node::new("lost").arg("--bootstrap").arg(DEAD);
    lost.spawn();
    lost.wait_up();
    assert_eq!(lost.status()["ready"], false);
    lost.run(&["status", "--wait", "200ms"]).fails(5);
    let ready = lost.send(&weft_tests::http::Request::new("GET", "/readyz"));
    assert_eq!(ready.status, 503);
}

#[test]
fn eight_nodes_find_each_other_through_one() {
    let mut mesh = Mesh::of(8);
    mesh.wait_all("all members are known", |node| node.status()["members"] == 8);
    // One leaves in order, one without a word: the others notice.
    let left = mesh[7].id().to_owned();
    let killed = mesh[6].id().to_owned();
    assert_eq!(mesh[7].stop(), Some(0));
    mesh[6].kill();
    for node in &mesh.0[..6] {
        node.wait_lost(&left);
        node.wait_lost(&killed);
    }
    let gone = mesh[0].run(&["member", "ls", "--json"]).json_lines();
    let away = gone
        .iter()
        .find(|m| m["peer_id"] == left)
        .expect("it is still a member");
    assert_eq!(away["connected"], false);
    // The one through whom all came is not needed any more.
    mesh[0].kill();
    let founder = mesh[0].id().to_owned();
    for node in &mesh.0[1..6] {
        node.wait_lost(&founder);
    }
    mesh[6].forget_way_in();
    mesh[6].start();
    for node in &mesh.0[1..6] {
        node.wait_sees(&killed);
        mesh[6].wait_sees(node.id());
    }
}

#[test]
fn a_frozen_node_is_noticed_and_comes_back() {
    let mesh = Mesh::of(3);
    let frozen = mesh[2].id();
    mesh[2].signal(Signal::STOP);
    for node in &mesh.0[..2] {
        node.wait_lost(frozen);
    }
    mesh[2].signal(Signal::CONT);
    mesh.wait_complete();
}

#[test]
fn who_subscribes_late_is_told_what_a_dead_publisher_said() {
    let mut mesh = Mesh::of(3);
    for n in 0..10 {
        let subject = format!("sensors.{}", n % 2);
        mesh[2].run(&["pub", &subject, &format!("{n}")]).ok();
    }
    until("the others have it", || {
        let told = mesh[0].run(&[
            "sub",
            "sensors.>",
            "--last-n",
            "10",
            "--count",
            "10",
            "--timeout",
            "2s",
            "--raw",
        ]);
        (told.code == Some(0)).then_some(())
    });
    mesh[2].kill();
    let late = Node::joined("late", &mesh[0].ticket(1));
    let sub = |args: &[&str]| late.run(&[&["sub", "sensors.>", "--raw", "--timeout", "20s"], args].concat());
    assert_eq!(sub(&["--last", "--count", "2"]).ok(), "8\n9\n");
    assert_eq!(sub(&["--last-n", "3", "--count", "3"]).ok(), "7\n8\n9\n");
    assert_eq!(
        sub(&["--since", "5m", "--count", "10"]).ok(),
        "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"
    );
    sub(&["--since", "1h"]).fails_saying(2, &["600 s"]);
    sub(&["--last", "--last-n", "3"]).fails(2);
    sub(&["--last", "--group", "workers"]).fails(2);
}

#[test]
fn a_retained_value_outlives_its_publisher() {
    let mut mesh = Mesh::of(3);
    let retain = |subject: &str, data: &str| mesh[2].run(&["pub", subject, data, "--retain"]).ok();
    retain("doors.front", "open");
    retain("doors.back", "ajar");
    retain("doors.side", "open");
    retain("doors.front", "shut");
    retain("doors.side", "");
    // Acknowledged means durable.
    mesh[2].kill();
    mesh[2].start();
    let last = |node: &Node| {
        node.run(&["sub", "doors.>", "--last", "--raw", "--count", "2", "--timeout", "20s"])
            .ok()
    };
    assert_eq!(last(&mesh[2]), "ajar\nshut\n");
    mesh[2].kill();
    let late = Node::joined("late", &mesh[0].ticket(1));
    assert_eq!(last(&late), "ajar\nshut\n");
    // Nothing else is told.
    let all = late
        .run(&["sub", "doors.>", "--last", "--json", "--timeout", "1s"])
        .json_lines();
    let subjects: Vec<_> = all.iter().map(|told| told["subject"].as_str().unwrap()).collect();
    assert_eq!(subjects, ["doors.back", "doors.front"]);
}

#[test]
fn a_message_says_which_way_it_went_and_expires() {
    let mesh = Mesh::of(3);
    let wanted = mesh[1].subscribe(&["orders.>", "--raw"]);
    until("it goes to the one that wants it, and both say so", || {
        let hops = mesh[0].run(&["trace", "orders.eu", "traced", "--json"]).json_lines();
        let said: Vec<_> = hops
            .iter()
            .map(|hop| (hop["way"].as_str(), hop["subscriptions"].as_u64()))
            .collect();
        (said == [(Some("published"), Some(0)), (Some("direct"), Some(1))]).then_some(())
    });
    let only = mesh[0].run(&["trace", "orders.eu", "hidden", "--trace-only"]);
    assert!(only.ok().contains("└─ "), "{}", only.ok());
    assert!(
        only.stderr.contains("is for 1 subscription, and was handed to none"),
        "{}",
        only.stderr
    );
    let gossiped = mesh[0].run(&["trace", "news.eu", "--wait", "3s"]).ok();
    assert!(
        gossiped.contains("gossip") && gossiped.contains("published"),
        "{gossiped}"
    );
    mesh[0].run(&["pub", "orders.eu", "late", "--expires", "1ms"]).ok();
    mesh[0].run(&["pub", "orders.eu", "in time", "--expires", "1h"]).ok();
    let lines = until("what is in time arrives", || {
        let lines = wanted.lines().join("\n");
        lines.contains("in time").then_some(lines)
    });
    assert!(lines.contains("traced") && !lines.contains("hidden"), "{lines}");
    let seldom = mesh[1].subscribe(&["ticks.>", "--raw", "--every", "1h"]);
    for n in 0..5 {
        for subject in ["ticks.a", "ticks.b"] {
            mesh[0].run(&["pub", subject, &format!("{subject} {n}")]).ok();
        }
    }
    mesh[0].run(&["pub", "ticks.end", "end"]).ok();
    let lines = until("each subject has said something", || {
        let lines = seldom.lines();
        lines.iter().any(|line| line == "end").then_some(lines)
    });
    assert_eq!(lines, ["ticks.a 0", "ticks.b 0", "end"]);
    mesh[1]
        .run(&["sub", "ticks.>", "--every", "1s", "--group", "g"])
        .fails(2);
    // A millisecond may be enough to arrive, but not to be the last one for who comes later.
    mesh[0].run(&["pub", "orders.eu", "soon over", "--expires", "1ms"]).ok();
    mesh[0].run(&["trace", "orders.eu", "hidden", "--trace-only"]).ok();
    for last in [&["--last"][..], &["--last-n", "1"]] {
        let args = ["sub", "orders.>", "--count", "1", "--timeout", "10s", "--raw"];
        assert_eq!(mesh[1].run(&[&args, last].concat()).ok(), "in time\n");
    }
    mesh[0]
        .run(&["pub", "orders.eu", "x", "-H", "expirytime:tomorrow"])
        .fails_saying(2, &["tomorrow", "2026-01-31T12:00:00Z"]);
}

#[test]
fn a_service_that_goes_away_is_not_called_any_more() {
    let mut mesh = Mesh::of(3);
    let first = mesh[0].serve("greet", &["--exec", "echo first"]);
    let second = mesh[1].serve("greet", &["--exec", "echo second"]);
    until("both instances are known", || {
        (mesh[2].get("/v1/services").as_array()?.len() == 2).then_some(())
    });
    drop(first);
    until("one instance is left", || {
        (mesh[2].get("/v1/services").as_array()?.len() == 1).then_some(())
    });
    for _ in 0..5 {
        assert_eq!(mesh[2].run(&["call", "greet"]).ok(), "second\n");
    }
    drop(second);
    mesh[1].kill();
    until("nobody serves it any more", || {
        let called = mesh[2].run(&["call", "greet", "--timeout", "5s"]);
        assert_ne!(called.code, Some(0), "{}", called.describe());
        (called.code == Some(3) || called.code == Some(5)).then_some(())
    });
    assert!(mesh[2].is_alive());
}

#[test]
fn a_serving_application_survives_its_nodes_restart() {
    let mut mesh = Mesh::of(2);
    let mut echo = mesh[0].serve("echo", &["--echo"]);
    let messages = mesh[0].subscribe(&["orders.>"]);
    mesh[0].kill();
    mesh[0].start();
    mesh.wait_complete();
    echo.wait_said("again");
    let answered = until("it is served again", || {
        let called = mesh[1].run(&["call", "echo", "back"]);
        (called.code == Some(0)).then_some(called)
    });
    assert_eq!(answered.ok(), "back");
    until("the subscription goes on", || {
        mesh[1].run(&["pub", "orders.a", "hello"]).ok();
        messages.lines().iter().any(|l| l.contains("hello")).then_some(())
    });
    // Ctrl-C at the application ends it in order.
    echo.signal(Signal::INT);
    let code = echo.wait_ended();
    assert!(matches!(code, Some(0 | 130)), "{code:?}");
    until("it is not offered any more", || {
        mesh[1].get("/v1/services").as_array()?.is_empty().then_some(())
    });
}

/// The others still have connections of its earlier process, which are dead, and for gossip the new one would be no first one.
#[test]
fn a_killed_publisher_is_heard_in_order_from_its_first_word_on() {
    let mut mesh = Mesh::of(4);
    let subscriptions: Vec<_> = mesh.0[..3]
        .iter()
        .map(|node| node.subscribe(&["orders.>", "--raw"]))
        .collect();
    let publish = |node: &Node, n: usize| {
        let request = node
            .request("POST", "/v1/messages/orders.eu")
            .body(n.to_string().as_bytes());
        let request = request.header("content-type", "text/plain");
        assert_eq!(node.send(&request).status / 100, 2);
    };
    publish(&mesh[3], 0);
    for subscription in &subscriptions {
        subscription.wait_lines(1);
    }
    let killed = mesh[3].id().to_owned();
    mesh[3].kill();
    mesh[3].start();
    (1..=100).for_each(|n| publish(&mesh[3], n));
    let expected: Vec<String> = (0..=100).map(|n: usize| n.to_string()).collect();
    for subscription in &subscriptions {
        assert_eq!(subscription.wait_lines(101), expected);
    }
    for node in &mesh.0[..3] {
        let told = format!("a member was started again: closing what it left behind peer={killed}");
        until("what it left is closed", || node.log().contains(&told).then_some(()));
    }
}
