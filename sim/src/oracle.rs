//! What is known of everything that was sent: acknowledged, kept, refused, unknown; and of everything that arrived: due,
//! repeated, out of order, impossible.
//!
//! Promises: it never guesses. What a sender was told is one of [`Outcome`]; whether an arrival was due follows from when
//! its receiver ran; an arrival of what nobody sent, or of other bytes, is impossible and counted as such.
//!
//! Knows nothing of how nodes are run: times are given to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::{Distribution, Tally};

/// A node that stops so soon after a message was sent need not have had it.
pub const ARRIVE_NS: u64 = 10_000_000_000;

/// What the sender knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet; at the end of a run, that is all it will ever know.
    Pending,
    /// It was taken, or answered.
    Acknowledged,
    /// The sender's node took it, and said that nobody else has it yet: it knew nobody. It is lost with that node.
    Kept,
    /// It was not, and surely has no effect.
    Refused,
    /// It may have had an effect.
    Unknown,
}

/// Something that came to a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Where.
    pub node: u32,
    /// At which start of that node.
    pub boot: u32,
    /// When.
    pub at_ns: u64,
    /// The neighbour that handed it over, where that is known.
    pub from: Option<u32>,
}

/// Something that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// By whom.
    pub sender: u32,
    /// At which start of it.
    pub boot: u32,
    /// When.
    pub at_ns: u64,
    /// What the sender knows.
    pub outcome: Outcome,
    /// When it was answered, or, of a record in a queue, served; none: it was not, or it is a message.
    pub answered_ns: Option<u64>,
    /// Where an append that was answered is.
    pub position: Option<u64>,
    /// What a record for a queue is; none: it is something else.
    pub record: Option<Record>,
    /// Where it came.
    pub arrivals: Vec<Arrival>,
}

/// A record that was put into a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Those with one key are in an order.
    pub key: Option<usize>,
    /// Whether no service takes it.
    pub is_poison: bool,
    /// When the queue acknowledged it.
    pub kept_ns: Option<u64>,
}

/// All of one workload.
#[derive(Debug, Clone)]
pub struct Log {
    /// Its name.
    pub name: String,
    /// Whether each item is for all receivers; if not, for one of them.
    pub is_publish: bool,
    /// Who is to receive.
    pub receivers: BTreeSet<u32>,
    /// What was sent, in order.
    pub items: Vec<Item>,
    /// Arrivals of what nobody sent.
    pub impossible: u64,
    /// What readers of its stream found in the end, what was dead in its queues, or which last values were known.
    pub reads: Vec<Read>,
}

/// What somebody read of a stream, found dead in its queue, or knew as last values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Where.
    pub node: u32,
    /// Up to its end; nothing else is in the queue.
    pub is_whole: bool,
    /// Which item is where, of last values at whose number; none: it is none that was sent, or has other bytes.
    pub items: BTreeMap<u64, Option<usize>>,
}

/// When something was so: from its start to its end, if it ended.
type Uptime = Vec<(u64, Option<u64>)>;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    logs: Vec<Log>,
    up: BTreeMap<u32, Uptime>,
    /// When applications took calls and answered none.
    hanging: BTreeMap<u32, Uptime>,
    sent: u64,
    arrived: u64,
    /// Promises that were seen broken, in words.
    broken: Vec<String>,
}

impl Oracle {
    /// An oracle for these workloads: name, whether it publishes, who receives.
    pub fn new(workloads: impl IntoIterator<Item = (String, bool, BTreeSet<u32>)>) -> Self {
        let log = |(name, is_publish, receivers)| Log {
            name,
            is_publish,
            receivers,
            items: Vec::new(),
            impossible: 0,
            reads: Vec::new(),
        };
        Oracle {
            logs: workloads.into_iter().map(log).collect(),
            ..Oracle::default()
        }
    }

    /// A node began to run.
    pub fn up(&mut self, node: u32, at_ns: u64) {
        self.up.entry(node).or_default().push((at_ns, None));
    }

    /// A node stopped.
    pub fn down(&mut self, node: u32, at_ns: u64) {
        if let Some((_, until)) = self.up.entry(node).or_default().last_mut() {
            until.get_or_insert(at_ns);
        }
    }

    /// A node's applications take calls and answer none from now on, or answer again.
    pub fn hangs(&mut self, node: u32, hangs: bool, at_ns: u64) {
        let times = self.hanging.entry(node).or_default();
        match times.last_mut() {
            Some((_, until @ None)) if !hangs => *until = Some(at_ns),
            Some((_, None)) => {}
            _ if hangs => times.push((at_ns, None)),
            _ => {}
        }
    }

