//! Streams and consumers as JetStream's API defines and shows them. What Weft's do not have is refused by its name, never left out in silence;
//! what is of no consequence here (a window for duplicates, where there is none that ends) is taken as it comes.

use serde_json::{Map, Value, json};
use weft_protocol::{
    Pattern, PeerId,
    consensus::VoterKey,
    patterns::event_sourcing::{
        CopyFigures, From, Keep, Query, QueryItem, StreamFigures,
        consumer::{ConsumerFigures, ConsumerOptions, Order},
    },
};

use super::refusal::{INVALID_CONFIG, NOT_SUBSET, Refusal};
use crate::{
    consensus::Voter,
    local::rfc3339,
    patterns::{
        cloud_event::parse_time,
        event_sourcing::{StreamInfo, StreamOptions, peer_of_voter},
    },
};

const MS_NS: u64 = 1_000_000;
/// As nats-server has them.
const ACK_WAIT_MS: u64 = 30_000;
const PENDING_MAX: u64 = 1000;
const PENDING_LIMIT: u64 = 10_000;
/// How long a consumer without a durable name stays when nobody uses it.
const EPHEMERAL_MS: u64 = 5000;
const IDLE_MIN_MS: u64 = 1000;
/// The time of what has not happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What a definition of a stream may say.
const OF_STREAM: [&str; 19] = [
    "name",
    "subjects",
    "retention",
    "max_msgs",
    "max_bytes",
    "max_age",
    "num_replicas",
    "placement",
    "storage",
    "discard",
    "duplicate_window",
    "deny_delete",
    "deny_purge",
    "allow_direct",
    "mirror_direct",
    "max_consumers",
    "description",
    "metadata",
    "pedantic",
];
/// What a definition of a consumer may say.
const OF_CONSUMER: [&str; 19] = [
    "durable_name",
    "name",
    "deliver_policy",
    "opt_start_seq",
    "opt_start_time",
    "ack_policy",
    "ack_wait",
    "max_deliver",
    "backoff",
    "filter_subject",
    "filter_subjects",
    "max_ack_pending",
    "max_waiting",
    "inactive_threshold",
    "num_replicas",
    "mem_storage",
    "replay_policy",
    "description",
    "metadata",
];

/// Whether a value says nothing.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64().is_some_and(|number| number <= 0.0),
        Value::String(text) => matches!(text.as_str(), "" | "0" | "none" | "default"),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_unset),
    }
}

/// A definition, and what it is of for people.
struct Definition<'a>(&'a Map<String, Value>);

impl Definition<'_> {
    fn check_known(&self, known: &[&str], what: &str) -> Result<(), Refusal> {
        let is_odd = |(name, value): &(&String, &Value)| !known.contains(&name.as_str()) && !is_unset(value);
        match self.0.iter().find(is_odd) {
            Some((name, value)) => Err(invalid(format!("{what} of Weft have no {name}, which is {value} here"))),
            None => Ok(()),
        }
    }

    /// A number above 0; anything below says nothing.
    fn positive(&self, name: &str) -> Result<Option<u64>, Refusal> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match (value.as_u64(), value.as_i64()) {
                (Some(0), _) | (_, Some(..=0)) => Ok(None),
                (Some(number), _) => Ok(Some(number)),
                _ => Err(invalid(format!("{name} is no number: {value}"))),
            },
        }
    }

    /// A time in nanoseconds, as milliseconds; less than one is one.
    fn millis(&self, name: &str) -> Result<Option<u64>, Refusal> {
        Ok(self.positive(name)?.map(|ns| ns.div_ceil(MS_NS)))
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty()).map(String::as_str)),
            Some(value) => Err(invalid(format!("{name} is no text: {value}"))),
        }
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, Refusal> {
        let list = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(value) => return Err(invalid(format!("{name} is no list: {value}"))),
        };
        let texts: Option<Vec<String>> = list.iter().map(|one| one.as_str().map(ToOwned::to_owned)).collect();
        texts.ok_or_else(|| invalid(format!("{name} is no list of texts")))
    }
}

fn invalid(description: impl Into<String>) -> Refusal {
    Refusal::new(INVALID_CONFIG, description)
}

