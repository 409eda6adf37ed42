//! `[[fault]]`: what goes wrong, when, and to whom.

use std::time::Duration;

use weft_node::config::format_duration;

use super::super::{
    data::{Fault, FaultKind, Link, Target, When},
    field::{Rate, SignedMs},
    reader::Keys,
};
use super::{Frame, links::link};

/// Faults of one scenario.
const FAULTS_MAX: usize = 10_000;
/// Events that faults by rate may make: more would only be a slower way of saying that nothing works.
const EVENTS_MAX: f64 = 1_000_000.0;

const KINDS: [&str; 14] = [
    "churn",
    "partition",
    "islands",
    "kill",
    "pause",
    "hang",
    "skew",
    "flash-crowd",
    "cut",
    "degrade",
    "disk-full",
    "lost-fsync",
    "torn-write",
    "bit-flip",
];

/// Kinds that begin and are over at once, or whose end is their own.
const MOMENTARY: [&str; 5] = ["churn", "kill", "flash-crowd", "torn-write", "bit-flip"];

pub(super) fn faults(keys: &mut Keys<'_>, frame: &Frame, default: &Link) -> Vec<Fault> {
    let list = keys.list("fault");
    if list.len() > FAULTS_MAX {
        keys.wrong(
            "fault",
            format!("is there {} times; {FAULTS_MAX} is the most", list.len()),
        );
        return Vec::new();
    }
    list.into_iter()
        .filter_map(|keys| fault(keys, frame, default))
        .collect()
}

fn fault(mut keys: Keys<'_>, frame: &Frame, default: &Link) -> Option<Fault> {
    let word = keys.need_word("kind", &KINDS);
    let kind = word.and_then(|word| kind(&mut keys, word, frame, default));
    let when = when(&mut keys, frame);
    let lasting = word.is_some_and(|word| !MOMENTARY.contains(&word));
    let (until, lasts) = end(&mut keys, frame, when.as_ref(), lasting);
    let takes_target = !matches!(word, Some("islands" | "cut"));
    let target = if takes_target {
        target(&mut keys, frame, word.unwrap_or_default())
    } else {
        Some(Target::default())
    };
    let fault = Fault {
        kind: kind?,
        when: when?,
        until,
        lasts,
        target: target?,
    };
    enough_nodes(&keys, &fault, frame);
    keys.done();
    Some(fault)
}

fn kind(keys: &mut Keys<'_>, word: &str, frame: &Frame, default: &Link) -> Option<FaultKind> {
    Some(match word {
        "churn" => FaultKind::Churn {
            down: keys.or("down", Duration::from_secs(5)),
        },
        "partition" => FaultKind::Partition,
        "islands" => {
            let islands = keys.or("islands", 2);
            if islands < 2 || islands > frame.nodes {
                keys.wrong(
                    "islands",
                    format!("must be from 2 to the number of nodes, {}", frame.nodes),
                );
            }
            FaultKind::Islands { islands }
        }
        "kill" => FaultKind::Kill {
            restart: keys.opt("restart"),
        },
        "pause" => FaultKind::Pause,
        "hang" => FaultKind::Hang,
        "skew" => FaultKind::Skew {
            by_ms: keys.need::<SignedMs>("by")?.0,
        },
        "flash-crowd" => FaultKind::FlashCrowd,
        "cut" => FaultKind::Cut {
            from: frame.group(keys, "from"),
            to: frame.group(keys, "to"),
        },
        "degrade" => FaultKind::Degrade {
            link: link(keys, default),
        },
        "disk-full" => FaultKind::DiskFull,
        "lost-fsync" => FaultKind::LostFsync,
        "torn-write" => FaultKind::TornWrite,
        _ => FaultKind::BitFlip,
    })
}

fn when(keys: &mut Keys<'_>, frame: &Frame) -> Option<When> {
    let at: Option<Duration> = keys.opt("at");
    let rate: Option<Rate> = keys.opt("rate");
    let from: Option<Duration> = keys.opt("start");
    let when = match (at, rate) {
        (Some(at), None) => When::At(at),
        (None, Some(Rate(per_second))) => When::Rate {
            per_second,
            from: from.unwrap_or_default(),
        },
        (Some(_), Some(_)) => {
            keys.wrong("rate", "and at exclude each other: once, or again and again");
            return None;
        }
        (None, None) if keys.has("at") || keys.has("rate") => return None,
        (None, None) => {
            keys.wrong("at", "is missing: say at = \"10s\", or rate = \"2/min\"");
            return None;
        }
    };
    if from.is_some() && at.is_some() {
        keys.wrong("start", "goes with a rate; with at, the time is known");
    }
    if when.start() >= frame.quiet_from {
        let key = if at.is_some() { "at" } else { "start" };
        keys.wrong(
            key,
            format!(
                "must be before the quiet phase, which begins at {}",
                format_duration(frame.quiet_from)
            ),
        );
    }
    Some(when)
}

