//! Statements of projections, and the events that they are about: whatever is read comes to an end, twice the same, and is kept as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use weft_node::patterns::projections::sql::{Group, Query};
use weft_protocol::codec;

const GROUP_BYTES_MAX: usize = 8 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.lines();
    let Ok(query) = Query::parse(lines.next().unwrap_or_default()) else { return };
    let events = lines.take(8).filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut kept: Option<Group> = query.single().map(|(_, group)| group);
    for event in events.chain([Value::Null]) {
        let Ok(Some((name, keys))) = query.group(&event) else { continue };
        assert_eq!(query.group(&event).ok().flatten().map(|(name, _)| name), Some(name));
        let mut group = kept.take().unwrap_or_else(|| query.fresh(keys));
        let mut same = group.clone();
        let taken = query.take(&mut group, &event);
        assert_eq!(query.take(&mut same, &event), taken);
        assert_eq!(group, same);
        if taken.is_ok() {
            let again: Group = codec::decode(&codec::encode(&group), GROUP_BYTES_MAX, "group").expect("it is read as it was written");
            assert_eq!(query.row(&again), query.row(&group));
            kept = Some(again);
        }
    }
});
