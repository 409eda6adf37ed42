//! The NATS door of one node, as NATS's own Rust client and a raw socket find it.

#![expect(clippy::disallowed_methods, reason = "what a client does belongs to no node")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event, HeaderMap, RequestErrorKind, Subscriber};
use futures::StreamExt as _;
use tokio::time::timeout;
use weft_tests::{Node, until};

/// How long anything may take that usually takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node with an open door.
pub(crate) fn node(args: &[&str]) -> Node {
    let mut node = Node::new("alpha").arg("--nats").arg("127.0.0.1:0");
    for arg in args {
        node = node.arg(arg);
    }
    node.started()
}

pub(crate) async fn client(node: &Node) -> Client {
    async_nats::connect(node.nats()).await.unwrap()
}

/// The next message, as text.
pub(crate) async fn next(subscriber: &mut Subscriber) -> String {
    let message = timeout(PATIENCE, subscriber.next()).await.expect("a message in time");
    String::from_utf8(message.unwrap().payload.to_vec()).unwrap()
}

/// Waits until the node has taken in what the client asked for. A flush only writes it to the socket.
pub(crate) async fn settled(client: &Client) {
    let own = client.new_inbox();
    let mut echo = client.subscribe(own.clone()).await.unwrap();
    client.publish(own, "".into()).await.unwrap();
    next(&mut echo).await;
}