    /// Whether a node's applications answer no call now.
    pub fn is_hanging(&self, node: u32) -> bool {
        let times = self.hanging.get(&node);
        times
            .and_then(|times| times.last())
            .is_some_and(|(_, until)| until.is_none())
    }

    /// Which applications answered no call, from when until when; for those that still do not, nothing.
    pub fn hangings(&self) -> impl Iterator<Item = (u32, u64, Option<u64>)> {
        let all = self.hanging.iter();
        all.flat_map(|(node, times)| times.iter().map(|(from, until)| (*node, *from, *until)))
    }

    /// Something is about to be sent. Returns its number.
    pub fn sending(&mut self, workload: usize, sender: u32, boot: u32, at_ns: u64) -> usize {
        self.sent += 1;
        let items = &mut self.logs[workload].items;
        items.push(Item {
            sender,
            boot,
            at_ns,
            outcome: Outcome::Pending,
            answered_ns: None,
            position: None,
            record: None,
            arrivals: Vec::new(),
        });
        items.len() - 1
    }

    /// What its sender was told. Only the first word counts.
    pub fn outcome(&mut self, workload: usize, item: usize, outcome: Outcome) {
        if let Some(item) = self.item(workload, item)
            && item.outcome == Outcome::Pending
        {
            item.outcome = outcome;
        }
    }

    /// A call was answered by `server`.
    pub fn answered(&mut self, workload: usize, item: usize, server: u32, at_ns: u64) {
        self.arrived += 1;
        let mut served = true;
        if let Some(item) = self.item(workload, item) {
            item.outcome = Outcome::Acknowledged;
            item.answered_ns = Some(at_ns);
            served = item.arrivals.iter().any(|arrival| arrival.node == server);
        }
        if !served {
            self.broken.push(format!(
                "call {item} was answered for node {server}, which never had it"
            ));
        }
    }

    /// An append was answered: it is at this position.
    pub fn appended(&mut self, workload: usize, item: usize, position: u64, at_ns: u64) {
        self.arrived += 1;
        if let Some(item) = self.item(workload, item) {
            item.outcome = Outcome::Acknowledged;
            (item.answered_ns, item.position) = (Some(at_ns), Some(position));
        }
    }

    /// What is about to be sent is this record.
    pub fn putting(&mut self, workload: usize, item: usize, record: Record) {
        if let Some(item) = self.item(workload, item) {
            item.record = Some(record);
        }
    }

    /// A queue acknowledged a record.
    pub fn kept(&mut self, workload: usize, item: usize, at_ns: u64) {
        if let Some(item) = self.item(workload, item) {
            item.outcome = Outcome::Acknowledged;
            if let Some(record) = &mut item.record {
                record.kept_ns = Some(at_ns);
            }
        }
    }

    /// A record of a queue was served.
    pub fn handed_over(&mut self, workload: usize, item: usize, arrival: Arrival, is_whole: bool) {
        let at_ns = arrival.at_ns;
        self.arrived(workload, item, arrival, is_whole);
        let served = self.item(workload, item).filter(|item| item.answered_ns.is_none());
        if let Some(item) = served.filter(|_| is_whole) {
            item.answered_ns = Some(at_ns);
            self.arrived += 1;
        }
    }

    /// Somebody has read the stream of a workload.
    pub fn read(&mut self, workload: usize, read: Read) {
        if let Some(log) = self.logs.get_mut(workload) {
            log.reads.push(read);
        }
    }

    /// Something came to a receiver. `is_whole` says that its bytes are those that were sent.
    pub fn arrived(&mut self, workload: usize, item: usize, arrival: Arrival, is_whole: bool) {
        let Some(log) = self.logs.get_mut(workload) else { return };
        match log.items.get_mut(item) {
            Some(item) if is_whole && arrival.at_ns >= item.at_ns => {
                item.arrivals.push(arrival);
                if log.is_publish && arrival.node != item.sender {
                    self.arrived += 1;
                }
            }
            _ => log.impossible += 1,
        }
    }

    /// Whether an item was sent by this node.
    pub fn is_from(&self, workload: usize, item: usize, sender: Option<u32>) -> bool {
        let item = self.logs.get(workload).and_then(|log| log.items.get(item));
        item.is_some_and(|item| Some(item.sender) == sender)
    }

    /// Something arrived that names nothing that was sent.
    pub fn impossible(&mut self, workload: usize) {
        if let Some(log) = self.logs.get_mut(workload) {
            log.impossible += 1;
        }
    }

