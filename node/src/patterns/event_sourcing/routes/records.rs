//! Appending and reading.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body as Stream,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse as _, Response,
        sse::{Event as Sent, KeepAlive, Sse},
    },
};
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{Ack, Append, Condition, Event, From, Producer, Query as Meant, QueryItem, ReadRequest},
};

use super::{handle, name_of};
use crate::{
    error::NodeError,
    local::{
        App,
        problem::{Body, Json, Path, Problem, Query},
    },
    patterns::{
        cloud_event,
        event_sourcing::{
            Read, Reading,
            events::{from_json, to_json},
        },
    },
};

const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Records of one answer that is a list.
const LIST_MAX: u64 = 1000;
/// Bytes of data in it: with more it ends.
const LIST_BYTES_MAX: usize = 8 << 20;
/// Bytes of a condition.
const CONDITION_BYTES_MAX: usize = 64 << 10;
const EVENT: &str = "application/cloudevents+json";
const EVENTS: &str = "application/cloudevents-batch+json";
const LINES: &str = "application/x-ndjson";
/// The type of events of which nobody has said one.
const KIND: &str = "event";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(append, read))
        .routes(routes!(record))
}

/// How events are appended.
#[derive(Debug, Deserialize, IntoParams)]
struct AppendQuery {
    /// Only if the stream has this version.
    expect: Option<u64>,
    /// `disk`: answered when it is on the disk; `memory`: when it is on its way there. `disk`, if not given.
    ack: Option<String>,
    /// Each line of the body is the data of an event.
    #[serde(default)]
    lines: bool,
}

