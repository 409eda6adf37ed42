//! The clients: one thread for each kind of question and node, and a subscriber on each.
//!
//! They use what an application would: the local API of their node, and `weft sub`, which comes back by itself when its node does.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::history::{Called, Event, History, Op};
use crate::{Node, command, http::Request};

/// Between two messages of one node.
const PUBLISH_EVERY: Duration = Duration::from_millis(40);
/// Between two records of one node.
const PUT_EVERY: Duration = Duration::from_millis(60);
/// Between two calls of one node: each starts a process.
const CALL_EVERY: Duration = Duration::from_millis(250);
/// Between two retained values of one node.
const RETAIN_EVERY: Duration = Duration::from_millis(500);
/// Between two events of one node.
const APPEND_EVERY: Duration = Duration::from_millis(50);
/// After a refusal: nobody hurries to be refused again.
const AFTER_FAILURE: Duration = Duration::from_millis(200);

/// Where a node's applications find it; changes with each start.
#[derive(Debug, Clone)]
pub struct Door {
    /// How manieth process of the node it is.
    pub run: u32,
    api: SocketAddr,
    token: String,
}

/// The doors of all nodes.
#[derive(Default)]
pub struct Doors(Vec<Mutex<Door>>);

impl Doors {
    /// Of nodes that were started once.
    pub fn of<'a>(nodes: impl Iterator<Item = &'a Node>) -> Self {
        Doors(nodes.map(|node| Mutex::new(door(node, 1))).collect())
    }

    /// The node was started again.
    pub fn renew(&self, at: usize, node: &Node) -> u32 {
        let mut known = self.0[at].lock().unwrap();
        *known = door(node, known.run + 1);
        known.run
    }

    fn get(&self, at: usize) -> Door {
        self.0[at].lock().unwrap().clone()
    }
}

fn door(node: &Node, run: u32) -> Door {
    Door {
        run,
        api: node.api(),
        token: node.token().to_owned(),
    }
}

impl Door {
    fn post(&self, target: &str) -> Request {
        Request::new("POST", target).token(&self.token)
    }

    fn succeeds(&self, request: &Request) -> bool {
        request.send(self.api).is_ok_and(|answer| answer.status / 100 == 2)
    }
}

/// What every client has.
pub struct Load {
    /// Where to ask.
    pub doors: Doors,
    /// Where what happened is written down.
    pub history: History,
    over: AtomicBool,
}

impl Load {
    /// Clients that are not at work yet.
    pub fn new(doors: Doors) -> Self {
        Load {
            doors,
            history: History::default(),
            over: AtomicBool::new(false),
        }
    }

    /// Ends what [`start`](Self::start) began.
    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Starts the clients of a node, but for its subscriber. They end when they are stopped.
    pub fn start(self: &Arc<Self>, by: usize) -> Vec<thread::JoinHandle<()>> {
        let client = |every: Duration, ask: fn(&Load, Op) -> bool| {
            let load = Arc::clone(self);
            thread::spawn(move || {
                let mut number = 0;
                while !load.over.load(Ordering::Relaxed) {
                    number += 1;
                    let began = Instant::now();
                    let pause = if ask(&load, Op { by, number }) {
                        every
                    } else {
                        every.max(AFTER_FAILURE)
                    };
                    thread::sleep(pause.saturating_sub(began.elapsed()));
                }
            })
        };
        vec![
            client(PUBLISH_EVERY, Load::publish),
            client(PUT_EVERY, Load::put),
            client(CALL_EVERY, Load::call),
            client(RETAIN_EVERY, Load::retain),
            client(APPEND_EVERY, Load::append),
        ]
    }

    /// Publishes one message; whether it was taken.
    pub fn publish(&self, op: Op) -> bool {
        let door = self.doors.get(op.by);
        let run = door.run;
        let body = json!({ "by": op.by, "number": op.number, "run": run });
        let acknowledged = door.succeeds(&door.post(&format!("/v1/messages/load.{}", op.by)).json(&body));
        self.history.push(Event::Published { op, run, acknowledged });
        acknowledged
    }

