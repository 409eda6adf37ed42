//! Consumers.

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use weft_protocol::{
    Wire as _,
    patterns::event_sourcing::{
        From, Record,
        consumer::{
            ConsumerFigures, ConsumerOptions, ConsumerReply, ConsumerRequest, DeadLetter, Delivery, Handed, Order,
            Settlement,
        },
    },
};

use super::{handle, name_of, records};
use crate::{
    error::{ErrorKind, NodeError},
    local::{
        App,
        problem::{Json, Path, Problem, Query},
        rfc3339,
    },
    patterns::event_sourcing::{Recorded, events::to_json},
};

/// Dead letters of one answer.
const DEAD_MAX: u32 = 500;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(info, add, remove))
        .routes(routes!(next))
        .routes(routes!(ack))
        .routes(routes!(nack))
        .routes(routes!(extend))
        .routes(routes!(reset))
        .routes(routes!(dead))
        .routes(routes!(redrive))
}

async fn ask(app: &App, stream: &str, request: ConsumerRequest) -> Result<ConsumerReply, NodeError> {
    Ok(handle(app)?.consumer(&name_of(stream)?, request).await?)
}

fn unexpected() -> NodeError {
    NodeError::new(ErrorKind::Corrupt, "the owner of the stream answered something else")
}

/// How many it was.
#[derive(Debug, Serialize, ToSchema)]
struct Counted {
    records: u64,
}

fn counted(reply: &ConsumerReply) -> Result<Json<Counted>, Problem> {
    match reply {
        ConsumerReply::Done(records) => Ok(Json(Counted { records: *records })),
        _ => Err(unexpected().into()),
    }
}

/// How records are handed out.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Definition {
    /// Begin at this position; at the first record, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
    /// Begin with what was recorded at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    /// Begin with the last so many; 0: with what comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
    /// Only these types.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    types: Vec<String>,
    /// Only with all of these tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    /// How long a worker has to settle a record, milliseconds.
    #[serde(default = "ack_wait_ms")]
    ack_wait_ms: u64,
    /// How often a record is handed out until it is a dead letter; not said: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deliver_max: Option<u32>,
    /// Pauses before a record is handed out again, milliseconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    backoff_ms: Vec<u64>,
    /// Records that are handed out and not settled, at most.
    #[serde(default = "pending_max")]
    pending_max: u32,
    /// `key`: records of one key (`partitionkey`, or the subject) one after the other, others beside each other; `stream`: as they stand in the
    /// stream, what is handed out together is settled before more is; `any`: as workers come.
    #[serde(default)]
    order: OrderView,
    /// Whether workers settle what they are handed; otherwise it is done when it is handed out, and comes once at most.
    #[serde(default = "acked")]
    acked: bool,
    /// The consumer goes when nobody has asked for records or settled one for so long, milliseconds; not said: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idle_ms: Option<u64>,
    /// With data as the newest schema has them, where the stream knows how.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    upcast: bool,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum OrderView {
    Stream,
    #[default]
    Key,
    Any,
}

impl std::convert::From<OrderView> for Order {
    fn from(view: OrderView) -> Self {
        match view {
            OrderView::Stream => Order::Stream,
            OrderView::Key => Order::Key,
            OrderView::Any => Order::Any,
        }
    }
}

impl std::convert::From<Order> for OrderView {
    fn from(order: Order) -> Self {
        match order {
            Order::Stream => OrderView::Stream,
            Order::Key => OrderView::Key,
            Order::Any => OrderView::Any,
        }
    }
}

fn ack_wait_ms() -> u64 {
    30_000
}

fn pending_max() -> u32 {
    1000
}

fn acked() -> bool {
    true
}

impl Definition {
    fn options(self) -> Result<ConsumerOptions, NodeError> {
        let from = records::from_of(self.from, self.at.as_deref(), self.last)?;
        Ok(ConsumerOptions {
            from: from.unwrap_or(From::Position(1)),
            query: records::query_of(self.types, self.tags),
            ack_wait_ms: self.ack_wait_ms,
            deliver_max: self.deliver_max,
            backoff_ms: self.backoff_ms,
            pending_max: self.pending_max,
            order: self.order.into(),
            is_acked: self.acked,
            idle_ms: self.idle_ms,
            is_upcast: self.upcast.then_some(true),
        })
    }