/// How a stream is to be, from its definition.
pub(super) fn stream_options(name: &str, config: &Map<String, Value>) -> Result<StreamOptions, Refusal> {
    let config = Definition(config);
    config.check_known(&OF_STREAM, "streams")?;
    if config.text("name")?.is_some_and(|said| said != name) {
        return Err(invalid("the subject of the request names another stream than its body"));
    }
    let keep = match config.text("retention")? {
        None | Some("limits") => None,
        Some("workqueue") => Some(Keep::Queue),
        Some("interest") => Some(Keep::Interest),
        Some(other) => {
            return Err(invalid(format!(
                "retention is limits, workqueue or interest, not {other}"
            )));
        }
    };
    let refuses = match config.text("discard")? {
        None | Some("old") => false,
        Some("new") => true,
        Some(other) => return Err(invalid(format!("discard is old or new, not {other}"))),
    };
    if config
        .text("storage")?
        .is_some_and(|storage| !matches!(storage, "file" | "memory"))
    {
        return Err(invalid("storage is file or memory"));
    }
    let replicas = match config.positive("num_replicas")? {
        None | Some(1) => None,
        Some(count) => Some(u8::try_from(count).map_err(|_| invalid("a stream has 1, 3 or 5 copies"))?),
    };
    let place = match config.0.get("placement") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(placement)) => Definition(placement).texts("tags")?,
        Some(_) => return Err(invalid("placement is no object")),
    };
    let (retain_bytes, retain_records) = (config.positive("max_bytes")?, config.positive("max_msgs")?);
    let mut subjects = config.texts("subjects")?;
    if subjects.is_empty() {
        subjects.push(name.to_owned());
    }
    Ok(StreamOptions {
        retain_ms: config.millis("max_age")?,
        retain_bytes,
        retain_records,
        // Without a bound it is never full.
        refuse_when_full: (refuses && (retain_bytes.is_some() || retain_records.is_some())).then_some(true),
        replicas,
        place: (!place.is_empty()).then_some(place),
        keep,
        subjects: Some(subjects),
    })
}

/// How a stream is defined, in the API's words.
pub(super) fn stream_config(info: &StreamInfo, figures: &StreamFigures) -> Value {
    let number = |value: Option<u64>| value.map_or(json!(-1), |value| json!(value));
    let subjects: Vec<&str> = figures
        .subjects
        .iter()
        .flat_map(|list| &list.0)
        .map(Pattern::as_str)
        .collect();
    let retention = match figures.keep {
        None => "limits",
        Some(Keep::Queue) => "workqueue",
        Some(Keep::Interest) => "interest",
    };
    let mut config = json!({
        "name": info.name.as_str(), "subjects": subjects, "retention": retention, "max_consumers": -1,
        "max_msgs": number(figures.retain_records), "max_bytes": number(figures.retain_bytes),
        "max_age": figures.retain_ms.unwrap_or(0).saturating_mul(MS_NS), "max_msgs_per_subject": -1, "max_msg_size": -1,
        "discard": if figures.refuse_when_full == Some(true) { "new" } else { "old" }, "storage": "file", "num_replicas": copies(figures), "mirror_direct": false,
        "allow_direct": true, "deny_delete": true, "deny_purge": true, "allow_rollup_hdrs": false, "sealed": false,
    });
    if let Some(place) = &figures.place {
        config["placement"] = json!({ "tags": place.0 });
    }
    config
}

fn copies(figures: &StreamFigures) -> usize {
    let counting = |copies: &CopyFigures| copies.members.iter().filter(|copy| copy.is_new != Some(true)).count();
    figures.copies.as_ref().map_or(1, counting).max(1)
}

/// How a stream is, in the API's words.
pub(super) fn stream_info(info: &StreamInfo) -> Option<Value> {
    let figures = info.figures.as_ref()?;
    let records = (figures.version + 1).saturating_sub(figures.first);
    let mut shown = json!({
        "config": stream_config(info, figures), "created": rfc3339(figures.created_ms),
        "state": {
            "messages": records, "bytes": figures.bytes, "first_seq": figures.first, "first_ts": NEVER,
            "last_seq": figures.version, "last_ts": figures.last_ms.map_or(NEVER.to_owned(), rfc3339),
            "consumer_count": figures.consumers,
        },
        "cluster": cluster(info.owner, figures),
        "offset": 0, "limit": 0, "total": 0,
    });
    // Tools show it; of a stream that keeps nothing the next record is the first.
    if records == 0 {
        shown["state"]["first_seq"] = json!(figures.version + 1);
    }
    Some(shown)
}

