//! Requests about streams and consumers, each answered with one JSON document.

use std::sync::{Arc, atomic::Ordering};

use data_encoding::BASE64;
use serde_json::{Map, Value, json};
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{
        From, Query, QueryItem, ReadRequest, Record,
        consumer::{ConsumerFigures, ConsumerOptions, ConsumerReply, ConsumerRequest},
    },
};

use super::{
    API, JetStream, Request, config,
    events::message_of,
    refusal::{
        BAD_REQUEST, CONSUMER_EXISTS, CONSUMER_NOT_FOUND, INVALID_JSON, NO_CONSUMER, NO_MESSAGE, NOT_OFFERED, OVERLAP,
        Refusal, STREAM_EXISTS, STREAM_NOT_FOUND,
    },
};
use crate::{
    local::rfc3339,
    nats::{door::Door, headers},
    patterns::event_sourcing::{Read, Recorded, StreamError, StreamInfo, StreamOptions},
    platform,
};

/// Things of one page, as nats-server has them.
const LIST_PAGE: usize = 256;
const NAMES_PAGE: usize = 1024;
/// Of a name that a consumer is given.
const NAME_BYTES: usize = 5;

/// Answers one request.
pub(super) async fn answer(door: &Arc<Door>, request: &Request, reply: &str) {
    let Some(jetstream) = &door.jetstream else { return };
    let operation = request.subject.strip_prefix(API).unwrap_or_default();
    let asked = Asked {
        door,
        jetstream,
        payload: &request.payload,
    };
    if let Some(of) = operation.strip_prefix("DIRECT.GET.") {
        // A subject behind the stream's name means its last message.
        let (stream, last) = of
            .split_once('.')
            .map_or((of, None), |(stream, last)| (stream, Some(last)));
        return asked.direct(stream, last, reply).await;
    }
    let (kind, outcome) = asked.answer(operation).await;
    jetstream.asked.fetch_add(1, Ordering::Relaxed);
    jetstream
        .refused
        .fetch_add(u64::from(outcome.is_err()), Ordering::Relaxed);
    let mut json = outcome.unwrap_or_else(|refusal| {
        tracing::debug!(operation, refusal = %refusal.to_json(), "a request of JetStream's API was refused");
        json!({ "error": refusal.to_json() })
    });
    json["type"] = json!(format!("io.nats.jetstream.api.v1.{kind}_response"));
    door.deliver_answer(reply, b"", json.to_string().as_bytes());
}

/// A message that was found.
struct Message {
    subject: String,
    block: Vec<u8>,
    position: u64,
    record: Record,
}

type Outcome = Result<Value, Refusal>;

struct Asked<'a> {
    door: &'a Door,
    jetstream: &'a JetStream,
    payload: &'a [u8],
}

