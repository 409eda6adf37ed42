//! What clients publish, appended to the stream that takes it in.

use std::{collections::HashSet, sync::Arc};

use serde_json::json;
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{
        APPEND_BYTES_MAX, APPEND_EVENTS_MAX, Ack, Append, Appended, Condition, Event, From, Query, QueryItem,
        ReadRequest,
    },
};

use super::{
    JetStream,
    events::event_of,
    lanes::Item,
    refusal::{BAD_REQUEST, NOT_OFFERED, Refusal, WRONG_SEQUENCE, WRONG_STREAM},
};
use crate::{
    error::{ErrorKind, Kind as _},
    nats::{door::Door, headers},
    patterns::event_sourcing::{Read, StreamError},
};

/// Headers that ask for what streams do not do.
const NOT_DONE: [&str; 9] = [
    "Nats-Expected-Last-Msg-Id",
    "Nats-Expected-Last-Subject-Sequence-Subject",
    "Nats-Rollup",
    "Nats-TTL",
    "Nats-Batch-Id",
    "Nats-Schedule",
    "Nats-Schedule-Target",
    "Nats-Schedule-TTL",
    "Nats-Incr",
];

/// A message that a stream takes in.
pub(in crate::nats) struct Message {
    pub(in crate::nats) subject: Subject,
    pub(in crate::nats) reply: Option<String>,
    pub(in crate::nats) headers: Vec<u8>,
    pub(in crate::nats) payload: Vec<u8>,
}

impl Message {
    /// The room that it takes, in units of 1 KiB.
    pub(super) fn units(&self) -> usize {
        1 + ((self.headers.len() + self.payload.len()) >> 10)
    }
}

/// A message that waits for its turn.
pub(super) struct Waiting {
    event: Event,
    expected: Expected,
    reply: Option<String>,
}

/// What must be so for it to be appended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Expected {
    stream: Option<String>,
    last: Option<u64>,
    last_of_subject: Option<u64>,
    /// What is asked for and not done.
    refused: Option<String>,
}

impl Expected {
    fn of(block: &[u8]) -> Self {
        let mut expected = Expected::default();
        if block.is_empty() {
            return expected;
        }
        let number = |name: &str, refused: &mut Option<String>| {
            let text = headers::field(block, name)?;
            let number = text.parse().ok();
            if number.is_none() {
                *refused = Some(format!("{name} is no number: {text}"));
            }
            number
        };
        expected.last = number("Nats-Expected-Last-Sequence", &mut expected.refused);
        expected.last_of_subject = number("Nats-Expected-Last-Subject-Sequence", &mut expected.refused);
        expected.stream = headers::field(block, "Nats-Expected-Stream").map(ToOwned::to_owned);
        if let Some(name) = NOT_DONE.iter().find(|name| headers::field(block, name).is_some()) {
            expected.refused = Some(format!("the streams of Weft do not do what {name} asks for"));
        }
        expected
    }

    fn is_none(&self) -> bool {
        *self == Expected::default()
    }
}

impl Waiting {
    pub(super) fn new(message: Message) -> Self {
        Waiting {
            event: event_of(&message.subject, &message.headers, &message.payload),
            expected: Expected::of(&message.headers),
            reply: message.reply,
        }
    }
}

/// Appends what waits for a stream, until nothing does.
pub(super) fn begin(door: &Arc<Door>, stream: Subject) {
    let door = Arc::clone(door);
    door.tasks.clone().spawn("nats-record", async move {
        let Some(jetstream) = &door.jetstream else { return };
        while let Some(items) = jetstream.recording.take(&stream) {
            let (mut batch, mut bytes): (Vec<Item<Waiting>>, usize) = (Vec::new(), 0);
            for item in items {
                let more = item.work.event.bytes();
                if !fits(&batch, bytes + more, &item.work) {
                    append_all(&door, jetstream, &stream, std::mem::take(&mut batch)).await;
                    bytes = 0;
                }
                bytes += more;
                batch.push(item);
            }
            append_all(&door, jetstream, &stream, batch).await;
        }
    });
}

/// Whether a message can be appended together with these, with so many bytes in all.
fn fits(batch: &[Item<Waiting>], bytes: usize, next: &Waiting) -> bool {
    let Some(last) = batch.last() else { return true };
    last.work.expected.is_none()
        && next.expected.is_none()
        && batch.len() < APPEND_EVENTS_MAX
        && bytes <= APPEND_BYTES_MAX
}

