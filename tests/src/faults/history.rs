//! What clients asked for and saw, in the order in which the harness learnt of it.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use serde_json::{Value, json};

/// Who asked, as the place of its node in the mesh, and its how manieth it was: unique for each kind of question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Op {
    /// The node whose client asked.
    pub by: usize,
    /// Counted from 1, without a gap, in the order of asking.
    pub number: u64,
}

/// One line of the history.
#[expect(missing_docs, reason = "the sentence of each kind names its parts")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A node's process was started; its processes are counted from 1.
    Started { node: usize, run: u32 },
    /// A message was published at a process; what was not acknowledged may have gone out all the same.
    Published { op: Op, run: u32, acknowledged: bool },
    /// A subscriber begins anew: its node was started again.
    Subscribed { at: usize },
    /// A subscriber was handed a message.
    Heard { at: usize, op: Op, run: u32 },
    /// A subscriber was told of messages that are lost: of one publisher, or of any.
    Gap { at: usize, by: Option<usize>, lost: u64 },
    /// A record was put into a queue.
    Put { op: Op, acknowledged: bool },
    /// The queue's destination took a record, in this order.
    Taken { op: Op },
    /// A service was called.
    Called { op: Op, outcome: Called },
    /// The service did the work of a call.
    Served { op: Op },
    /// A value was published to be retained.
    Retained { op: Op, acknowledged: bool },
    /// At the end, what a node has as the last value of a publisher's subject.
    Found { at: usize, by: usize, number: Option<u64> },
    /// An event was appended to a stream that another node keeps; acknowledged with the position it has there.
    Appended { op: Op, position: Option<u64> },
    /// At the end, what stands in the stream that a node keeps.
    Recorded { at: usize, op: Op, position: u64 },
    /// A fault begins or ends, perhaps one by which connections are away for more than 3 s.
    Fault {
        name: &'static str,
        node: usize,
        begins: bool,
        breaks_connections: bool,
    },
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// With the answer to what was asked.
    Answered,
    /// With another answer.
    Wrong,
    /// With an error; it may have been served.
    Failed,
}

/// All that happened.
pub struct History {
    began: Instant,
    events: Mutex<Vec<(u64, Event)>>,
}

impl Default for History {
    fn default() -> Self {
        History {
            began: Instant::now(),
            events: Mutex::default(),
        }
    }
}

impl History {
    /// Writes down what just happened.
    pub fn push(&self, event: Event) {
        let at_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.events().push((at_ms, event));
    }

    /// Everything until now.
    pub fn snapshot(&self) -> Vec<Event> {
        self.events().iter().map(|(_, event)| event.clone()).collect()
    }

    /// How much has happened.
    pub fn len(&self) -> usize {
        self.events().len()
    }

    /// Whether nothing has happened yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether something of the kind has happened, beyond the first so many events.
    pub fn has_since(&self, first: usize, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events()[first..].iter().rev().any(|(_, event)| wanted(event))
    }

    /// Writes it to a file, an object of JSON a line.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_to(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for (at_ms, event) in self.events().iter() {
            writeln!(file, "{}", to_json(*at_ms, event))?;
        }
        file.flush()
    }

    fn events(&self) -> MutexGuard<'_, Vec<(u64, Event)>> {
        self.events.lock().unwrap()
    }
}

fn to_json(at_ms: u64, event: &Event) -> Value {
    let mut line = match event {
        Event::Started { node, run } => json!({ "event": "started", "node": node, "run": run }),
        Event::Published { op, run, acknowledged } => {
            json!({ "event": "published", "by": op.by, "number": op.number, "run": run, "acknowledged": acknowledged })
        }
        Event::Subscribed { at } => json!({ "event": "subscribed", "at": at }),
        Event::Heard { at, op, run } => {
            json!({ "event": "heard", "at": at, "by": op.by, "number": op.number, "run": run })
        }
        Event::Gap { at, by, lost } => json!({ "event": "gap", "at": at, "by": by, "lost": lost }),
        Event::Put { op, acknowledged } => {
            json!({ "event": "put", "by": op.by, "number": op.number, "acknowledged": acknowledged })
        }
        Event::Taken { op } => json!({ "event": "taken", "by": op.by, "number": op.number }),
        Event::Called { op, outcome } => {
            json!({ "event": "called", "by": op.by, "number": op.number, "outcome": format!("{outcome:?}") })
        }
        Event::Served { op } => json!({ "event": "served", "by": op.by, "number": op.number }),
        Event::Retained { op, acknowledged } => {
            json!({ "event": "retained", "by": op.by, "number": op.number, "acknowledged": acknowledged })
        }
        Event::Found { at, by, number } => json!({ "event": "found", "at": at, "by": by, "number": number }),
        Event::Appended { op, position } => {
            json!({ "event": "appended", "by": op.by, "number": op.number, "position": position })
        }
        Event::Recorded { at, op, position } => {
            json!({ "event": "recorded", "at": at, "by": op.by, "number": op.number, "position": position })
        }
        Event::Fault { name, node, begins, .. } => {
            json!({ "event": "fault", "name": name, "node": node, "begins": begins })
        }
    };
    line["at_ms"] = at_ms.into();
    line
}
