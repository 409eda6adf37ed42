//! One batch on its way: what it looks like, where it goes, and what the destination's answer means.

use std::{io::Write as _, sync::Arc, time::Duration};

use data_encoding::HEXLOWER;
use flate2::write::GzEncoder;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::timeout;
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{Append, Event},
};

use super::{
    options::{Compression, Destination, Form, RECORD_KIND, Record, event_like},
    queue::Queue,
    shelf::Dead,
    work::Outcome,
};
use crate::{
    error::{ErrorKind, Kind as _},
    patterns::{
        cloud_event,
        event_sourcing::{EventSourcingHandle, StreamError},
        pub_sub::{PubSubHandle, PublishError, PublishOptions},
        request_response::{CallError, CallOptions, RequestResponseHandle},
    },
    platform::{Clock, Entropy},
};

/// The service's own codes that mean *later*: those of HTTP.
const LATER: [u16; 2] = [429, 503];
const EVENTS: &str = "application/cloudevents-batch+json";
const FAILED_BYTES_MAX: usize = 64 << 10;

/// What batches go out by.
pub(super) struct Outlets {
    pub(super) calls: RequestResponseHandle,
    pub(super) messages: PubSubHandle,
    /// None on a node without streams.
    pub(super) streams: Option<EventSourcingHandle>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
}

/// Hands records over, and says what came of it.
pub(super) async fn hand_over(queue: &Queue, outlets: &Outlets, (key, attempt): (&str, u32), seqs: &[u64]) -> Outcome {
    let (mut records, mut places) = (Vec::with_capacity(seqs.len()), Vec::with_capacity(seqs.len()));
    for (place, seq) in seqs.iter().enumerate() {
        match queue.shelf.record(*seq).await {
            Ok(Some(record)) => {
                records.push((*seq, record));
                places.push(place);
            }
            // It is gone already: somebody else's hand, or a removal whose acknowledgement was lost.
            Ok(None) => {}
            Err(error) => return Outcome::Later(None, format!("its records cannot be read: {error}")),
        }
    }
    if records.is_empty() {
        return Outcome::Delivered;
    }
    match &queue.options.to {
        Destination::Service {
            name,
            version,
            endpoint,
        } => {
            let [first, last] = [seqs.first(), seqs.last()].map(|seq| seq.copied().unwrap_or(0));
            let run = HEXLOWER.encode(&queue.run);
            let Shaped {
                content_type,
                encoding,
                body,
            } = shaped(queue, outlets, &records);
            let mut headers = vec![
                ("content-type".to_owned(), content_type.to_owned()),
                ("batch-queue".to_owned(), queue.name.clone()),
                ("batch-count".to_owned(), records.len().to_string()),
            ];
            if let Some(encoding) = encoding {
                headers.push(("content-encoding".to_owned(), encoding.to_owned()));
            }
            if !key.is_empty() {
                headers.push(("batch-key".to_owned(), key.to_owned()));
            }
            let options = CallOptions {
                timeout: Duration::from_millis(queue.options.timeout_ms),
                version: version.clone(),
                headers,
                // A try that nobody knows the outcome of is the same call; one that failed is not.
                idempotency_key: Some(format!("{run}-{first}-{last}-{}-{attempt}", seqs.len())),
                ..CallOptions::default()
            };
            let endpoint = endpoint.as_deref().unwrap_or_default();
            match outlets.calls.call(name, endpoint, body, options).await {
                Ok(answer) => answered(&answer.body, &places),
                Err(error) => refused(error),
            }
        }
        Destination::Subject { name } => publish(queue, outlets, name, &records).await,
        Destination::Stream { name, kind, dataschema } => {
            let like = event_like(kind.as_deref(), dataschema.as_deref());
            append(queue, outlets, (name, like), records).await
        }
    }
}

