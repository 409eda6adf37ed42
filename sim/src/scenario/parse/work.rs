//! `[[workload]]` and `[[check]]`: what applications do, and what must hold.

use std::time::Duration;

use weft_node::{
    config::format_duration,
    patterns::batching::{RECORD_BYTES_MAX, check_queue_name},
};
use weft_protocol::{
    Subject,
    limits::{DIRECT_BODY_BYTES_MAX, PUBLISH_BODY_BYTES_MAX},
    name::check_name,
    patterns::event_sourcing::EVENT_DATA_BYTES_MAX,
};

use super::super::{
    field::{Bytes, Rate, Share, shorten},
    reader::{Keys, did_you_mean, nearest},
    work::{Batch, Check, CheckKind, Taker, Workload, WorkloadKind},
};
use super::{Frame, NODES_MAX};

/// Workloads of one scenario.
const WORKLOADS_MAX: usize = 100;
/// Checks of one scenario.
const CHECKS_MAX: usize = 1_000;
/// Deliveries of one scenario that the oracle keeps in mind.
const DELIVERIES_MAX: u64 = 200_000_000;
/// The first message, unless the scenario says otherwise: the mesh should have formed.
const START_DEFAULT: Duration = Duration::from_secs(10);

pub(super) fn workloads(keys: &mut Keys<'_>, frame: &Frame) -> Vec<Workload> {
    let list = keys.list("workload");
    if list.len() > WORKLOADS_MAX {
        keys.wrong(
            "workload",
            format!("is there {} times; {WORKLOADS_MAX} is the most", list.len()),
        );
        return Vec::new();
    }
    let mut workloads: Vec<Workload> = Vec::new();
    for mut keys in list {
        let number = workloads.len() + 1;
        let Some(workload) = workload(&mut keys, frame, number) else {
            continue;
        };
        if workloads.iter().any(|other| other.name == workload.name) {
            keys.wrong(
                "name",
                format!("{} is another workload's already", shorten(&workload.name)),
            );
        }
        let other_kind = workloads.iter().find(|other| {
            other.kind.service() == workload.kind.service() && other.kind.as_str() != workload.kind.as_str()
        });
        if let Some((other, service)) = other_kind.zip(workload.kind.service()) {
            let (service, other) = (shorten(service), shorten(&other.name));
            keys.wrong(
                "service",
                format!("{service} is that of {other}, which is of another kind: it cannot answer both"),
            );
        }
        keys.done();
        workloads.push(workload);
    }
    let deliveries = workloads.iter().fold(0_u64, |sum, workload| {
        let each = match workload.kind {
            WorkloadKind::Publish { .. } => frame.count(workload.to.as_deref()).unwrap_or(0) as u64,
            WorkloadKind::Call { .. } | WorkloadKind::Batch(_) => 1,
            // Everybody reads all of it in the end.
            WorkloadKind::Append { .. } => frame.nodes as u64,
        };
        sum.saturating_add(workload.planned().saturating_mul(each))
    });
    if deliveries > DELIVERIES_MAX {
        let reason = format!(
            "adds up to {deliveries} deliveries; {DELIVERIES_MAX} is the most: fewer messages, or fewer who subscribe"
        );
        keys.wrong("workload", reason);
    }
    workloads
}

fn workload(keys: &mut Keys<'_>, frame: &Frame, number: usize) -> Option<Workload> {
    let word = keys.need_word("kind", &["publish", "call", "append", "batch"]);
    let name = keys.or("name", word.map_or(String::new(), |word| default_name(word, number)));
    let kind = word.and_then(|word| workload_kind(keys, word, &name));
    let from = frame.group(keys, "from");
    let to = frame.group(keys, "to");
    let of = frame.count(from.as_deref()).unwrap_or(frame.nodes);
    let senders = keys.or("senders", of);
    if (senders == 0 || senders > of) && frame.nodes > 0 {
        keys.wrong("senders", format!("must be from 1 to the {of} nodes it is chosen from"));
    }
    let Rate(per_second) = keys.or("rate", Rate(1.0));
    let count = keys.opt("count");
    let start = keys.or("start", START_DEFAULT.min(frame.duration / 4));
    let stop = keys.or("stop", frame.quiet_from);
    if stop > frame.quiet_from {
        keys.wrong(
            "stop",
            format!(
                "must not be in the quiet phase, which begins at {}",
                format_duration(frame.quiet_from)
            ),
        );
    }
    if start >= stop {
        keys.wrong("start", "must be before the stop");
    }
    if count == Some(0) {
        keys.wrong("count", "must be 1 or more");
    }
    let Bytes(size) = keys.or("size", Bytes(256));
    let kind = kind?;
    let (size_min, size_max) = match kind {
        // A message carries its number, for the oracle.
        WorkloadKind::Publish { .. } => (16, PUBLISH_BODY_BYTES_MAX as u64),
        WorkloadKind::Call { .. } => (16, DIRECT_BODY_BYTES_MAX as u64),
        WorkloadKind::Append { .. } => (16, EVENT_DATA_BYTES_MAX as u64),
        // Two digits for a byte, and its number.
        WorkloadKind::Batch(_) => (16, RECORD_BYTES_MAX as u64 / 2 - 64),
    };
    if !(size_min..=size_max).contains(&size) {
        keys.wrong("size", format!("must be from {size_min} to {size_max} bytes"));
    }
    Some(Workload {
        name,
        kind,
        from,
        senders,
        to,
        per_second,
        count,
        size: usize::try_from(size.min(size_max)).unwrap_or(0),
        start,
        stop,
    })
}

