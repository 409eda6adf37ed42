//! Weft's figures beside those of nats-server, Zenoh, gRPC and plain TCP, in one run on one machine.
//!
//! `tests/bench/compare` builds what is needed and runs this. Weft's figures between nodes are those of `weft bench --json`; the rest is spoken with
//! plain sockets and blocks made before, so that the server is measured and not the client, or by NATS's own client, async-nats, which does for an
//! application what a node's handle does. `WEFT_BIN` and `NATS_SERVER` name the binaries; without
//! a nats-server (the Debian package has one) or a redis-server its column is empty, and so are those of Zenoh and gRPC without `WEFT_BENCH_PEERS`, the program of
//! `tests/bench/peers`. Words choose among the figures: `tests/bench/compare call clients`. A busy machine slows both, so look at the ratio: rounds take turns,
//! and each figure is the better of its rounds.

#![expect(clippy::print_stdout, reason = "the figures are the output")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops where something is wrong")]
#![allow(
    clippy::disallowed_methods,
    reason = "its tasks are a NATS application's, not a node's"
)]

#[path = "compare/durable.rs"]
mod durable;

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};

const ROUNDS: usize = 3;
/// Bytes that a round publishes, and messages at most.
const ROUND_BYTES: usize = 600 << 20;
const ROUND_MESSAGES_MAX: usize = 2_000_000;
/// How long requests and echoes are counted.
const FOR: Duration = Duration::from_secs(2);
/// Bytes that are written at once.
const BLOCK_BYTES: usize = 64 << 10;
/// Messages that a NATS client may be ahead of its reader.
const AHEAD_MAX: usize = 50_000;
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    child: Child,
    port: u16,
    _home: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    async fn client(&self) -> async_nats::Client {
        let options = async_nats::ConnectOptions::new().subscription_capacity(AHEAD_MAX * 2);
        options.connect(format!("127.0.0.1:{}", self.port)).await.unwrap()
    }

    fn start(mut command: Command, home: tempfile::TempDir, port: u16) -> Server {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let server = Server {
            child,
            port,
            _home: home,
        };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the server does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn weft() -> Server {
        let (home, port) = (tempfile::tempdir().unwrap(), free_port());
        let mut command = Command::new(weft_binary());
        command.arg("--data-dir").arg(home.path().join("data"));
        command.args([
            "run",
            "--no-mdns",
            "--api",
            "127.0.0.1:0",
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
        ]);
        command.args(["--nats", &format!("127.0.0.1:{port}")]);
        Server::start(command, home, port)
    }

    fn nats_server() -> Option<Server> {
        let binary = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
        Command::new(&binary)
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .ok()?;
        let (home, port) = (tempfile::tempdir().unwrap(), free_port());
        let mut command = Command::new(binary);
        command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
        Some(Server::start(command, home, port))
    }

    /// A connection that has said who it is and `then`.
    fn connect(&self, then: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let hello = "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\n";
        stream.write_all(format!("{hello}{then}PING\r\n").as_bytes()).unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"PONG\r\n") {
            let mut piece = [0; 1024];
            let len = stream.read(&mut piece).unwrap();
            assert!(len > 0, "the server closed the connection");
            heard.extend_from_slice(&piece[..len]);
        }
        stream
    }
}