    /// A promise was seen broken.
    pub fn broken(&mut self, what: String) {
        self.broken.push(what);
    }

    /// The promises seen broken.
    pub fn broken_promises(&self) -> &[String] {
        &self.broken
    }

    /// How much was sent and how much arrived, so far.
    pub fn totals(&self) -> (u64, u64) {
        (self.sent, self.arrived)
    }

    /// Everything of all workloads, in their order.
    pub fn logs(&self) -> &[Log] {
        &self.logs
    }

    fn item(&mut self, workload: usize, item: usize) -> Option<&mut Item> {
        self.logs.get_mut(workload)?.items.get_mut(item)
    }

    /// Whether a message was to arrive at a node: it ran when the message was sent and long enough after it, and so did the
    /// sender, if only that had the message.
    pub fn is_due(&self, log: &Log, item: &Item, node: u32) -> bool {
        let (at_ns, later_ns) = (item.at_ns, item.at_ns + ARRIVE_NS);
        let was_sent = match item.outcome {
            Outcome::Acknowledged => true,
            Outcome::Kept => self.runs(item.sender, at_ns, later_ns),
            Outcome::Pending | Outcome::Refused | Outcome::Unknown => false,
        };
        was_sent && node != item.sender && log.receivers.contains(&node) && self.runs(node, at_ns, later_ns)
    }

    /// Whether a node runs, as far as is known.
    pub fn is_up(&self, node: u32) -> bool {
        let times = self.up.get(&node).and_then(|times| times.last());
        times.is_some_and(|(_, until)| until.is_none())
    }

    /// Whether who sent something ran long enough after it for others to have it.
    pub fn lived_on(&self, item: &Item) -> bool {
        self.runs(item.sender, item.at_ns, item.at_ns + ARRIVE_NS)
    }

    /// Whether a node runs from one time until another.
    fn runs(&self, node: u32, from_ns: u64, until_ns: u64) -> bool {
        let uptime = self.up.get(&node).map(Vec::as_slice).unwrap_or_default();
        let covers = |(from, end): &(u64, Option<u64>)| *from <= from_ns && end.is_none_or(|end| end >= until_ns);
        uptime.iter().any(covers)
    }

    /// Messages due and delivered, of those and at those nodes that `counts` picks.
    pub fn deliveries(&self, log: &Log, counts: impl Fn(&Item, u32) -> bool) -> (u64, u64) {
        let (mut due, mut delivered) = (0, 0);
        for item in &log.items {
            let came: BTreeSet<u32> = item.arrivals.iter().map(|arrival| arrival.node).collect();
            for node in &log.receivers {
                if counts(item, *node) && self.is_due(log, item, *node) {
                    due += 1;
                    delivered += u64::from(came.contains(node));
                }
            }
        }
        (due, delivered)
    }

    /// The first few messages that did not reach everybody they were due at, in words.
    pub fn missing(&self, most: usize) -> Vec<String> {
        let mut missing = Vec::new();
        for log in self.logs.iter().filter(|log| log.is_publish) {
            for (index, item) in log.items.iter().enumerate() {
                let came: BTreeSet<u32> = item.arrivals.iter().map(|arrival| arrival.node).collect();
                let not = log
                    .receivers
                    .iter()
                    .filter(|node| !came.contains(node) && self.is_due(log, item, **node));
                let not: Vec<String> = not.map(u32::to_string).collect();
                if not.is_empty() {
                    continue;
                }
                let (at_s, name) = (item.at_ns as f64 / 1e9, &log.name);
                let shown = not.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
                missing.push(format!(
                    "{name} {index}, sent by node {} at {at_s:.1} s, did not reach {} nodes: {shown}{}",
                    item.sender,
                    not.len(),
                    if not.len() > 10 { ", …" } else { "" }
                ));
                if missing.len() == most {
                    return missing;
                }
            }
        }
        missing
    }

    /// What became of a workload.
    pub fn tally(&self, workload: usize) -> Tally {
        let log = &self.logs[workload];
        let outcome = |wanted: Outcome| log.items.iter().filter(|item| item.outcome == wanted).count() as u64;
        let (expected, delivered) = if log.is_publish {
            self.deliveries(log, |_, _| true)
        } else {
            let answered = log.items.iter().filter(|item| item.answered_ns.is_some()).count() as u64;
            (log.items.len() as u64, answered)
        };
        let (duplicates, out_of_order) = repeated(log);
        Tally {
            name: log.name.clone(),
            kind: if log.is_publish { "publish" } else { "call" }.to_owned(),
            sent: log.items.len() as u64,
            acknowledged: outcome(Outcome::Acknowledged) + outcome(Outcome::Kept),
            kept: outcome(Outcome::Kept),
            refused: outcome(Outcome::Refused),
            unknown: outcome(Outcome::Unknown) + outcome(Outcome::Pending),
            expected,
            delivered,
            duplicates,
            impossible: log.impossible,
            out_of_order,
        }
    }

