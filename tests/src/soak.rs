//! Hours of ordinary life in minutes: whether memory and descriptors grow with time.
//!
//! One node is watched while members call it, publish, come and go, and applications subscribe, come and go, forget to finish
//! requests. Everything repeats itself, so that what still grows after the first minutes leaks.

use std::{
    io::Write as _,
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{Mesh, Node, until};

/// Between two looks at the node.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a member stays before it leaves and comes back.
const STAY: Duration = Duration::from_secs(10);
/// Calls and messages of each of those who make them, a second.
const RATE_PER_S: u32 = 50;
/// Applications that connect at once and ask half of something.
const HALF_REQUESTS: usize = 50;

/// What a soak showed.
#[derive(Debug, Clone, Copy)]
pub struct Soak {
    /// By how much resident memory grew, MiB a minute: the slope of the straight line nearest to all looks.
    pub rss_slope_mib_per_min: f64,
    /// The same of open descriptors, a minute.
    pub fd_slope_per_min: f64,
    /// Resident memory at most.
    pub rss_bytes: u64,
    /// Calls that were answered.
    pub calls: u64,
    /// Messages that were taken.
    pub messages: u64,
    /// Calls and messages that failed.
    pub failed: u64,
    /// How often a member came back.
    pub returns: u64,
}

#[derive(Default)]
struct Counters {
    calls: AtomicU64,
    messages: AtomicU64,
    failed: AtomicU64,
    returns: AtomicU64,
}

/// Lives for `warm_up`, then for `time` under watch.
///
/// # Panics
/// When the node does not survive it.
pub fn soak(warm_up: Duration, time: Duration) -> Soak {
    let mesh = Mesh::of(3);
    let _echo = mesh[0].serve("echo", &["--echo"]);
    until("the service is known", || {
        (!mesh[1].get("/v1/services").as_array()?.is_empty()).then_some(())
    });
    let ticket = mesh[0].ticket(1);
    let (over, counters) = (AtomicBool::new(false), Counters::default());
    let looks = thread::scope(|scope| {
        let (over, counters, mesh) = (&over, &counters, &mesh);
        scope.spawn(|| repeat(over, RATE_PER_S, || call(&mesh[1], counters)));
        scope.spawn(|| repeat(over, RATE_PER_S, || publish(&mesh[0], counters)));
        scope.spawn(|| repeat(over, RATE_PER_S, || publish(&mesh[2], counters)));
        scope.spawn(|| repeat(over, 1, || subscribe(&mesh[0])));
        scope.spawn(|| repeat(over, 1, || ask_half(&mesh[0])));
        scope.spawn(|| come_and_go(over, &ticket, counters));
        let looks = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            thread::sleep(warm_up);
            watch(&mesh[0], time)
        }));
        over.store(true, Ordering::Relaxed);
        looks
    });
    let looks = looks.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let slope = |value: fn(&Look) -> f64| slope(looks.iter().map(|look| (look.at_min, value(look))));
    Soak {
        rss_slope_mib_per_min: slope(|look| look.rss_bytes as f64 / f64::from(1 << 20)),
        fd_slope_per_min: slope(|look| look.fds as f64),
        rss_bytes: looks.iter().map(|look| look.rss_bytes).max().unwrap_or(0),
        calls: counters.calls.into_inner(),
        messages: counters.messages.into_inner(),
        failed: counters.failed.into_inner(),
        returns: counters.returns.into_inner(),
    }
}

struct Look {
    at_min: f64,
    rss_bytes: u64,
    fds: usize,
}

fn watch(node: &Node, time: Duration) -> Vec<Look> {
    let began = Instant::now();
    let mut looks = Vec::new();
    while began.elapsed() < time {
        looks.push(Look {
            at_min: began.elapsed().as_secs_f64() / 60.0,
            rss_bytes: node.rss_bytes(),
            fds: node.open_fds(),
        });
        thread::sleep(LOOK_EVERY);
    }
    looks
}

/// Of the straight line nearest to the points (least squares).
fn slope(points: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = points.clone().count() as f64;
    let (mean_x, mean_y) = points
        .clone()
        .fold((0.0, 0.0), |sum, (x, y)| (sum.0 + x / count, sum.1 + y / count));
    let (up, across) = points.fold((0.0, 0.0), |sum, (x, y)| {
        let dx = x - mean_x;
        (sum.0 + dx * (y - mean_y), sum.1 + dx * dx)
    });
    if across == 0.0 { 0.0 } else { up / across }
}

fn repeat(over: &AtomicBool, rate_per_s: u32, deed: impl Fn()) {
    let pause = Duration::from_secs(1) / rate_per_s;
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        deed();
        thread::sleep(pause.saturating_sub(began.elapsed()));
    }
}

fn call(from: &Node, counters: &Counters) {
    let request = from.request("POST", "/v1/services/echo").body(&[7; 2000]);
    let answered = request
        .send(from.api())
        .is_ok_and(|a| a.status == 200 && a.body.len() == 2000);
    let counter = if answered { &counters.calls } else { &counters.failed };
    counter.fetch_add(1, Ordering::Relaxed);
}

fn publish(from: &Node, counters: &Counters) {
    let request = from
        .request("POST", "/v1/messages/soak.one")
        .json(&json!({ "text": "x".repeat(500) }));
    let taken = request.send(from.api()).is_ok_and(|a| a.status / 100 == 2);
    let counter = if taken { &counters.messages } else { &counters.failed };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// An application that subscribes for a moment and leaves without a word.
fn subscribe(node: &Node) {
    if let Ok(mut socket) = TcpStream::connect(node.api()) {
        let _ = socket.write_all(&node.request("GET", "/v1/messages?subject=soak.%3E").head(node.api()));
        thread::sleep(Duration::from_millis(500));
    }
}

fn ask_half(node: &Node) {
    let sockets: Vec<_> = (0..HALF_REQUESTS)
        .filter_map(|_| TcpStream::connect(node.api()).ok())
        .collect();
    for mut socket in &sockets {
        let _ = socket.write_all(b"GET /v1/status HTTP/1.1\r\nhost: lo");
    }
    thread::sleep(Duration::from_millis(500));
}

/// A member that is killed and comes back, again and again.
fn come_and_go(over: &AtomicBool, ticket: &str, counters: &Counters) {
    let mut member = Node::joined("guest", ticket);
    member.forget_way_in();
    while !over.load(Ordering::Relaxed) {
        thread::sleep(STAY);
        member.kill();
        member.start();
        counters.returns.fetch_add(1, Ordering::Relaxed);
    }
}
