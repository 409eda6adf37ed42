//! The local API as honest applications and as attackers on the same machine meet it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};
use weft_tests::{
    Mesh, Node,
    http::{self, Request},
    until,
};

#[test]
fn nothing_is_told_without_the_token() {
    let node = Node::founder("alpha");
    for path in [
        "/v1/status",
        "/v1/peers",
        "/v1/config",
        "/metrics",
        "/openapi.json",
        "/v1/messages?subject=a",
        "/nowhere",
    ] {
        node.send(&Request::new("GET", path)).problem(401, "denied");
        node.send(&Request::new("GET", path).token("")).problem(401, "denied");
        node.send(&Request::new("GET", path).token(&node.token()[1..]))
            .problem(401, "denied");
        node.send(&Request::new("GET", path).header("authorization", &format!("Basic {}", node.token())))
            .problem(401, "denied");
    }
    let long = "a".repeat(6000);
    node.send(&Request::new("GET", "/v1/status").token(&long))
        .problem(401, "denied");
    for (path, text) in [("/healthz", "ok"), ("/readyz", "ready")] {
        let answer = node.send(&Request::new("GET", path));
        assert_eq!((answer.status, answer.text().trim()), (200, text));
    }
    assert_eq!(node.send(&node.request("GET", "/v1/status")).status, 200);
    let mode = std::os::unix::fs::PermissionsExt::mode(&node.file("api.token").metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn web_pages_do_not_get_in() {
    let node = Node::founder("alpha");
    let port = node.api().port();
    let foreign = [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "169.254.169.254",
    ];
    for host in foreign
        .into_iter()
        .map(str::to_owned)
        .chain([format!("evil.example:{port}"), "127.0.0.1:1".to_owned()])
    {
        node.send(&node.request("GET", "/v1/status").header("host", &host))
            .problem(403, "denied");
        node.send(&Request::new("GET", "/healthz").header("host", &host))
            .problem(403, "denied");
    }
    let twice = node
        .request("GET", "/v1/status")
        .header("host", &format!("127.0.0.1:{port}"))
        .header("host", "evil.example");
    node.send(&twice).problem(400, "invalid");
    for origin in [
        "http://evil.example",
        "null",
        "https://127.0.0.1",
        "file://",
        "http://127.0.0.1:1",
    ] {
        let request = node
            .request("POST", "/v1/messages/a.b")
            .header("origin", origin)
            .body(b"x");
        let refused = node.send(&request);
        refused.problem(403, "denied");
        assert!(refused.header("access-control-allow-origin").is_none(), "{refused:?}");
        let preflight = node.send(&node.request("OPTIONS", "/v1/messages/a.b").header("origin", origin));
        assert!(
            preflight.header("access-control-allow-origin").is_none() && preflight.status >= 400,
            "{preflight:?}"
        );
    }
    let own = node
        .request("GET", "/v1/status")
        .header("origin", &format!("http://127.0.0.1:{port}"));
    assert_eq!(node.send(&own).status, 200);
    for host in [
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
    ] {
        assert_eq!(
            node.send(&node.request("GET", "/v1/status").header("host", &host))
                .status,
            200,
            "{host}"
        );
    }
    // What a form of a page can send is no JSON.
    let form = node
        .request("POST", "/v1/invites")
        .header("content-type", "text/plain")
        .body(b"{}");
    assert!(node.send(&form).status >= 400);
}

#[test]
fn the_unix_socket_needs_no_token_and_is_its_owners_alone() {
    let node = Node::founder("alpha");
    let path = node.status()["socket"].as_str().unwrap().to_owned();
    let mut socket = UnixStream::connect(&path).unwrap();
    socket
        .write_all(b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .unwrap();
    let answer = http::read_answer(&mut socket).unwrap();
    assert_eq!(
        (answer.status, answer.json()["peer_id"].as_str()),
        (200, Some(node.id()))
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
    assert_eq!(mode & 0o077, 0);
}

#[test]
fn a_body_of_a_gigabyte_is_refused_before_it_is_read() {
    let mut node = Node::founder("alpha");
    let before = node.rss_bytes();
    // Announced: refused by its length.
    let mut socket = http::connect(node.api()).unwrap();
    let head = node
        .request("POST", "/v1/messages/a.b")
        .header("content-length", "1073741824")
        .head(node.api());
    socket.write_all(&head).unwrap();
    http::read_answer(&mut socket).unwrap().problem(413, "invalid");
    // Not announced: refused once the limit is reached; the rest is not taken.
    let mut socket = http::connect(node.api()).unwrap();
    socket.set_nonblocking(false).unwrap();
    let request = node
        .request("POST", "/v1/messages/a.b")
        .header("transfer-encoding", "chunked")
        .header("content-length-not", "1");
    let head = String::from_utf8(request.head(node.api()))
        .unwrap()
        .replace("content-length: 0\r\n", "");
    socket.write_all(head.as_bytes()).unwrap();
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend(std::iter::repeat_n(7u8, 0x10000));
    chunk.extend_from_slice(b"\r\n");
    let mut sent = 0u64;
    while sent < (1 << 30) && socket.write_all(&chunk).is_ok() {
        sent += 0x10000;
        let mut peek = [0; 1];
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        if socket.peek(&mut peek).is_ok_and(|n| n > 0) {
            break;
        }
    }
    assert!(sent < 256 << 20, "it took {sent} bytes");
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    if let Ok(answer) = http::read_answer(&mut socket) {
        assert_eq!(answer.status, 413, "{}", answer.text());
    }
    let grown = node.rss_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "memory grew by {grown} bytes");
    assert!(node.is_alive());
}

#[test]
fn slow_and_broken_clients_do_not_hold_the_door() {
    let mut node = Node::new("alpha")
        .env("WEFT__API__HEADER_TIMEOUT", "2s")
        .env("WEFT__API__CONNECTIONS_MAX", "64")
        .started();
    // Slow loris: many connections that never finish their head.
    let mut slow: Vec<TcpStream> = (0..200)
        .filter_map(|_| {
            let mut socket = TcpStream::connect(node.api()).ok()?;
            socket.write_all(b"GET /v1/status HTTP/1.1\r\nx-slow: ").ok()?;
            Some(socket)
        })
        .collect();
    until("an honest client is answered meanwhile", || {
        let answer = node.request("GET", "/v1/status").send(node.api()).ok()?;
        (answer.status == 200).then_some(())
    });
    // Each of them is cut, or answered that it took too long, though it goes on sending.
    let began = Instant::now();
    for socket in &mut slow {
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        loop {
            let mut buffer = [0; 1024];
            match socket.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    let _ = socket.write_all(b"a");
                    assert!(began.elapsed() < Duration::from_secs(60), "a slow client is never cut");
                }
                Err(_) => break,
            }
        }
    }
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"\0\0\0\0\0\0\0\0",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
    ] {
        let mut socket = http::connect(node.api()).unwrap();
        socket.write_all(garbage).unwrap();
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            answer.is_empty() || text.starts_with("HTTP/1.1 4"),
            "{garbage:?}: {text}"
        );
    }
    // Requests whose end two programs could see in different places.
    let both = "POST /v1/messages/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let two = "POST /v1/messages/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde";
    for smuggled in [both, two] {
        let mut socket = http::connect(node.api()).unwrap();
        socket.write_all(smuggled.as_bytes()).unwrap();
        let mut first = [0; 12];
        assert!(
            socket.read_exact(&mut first).is_err() || first.starts_with(b"HTTP/1.1 4"),
            "{:?}",
            String::from_utf8_lossy(&first)
        );
    }
    let huge = node.request("GET", "/v1/status").header("x-huge", &"a".repeat(1 << 20));
    if let Ok(answer) = huge.send(node.api()) {
        assert!((400..500).contains(&answer.status), "{}", answer.status);
    }
    assert!(node.is_alive());
}