    /// What became of all workloads, which are of these kinds.
    pub fn tallies(&self, kinds: impl Iterator<Item = &'static str>) -> Vec<Tally> {
        let of_kind = |(index, kind): (usize, &str)| Tally {
            kind: kind.to_owned(),
            ..self.tally(index)
        };
        kinds.enumerate().map(of_kind).collect()
    }

    /// Milliseconds from sending to arriving, or to the answer, of the items `counts` picks.
    pub fn latencies_ms<'a>(
        &'a self,
        log: &'a Log,
        counts: impl Fn(&Item) -> bool + 'a,
    ) -> impl Iterator<Item = f64> + 'a {
        let ms = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e6;
        log.items.iter().filter(move |item| counts(item)).flat_map(move |item| {
            let answered = item.answered_ns.map(|at| ms(item.at_ns, at));
            let mut seen = BTreeSet::new();
            let first = item
                .arrivals
                .iter()
                .filter(move |arrival| log.is_publish && arrival.node != item.sender && seen.insert(arrival.node));
            answered
                .into_iter()
                .chain(first.map(move |arrival| ms(item.at_ns, arrival.at_ns)))
        })
    }

    /// Hops from the publisher, of all messages: `hops[n]` deliveries took n. Those whose way is not known are left out.
    pub fn hops(&self) -> Vec<u64> {
        let mut hops = Vec::new();
        for item in self.logs.iter().filter(|log| log.is_publish).flat_map(|log| &log.items) {
            let mut from: BTreeMap<u32, u32> = BTreeMap::new();
            for arrival in &item.arrivals {
                if let Some(neighbour) = arrival.from.filter(|_| arrival.node != item.sender) {
                    from.entry(arrival.node).or_insert(neighbour);
                }
            }
            for node in from.keys() {
                let (mut at, mut count) = (*node, 0);
                while at != item.sender && count <= from.len() {
                    let Some(next) = from.get(&at) else { break };
                    (at, count) = (*next, count + 1);
                }
                if at == item.sender {
                    if hops.len() <= count {
                        hops.resize(count + 1, 0);
                    }
                    hops[count] += 1;
                }
            }
        }
        hops
    }

    /// The latencies of all workloads of one kind.
    pub fn distribution(&self, publish: bool) -> Distribution {
        let logs = self.logs.iter().filter(|log| log.is_publish == publish);
        Distribution::of(logs.flat_map(|log| self.latencies_ms(log, |_| true)).collect())
    }
}

/// When something arrived, at which of its starts who sent it, and which of its items it is.
type Arrived = (u64, (u32, u32), usize);

