//! Weft's figures beside those of nats-server and of plain TCP, in one run on one machine.
//!
//! `tests/bench/compare` builds what is needed and runs this. Weft's figures between nodes are those of `weft bench --json`; the rest is spoken with
//! plain sockets and blocks made before, so that the server is measured and not the client. `WEFT_BIN` and `NATS_SERVER` name the binaries; without
//! a nats-server (the Debian package has one) its column is empty. A busy machine slows both, so look at the ratio: rounds take turns,
//! and each figure is the better of its rounds.

#![expect(clippy::print_stdout, reason = "the figures are the output")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops where something is wrong")]

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

const ROUNDS: usize = 3;
/// Bytes that a round publishes, and messages at most.
const ROUND_BYTES: usize = 600 << 20;
const ROUND_MESSAGES_MAX: usize = 2_000_000;
/// How long requests and echoes are counted.
const FOR: Duration = Duration::from_secs(2);
/// Bytes that are written at once.
const BLOCK_BYTES: usize = 64 << 10;
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

/// One line of the table: how Weft's figure and the other's are got.
struct Figure<'a> {
    name: &'a str,
    beside: &'static str,
    ours: Box<dyn Fn() -> f64 + 'a>,
    theirs: Box<dyn Fn() -> Option<f64> + 'a>,
}

fn main() {
    let as_json = std::env::args().any(|argument| argument == "--json");
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
    let (nats_server, tcp, rate) = ("nats-server", "TCP echo", "deliveries_per_s");
    let figure = |name, beside, ours, theirs| Figure {
        name,
        beside,
        ours,
        theirs,
    };
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
    if !as_json {
        println!(
            "{:<42} {:>12}   {:>12} {:<12} {:>6}",
            "figure", "weft /s", "other /s", "", "ratio"
        );
    }
    for figure in figures {
        let (mut ours, mut theirs) = (0.0_f64, None::<f64>);
        for _ in 0..ROUNDS {
            ours = ours.max((figure.ours)());
            theirs = theirs.into_iter().chain((figure.theirs)()).reduce(f64::max);
        }
        let ratio = theirs.map(|theirs| ours / theirs);
        if as_json {
            let line = json!({ "figure": figure.name, "weft": ours, "beside": figure.beside, "other": theirs, "ratio": ratio });
            println!("{line}");
        } else {
            let cell =
                |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
            println!(
                "{:<42} {ours:>12.0}   {:>12} {:<12} {:>6}",
                figure.name,
                cell(theirs, 0),
                figure.beside,
                cell(ratio, 2)
            );
        }
    }
}
