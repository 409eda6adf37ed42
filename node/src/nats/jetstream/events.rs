//! A message of a NATS client as an event of a stream, and back.
//!
//! The subject is the event's type, `Nats-Msg-Id` its id. The client's block of headers stays as it is, in an extension, as it does in the
//! mesh ([`headers`]); what of it others can use is said a second time. An event that came from elsewhere is to NATS clients what the NATS
//! binding of CloudEvents makes of it.

use std::fmt::Write as _;

use data_encoding::BASE64;
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{Event, Record},
};

use crate::{
    local::rfc3339,
    nats::headers::{self, BEGIN, BLOCK, DOOR},
};

/// The header that makes publishing twice once.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// A message as an event.
pub(super) fn event_of(subject: &Subject, block: &[u8], payload: &[u8]) -> Event {
    let mesh = headers::to_mesh(block, None, false);
    let said = |name: &str| headers::field(block, name).map(ToOwned::to_owned);
    Event {
        kind: subject.as_str().to_owned(),
        id: said(MESSAGE_ID).or_else(|| said("ce-id")).filter(|id| !id.is_empty()),
        source: said("ce-source"),
        subject: said("ce-subject"),
        time_ms: None,
        datacontenttype: mesh.content_type,
        dataschema: said("ce-dataschema"),
        tags: Vec::new(),
        extensions: mesh.extensions.into_iter().filter(|(name, _)| name != DOOR).collect(),
        data: payload.to_vec(),
    }
}

/// The subject of a record, and its block of headers.
pub(super) fn message_of(stream: &Subject, position: u64, record: &Record) -> (String, Vec<u8>) {
    let event = &record.event;
    let subject = match event.kind.parse::<Subject>() {
        Ok(subject) if !subject.is_reserved() => event.kind.clone(),
        _ => stream.to_string(),
    };
    let extension = |wanted: &str| event.extensions.iter().find(|(name, _)| name == wanted);
    let block = match extension(BLOCK) {
        Some((_, text)) => BASE64
            .decode(text.as_bytes())
            .ok()
            .filter(|block| headers::is_block(block))
            .unwrap_or_default(),
        // Where nothing but subject and payload was said there is nothing to say.
        None if is_bare(event) && event.kind == subject => Vec::new(),
        None => cloud_event(stream, position, record),
    };
    (subject, block)
}

/// Whether an event has nothing but its type and its data.
fn is_bare(event: &Event) -> bool {
    let texts = [
        &event.id,
        &event.source,
        &event.subject,
        &event.datacontenttype,
        &event.dataschema,
    ];
    let is_said = texts.iter().any(|text| text.is_some()) || event.time_ms.is_some();
    !is_said && event.tags.is_empty() && event.extensions.is_empty()
}

/// The binary mode of the NATS binding of CloudEvents.
fn cloud_event(stream: &Subject, position: u64, record: &Record) -> Vec<u8> {
    let event = &record.event;
    let mut text = format!("{BEGIN}\r\n");
    let mut put = |name: &str, value: &str| {
        if !value.contains(['\r', '\n']) {
            // Writing to a string does not fail.
            let _ = write!(text, "{name}: {value}\r\n");
        }
    };
    put("ce-specversion", "1.0");
    put("ce-id", event.id.as_deref().unwrap_or(&position.to_string()));
    let source = event.source.clone().unwrap_or_else(|| format!("/v1/streams/{stream}"));
    put("ce-source", &source);
    put("ce-type", &event.kind);
    put("ce-time", &rfc3339(event.time_ms.unwrap_or(record.recorded_ms)));
    for (name, value) in [("ce-subject", &event.subject), ("ce-dataschema", &event.dataschema)] {
        value.iter().for_each(|value| put(name, value));
    }
    if !event.tags.is_empty() {
        put("ce-tags", &event.tags.join(","));
    }
    for (name, value) in &event.extensions {
        match name.as_str() {
            "traceparent" | "tracestate" => put(name, value),
            _ => put(&format!("ce-{name}"), value),
        }
    }
    event.datacontenttype.iter().for_each(|kind| put("Content-Type", kind));
    text.push_str("\r\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use weft_protocol::patterns::event_sourcing::Append;

    use super::*;

    fn record(event: Event) -> Record {
        Record {
            recorded_ms: 1_790_000_000_000,
            author: None,
            producer: None,
            event,
            entry: None,
        }
    }

    fn stream() -> Subject {
        "ORDERS".parse().unwrap()
    }

    #[test]
    fn what_a_client_published_comes_back_as_it_was() {
        let subject: Subject = "orders.created".parse().unwrap();
        let block = b"NATS/1.0\r\nNats-Msg-Id: 7\r\nA:  1\r\nContent-Type: text/plain\r\nce-tenant: x\r\n\r\n";
        let event = event_of(&subject, block, b"hi");
        let append = Append {
            events: vec![event.clone()],
            ..Append::default()
        };
        append.check().unwrap();
        assert_eq!(
            (event.kind.as_str(), event.id.as_deref()),
            ("orders.created", Some("7"))
        );
        assert_eq!(event.datacontenttype.as_deref(), Some("text/plain"));
        assert!(event.extensions.contains(&("tenant".into(), "x".into())));
        let (back, headers) = message_of(&stream(), 3, &record(event));
        assert_eq!((back.as_str(), headers.as_slice()), ("orders.created", &block[..]));
        // Without headers it has none.
        let (_, headers) = message_of(&stream(), 3, &record(event_of(&subject, b"", b"hi")));
        assert!(headers.is_empty());
    }

    #[test]
    fn an_event_from_elsewhere_is_a_cloud_event() {
        let mut event = Event::new("https://example.org/created", "{}");
        event.tags = vec!["customer=1".into(), "region=eu".into()];
        event.datacontenttype = Some("application/json".into());
        event.extensions = vec![
            ("tenant".into(), "x\r\ny: z".into()),
            ("traceparent".into(), "00-1".into()),
        ];
        let (subject, block) = message_of(&stream(), 3, &record(event));
        assert_eq!(subject, "ORDERS");
        let field = |name: &str| headers::field(&block, name);
        assert_eq!(field("ce-type"), Some("https://example.org/created"));
        assert_eq!(
            (field("ce-id"), field("ce-source")),
            (Some("3"), Some("/v1/streams/ORDERS"))
        );
        assert_eq!(
            (field("ce-tags"), field("traceparent")),
            (Some("customer=1,region=eu"), Some("00-1"))
        );
        assert_eq!((field("ce-tenant"), field("y")), (None, None));
        assert_eq!(field("content-type"), Some("application/json"));
    }
}