pub(super) fn cluster(owner: PeerId, figures: &StreamFigures) -> Value {
    let peer = |key: VoterKey| peer_of_voter(Voter::from(key)).map(|peer| peer.to_string());
    let others = figures.copies.iter().flat_map(|copies| &copies.members);
    let replicas: Vec<Value> = others
        .filter_map(|copy| Some((peer(copy.key).filter(|peer| *peer != owner.to_string())?, copy)))
        .map(|(name, copy)| {
            let lag = copy.behind.unwrap_or(0);
            json!({ "name": name, "current": copy.is_new != Some(true) && lag == 0, "offline": false, "active": 0, "lag": lag })
        })
        .collect();
    json!({ "name": "weft", "leader": owner.to_string(), "replicas": replicas })
}

/// A consumer's name if its definition gives one, and how it is to be. `taken` is what the stream takes in.
pub(super) fn consumer_options(
    config: &Map<String, Value>,
    taken: &[Pattern],
) -> Result<(Option<String>, ConsumerOptions), Refusal> {
    let config = Definition(config);
    if config.text("deliver_subject")?.is_some() {
        return Err(invalid(
            "consumers of Weft are pulled: one that pushes to a deliver_subject is not offered",
        ));
    }
    config.check_known(&OF_CONSUMER, "consumers")?;
    let is_acked = match config.text("ack_policy")? {
        Some("none") => false,
        None | Some("explicit") => true,
        Some(other) => return Err(invalid(format!("ack_policy is explicit or none, not {other}"))),
    };
    if config.text("replay_policy")?.is_some_and(|replay| replay != "instant") {
        return Err(invalid(
            "records are replayed as fast as they are asked for (replay_policy: instant)",
        ));
    }
    let durable = config.text("durable_name")?;
    let idle = match (config.millis("inactive_threshold")?, durable) {
        (Some(idle), _) => Some(idle.max(IDLE_MIN_MS)),
        (None, Some(_)) => None,
        (None, None) => Some(EPHEMERAL_MS),
    };
    let backoff = match config.0.get("backoff") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => {
            let pauses: Option<Vec<u64>> = list.iter().map(|ns| Some(ns.as_u64()?.div_ceil(MS_NS))).collect();
            pauses.ok_or_else(|| invalid("backoff is no list of nanoseconds"))?
        }
        Some(_) => return Err(invalid("backoff is no list")),
    };
    let deliver_max = config.positive("max_deliver")?;
    let options = ConsumerOptions {
        from: beginning(&config)?,
        query: filter(&config, taken)?,
        ack_wait_ms: match (backoff.first(), config.millis("ack_wait")?) {
            // As with nats-server: the first pause is the time to settle.
            (Some(first), _) if *first > 0 => *first,
            (_, wait) => wait.unwrap_or(ACK_WAIT_MS),
        },
        deliver_max: deliver_max.map(|most| u32::try_from(most).unwrap_or(u32::MAX)),
        backoff_ms: backoff,
        pending_max: match config.0.get("max_ack_pending").and_then(Value::as_i64) {
            Some(..0) => PENDING_LIMIT as u32,
            _ => config
                .positive("max_ack_pending")?
                .unwrap_or(PENDING_MAX)
                .min(PENDING_LIMIT) as u32,
        },
        order: Order::Any,
        is_acked,
        idle_ms: idle,
        is_upcast: None,
    };
    let name = config.text("name")?.or(durable).map(ToOwned::to_owned);
    Ok((name, options))
}

fn beginning(config: &Definition<'_>) -> Result<From, Refusal> {
    Ok(match config.text("deliver_policy")? {
        None | Some("all") => From::Position(1),
        Some("last") => From::Last(1),
        Some("new") => From::End,
        Some("by_start_sequence") => From::Position(config.positive("opt_start_seq")?.unwrap_or(1)),
        Some("by_start_time") => {
            let time = config.text("opt_start_time")?.unwrap_or_default();
            From::Time(
                parse_time(time).ok_or_else(|| invalid(format!("opt_start_time is no time (RFC 3339): {time}")))?,
            )
        }
        Some(other) => {
            return Err(invalid(format!(
                "deliver_policy is all, last, new, by_start_sequence or by_start_time, not {other}"
            )));
        }
    })
}