#[test]
fn the_document_describes_all_routes() {
    let node = Node::founder("alpha");
    let document = node.get("/openapi.json");
    assert!(
        document["openapi"].as_str().unwrap().starts_with("3.1"),
        "{}",
        document["openapi"]
    );
    let paths = document["paths"].as_object().unwrap();
    let expected = [
        "/v1/status",
        "/v1/peers",
        "/v1/ping",
        "/v1/members",
        "/v1/members/{id}/approve",
        "/v1/members/{id}/revoke",
        "/v1/invites",
        "/v1/invites/{id}",
        "/v1/join",
        "/v1/capabilities",
        "/v1/capabilities/explain",
        "/v1/services",
        "/v1/services/{service}",
        "/v1/services/{service}/endpoints/{endpoint}",
        "/v1/services/{service}/serve",
        "/v1/services/{service}/stats",
        "/v1/services/{service}/ping",
        "/v1/services/{service}/schemas",
        "/v1/services/{service}/drain",
        "/v1/services/{service}/all",
        "/v1/stream/services/{service}",
        "/v1/stream/services/{service}/endpoints/{endpoint}",
        "/v1/stream/calls/{call}",
        "/v1/messages",
        "/v1/messages/{subject}",
        "/v1/traces/{subject}",
        "/v1/presences",
        "/v1/presences/{subject}",
        "/v1/presence-changes",
        "/v1/stream/messages/{subject}",
        "/v1/blobs",
        "/v1/blobs/{hash}",
        "/v1/batches",
        "/v1/batches/{queue}",
        "/v1/socket",
        "/v1/doctor",
        "/v1/config",
        "/v1/config/reload",
        "/healthz",
        "/readyz",
        "/metrics",
    ];
    for path in expected {
        assert!(paths.contains_key(path), "{path} is not described");
    }
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(operation["responses"].is_object(), "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
        }
    }
    // Where a name of the user's stands, no word of the API's own can: else that name could not be used.
    let parts = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    for (one, other) in paths.keys().flat_map(|one| paths.keys().map(move |other| (one, other))) {
        let (one, other) = (parts(one), parts(other));
        let fork = one.iter().zip(&other).find(|(a, b)| a != b);
        assert!(
            fork.is_none_or(|(a, b)| !a.starts_with('{') && !b.starts_with('{')),
            "{one:?} and {other:?} collide"
        );
    }
    // Each reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