    fn of(options: &ConsumerOptions) -> Self {
        let item = options.query.items.first().cloned().unwrap_or_default();
        let (mut from, mut at, mut last) = (None, None, None);
        match options.from {
            From::Position(position) => from = Some(position),
            From::Time(ms) => at = Some(rfc3339(ms)),
            From::Last(count) => last = Some(count),
            From::End => last = Some(0),
        }
        Definition {
            from,
            at,
            last,
            types: item.types,
            tags: item.tags,
            ack_wait_ms: options.ack_wait_ms,
            deliver_max: options.deliver_max,
            backoff_ms: options.backoff_ms.clone(),
            pending_max: options.pending_max,
            order: options.order.into(),
            acked: options.is_acked,
            idle_ms: options.idle_ms,
            upcast: options.is_upcast == Some(true),
        }
    }
}

/// A consumer, and how it is.
#[derive(Debug, Serialize, ToSchema)]
struct ConsumerView {
    name: String,
    stream: String,
    #[serde(flatten)]
    definition: Definition,
    /// Every record up to this position is settled.
    settled: u64,
    /// The last position that was handed out or passed over.
    reached: u64,
    /// Records that are handed out and not settled.
    pending: u32,
    /// Records that wait: for a pause to end, or for one of their key.
    waiting: u32,
    /// Records behind the last one that was reached.
    behind: u64,
    /// Dead letters.
    dead: u32,
}

fn view(stream: &str, figures: &ConsumerFigures) -> ConsumerView {
    ConsumerView {
        name: figures.name.clone(),
        stream: stream.to_owned(),
        definition: Definition::of(&figures.options),
        settled: figures.settled,
        reached: figures.reached,
        pending: figures.pending,
        waiting: figures.waiting,
        behind: figures.behind,
        dead: figures.dead,
    }
}

async fn all(app: &App, stream: &str) -> Result<Vec<ConsumerView>, NodeError> {
    match ask(app, stream, ConsumerRequest::List).await? {
        ConsumerReply::List(list) => Ok(list.iter().map(|figures| view(stream, figures)).collect()),
        _ => Err(unexpected()),
    }
}

async fn one(app: &App, stream: &str, consumer: &str) -> Result<ConsumerView, NodeError> {
    let found = all(app, stream).await?.into_iter().find(|view| view.name == consumer);
    found.ok_or_else(|| NodeError::not_found(format!("the stream {stream} has no consumer {consumer}")))
}

/// List the consumers of a stream
#[utoipa::path(get, path = "/v1/streams/{stream}/consumers", params(("stream" = String, Path)), responses((status = 200, body = [ConsumerView])))]
async fn list(State(app): State<App>, Path(stream): Path<String>) -> Result<Json<Vec<ConsumerView>>, Problem> {
    Ok(Json(all(&app, &stream).await?))
}

/// One consumer
#[utoipa::path(get, path = "/v1/streams/{stream}/consumers/{consumer}", params(("stream" = String, Path), ("consumer" = String, Path)), responses((status = 200, body = ConsumerView)))]
async fn info(
    State(app): State<App>,
    Path((stream, consumer)): Path<(String, String)>,
) -> Result<Json<ConsumerView>, Problem> {
    Ok(Json(one(&app, &stream, &consumer).await?))
}

/// Define a consumer; the same definition twice is no mistake
#[utoipa::path(put, path = "/v1/streams/{stream}/consumers/{consumer}", params(("stream" = String, Path), ("consumer" = String, Path)), request_body = Definition, responses((status = 200, body = ConsumerView), (status = 201, body = ConsumerView)))]
async fn add(
    State(app): State<App>,
    Path((stream, consumer)): Path<(String, String)>,
    Json(definition): Json<Definition>,
) -> Result<(StatusCode, Json<ConsumerView>), Problem> {
    let request = ConsumerRequest::Add {
        name: consumer.clone(),
        options: definition.options()?,
    };
    let status = match ask(&app, &stream, request).await? {
        ConsumerReply::Done(0) => StatusCode::OK,
        _ => StatusCode::CREATED,
    };
    Ok((status, Json(one(&app, &stream, &consumer).await?)))
}