/// A raw client that has been greeted.
fn raw(node: &Node) -> TcpStream {
    let url = node.nats();
    let stream = TcpStream::connect(url.split("//").nth(1).unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends bytes; what comes until the door closes the connection.
fn talk(node: &Node, bytes: &[u8]) -> String {
    let mut stream = raw(node);
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until these words have come.
fn read_until(stream: &mut TcpStream, words: &str) -> String {
    let mut text = String::new();
    let mut piece = [0; 4096];
    while !text.contains(words) {
        let len = stream.read(&mut piece).unwrap();
        assert!(len > 0, "closed after {text:?}");
        text.push_str(&String::from_utf8_lossy(&piece[..len]));
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_one_node_publish_subscribe_and_share() {
    let node = node(&[]);
    let (ann, bob) = (client(&node).await, client(&node).await);
    let mut all = bob.subscribe("orders.>").await.unwrap();
    let mut one = bob.subscribe("orders.*").await.unwrap();
    let mut first = bob.queue_subscribe("orders.eu", "workers".into()).await.unwrap();
    let mut second = bob.queue_subscribe("orders.*", "workers".into()).await.unwrap();
    settled(&bob).await;
    let mut headers = HeaderMap::new();
    headers.insert("Tenant", "x");
    headers.append("Tenant", "y");
    for n in 0..50 {
        ann.publish_with_headers("orders.eu", headers.clone(), n.to_string().into())
            .await
            .unwrap();
    }
    ann.publish("orders.eu.created", "deep".into()).await.unwrap();
    ann.flush().await.unwrap();
    for n in 0..50 {
        let message = timeout(PATIENCE, all.next()).await.unwrap().unwrap();
        assert_eq!(message.payload, n.to_string());
        assert_eq!(message.headers.as_ref(), Some(&headers));
        assert_eq!(next(&mut one).await, n.to_string());
    }
    assert_eq!(next(&mut all).await, "deep");
    // Each went to one of the two members, and both had their share.
    let mut shares = [0, 0];
    for _ in 0..50 {
        tokio::select! {
            biased;
            _ = next(&mut first) => shares[0] += 1,
            _ = next(&mut second) => shares[1] += 1,
        }
    }
    assert!(shares[0] > 0 && shares[1] > 0, "{shares:?}");
    all.unsubscribe_after(1).await.unwrap();
    drain(&bob, &mut one).await;
}

async fn drain(client: &Client, last: &mut Subscriber) {
    client.drain().await.unwrap();
    assert!(timeout(PATIENCE, last.next()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_or_refused_at_once() {
    let node = node(&[]);
    let (ann, bob) = (client(&node).await, client(&node).await);
    let nobody = ann.request("greet", "x".into()).await.unwrap_err();
    assert_eq!(nobody.kind(), RequestErrorKind::NoResponders);
    let mut greet = bob.subscribe("greet").await.unwrap();
    settled(&bob).await;
    let answers = tokio::spawn(async move {
        while let Some(message) = greet.next().await {
            let text = format!("hello {}", String::from_utf8_lossy(&message.payload));
            bob.publish(message.reply.unwrap(), text.into()).await.unwrap();
        }
    });
    for n in 0..20 {
        let answer = ann.request("greet", n.to_string().into()).await.unwrap();
        assert_eq!(answer.payload, format!("hello {n}"));
    }
    answers.abort();
    // A Weft service of this node answers as well.
    let _greet = node.serve("wave", &["--exec", "printf 'bye '; cat"]);
    assert_eq!(ann.request("wave", "ann".into()).await.unwrap().payload, "bye ann");
    let _bad = node.serve("bad", &["--exec", "echo broken >&2; exit 7"]);
    let failed = ann.request("bad", "x".into()).await.unwrap();
    let headers = failed.headers.unwrap();
    assert!(headers.get("Nats-Service-Error").unwrap().as_str().contains("broken"));
    assert!(headers.get("Nats-Service-Error-Code").is_some());
}

#[test]
fn each_mistake_is_named() {
    let mut node = node(&[]);
    for (sent, said) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "-ERR 'Unknown Protocol Operation'"),
        (b"\x16\x03\x01\x02\x00\x01", "-ERR 'Unknown Protocol Operation'"),
        (b"PUB a 99999999\r\n", "-ERR 'Maximum Payload Violation'"),
        (b"PUB a\r\n", "-ERR 'Parser Error'"),
        (b"PUB a 2\r\nhixx", "-ERR 'Parser Error'"),
        (b"CONNECT {\r\n", "-ERR 'Parser Error'"),
        (
            b"CONNECT {\"no_responders\":true}\r\n",
            "-ERR 'No responders requires headers support'",
        ),
        (
            &[b"SUB ".to_vec(), vec![b'a'; 5000]].concat(),
            "-ERR 'Maximum Control Line Exceeded'",
        ),
    ] {
        let said_all = talk(&node, sent);
        assert!(
            said_all.starts_with("INFO {") && said_all.contains(said),
            "{sent:?}: {said_all}"
        );
    }
    // What is wrong with one operation does not end the conversation.
    let mut stream = raw(&node);
    stream
        .write_all(b"CONNECT {\"verbose\":true}\r\nSUB a..b 1\r\nSUB a.>.b 1\r\nPUB a.*  1\r\nx\r\nPUB $SYS.x 0\r\n\r\nSUB ok 1\r\nPING\r\n")
        .unwrap();
    let said = read_until(&mut stream, "PONG");
    let errors = said.matches("-ERR 'Invalid Subject'").count();
    assert_eq!(errors, 2, "{said}");
    assert!(said.contains("-ERR 'Invalid Publish Subject'"), "{said}");
    assert!(
        said.contains("-ERR 'Permissions Violation for Publish to \"$SYS.x\"'"),
        "{said}"
    );
    assert!(said.ends_with("+OK\r\nPONG\r\n"), "{said}");
    assert!(node.is_alive());
}

#[test]
fn who_does_not_read_is_cut_and_harms_nobody() {
    let config = "[nats]\npending_bytes_max = \"2MiB\"\nwrite_timeout = \"500ms\"\n";
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("weft.toml");
    fs::write(&file, config).unwrap();
    let mut node = node(&["--config", file.to_str().unwrap()]);
    let mut slow = raw(&node);
    slow.write_all(b"CONNECT {}\r\nSUB flood 1\r\nPING\r\n").unwrap();
    read_until(&mut slow, "PONG");
    let mut fast = raw(&node);
    fast.write_all(b"CONNECT {}\r\nSUB other 1\r\n").unwrap();
    let message = [b"PUB flood 65536\r\n".to_vec(), vec![b'x'; 65_536], b"\r\n".to_vec()].concat();
    let mut publisher = raw(&node);
    until("the slow consumer is counted", || {
        for _ in 0..16 {
            publisher.write_all(&message).unwrap();
        }
        let metrics = node.send(&node.request("GET", "/metrics")).text();
        metrics
            .contains("weft_dropped_total{queue=\"nats_connection\",reason=\"slow\"} 1")
            .then_some(())
    });
    publisher.write_all(b"PUB other 2\r\nhi\r\n").unwrap();
    read_until(&mut fast, "MSG other 1 2\r\nhi");
    let mut left = Vec::new();
    // It ends, whether by a last word or by a reset.
    let _ = slow.read_to_end(&mut left);
    let doctor = node.run(&["doctor"]).text();
    assert!(doctor.contains("did not read"), "{doctor}");
    assert!(node.is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_with_credentials_come_in() {
    let pair = nkeys::KeyPair::new_user();
    let home = tempfile::tempdir().unwrap();
    let secrets = home.path().join("nats");
    let text = format!("token t0p\nuser ann pa55\nnkey {}\n", pair.public_key());
    fs::write(&secrets, text).unwrap();
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();
    let node = Node::new("alpha")
        .arg("--nats")
        .arg("127.0.0.1:0")
        .env("WEFT__NATS__CREDENTIALS", secrets.to_str().unwrap())
        .started();
    let url = node.nats();
    let good = [
        ConnectOptions::with_token("t0p".into()),
        ConnectOptions::with_user_and_password("ann".into(), "pa55".into()),
        ConnectOptions::with_nkey(pair.seed().unwrap()),
    ];
    for options in good {
        let client = options.connect(&url).await.unwrap();
        client.flush().await.unwrap();
    }
    let stranger = nkeys::KeyPair::new_user();
    let bad = [
        ConnectOptions::new(),
        ConnectOptions::with_token("t0".into()),
        ConnectOptions::with_user_and_password("ann".into(), "pa5".into()),
        ConnectOptions::with_nkey(stranger.seed().unwrap()),
    ];
    for options in bad {
        assert!(options.connect(&url).await.is_err());
    }
    let said = talk(&node, b"SUB > 1\r\n");
    assert!(said.contains("-ERR 'Authorization Violation'"), "{said}");
    let said = talk(&node, b"");
    assert!(
        said.contains("\"nonce\":") && said.contains("-ERR 'Authentication Timeout'"),
        "{said}"
    );
}

#[test]
fn a_door_to_the_network_needs_credentials() {
    let mut node = Node::new("alpha").arg("--nats").arg("0.0.0.0:0");
    node.spawn();
    let (code, log) = node.wait_ended();
    assert_ne!(code, Some(0));
    assert!(log.contains("nats.listen") && log.contains("nats.credentials"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_encrypts_it() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let home = tempfile::tempdir().unwrap();
    let (certificate, key) = (home.path().join("cert.pem"), home.path().join("key.pem"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let node = Node::new("alpha")
        .arg("--nats")
        .arg("127.0.0.1:0")
        .env("WEFT__NATS__TLS_CERTIFICATE", certificate.to_str().unwrap())
        .env("WEFT__NATS__TLS_KEY", key.to_str().unwrap())
        .started();
    // Who of the two TLS stacks in this program has the word.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let url = node.nats().replace("127.0.0.1", "localhost");
    assert!(url.starts_with("tls://"), "{url}");
    assert!(
        async_nats::connect(&url).await.is_err(),
        "the certificate is nobody's the client knows"
    );
    let options = ConnectOptions::new()
        .add_root_certificates(certificate)
        .require_tls(true);
    let client = options.connect(&url).await.unwrap();
    let mut own = client.subscribe("a").await.unwrap();
    client.publish("a", "secret".into()).await.unwrap();
    assert_eq!(next(&mut own).await, "secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_stays_out_and_tls_may_come_first() {
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = home.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let authority = {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertifiedIssuer::self_signed(params, key).unwrap()
    };
    let signed = |names: &[&str], file: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &authority)
            .unwrap();
        (
            write(&format!("{file}.pem"), made.pem()),
            write(&format!("{file}.key"), key.serialize_pem()),
        )
    };
    let roots = write("authority.pem", authority.pem());
    let (certificate, key) = signed(&["localhost"], "door");
    let node = Node::new("alpha")
        .arg("--nats")
        .arg("127.0.0.1:0")
        .env("WEFT__NATS__TLS_CERTIFICATE", certificate.to_str().unwrap())
        .env("WEFT__NATS__TLS_KEY", key.to_str().unwrap())
        .env("WEFT__NATS__TLS_CLIENT_AUTHORITIES", roots.to_str().unwrap())
        .env("WEFT__NATS__TLS_FIRST", "auto")
        .started();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let url = node.nats().replace("127.0.0.1", "localhost");
    let known = || {
        let (certificate, key) = signed(&["ann"], "client");
        ConnectOptions::new()
            .add_root_certificates(roots.clone())
            .add_client_certificate(certificate, key)
            .require_tls(true)
    };
    let stranger = ConnectOptions::new()
        .add_root_certificates(roots.clone())
        .require_tls(true);
    assert!(stranger.connect(&url).await.is_err(), "it showed no certificate");
    // INFO first, as most do, and TLS first.
    for options in [known(), known().tls_first()] {
        let client = options.connect(&url).await.unwrap();
        client.flush().await.unwrap();
        assert!(client.server_info().tls_required);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_change_to_another_door_that_may_be_told_of() {
    // Known before the nodes are there, and none that the system gives to others meanwhile.
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let ports: Vec<u16> = (first..)
        .filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .take(4)
        .collect();
    let door = |name: &str, port: u16| Node::new(name).arg("--nats").arg(&format!("127.0.0.1:{port}"));
    let advertised = |port: u16| format!("127.0.0.1:{port}");
    let mut alpha = door("alpha", ports[0])
        .env("WEFT__NATS__ADVERTISE", &advertised(ports[0]))
        .started();
    let ticket = alpha.ticket(3);
    let mut early = raw(&alpha);
    early.write_all(b"CONNECT {\"protocol\":1}\r\nPING\r\n").unwrap();
    read_until(&mut early, "PONG");
    let _beta = door("beta", ports[1])
        .env("WEFT__NATS__ADVERTISE", &advertised(ports[1]))
        .arg("--join")
        .arg(&ticket)
        .started();
    let delta = door("delta", ports[3])
        .env("WEFT__NATS__ADVERTISE", &advertised(ports[3]))
        .arg("--join")
        .arg(&ticket)
        .started();
    // It does not say where it is, and says of nobody else.
    let gamma = door("gamma", ports[2]).arg("--join").arg(&ticket).started();
    let resident = client(&gamma).await;
    assert!(resident.server_info().connect_urls.is_empty());
    // Clients that were there before are told as well; of who is revoked they are told no more.
    read_until(&mut early, &advertised(ports[3]));
    alpha.run(&["member", "revoke", delta.id(), "--yes"]).ok();
    // async-nats reads addresses when it connects, and not in an INFO that comes later.
    let wanderer = async {
        loop {
            let wanderer = client(&alpha).await;
            let told = wanderer.server_info().connect_urls;
            if !told.contains(&advertised(ports[3])) {
                assert_eq!(told, [advertised(ports[0]), advertised(ports[1])]);
                return wanderer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let wanderer = timeout(PATIENCE, wanderer).await.expect("delta's door is not told of");
    let mut heard = wanderer.subscribe("news").await.unwrap();
    alpha.stop();
    until("it is at beta's door", || {
        let is_connected = wanderer.connection_state() == async_nats::connection::State::Connected;
        (is_connected && wanderer.server_info().port == ports[1]).then_some(())
    });
    wanderer.flush().await.unwrap();
    let said = timeout(PATIENCE, async {
        // Interest needs a moment to be known, and what is said before it is nobody's.
        loop {
            resident.publish("news", "after".into()).await.unwrap();
            if let Ok(said) = timeout(Duration::from_millis(500), heard.next()).await {
                return said;
            }
        }
    });
    assert_eq!(said.await.unwrap().unwrap().payload, "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_says_so_and_then_goes() {
    let mut node = node(&[]);
    let (events, mut seen) = tokio::sync::mpsc::channel(16);
    let options = ConnectOptions::new().event_callback(move |event| {
        let events = events.clone();
        async move {
            let _ = events.send(event).await;
        }
    });
    let client = options.connect(node.nats()).await.unwrap();
    client.flush().await.unwrap();
    let stopped = tokio::task::spawn_blocking(move || node.stop());
    let mut is_lame = false;
    loop {
        match timeout(PATIENCE, seen.recv()).await.unwrap().unwrap() {
            Event::LameDuckMode => is_lame = true,
            Event::Disconnected => break,
            _ => {}
        }
    }
    assert!(is_lame);
    assert_eq!(stopped.await.unwrap(), Some(0));
}