impl Asked<'_> {
    /// What kind of answer it is, and the answer.
    async fn answer(&self, operation: &str) -> (&'static str, Outcome) {
        let tokens: Vec<&str> = operation.split('.').collect();
        match tokens[..] {
            ["INFO"] => ("account_info", self.account().await),
            ["STREAM", "CREATE", stream] => ("stream_create", self.define(stream, false).await),
            ["STREAM", "UPDATE", stream] => ("stream_update", self.define(stream, true).await),
            ["STREAM", "INFO", stream] => ("stream_info", self.stream_info(stream).await),
            ["STREAM", "DELETE", stream] => ("stream_delete", self.delete(stream).await),
            ["STREAM", "LIST"] => ("stream_list", self.streams(true).await),
            ["STREAM", "NAMES"] => ("stream_names", self.streams(false).await),
            ["STREAM", "MSG", "GET", stream] => ("stream_msg_get", self.message(stream).await),
            ["STREAM", "MSG", "DELETE", _] => ("stream_msg_delete", Err(kept())),
            ["STREAM", "PURGE", _] => ("stream_purge", Err(kept())),
            ["CONSUMER", "CREATE", stream] => ("consumer_create", self.add(stream, None).await),
            ["CONSUMER", "CREATE", stream, name, ..] | ["CONSUMER", "DURABLE", "CREATE", stream, name] => {
                ("consumer_create", self.add(stream, Some(name)).await)
            }
            ["CONSUMER", "INFO", stream, name] => ("consumer_info", self.consumer_info(stream, name).await),
            ["CONSUMER", "DELETE", stream, name] => ("consumer_delete", self.remove(stream, name).await),
            ["CONSUMER", "LIST", stream] => ("consumer_list", self.consumers(stream, true).await),
            ["CONSUMER", "NAMES", stream] => ("consumer_names", self.consumers(stream, false).await),
            _ => (
                "unknown",
                Err(Refusal::new(NOT_OFFERED, format!("Weft does not offer {operation}"))),
            ),
        }
    }

    /// The request's document; nothing is an empty one.
    fn document(&self) -> Result<Map<String, Value>, Refusal> {
        if self.payload.iter().all(u8::is_ascii_whitespace) {
            return Ok(Map::new());
        }
        match serde_json::from_slice(self.payload) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(Value::Null) => Ok(Map::new()),
            Ok(_) => Err(Refusal::new(INVALID_JSON, "the request is no JSON object")),
            Err(error) => Err(Refusal::new(INVALID_JSON, format!("the request is no JSON: {error}"))),
        }
    }

    async fn account(&self) -> Outcome {
        let streams = self.jetstream.streams.list().await;
        let figures = || streams.iter().filter_map(|info| info.figures.as_ref());
        Ok(json!({
            "memory": 0, "storage": figures().map(|one| one.bytes).sum::<u64>(), "reserved_memory": 0, "reserved_storage": 0,
            "streams": streams.len(), "consumers": figures().map(|one| u64::from(one.consumers)).sum::<u64>(),
            "limits": {
                "max_memory": -1, "max_storage": -1, "max_streams": -1, "max_consumers": -1, "max_ack_pending": -1,
                "memory_max_stream_bytes": -1, "storage_max_stream_bytes": -1, "max_bytes_required": false,
            },
            "api": {
                "level": 0, "total": self.jetstream.asked.load(Ordering::Relaxed),
                "errors": self.jetstream.refused.load(Ordering::Relaxed),
            },
        }))
    }

    /// A stream, and how it is.
    async fn info(&self, stream: &str) -> Result<StreamInfo, Refusal> {
        let info = self.jetstream.streams.info(&name_of(stream)?).await;
        let info = info.map_err(|error| self.refused(&error))?;
        match info.figures {
            Some(_) => Ok(info),
            None => Err(Refusal::new(STREAM_NOT_FOUND, "stream not found")),
        }
    }

    fn refused(&self, error: &StreamError) -> Refusal {
        match error {
            StreamError::NoStream(_) => Refusal::new(STREAM_NOT_FOUND, "stream not found"),
            error => Refusal::of(error, BAD_REQUEST),
        }
    }

    async fn stream_info(&self, stream: &str) -> Outcome {
        shown(&self.info(stream).await?)
    }

    async fn define(&self, stream: &str, is_update: bool) -> Outcome {
        let (name, options) = (name_of(stream)?, config::stream_options(stream, &self.document()?)?);
        if is_update {
            return self.update(&name, options).await;
        }
        match self.jetstream.streams.create(&name, options.clone()).await {
            Ok(info) => {
                let mut json = shown(&info)?;
                json["did_create"] = json!(true);
                Ok(json)
            }
            // The same again is no mistake.
            Err(StreamError::Exists { .. }) => {
                let info = self.info(stream).await?;
                let is_same = info
                    .figures
                    .as_ref()
                    .is_some_and(|figures| is_defined_so(figures, &options));
                match is_same {
                    true => shown(&info),
                    false => Err(Refusal::new(
                        STREAM_EXISTS,
                        "stream name already in use with a different configuration",
                    )),
                }
            }
            Err(error) => Err(Refusal::of(&error, OVERLAP)),
        }
    }

    async fn update(&self, name: &Subject, options: StreamOptions) -> Outcome {
        // What cannot be changed stays, where it is not said.
        let known = self.info(name.as_str()).await?.figures;
        let place = options
            .place
            .or_else(|| known.and_then(|figures| figures.place).map(|labels| labels.0));
        let updated = self
            .jetstream
            .streams
            .update(name, StreamOptions { place, ..options })
            .await;
        shown(&updated.map_err(|error| Refusal::of(&error, OVERLAP))?)
    }

    async fn delete(&self, stream: &str) -> Outcome {
        let deleted = self.jetstream.streams.delete(&name_of(stream)?).await;
        deleted.map_err(|error| self.refused(&error))?;
        Ok(json!({ "success": true }))
    }

    /// The streams that clients can name, whole or their names; those that take in a subject, if one is asked for.
    async fn streams(&self, is_whole: bool) -> Outcome {
        let document = self.document()?;
        let mut streams = self.jetstream.streams.list().await;
        streams.retain(|info| !info.name.as_str().contains('.'));
        streams.dedup_by(|a, b| a.name == b.name);
        if let Some(wanted) = document
            .get("subject")
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
        {
            let wanted: weft_protocol::Pattern = wanted
                .parse()
                .map_err(|error| Refusal::new(BAD_REQUEST, format!("the subject {wanted:?}: {error}")))?;
            let takers = self.jetstream.streams.takers();
            streams.retain(|info| {
                let taken = takers.get(&info.name).into_iter().flat_map(|taker| &taker.subjects);
                taken.into_iter().any(|subject| subject.overlaps(&wanted))
            });
        }
        let items: Vec<Value> = match is_whole {
            true => streams.iter().filter_map(config::stream_info).collect(),
            false => streams.iter().map(|info| json!(info.name.as_str())).collect(),
        };
        page(
            &document,
            "streams",
            items,
            if is_whole { LIST_PAGE } else { NAMES_PAGE },
        )
    }

    /// One message of a stream, by its position, or as the next or the last one of a subject.
    async fn found(&self, stream: &str, document: &Map<String, Value>) -> Result<Message, Refusal> {
        let position = document
            .get("seq")
            .and_then(Value::as_u64)
            .filter(|position| *position > 0);
        let subject = |name: &str| document.get(name).and_then(Value::as_str).map(str::to_owned);
        let is_other = ["multi_last", "batch", "start_time"]
            .iter()
            .any(|name| document.contains_key(*name));
        let (from, types) = match (position, subject("next_by_subj"), subject("last_by_subj")) {
            (position, Some(next), None) if !is_other => (From::Position(position.unwrap_or(1)), vec![next]),
            (None, None, Some(last)) if !is_other => (From::Last(1), vec![last]),
            (Some(position), None, None) if !is_other => (From::Position(position), Vec::new()),
            _ => {
                let words = "a message is asked for by one of seq, next_by_subj (from seq on) and last_by_subj";
                return Err(Refusal::new(NOT_OFFERED, words));
            }
        };
        if types.iter().any(|subject| subject.contains(['*', '>'])) {
            let words = "next_by_subj and last_by_subj are subjects without wildcards";
            return Err(Refusal::new(NOT_OFFERED, words));
        }
        let exact = position.filter(|_| types.is_empty());
        let tags = Vec::new();
        let request = ReadRequest {
            from,
            query: Query {
                items: match exact {
                    Some(_) => Vec::new(),
                    None => vec![QueryItem { types, tags }],
                },
            },
            follow: false,
            limit: Some(1),
            is_upcast: None,
        };
        let name = name_of(stream)?;
        let read = async {
            let mut reading = self.jetstream.streams.read(&name, request).await?;
            reading.next().await
        };
        let found = match read.await.map_err(|error| self.refused(&error))? {
            Some(Read::Records(records)) => records
                .into_iter()
                .next()
                .filter(|one| exact.is_none_or(|exact| one.position == exact)),
            _ => None,
        };
        let Recorded { position, record } = found.ok_or_else(|| Refusal::new(NO_MESSAGE, "no message found"))?;
        let (subject, block) = message_of(&name, position, &record);
        Ok(Message {
            subject,
            block,
            position,
            record,
        })
    }

    async fn message(&self, stream: &str) -> Outcome {
        let found = self.found(stream, &self.document()?).await?;
        let mut message = json!({
            "subject": found.subject, "seq": found.position, "data": BASE64.encode(&found.record.event.data),
            "time": rfc3339(found.record.recorded_ms),
        });
        if !found.block.is_empty() {
            message["hdrs"] = json!(BASE64.encode(&found.block));
        }
        Ok(json!({ "message": message }))
    }

    /// The same as a message of its own, which says in headers where it is from.
    async fn direct(&self, stream: &str, last: Option<&str>, reply: &str) {
        let document = match last {
            Some(last) => Ok(Map::from_iter([("last_by_subj".to_owned(), json!(last))])),
            None => self.document(),
        };
        let found = match document {
            Ok(document) => self.found(stream, &document).await,
            Err(refusal) => Err(refusal),
        };
        let (block, data) = match &found {
            Ok(found) => {
                let (position, time) = (found.position.to_string(), rfc3339(found.record.recorded_ms));
                let own = [
                    ("Nats-Stream", stream),
                    ("Nats-Subject", found.subject.as_str()),
                    ("Nats-Sequence", position.as_str()),
                    ("Nats-Time-Stamp", time.as_str()),
                ];
                let block = headers::block("", headers::fields(&found.block).chain(own));
                (block, found.record.event.data.as_slice())
            }
            Err(refusal) if refusal.is_missing_stream() => (headers::block(" 503", []), &b""[..]),
            Err(refusal) => (headers::block(&refusal.status(), []), &b""[..]),
        };
        self.door.deliver_answer(reply, &block, data);
    }

    async fn ask(
        &self,
        stream: &Subject,
        request: ConsumerRequest,
        conflict: (u16, u16),
    ) -> Result<ConsumerReply, Refusal> {
        let reply = self.jetstream.streams.consumer(stream, request).await;
        reply.map_err(|error| match error {
            StreamError::NoConsumer(_) => Refusal::new(CONSUMER_NOT_FOUND, "consumer not found"),
            StreamError::NoStream(_) => Refusal::new(STREAM_NOT_FOUND, "stream not found"),
            error => Refusal::of(&error, conflict),
        })
    }

    async fn add(&self, stream: &str, name: Option<&str>) -> Outcome {
        let document = self.document()?;
        let Some(Value::Object(wanted)) = document.get("config") else {
            return Err(Refusal::new(BAD_REQUEST, "the request has no config"));
        };
        let info = self.info(stream).await?;
        let figures = info.figures.as_ref();
        let taken = figures
            .and_then(|figures| figures.subjects.as_ref())
            .map(|subjects| subjects.0.as_slice());
        let (said, options) = config::consumer_options(wanted, taken.unwrap_or_default())?;
        let name = match (said, name) {
            (Some(said), Some(name)) if said != name => {
                return Err(Refusal::new(
                    BAD_REQUEST,
                    "the subject of the request names another consumer than its body",
                ));
            }
            (said, name) => said
                .or_else(|| name.map(ToOwned::to_owned))
                .unwrap_or_else(|| self.name()),
        };
        let action = document.get("action").and_then(Value::as_str).unwrap_or_default();
        self.check_action(&info.name, &name, action, &options).await?;
        let request = ConsumerRequest::Add {
            name: name.clone(),
            options,
        };
        self.ask(&info.name, request, CONSUMER_EXISTS).await?;
        self.consumer_info(stream, &name).await
    }

    /// `create` wants that there is none, or the same; `update` that there is one.
    async fn check_action(
        &self,
        stream: &Subject,
        name: &str,
        action: &str,
        options: &ConsumerOptions,
    ) -> Result<(), Refusal> {
        if action != "update" {
            return Ok(());
        }
        match self.figures(stream, name).await {
            Ok(figures) if figures.options == *options => Ok(()),
            Ok(_) => Err(Refusal::new(
                NOT_OFFERED,
                "a consumer keeps its definition: delete it, and create it with another",
            )),
            Err(_) => Err(Refusal::new(NO_CONSUMER, "consumer does not exist")),
        }
    }

    /// A name that no other consumer has.
    fn name(&self) -> String {
        let bytes: [u8; NAME_BYTES] = platform::random(&*self.door.entropy);
        data_encoding::BASE32_NOPAD.encode(&bytes)
    }

    async fn list(&self, stream: &Subject) -> Result<Vec<ConsumerFigures>, Refusal> {
        match self.ask(stream, ConsumerRequest::List, BAD_REQUEST).await? {
            ConsumerReply::List(list) => Ok(list),
            _ => Err(Refusal::new(
                BAD_REQUEST,
                "the owner of the stream answered something else",
            )),
        }
    }

    async fn figures(&self, stream: &Subject, name: &str) -> Result<ConsumerFigures, Refusal> {
        let found = self.list(stream).await?.into_iter().find(|one| one.name == name);
        found.ok_or_else(|| Refusal::new(CONSUMER_NOT_FOUND, "consumer not found"))
    }

    async fn consumer_info(&self, stream: &str, name: &str) -> Outcome {
        let figures = self.figures(&name_of(stream)?, name).await?;
        Ok(self.shown_consumer(&self.info(stream).await?, &figures))
    }

    fn shown_consumer(&self, info: &StreamInfo, figures: &ConsumerFigures) -> Value {
        let which = (info.name.clone(), figures.name.clone());
        let (last_ms, pulls) = self
            .jetstream
            .counted(&which, |counted| (counted.last_ms, counted.pulls));
        let of_stream = info.figures.as_ref();
        let created_ms = of_stream.map_or(0, |figures| figures.created_ms);
        let mut shown = config::consumer_info(info.name.as_str(), created_ms, figures, last_ms);
        shown["num_waiting"] = json!(pulls);
        if let Some(of_stream) = of_stream {
            shown["cluster"] = config::cluster(info.owner, of_stream);
        }
        shown
    }

    async fn remove(&self, stream: &str, name: &str) -> Outcome {
        let stream = name_of(stream)?;
        self.ask(&stream, ConsumerRequest::Remove(name.to_owned()), BAD_REQUEST)
            .await?;
        self.jetstream.forget(&(stream, name.to_owned()));
        Ok(json!({ "success": true }))
    }

    async fn consumers(&self, stream: &str, is_whole: bool) -> Outcome {
        let list = self.list(&name_of(stream)?).await?;
        let items: Vec<Value> = match is_whole {
            true => {
                let info = self.info(stream).await?;
                list.iter().map(|one| self.shown_consumer(&info, one)).collect()
            }
            false => list.iter().map(|one| json!(one.name)).collect(),
        };
        page(
            &self.document()?,
            "consumers",
            items,
            if is_whole { LIST_PAGE } else { NAMES_PAGE },
        )
    }
}