/// What was appended.
#[derive(Debug, Serialize, ToSchema)]
struct AppendedView {
    /// The position of the first event; 0 when it was recorded so long ago that nobody knows where.
    first: u64,
    /// The position of the last one.
    last: u64,
    /// The stream's version after it.
    version: u64,
    /// Whether it was recorded before, and nothing was done now.
    duplicate: bool,
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, NodeError> {
    let value = headers.get(name).map(|value| value.to_str());
    value
        .transpose()
        .map_err(|_| NodeError::invalid(format!("the header {name} is no plain text")))
}

/// Append events: all of them or none, on the disk when this is answered. A CloudEvent in binary (`ce-` headers) or structured form, or a batch of them
#[utoipa::path(post, path = "/v1/streams/{stream}/records", params(("stream" = String, Path), AppendQuery), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 201, body = AppendedView), (status = 200, body = AppendedView)))]
async fn append(
    State(app): State<App>,
    Path(stream): Path<String>,
    Query(query): Query<AppendQuery>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<(StatusCode, Json<AppendedView>), Problem> {
    let name = name_of(&stream)?;
    let ack = match query.ack.as_deref() {
        None | Some("disk") => Ack::Disk,
        Some("memory") => Ack::Memory,
        Some(other) => return Err(NodeError::invalid(format!("{other:?} is neither disk nor memory")).into()),
    };
    let mut events = events_of(&headers, &body, query.lines)?;
    if let Some(key) = text(&headers, "idempotency-key")? {
        identify(&mut events, key);
    }
    if let Some(parent) = text(&headers, "traceparent")? {
        trace(&mut events, parent);
    }
    let append = Append {
        events,
        expect: query.expect,
        condition: text(&headers, "weft-condition")?.map(condition_of).transpose()?,
        producer: text(&headers, "weft-producer")?.map(producer_of).transpose()?,
        ack,
    };
    let appended = handle(&app)?.append(&name, append).await.map_err(NodeError::from)?;
    let status = if appended.is_duplicate {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok((
        status,
        Json(AppendedView {
            first: appended.first,
            last: appended.last,
            version: appended.last,
            duplicate: appended.is_duplicate,
        }),
    ))
}

/// The events of a request, in binary (`ce-` headers) or structured form, or a batch of them.
pub(crate) fn events_of(headers: &HeaderMap, body: &[u8], lines: bool) -> Result<Vec<Event>, NodeError> {
    let media = text(headers, header::CONTENT_TYPE.as_str())?.unwrap_or_default();
    let essence = media.split(';').next().unwrap_or_default().trim();
    let wrong = |error: serde_json::Error| NodeError::invalid(format!("the body is no JSON: {error}"));
    match essence {
        EVENT => {
            let json: Value = serde_json::from_slice(body).map_err(wrong)?;
            Ok(vec![from_json(json)?])
        }
        EVENTS => {
            let json: Vec<Value> = serde_json::from_slice(body).map_err(wrong)?;
            Ok(json.into_iter().map(from_json).collect::<Result<_, _>>()?)
        }
        _ => {
            let one = event_of_headers(headers)?;
            let with = |data: &[u8]| Event {
                data: data.to_vec(),
                ..one.clone()
            };
            if !lines {
                return Ok(vec![with(body)]);
            }
            let whole = body.strip_suffix(b"\n").unwrap_or(body);
            let lines = whole.split(|byte| *byte == b'\n');
            Ok(lines
                .map(|line| with(line.strip_suffix(b"\r").unwrap_or(line)))
                .collect())
        }
    }
}

/// The attributes of an event in binary form: `ce-` headers, and tags in `weft-tag` ones.
fn event_of_headers(headers: &HeaderMap) -> Result<Event, NodeError> {
    let mut event = Event::new(KIND, Vec::new());
    for (name, value) in headers {
        let is_own = name == header::CONTENT_TYPE || name == "weft-tag";
        let attribute = name.as_str().strip_prefix("ce-");
        if !is_own && attribute.is_none() {
            continue;
        }
        let value = std::str::from_utf8(value.as_bytes());
        let value = value
            .map_err(|_| NodeError::invalid(format!("the header {name} is no text")))?
            .to_owned();
        match attribute {
            None if name == "weft-tag" => event.tags.push(value),
            None => event.datacontenttype = Some(value),
            Some("type") => event.kind = value,
            Some("id") => event.id = Some(value),
            Some("source") => event.source = Some(value),
            Some("subject") => event.subject = Some(value),
            Some("dataschema") => event.dataschema = Some(value),
            Some("specversion") => {}
            Some("tags") => event.tags.extend(value.split(',').map(|tag| tag.trim().to_owned())),
            Some("time") => {
                let time = cloud_event::parse_time(&value);
                event.time_ms = Some(time.ok_or_else(|| NodeError::invalid(format!("{value} is no time (RFC 3339)")))?);
            }
            Some(extension) => event.extensions.push((extension.to_owned(), value)),
        }
    }
    Ok(event)
}

/// What a request's key says of its events: sent again, they are the same ones.
fn identify(events: &mut [Event], key: &str) {
    let is_alone = events.len() == 1;
    for (index, event) in events.iter_mut().enumerate() {
        event.id.get_or_insert_with(|| match is_alone {
            true => key.to_owned(),
            false => format!("{key}/{index}"),
        });
    }
}

fn trace(events: &mut [Event], parent: &str) {
    const NAME: &str = "traceparent";
    for event in events {
        if event.extensions.iter().all(|(name, _)| name != NAME) {
            event.extensions.push((NAME.to_owned(), parent.to_owned()));
        }
    }
}

/// A condition in JSON, as dcb.events has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConditionJson {
    #[serde(alias = "failIfEventsMatch")]
    query: QueryJson,
    #[serde(default)]
    after: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryJson {
    items: Vec<ItemJson>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemJson {
    #[serde(default, alias = "eventTypes")]
    types: Vec<String>,
    #[serde(default)]
    tags: Vec<String>,
}

fn condition_of(text: &str) -> Result<Condition, NodeError> {
    if text.len() > CONDITION_BYTES_MAX {
        return Err(NodeError::invalid("the condition is too long"));
    }
    let json: ConditionJson = serde_json::from_str(text)
        .map_err(|error| NodeError::invalid(format!("the header weft-condition is no condition: {error}")))?;
    let items = json.query.items.into_iter().map(|item| QueryItem {
        types: item.types,
        tags: item.tags,
    });
    Ok(Condition {
        query: Meant { items: items.collect() },
        after: json.after,
    })
}

/// `NAME/NUMBER`.
fn producer_of(text: &str) -> Result<Producer, NodeError> {
    let parts = text
        .rsplit_once('/')
        .and_then(|(id, number)| Some((id, number.parse().ok()?)));
    let (id, sequence) = parts.ok_or_else(|| NodeError::invalid("the header weft-producer is NAME/NUMBER"))?;
    Ok(Producer {
        id: id.to_owned(),
        sequence,
    })
}

/// What is read.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct ReadQuery {
    /// From this position on.
    from: Option<u64>,
    /// From what was recorded at this time on: RFC 3339, or Unix milliseconds.
    at: Option<String>,
    /// The last so many.
    last: Option<u64>,
    /// Of these types; commas between them.
    #[serde(rename = "type")]
    #[param(rename = "type")]
    kind: Option<String>,
    /// With all of these tags; commas between them.
    tag: Option<String>,
    /// The one with this id.
    id: Option<String>,
    /// So many at most. A list has at most 1000, and ends when it has 8 MiB.
    limit: Option<u64>,
    /// Go on with what is appended later.
    #[serde(default)]
    follow: bool,
    /// With data as the newest schema has them, where the stream knows how.
    #[serde(default)]
    upcast: bool,
}

/// A time as people write it.
pub(super) fn time_of(text: &str) -> Result<u64, NodeError> {
    let time = text.parse().ok().or_else(|| cloud_event::parse_time(text));
    time.ok_or_else(|| NodeError::invalid(format!("{text:?} is neither a time (RFC 3339) nor Unix milliseconds")))
}

/// Where something begins; not more than one of the three.
pub(super) fn from_of(from: Option<u64>, at: Option<&str>, last: Option<u64>) -> Result<Option<From>, NodeError> {
    Ok(match (from, at, last) {
        (None, None, None) => None,
        (Some(position), None, None) => Some(From::Position(position)),
        (None, Some(at), None) => Some(From::Time(time_of(at)?)),
        (None, None, Some(count)) => Some(From::Last(count)),
        _ => return Err(NodeError::invalid("from, at and last exclude each other")),
    })
}

/// A list as a query has it, with commas.
fn list_of(text: Option<&str>) -> Vec<String> {
    let parts = text.unwrap_or_default().split(',').map(str::trim);
    parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// Records of any of some types, with all of some tags.
pub(super) fn query_of(types: Vec<String>, tags: Vec<String>) -> Meant {
    let item = QueryItem { types, tags };
    match item == QueryItem::default() {
        true => Meant::default(),
        false => Meant { items: vec![item] },
    }
}

/// Read events: a list, lines (`Accept: application/x-ndjson`), or server-sent events that go on with what comes (`Accept: text/event-stream`; `Last-Event-ID` resumes)
#[utoipa::path(get, path = "/v1/streams/{stream}/records", params(("stream" = String, Path), ReadQuery), responses((status = 200, body = Vec<Object>), (status = 200, body = String, content_type = "text/event-stream")))]
async fn read(
    State(app): State<App>,
    Path(stream): Path<String>,
    Query(query): Query<ReadQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = name_of(&stream)?;
    let accept = text(&headers, header::ACCEPT.as_str())?.unwrap_or_default();
    let (is_sse, is_lines) = (accept.contains("text/event-stream"), accept.contains(LINES));
    let mut from = from_of(query.from, query.at.as_deref(), query.last)?.unwrap_or(From::Position(1));
    let mut limit = query.limit;
    if let Some(id) = &query.id {
        let position = handle(&app)?.locate(&name, id).await.map_err(NodeError::from)?;
        let missing = || NodeError::not_found(format!("the stream {name} has no event with the id {id}"));
        from = From::Position(position.ok_or_else(missing)?);
        limit = Some(1);
    }
    if let Some(last) = text(&headers, "last-event-id")? {
        let last: u64 = last
            .parse()
            .map_err(|_| NodeError::invalid("last-event-id is no position"))?;
        from = From::Position(last.saturating_add(1));
    }
    let request = ReadRequest {
        from,
        query: query_of(list_of(query.kind.as_deref()), list_of(query.tag.as_deref())),
        follow: is_sse || (is_lines && query.follow),
        limit: match is_sse || is_lines {
            true => limit,
            false => Some(limit.unwrap_or(LIST_MAX).min(LIST_MAX)),
        },
        is_upcast: query.upcast.then_some(true),
    };
    let reading = handle(&app)?.read(&name, request).await.map_err(NodeError::from)?;
    if is_sse {
        return Ok(sent(name, reading));
    }
    if is_lines {
        return Ok(([(header::CONTENT_TYPE, LINES)], lines(name, reading)).into_response());
    }
    listed(&name, reading).await
}

async fn listed(name: &Subject, mut reading: Reading) -> Result<Response, Problem> {
    let (mut list, mut bytes) = (Vec::new(), 0);
    while bytes < LIST_BYTES_MAX
        && let Some(read) = reading.next().await.map_err(NodeError::from)?
    {
        if let Read::Records(records) = read {
            bytes += records
                .iter()
                .map(|recorded| recorded.record.event.bytes())
                .sum::<usize>();
            list.extend(records.iter().map(|recorded| to_json(name, recorded)));
        }
    }
    Ok(Json(list).into_response())
}

fn lines(name: Subject, reading: Reading) -> Stream {
    let parts = stream::unfold(Some(reading), move |reading| {
        let name = name.clone();
        async move {
            let mut reading = reading?;
            loop {
                let read = match reading.next().await {
                    Ok(Some(read)) => read,
                    Ok(None) => return None,
                    // Without its end the answer is seen to have broken off.
                    Err(error) => return Some((Err(error), None)),
                };
                if let Read::Records(records) = read {
                    let lines = records
                        .iter()
                        .map(|recorded| to_json(&name, recorded).to_string() + "\n");
                    return Some((Ok(lines.collect::<String>()), Some(reading)));
                }
            }
        }
    });
    Stream::from_stream(parts)
}

fn sent(name: Subject, reading: Reading) -> Response {
    let pages = stream::unfold(Some(reading), move |reading| {
        let name = name.clone();
        async move {
            let mut reading = reading?;
            let events = match reading.next().await {
                Ok(Some(Read::Records(records))) => {
                    let event = |recorded| {
                        let json = to_json(&name, recorded).to_string();
                        Sent::default()
                            .id(recorded.position.to_string())
                            .event("record")
                            .data(json)
                    };
                    records.iter().map(event).collect()
                }
                Ok(Some(Read::CaughtUp(version))) => {
                    vec![Sent::default().event("caught-up").data(version.to_string())]
                }
                Ok(None) => return None,
                Err(error) => {
                    let problem = Problem::from(NodeError::from(error)).to_json();
                    return Some((vec![Sent::default().event("error").data(problem)], None));
                }
            };
            Some((events, Some(reading)))
        }
    });
    let events = futures::StreamExt::flat_map(pages, |events: Vec<Sent>| {
        stream::iter(events.into_iter().map(Ok::<_, Infallible>))
    });
    Sse::new(events)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

/// Read one event
#[utoipa::path(get, path = "/v1/streams/{stream}/records/{position}", params(("stream" = String, Path), ("position" = u64, Path)), responses((status = 200, body = Object)))]
async fn record(State(app): State<App>, Path((stream, position)): Path<(String, u64)>) -> Result<Json<Value>, Problem> {
    let name = name_of(&stream)?;
    let request = ReadRequest {
        from: From::Position(position),
        query: Meant::default(),
        follow: false,
        limit: Some(1),
        is_upcast: None,
    };
    let mut reading = handle(&app)?.read(&name, request).await.map_err(NodeError::from)?;
    while let Some(read) = reading.next().await.map_err(NodeError::from)? {
        if let Read::Records(records) = read
            && let Some(recorded) = records.iter().find(|recorded| recorded.position == position)
        {
            return Ok(Json(to_json(&name, recorded)));
        }
    }
    Err(NodeError::not_found(format!("the stream {name} has no record {position}")).into())
}
