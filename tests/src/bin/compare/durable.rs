//! Durable events of others: JetStream of a nats-server, Redis Streams, and puts of etcd.

use std::{
    net::TcpStream,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, consumer::pull};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::{FOR, PATIENCE, Server, free_port, in_runtime, peers};

/// Bytes of an event, as in `weft bench stream`.
const BYTES: usize = 128;
const SUBJECT: &str = "durable.events";

impl Server {
    /// A nats-server with JetStream; `always` has it sync before it acknowledges, which it does not do by itself.
    pub(super) fn jetstream(always: bool) -> Option<Server> {
        let binary = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
        let version = Command::new(&binary).arg("--version").stdout(Stdio::null()).status();
        version.ok()?;
        let (home, port) = (tempfile::tempdir().unwrap(), free_port());
        let sync = if always { "sync_interval: always" } else { "" };
        let store = home.path().join("store");
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {:?}\n {sync} }}\n",
            store.display().to_string()
        );
        let file = home.path().join("nats.conf");
        std::fs::write(&file, config).unwrap();
        // Before 2.10 nothing can make it sync.
        let check = Command::new(&binary)
            .arg("-t")
            .arg("-c")
            .arg(&file)
            .stderr(Stdio::null())
            .status();
        if !check.ok()?.success() {
            return None;
        }
        let mut command = Command::new(binary);
        command.arg("-c").arg(&file);
        let server = Server::start(command, home, port);
        server.make_stream(1);
        Some(server)
    }

    /// Three of them that keep a stream together, as they come: they acknowledge before they sync.
    pub(super) fn jetstream_of_three() -> Option<Vec<Server>> {
        let binary = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
        let version = Command::new(&binary).arg("--version").stdout(Stdio::null()).status();
        version.ok()?;
        let routes: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let all: Vec<String> = routes
            .iter()
            .map(|port| format!("\"nats://127.0.0.1:{port}\""))
            .collect();
        let start = |(number, route): (usize, &u16)| {
            let (home, port) = (tempfile::tempdir().unwrap(), free_port());
            let store = home.path().join("store").display().to_string();
            let config = format!(
                "server_name: n{number}\nlisten: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?} }}\n\
                 cluster {{ name: three\n listen: \"127.0.0.1:{route}\"\n routes: [{}] }}\n",
                all.join(", ")
            );
            let file = home.path().join("nats.conf");
            std::fs::write(&file, config).unwrap();
            let mut command = Command::new(&binary);
            command.arg("-c").arg(&file);
            Server::start(command, home, port)
        };
        let servers: Vec<Server> = routes.iter().enumerate().map(start).collect();
        servers[0].make_stream(3);
        Some(servers)
    }

    /// Three etcds, which sync before they acknowledge; the first one's clients are to use it, and it may lead or not.
    pub(super) fn etcd_of_three() -> Option<Vec<Server>> {
        let binary = std::env::var("ETCD").unwrap_or_else(|_| "etcd".into());
        let version = Command::new(&binary).arg("--version").stdout(Stdio::null()).status();
        version.ok()?;
        let peers: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let all = peers.iter().enumerate();
        let all: Vec<String> = all.map(|(n, port)| format!("n{n}=http://127.0.0.1:{port}")).collect();
        let start = |(number, peer): (usize, &u16)| {
            let (home, port) = (tempfile::tempdir().unwrap(), free_port());
            let (clients, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
            let mut command = Command::new(&binary);
            command.args(["--name", &format!("n{number}"), "--log-level", "error"]);
            command.arg("--data-dir").arg(home.path().join("data"));
            command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
            command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
            command.args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            // One alone does not come up, so none is waited for before all are there.
            Server {
                child: command.spawn().unwrap(),
                port,
                _home: home,
            }
        };
        let servers: Vec<Server> = peers.iter().enumerate().map(start).collect();
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", servers[0].port)).is_err() {
            assert!(Instant::now() < deadline, "etcd does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(servers)
    }

    pub(super) fn make_stream(&self, replicas: u32) {
        in_runtime(async {
            let client = self.client().await;
            let stream =
                json!({ "name": "durable", "subjects": [SUBJECT], "storage": "file", "num_replicas": replicas });
            let deadline = Instant::now() + PATIENCE;
            loop {
                let asked = client.request("$JS.API.STREAM.CREATE.durable", Bytes::from(stream.to_string()));
                let answer = asked.await.ok();
                let answer = answer.and_then(|answer| serde_json::from_slice::<Value>(&answer.payload).ok());
                if answer.is_some_and(|answer| answer.get("error").is_none()) {
                    return;
                }
                assert!(Instant::now() < deadline, "JetStream makes no stream");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }

    /// A redis-server that syncs before it answers.
    pub(super) fn redis() -> Option<Server> {
        for program in ["redis-server", "redis-benchmark"] {
            let version = Command::new(program).arg("--version").stdout(Stdio::null()).status();
            version.ok()?;
        }
        let (home, port) = (tempfile::tempdir().unwrap(), free_port());
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        command.arg("--dir").arg(home.path());
        Some(Server::start(command, home, port))
    }
}

/// Events a second that JetStream acknowledges, so many under way at once.
pub(super) fn jetstream(server: &Server, in_flight: usize) -> f64 {
    in_runtime(async {
        let client = server.client().await;
        let payload = Bytes::from(vec![b'x'; BYTES]);
        let started = Instant::now();
        let appending = (0..in_flight).map(|_| {
            let (client, payload) = (client.clone(), payload.clone());
            tokio::spawn(async move {
                let mut acknowledged = 0;
                while started.elapsed() < FOR {
                    let answer = client.request(SUBJECT, payload.clone()).await.unwrap();
                    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
                    assert!(answer["seq"].is_u64(), "{answer}");
                    acknowledged += 1;
                }
                acknowledged
            })
        });
        let acknowledged = futures::future::join_all(appending).await;
        let acknowledged = acknowledged.into_iter().map(Result::unwrap).sum::<u64>();
        acknowledged as f64 / started.elapsed().as_secs_f64()
    })
}

/// Puts a second that etcd acknowledges, so many under way at once.
pub(super) fn etcd(server: &Server, in_flight: usize) -> Option<f64> {
    let url = format!("http://127.0.0.1:{}", server.port);
    peers(&["etcd", "put", &url, &in_flight.to_string(), &BYTES.to_string()])
}

/// Events a second that a consumer is handed and settles, by pulls of 256, as NATS's own client does it.
pub(super) fn pulled(server: &Server) -> f64 {
    const PULLED: usize = 20_000;
    in_runtime(async {
        let client = server.client().await;
        let api = jetstream::new(client.clone());
        let payload = Bytes::from(vec![b'x'; BYTES]);
        let mut acks = Vec::new();
        for _ in 0..PULLED {
            acks.push(api.publish(SUBJECT, payload.clone()).await.unwrap());
            if acks.len() == 256 {
                for ack in acks.drain(..) {
                    ack.await.unwrap();
                }
            }
        }
        let stream = api.get_stream("durable").await.unwrap();
        let config = pull::Config {
            durable_name: Some("worker".to_owned()),
            max_ack_pending: 5000,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.unwrap();
        let started = Instant::now();
        let mut settled = 0;
        while settled < PULLED {
            let mut batch = consumer.fetch().max_messages(256).messages().await.unwrap();
            while let Some(message) = batch.next().await {
                message.unwrap().ack().await.unwrap();
                settled += 1;
            }
        }
        client.flush().await.unwrap();
        let rate = settled as f64 / started.elapsed().as_secs_f64();
        stream.delete_consumer("worker").await.unwrap();
        rate
    })
}

/// Entries a second that Redis acknowledges, by its own benchmark from so many connections.
pub(super) fn redis(server: &Server, connections: usize) -> f64 {
    // For some two seconds, whatever it can.
    let count = if connections == 1 { 2000 } else { 40_000 };
    let entry = "x".repeat(BYTES);
    let mut command = Command::new("redis-benchmark");
    command.args([
        "-p",
        &server.port.to_string(),
        "-c",
        &connections.to_string(),
        "-n",
        &count.to_string(),
        "--csv",
    ]);
    command.args(["XADD", "events", "*", "data", &entry]);
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "redis-benchmark failed");
    let text = String::from_utf8(output.stdout).unwrap();
    let figure = |line: &str| {
        line.strip_prefix("\"XADD")?
            .split("\",\"")
            .nth(1)?
            .trim_matches('"')
            .parse()
            .ok()
    };
    let _ = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    text.lines()
        .find_map(figure)
        .unwrap_or_else(|| panic!("no figure in {text}"))
}