fn default_name(word: &str, number: usize) -> String {
    match number {
        1 => word.to_owned(),
        more => format!("{word}-{more}"),
    }
}

fn workload_kind(keys: &mut Keys<'_>, word: &str, name: &str) -> Option<WorkloadKind> {
    if word == "publish" {
        let subject = keys.or("subject", format!("sim.{name}"));
        if let Err(reason) = subject.parse::<Subject>() {
            keys.wrong("subject", format!("is not one: {reason}"));
            return None;
        }
        let retain = keys.or("retain", false);
        // Of each sender there is one below it.
        if let Err(reason) = format!("{subject}.{NODES_MAX}").parse::<Subject>()
            && retain
        {
            keys.wrong("subject", format!("cannot have one below it for each sender: {reason}"));
        }
        return Some(WorkloadKind::Publish { subject, retain });
    }
    if word == "append" {
        let stream = keys.or("stream", name.to_owned());
        let replicas = replicas(keys, &stream)?;
        return Some(WorkloadKind::Append { stream, replicas });
    }
    if word == "batch"
        && let Err(reason) = check_queue_name(name)
    {
        keys.wrong("name", format!("cannot be a queue's: {reason}"));
    }
    if word == "batch"
        && let Some(stream) = keys.opt::<String>("stream")
    {
        let replicas = replicas(keys, &stream)?;
        return Some(WorkloadKind::Batch(batch(keys, Taker::Stream { stream, replicas })));
    }
    let service = keys.or("service", name.to_owned());
    if let Err(reason) = check_name("service", &service) {
        keys.wrong("service", format!("is not one: {reason}"));
        return None;
    }
    if word == "batch" {
        return Some(WorkloadKind::Batch(batch(keys, Taker::Service(service))));
    }
    Some(WorkloadKind::Call {
        service,
        timeout: keys.or("timeout", Duration::from_secs(5)),
        any: keys.or("any", false),
    })
}

/// How many nodes keep a stream, if it can be called so.
fn replicas(keys: &mut Keys<'_>, stream: &str) -> Option<u8> {
    if let Err(reason) = stream.parse::<Subject>() {
        keys.wrong("stream", format!("is not one: {reason}"));
        return None;
    }
    let replicas = keys.or("replicas", 1_u64);
    if !matches!(replicas, 1 | 3 | 5) {
        keys.wrong("replicas", "must be 1, 3 or 5");
    }
    Some(u8::try_from(replicas).unwrap_or(1))
}

fn batch(keys: &mut Keys<'_>, taker: Taker) -> Batch {
    let batch = Batch {
        taker,
        records: keys.or("records", 100),
        age: keys.or("age", Duration::from_secs(1)),
        timeout: keys.or("timeout", Duration::from_secs(5)),
        keys: keys.or("keys", 0),
        poison: keys.or("poison", Share(0.0)).0,
    };
    if let Some(Err(reason)) = batch.queue().map(|queue| queue.check()) {
        keys.wrong("kind", format!("cannot be a queue: {reason}"));
    }
    if batch.poison > 0.0 && matches!(batch.taker, Taker::Stream { .. }) {
        keys.wrong("poison", "is for a service: a stream takes every record");
    }
    batch
}

pub(super) fn checks(keys: &mut Keys<'_>, frame: &Frame, workloads: &[Workload]) -> Vec<Check> {
    let list = keys.list("check");
    if list.len() > CHECKS_MAX {
        keys.wrong(
            "check",
            format!("is there {} times; {CHECKS_MAX} is the most", list.len()),
        );
        return Vec::new();
    }
    list.into_iter()
        .flat_map(|keys| check(keys, frame, workloads))
        .collect()
}

/// Kinds of check that are of a workload, and of which kind of workload.
const OF_WORKLOAD: [(&str, Option<&str>); 10] = [
    ("delivery-ratio", Some("publish")),
    ("latency", None),
    ("no-acknowledged-loss", None),
    ("order-per-publisher", Some("publish")),
    ("no-duplicates", Some("publish")),
    ("answered", Some("call")),
    ("left-alone", Some("call")),
    ("one-order", Some("append")),
    ("handed-over", Some("batch")),
    ("retained", Some("publish")),
];

