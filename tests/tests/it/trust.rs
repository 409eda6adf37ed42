//! Who belongs to the mesh and who may what: tickets, revocation, roles and capabilities.

use std::time::{Duration, Instant};

use weft_protocol::{Ticket, Wire as _};
use weft_tests::{Mesh, Node, command, until};

/// What the product promises for a revocation to take hold everywhere.
const REVOCATION_TIME_MAX: Duration = Duration::from_secs(10);

fn revoke(issuer: &Node, whom: &str) {
    let outcome = issuer
        .run(&["member", "revoke", whom, "--reason", "laptop stolen", "--yes", "--json"])
        .json();
    assert_eq!(outcome["peer_id"], whom);
}

fn knows_revoked(node: &Node, whom: &str) -> bool {
    node.run(&["member", "ls", "--revoked", "--json"])
        .json_lines()
        .iter()
        .any(|m| m["peer_id"] == whom)
}

/// Makes `node` try to reach `other` now, which must not succeed.
#[track_caller]
fn cannot_reach(node: &Node, other: &Node) {
    let tried = node.run(&["ping", other.id(), "--count", "1"]);
    assert!(
        tried.code.is_some_and(|c| c != 0),
        "it got through: {}",
        tried.describe()
    );
    assert!(!other.sees(node.id()), "{} has let {} in", other.id(), node.id());
}

#[test]
fn a_revoked_member_is_cut_everywhere_and_does_not_come_back() {
    let mut mesh = Mesh::of(4);
    let out = mesh[3].id().to_owned();
    let began = Instant::now();
    revoke(&mesh[0], &out);
    for node in &mesh.0[..3] {
        node.wait_lost(&out);
    }
    assert!(began.elapsed() < REVOCATION_TIME_MAX, "it took {:?}", began.elapsed());
    let revoked = mesh[1].run(&["member", "ls", "--revoked", "--json"]).json_lines();
    assert_eq!(
        (&revoked[0]["peer_id"], &revoked[0]["reason"]),
        (&out.as_str().into(), &"laptop stolen".into())
    );
    for node in &mesh.0[..3] {
        until("it is no member any more", || {
            let members = node.run(&["member", "ls", "--json"]).json_lines();
            members
                .iter()
                .all(|m| m["peer_id"] != out || m["revoked"] == true)
                .then_some(())
        });
    }
    // With its old certificate, after its own restart.
    mesh[3].kill();
    mesh[3].spawn();
    mesh[3].wait_up();
    for other in 0..3 {
        cannot_reach(&mesh[3], &mesh[other]);
    }
    // Through another member, after restarts of everybody: the issuer of the revocation does not even run.
    for index in 0..3 {
        mesh[index].kill();
    }
    for index in 1..3 {
        mesh[index].start();
    }
    mesh[3].kill();
    mesh[3].spawn();
    mesh[3].wait_up();
    mesh[1].wait_sees(mesh[2].id());
    for other in 1..3 {
        assert!(knows_revoked(&mesh[other], &out), "a restart forgets no revocation");
        cannot_reach(&mesh[3], &mesh[other]);
    }
}

#[test]
fn a_revoked_key_is_not_let_in_by_a_new_ticket() {
    let mesh = Mesh::of(2);
    let gamma = Node::joined("gamma", &mesh[0].ticket(1));
    revoke(&mesh[0], gamma.id());
    mesh[1].wait_lost(gamma.id());
    let ticket = mesh[0].ticket(1);
    let key = gamma.run(&["id", "export"]).ok();
    drop(gamma);
    let again = Node::new("again");
    again.run_with_input(&["id", "import", "-"], key.as_bytes()).ok();
    let joined = again.run(&["join", &ticket]);
    joined.fails_saying(4, &["revoked"]);
}

