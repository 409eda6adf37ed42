//! What must hold of every history, whatever was done to the mesh. Each check names the promise of the README that it holds the mesh to.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::history::{Called, Event, Op};

/// More than a mesh of these tests has.
const NODES_MAX: usize = 64;

/// Promises that were broken, in words; empty when all were kept.
pub fn broken(history: &[Event]) -> Vec<String> {
    let mut broken = Vec::new();
    messages(history, &mut broken);
    records(history, &mut broken);
    calls(history, &mut broken);
    retained(history, &mut broken);
    events(history, &mut broken);
    broken
}

/// What one subscriber heard between two starts of its node.
#[derive(Default)]
struct Session {
    /// By publisher and its run, in the order of hearing.
    heard: BTreeMap<(usize, u32), Vec<u64>>,
    lost_of: HashMap<usize, u64>,
    lost_of_any: u64,
    /// Publishers between whom and the subscriber there was no connection for longer than 3 s.
    away: HashSet<usize>,
    /// Nothing came after it.
    is_last: bool,
}

/// "A message reaches the subscribers whose pattern it matches, each once. […] what nobody has any more is told to the subscriber as a gap."
/// "Messages of one publisher […] arrive in its order, as long as it runs", but for what "is not kept when a connection is away for more than 3 s":
/// then what was said before may come after what was said later.
fn messages(history: &[Event], broken: &mut Vec<String>) {
    let mut published = HashMap::new();
    let mut acknowledged: HashMap<(usize, u32), BTreeSet<u64>> = HashMap::new();
    let mut last_run = HashMap::new();
    for event in history {
        match *event {
            Event::Started { node, run } => {
                last_run.insert(node, run);
            }
            Event::Published {
                op,
                run,
                acknowledged: yes,
            } => {
                published.insert(op, run);
                if yes {
                    acknowledged.entry((op.by, run)).or_default().insert(op.number);
                }
            }
            _ => {}
        }
    }
    for (at, sessions) in sessions(history) {
        for session in sessions {
            for ((by, run), numbers) in &session.heard {
                for number in numbers
                    .iter()
                    .filter(|n| published.get(&Op { by: *by, number: **n }) != Some(run))
                {
                    broken.push(format!(
                        "message {number} of node {by} was heard at node {at}, and never published in run {run}"
                    ));
                }
                let (mut heard, mut latest) = (HashSet::new(), 0);
                for number in numbers {
                    let how = if !heard.insert(number) {
                        "twice"
                    } else if *number < latest && !session.away.contains(by) {
                        "out of order"
                    } else {
                        latest = latest.max(*number);
                        continue;
                    };
                    broken.push(format!(
                        "message {number} of node {by} was heard {how} at node {at}, after {latest}"
                    ));
                }
                let none = BTreeSet::new();
                let due = acknowledged.get(&(*by, *run)).unwrap_or(&none);
                let is_open = session.is_last && last_run.get(by) == Some(run);
                let until = if is_open { due.last() } else { numbers.iter().max() };
                let (Some(first), Some(until)) = (numbers.iter().min(), until) else {
                    continue;
                };
                if first > until {
                    continue;
                }
                let missing: Vec<&u64> = due.range(first..=until).filter(|n| !heard.contains(n)).collect();
                let told = session.lost_of.get(by).copied().unwrap_or(0) + session.lost_of_any;
                if missing.len() as u64 > told {
                    broken.push(format!(
                        "node {at} never heard {} acknowledged messages of node {by} (run {run}), from {} on, and was told of {told} lost",
                        missing.len(),
                        missing[0]
                    ));
                }
            }
        }
    }
}