/// Arrivals at one start of a node that were there before, and those that came after a later one of the same start of the
/// same sender.
fn repeated(log: &Log) -> (u64, u64) {
    let mut by_receiver: BTreeMap<(u32, u32), Vec<Arrived>> = BTreeMap::new();
    for (index, item) in log.items.iter().enumerate() {
        for arrival in &item.arrivals {
            let place = by_receiver.entry((arrival.node, arrival.boot)).or_default();
            place.push((arrival.at_ns, (item.sender, item.boot), index));
        }
    }
    let (mut duplicates, mut out_of_order) = (0, 0);
    for mut arrivals in by_receiver.into_values() {
        // Stable: what came in the same instant stays in the order of its sending.
        arrivals.sort_by_key(|(at_ns, ..)| *at_ns);
        let mut seen = BTreeSet::new();
        let mut last: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        for (_, sender, index) in arrivals {
            if !seen.insert(index) {
                duplicates += 1;
                continue;
            }
            let last = last.entry(sender).or_insert(index);
            if *last > index {
                out_of_order += u64::from(log.is_publish);
            } else {
                *last = index;
            }
        }
    }
    (duplicates, out_of_order)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn oracle() -> Oracle {
        let mut oracle = Oracle::new([("news".to_owned(), true, BTreeSet::from([0, 1, 2]))]);
        (0..3).for_each(|node| oracle.up(node, 0));
        oracle
    }

    fn at(node: u32, seconds: u64) -> Arrival {
        Arrival {
            node,
            boot: 1,
            at_ns: seconds * S,
            from: None,
        }
    }

    #[test]
    fn only_what_was_acknowledged_is_due_and_only_where_somebody_was() {
        let mut oracle = oracle();
        let (first, second) = (oracle.sending(0, 0, 1, 20 * S), oracle.sending(0, 0, 1, 40 * S));
        oracle.outcome(0, first, Outcome::Acknowledged);
        oracle.outcome(0, second, Outcome::Refused);
        oracle.arrived(0, first, at(1, 21), true);
        assert_eq!((oracle.tally(0).expected, oracle.tally(0).delivered), (2, 1));
        // Node 2 died too soon after it; a second start much later changes nothing.
        oracle.down(2, 25 * S);
        oracle.up(2, 60 * S);
        assert_eq!((oracle.tally(0).expected, oracle.tally(0).delivered), (1, 1));
        let late = oracle.sending(0, 0, 1, 61 * S);
        oracle.outcome(0, late, Outcome::Acknowledged);
        assert_eq!(
            oracle.tally(0).expected,
            3,
            "node 2 has just come back, and hears of it"
        );
        assert_eq!(oracle.tally(0).refused, 1);
    }

    #[test]
    fn duplicates_disorder_and_the_impossible_are_counted_apart() {
        let mut oracle = oracle();
        let items: Vec<usize> = (0..3).map(|i| oracle.sending(0, 0, 1, (20 + i) * S)).collect();
        for item in &items {
            oracle.outcome(0, *item, Outcome::Acknowledged);
        }
        oracle.arrived(0, items[1], at(1, 30), true);
        oracle.arrived(0, items[0], at(1, 31), true);
        oracle.arrived(0, items[0], at(1, 32), true);
        oracle.arrived(0, items[0], Arrival { boot: 2, ..at(1, 33) }, true);
        oracle.arrived(0, items[2], at(1, 34), false);
        oracle.arrived(0, 99, at(1, 34), true);
        oracle.arrived(0, items[2], at(1, 1), true);
        let tally = oracle.tally(0);
        assert_eq!((tally.duplicates, tally.out_of_order, tally.impossible), (1, 1, 3));
    }

    #[test]
    fn what_only_the_sender_had_is_lost_with_it() {
        let mut oracle = oracle();
        oracle.down(0, 28 * S);
        for (outcome, due) in [(Outcome::Acknowledged, 2), (Outcome::Kept, 2)] {
            let item = oracle.sending(0, 0, 1, 20 * S);
            oracle.outcome(0, item, outcome);
            assert_eq!(oracle.tally(0).expected, due, "{outcome:?}");
        }
        let early = oracle.sending(0, 0, 1, 17 * S);
        oracle.outcome(0, early, Outcome::Kept);
        let tally = oracle.tally(0);
        assert_eq!((tally.expected, tally.acknowledged, tally.kept), (4, 3, 2));
    }

    #[test]
    fn a_publisher_that_was_started_again_begins_anew() {
        let mut oracle = oracle();
        let items = [(1, 20), (2, 21), (2, 22)].map(|(boot, at)| oracle.sending(0, 0, boot, at * S));
        for (item, at_s) in [(items[2], 23), (items[0], 24), (items[1], 25)] {
            oracle.outcome(0, item, Outcome::Acknowledged);
            oracle.arrived(0, item, at(1, at_s), true);
        }
        assert_eq!(oracle.tally(0).out_of_order, 1, "its first run's may come late");
    }

    #[test]
    fn a_sender_that_never_heard_does_not_know() {
        let mut oracle = oracle();
        let item = oracle.sending(0, 0, 1, S);
        assert_eq!(oracle.tally(0).unknown, 1);
        oracle.outcome(0, item, Outcome::Unknown);
        oracle.outcome(0, item, Outcome::Acknowledged);
        assert_eq!((oracle.tally(0).unknown, oracle.tally(0).acknowledged), (1, 0));
    }

    #[test]
    fn an_answer_without_a_served_call_is_a_broken_promise() {
        let mut oracle = Oracle::new([("greet".to_owned(), false, BTreeSet::from([1]))]);
        let call = oracle.sending(0, 0, 1, S);
        oracle.arrived(0, call, at(1, 2), true);
        oracle.answered(0, call, 1, 3 * S);
        assert!(oracle.broken_promises().is_empty());
        assert_eq!(
            oracle.latencies_ms(&oracle.logs()[0], |_| true).collect::<Vec<_>>(),
            [2000.0]
        );
        let other = oracle.sending(0, 0, 1, 4 * S);
        oracle.answered(0, other, 1, 5 * S);
        assert_eq!(oracle.broken_promises().len(), 1);
    }
}
