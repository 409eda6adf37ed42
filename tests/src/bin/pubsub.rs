//! Figures of publish and subscribe between nodes, beside those of nats-server in the same run.
//!
//! `cargo run --release -p weft-tests --bin weft-bench-pubsub [-- --json]`. A node that publishes and one or four that subscribe, all in this
//! process, signed members over encrypted TCP on loopback; nats-server (the Debian package has one; `NATS_SERVER` names another) is
//! spoken to with plain sockets and blocks made before. A busy machine slows both, so look at the ratio; each figure is the better of its
//! rounds. Every message is counted: one that is missing ends the run.

#![expect(clippy::print_stdout, reason = "the figures are the output")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops where something is wrong")]
#![expect(
    clippy::disallowed_methods,
    reason = "what publishes from outside belongs to no node"
)]

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use weft_node::{
    Node, NodeOptions,
    mesh::MeshConfig,
    patterns::pub_sub::{Delivery, PubSub, PubSubHandle, PublishOptions, Subscription},
    platform::{Platform as _, RealPlatform, new_key},
    trust::{FoundOptions, MeshKind},
};
use weft_protocol::Subject;

const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);
const SUBJECT: &str = "bench.a";
/// Publications whose answers are waited for together.
const IN_FLIGHT: usize = 4096;
/// Messages a second, when latency is measured, and for how long.
const PACE: u32 = 10_000;
const PACE_FOR_S: u32 = 3;

struct Mesh {
    publisher: PubSubHandle,
    subscriptions: Vec<Subscription>,
    nodes: Vec<Node>,
    _home: tempfile::TempDir,
}

impl Mesh {
    /// A publisher and so many nodes that subscribe, once it speaks to them directly.
    async fn start(subscribers: usize) -> Mesh {
        let home = tempfile::tempdir().unwrap();
        let mut nodes: Vec<Node> = Vec::new();
        for n in 0..=subscribers {
            let mut config = MeshConfig::on_loopback(format!("n{n}"));
            // Of the whole process, which holds all nodes and a million messages.
            config.memory_budget_bytes = 64 << 30;
            config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
            if let Some(first) = nodes.first() {
                let address = first.mesh().state().listen[0].clone();
                config.bootstrap = vec![address.with_p2p(first.mesh().local_peer()).unwrap()];
            }
            let name = config.name.clone();
            let key = new_key(&*RealPlatform.entropy());
            let options = NodeOptions::new(key, home.path().join(&name), config);
            let node = Node::builder()
                .pattern(PubSub)
                .start(Arc::new(RealPlatform), options)
                .await
                .unwrap();
            if n == 0 {
                let root = new_key(&*RealPlatform.entropy());
                let options = FoundOptions {
                    kind: MeshKind::Open,
                    name,
                };
                node.trust().found(&root, options).await.unwrap();
            }
            let mut state = node.mesh().watch_state();
            state.wait_for(|s| s.listening).await.unwrap();
            nodes.push(node);
        }
        let publisher = nodes[0].handle::<PubSub>().unwrap();
        let subscribe = |node: &Node| {
            let handle = node.handle::<PubSub>().unwrap();
            handle.subscribe("bench.>".parse().unwrap(), None)
        };
        let subscriptions = nodes[1..].iter().map(subscribe).collect();
        let mut mesh = Mesh {
            publisher,
            subscriptions,
            nodes,
            _home: home,
        };
        mesh.warm_up().await;
        mesh
    }

    async fn stop(self) {
        for node in &self.nodes {
            node.stop().await;
        }
    }

