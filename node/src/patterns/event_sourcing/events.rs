//! Events in the structured JSON form of CloudEvents 1.0, and back.

use data_encoding::BASE64;
use serde_json::{Map, Value};
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{Event, Producer},
};

use super::{handle::Recorded, options::StreamError};
use crate::{local::rfc3339, patterns::cloud_event};

/// What this node adds to an event when it shows it; nobody can say it of one to be appended.
const ADDED: [&str; 6] = [
    "sequence",
    "recordedtime",
    "author",
    "producer",
    "producersequence",
    RECORDED_SCHEMA,
];
/// The extension attribute that says with which schema an event was recorded, where its data were made those of a later one.
pub(super) const RECORDED_SCHEMA: &str = "recordedschema";
/// The extension attribute with an event's tags, which have commas between them.
const TAGS: &str = "tags";

/// An event as it stands in a stream. Where nobody has said otherwise its source is the stream, and its id its position.
pub(crate) fn to_json(stream: &Subject, recorded: &Recorded) -> Value {
    let Recorded { position, record } = recorded;
    let event = &record.event;
    let mut json = Map::new();
    let mut put = |name: &str, value: String| {
        json.insert(name.to_owned(), value.into());
    };
    put("specversion", "1.0".to_owned());
    put("id", event.id.clone().unwrap_or_else(|| position.to_string()));
    put(
        "source",
        event.source.clone().unwrap_or_else(|| format!("/v1/streams/{stream}")),
    );
    put("type", event.kind.clone());
    let optional = [
        ("subject", &event.subject),
        ("datacontenttype", &event.datacontenttype),
        ("dataschema", &event.dataschema),
    ];
    for (name, value) in optional {
        value.iter().for_each(|value| put(name, value.clone()));
    }
    put("time", rfc3339(event.time_ms.unwrap_or(record.recorded_ms)));
    put("recordedtime", rfc3339(record.recorded_ms));
    put("sequence", position.to_string());
    if !event.tags.is_empty() {
        put(TAGS, event.tags.join(","));
    }
    for (name, value) in &event.extensions {
        put(name, value.clone());
    }
    if let Some(author) = &record.author {
        put("author", author.peer_id().to_string());
    }
    if let Some(Producer { id, sequence }) = &record.producer {
        put("producer", id.clone());
        put("producersequence", sequence.to_string());
    }
    cloud_event::insert_data(&mut json, event.datacontenttype.as_deref(), &event.data);
    Value::Object(json)
}

/// An event that an application has put into JSON.
///
/// # Errors
/// It is none.
pub(crate) fn from_json(json: Value) -> Result<Event, StreamError> {
    let invalid = |reason: String| StreamError::Invalid(format!("this is no event: {reason}"));
    let Value::Object(members) = json else {
        return Err(invalid("it is no JSON object".into()));
    };
    let mut event = Event::default();
    let (mut text, mut value) = (None, None);
    for (name, member) in members {
        if name == "data" {
            value = Some(member);
            continue;
        }
        if ADDED.contains(&name.as_str()) || member.is_null() {
            continue;
        }
        let member = match member {
            Value::String(text) => text,
            Value::Bool(_) | Value::Number(_) => member.to_string(),
            _ => return Err(invalid(format!("{name} is neither text nor number"))),
        };
        match name.as_str() {
            "specversion" if member == "1.0" => {}
            "specversion" => return Err(invalid(format!("its specversion is {member}, understood is 1.0"))),
            "id" => event.id = Some(member),
            "source" => event.source = Some(member),
            "type" => event.kind = member,
            "subject" => event.subject = Some(member),
            "time" => {
                let time = cloud_event::parse_time(&member);
                event.time_ms = Some(time.ok_or_else(|| invalid(format!("{member} is no time (RFC 3339)")))?);
            }
            "datacontenttype" => event.datacontenttype = Some(member),
            "dataschema" => event.dataschema = Some(member),
            "data_base64" => text = Some(member),
            TAGS => event.tags = member.split(',').map(|tag| tag.trim().to_owned()).collect(),
            _ => event.extensions.push((name, member)),
        }
    }
    event.data = match (value, text) {
        (None, None) => Vec::new(),
        (None, Some(text)) => {
            let data = BASE64.decode(text.as_bytes());
            data.map_err(|_| invalid("its data_base64 is no base64".into()))?
        }
        (Some(value), None) => data_of(value, &mut event.datacontenttype),
        (Some(_), Some(_)) => return Err(invalid("it has both data and data_base64".into())),
    };
    Ok(event)
}

/// The bytes of a JSON value: of text they are the text, unless the media type is JSON (CloudEvents JSON format, §3.1.1).
fn data_of(value: Value, content_type: &mut Option<String>) -> Vec<u8> {
    let is_json = content_type.as_deref().is_none_or(cloud_event::is_json);
    match value {
        Value::String(text) if !is_json => text.into_bytes(),
        value => {
            content_type.get_or_insert_with(|| "application/json".to_owned());
            value.to_string().into_bytes()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_protocol::patterns::event_sourcing::Record;

    use super::*;

    fn shown(event: Event) -> Value {
        let record = Record {
            recorded_ms: 1_790_000_000_000,
            author: None,
            producer: None,
            event,
            entry: None,
        };
        to_json(&"shop.orders".parse().unwrap(), &Recorded { position: 7, record })
    }

    #[test]
    fn what_was_put_in_is_shown() {
        let json = json!({
            "specversion": "1.0", "id": "a", "source": "/shop", "type": "order.created", "subject": "order-1",
            "time": "2026-09-22T02:13:20.123Z", "datacontenttype": "application/json", "dataschema": "https://example.org/order",
            "tags": "customer=1,region=eu", "traceparent": "00-1", "data": {"total": 3},
        });
        let event = from_json(json.clone()).unwrap();
        assert_eq!(event.tags, ["customer=1", "region=eu"]);
        let Value::Object(shown) = shown(event) else { panic!() };
        for (name, value) in json.as_object().unwrap() {
            assert_eq!(shown.get(name), Some(value), "{name}");
        }
        assert_eq!(
            (&shown["sequence"], &shown["recordedtime"]),
            (&json!("7"), &json!("2026-09-21T14:13:20.000Z"))
        );
        // And what is shown can be put in again.
        assert_eq!(from_json(Value::Object(shown)).unwrap(), from_json(json).unwrap());
    }

    #[test]
    fn where_nothing_is_said_the_stream_is_the_source() {
        let shown = shown(Event::new("k", [0xff]));
        assert_eq!(
            (&shown["source"], &shown["id"]),
            (&json!("/v1/streams/shop.orders"), &json!("7"))
        );
        assert_eq!(shown["data_base64"], "/w==");
    }

    #[test]
    fn data_are_the_bytes_that_their_media_type_means() {
        let data = |json: Value| from_json(json).unwrap();
        assert_eq!(data(json!({"type": "k", "data": "x"})).data, b"\"x\"");
        let text = data(json!({"type": "k", "datacontenttype": "text/plain", "data": "x"}));
        assert_eq!(text.data, b"x");
        assert_eq!(data(json!({"type": "k", "data_base64": "/w=="})).data, [0xff]);
        for wrong in [
            json!([]),
            json!({"type": "k", "specversion": "0.3"}),
            json!({"type": "k", "data": 1, "data_base64": "/w=="}),
            json!({"type": "k", "data_base64": "?"}),
            json!({"type": "k", "time": "tomorrow"}),
            json!({"type": {}}),
        ] {
            assert!(from_json(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