fn check(mut keys: Keys<'_>, frame: &Frame, workloads: &[Workload]) -> Vec<Check> {
    const KINDS: [&str; 15] = [
        "delivery-ratio",
        "latency",
        "no-acknowledged-loss",
        "order-per-publisher",
        "no-duplicates",
        "answered",
        "left-alone",
        "one-order",
        "handed-over",
        "retained",
        "convergence-time",
        "memory-bound",
        "bytes-per-node",
        "duplicate-ratio",
        "degree",
    ];
    let Some(word) = keys.need_word("kind", &KINDS) else {
        return Vec::new();
    };
    let kind = check_kind(&mut keys, word, frame);
    let of = OF_WORKLOAD.iter().find(|(kind, _)| *kind == word);
    let indices = match of {
        Some((_, wanted)) => of_workloads(&mut keys, word, *wanted, workloads),
        None => vec![None],
    };
    keys.done();
    let Some(kind) = kind else { return Vec::new() };
    let named = |index: &Option<usize>| match index {
        Some(index) => format!("{word} of {}", workloads[*index].name),
        None => word.to_owned(),
    };
    indices
        .into_iter()
        .map(|workload| Check {
            name: named(&workload),
            kind: kind.clone(),
            workload,
        })
        .collect()
}

/// The workload a check names; all that it fits where it names none.
fn of_workloads(keys: &mut Keys<'_>, word: &str, wanted: Option<&str>, workloads: &[Workload]) -> Vec<Option<usize>> {
    let fits = |workload: &Workload| {
        let retains = matches!(workload.kind, WorkloadKind::Publish { retain: true, .. });
        wanted.is_none_or(|wanted| wanted == workload.kind.as_str()) && (word != "retained" || retains)
    };
    let names: Vec<&str> = workloads.iter().map(|workload| workload.name.as_str()).collect();
    match keys.opt::<String>("workload") {
        Some(name) => match workloads.iter().position(|workload| workload.name == name) {
            Some(index) if fits(&workloads[index]) => return vec![Some(index)],
            Some(_) => keys.wrong(
                "workload",
                format!("{} is of a kind that {word} does not fit", shorten(&name)),
            ),
            None if names.is_empty() => keys.wrong(
                "workload",
                format!("names {}, but the scenario has no workload", shorten(&name)),
            ),
            None => {
                let hint = did_you_mean(nearest(&name, names.iter().copied()));
                keys.wrong(
                    "workload",
                    format!("names {}; there is {}{hint}", shorten(&name), names.join(", ")),
                );
            }
        },
        None if keys.has("workload") => {}
        None => {
            let fitting: Vec<_> = (0..workloads.len())
                .filter(|i| fits(&workloads[*i]))
                .map(Some)
                .collect();
            if !fitting.is_empty() {
                return fitting;
            }
            let kind = match (word, wanted) {
                ("retained", _) => " that retains".to_owned(),
                (_, wanted) => wanted.map_or(String::new(), |kind| format!(" of the kind {kind}")),
            };
            keys.wrong(
                "kind",
                format!("{word} checks a workload{kind}, but the scenario has none"),
            );
        }
    }
    Vec::new()
}

fn check_kind(keys: &mut Keys<'_>, word: &str, frame: &Frame) -> Option<CheckKind> {
    Some(match word {
        "delivery-ratio" => CheckKind::DeliveryRatio {
            min: keys.need::<Share>("min")?.0,
        },
        "latency" => {
            let percentile = keys.or("percentile", 99.0);
            if percentile > 100.0 {
                keys.wrong("percentile", "must be from 0 to 100");
            }
            CheckKind::Latency {
                percentile,
                max: keys.need("max")?,
            }
        }
        "no-acknowledged-loss" => CheckKind::NoAcknowledgedLoss,
        "order-per-publisher" => CheckKind::OrderPerPublisher,
        "no-duplicates" => CheckKind::NoDuplicates,
        "answered" => CheckKind::Answered {
            min: keys.need::<Share>("min")?.0,
        },
        "left-alone" => CheckKind::LeftAlone {
            max: keys.need::<Share>("max")?.0,
            opens: keys.or("opens", Duration::from_secs(10)),
            closes: keys.or("closes", Duration::from_secs(30)),
        },
        "one-order" => CheckKind::OneOrder {
            min: keys.need::<Share>("min")?.0,
        },
        "retained" => CheckKind::Retained,
        "handed-over" => CheckKind::HandedOver {
            dead_max: keys.or("dead_max", Share(0.0)).0,
        },
        "convergence-time" => CheckKind::ConvergenceTime { max: keys.need("max")? },
        "memory-bound" => CheckKind::MemoryBound {
            max_per_node: keys.need::<Bytes>("max_per_node")?.0,
        },
        "bytes-per-node" => CheckKind::BytesPerNode {
            max: keys.need::<Bytes>("max")?.0,
        },
        "duplicate-ratio" => CheckKind::DuplicateRatio { max: keys.need("max")? },
        _ => {
            let (min, max) = (keys.or("min", 1), keys.opt("max"));
            if max.is_some_and(|max| max < min) {
                keys.wrong("max", "is less than min");
            }
            if min >= frame.nodes && frame.nodes > 0 {
                keys.wrong(
                    "min",
                    format!("cannot be: a node has at most {} others", frame.nodes - 1),
                );
            }
            CheckKind::Degree { min, max }
        }
    })
}
