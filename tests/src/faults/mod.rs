//! A mesh of processes under load, one fault after another, and what was promised, checked over the recorded history.
//!
//! The load is in [`load`], what is done to the nodes in [`fault`], what must hold afterwards in [`check`]. The means are those of the operating
//! system: signals, limits, a file system of a node's own, a tracer that makes fsync fail.

pub mod check;
pub mod disk;
pub mod fault;
pub mod history;
pub mod load;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use self::{
    disk::Disk,
    fault::Fault,
    history::{Called, Event, Op},
    load::{Doors, Load, Subscriber},
};
use crate::{Background, Node, until_within};

/// How long the mesh may take after a fault until everybody sees everybody and things work.
const HEAL_TIME_MAX: Duration = Duration::from_secs(60);
/// How long queues may take at the end until they are empty.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(120);
/// Between two faults.
const CALM: Duration = Duration::from_secs(2);
/// The nodes that offer the services.
const SERVERS: usize = 2;
/// What the nodes log when their logs are wanted.
const LOG_FILTER: &str = "info,weft_node=debug";
/// Numbers of the messages that end the history, beyond those of the load.
const LAST_WORDS: u64 = 1 << 40;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Nodes, at least three.
    pub nodes: usize,
    /// How long faults follow each other; each kind comes at least once, however long that takes.
    pub time: Duration,
    /// Which node is struck when.
    pub seed: u64,
    /// Those that are possible here.
    pub faults: Vec<Fault>,
    /// Where the history is written, if it is wanted.
    pub history: Option<PathBuf>,
    /// A folder for the nodes' logs, which then are detailed.
    pub logs: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// How often each fault was done.
    pub faults: BTreeMap<Fault, u32>,
    /// What happened how often, in words.
    pub figures: Vec<(&'static str, usize)>,
    /// The longest time from the end of a fault until everybody saw everybody, and the struck node took everything again.
    pub healed_after_s: f64,
    /// Promises that were broken.
    pub broken: Vec<String>,
}

/// A node with what it stands on.
pub struct Host {
    // First, so that it is unmounted before the folder is removed.
    disk: Option<Disk>,
    node: Node,
    clock: PathBuf,
}

/// Runs a plan to its end.
///
/// `tell` is told what goes on.
///
/// # Panics
/// When a node does not come back, or the mesh does not heal in time: that breaks every promise.
pub fn run(plan: &Plan, tell: &mut dyn FnMut(&str)) -> Report {
    let mut hosts = hosts(plan);
    let ids: Vec<String> = hosts.iter().map(|host| host.node.id().to_owned()).collect();
    let load = Arc::new(Load::new(Doors::of(hosts.iter().map(|host| &host.node))));
    for node in 0..hosts.len() {
        load.history.push(Event::Started { node, run: 1 });
    }
    // What services do is written down outside of the disks that are filled.
    let written = tempfile::tempdir().unwrap();
    let (served, taken) = (written.path().join("served"), written.path().join("taken"));
    let mut services = Services::start(&hosts, &served, &taken);
    for host in &hosts {
        let create = [
            "batch",
            "create",
            "records",
            "--to-service",
            "take",
            "--count",
            "20",
            "--age",
            "200ms",
        ];
        host.node.run(&create).ok();
    }
    for (at, host) in hosts.iter().enumerate() {
        host.node.run(&["stream", "create", &load::stream_of(at)]).ok();
    }
    let mut subscribers: Vec<Subscriber> = (0..hosts.len())
        .map(|at| Subscriber::start(&load, at, &hosts[at].node, &ids))
        .collect();
    let clients: Vec<_> = (0..hosts.len()).flat_map(|by| load.start(by)).collect();
    tell("a mesh under load");
    let mut report = Report {
        faults: BTreeMap::new(),
        figures: Vec::new(),
        healed_after_s: 0.0,
        broken: Vec::new(),
    };
    let (began, mut dice) = (Instant::now(), Dice(plan.seed | 1));
    let mut deck: Vec<Fault> = Vec::new();
    while began.elapsed() < plan.time || report.faults.len() < plan.faults.len() {
        thread::sleep(CALM);
        if deck.is_empty() {
            deck.clone_from(&plan.faults);
        }
        let Some(fault) = (!deck.is_empty()).then(|| deck.swap_remove(dice.below(deck.len()))) else {
            continue;
        };
        let at = if fault == Fault::Clock {
            hosts.len() - 1
        } else {
            dice.below(hosts.len())
        };
        tell(&format!("{} at node {at}", fault.name()));
        let mark = |begins| Event::Fault {
            name: fault.name(),
            node: at,
            begins,
            breaks_connections: fault.breaks_connections(),
        };
        load.history.push(mark(true));
        // Between the two nobody hears anything there.
        let mut gone = || load.history.push(Event::Subscribed { at });
        if fault.strike(&mut hosts[at], &mut gone) {
            let run = load.doors.renew(at, &hosts[at].node);
            load.history.push(Event::Started { node: at, run });
        }
        load.history.push(mark(false));
        *report.faults.entry(fault).or_default() += 1;
        let healing = Instant::now();
        heal(&hosts, &ids);
        goes_on(&load, at);
        report.healed_after_s = report.healed_after_s.max(healing.elapsed().as_secs_f64());
        services.revive(&hosts, &served, &taken);
        for (at, subscriber) in subscribers.iter_mut().enumerate() {
            if subscriber.has_ended() {
                *subscriber = Subscriber::start(&load, at, &hosts[at].node, &ids);
            }
        }
    }
    tell("calm: everything must arrive");
    load.stop();
    clients.into_iter().for_each(|client| client.join().unwrap());
    last_words(&load, hosts.len());
    drain(&hosts);
    let read = |path: &Path| load::read_ops(&fs::read_to_string(path).unwrap_or_default());
    read(&served)
        .into_iter()
        .for_each(|op| load.history.push(Event::Served { op }));
    read(&taken)
        .into_iter()
        .for_each(|op| load.history.push(Event::Taken { op }));
    find_retained(&load, &hosts);
    read_streams(&load, &hosts);
    let history = load.history.snapshot();
    report.broken = check::broken(&history);
    report.figures = figures(&history);
    if let Some(path) = &plan.history {
        load.history.write_to(path).unwrap();
    }
    drop((subscribers, services));
    if let Some(folder) = &plan.logs {
        for (at, host) in hosts.iter().enumerate() {
            fs::write(folder.join(format!("node{at}.log")), host.node.log()).unwrap();
        }
    }
    report
}