#[test]
fn errors_are_problem_documents() {
    let node = Node::founder("alpha");
    let cases = [
        (node.request("GET", "/nowhere"), 404, "not_found"),
        (node.request("DELETE", "/v1/status"), 405, "invalid"),
        (node.request("POST", "/v1/services/nobody").body(b"x"), 404, "not_found"),
        (node.request("POST", "/v1/services/%ff").body(b"x"), 400, "invalid"),
        (node.request("POST", "/v1/messages/orders.*").body(b"x"), 400, "invalid"),
        (node.request("GET", "/v1/messages"), 400, "invalid"),
        (node.request("GET", "/v1/messages?subject=a..b"), 400, "invalid"),
        (
            node.request("GET", "/v1/messages?subject=a&every_ms=-1"),
            400,
            "invalid",
        ),
        (
            node.request("GET", "/v1/messages?subject=a&every_ms=9&group=g"),
            400,
            "invalid",
        ),
        (
            node.request("POST", "/v1/messages/a?expires_ms=soon").body(b"x"),
            400,
            "invalid",
        ),
        (
            node.request("POST", "/v1/messages/a")
                .header("weft-header-expirytime", "tomorrow")
                .body(b"x"),
            400,
            "invalid",
        ),
        (node.request("POST", "/v1/traces/a.*").body(b"x"), 400, "invalid"),
        (node.request("POST", "/v1/presences/a.*").body(b"x"), 400, "invalid"),
        (node.request("POST", "/v1/presences/a").body(&[0; 1025]), 400, "invalid"),
        (
            node.request("POST", "/v1/presences/a?will_subject=%3E").body(b"x"),
            400,
            "invalid",
        ),
        (node.request("GET", "/v1/presences?pattern=a..b"), 400, "invalid"),
        (node.request("GET", "/v1/presence-changes?pattern=a..b"), 400, "invalid"),
        (node.request("DELETE", "/v1/presences/a?number=x"), 400, "invalid"),
        (node.request("DELETE", "/v1/presences/a?number=7"), 404, "not_found"),
        (
            node.request("POST", "/v1/traces/a?only=perhaps").body(b"x"),
            400,
            "invalid",
        ),
        (
            node.request("POST", "/v1/traces/a?within_ms=60001").body(b"x"),
            400,
            "invalid",
        ),
        (
            node.request("POST", "/v1/traces/a")
                .header("weft-header-Odd_Name", "x")
                .body(b"x"),
            400,
            "invalid",
        ),
        (
            node.request("POST", "/v1/traces/a").body(&vec![0; 1 << 20]),
            400,
            "invalid",
        ),
        (
            node.request("POST", "/v1/ping")
                .header("content-type", "application/json")
                .body(b"{"),
            400,
            "invalid",
        ),
        (
            node.request("POST", "/v1/ping").json(&json!({ "node": 7 })),
            400,
            "invalid",
        ),
        (
            node.request("POST", "/v1/ping").json(&json!({ "node": "nobody" })),
            404,
            "not_found",
        ),
        (
            node.request("POST", "/v1/invites").json(&json!({ "ttl_s": -1 })),
            400,
            "invalid",
        ),
        (
            node.request("POST", "/v1/invites").json(&json!({ "surprise": 1 })),
            400,
            "invalid",
        ),
        (
            node.request("POST", "/v1/members/nobody/approve").json(&json!({})),
            404,
            "not_found",
        ),
        (node.request("DELETE", "/v1/invites/none"), 404, "not_found"),
        (
            node.request("POST", "/v1/join")
                .json(&json!({ "ticket": "weft1nonsense" })),
            400,
            "invalid",
        ),
        (
            node.request("GET", "/v1/capabilities/explain?who=nobody&verb=call&what=x"),
            404,
            "not_found",
        ),
        (node.request("GET", "/v1/socket"), 400, "invalid"),
    ];
    for (request, status, kind) in cases {
        let answer = node.send(&request);
        assert_eq!(answer.status, status, "{request:?}: {}", answer.text());
        answer.problem(status, kind);
    }
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = node
        .request("POST", "/v1/ping")
        .header("content-type", "application/json")
        .body(deep.as_bytes());
    node.send(&nested).problem(400, "invalid");
}