/// When no more come, and how long each lasts.
fn end(keys: &mut Keys<'_>, frame: &Frame, when: Option<&When>, lasting: bool) -> (Duration, Duration) {
    let until: Option<Duration> = keys.opt("until");
    let each: Option<Duration> = if lasting { keys.opt("for") } else { None };
    let latest = until.unwrap_or(frame.quiet_from);
    if latest > frame.quiet_from {
        keys.wrong(
            "until",
            format!(
                "must not be in the quiet phase, which begins at {}",
                format_duration(frame.quiet_from)
            ),
        );
    }
    let start = when.map_or(Duration::ZERO, When::start);
    if until.is_some_and(|until| until <= start) {
        keys.wrong("until", "is not after the beginning");
    }
    match when {
        Some(When::At(at)) if lasting => {
            if until.is_some() && each.is_some() {
                keys.wrong("for", "and until say the same: leave one out");
            }
            let lasts = each.unwrap_or(latest.saturating_sub(*at));
            if *at + lasts > frame.quiet_from {
                keys.wrong(
                    "for",
                    format!(
                        "lasts into the quiet phase, which begins at {}",
                        format_duration(frame.quiet_from)
                    ),
                );
            }
            (*at + lasts, lasts)
        }
        Some(When::At(at)) => {
            if until.is_some() {
                keys.wrong("until", "means nothing here: this fault does not last");
            }
            (*at, Duration::ZERO)
        }
        Some(When::Rate { .. }) if lasting && each.is_none() => {
            keys.wrong("for", "is missing: how long each of them lasts, such as \"5s\"");
            (latest, Duration::ZERO)
        }
        _ => (latest, each.unwrap_or_default()),
    }
}

fn target(keys: &mut Keys<'_>, frame: &Frame, word: &str) -> Option<Target> {
    let group = frame.group(keys, "group");
    let nodes: Vec<usize> = keys.or("nodes", Vec::new());
    let of = frame.count(group.as_deref()).unwrap_or(frame.nodes);
    if let Some(node) = nodes.iter().find(|node| **node >= frame.nodes) {
        keys.wrong(
            "nodes",
            format!("has {node}; the nodes are 0 to {}", frame.nodes.saturating_sub(1)),
        );
    }
    let default = match (word, nodes.len()) {
        // Half against half; all who are held back; otherwise one.
        ("partition", 0) if group.is_none() => (of / 2).max(1),
        ("partition" | "flash-crowd", 0) => of,
        (_, 0) => 1,
        (_, named) => named,
    };
    let count = keys.or("count", default);
    if !nodes.is_empty() && keys.has("count") && count != nodes.len() {
        keys.wrong("count", "is not the number of nodes named");
    }
    if count == 0 {
        keys.wrong("count", "must be 1 or more");
    } else if count > of && frame.nodes > 0 {
        let which = group
            .as_deref()
            .map_or("the fleet".to_owned(), |name| format!("the group {name}"));
        keys.wrong("count", format!("is {count}, but {which} has only {of} nodes"));
    }
    if word == "partition" && count == frame.nodes && frame.nodes > 0 {
        keys.wrong("count", "is everybody: a partition needs somebody on the other side");
    }
    Some(Target { group, nodes, count })
}

/// Kills without a restart must not be more than there are nodes, and no rate beyond what can be simulated.
fn enough_nodes(keys: &Keys<'_>, fault: &Fault, frame: &Frame) {
    let When::Rate { per_second, from } = fault.when else {
        return;
    };
    let events = per_second * fault.until.saturating_sub(from).as_secs_f64();
    if events > EVENTS_MAX {
        keys.wrong(
            "rate",
            format!("makes about {events:.0} faults; {EVENTS_MAX} is the most"),
        );
    }
    if matches!(fault.kind, FaultKind::FlashCrowd) {
        keys.wrong("rate", "does not go with a flash crowd: nodes start once; say at");
    }
    if !matches!(fault.kind, FaultKind::Kill { restart: None }) {
        return;
    }
    let killed = events * fault.target.count as f64;
    let of = frame.count(fault.target.group.as_deref()).unwrap_or(frame.nodes);
    if killed > of as f64 {
        keys.wrong(
            "rate",
            format!(
                "kills about {killed:.0} nodes for good, but there are only {of}: give restart, a lower rate, or until"
            ),
        );
    }
}