    fn put(&self, op: Op) -> bool {
        let door = self.doors.get(op.by);
        let request = door.post("/v1/batches/records/records");
        let request = request.header("content-type", "text/plain");
        let request = request.header("weft-batch-key", &op.by.to_string());
        let acknowledged = door.succeeds(&request.body(text(op).as_bytes()));
        self.history.push(Event::Put { op, acknowledged });
        acknowledged
    }

    fn call(&self, op: Op) -> bool {
        let door = self.doors.get(op.by);
        let request = door.post("/v1/services/once").header("weft-timeout-ms", "5000");
        let outcome = match request.body(text(op).as_bytes()).send(door.api) {
            Ok(answer) if answer.status == 200 && answer.text() == text(op) => Called::Answered,
            Ok(answer) if answer.status == 200 => Called::Wrong,
            _ => Called::Failed,
        };
        self.history.push(Event::Called { op, outcome });
        outcome == Called::Answered
    }

    /// Appends to the stream of the next node, by which the event is known if it has to be sent twice.
    fn append(&self, op: Op) -> bool {
        let door = self.doors.get(op.by);
        let stream = stream_of((op.by + 1) % self.doors.0.len());
        let request = door.post(&format!("/v1/streams/{stream}/records"));
        let request = request.header("content-type", "text/plain").header("ce-id", &text(op));
        let answer = request.body(text(op).as_bytes()).send(door.api);
        let position = answer.ok().filter(|answer| answer.status / 100 == 2);
        let position = position.and_then(|answer| answer.json()["last"].as_u64());
        self.history.push(Event::Appended { op, position });
        position.is_some()
    }

    fn retain(&self, op: Op) -> bool {
        let door = self.doors.get(op.by);
        let request = door.post(&format!("/v1/messages/kept.{}?retain=true", op.by));
        let acknowledged = door.succeeds(&request.json(&json!({ "number": op.number })));
        self.history.push(Event::Retained { op, acknowledged });
        acknowledged
    }
}

/// The stream that a node keeps.
pub fn stream_of(node: usize) -> String {
    format!("facts.{node}")
}

/// An operation as the text of a record, a call or an event.
fn text(op: Op) -> String {
    format!("{}:{}", op.by, op.number)
}

/// Operations that services wrote down, a line each.
///
/// # Panics
/// When a line is none.
pub fn read_ops(written: &str) -> Vec<Op> {
    let read = |line: &str| {
        let (by, number) = line.split_once(':')?;
        Some(Op {
            by: by.parse().ok()?,
            number: number.parse().ok()?,
        })
    };
    written
        .lines()
        .map(|line| read(line).unwrap_or_else(|| panic!("not an operation: {line:?}")))
        .collect()
}

/// A subscriber to all messages, `weft sub`; killed when dropped.
pub struct Subscriber(Child);

impl Subscriber {
    /// Starts it at a node.
    ///
    /// `ids` are the peer ids of all nodes.
    pub fn start(load: &Arc<Load>, at: usize, node: &Node, ids: &[String]) -> Self {
        let mut command = command::command(node.home());
        command.arg("--data-dir").arg(node.data_dir());
        command.args(["sub", "load.>", "--json"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        load.history.push(Event::Subscribed { at });
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (load, ids) = (Arc::clone(load), ids.to_vec());
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                load.history.push(read_line(at, &line, &ids));
            }
        });
        Subscriber(child)
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read_line(at: usize, line: &str, ids: &[String]) -> Event {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
    if let gap @ Value::Object(_) = &value["gap"] {
        let publisher = gap["publisher"].as_str().unwrap_or_default();
        let number = |key: &str| gap[key].as_u64().unwrap_or(0);
        let by = ids.iter().position(|id| id == publisher);
        let lost = match by {
            Some(_) => (number("to") + 1).saturating_sub(number("from")),
            None => number("dropped"),
        };
        return Event::Gap { at, by, lost };
    }
    let data = &value["data"];
    let number = |key: &str| {
        data[key]
            .as_u64()
            .unwrap_or_else(|| panic!("no message of ours: {line}"))
    };
    Event::Heard {
        at,
        op: Op {
            by: usize::try_from(number("by")).unwrap(),
            number: number("number"),
        },
        run: u32::try_from(number("run")).unwrap(),
    }
}