fn sessions(history: &[Event]) -> BTreeMap<usize, Vec<Session>> {
    let mut all: BTreeMap<usize, Vec<Session>> = BTreeMap::new();
    for event in history {
        if let Event::Fault {
            node,
            breaks_connections: true,
            ..
        } = event
        {
            for (at, sessions) in &mut all {
                let away = if at == node { 0..NODES_MAX } else { *node..*node + 1 };
                sessions
                    .iter_mut()
                    .for_each(|session| session.away.extend(away.clone()));
            }
        }
        let (Event::Subscribed { at } | Event::Heard { at, .. } | Event::Gap { at, .. }) = event else {
            continue;
        };
        let sessions = all.entry(*at).or_default();
        if sessions.is_empty() || matches!(event, Event::Subscribed { .. }) {
            sessions.push(Session::default());
        }
        let Some(session) = sessions.last_mut() else { continue };
        match *event {
            Event::Heard { op, run, .. } => session.heard.entry((op.by, run)).or_default().push(op.number),
            Event::Gap { by: Some(by), lost, .. } => *session.lost_of.entry(by).or_default() += lost,
            Event::Gap { by: None, lost, .. } => session.lost_of_any += lost,
            _ => {}
        }
    }
    for sessions in all.values_mut() {
        if let Some(last) = sessions.last_mut() {
            last.is_last = true;
        }
    }
    all
}

/// "A record in a queue is on the node's disk when that is acknowledged, through restarts and `kill -9`, until its destination has answered
/// for it […]: at least once, in the order of its key." Each node's records have one key.
fn records(history: &[Event], broken: &mut Vec<String>) {
    let (mut put, mut first_taken) = (BTreeMap::new(), HashMap::new());
    let mut latest: HashMap<usize, u64> = HashMap::new();
    for event in history {
        match *event {
            Event::Put { op, acknowledged } => {
                put.insert(op, acknowledged);
            }
            Event::Taken { op } => {
                if first_taken.insert(op, ()).is_some() {
                    continue;
                }
                let latest = latest.entry(op.by).or_default();
                if op.number < *latest {
                    broken.push(format!(
                        "record {} of node {} was first taken after its later record {latest}",
                        op.number, op.by
                    ));
                }
                *latest = op.number.max(*latest);
            }
            _ => {}
        }
    }
    for op in put
        .iter()
        .filter(|(op, acknowledged)| **acknowledged && !first_taken.contains_key(op))
        .map(|(op, _)| op)
    {
        broken.push(format!(
            "record {} of node {} was acknowledged and is lost",
            op.number, op.by
        ));
    }
    for op in first_taken.keys().filter(|op| !put.contains_key(op)) {
        broken.push(format!(
            "record {} of node {} was taken and never put",
            op.number, op.by
        ));
    }
}

/// "A call is answered, refused with a reason, or ends at its deadline. It is served at most once".
fn calls(history: &[Event], broken: &mut Vec<String>) {
    let mut served: HashMap<Op, u32> = HashMap::new();
    for event in history {
        if let Event::Served { op } = event {
            *served.entry(*op).or_default() += 1;
        }
    }
    let mut called = HashSet::new();
    for event in history {
        let Event::Called { op, outcome } = event else { continue };
        called.insert(op);
        match outcome {
            Called::Wrong => broken.push(format!(
                "call {} of node {} got the answer to another one",
                op.number, op.by
            )),
            Called::Answered if !served.contains_key(op) => {
                broken.push(format!(
                    "call {} of node {} was answered and never served",
                    op.number, op.by
                ));
            }
            _ => {}
        }
    }
    for (op, times) in &served {
        if *times > 1 {
            broken.push(format!("call {} of node {} was served {times} times", op.number, op.by));
        }
        if !called.contains(op) {
            broken.push(format!(
                "call {} of node {} was served and never made",
                op.number, op.by
            ));
        }
    }
}

/// "What was published with `--retain` is the last value of its subject for whoever asks later: it is on its publisher's disk when that is
/// acknowledged".
fn retained(history: &[Event], broken: &mut Vec<String>) {
    let (mut newest, mut published) = (HashMap::new(), HashSet::new());
    for event in history {
        if let Event::Retained { op, acknowledged } = *event {
            published.insert(op);
            if acknowledged {
                newest.insert(op.by, op.number);
            }
        }
    }
    for event in history {
        let Event::Found { at, by, number } = *event else {
            continue;
        };
        let newest = newest.get(&by).copied().unwrap_or(0);
        match number {
            Some(number) if !published.contains(&Op { by, number }) => {
                broken.push(format!(
                    "node {at} retains value {number} of node {by}, which was never published"
                ));
            }
            found if found.unwrap_or(0) < newest => broken.push(format!(
                "node {at} retains value {found:?} of node {by}, though {newest} was acknowledged"
            )),
            _ => {}
        }
    }
}