/// The `weft` that is measured: the one that was built beside this program, if no other is named.
fn weft_binary() -> PathBuf {
    let beside = || std::env::current_exe().unwrap().with_file_name("weft");
    std::env::var_os("WEFT_BIN").map_or_else(beside, PathBuf::from)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Deliveries a second from one publisher to so many subscribers, all of them together.
fn publish(server: &Server, subscribers: usize, bytes: usize) -> f64 {
    let one = format!("MSG bench.a 1 {bytes}\r\n").len() + bytes + 2;
    let head = format!("PUB bench.a {bytes}\r\n");
    let message = [head.as_bytes(), &vec![b'x'; bytes], b"\r\n"].concat();
    let block_len = BLOCK_BYTES / message.len() + 1;
    let block = message.repeat(block_len);
    let blocks = (ROUND_BYTES / message.len()).min(ROUND_MESSAGES_MAX) / subscribers / block_len;
    let messages = blocks * block_len;
    let readers: Vec<_> = (0..subscribers)
        .map(|_| {
            let mut stream = server.connect("SUB bench.a 1\r\n");
            std::thread::spawn(move || {
                let mut left = messages * one;
                let mut buffer = vec![0; 256 << 10];
                while left > 0 {
                    let len = stream.read(&mut buffer).unwrap();
                    assert!(len > 0, "cut off with {left} bytes to come");
                    left = left.saturating_sub(len);
                }
            })
        })
        .collect();
    let mut publisher = server.connect("");
    let started = Instant::now();
    for _ in 0..blocks {
        publisher.write_all(&block).unwrap();
    }
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    (messages * subscribers) as f64 / started.elapsed().as_secs_f64()
}

/// Requests a second through a server, so many under way at once.
fn request(server: &Server, in_flight: usize, bytes: usize) -> f64 {
    let mut answerer = server.connect("SUB ask 1\r\n");
    let payload = vec![b'x'; bytes];
    let answer = [format!("PUB inbox {bytes}\r\n").as_bytes(), &payload, b"\r\n"].concat();
    let question_len = format!("MSG ask 1 inbox {bytes}\r\n").len() + bytes + 2;
    // It ends with its round: two would answer the next one's questions twice.
    let answering = answerer.try_clone().unwrap();
    let ended = std::thread::spawn(move || echo(&mut answerer, question_len, &answer));
    let mut asker = server.connect("SUB inbox 1\r\n");
    let question = [format!("PUB ask inbox {bytes}\r\n").as_bytes(), &payload, b"\r\n"].concat();
    let answer_len = format!("MSG inbox 1 {bytes}\r\n").len() + bytes + 2;
    let per_second = ask(&mut asker, &question, answer_len, in_flight);
    answering.shutdown(Shutdown::Both).unwrap();
    ended.join().unwrap();
    per_second
}

/// Answers each question that has come whole, as many at once as have come.
fn echo(stream: &mut TcpStream, question_len: usize, answer: &[u8]) {
    let (mut buffer, mut pending) = (vec![0; 256 << 10], 0);
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        pending += len;
        let answers = answer.repeat(pending / question_len);
        pending %= question_len;
        if stream.write_all(&answers).is_err() {
            return;
        }
    }
}

/// Keeps so many questions under way; how many were answered in a second.
fn ask(stream: &mut TcpStream, question: &[u8], answer_len: usize, in_flight: usize) -> f64 {
    let (mut buffer, mut pending, mut answered) = (vec![0; 256 << 10], 0, 0);
    let started = Instant::now();
    stream.write_all(&question.repeat(in_flight)).unwrap();
    while started.elapsed() < FOR {
        let len = stream.read(&mut buffer).unwrap();
        assert!(len > 0, "cut off");
        pending += len;
        let came = pending / answer_len;
        pending %= answer_len;
        answered += came;
        stream.write_all(&question.repeat(came)).unwrap();
    }
    answered as f64 / started.elapsed().as_secs_f64()
}

