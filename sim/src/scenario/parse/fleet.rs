//! `[fleet]`: the nodes, by groups.

use std::{collections::BTreeMap, time::Duration};

use toml::de::{DeTable, DeValue};
use weft_node::config::{Config, ConfigError, ConfigErrors, Sources};
use weft_protocol::name::{check_name, check_role};

use super::super::{
    cities::{CITIES, city},
    data::{Group, Nat, Version},
    field::{SignedMs, found, shorten},
    reader::{Keys, did_you_mean, nearest},
};
use super::NODES_MAX;

/// Groups of one scenario.
const GROUPS_MAX: usize = 1_000;

/// Keys of the configuration that the simulator must set itself.
const OURS: [&str; 5] = ["node.name", "mesh.listen", "mesh.bootstrap", "api.listen", "api.socket"];

pub(super) fn fleet(keys: &mut Keys<'_>) -> Vec<Group> {
    let alone: Option<usize> = keys.opt("nodes");
    let entries = keys.entries();
    let mut fleet = Vec::new();
    if let Some(count) = alone {
        fleet.push(Group {
            count,
            ..group_named("node")
        });
    }
    if entries.len() > GROUPS_MAX {
        keys.wrong("", format!("has more than {GROUPS_MAX} groups"));
        return fleet;
    }
    for (name, value) in entries {
        let offset = Some(value.span().start);
        match value.get_ref() {
            DeValue::Table(table) => {
                if let Err(reason) = check_name("group", name) {
                    keys.doc.wrong_at(offset, "fleet", reason.to_string());
                }
                fleet.push(group(name, Keys::new(keys.doc, "fleet.GROUP", Some(table), offset)));
            }
            other => {
                let hint = did_you_mean(nearest(name, ["nodes"].into_iter()));
                let reason = format!(
                    "expects groups such as [fleet.edge], or nodes = 100; found {} = {}{hint}",
                    shorten(name),
                    found(other)
                );
                keys.doc.wrong_at(offset, "fleet", reason);
            }
        }
    }
    if alone.is_some() && fleet.len() > 1 {
        keys.wrong(
            "nodes",
            "is short for a fleet of one group; with groups, each says its count",
        );
    }
    let nodes = fleet.iter().fold(0_usize, |sum, group| sum.saturating_add(group.count));
    if nodes == 0 && keys.doc.is_clean() {
        keys.wrong("", "has no nodes: say nodes = 100, or give groups a count");
    } else if nodes > NODES_MAX {
        keys.wrong("", format!("has {nodes} nodes; {NODES_MAX} is the most"));
        fleet.truncate(0);
    }
    fleet
}

fn group_named(name: &str) -> Group {
    Group {
        name: name.to_owned(),
        count: 0,
        role: None,
        config: BTreeMap::new(),
        cities: Vec::new(),
        nat: Nat::None,
        version: Version::Current,
        clock_skew_ms: 0,
        start: Duration::ZERO,
        start_over: Duration::ZERO,
    }
}

fn group(name: &str, mut keys: Keys<'_>) -> Group {
    let mut group = group_named(name);
    group.count = keys.need("count").unwrap_or(0);
    group.role = keys.opt("role");
    if let Some(Err(reason)) = group.role.as_deref().map(check_role) {
        keys.wrong("role", format!("is not one: {reason}"));
    }
    group.cities = keys.or("cities", Vec::<String>::new());
    for name in &group.cities {
        if city(name).is_none() {
            let hint = did_you_mean(nearest(name, CITIES.into_iter()));
            keys.wrong(
                "cities",
                format!("has {}; known are {}{hint}", shorten(name), CITIES.join(", ")),
            );
        }
    }
    group.nat = match keys.word("nat", &["none", "full-cone", "restricted", "symmetric"]) {
        Some("full-cone") => Nat::FullCone,
        Some("restricted") => Nat::Restricted,
        Some("symmetric") => Nat::Symmetric,
        _ => Nat::None,
    };
    group.version = match keys.opt::<String>("version").as_deref() {
        None | Some("current") => Version::Current,
        Some("previous") => Version::Previous,
        Some(path) if path.contains('/') => Version::Binary(path.to_owned()),
        Some(other) => {
            let reason = format!(
                "{} is none of current, previous, or the path of a binary",
                shorten(other)
            );
            keys.wrong("version", reason);
            Version::Current
        }
    };
    group.clock_skew_ms = keys.or("clock_skew", SignedMs(0)).0;
    group.start = keys.or("start", Duration::ZERO);
    group.start_over = keys.or("start_over", Duration::ZERO);
    group.config = config(&mut keys);
    keys.done();
    group
}

/// The configuration, as key and text, tried on the node's own reading of it.
fn config(keys: &mut Keys<'_>) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    let Some(value) = keys.raw("config") else {
        return flat;
    };
    match value.get_ref() {
        DeValue::Table(table) => flatten(table, "", &mut flat),
        other => keys.wrong(
            "config",
            format!(
                "expects a table such as {{ mesh.mdns = false }}, found {}",
                found(other)
            ),
        ),
    }
    for (key, text) in &flat {
        if OURS.contains(&key.as_str()) {
            keys.wrong("config", format!("cannot set {key}: the simulator does"));
        }
        let sources = Sources::new().flag("config", key, [text.clone()]);
        if let Err(ConfigErrors(errors)) = Config::load(&sources) {
            for error in errors {
                keys.wrong("config", reason_of(&error));
            }
        }
    }
    flat
}

fn reason_of(error: &ConfigError) -> String {
    match error {
        ConfigError::UnknownKey { key, nearest, .. } => {
            format!(
                "has {}, which is no key of a node{}",
                shorten(key),
                did_you_mean(nearest.as_deref())
            )
        }
        ConfigError::Value { key, reason, .. } => format!("is wrong: {key} {reason}"),
        other => format!("is wrong: {other}"),
    }
}

/// `{ mesh = { mdns = false } }` and `{ "mesh.mdns" = false }` are the same.
fn flatten(table: &DeTable<'_>, prefix: &str, flat: &mut BTreeMap<String, String>) {
    for (name, value) in table.iter() {
        let key = match prefix {
            "" => name.get_ref().to_string(),
            prefix => format!("{prefix}.{}", name.get_ref()),
        };
        match value.get_ref() {
            DeValue::Table(inner) => flatten(inner, &key, flat),
            other => {
                flat.insert(key, plain(other));
            }
        }
    }
}

/// As a flag would say it.
fn plain(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items
                .iter()
                .map(|item| format!("{:?}", plain(item.get_ref())))
                .collect();
            format!("[{}]", items.join(", "))
        }
        // A table is taken apart before.
        DeValue::Table(_) => String::new(),
    }
}
