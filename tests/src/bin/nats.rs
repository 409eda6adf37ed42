//! Figures of the NATS door beside those of nats-server, in the same run, with the same client.
//!
//! `cargo build --release -p weft-node && cargo run --release -p weft-tests --bin weft-bench-nats`. The client is a plain socket with blocks of
//! operations made before: what is measured is the server. `WEFT_BIN` and `NATS_SERVER` name the binaries; without a nats-server (the Debian
//! package has one) only Weft's figures are printed. A busy machine slows both, so look at the ratio; each figure is the better of its rounds.

#![expect(clippy::print_stdout, reason = "the figures are the output")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops where something is wrong")]

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const ROUNDS: usize = 3;
/// Messages of one round.
const MESSAGES: usize = 2_000_000;
const REQUESTS: usize = 30_000;
const PAYLOAD: [u8; 64] = [b'x'; 64];
/// Messages in one block that is written at once.
const BLOCK: usize = 200;
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
        let binary = std::env::var_os("WEFT_BIN").map_or_else(beside, PathBuf::from);
        let mut command = Command::new(binary);
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

/// The `weft` that was built beside this program.
fn beside() -> PathBuf {
    std::env::current_exe().unwrap().with_file_name("weft")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Messages a second from one publisher to so many subscribers, as they arrive at all of them.
fn publish(server: &Server, subscribers: usize) -> f64 {
    let messages = MESSAGES / subscribers;
    let one = format!("MSG bench.a 1 {}\r\n", PAYLOAD.len()).len() + PAYLOAD.len() + 2;
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
    let message = [
        format!("PUB bench.a {}\r\n", PAYLOAD.len()).as_bytes(),
        &PAYLOAD,
        b"\r\n",
    ]
    .concat();
    let block = message.repeat(BLOCK);
    let started = Instant::now();
    for _ in 0..messages / BLOCK {
        publisher.write_all(&block).unwrap();
    }
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    (messages * subscribers) as f64 / started.elapsed().as_secs_f64()
}

/// Requests a second, one after the other.
fn request(server: &Server) -> f64 {
    let mut answerer = server.connect("SUB ask 1\r\n");
    std::thread::spawn(move || {
        let answer = [format!("PUB inbox {}\r\n", PAYLOAD.len()).as_bytes(), &PAYLOAD, b"\r\n"].concat();
        let question = format!("MSG ask 1 inbox {}\r\n", PAYLOAD.len()).len() + PAYLOAD.len() + 2;
        let mut buffer = vec![0; question];
        while answerer.read_exact(&mut buffer).is_ok() {
            if answerer.write_all(&answer).is_err() {
                return;
            }
        }
    });
    let mut asker = server.connect("SUB inbox 1\r\n");
    let question = [
        format!("PUB ask inbox {}\r\n", PAYLOAD.len()).as_bytes(),
        &PAYLOAD,
        b"\r\n",
    ]
    .concat();
    let mut buffer = vec![0; format!("MSG inbox 1 {}\r\n", PAYLOAD.len()).len() + PAYLOAD.len() + 2];
    let started = Instant::now();
    for _ in 0..REQUESTS {
        asker.write_all(&question).unwrap();
        asker.read_exact(&mut buffer).unwrap();
    }
    REQUESTS as f64 / started.elapsed().as_secs_f64()
}

fn main() {
    let (weft, nats) = (Server::weft(), Server::nats_server());
    println!(
        "{:<32} {:>14} {:>14} {:>8}",
        "figure (64 B, one node)", "weft /s", "nats-server /s", "ratio"
    );
    type Figure = (&'static str, fn(&Server) -> f64);
    let figures: [Figure; 3] = [
        ("publish, 1 to 1", |server| publish(server, 1)),
        ("publish, 1 to 4", |server| publish(server, 4)),
        ("request and reply, 1 at a time", request),
    ];
    for (name, measure) in figures {
        let (mut ours, mut theirs) = (0.0_f64, 0.0_f64);
        // In turns, so that both meet the same neighbours on the machine.
        for _ in 0..ROUNDS {
            ours = ours.max(measure(&weft));
            theirs = theirs.max(nats.as_ref().map_or(f64::NAN, measure));
        }
        println!("{name:<32} {ours:>14.0} {theirs:>14.0} {:>8.2}", ours / theirs);
    }
}