/// Messages a second from one NATS client through a server to another.
fn publish_by_clients(server: &Server, bytes: usize) -> f64 {
    in_runtime(async {
        let (publisher, reader) = (server.client().await, server.client().await);
        let mut wanted = reader.subscribe("bench.clients").await.unwrap();
        reader.flush().await.unwrap();
        let payload = Bytes::from(vec![b'x'; bytes]);
        let messages = (ROUND_BYTES / bytes).min(ROUND_MESSAGES_MAX);
        let started = Instant::now();
        let read = Arc::new(AtomicUsize::new(0));
        let publishing = async {
            for sent in 0..messages {
                // What the reader is too slow for, client and server drop, and it would be waited for in vain.
                while sent - read.load(Ordering::Relaxed) > AHEAD_MAX {
                    tokio::task::yield_now().await;
                }
                publisher.publish("bench.clients", payload.clone()).await.unwrap();
            }
            publisher.flush().await.unwrap();
        };
        let reading = tokio::spawn({
            let read = Arc::clone(&read);
            async move {
                for _ in 0..messages {
                    wanted.next().await.unwrap();
                    read.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let (_, read) = tokio::join!(publishing, reading);
        read.unwrap();
        messages as f64 / started.elapsed().as_secs_f64()
    })
}

/// Requests a second of one NATS client that another answers, so many under way at once.
fn request_by_clients(server: &Server, in_flight: usize, bytes: usize) -> f64 {
    in_runtime(async {
        let (asker, answerer) = (server.client().await, server.client().await);
        let mut questions = answerer.subscribe("ask.clients").await.unwrap();
        answerer.flush().await.unwrap();
        let answering = tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                let to = question.reply.unwrap();
                answerer.publish(to, question.payload).await.unwrap();
            }
        });
        let payload = Bytes::from(vec![b'x'; bytes]);
        // The server may know the question before it knows who answers.
        while asker.request("ask.clients", payload.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let started = Instant::now();
        let asking = (0..in_flight).map(|_| {
            let (asker, payload) = (asker.clone(), payload.clone());
            tokio::spawn(async move {
                let mut answered = 0;
                while started.elapsed() < FOR {
                    asker.request("ask.clients", payload.clone()).await.unwrap();
                    answered += 1;
                }
                answered
            })
        });
        let answered = futures::future::join_all(asking).await;
        let per_second = answered.into_iter().map(Result::unwrap).sum::<u64>() as f64 / started.elapsed().as_secs_f64();
        answering.abort();
        per_second
    })
}

fn in_runtime<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

/// The least that a call could cost: bytes there and back on one connection.
fn tcp_echo(in_flight: usize, bytes: usize) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut asker = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut answerer, _) = listener.accept().unwrap();
    asker.set_nodelay(true).unwrap();
    answerer.set_nodelay(true).unwrap();
    let body = vec![7; bytes];
    std::thread::spawn(move || echo(&mut answerer, bytes, &vec![7; bytes]));
    ask(&mut asker, &body, bytes, in_flight)
}

/// A figure of `weft bench`.
fn bench(args: &[&str], figure: &str) -> f64 {
    let mut command = Command::new(weft_binary());
    command.arg("bench").args(args).args(["--for", "2s", "--json"]);
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "weft bench {args:?} failed");
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(line.get("lost").is_none_or(|lost| lost == 0), "{line}");
    line[figure].as_f64().unwrap()
}

/// A figure of Zenoh or gRPC.
fn peers(args: &[&str]) -> Option<f64> {
    let binary = std::env::var_os("WEFT_BENCH_PEERS")?;
    let output = Command::new(binary)
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?} failed");
    Some(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap())
}

/// How another's figure is got.
type Theirs<'a> = Box<dyn Fn() -> Option<f64> + 'a>;

/// One line of the table: how Weft's figure and the other's are got.
struct Figure<'a> {
    name: &'a str,
    beside: &'static str,
    ours: Box<dyn Fn() -> f64 + 'a>,
    theirs: Theirs<'a>,
    /// The smaller, the better.
    is_time: bool,
}

impl<'a> Figure<'a> {
    /// The better of two.
    fn better(&self, one: f64, other: f64) -> f64 {
        if self.is_time { one.min(other) } else { one.max(other) }
    }
}

/// JetStream that syncs, JetStream as it comes, Redis that syncs; started only for figures of durable events.
fn durable_others(words: &[String]) -> [Option<Server>; 3] {
    let is_asked = words.is_empty() || words.iter().any(|word| "durable".starts_with(word.as_str()));
    if !is_asked {
        return [None, None, None];
    }
    [Server::jetstream(true), Server::jetstream(false), Server::redis()]
}