#[test]
fn a_node_that_was_away_learns_of_a_revocation_before_it_admits() {
    let mut mesh = Mesh::of(3);
    let out = mesh[1].id().to_owned();
    // The one who was away must not find its way to the revoked one first by chance only: both want each other.
    assert_eq!(mesh[2].stop(), Some(0));
    revoke(&mesh[0], &out);
    mesh[0].wait_lost(&out);
    let logged_before = mesh[2].log().len();
    mesh[2].start();
    mesh[2].wait_sees(mesh[0].id());
    until("it has learned the revocation", || {
        knows_revoked(&mesh[2], &out).then_some(())
    });
    cannot_reach(&mesh[1], &mesh[2]);
    let log = mesh[2].log();
    let admitted = log[logged_before..]
        .lines()
        .any(|l| l.contains("member connected") && l.contains(&out));
    assert!(!admitted, "it was let in before: {log}");
}

#[test]
fn members_admitted_by_a_revoked_one_stay() {
    let mut alpha = Node::founder("alpha");
    let ticket = alpha.run(&["invite", "--role", "admin"]).ok();
    let beta = Node::joined("beta", ticket.trim());
    let mut gamma = Node::joined("gamma", &beta.ticket(1));
    for node in [&alpha, &beta] {
        node.wait_sees(gamma.id());
    }
    let outcome = alpha.run(&["member", "revoke", beta.id(), "--yes", "--json"]).json();
    assert_eq!(outcome["adopted"], serde_json::json!([gamma.id()]), "{outcome}");
    gamma.wait_lost(beta.id());
    alpha.wait_sees(gamma.id());
    until("gamma's certificate comes from alpha", || {
        (gamma.status()["certificate"]["issuer"] == alpha.id()).then_some(())
    });
    // Also when both have forgotten everything but their stores.
    gamma.kill();
    alpha.kill();
    alpha.start();
    gamma.start();
    alpha.wait_sees(gamma.id());
    let _echo = gamma.serve("echo", &["--echo"]);
    until("the service is known", || {
        (!alpha.get("/v1/services").as_array()?.is_empty()).then_some(())
    });
    assert_eq!(alpha.run(&["call", "echo", "still here"]).ok(), "still here");
}

#[test]
fn only_administrators_invite_approve_and_revoke() {
    let mesh = Mesh::of(3);
    mesh[1].run(&["invite"]).fails(4);
    mesh[1].run(&["member", "revoke", mesh[2].id(), "--yes"]).fails(4);
    mesh[1].run(&["cap", "grant", "gamma", "call", "x"]).fails(4);
    assert!(mesh[2].sees(mesh[1].id()));
    mesh[0].run(&["member", "revoke", mesh[0].id(), "--yes"]).fails(2);
    mesh[0]
        .run(&["member", "revoke", "nobody-of-that-name", "--yes"])
        .fails(3);
}

#[test]
fn a_ticket_is_used_once_and_not_after_its_time() {
    let alpha = Node::founder("alpha");
    let ticket = alpha.ticket(1);
    let _beta = Node::joined("beta", &ticket);
    let gamma = Node::new("gamma");
    gamma.run(&["join", &ticket]).fails_saying(4, &["ticket"]);
    let used = gamma.run(&["run", "--join", &ticket, "--api", "127.0.0.1:0", "--no-mdns"]);
    used.fails_saying(4, &["the ticket has been used", "weft invite"]);
    let short = alpha.run(&["invite", "--ttl", "1s", "--json"]).json();
    let text = short["ticket"].as_str().unwrap().to_owned();
    let ends = Ticket::from_text(&text).unwrap().not_after_ms;
    until("the ticket's time is over", || {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        (now.as_millis() as u64 > ends).then_some(())
    });
    gamma.run(&["join", &text]).fails_saying(4, &["run out"]);
    let run = gamma.run(&["run", "--join", &text, "--api", "127.0.0.1:0", "--no-mdns"]);
    run.fails_saying(4, &["run out"]);
    let withdrawn = alpha.run(&["invite", "--json"]).json();
    alpha.run(&["invite", "rm", withdrawn["id"].as_str().unwrap()]).ok();
    gamma
        .run(&["join", withdrawn["ticket"].as_str().unwrap()])
        .fails_saying(4, &["ticket"]);
    // None of this spoiled the data dir of the one who tried.
    gamma.run(&["join", &alpha.ticket(1)]).ok();
    assert_eq!(alpha.run(&["invite", "ls", "--json"]).json_lines().len(), 0);
}