/// Which records the filters mean. A subject is a type; one with wildcards is understood where it means all that the stream takes in.
fn filter(config: &Definition<'_>, taken: &[Pattern]) -> Result<Query, Refusal> {
    let mut filters = config.texts("filter_subjects")?;
    filters.extend(config.text("filter_subject")?.map(ToOwned::to_owned));
    let mut types = Vec::new();
    for filter in filters {
        let pattern: Pattern = filter
            .parse()
            .map_err(|error| Refusal::new(NOT_SUBSET, format!("the filter {filter:?}: {error}")))?;
        if filter == ">" || (!taken.is_empty() && taken.iter().all(|taken| pattern.covers(taken))) {
            return Ok(Query::default());
        }
        if pattern.as_subject().is_none() {
            return Err(Refusal::new(
                NOT_SUBSET,
                format!("a filter is a subject without wildcards, or all that the stream takes in, not {filter}"),
            ));
        }
        types.push(filter);
    }
    let tags = Vec::new();
    let items = match types.is_empty() {
        true => Vec::new(),
        false => vec![QueryItem { types, tags }],
    };
    Ok(Query { items })
}

/// How a consumer is, in the API's words. `created_ms` is when its stream was: of itself that is not kept. `last_ms` is when this door handed out
/// something of it.
pub(super) fn consumer_info(stream: &str, created_ms: u64, figures: &ConsumerFigures, last_ms: Option<u64>) -> Value {
    let options = &figures.options;
    let types: Vec<&String> = options.query.items.iter().flat_map(|item| &item.types).collect();
    let mut config = json!({
        "name": figures.name, "ack_policy": if options.is_acked { "explicit" } else { "none" },
        "ack_wait": options.ack_wait_ms.saturating_mul(MS_NS), "max_deliver": options.deliver_max.map_or(-1, i64::from),
        "replay_policy": "instant", "max_ack_pending": options.pending_max, "max_waiting": super::PULLS_OF_ONE_MAX, "num_replicas": 0,
    });
    if let Some(idle) = options.idle_ms {
        config["inactive_threshold"] = json!(idle.saturating_mul(MS_NS));
    } else {
        config["durable_name"] = json!(figures.name);
    }
    if !options.backoff_ms.is_empty() {
        let pauses = options.backoff_ms.iter().map(|ms| ms.saturating_mul(MS_NS));
        config["backoff"] = json!(pauses.collect::<Vec<u64>>());
    }
    match types[..] {
        [] => {}
        [one] => config["filter_subject"] = json!(one),
        _ => config["filter_subjects"] = json!(types),
    }
    let policy = match options.from {
        From::Position(0 | 1) => "all",
        From::Position(position) => {
            config["opt_start_seq"] = json!(position);
            "by_start_sequence"
        }
        From::Time(ms) => {
            config["opt_start_time"] = json!(rfc3339(ms));
            "by_start_time"
        }
        From::Last(_) => "last",
        From::End => "new",
    };
    config["deliver_policy"] = json!(policy);
    let mut shown = json!({
        "stream_name": stream, "name": figures.name, "created": rfc3339(created_ms), "config": config,
        "delivered": { "consumer_seq": figures.reached, "stream_seq": figures.reached },
        "ack_floor": { "consumer_seq": figures.settled, "stream_seq": figures.settled },
        "num_ack_pending": figures.pending, "num_redelivered": 0, "num_pending": unhanded(figures),
    });
    if let Some(last_ms) = last_ms {
        shown["delivered"]["last_active"] = json!(rfc3339(last_ms));
    }
    shown
}