/// Events that are on the disk when they are acknowledged, 128 bytes each.
fn durable_figures(others: &[Option<Server>; 3]) -> Vec<Figure<'_>> {
    let [always, lazy, redis] = others;
    let mut figures = Vec::new();
    for (in_flight, name) in [
        (1, "durable: 1 event at a time"),
        (64, "durable: 64 events at a time"),
        (512, "durable: 512 events at a time"),
    ] {
        let theirs: [(&str, Theirs<'_>); 3] = [
            (
                "JetStream, sync",
                Box::new(move || always.as_ref().map(|server| durable::jetstream(server, in_flight))),
            ),
            (
                "JetStream",
                Box::new(move || lazy.as_ref().map(|server| durable::jetstream(server, in_flight))),
            ),
            (
                "Redis, always",
                Box::new(move || redis.as_ref().map(|server| durable::redis(server, in_flight))),
            ),
        ];
        for (beside, theirs) in theirs {
            figures.push(Figure {
                name,
                beside,
                ours: Box::new(move || bench(&["stream", "--in-flight", &in_flight.to_string()], "events_per_s")),
                theirs,
                is_time: false,
            });
        }
    }
    figures
}

/// The same from NATS's own client: at a node's door, and at a nats-server.
fn door_figures<'a>(door: &'a Server, others: &'a [Option<Server>; 3]) -> Vec<Figure<'a>> {
    let [always, lazy, _] = others;
    let (always, lazy) = (always.as_ref(), lazy.as_ref());
    let mut figures = Vec::new();
    for (in_flight, name) in [
        (1, "durable, NATS door: 1 event at a time"),
        (64, "durable, NATS door: 64 events at a time"),
        (512, "durable, NATS door: 512 events at a time"),
    ] {
        for (beside, server) in [("JetStream, sync", always), ("JetStream", lazy)] {
            figures.push(Figure {
                name,
                beside,
                ours: Box::new(move || durable::jetstream(door, in_flight)),
                theirs: Box::new(move || server.map(|server| durable::jetstream(server, in_flight))),
                is_time: false,
            });
        }
    }
    figures.push(Figure {
        name: "durable, NATS door: events pulled and settled",
        beside: "JetStream",
        ours: Box::new(|| durable::pulled(door)),
        theirs: Box::new(move || lazy.map(durable::pulled)),
        is_time: false,
    });
    figures
}

/// JetStream and etcd, three servers each; started only for figures of copies, and never both at work.
fn copies_others(words: &[String]) -> [Option<Vec<Server>>; 2] {
    match words.is_empty() || words.iter().any(|word| "copies".starts_with(word.as_str())) {
        true => [Server::jetstream_of_three(), Server::etcd_of_three()],
        false => [None, None],
    }
}

/// Events that are on the disks of two of three nodes when they are acknowledged, 128 bytes each.
fn copies_figures([jetstream, etcd]: &[Option<Vec<Server>>; 2]) -> Vec<Figure<'_>> {
    let figure = |in_flight: usize, name, beside, theirs| Figure {
        name,
        beside,
        ours: Box::new(move || {
            let args = ["stream", "--replicas", "3", "--in-flight", &in_flight.to_string()];
            bench(&args, "events_per_s")
        }),
        theirs,
        is_time: false,
    };
    let all = [
        (1, "copies: 1 event at a time"),
        (64, "copies: 64 events at a time"),
        (256, "copies: 256 events at a time"),
    ];
    let pair = |(in_flight, name)| {
        let of_jetstream = move || Some(durable::jetstream(&jetstream.as_ref()?[0], in_flight));
        let of_etcd = move || durable::etcd(&etcd.as_ref()?[0], in_flight);
        [
            figure(in_flight, name, "JetStream R3", Box::new(of_jetstream) as Theirs<'_>),
            figure(in_flight, name, "etcd, three", Box::new(of_etcd)),
        ]
    };
    all.into_iter().flat_map(pair).collect()
}

