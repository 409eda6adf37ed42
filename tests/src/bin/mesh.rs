//! Figures of the mesh: start, join, fifty nodes, an idle node, memory under pressure and over time. Each is printed with its limit and their ratio.
//!
//! `cargo run --release -p weft-tests --bin weft-bench-mesh [start|join|idle|r9|soak|fifty]… [--minutes N]`, with `WEFT_BIN` naming the
//! binary to measure (a release build, for figures that mean something); the minutes are those of the soak. Not part of the timed tests: a busy machine makes the
//! times longer, so compare the ratios of one run with each other.

#![expect(clippy::print_stdout, reason = "the figures are the output")]

use std::time::{Duration, Instant};

use weft_tests::{
    Mesh, Node, command,
    pressure::{Pressure, exert},
    soak::soak,
    until_within,
};

/// Repetitions of what is short; the median counts.
const ROUNDS: usize = 7;
/// How long the idle node is watched.
const IDLE: Duration = Duration::from_secs(20);
/// The soak, unless it is to be longer, and what comes before it is counted.
const SOAK_MINUTES: u64 = 10;
const SOAK_WARM_UP: Duration = Duration::from_secs(120);
/// Nodes of the large mesh.
const FIFTY: usize = 50;

fn main() {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    let minutes = match wanted.iter().position(|w| w == "--minutes") {
        Some(at) => {
            let minutes = wanted.get(at + 1).and_then(|n| n.parse().ok());
            wanted.drain(at..(at + 2).min(wanted.len()));
            minutes.expect("--minutes wants a whole number")
        }
        None => SOAK_MINUTES,
    };
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    println!("binary  {}", command::binary().display());
    println!("{:<44} {:>10} {:>10} {:>8}", "figure", "measured", "limit", "ratio");
    if is_wanted("start") {
        start();
    }
    if is_wanted("join") {
        join();
    }
    if is_wanted("idle") {
        idle();
    }
    if is_wanted("r9") {
        pressure();
    }
    if is_wanted("soak") {
        soak_for_minutes(minutes);
    }
    if is_wanted("fifty") {
        fifty();
    }
}

fn report(figure: &str, measured: f64, limit: f64) {
    println!("{figure:<44} {measured:>10.2} {limit:>10.2} {:>8.2}", measured / limit);
}

fn median(mut all: Vec<Duration>) -> f64 {
    all.sort();
    all[all.len() / 2].as_secs_f64() * 1000.0
}

fn started(mut node: Node) -> (Node, Duration) {
    let began = Instant::now();
    node.start();
    (node, began.elapsed())
}

/// From the start of the process until it says that it is ready: with a fresh data dir, and with one that is known.
fn start() {
    let (mut fresh, mut again) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (mut node, took) = started(Node::new("alpha"));
        fresh.push(took);
        node.stop();
        again.push(started(node).1);
    }
    report("start to ready, first start (ms)", median(fresh), 500.0);
    report("start to ready, later start (ms)", median(again), 500.0);
}

/// From the start of the process that joins by a ticket until it is a member.
fn join() {
    let alpha = Node::founder("alpha");
    let ticket = alpha.ticket(ROUNDS);
    let took = (0..ROUNDS)
        .map(|_| started(Node::new("beta").arg("--join").arg(&ticket)).1)
        .collect();
    report("join on loopback, start included (ms)", median(took), 1000.0);
}

/// A node with eight peers and nothing to do.
fn idle() {
    let mesh = Mesh::of(9);
    let node = &mesh[4];
    // What the coming together costs is not idling: it is over when nobody has measured anything new for a while.
    std::thread::sleep(Duration::from_secs(10));
    let (cpu, began) = (node.cpu_s(), Instant::now());
    std::thread::sleep(IDLE);
    let percent = (node.cpu_s() - cpu) / began.elapsed().as_secs_f64() * 100.0;
    report("idle with 8 peers, CPU (% of a core)", percent, 0.5);
    report(
        "idle with 8 peers, RSS (MiB)",
        node.rss_bytes() as f64 / f64::from(1 << 20),
        40.0,
    );
}

/// Memory under five kinds of pressure, and what honest peers and applications get of the node meanwhile.
fn pressure() {
    for pressure in Pressure::ALL {
        let figure = exert(pressure);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        report(
            &format!("under pressure, RSS (MiB): {pressure:?}"),
            mib(figure.rss_bytes),
            mib(figure.limit_bytes),
        );
        let part = |(good, bad): (usize, usize)| (bad as f64, ((good + bad) as f64).max(1.0));
        let ((unanswered, calls), (failed, requests)) = (part(figure.calls), part(figure.requests));
        report("  calls of an honest member, not answered", unanswered, calls);
        report("  requests of an application, not answered", failed, requests);
        match figure.killed {
            Some(killed) => report("  killed by the kernel at 1.5 budgets (of 1 node)", killed as f64, 1.0),
            None => println!("  without the kernel's limit: see standard error"),
        }
    }
}

/// Minutes of calls, messages, applications and members that come and go, after two that do not count.
fn soak_for_minutes(minutes: u64) {
    let seen = soak(SOAK_WARM_UP, Duration::from_secs(minutes * 60));
    report("soak, growth of RSS (MiB a minute)", seen.rss_slope_mib_per_min, 1.0);
    report("soak, growth of descriptors (a minute)", seen.fd_slope_per_min, 1.0);
    report(
        "soak, RSS at most (MiB)",
        seen.rss_bytes as f64 / f64::from(1 << 20),
        320.0,
    );
    let all = seen.calls + seen.messages + seen.failed;
    report("soak, calls and messages that failed", seen.failed as f64, all as f64);
    println!(
        "  {} calls, {} messages, a member came back {} times",
        seen.calls, seen.messages, seen.returns
    );
}

/// Fifty processes, one mesh: each is connected to each.
fn fifty() {
    let founder = Node::founder("node0");
    let ticket = founder.ticket(FIFTY);
    let began = Instant::now();
    let mut nodes = vec![founder];
    for index in 1..FIFTY {
        let mut node = Node::new(&format!("node{index}")).arg("--join").arg(&ticket);
        node.spawn();
        nodes.push(node);
    }
    let limit = Duration::from_secs(300);
    nodes[1..].iter_mut().for_each(Node::wait_up);
    let everybody = |what: &str, field: &str, count: u64| {
        for node in &nodes {
            until_within(limit, &format!("{} {what}", node.id()), || {
                (node.status()[field].as_u64()? >= count).then_some(())
            });
        }
        began.elapsed().as_secs_f64()
    };
    report(
        "50 nodes, each knows each member (s)",
        everybody("knows all members", "members", FIFTY as u64),
        20.0,
    );
    report(
        "50 nodes, each is connected to each (s)",
        everybody("is connected to all", "peers", FIFTY as u64 - 1),
        20.0,
    );
    let rss: Vec<u64> = nodes.iter().map(Node::rss_bytes).collect();
    let mean = rss.iter().sum::<u64>() as f64 / rss.len() as f64 / f64::from(1 << 20);
    report("node with 49 connections, RSS, mean (MiB)", mean, 80.0);
    report(
        "node with 49 connections, RSS, most (MiB)",
        *rss.iter().max().expect("nodes") as f64 / f64::from(1 << 20),
        80.0,
    );
}