/// A mesh in which each node sees each other one, each with a disk and a clock of its own if a fault needs them.
fn hosts(plan: &Plan) -> Vec<Host> {
    let with_disk = plan.faults.iter().any(|f| f.needs_disk());
    let with_clock = plan.faults.contains(&Fault::Clock);
    let mut hosts: Vec<Host> = Vec::new();
    let mut ticket = String::new();
    for index in 0..plan.nodes {
        let mut node = Node::new(&format!("node{index}"));
        let clock = node.home().join("clock");
        if with_clock && index + 1 == plan.nodes {
            for (name, value) in fault::clock_environment(&clock) {
                node = node.env(name, &value);
            }
        }
        if index > 0 {
            node = node.arg("--join").arg(&ticket);
        }
        if plan.logs.is_some() {
            node = node.arg("--log").arg(LOG_FILTER);
        }
        let disk = with_disk.then(|| Disk::mount(&node.home().join("disk"), &node.data_dir()).unwrap());
        node.start();
        node.forget_way_in();
        if index == 0 {
            ticket = node.ticket(plan.nodes);
        }
        hosts.push(Host { disk, node, clock });
    }
    let ids: Vec<String> = hosts.iter().map(|host| host.node.id().to_owned()).collect();
    heal(&hosts, &ids);
    hosts
}

/// Waits until each node sees each other one.
fn heal(hosts: &[Host], ids: &[String]) {
    for host in hosts {
        for id in ids.iter().filter(|id| *id != host.node.id()) {
            let what = format!("{} sees {id}\n{}", host.node.id(), host.node.log_tail());
            until_within(HEAL_TIME_MAX, &what, || host.node.sees(id).then_some(()));
        }
    }
}

/// Waits until a node that was struck takes messages, records and retained values, and answers calls.
fn goes_on(load: &Load, node: usize) {
    let began = load.history.len();
    let done = |what: &str, wanted: fn(&Event) -> Option<Op>| {
        until_within(HEAL_TIME_MAX, &format!("after a fault node {node} {what}"), || {
            let is_it = |e: &Event| wanted(e).is_some_and(|op| op.by == node);
            load.history.has_since(began, is_it).then_some(())
        });
    };
    done("takes messages", |e| match e {
        Event::Published {
            op, acknowledged: true, ..
        } => Some(*op),
        _ => None,
    });
    done("takes records", |e| match e {
        Event::Put { op, acknowledged: true } => Some(*op),
        _ => None,
    });
    done("appends events", |e| match e {
        Event::Appended { op, position: Some(_) } => Some(*op),
        _ => None,
    });
    done("takes retained values", |e| match e {
        Event::Retained { op, acknowledged: true } => Some(*op),
        _ => None,
    });
    done("has its calls answered", |e| match e {
        Event::Called {
            op,
            outcome: Called::Answered,
        } => Some(*op),
        _ => None,
    });
}

/// One message more of each node, after all the others: who hears it, or is told that it is lost, has been told everything before it.
fn last_words(load: &Load, nodes: usize) {
    for by in 0..nodes {
        let mut op = Op { by, number: LAST_WORDS };
        until_within(HEAL_TIME_MAX, &format!("node {by} says its last word"), || {
            op.number += 1;
            load.publish(op).then_some(())
        });
        for at in 0..nodes {
            until_within(
                HEAL_TIME_MAX,
                &format!("node {at} hears the last word of node {by}"),
                || {
                    let is_it = |e: &Event| matches!(e, Event::Heard { at: a, op: o, .. } if *a == at && *o == op);
                    load.history.has_since(0, is_it).then_some(())
                },
            );
        }
    }
}