/// Publishes records as one message.
async fn publish(queue: &Queue, outlets: &Outlets, subject: &Subject, records: &[(u64, Record)]) -> Outcome {
    let Shaped {
        content_type,
        encoding,
        body,
    } = shaped(queue, outlets, records);
    let mut extensions = vec![
        ("batchqueue".to_owned(), queue.name.clone()),
        ("batchcount".to_owned(), records.len().to_string()),
    ];
    if let Some(encoding) = encoding {
        extensions.push(("contentencoding".to_owned(), encoding.to_owned()));
    }
    let options = PublishOptions {
        content_type: Some(content_type.to_owned()),
        extensions,
        ..PublishOptions::default()
    };
    match outlets.messages.publish(subject, body, options).await {
        Ok(_) => Outcome::Delivered,
        Err(PublishError::Invalid(reason)) => Outcome::Failed(reason),
        Err(error) => Outcome::Later(None, error.to_string()),
    }
}

/// Appends records to a stream. A record's event has an id that stays through all tries, also after a restart, so it is recorded once: what is
/// appended again together with new ones is refused as a whole, cut in half like any batch that fails, and then known again.
async fn append(
    queue: &Queue,
    outlets: &Outlets,
    (stream, like): (&Subject, Event),
    records: Vec<(u64, Record)>,
) -> Outcome {
    let Some(streams) = &outlets.streams else {
        return Outcome::Later(None, "this node has no streams".to_owned());
    };
    let source = source(&queue.name, &outlets.messages.local_peer().to_string());
    let append = Append {
        events: records
            .into_iter()
            .map(|record| appended(&source, &like, record))
            .collect(),
        ..Append::default()
    };
    let within = Duration::from_millis(queue.options.timeout_ms);
    match timeout(within, streams.append(stream, append)).await {
        Ok(Ok(_)) => Outcome::Delivered,
        Ok(Err(error)) => not_appended(&error),
        // Whatever became of it, it can be said again.
        Err(_) => Outcome::Later(
            None,
            format!("the stream {stream} did not answer within {} ms", within.as_millis()),
        ),
    }
}

/// A record as an event of a stream.
pub(super) fn appended(source: &str, like: &Event, (seq, record): (u64, Record)) -> Event {
    Event {
        id: Some(format!("{source}/{}", record.id(seq))),
        source: Some(source.to_owned()),
        time_ms: Some(record.time_ms),
        datacontenttype: record.content_type.filter(|media| !media.is_empty()),
        extensions: match record.key.is_empty() {
            true => Vec::new(),
            false => vec![("partitionkey".to_owned(), record.key)],
        },
        data: record.data,
        ..like.clone()
    }
}

/// What cannot be appended as it is fails; everything else is a stream that is away, full or not there yet.
fn not_appended(error: &StreamError) -> Outcome {
    match error.kind() {
        ErrorKind::Invalid | ErrorKind::Conflict if !matches!(error, StreamError::Ambiguous { .. }) => {
            Outcome::Failed(error.to_string())
        }
        _ => Outcome::Later(None, error.to_string()),
    }
}

/// Where the records of a queue come from, a URI reference.
pub(super) fn source(queue: &str, peer: &str) -> String {
    format!("mesh:///{peer}/queue/{queue}")
}

/// A batch as it travels.
struct Shaped {
    content_type: &'static str,
    encoding: Option<&'static str>,
    body: Vec<u8>,
}

/// Records as their queue wants them to look.
fn shaped(queue: &Queue, outlets: &Outlets, records: &[(u64, Record)]) -> Shaped {
    let (content_type, body) = shape(queue, &outlets.messages.local_peer().to_string(), records);
    let (encoding, body) = compressed(queue.options.compress, body);
    Shaped {
        content_type,
        encoding,
        body,
    }
}

/// A body as its queue wants it compressed, and how it is encoded now.
fn compressed(how: Compression, body: Vec<u8>) -> (Option<&'static str>, Vec<u8>) {
    if how == Compression::None {
        return (None, body);
    }
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    match encoder.write_all(&body).and_then(|()| encoder.finish()) {
        Ok(packed) if packed.len() < body.len() => (Some("gzip"), packed),
        // What would be larger goes as it is; memory does not fail.
        _ => (None, body),
    }
}