#[test]
fn a_damaged_ticket_is_refused_with_clear_words() {
    let alpha = Node::founder("alpha");
    let text = alpha.ticket(1);
    // In its text, the checksum notices each single character that changed.
    for (index, old) in text.char_indices() {
        for new in ['a', '7', '!'] {
            if new != old {
                let damaged: String = text
                    .char_indices()
                    .map(|(i, c)| if i == index { new } else { c })
                    .collect();
                assert!(Ticket::from_text(&damaged).is_err(), "{damaged}");
            }
        }
    }
    // Behind the checksum: what decodes at all is a different ticket, whose difference the join would meet.
    let ticket = Ticket::from_text(&text).unwrap();
    let bytes = ticket.to_bytes();
    for index in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[index] ^= flip;
            if let Ok(read) = Ticket::from_bytes(&damaged) {
                assert!(read != ticket, "byte {index} has no meaning");
            }
        }
        assert!(Ticket::from_bytes(&bytes[..index]).is_err(), "cut at {index}");
    }
    let beta = Node::new("beta");
    for index in [0, 4, 5, text.len() / 2, text.len() - 1] {
        let mut damaged: Vec<char> = text.chars().collect();
        damaged[index] = if damaged[index] == 'q' { 'x' } else { 'q' };
        let damaged: String = damaged.into_iter().collect();
        beta.run(&["join", &damaged]).fails_saying(2, &["ticket"]);
        let run = beta.run(&["run", "--join", &damaged, "--api", "127.0.0.1:0", "--no-mdns"]);
        run.fails_saying(2, &["ticket"]);
    }
    beta.run(&["join", &text[..text.len() / 2]])
        .fails_saying(2, &["ticket"]);
    beta.run(&["join", ""]).fails(2);
    beta.run(&["join", &"a".repeat(100_000)]).fails(2);
    // A good checksum over a wrong secret: the issuer refuses.
    let mut forged = ticket;
    forged.secret = weft_protocol::TicketSecret::from_bytes([7; 16]);
    beta.run(&["join", &forged.to_string()]).fails_saying(4, &["ticket"]);
    // White space and upper case, as they come from copying, do no harm.
    let copied = format!(" {}\n{} ", &text[..40].to_uppercase(), &text[40..]);
    beta.run(&["join", &copied]).ok();
    assert_eq!(alpha.status()["ready"], true, "the node lives on");
}

#[test]
fn a_member_of_one_mesh_is_a_stranger_to_another() {
    let mut alpha = Node::founder("alpha");
    let other = Node::founder("other");
    let refused = alpha.run(&["join", &other.ticket(1)]);
    refused.fails_saying(1, &["mesh"]);
    let ticket = other.ticket(1);
    assert_eq!(alpha.stop(), Some(0));
    let run = alpha.run(&["run", "--join", &ticket, "--api", "127.0.0.1:0", "--no-mdns"]);
    run.fails_saying(1, &["belongs to"]);
    // Sent to a node of the other mesh by its address, it is refused, and says so.
    let mut stray = Node::founder("stray");
    stray.kill();
    let mut stray = stray.arg("--bootstrap").arg(&other.address("/tcp/"));
    stray.spawn();
    stray.wait_up();
    until("it says why it is refused", || {
        stray.log().contains("does not admit this node").then_some(())
    });
    assert!(stray.peers().is_empty() && other.peers().is_empty());
}