/// Waits until no queue has a record.
fn drain(hosts: &[Host]) {
    for host in hosts {
        let what = format!("the queue of {} is empty\n{}", host.node.id(), host.node.log_tail());
        until_within(DRAIN_TIME_MAX, &what, || {
            let queue = host.node.run(&["batch", "ls", "--json"]).json();
            assert_eq!(queue["dead"], 0, "a record is dead: {queue}");
            (queue["records"] == 0).then_some(())
        });
    }
}

/// Asks each node for the last value of each.
fn find_retained(load: &Load, hosts: &[Host]) {
    for (at, host) in hosts.iter().enumerate() {
        for by in 0..hosts.len() {
            let subject = format!("kept.{by}");
            let ask = ["sub", &subject, "--last", "--count", "1", "--timeout", "20s", "--json"];
            let found = host.node.run(&ask);
            let value: Value = serde_json::from_str(found.text().trim()).unwrap_or_default();
            let number = value["data"]["number"].as_u64();
            load.history.push(Event::Found { at, by, number });
        }
    }
}

/// Reads each stream at the node that keeps it, and has another verify that it is what was signed.
fn read_streams(load: &Load, hosts: &[Host]) {
    for (at, host) in hosts.iter().enumerate() {
        let stream = load::stream_of(at);
        for line in host.node.run(&["stream", "read", &stream, "--json"]).json_lines() {
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            let position = text("sequence").parse().unwrap();
            for op in load::read_ops(&text("data")) {
                load.history.push(Event::Recorded { at, op, position });
            }
        }
        let other = &hosts[(at + 1) % hosts.len()].node;
        other.run(&["stream", "verify", &stream]).ok();
    }
}

/// The two services of the load: one that answers what it was asked, and one that takes records; both write it down.
struct Services(Vec<Background>);

impl Services {
    fn start(hosts: &[Host], served: &Path, taken: &Path) -> Self {
        let all = hosts.iter().take(SERVERS);
        Services(all.flat_map(|host| commands(host, served, taken)).collect())
    }

    /// Starts those again that have ended with their node.
    fn revive(&mut self, hosts: &[Host], served: &Path, taken: &Path) {
        for (index, service) in self.0.iter_mut().enumerate() {
            if service.has_ended() {
                let mut both = commands(&hosts[index / 2], served, taken);
                *service = both.swap_remove(index % 2);
            }
        }
    }
}

fn commands(host: &Host, served: &Path, taken: &Path) -> Vec<Background> {
    // One write each: two that write at once do not mix their lines.
    let once = format!("t=$(cat); echo \"$t\" >>{}; printf %s \"$t\"", served.display());
    let take = format!("t=$(cat); echo \"$t\" >>{}", taken.display());
    let serve = |name: &str, how: &str| host.node.background(&["serve", name, "--exec", how]);
    vec![serve("once", &once), serve("take", &take)]
}

fn figures(history: &[Event]) -> Vec<(&'static str, usize)> {
    let count = |wanted: fn(&Event) -> bool| history.iter().filter(|e| wanted(e)).count();
    vec![
        (
            "messages acknowledged",
            count(|e| matches!(e, Event::Published { acknowledged: true, .. })),
        ),
        (
            "messages refused or broken off",
            count(|e| {
                matches!(
                    e,
                    Event::Published {
                        acknowledged: false,
                        ..
                    }
                )
            }),
        ),
        ("messages heard", count(|e| matches!(e, Event::Heard { .. }))),
        ("gaps told", count(|e| matches!(e, Event::Gap { .. }))),
        (
            "records acknowledged",
            count(|e| matches!(e, Event::Put { acknowledged: true, .. })),
        ),
        (
            "records refused or broken off",
            count(|e| {
                matches!(
                    e,
                    Event::Put {
                        acknowledged: false,
                        ..
                    }
                )
            }),
        ),
        ("records taken", count(|e| matches!(e, Event::Taken { .. }))),
        (
            "calls answered",
            count(|e| {
                matches!(
                    e,
                    Event::Called {
                        outcome: Called::Answered,
                        ..
                    }
                )
            }),
        ),
        (
            "calls failed",
            count(|e| {
                matches!(
                    e,
                    Event::Called {
                        outcome: Called::Failed,
                        ..
                    }
                )
            }),
        ),
        (
            "events acknowledged",
            count(|e| matches!(e, Event::Appended { position: Some(_), .. })),
        ),
        (
            "appends refused or broken off",
            count(|e| matches!(e, Event::Appended { position: None, .. })),
        ),
        ("events recorded", count(|e| matches!(e, Event::Recorded { .. }))),
        (
            "retained values acknowledged",
            count(|e| matches!(e, Event::Retained { acknowledged: true, .. })),
        ),
        (
            "retained values found at the end",
            count(|e| matches!(e, Event::Found { number: Some(_), .. })),
        ),
    ]
}

/// Numbers from a seed (xorshift64, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % limit
    }
}