/// Records that wait to be handed out: behind what was looked at, and looked at already.
pub(super) fn unhanded(figures: &ConsumerFigures) -> u64 {
    figures.behind + u64::from(figures.waiting)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_stream_is_defined_as_its_clients_say_it() {
        // As nats.py and async-nats send them, with all that says nothing.
        let options = stream_options(
            "ORDERS",
            &map(json!({
                "name": "ORDERS", "subjects": ["orders.>"], "retention": "workqueue", "max_consumers": -1, "max_msgs": 1000,
                "max_bytes": -1, "max_age": 1_500_000_000u64, "max_msg_size": -1, "storage": "memory", "discard": "old",
                "num_replicas": 3, "duplicate_window": 120_000_000_000u64, "max_msgs_per_subject": 0, "sealed": false,
                "allow_rollup_hdrs": false, "consumer_limits": {"inactive_threshold": 0}, "compression": "none",
                "placement": {"cluster": "", "tags": ["zone=eu"]}, "sources": [], "mirror": null, "persist_mode": "default",
            })),
        )
        .unwrap();
        let expected = StreamOptions {
            retain_ms: Some(1500),
            retain_records: Some(1000),
            replicas: Some(3),
            place: Some(vec!["zone=eu".into()]),
            keep: Some(Keep::Queue),
            subjects: Some(vec!["orders.>".into()]),
            ..StreamOptions::default()
        };
        assert_eq!(options, expected);
        let full = stream_options("ORDERS", &map(json!({"max_msgs": 3, "discard": "new"}))).unwrap();
        assert_eq!((full.retain_records, full.refuse_when_full), (Some(3), Some(true)));
        // Without subjects it takes in its own name.
        let options = stream_options("ORDERS", &map(json!({}))).unwrap();
        assert_eq!(options.subjects, Some(vec!["ORDERS".into()]));
    }

    #[test]
    fn what_streams_do_not_have_is_refused_by_name() {
        for (config, named) in [
            (json!({"mirror": {"name": "A"}}), "mirror"),
            (json!({"max_msgs_per_subject": 1}), "max_msgs_per_subject"),
            (json!({"allow_rollup_hdrs": true}), "allow_rollup_hdrs"),
            (json!({"discard": "both"}), "discard"),
            (json!({"compression": "s2"}), "compression"),
            (json!({"max_age": "1s"}), "max_age"),
            (json!({"subjects": "a"}), "subjects"),
            (json!({"subjects": [1]}), "subjects"),
            (json!({"num_replicas": 300}), "copies"),
            (json!({"name": "OTHER"}), "another stream"),
        ] {
            let refused = stream_options("ORDERS", &map(config.clone())).unwrap_err().to_json();
            assert!(
                refused["description"].as_str().unwrap().contains(named),
                "{config}: {refused}"
            );
        }
    }

    #[test]
    fn a_consumer_is_defined_as_its_clients_say_it() {
        let taken = ["orders.>".parse().unwrap()];
        let (name, options) = consumer_options(
            &map(json!({
                "durable_name": "billing", "name": "billing", "ack_policy": "explicit", "deliver_policy": "by_start_sequence",
                "opt_start_seq": 7, "ack_wait": 5_000_000_000u64, "max_deliver": 4, "backoff": [1_000_000_000u64, 2_000_000_000u64],
                "filter_subjects": ["orders.created", "orders.paid"], "max_ack_pending": -1, "replay_policy": "instant",
                "rate_limit_bps": 0, "sample_freq": "0", "headers_only": false, "max_batch": 0,
            })),
            &taken,
        )
        .unwrap();
        assert_eq!(name.as_deref(), Some("billing"));
        assert_eq!(
            (options.from, options.ack_wait_ms, options.deliver_max),
            (From::Position(7), 1000, Some(4))
        );
        assert_eq!(options.query.items[0].types, ["orders.created", "orders.paid"]);
        assert_eq!((options.pending_max, options.idle_ms), (10_000, None));
        options.check().unwrap();
        // And what is shown of it is understood again.
        let figures = ConsumerFigures {
            name: "billing".into(),
            options: options.clone(),
            settled: 1,
            reached: 2,
            pending: 3,
            waiting: 4,
            behind: 5,
            dead: 0,
        };
        let shown = consumer_info("ORDERS", 0, &figures, None);
        assert_eq!(
            consumer_options(&map(shown["config"].clone()), &taken).unwrap().1,
            options
        );
        // One without a durable name goes when nobody uses it.
        let (name, options) = consumer_options(
            &map(json!({"ack_policy": "none", "filter_subject": "orders.>"})),
            &taken,
        )
        .unwrap();
        assert_eq!((name, options.idle_ms, options.is_acked), (None, Some(5000), false));
        assert!(options.query.is_all());
    }

    #[test]
    fn what_consumers_do_not_have_is_refused_by_name() {
        let taken = ["orders.>".parse().unwrap()];
        for (config, named) in [
            (json!({"deliver_subject": "x"}), "deliver_subject"),
            (json!({"ack_policy": "all"}), "ack_policy"),
            (json!({"deliver_policy": "last_per_subject"}), "deliver_policy"),
            (json!({"filter_subject": "orders.*.x"}), "wildcards"),
            (json!({"filter_subject": "a..b"}), "filter"),
            (json!({"headers_only": true}), "headers_only"),
            (json!({"replay_policy": "original"}), "replay_policy"),
            (
                json!({"deliver_policy": "by_start_time", "opt_start_time": "soon"}),
                "opt_start_time",
            ),
            (json!({"priority_groups": ["a"]}), "priority_groups"),
        ] {
            let refused = consumer_options(&map(config.clone()), &taken).unwrap_err().to_json();
            assert!(
                refused["description"].as_str().unwrap().contains(named),
                "{config}: {refused}"
            );
        }
    }
}