fn name_of(stream: &str) -> Result<Subject, Refusal> {
    let name = stream.parse();
    name.map_err(|error| Refusal::new(BAD_REQUEST, format!("the stream {stream:?}: {error}")))
}

fn kept() -> Refusal {
    Refusal::new(
        NOT_OFFERED,
        "a stream is a history that can be proved: nothing is taken out of it but by how much of it is kept",
    )
}

fn shown(info: &StreamInfo) -> Outcome {
    config::stream_info(info).ok_or_else(|| Refusal::new(STREAM_NOT_FOUND, "stream not found"))
}

/// Whether a stream is what a definition asks for.
fn is_defined_so(figures: &weft_protocol::patterns::event_sourcing::StreamFigures, options: &StreamOptions) -> bool {
    let subjects = figures
        .subjects
        .as_ref()
        .map(|list| list.0.iter().map(ToString::to_string).collect());
    let copies = figures.copies.as_ref().map_or(1, |copies| copies.members.len());
    StreamOptions {
        retain_ms: figures.retain_ms,
        retain_bytes: figures.retain_bytes,
        retain_records: figures.retain_records,
        replicas: options.replicas.filter(|wanted| usize::from(*wanted) == copies),
        place: figures.place.clone().map(|labels| labels.0),
        keep: figures.keep,
        refuse_when_full: figures.refuse_when_full,
        subjects,
    } == *options
        && (options.replicas.is_some() || copies == 1)
}

/// A page of a list, from where it is asked for.
fn page(document: &Map<String, Value>, name: &str, items: Vec<Value>, most: usize) -> Outcome {
    let offset = document.get("offset").and_then(Value::as_u64).unwrap_or(0);
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let total = items.len();
    let items: Vec<Value> = items.into_iter().skip(offset).take(most).collect();
    Ok(json!({ "total": total, "offset": offset, "limit": most, name: items }))
}