/// Appends messages together, or one by one where some of them cannot be appended with the others.
async fn append_all(door: &Door, jetstream: &JetStream, stream: &Subject, batch: Vec<Item<Waiting>>) {
    let mut ids = HashSet::new();
    let is_once = batch
        .iter()
        .filter_map(|item| item.work.event.id.as_ref())
        .all(|id| ids.insert(id));
    if batch.len() > 1 && is_once {
        let append = Append {
            events: batch.iter().map(|item| item.work.event.clone()).collect(),
            ack: Ack::Disk,
            ..Append::default()
        };
        let outcome = jetstream.streams.append(stream, append).await;
        // Then it is one of them, and the others are not to suffer for it.
        let is_of_one = |error: &StreamError| {
            // A stream that is full for all may have room for some.
            let is_full = matches!(error, StreamError::Full(_))
                || matches!(
                    error,
                    StreamError::AtOwner {
                        kind: ErrorKind::Busy,
                        ..
                    }
                );
            is_full || matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Invalid)
        };
        if !outcome.as_ref().is_err_and(is_of_one) {
            for (at, item) in batch.iter().enumerate() {
                let appended = outcome.as_ref().map(|appended| appended.first + at as u64);
                let duplicate = outcome.as_ref().is_ok_and(|appended| appended.is_duplicate);
                let outcome = appended
                    .map(|seq| (seq, duplicate))
                    .map_err(|error| Refusal::of(error, BAD_REQUEST));
                acknowledge(door, stream, item.work.reply.as_deref(), outcome);
            }
            return;
        }
    }
    for item in batch {
        let Waiting { event, expected, reply } = item.work;
        let outcome = append_one(jetstream, stream, event, &expected).await;
        let outcome = outcome.map(|appended| (appended.first, appended.is_duplicate));
        acknowledge(door, stream, reply.as_deref(), outcome);
    }
}

async fn append_one(
    jetstream: &JetStream,
    stream: &Subject,
    event: Event,
    expected: &Expected,
) -> Result<Appended, Refusal> {
    if let Some(reason) = &expected.refused {
        return Err(Refusal::new(NOT_OFFERED, reason.clone()));
    }
    if expected.stream.as_ref().is_some_and(|wanted| wanted != stream.as_str()) {
        return Err(Refusal::new(WRONG_STREAM, "expected stream does not match"));
    }
    let condition = match expected.last_of_subject {
        None => None,
        Some(after) => {
            check_last_of_subject(jetstream, stream, &event.kind, after).await?;
            let item = QueryItem {
                types: vec![event.kind.clone()],
                tags: Vec::new(),
            };
            let query = Query { items: vec![item] };
            Some(Condition { query, after })
        }
    };
    let append = Append {
        events: vec![event],
        expect: expected.last,
        condition,
        producer: None,
        ack: Ack::Disk,
    };
    let done = jetstream.streams.append(stream, append).await;
    match done {
        Err(error) if error.kind() == ErrorKind::Conflict && !expected.is_none() => {
            // Clients read the number in it.
            let last = match jetstream.streams.info(stream).await.map(|info| info.figures) {
                Ok(Some(figures)) if expected.last.is_some() => format!("wrong last sequence: {}", figures.version),
                _ => format!("wrong last sequence: {error}"),
            };
            Err(Refusal::new(WRONG_SEQUENCE, last))
        }
        // Another message has the id.
        done => done.map_err(|error| Refusal::of(&error, BAD_REQUEST)),
    }
}

/// Whether the record at this position is of the subject; records do not change. That nothing of it is behind is a condition of the append.
async fn check_last_of_subject(
    jetstream: &JetStream,
    stream: &Subject,
    subject: &str,
    position: u64,
) -> Result<(), Refusal> {
    if position == 0 {
        return Ok(());
    }
    let request = ReadRequest {
        from: From::Position(position),
        query: Query::default(),
        follow: false,
        limit: Some(1),
        is_upcast: None,
    };
    let read = async {
        let mut reading = jetstream.streams.read(stream, request).await?;
        reading.next().await
    };
    let is_its = match read.await.map_err(|error| Refusal::of(&error, WRONG_SEQUENCE))? {
        Some(Read::Records(records)) => records
            .first()
            .is_some_and(|one| one.position == position && one.record.event.kind == subject),
        _ => false,
    };
    match is_its {
        true => Ok(()),
        false => Err(Refusal::new(
            WRONG_SEQUENCE,
            format!("wrong last sequence: the message {position} is none of {subject}"),
        )),
    }
}

fn acknowledge(door: &Door, stream: &Subject, reply: Option<&str>, outcome: Result<(u64, bool), Refusal>) {
    let answer = match outcome {
        Ok((sequence, false)) => json!({ "stream": stream.as_str(), "seq": sequence }),
        Ok((sequence, true)) => json!({ "stream": stream.as_str(), "seq": sequence, "duplicate": true }),
        Err(refusal) => {
            let error = refusal.to_json();
            door.metrics.dropped.inc("nats_record", "refused");
            tracing::debug!(%stream, %error, "a message was not appended");
            json!({ "error": error, "stream": stream.as_str(), "seq": 0 })
        }
    };
    if let Some(reply) = reply {
        door.deliver_answer(reply, b"", answer.to_string().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_is_read_or_refused() {
        let of = |lines: &str| Expected::of(format!("NATS/1.0\r\n{lines}\r\n\r\n").as_bytes());
        assert!(of("A: 1").is_none() && Expected::of(b"").is_none());
        assert_eq!(of("nats-expected-last-sequence: 7").last, Some(7));
        assert_eq!(of("Nats-Expected-Last-Subject-Sequence: 0").last_of_subject, Some(0));
        assert_eq!(of("Nats-Expected-Stream: A").stream.as_deref(), Some("A"));
        for wrong in [
            "Nats-Expected-Last-Sequence: x",
            "Nats-Rollup: sub",
            "Nats-TTL: 1s",
            "Nats-Expected-Last-Msg-Id: a",
        ] {
            assert!(of(wrong).refused.is_some(), "{wrong}");
        }
    }
}