    async fn warm_up(&mut self) {
        let (subject, give_up) = ("bench.warm".parse().unwrap(), Instant::now() + PATIENCE);
        loop {
            let sent = self.publisher.publish(&subject, Vec::new(), PublishOptions::default());
            let receipt = sent.await.unwrap();
            if receipt.is_direct && receipt.peers == self.subscriptions.len() {
                break;
            }
            assert!(Instant::now() < give_up, "{:?}", self.publisher.direct_members());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let last = self.publisher.publish(&subject, vec![1], PublishOptions::default());
        last.await.unwrap();
        for subscription in &mut self.subscriptions {
            while !matches!(subscription.next().await.unwrap(), Delivery::Message(m) if m.publication.message.data == [1])
            {
            }
        }
    }

    /// Deliveries a second, all subscribers together.
    async fn publish(&mut self, bytes: usize, messages: usize) -> f64 {
        let readers: Vec<_> = std::mem::take(&mut self.subscriptions)
            .into_iter()
            .map(|mut subscription| {
                tokio::spawn(async move {
                    for _ in 0..messages {
                        let delivery = tokio::time::timeout(PATIENCE, subscription.next()).await;
                        let delivery = delivery.unwrap().unwrap();
                        assert!(matches!(delivery, Delivery::Message(_)), "{delivery:?}");
                    }
                    subscription
                })
            })
            .collect();
        let (publisher, deliveries) = (self.publisher.clone(), messages * readers.len());
        let started = Instant::now();
        tokio::spawn(async move { publish_all(&publisher, bytes, messages).await })
            .await
            .unwrap();
        for reader in readers {
            self.subscriptions.push(reader.await.unwrap());
        }
        deliveries as f64 / started.elapsed().as_secs_f64()
    }

    /// The half and the hundredth slowest of the times from publishing to arriving, microseconds, at a steady pace.
    async fn latency(&mut self) -> (f64, f64) {
        let (publisher, count) = (self.publisher.clone(), (PACE * PACE_FOR_S) as usize);
        let begun = Instant::now();
        let mut subscription = self.subscriptions.remove(0);
        let reader = tokio::spawn(async move {
            let mut took_us = Vec::with_capacity(count);
            while took_us.len() < count {
                if let Some(Delivery::Message(m)) = subscription.next().await {
                    let sent = u64::from_be_bytes(m.publication.message.data[..8].try_into().unwrap());
                    took_us.push((begun.elapsed().as_nanos() as u64 - sent) as f64 / 1000.0);
                }
            }
            (took_us, subscription)
        });
        let subject: Subject = SUBJECT.parse().unwrap();
        for n in 0..count {
            let due = Duration::from_secs(1) * n as u32 / PACE;
            while begun.elapsed() < due {
                tokio::task::yield_now().await;
            }
            let mut data = vec![0; 64];
            data[..8].copy_from_slice(&(begun.elapsed().as_nanos() as u64).to_be_bytes());
            publisher
                .enqueue(&subject, data, PublishOptions::default())
                .await
                .unwrap();
        }
        let (mut took_us, subscription) = reader.await.unwrap();
        self.subscriptions.insert(0, subscription);
        took_us.sort_unstable_by(f64::total_cmp);
        (took_us[count / 2], took_us[count * 99 / 100])
    }
}

async fn publish_all(publisher: &PubSubHandle, bytes: usize, messages: usize) {
    let subject: Subject = SUBJECT.parse().unwrap();
    let mut left = messages;
    while left > 0 {
        let count = left.min(IN_FLIGHT);
        let batch = vec![vec![7; bytes]; count];
        let queued = publisher
            .enqueue_all(&subject, batch, PublishOptions::default())
            .await
            .unwrap();
        queued.receipt().await.unwrap();
        left -= count;
    }
}

struct Nats {
    child: Child,
    port: u16,
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Nats {
    fn start() -> Option<Nats> {
        let binary = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(binary);
        command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let nats = Nats {
            child: command.spawn().ok()?,
            port,
        };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "nats-server does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(nats)
    }

    fn connect(&self, then: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(format!("CONNECT {{\"verbose\":false}}\r\n{then}PING\r\n").as_bytes())
            .unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"PONG\r\n") {
            let mut piece = [0; 1024];
            let len = stream.read(&mut piece).unwrap();
            heard.extend_from_slice(&piece[..len]);
        }
        stream
    }

    fn publish(&self, subscribers: usize, bytes: usize, messages: usize) -> f64 {
        let one = format!("MSG {SUBJECT} 1 {bytes}\r\n").len() + bytes + 2;
        let readers: Vec<_> = (0..subscribers)
            .map(|_| {
                let mut stream = self.connect("SUB bench.a 1\r\n");
                std::thread::spawn(move || {
                    let (mut left, mut buffer) = (messages * one, vec![0; 256 << 10]);
                    while left > 0 {
                        let len = stream.read(&mut buffer).unwrap();
                        assert!(len > 0, "cut off with {left} bytes to come");
                        left = left.saturating_sub(len);
                    }
                })
            })
            .collect();
        let mut publisher = self.connect("");
        let head = format!("PUB {SUBJECT} {bytes}\r\n");
        let message = [head.as_bytes(), &vec![7; bytes], b"\r\n"].concat();
        let block_len = (64 << 10) / message.len() + 1;
        let block = message.repeat(block_len);
        let started = Instant::now();
        let mut left = messages;
        while left > 0 {
            let count = left.min(block_len);
            publisher.write_all(&block[..count * message.len()]).unwrap();
            left -= count;
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        (messages * subscribers) as f64 / started.elapsed().as_secs_f64()
    }
}

#[tokio::main]
async fn main() {
    let (nats, as_json) = (Nats::start(), std::env::args().any(|a| a == "--json"));
    if !as_json {
        println!(
            "{:<28} {:>14} {:>14} {:>8}",
            "deliveries", "weft /s", "nats-server /s", "ratio"
        );
    }
    for (subscribers, bytes, messages) in [
        (1, 64, 1_000_000),
        (4, 64, 250_000),
        (1, 1024, 300_000),
        (1, 65_536, 10_000),
    ] {
        let mut mesh = Mesh::start(subscribers).await;
        let (mut ours, mut theirs) = (0.0_f64, 0.0_f64);
        for _ in 0..ROUNDS {
            ours = ours.max(mesh.publish(bytes, messages).await);
            theirs = theirs.max(
                nats.as_ref()
                    .map_or(f64::NAN, |nats| nats.publish(subscribers, bytes, messages)),
            );
        }
        let name = format!("{bytes} B, 1 to {subscribers}");
        if as_json {
            let ratio = ours / theirs;
            println!(
                "{}",
                serde_json::json!({ "figure": name, "weft": ours, "nats": theirs, "ratio": ratio })
            );
        } else {
            println!("{name:<28} {ours:>14.0} {theirs:>14.0} {:>8.2}", ours / theirs);
        }
        mesh.stop().await;
    }
    let mut mesh = Mesh::start(1).await;
    let (p50_us, p99_us) = mesh.latency().await;
    if as_json {
        println!(
            "{}",
            serde_json::json!({ "figure": "latency", "rate": PACE, "p50_us": p50_us, "p99_us": p99_us })
        );
    } else {
        println!("64 B, 1 to 1, {PACE}/s: p50 {p50_us:.0} us, p99 {p99_us:.0} us");
    }
}
