//! Tables on a disk that fails, and projections of real nodes.

mod faults;
mod nodes;

use serde_json::{Map, Value, json};
use weft_protocol::patterns::event_sourcing::{Event, Record};

use super::sql::{Group, Query};
use crate::patterns::event_sourcing::{Recorded, event_json};

const TOTALS: &str = "SELECT data.customer AS customer, count(*) AS orders, sum(data.amount) AS total, last(data.amount) AS newest FROM orders \
                      WHERE type = 'created' GROUP BY data.customer";

fn event(number: u64) -> Event {
    let data = json!({ "customer": format!("c{}", number * 7 % 13), "amount": number % 100 });
    Event {
        datacontenttype: Some("application/json".to_owned()),
        ..Event::new(
            if number.is_multiple_of(5) { "paid" } else { "created" },
            data.to_string(),
        )
    }
}

/// What a statement comes to for these events, by a plain loop.
fn model(sql: &str, events: impl Iterator<Item = (u64, Event)>) -> Vec<Map<String, Value>> {
    let query = Query::parse(sql).unwrap();
    let mut groups: std::collections::BTreeMap<Vec<u8>, Group> = query.single().into_iter().collect();
    for (position, event) in events {
        let json = event_json(&query.stream().parse().unwrap(), &recorded(position, event));
        if let Some((name, keys)) = query.group(&json).unwrap() {
            query
                .take(groups.entry(name).or_insert_with(|| query.fresh(keys)), &json)
                .unwrap();
        }
    }
    groups.values().filter_map(|group| query.row(group)).collect()
}

fn recorded(position: u64, event: Event) -> Recorded {
    Recorded {
        position,
        record: Record {
            recorded_ms: 1_790_000_000_000 + position,
            author: None,
            producer: None,
            event,
            entry: None,
        },
    }
}