fn main() {
    let (flags, words): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let as_json = flags.iter().any(|flag| flag == "--json");
    let (door, nats) = (Server::weft(), Server::nats_server());
    let between = |args: &'static [&'static str], figure: &'static str| Box::new(move || bench(args, figure));
    let published = |subscribers, bytes| {
        let nats = nats.as_ref();
        Box::new(move || nats.map(|nats| publish(nats, subscribers, bytes)))
    };
    let asked = |in_flight, bytes| {
        let nats = nats.as_ref();
        Box::new(move || nats.map(|nats| request(nats, in_flight, bytes)))
    };
    let published_by_clients = |bytes| {
        let nats = nats.as_ref();
        Box::new(move || nats.map(|nats| publish_by_clients(nats, bytes)))
    };
    let asked_by_clients = |in_flight, bytes| {
        let nats = nats.as_ref();
        Box::new(move || nats.map(|nats| request_by_clients(nats, in_flight, bytes)))
    };
    let (nats_server, clients, tcp, rate) = ("nats-server", "NATS clients", "TCP echo", "deliveries_per_s");
    let figure = |name, beside, ours, theirs| Figure {
        name,
        beside,
        ours,
        theirs,
        is_time: false,
    };
    let beside_peers = |args: &'static [&'static str]| Box::new(move || peers(args)) as Box<dyn Fn() -> Option<f64>>;
    let (zenoh, grpc) = ("Zenoh", "gRPC");
    let figures = [
        figure(
            "between nodes: publish 64 B, 1 to 1",
            nats_server,
            between(&["pubsub", "--size", "64"], rate) as Box<dyn Fn() -> f64>,
            published(1, 64) as Box<dyn Fn() -> Option<f64>>,
        ),
        figure(
            "between nodes: publish 64 B, 1 to 4",
            nats_server,
            between(&["fanout", "--subscribers", "4"], rate),
            published(4, 64),
        ),
        figure(
            "between nodes: publish 1 KiB, 1 to 1",
            nats_server,
            between(&["pubsub", "--size", "1KiB"], rate),
            published(1, 1024),
        ),
        figure(
            "between nodes: publish 64 KiB, 1 to 1",
            nats_server,
            between(&["pubsub", "--size", "64KiB"], rate),
            published(1, 65_536),
        ),
        figure(
            "between nodes: call 64 B, 1 at a time",
            nats_server,
            between(&["call", "--in-flight", "1"], "calls_per_s"),
            asked(1, 64),
        ),
        figure(
            "between nodes: call 64 B, 64 at a time",
            nats_server,
            between(&["call", "--in-flight", "64"], "calls_per_s"),
            asked(64, 64),
        ),
        figure(
            "between nodes: publish 64 B, 1 to 1",
            clients,
            between(&["pubsub", "--size", "64"], rate),
            published_by_clients(64),
        ),
        figure(
            "between nodes: call 64 B, 1 at a time",
            clients,
            between(&["call", "--in-flight", "1"], "calls_per_s"),
            asked_by_clients(1, 64),
        ),
        figure(
            "between nodes: call 64 B, 64 at a time",
            clients,
            between(&["call", "--in-flight", "64"], "calls_per_s"),
            asked_by_clients(64, 64),
        ),
        figure(
            "between nodes: publish 64 B, 1 to 1",
            zenoh,
            between(&["pubsub", "--size", "64"], rate),
            beside_peers(&["zenoh", "publish", "1", "64"]),
        ),
        figure(
            "between nodes: publish 64 B, 1 to 4",
            zenoh,
            between(&["fanout", "--subscribers", "4"], rate),
            beside_peers(&["zenoh", "publish", "4", "64"]),
        ),
        figure(
            "between nodes: publish 1 KiB, 1 to 1",
            zenoh,
            between(&["pubsub", "--size", "1KiB"], rate),
            beside_peers(&["zenoh", "publish", "1", "1024"]),
        ),
        figure(
            "between nodes: publish 64 KiB, 1 to 1",
            zenoh,
            between(&["pubsub", "--size", "64KiB"], rate),
            beside_peers(&["zenoh", "publish", "1", "65536"]),
        ),
        Figure {
            is_time: true,
            ..figure(
                "between nodes: half there, 10 000/s, µs",
                zenoh,
                between(&["latency", "--rate", "10000"], "p50_us"),
                beside_peers(&["zenoh", "latency", "10000", "64"]),
            )
        },
        figure(
            "between nodes: call 64 B, 1 at a time",
            zenoh,
            between(&["call", "--in-flight", "1"], "calls_per_s"),
            beside_peers(&["zenoh", "query", "1", "64"]),
        ),
        figure(
            "between nodes: call 64 B, 64 at a time",
            zenoh,
            between(&["call", "--in-flight", "64"], "calls_per_s"),
            beside_peers(&["zenoh", "query", "64", "64"]),
        ),
        figure(
            "between nodes: call 64 B, 1 at a time",
            grpc,
            between(&["call", "--in-flight", "1"], "calls_per_s"),
            beside_peers(&["grpc", "call", "1", "64"]),
        ),
        figure(
            "between nodes: call 64 B, 64 at a time",
            grpc,
            between(&["call", "--in-flight", "64"], "calls_per_s"),
            beside_peers(&["grpc", "call", "64", "64"]),
        ),
        figure(
            "between nodes: call 64 B, 1 at a time",
            tcp,
            between(&["call", "--in-flight", "1"], "calls_per_s"),
            Box::new(|| Some(tcp_echo(1, 64))),
        ),
        figure(
            "between nodes: call 64 KiB, 64 at a time",
            tcp,
            between(&["call", "--size", "64KiB", "--in-flight", "64"], "calls_per_s"),
            Box::new(|| Some(tcp_echo(64, 65_536))),
        ),
        figure(
            "NATS door: publish 64 B, 1 to 1",
            nats_server,
            Box::new(|| publish(&door, 1, 64)),
            published(1, 64),
        ),
        figure(
            "NATS door: publish 64 B, 1 to 4",
            nats_server,
            Box::new(|| publish(&door, 4, 64)),
            published(4, 64),
        ),
        figure(
            "NATS door: request 64 B, 1 at a time",
            nats_server,
            Box::new(|| request(&door, 1, 64)),
            asked(1, 64),
        ),
        figure(
            "NATS door: request 64 B, 64 at a time",
            nats_server,
            Box::new(|| request(&door, 64, 64)),
            asked(64, 64),
        ),
    ];
    let others = durable_others(&words);
    if others.iter().any(Option::is_some) {
        door.make_stream(1);
    }
    let three = copies_others(&words);
    let figures = figures
        .into_iter()
        .chain(durable_figures(&others))
        .chain(door_figures(&door, &others))
        .chain(copies_figures(&three));
    if !as_json {
        println!(
            "{:<42} {:>12}   {:>12} {:<16} {:>6}",
            "figure", "weft /s", "other /s", "", "ratio"
        );
    }
    let is_asked = |figure: &Figure<'_>| {
        let about = format!("{} {}", figure.name, figure.beside);
        words.iter().all(|word| about.contains(word))
    };
    for figure in figures.filter(is_asked) {
        let (mut ours, mut theirs) = (None::<f64>, None::<f64>);
        let better =
            |known: Option<f64>, new: Option<f64>| known.into_iter().chain(new).reduce(|a, b| figure.better(a, b));
        for _ in 0..ROUNDS {
            ours = better(ours, Some((figure.ours)()));
            theirs = better(theirs, (figure.theirs)());
        }
        let ours = ours.unwrap_or_default();
        let ratio = theirs.map(|theirs| ours / theirs);
        if as_json {
            let line = json!({ "figure": figure.name, "weft": ours, "beside": figure.beside, "other": theirs, "ratio": ratio });
            println!("{line}");
        } else {
            let cell =
                |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
            println!(
                "{:<42} {ours:>12.0}   {:>12} {:<16} {:>6}",
                figure.name,
                cell(theirs, 0),
                figure.beside,
                cell(ratio, 2)
            );
        }
    }
}