#[test]
fn members_of_different_roles_need_a_capability() {
    let alpha = Node::founder("alpha");
    let join = |name: &str, role: &str| {
        let ticket = alpha.run(&["invite", "--role", role]).ok();
        Node::joined(name, ticket.trim())
    };
    let shop = join("shop", "shop");
    let web = join("web", "web");
    shop.wait_sees(web.id());
    web.wait_sees(shop.id());
    let _orders = shop.serve("orders", &["--echo"]);
    until("the service is known", || {
        (!web.get("/v1/services").as_array()?.is_empty()).then_some(())
    });
    web.run(&["call", "orders", "x"]).fails_saying(4, &["role"]);
    let denied = shop.run(&["cap", "explain", "web", "call", "orders"]);
    assert_eq!(denied.code, Some(4), "{}", denied.describe());
    assert!(denied.text().contains("no role in common"), "{}", denied.describe());
    let messages = shop.subscribe(&["orders.>", "--json"]);
    web.run(&["pub", "orders.new", "too early"]);

    alpha.run(&["cap", "grant", "web", "call", "orders"]).ok();
    alpha.run(&["cap", "grant", "role:web", "pub", "orders.>"]).ok();
    let allowed = until("the call is allowed", || {
        let called = web.run(&["call", "orders", "now"]);
        (called.code == Some(0)).then_some(called)
    });
    assert_eq!(allowed.ok(), "now");
    until("the message is let through", || {
        web.run(&["pub", "orders.new", "in time"]);
        (!messages.lines().is_empty()).then_some(())
    });
    assert!(
        messages.lines().iter().all(|l| l.contains("in time")),
        "{:?}",
        messages.lines()
    );
    let allowed = alpha.run(&["cap", "explain", "web", "call", "orders"]);
    assert!(allowed.ok().contains("capability"), "{}", allowed.describe());
    // Narrow as it was given: another service, and the other direction.
    let _stock = shop.serve("stock", &["--echo"]);
    until("it is known", || {
        (web.get("/v1/services").as_array()?.len() >= 2).then_some(())
    });
    web.run(&["call", "stock", "x"]).fails(4);
    assert!(!web.run(&["cap", "show", "--json"]).json_lines().is_empty());
}

#[test]
fn the_right_to_invite_comes_with_a_new_certificate() {
    let mut mesh = Mesh::of(3);
    let beta = mesh[1].id().to_owned();
    let explain = |node: &Node| node.run(&["cap", "explain", "beta", "invite", "role.member"]);
    mesh[1].run(&["invite"]).fails_saying(4, &["may not admit"]);
    assert_eq!(explain(&mesh[0]).code, Some(4));
    // Beta is away, and so is alpha before beta comes back.
    mesh[0].wait_sees(&beta);
    assert_eq!(mesh[1].stop(), Some(0));
    mesh[0].run(&["cap", "grant", "beta", "invite", "role.member"]).ok();
    let waiting = explain(&mesh[0]);
    assert_eq!(waiting.code, Some(4), "{}", waiting.describe());
    assert!(waiting.text().contains("promised"), "{}", waiting.describe());
    mesh[0].kill();
    mesh[0].start();
    let shown = mesh[0].run(&["cap", "show", "--json"]).json_lines();
    assert!(
        shown.iter().any(|c| c["pending"] == true && c["audience"] == beta),
        "{shown:?}"
    );
    mesh[1].start();
    // Everybody comes to know, and it is true.
    for index in 0..3 {
        until("the certificate says so", || {
            (explain(&mesh[index]).code == Some(0)).then_some(())
        });
    }
    assert!(explain(&mesh[2]).text().contains("certificate"));
    let gamma = Node::joined("delta", &mesh[1].ticket(1));
    mesh[0].wait_sees(gamma.id());
    mesh[2].wait_sees(gamma.id());
    mesh[1].run(&["invite", "--role", "admin"]).fails(4);
    mesh[1].run(&["member", "revoke", gamma.id(), "--yes"]).fails(4);
    // After a restart too; and words for what cannot be.
    mesh[1].kill();
    mesh[1].start();
    mesh[1].run(&["invite"]).ok();
    let alpha = &mesh[0];
    alpha
        .run(&["cap", "grant", "role:member", "invite", "role.member"])
        .fails_saying(2, &["single members"]);
    alpha
        .run(&["cap", "grant", "beta", "invite", "member"])
        .fails_saying(2, &["role.member"]);
    let timed = alpha.run(&["cap", "grant", "beta", "invite", "role.member", "--ttl", "1h"]);
    timed.fails_saying(2, &["certificate"]);
    alpha
        .run(&["cap", "grant", "nobody-there", "invite", "role.member"])
        .fails(3);
}