/// "An event in a stream is on its owner's disk when that is acknowledged, in its place, and is served as it was appended or not at all": once, and
/// those that one client was acknowledged one after the other stand one behind the other.
fn events(history: &[Event], broken: &mut Vec<String>) {
    let (mut appended, mut recorded) = (BTreeMap::new(), BTreeMap::new());
    let mut last_of: HashMap<usize, u64> = HashMap::new();
    for event in history {
        match *event {
            Event::Appended { op, position } => {
                appended.insert(op, position);
            }
            Event::Recorded { at, op, position } => {
                let last = last_of.entry(at).or_default();
                if position != *last + 1 {
                    broken.push(format!("the stream of node {at} has {position} behind {last}"));
                }
                *last = position;
                if recorded.insert(op, position).is_some() {
                    broken.push(format!("event {} of node {} is recorded twice", op.number, op.by));
                }
            }
            _ => {}
        }
    }
    let mut before: HashMap<usize, u64> = HashMap::new();
    for (op, position) in &appended {
        let Some(position) = position else { continue };
        match recorded.get(op) {
            Some(found) if found == position => {}
            found => broken.push(format!(
                "event {} of node {} was acknowledged at {position} and is at {found:?}",
                op.number, op.by
            )),
        }
        let before = before.insert(op.by, *position).unwrap_or(0);
        if before >= *position {
            broken.push(format!(
                "event {} of node {} stands at {position}, before an earlier one at {before}",
                op.number, op.by
            ));
        }
    }
    for op in recorded.keys().filter(|op| !appended.contains_key(op)) {
        broken.push(format!(
            "event {} of node {} is recorded and was never appended",
            op.number, op.by
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_where_they_were_acknowledged_and_once() {
        let appended = |n, position| Event::Appended { op: op(n), position };
        let recorded = |n, position| Event::Recorded {
            at: 1,
            op: op(n),
            position,
        };
        let base = [appended(1, Some(1)), appended(2, None), appended(3, Some(2))];
        let with = |recorded: &[Event]| [&base[..], recorded].concat();
        // What was not acknowledged may be there, at any place.
        assert_eq!(broken(&with(&[recorded(1, 1), recorded(3, 2)])), Vec::<String>::new());
        assert_eq!(
            broken(&with(&[recorded(1, 1), recorded(3, 2), recorded(2, 3)])),
            Vec::<String>::new()
        );
        says(&with(&[recorded(1, 1)]), "acknowledged at 2 and is at None");
        says(
            &with(&[recorded(1, 1), recorded(2, 2), recorded(3, 3)]),
            "acknowledged at 2 and is at Some(3)",
        );
        says(&with(&[recorded(1, 1), recorded(3, 2), recorded(3, 3)]), "twice");
        says(
            &with(&[recorded(1, 1), recorded(3, 2), recorded(4, 3)]),
            "never appended",
        );
        says(&with(&[recorded(1, 1), recorded(3, 3)]), "behind");
        says(&[appended(1, Some(2)), appended(2, Some(1))], "before an earlier one");
    }

    fn op(number: u64) -> Op {
        Op { by: 0, number }
    }

    fn published(number: u64) -> Event {
        Event::Published {
            op: op(number),
            run: 1,
            acknowledged: true,
        }
    }

    fn heard(number: u64) -> Event {
        Event::Heard {
            at: 1,
            op: op(number),
            run: 1,
        }
    }

    fn good_messages() -> Vec<Event> {
        let mut events = vec![Event::Started { node: 0, run: 1 }, Event::Subscribed { at: 1 }];
        (1..=4).for_each(|n| events.push(published(n)));
        (1..=4).for_each(|n| events.push(heard(n)));
        events
    }

    #[track_caller]
    fn says(events: &[Event], words: &str) {
        let broken = broken(events);
        assert!(broken.iter().any(|b| b.contains(words)), "{words:?} not in {broken:?}");
    }

    #[test]
    fn what_was_kept_is_not_called_broken() {
        assert_eq!(broken(&good_messages()), Vec::<String>::new());
    }

    #[test]
    fn a_missing_message_is_noticed_unless_it_was_told() {
        for lost in [2, 4] {
            let mut events = good_messages();
            events.retain(|e| *e != heard(lost));
            says(&events, "never heard 1 acknowledged");
            for by in [Some(0), None] {
                let mut told = events.clone();
                told.push(Event::Gap { at: 1, by, lost: 1 });
                assert_eq!(broken(&told), Vec::<String>::new());
            }
            let of_another = Event::Gap {
                at: 1,
                by: Some(2),
                lost: 1,
            };
            events.push(of_another);
            says(&events, "never heard 1 acknowledged");
        }
    }

    #[test]
    fn a_killed_publishers_last_messages_may_be_gone_and_a_new_session_begins_anew() {
        let mut events = good_messages();
        events.retain(|e| *e != heard(4));
        events.push(Event::Started { node: 0, run: 2 });
        assert_eq!(broken(&events), Vec::<String>::new());
        let mut events = good_messages();
        events.extend([Event::Subscribed { at: 1 }, heard(4)]);
        assert_eq!(broken(&events), Vec::<String>::new());
    }

    #[test]
    fn disorder_repetition_and_invention_are_noticed() {
        let mut events = good_messages();
        events.push(heard(4));
        says(&events, "twice");
        let mut events = good_messages();
        events.retain(|e| *e != heard(2));
        events.push(heard(2));
        says(&events, "out of order");
        let mut events = good_messages();
        events.push(heard(9));
        says(&events, "never published");
    }

    #[test]
    fn disorder_is_excused_by_a_connection_that_was_away_and_nothing_else_is() {
        let fault = |node| Event::Fault {
            name: "stop",
            node,
            begins: true,
            breaks_connections: true,
        };
        for (node, is_excused) in [(0, true), (1, true), (2, false)] {
            let mut events = good_messages();
            events.retain(|e| *e != heard(2));
            events.extend([fault(node), heard(2)]);
            assert_eq!(broken(&events).is_empty(), is_excused, "{:?}", broken(&events));
            events.push(heard(2));
            says(&events, "twice");
        }
    }

    #[test]
    fn records_are_taken_in_order_at_least_once() {
        let put = |n, acknowledged| Event::Put {
            op: op(n),
            acknowledged,
        };
        let taken = |n| Event::Taken { op: op(n) };
        let good = [
            put(1, true),
            put(2, false),
            put(3, true),
            taken(1),
            taken(3),
            taken(1),
            taken(3),
        ];
        assert_eq!(broken(&good), Vec::<String>::new());
        says(&good[..4], "is lost");
        says(&[put(1, true), put(2, true), taken(2), taken(1)], "later record 2");
        says(&[taken(1)], "never put");
    }

    #[test]
    fn calls_are_served_once_and_answered_rightly() {
        let called = |outcome| Event::Called { op: op(1), outcome };
        let served = Event::Served { op: op(1) };
        assert_eq!(
            broken(&[served.clone(), called(Called::Answered)]),
            Vec::<String>::new()
        );
        assert_eq!(broken(&[called(Called::Failed)]), Vec::<String>::new());
        assert_eq!(broken(&[served.clone(), called(Called::Failed)]), Vec::<String>::new());
        says(&[called(Called::Answered)], "never served");
        says(&[served.clone(), called(Called::Wrong)], "another");
        says(&[served.clone(), served.clone(), called(Called::Failed)], "2 times");
        says(&[served], "never made");
    }

    #[test]
    fn a_retained_value_is_the_last_acknowledged_or_later() {
        let retained = |n, acknowledged| Event::Retained {
            op: op(n),
            acknowledged,
        };
        let found = |number| Event::Found { at: 2, by: 0, number };
        let base = [retained(1, true), retained(2, true), retained(3, false)];
        for (number, words) in [
            (Some(2), None),
            (Some(3), None),
            (Some(1), Some("though 2")),
            (None, Some("though 2")),
            (Some(8), Some("never published")),
        ] {
            let mut events = base.to_vec();
            events.push(found(number));
            match words {
                None => assert_eq!(broken(&events), Vec::<String>::new()),
                Some(words) => says(&events, words),
            }
        }
    }
}