/// Remove a consumer, with its dead letters
#[utoipa::path(delete, path = "/v1/streams/{stream}/consumers/{consumer}", params(("stream" = String, Path), ("consumer" = String, Path)), responses((status = 204)))]
async fn remove(
    State(app): State<App>,
    Path((stream, consumer)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    ask(&app, &stream, ConsumerRequest::Remove(consumer)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How many records, and how long to wait for them.
#[derive(Debug, Deserialize, IntoParams)]
struct NextQuery {
    /// So many at most; 1, if not given.
    count: Option<u32>,
    /// How long to wait for the first, milliseconds.
    wait_ms: Option<u32>,
}

/// A record that was handed out.
#[derive(Debug, Serialize, ToSchema)]
struct DeliveryView {
    /// With these two it is settled.
    position: u64,
    /// The how-many-th time it is handed out.
    delivery: u32,
    /// The event.
    #[schema(value_type = Object)]
    event: Value,
}

/// Hand out the next records; each is handed out again if it is not settled in time
#[utoipa::path(post, path = "/v1/streams/{stream}/consumers/{consumer}/next", params(("stream" = String, Path), ("consumer" = String, Path), NextQuery), responses((status = 200, body = [DeliveryView])))]
async fn next(
    State(app): State<App>,
    Path((stream, consumer)): Path<(String, String)>,
    Query(query): Query<NextQuery>,
) -> Result<Json<Vec<DeliveryView>>, Problem> {
    let request = ConsumerRequest::Next {
        name: consumer,
        count: query.count.unwrap_or(1),
        wait_ms: query.wait_ms.unwrap_or(0),
    };
    let ConsumerReply::Handed(list) = ask(&app, &stream, request).await? else {
        return Err(unexpected().into());
    };
    let name = name_of(&stream)?;
    let show = |Delivery { record, delivery }: Delivery| {
        let position = record.position;
        let recorded = Recorded {
            position,
            record: Record::from_bytes(&record.record)?,
        };
        let event = to_json(&name, &recorded);
        Ok::<_, NodeError>(DeliveryView {
            position,
            delivery,
            event,
        })
    };
    Ok(Json(list.into_iter().map(show).collect::<Result<_, _>>()?))
}

/// A record that was handed out.
#[derive(Debug, Deserialize, ToSchema)]
struct HandedView {
    position: u64,
    delivery: u32,
}

/// Which records are settled.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Settling {
    handed: Vec<HandedView>,
    /// How long to wait until they are handed out again, milliseconds; not said: as the consumer is defined.
    #[serde(default)]
    pause_ms: Option<u64>,
    /// They are dead letters at once.
    #[serde(default)]
    dead: bool,
    /// Why, for people.
    #[serde(default)]
    reason: String,
}

async fn settle(
    app: &App,
    (stream, consumer): (String, String),
    handed: Vec<HandedView>,
    settlement: Settlement,
) -> Result<Json<Counted>, Problem> {
    let handed = handed.into_iter().map(|one| Handed {
        position: one.position,
        delivery: one.delivery,
    });
    let request = ConsumerRequest::Settle {
        name: consumer,
        handed: handed.collect(),
        settlement,
    };
    counted(&ask(app, &stream, request).await?)
}

/// Records are done. How many were: those whose time was over are handed out again
#[utoipa::path(post, path = "/v1/streams/{stream}/consumers/{consumer}/ack", params(("stream" = String, Path), ("consumer" = String, Path)), request_body = Settling, responses((status = 200, body = Counted)))]
async fn ack(
    State(app): State<App>,
    Path(path): Path<(String, String)>,
    Json(settling): Json<Settling>,
) -> Result<Json<Counted>, Problem> {
    settle(&app, path, settling.handed, Settlement::Done).await
}

/// Records are handed out again, or are dead letters
#[utoipa::path(post, path = "/v1/streams/{stream}/consumers/{consumer}/nack", params(("stream" = String, Path), ("consumer" = String, Path)), request_body = Settling, responses((status = 200, body = Counted)))]
async fn nack(
    State(app): State<App>,
    Path(path): Path<(String, String)>,
    Json(settling): Json<Settling>,
) -> Result<Json<Counted>, Problem> {
    let reason = weft_protocol::name::reason(&settling.reason);
    let settlement = match settling.dead {
        true => Settlement::Dead { reason },
        false => Settlement::Again {
            pause_ms: settling.pause_ms,
            reason,
        },
    };
    settle(&app, path, settling.handed, settlement).await
}

/// The worker needs as much time again
#[utoipa::path(post, path = "/v1/streams/{stream}/consumers/{consumer}/extend", params(("stream" = String, Path), ("consumer" = String, Path)), request_body = Settling, responses((status = 200, body = Counted)))]
async fn extend(
    State(app): State<App>,
    Path(path): Path<(String, String)>,
    Json(settling): Json<Settling>,
) -> Result<Json<Counted>, Problem> {
    settle(&app, path, settling.handed, Settlement::Longer).await
}

/// Where to begin anew.
#[derive(Debug, Deserialize, IntoParams)]
struct ResetQuery {
    /// At this position; at the first record, if nothing is said.
    from: Option<u64>,
    /// With what was recorded at this time.
    at: Option<String>,
    /// With the last so many; 0: with what comes.
    last: Option<u64>,
}

/// Begin anew from somewhere
#[utoipa::path(post, path = "/v1/streams/{stream}/consumers/{consumer}/reset", params(("stream" = String, Path), ("consumer" = String, Path), ResetQuery), responses((status = 200, body = ConsumerView)))]
async fn reset(
    State(app): State<App>,
    Path((stream, consumer)): Path<(String, String)>,
    Query(query): Query<ResetQuery>,
) -> Result<Json<ConsumerView>, Problem> {
    let from = records::from_of(query.from, query.at.as_deref(), query.last)?;
    let request = ConsumerRequest::Reset {
        name: consumer.clone(),
        from: from.unwrap_or(From::Position(1)),
    };
    ask(&app, &stream, request).await?;
    Ok(Json(one(&app, &stream, &consumer).await?))
}

/// Which dead letters.
#[derive(Debug, Deserialize, IntoParams)]
struct DeadQuery {
    /// Those behind this position.
    after: Option<u64>,
    /// So many; at most 500.
    limit: Option<u32>,
}

/// A record that was given up.
#[derive(Debug, Serialize, ToSchema)]
struct DeadView {
    position: u64,
    /// How often it was handed out.
    deliveries: u32,
    reason: String,
    since: String,
}

/// List the dead letters of a consumer
#[utoipa::path(get, path = "/v1/streams/{stream}/consumers/{consumer}/dead-letters", params(("stream" = String, Path), ("consumer" = String, Path), DeadQuery), responses((status = 200, body = [DeadView])))]
async fn dead(
    State(app): State<App>,
    Path((stream, consumer)): Path<(String, String)>,
    Query(query): Query<DeadQuery>,
) -> Result<Json<Vec<DeadView>>, Problem> {
    let request = ConsumerRequest::DeadLetters {
        name: consumer,
        after: query.after.unwrap_or(0),
        count: query.limit.unwrap_or(DEAD_MAX).min(DEAD_MAX),
    };
    let ConsumerReply::Dead(list) = ask(&app, &stream, request).await? else {
        return Err(unexpected().into());
    };
    let show = |letter: DeadLetter| DeadView {
        position: letter.position,
        deliveries: letter.deliveries,
        reason: letter.reason,
        since: rfc3339(letter.since_ms),
    };
    Ok(Json(list.into_iter().map(show).collect()))
}

/// Which dead letters are handed out again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Redriving {
    /// Those at these positions; none: all.
    #[serde(default)]
    positions: Vec<u64>,
}

/// Hand dead letters out again
#[utoipa::path(post, path = "/v1/streams/{stream}/consumers/{consumer}/redrive", params(("stream" = String, Path), ("consumer" = String, Path)), request_body = Redriving, responses((status = 200, body = Counted)))]
async fn redrive(
    State(app): State<App>,
    Path((stream, consumer)): Path<(String, String)>,
    Json(redriving): Json<Redriving>,
) -> Result<Json<Counted>, Problem> {
    let request = ConsumerRequest::Redrive {
        name: consumer,
        positions: redriving.positions,
    };
    counted(&ask(&app, &stream, request).await?)
}