#[test]
fn metrics_have_names_units_and_no_peer_ids() {
    let mesh = Mesh::of(2);
    let _echo = mesh[0].serve("echo", &["--echo"]);
    until("known", || {
        (!mesh[1].get("/v1/services").as_array()?.is_empty()).then_some(())
    });
    mesh[1].run(&["call", "echo", "x"]).ok();
    let answer = mesh[1].send(&mesh[1].request("GET", "/metrics"));
    assert!(answer.header("content-type").unwrap().contains("openmetrics-text"));
    let text = answer.text();
    assert!(text.trim_end().ends_with("# EOF") && text.contains("weft_"), "{text}");
    assert!(!text.contains("12D3KooW"), "labels are bounded: {text}");
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let value = line.rsplit(' ').next().unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

/// A subscriber over server-sent events.
struct Events {
    socket: TcpStream,
    raw: Vec<u8>,
}

impl Events {
    fn open(node: &Node, pattern: &str, last: Option<&str>) -> Events {
        let mut request = node.request("GET", &format!("/v1/messages?subject={pattern}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let mut socket = http::connect(node.api()).unwrap();
        socket.write_all(&request.head(node.api())).unwrap();
        let (status, headers, rest) = http::read_head(&mut socket).unwrap();
        assert_eq!(status, 200, "{headers:?}");
        assert!(
            headers
                .iter()
                .any(|(n, v)| n == "content-type" && v.starts_with("text/event-stream")),
            "{headers:?}"
        );
        Events { socket, raw: rest }
    }

    /// Reads until `count` events named `message` are there: their ids and data.
    fn read(&mut self, count: usize) -> Vec<(String, Value)> {
        loop {
            let text = String::from_utf8_lossy(&http::join_chunks(&self.raw).0).into_owned();
            let events: Vec<_> = text
                .split("\n\n")
                .filter(|e| e.contains("event: message"))
                .map(parse_event)
                .collect();
            if events.len() >= count {
                return events;
            }
            let mut buffer = [0; 4096];
            let read = self.socket.read(&mut buffer).unwrap();
            assert!(read > 0, "the stream ended: {text}");
            self.raw.extend_from_slice(&buffer[..read]);
        }
    }
}

fn parse_event(text: &str) -> (String, Value) {
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    (
        field("id:"),
        serde_json::from_str(&field("data:")).unwrap_or_else(|e| panic!("{e}: {text}")),
    )
}

#[test]
fn a_subscriber_resumes_after_its_connection_is_cut() {
    let mesh = Mesh::of(2);
    let publish = |n: usize| {
        let request = mesh[0]
            .request("POST", "/v1/messages/orders.new")
            .header("content-type", "application/json");
        let answer = mesh[0].send(&request.body(format!("{{\"n\":{n}}}").as_bytes()));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let mut events = Events::open(&mesh[1], "orders.%3E", None);
    let mut witness = Events::open(&mesh[1], "orders.%3E", None);
    (1..=3).for_each(publish);
    let first = events.read(3);
    assert_eq!(
        first
            .iter()
            .map(|(_, e)| e["data"]["n"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(first[0].1["datacontenttype"], "application/json");
    assert_eq!(first[0].1["weftpublisher"], mesh[0].id());
    let last = first[2].0.clone();
    drop(events);
    // While nobody listens here; the witness shows that they have arrived on the node.
    (4..=6).for_each(publish);
    witness.read(6);
    let mut resumed = Events::open(&mesh[1], "orders.%3E", Some(&last));
    publish(7);
    let rest: Vec<u64> = resumed
        .read(4)
        .iter()
        .map(|(_, e)| e["data"]["n"].as_u64().unwrap())
        .collect();
    assert_eq!(rest, [4, 5, 6, 7], "none lost, none twice");
    // An id that nobody gave out is no harm.
    let mut strange = Events::open(&mesh[1], "orders.%3E", Some("no-such-id-ÿ"));
    publish(8);
    assert!(strange.read(1).iter().any(|(_, e)| e["data"]["n"] == 8));
}

#[test]
fn no_name_collides_with_a_route() {
    let node = Node::founder("alpha");
    for name in ["serve", "endpoints", "ws", "socket", "instances", "status"] {
        let target = format!("{name}/{name}");
        let _serving = node.serve(name, &["--echo", "--endpoint", name]);
        until("the service is known", || {
            let services = node.get("/v1/services");
            services.as_array()?.iter().any(|s| s["name"] == name).then_some(())
        });
        assert_eq!(
            node.run(&["call", &target, "over the command line"]).ok(),
            "over the command line"
        );
        let path = format!("/v1/services/{name}/endpoints/{name}");
        let answer = node.send(&node.request("POST", &path).body(b"over HTTP"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "over HTTP"), "{path}");
        let subscription = node.subscribe(&[name]);
        let published = node.send(&node.request("POST", &format!("/v1/messages/{name}")).body(b"x"));
        assert_eq!(published.status, 200, "{name}: {}", published.text());
        subscription.wait_lines(1);
    }
}

#[test]
fn a_web_socket_publishes_and_subscribes() {
    let mesh = Mesh::of(2);
    let mut request = format!("ws://{}/v1/socket", mesh[1].api())
        .into_client_request()
        .unwrap();
    let bearer = format!("Bearer {}", mesh[1].token());
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let witness = mesh[0].subscribe(&["chat.>", "--json"]);
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(mesh[1].api()).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
        let send = |value: Value| Message::Text(value.to_string().into());
        socket
            .send(send(json!({ "op": "subscribe", "subject": "chat.>" })))
            .await
            .unwrap();
        assert_eq!(next(&mut socket).await["op"], "subscribed");
        socket
            .send(send(
                json!({ "op": "publish", "subject": "chat.room", "data": { "text": "hello" } }),
            ))
            .await
            .unwrap();
        let (mut published, mut message) = (Value::Null, Value::Null);
        while published.is_null() || message.is_null() {
            let frame = next(&mut socket).await;
            match frame["op"].as_str() {
                Some("published") => published = frame,
                Some("message") => message = frame,
                other => panic!("{other:?}: {frame}"),
            }
        }
        assert_eq!(message["message"]["data"]["text"], "hello");
        assert_eq!(message["message"]["id"], published["id"]);
        for bad in [
            json!({ "op": "dance" }),
            json!({ "op": "publish", "subject": "a..b" }),
            json!([]),
            json!({ "op": "unsubscribe", "subject": "x" }),
        ] {
            socket.send(send(bad)).await.unwrap();
            let error = next(&mut socket).await;
            assert_eq!(error["op"], "error", "{error}");
            assert!(error["problem"]["detail"].is_string(), "{error}");
        }
        socket
            .send(send(
                json!({ "op": "publish", "subject": "chat.room", "data_base64": "AP8=" }),
            ))
            .await
            .unwrap();
        let echoed = loop {
            let frame = next(&mut socket).await;
            if frame["op"] == "message" {
                break frame;
            }
        };
        assert_eq!(
            echoed["message"]["data_base64"], "AP8=",
            "bytes that are no text stay bytes"
        );
    });
    witness.wait_lines(2);
}

async fn next<S>(socket: &mut S) -> Value
where
    S: futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    loop {
        let message = tokio::time::timeout(Duration::from_secs(30), socket.next())
            .await
            .expect("a frame in time");
        if let Message::Text(text) = message.expect("the socket is open").unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}