/// A batch as it travels, and its media type.
fn shape(queue: &Queue, peer: &str, records: &[(u64, Record)]) -> (&'static str, Vec<u8>) {
    match queue.options.form {
        Form::Lines => {
            let is_json = |(_, record): &(u64, Record)| record.content_type.as_deref() == Some("application/json");
            let content_type = match records.iter().all(is_json) {
                true => "application/x-ndjson",
                false => "text/plain; charset=utf-8",
            };
            let mut body = Vec::with_capacity(records.iter().map(|(_, record)| record.data.len() + 1).sum());
            for (_, record) in records {
                body.extend_from_slice(&record.data);
                body.push(b'\n');
            }
            (content_type, body)
        }
        Form::Events => {
            let event = |(seq, record): &(u64, Record)| event(queue, peer, *seq, record);
            let events: Vec<Value> = records.iter().map(event).collect();
            (EVENTS, Value::Array(events).to_string().into_bytes())
        }
    }
}

/// A record as a CloudEvent. Its id stays through all tries of this run and of others.
fn event(queue: &Queue, peer: &str, seq: u64, record: &Record) -> Value {
    let mut event = Map::new();
    for (name, value) in [
        ("specversion", "1.0".to_owned()),
        ("id", record.id(seq)),
        ("source", source(&queue.name, peer)),
        ("type", RECORD_KIND.to_owned()),
        ("time", crate::local::rfc3339(record.time_ms)),
    ] {
        event.insert(name.to_owned(), value.into());
    }
    if !record.key.is_empty() {
        event.insert("partitionkey".to_owned(), record.key.clone().into());
    }
    if let Some(content_type) = &record.content_type {
        event.insert("datacontenttype".to_owned(), content_type.clone().into());
    }
    cloud_event::insert_data(&mut event, record.content_type.as_deref(), &record.data);
    Value::Object(event)
}

/// What a destination may answer that could take some of a batch only.
#[derive(Deserialize)]
struct Answer {
    batch_failed: Vec<FailedRecord>,
}

#[derive(Deserialize)]
struct FailedRecord {
    index: usize,
    #[serde(default)]
    reason: String,
}

/// What an answer says of the records, whose places in the batch these are.
fn answered(body: &[u8], places: &[usize]) -> Outcome {
    if body.len() > FAILED_BYTES_MAX {
        return Outcome::Delivered;
    }
    let Ok(Answer { batch_failed }) = serde_json::from_slice(body) else {
        return Outcome::Delivered;
    };
    let placed = |failed: FailedRecord| Some((*places.get(failed.index)?, failed.reason));
    match batch_failed.into_iter().map(placed).collect::<Option<Vec<_>>>() {
        None => Outcome::Failed("the service names a failed record that is not in the batch".to_owned()),
        Some(failed) if failed.is_empty() => Outcome::Delivered,
        Some(failed) => Outcome::Partly(failed),
    }
}

fn refused(error: CallError) -> Outcome {
    match error {
        CallError::AllBusy { retry_after, .. } => Outcome::Later(retry_after, error.to_string()),
        CallError::Failed { code, .. } if LATER.contains(&code) => Outcome::Later(None, error.to_string()),
        CallError::Failed { .. } | CallError::Timeout(_) | CallError::Invalid(_) => Outcome::Failed(error.to_string()),
        other => Outcome::Later(None, other.to_string()),
    }
}