#[test]
fn an_open_mesh_takes_anybody_and_says_so() {
    let mut alpha = Node::new("alpha").arg("--open").started();
    assert_eq!(alpha.status()["mesh_kind"], "open");
    let beta = Node::new("beta")
        .arg("--bootstrap")
        .arg(&alpha.address("/quic-v1"))
        .started();
    alpha.wait_sees(beta.id());
    let warning = |node: &Node| node.status()["warnings"].to_string().contains("open");
    assert!(warning(&alpha) && warning(&beta));
    alpha.kill();
    alpha.start();
    until("it says so on every start", || {
        (alpha.log().matches("OPEN MESH").count() == 2).then_some(())
    });
    beta.wait_sees(alpha.id());
    let _echo = alpha.serve("echo", &["--echo"]);
    until("known", || {
        (!beta.get("/v1/services").as_array()?.is_empty()).then_some(())
    });
    assert_eq!(beta.run(&["call", "echo", "hello"]).ok(), "hello");
    // A revoked key stays out of an open mesh too.
    revoke(&alpha, beta.id());
    alpha.wait_lost(beta.id());
    cannot_reach(&beta, &alpha);
}

#[test]
fn identities_can_be_shown_saved_and_protected() {
    let alpha = Node::new("alpha");
    let init = alpha.run(&["init", "--name", "alpha", "--json"]).json();
    let id = init["peer_id"].as_str().unwrap().to_owned();
    alpha.run(&["init"]).fails_saying(1, &["belongs to"]);
    assert!(alpha.run(&["id", "show"]).ok().contains(&id));
    let exported = alpha.run(&["id", "export"]).ok();
    let copy = Node::new("copy");
    copy.run_with_input(&["id", "import", "-"], exported.as_bytes()).ok();
    assert!(copy.run(&["id", "show"]).ok().contains(&id));
    copy.run_with_input(&["id", "import", "-"], b"weft-ed25519-secret 1 nonsense")
        .fails(1);
    assert!(
        copy.run(&["id", "show"]).ok().contains(&id),
        "a failed import changes nothing"
    );
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        alpha.data_dir().join(name).metadata().unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("node.key"), mode("root.key"), mode("")), (0o600, 0o600, 0o700));
    // With a passphrase in a file, as a service manager gives it.
    let secret = alpha.home().join("secret");
    std::fs::write(&secret, "correct horse\n").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut lock = command::command(alpha.home());
    lock.arg("--data-dir")
        .arg(alpha.data_dir())
        .args(["id", "passphrase"])
        .env("WEFT_PASSPHRASE_FILE", &secret);
    let locked = command::run(lock, b"");
    assert_eq!(locked.code, Some(0), "{}", locked.describe());
    let without = alpha.run(&["run", "--api", "127.0.0.1:0", "--no-mdns"]);
    assert!(
        without.code.is_some_and(|c| c != 0) && without.stderr.contains("passphrase"),
        "{}",
        without.describe()
    );
    let mut alpha = alpha.env("WEFT_PASSPHRASE_FILE", secret.to_str().unwrap());
    alpha.start();
    assert_eq!(alpha.id(), id);
}