/// Says on a subject that a record is dead. It is kept in any case.
pub(super) async fn announce_dead(queue: &Queue, outlets: &Outlets, dead: &Dead) {
    let subject = match &queue.options.dead_letter {
        Some(subject) => subject.clone(),
        None => match format!("dead.{}", queue.name).parse::<Subject>() {
            Ok(subject) => subject,
            Err(_) => return,
        },
    };
    let mut extensions = vec![
        ("batchqueue".to_owned(), queue.name.clone()),
        ("batchreason".to_owned(), printable(&dead.reason)),
    ];
    if !dead.record.key.is_empty() {
        extensions.push(("partitionkey".to_owned(), dead.record.key.clone()));
    }
    let options = PublishOptions {
        content_type: dead.record.content_type.clone(),
        extensions,
        ..PublishOptions::default()
    };
    if let Err(error) = outlets
        .messages
        .publish(&subject, dead.record.data.clone(), options)
        .await
    {
        tracing::warn!(queue = queue.name, subject = subject.as_str(), %error, "a dead record could not be published; it is kept");
    }
}

/// An attribute has neither control characters nor much of them.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(256).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_the_records_that_were_not_taken() {
        let failed = |body: &str| answered(body.as_bytes(), &[0, 2, 3]);
        for body in ["", "done", "{}", r#"{"batch_failed":[]}"#, r#"{"batch_failed":"no"}"#] {
            assert_eq!(failed(body), Outcome::Delivered, "{body}");
        }
        // A record that was gone already moves those behind it.
        let two = r#"{"batch_failed":[{"index":0},{"index":2,"reason":"no"}]}"#;
        let expected = vec![(0, String::new()), (3, "no".to_owned())];
        assert_eq!(failed(two), Outcome::Partly(expected));
        assert!(matches!(
            failed(r#"{"batch_failed":[{"index":3}]}"#),
            Outcome::Failed(_)
        ));
    }

    #[test]
    fn a_batch_is_compressed_where_that_makes_it_smaller() {
        let text = b"the same again and again, ".repeat(100);
        let (encoding, packed) = compressed(Compression::Gzip, text.clone());
        assert_eq!(encoding, Some("gzip"));
        assert!(packed.len() < text.len() / 10);
        let mut unpacked = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(&packed[..]);
        std::io::Read::read_to_end(&mut decoder, &mut unpacked).unwrap();
        assert_eq!(unpacked, text);
        assert_eq!(compressed(Compression::Gzip, b"x".to_vec()), (None, b"x".to_vec()));
        assert_eq!(compressed(Compression::None, text.clone()), (None, text));
    }

    #[test]
    fn what_a_stream_refuses_fails_and_what_keeps_it_from_answering_is_waited_for() {
        let fails = |error| matches!(not_appended(&error), Outcome::Failed(_));
        let at_owner = |kind| StreamError::AtOwner {
            kind,
            detail: String::new(),
            hint: None,
        };
        let id = || String::new();
        assert!(fails(StreamError::NotAsSchema(id())) && fails(at_owner(ErrorKind::Invalid)));
        assert!(fails(StreamError::IdTaken { id: id(), position: 3 }) && fails(at_owner(ErrorKind::Conflict)));
        assert!(!fails(StreamError::NoStream(id())) && !fails(StreamError::Full(id())));
        assert!(!fails(StreamError::NoQuorum) && !fails(StreamError::Closed) && !fails(StreamError::Unknown));
        assert!(!fails(at_owner(ErrorKind::Denied)) && !fails(at_owner(ErrorKind::Busy)));
    }

    #[test]
    fn what_is_away_is_not_what_fails() {
        let later = |error| matches!(refused(error), Outcome::Later(..));
        let code = |code| CallError::Failed {
            code,
            reason: String::new(),
        };
        assert!(later(CallError::NoneKnown("s".to_owned())) && later(CallError::Closed));
        assert!(later(CallError::Denied(String::new())) && later(code(429)) && later(code(503)));
        assert!(!later(code(500)) && !later(code(400)) && !later(CallError::Timeout(Duration::ZERO)));
        let pause = Some(Duration::from_secs(3));
        let busy = CallError::AllBusy {
            service: "s".to_owned(),
            retry_after: pause,
        };
        assert!(matches!(refused(busy), Outcome::Later(after, _) if after == pause));
    }
}
