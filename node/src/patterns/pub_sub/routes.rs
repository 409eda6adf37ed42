//! The same handle over the local API.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use axum::{
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use data_encoding::BASE64;
use futures::{SinkExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tracing::Instrument as _;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use weft_protocol::{
    Pattern, PeerId, Subject,
    limits::PUBLISH_BODY_BYTES_MAX,
    patterns::blobs::{DATAREF, Reference},
};

use super::{
    Delivery, Outcome, PAST_MAX, Past, Priority, PubSubHandle, PublishOptions, Receipt, Report, Subscription,
    handle::Received, hub::SUBSCRIPTIONS_MAX, past::PAST_MESSAGES_MAX,
};
use crate::{
    error::{ErrorKind, NodeError},
    local::{
        App,
        problem::{Body, Json, Path, Problem, Query},
        rfc3339,
    },
    patterns::{body::BodyReader, cloud_event},
    telemetry::trace,
};

/// The longest wait for those who want a message to confirm it.
const REPORT_MAX: Duration = Duration::from_secs(60);
/// The longest wait for room to publish.
const WAIT_MAX: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Subscriptions of one WebSocket.
const SOCKET_SUBSCRIPTIONS_MAX: usize = 256;
/// Messages waiting to be written to one WebSocket.
const DELIVERIES_MAX: usize = 256;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(publish))
        .routes(routes!(subscribe))
        .routes(routes!(duplex))
}

/// What is known once a message is on its way.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Published {
    id: String,
    subject: String,
    seq: u64,
    /// Connected members it was sent towards.
    peers: usize,
    /// Whether it went to those that want it alone, and not by gossip.
    direct: bool,
    /// Where its data are, if they were too large for a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    dataref: Option<String>,
    /// Who has it, if that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<Reported>,
}

/// Who has a message.
#[derive(Debug, Serialize, ToSchema)]
struct Reported {
    /// The members known to want it, this node not among them.
    members: Vec<ReportedMember>,
    /// How many of them have confirmed it.
    confirmed: usize,
    /// Subscriptions of this node that it was for.
    here: usize,
}

/// What became of a message for a member.
#[derive(Debug, Serialize, ToSchema)]
struct ReportedMember {
    /// Its peer id.
    member: String,
    /// `confirmed`, `unreachable`, `slow`, `silent` or `lost`.
    #[schema(value_type = String)]
    outcome: Outcome,
}

impl From<Report> for Reported {
    fn from(report: Report) -> Self {
        let confirmed = report.members.len() - report.missing().count();
        let member = |(peer, outcome): (PeerId, Outcome)| ReportedMember {
            member: peer.to_string(),
            outcome,
        };
        Reported {
            members: report.members.into_iter().map(member).collect(),
            confirmed,
            here: report.here,
        }
    }
}

/// How a message is published.
#[derive(Debug, Deserialize, IntoParams)]
pub(crate) struct PublishQuery {
    /// Wait so many milliseconds at most for those who want it to confirm it, and say who did.
    report_ms: Option<u64>,
    /// Nobody is handed it later than so many milliseconds from now.
    expires_ms: Option<u64>,
    /// Keep it as the last value of its subject, for those who ask for it later; an empty one takes it back.
    #[serde(default)]
    retain: bool,
    /// `high` overtakes others on its way out, `low` goes when nothing else waits.
    priority: Option<String>,
    /// How many milliseconds room is waited for when more is published than goes out, before it is refused; 5000, if not given.
    wait_ms: Option<u64>,
    /// At most one message of this subject in so many milliseconds: what comes sooner is left out, and answered with 204.
    every_ms: Option<u64>,
}

/// A priority by its name.
fn priority_of(name: Option<&str>) -> Result<Priority, NodeError> {
    let priority = name.map(|name| Priority::from_name(name).ok_or(name)).transpose();
    let priority = priority.map_err(|name| NodeError::invalid(format!("{name:?} is none of high, normal and low")))?;
    Ok(priority.unwrap_or_default())
}

/// Publish a message
#[utoipa::path(post, path = "/v1/messages/{subject}", params(("subject" = String, Path), PublishQuery), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = Published), (status = 204, description = "Left out, because it came too soon")))]
async fn publish(
    State(app): State<App>,
    Path(subject): Path<String>,
    Query(query): Query<PublishQuery>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    Ok(publish_body(&app, &subject, &query, &headers, BodyReader::of(body)).await?)
}

/// Publishes what a request brings, however large it is.
pub(crate) async fn publish_body(
    app: &App,
    subject: &str,
    query: &PublishQuery,
    headers: &HeaderMap,
    body: BodyReader,
) -> Result<Response, NodeError> {
    let subject: Subject = subject.parse()?;
    let pause = query.every_ms.map(Duration::from_millis);
    if pause.is_some_and(|pause| app.messages.is_too_soon(&subject, pause)) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let options = PublishOptions {
        expires_in: query.expires_ms.map(Duration::from_millis),
        retain: query.retain,
        priority: priority_of(query.priority.as_deref())?,
        wait_for_room: query.wait_ms.map(|ms| Duration::from_millis(ms).min(WAIT_MAX)),
        ..options_of(headers)
    };
    let span = tracing::info_span!("publish", subject = subject.as_str(), trace_id = tracing::field::Empty);
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    trace::continue_from(&span, text("traceparent"), text("tracestate"));
    let (receipt, reference) = publish_any(app, &subject, body, options).instrument(span).await?;
    let report = match query.report_ms {
        Some(within_ms) => {
            let within = Duration::from_millis(within_ms).min(REPORT_MAX);
            let report = app.messages.report(&subject, &receipt, within).await;
            Some(Reported::from(report))
        }
        None => None,
    };
    let published = Published {
        dataref: reference.map(|reference| reference.to_string()),
        report,
        id: receipt.id,
        subject: subject.to_string(),
        seq: receipt.sequence,
        peers: receipt.peers,
        direct: receipt.is_direct,
    };
    Ok(Json(published).into_response())
}

/// A message of any size; without blobs, of the size that fits.
async fn publish_any(
    app: &App,
    subject: &Subject,
    body: BodyReader,
    options: PublishOptions,
) -> Result<(Receipt, Option<Reference>), NodeError> {
    if let Some(blobs) = &app.blobs {
        return Ok(blobs.publish(subject, body, options).await?);
    }
    let data = body.collect(PUBLISH_BODY_BYTES_MAX).await;
    let data = data.map_err(|error| NodeError::invalid(error.to_string()))?;
    Ok((app.messages.publish(subject, data, options).await?, None))
}

/// What the headers of a request say of its message: the media type, and extensions in `weft-header-NAME`.
pub(super) fn options_of(headers: &HeaderMap) -> PublishOptions {
    let mut options = PublishOptions::default();
    for (name, value) in headers {
        let Ok(text) = value.to_str() else { continue };
        if name == header::CONTENT_TYPE {
            options.content_type = Some(text.to_owned());
        } else if let Some(extension) = name.as_str().strip_prefix("weft-header-") {
            options.extensions.push((extension.to_owned(), text.to_owned()));
        }
    }
    options
}

/// What to subscribe to.
#[derive(Debug, Deserialize, IntoParams)]
struct SubscribeQuery {
    /// A subject pattern: `orders.>`.
    subject: String,
    /// A queue group: one of its members, wherever they are, gets each message.
    group: Option<String>,
    /// The extension attribute whose value decides to which member a message goes.
    key: Option<String>,
    /// First the last message on each subject that was published before, as far as members still have it; of any age, if it was retained.
    #[serde(default)]
    last: bool,
    /// First the last messages that were published before, so many.
    last_n: Option<usize>,
    /// First the messages that were published in the last so many milliseconds.
    past_ms: Option<u64>,
    /// At most one message of each subject in so many milliseconds.
    every_ms: Option<u64>,
    /// With each message, in `weftvia`, the neighbour that handed it to this node.
    #[serde(default)]
    via: bool,
}

/// What of before a subscription wants.
fn past_of(last: bool, last_n: Option<usize>, past_ms: Option<u64>) -> Result<Option<Past>, NodeError> {
    let past = match (last, last_n, past_ms) {
        (false, None, None) => return Ok(None),
        (true, None, None) => Past::LastOfEach,
        (false, Some(count), None) if (1..=PAST_MESSAGES_MAX).contains(&count) => Past::Last(count),
        (false, None, Some(past_ms)) if Duration::from_millis(past_ms) <= PAST_MAX => {
            Past::Within(Duration::from_millis(past_ms))
        }
        (false, Some(count), None) => {
            return Err(NodeError::invalid(format!(
                "the last {count} messages are asked for; it can be 1 to {PAST_MESSAGES_MAX}"
            )));
        }
        (false, None, Some(past_ms)) => {
            return Err(NodeError::invalid(format!(
                "messages of the last {} s are asked for; they are kept for {} s",
                past_ms.div_ceil(1000),
                PAST_MAX.as_secs()
            )));
        }
        _ => {
            return Err(NodeError::invalid(
                "the last of each subject, the last so many, and those since a time exclude each other",
            ));
        }
    };
    Ok(Some(past))
}

/// What a subscriber asks for.
struct Asked<'a> {
    pattern: Pattern,
    group: Option<&'a str>,
    key: Option<&'a str>,
    past: Option<Past>,
    every_ms: Option<u64>,
    resume: Option<&'a str>,
}

async fn subscription(app: &App, asked: Asked<'_>) -> Result<Subscription, NodeError> {
    let Asked {
        pattern,
        group,
        key,
        past,
        every_ms,
        resume,
    } = asked;
    let subscription = match (group, key, past) {
        (Some(_), _, Some(_)) => Err(NodeError::invalid(
            "the members of a group get each message once: there is no past for one of them",
        )),
        (Some(_), ..) if every_ms.is_some() => Err(NodeError::invalid(
            "the members of a group get each message once: none of them can leave any out",
        )),
        (Some(group), key, None) => Ok(app.messages.subscribe_in_group(pattern, group, key)?),
        (None, Some(_), _) => Err(NodeError::invalid("a key is of use only with a group")),
        // Who comes back has been told of before.
        (None, None, Some(past)) if resume.is_none() => Ok(app.messages.subscribe_with(pattern, past).await),
        (None, None, _) => Ok(app.messages.subscribe(pattern, resume)),
    }?;
    Ok(match every_ms {
        Some(every_ms) => subscription.at_most_every(Duration::from_millis(every_ms)),
        None => subscription,
    })
}

/// Subscribe: server-sent events, each message a CloudEvent; `Last-Event-ID` resumes
#[utoipa::path(get, path = "/v1/messages", params(SubscribeQuery), responses((status = 200, body = String, content_type = "text/event-stream")))]
async fn subscribe(
    State(app): State<App>,
    Query(query): Query<SubscribeQuery>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let pattern: Pattern = query.subject.parse().map_err(NodeError::from)?;
    let resume = headers.get("last-event-id").and_then(|v| v.to_str().ok());
    check_room(&app.messages)?;
    let asked = Asked {
        pattern,
        group: query.group.as_deref(),
        key: query.key.as_deref(),
        past: past_of(query.last, query.last_n, query.past_ms)?,
        every_ms: query.every_ms,
        resume,
    };
    let subscription = subscription(&app, asked).await?;
    let is_via_told = query.via;
    let stream = futures::stream::unfold(
        (subscription, app.messages),
        move |(mut subscription, messages)| async move {
            let event = match subscription.next().await? {
                Delivery::Message(received) => {
                    let mut data = cloud_event(&received);
                    if is_via_told {
                        data["weftvia"] = received.from().to_string().into();
                    }
                    Event::default()
                        .id(messages.cursor(&received))
                        .event("message")
                        .data(data.to_string())
                }
                loss => Event::default().event("gap").data(loss_of(&loss).to_string()),
            };
            Some((Ok::<_, Infallible>(event), (subscription, messages)))
        },
    );
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// All subscriptions of all applications together are bounded.
fn check_room(messages: &PubSubHandle) -> Result<(), NodeError> {
    if messages.subscriptions() < SUBSCRIPTIONS_MAX {
        return Ok(());
    }
    Err(NodeError::busy(format!(
        "this node has {SUBSCRIPTIONS_MAX} subscriptions already"
    )))
}

/// The structured JSON form of CloudEvents 1.0, §3 of its JSON format.
pub(crate) fn cloud_event(received: &Received) -> Value {
    let attributes = received.attributes();
    let mut event = Map::new();
    event.insert("specversion".into(), "1.0".into());
    event.insert("id".into(), received.id().into());
    event.insert("source".into(), received.source().into());
    event.insert("type".into(), received.kind().into());
    event.insert("subject".into(), received.subject().as_str().into());
    if let Some(time_ms) = attributes.time_ms {
        event.insert("time".into(), rfc3339(time_ms).into());
    }
    for (name, value) in &attributes.extensions {
        event.insert(name.clone(), value.clone().into());
    }
    event.insert("weftpublisher".into(), received.publisher().to_string().into());
    event.insert("weftsequence".into(), received.sequence().to_string().into());
    let content_type = attributes.datacontenttype.as_deref();
    if let Some(content_type) = content_type {
        event.insert("datacontenttype".into(), content_type.into());
    }
    // Data that are elsewhere are not empty ones.
    if attributes.extension(DATAREF).is_none() || !received.data().is_empty() {
        cloud_event::insert_data(&mut event, content_type, received.data());
    }
    Value::Object(event)
}

/// Publish and subscribe on one WebSocket
#[utoipa::path(get, path = "/v1/socket", responses((status = 101)))]
async fn duplex(
    State(app): State<App>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|error| Problem::new(ErrorKind::Invalid, error.body_text()))?;
    let upgrade = upgrade.max_message_size(PUBLISH_BODY_BYTES_MAX * 2);
    Ok(upgrade.on_upgrade(move |socket| converse(socket, app)))
}

/// What the application asks on the WebSocket.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Op {
    Subscribe {
        subject: String,
        group: Option<String>,
        key: Option<String>,
        #[serde(default)]
        last: bool,
        last_n: Option<usize>,
        past_ms: Option<u64>,
        every_ms: Option<u64>,
    },
    Unsubscribe {
        subject: String,
    },
    Publish {
        subject: String,
        data: Option<Value>,
        data_base64: Option<String>,
        datacontenttype: Option<String>,
        expires_ms: Option<u64>,
        #[serde(default)]
        retain: bool,
        priority: Option<String>,
    },
}

async fn converse(socket: WebSocket, app: App) {
    let (mut write, mut read) = socket.split();
    let (deliveries, mut outgoing) = mpsc::channel::<Delivery>(DELIVERIES_MAX);
    let mut subscriptions: BTreeMap<String, tokio_util::sync::DropGuard> = BTreeMap::new();
    let mut ping = tokio::time::interval(KEEP_ALIVE);
    loop {
        tokio::select! {
            Some(delivery) = outgoing.recv() => {
                if write.send(Message::Text(frame(&delivery).to_string().into())).await.is_err() { return }
            }
            message = read.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    let reply = match serde_json::from_str::<Op>(&text) {
                        Ok(op) => perform(&app, op, &mut subscriptions, &deliveries).await,
                        Err(error) => Err(NodeError::invalid(format!("not an operation: {error}"))),
                    };
                    let reply = match reply {
                        Ok(reply) => reply,
                        Err(error) => {
                            let problem: Value = serde_json::from_str(&Problem::from(error).to_json()).unwrap_or_default();
                            json!({ "op": "error", "problem": problem })
                        }
                    };
                    if write.send(Message::Text(reply.to_string().into())).await.is_err() { return }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return,
            },
            _ = ping.tick() => {
                if write.send(Message::Ping(Default::default())).await.is_err() { return }
            }
        }
    }
}

async fn perform(
    app: &App,
    op: Op,
    subscriptions: &mut BTreeMap<String, tokio_util::sync::DropGuard>,
    deliveries: &mpsc::Sender<Delivery>,
) -> Result<Value, NodeError> {
    match op {
        Op::Subscribe {
            subject,
            group,
            key,
            last,
            last_n,
            past_ms,
            every_ms,
        } => {
            let asked = Asked {
                pattern: subject.parse()?,
                group: group.as_deref(),
                key: key.as_deref(),
                past: past_of(last, last_n, past_ms)?,
                every_ms,
                resume: None,
            };
            check_room(&app.messages)?;
            if subscriptions.len() >= SOCKET_SUBSCRIPTIONS_MAX {
                return Err(NodeError::busy(format!(
                    "one WebSocket has at most {SOCKET_SUBSCRIPTIONS_MAX} subscriptions"
                )));
            }
            let cancel = tokio_util::sync::CancellationToken::new();
            let subscription = subscription(app, asked).await?;
            let forward = forward(subscription, deliveries.clone());
            let cancelled = cancel.clone();
            app.node.tasks().spawn("ws-subscription", async move {
                tokio::select! { () = cancelled.cancelled() => {}, () = forward => {} }
            });
            subscriptions.insert(subject.clone(), cancel.drop_guard());
            Ok(json!({ "op": "subscribed", "subject": subject }))
        }
        Op::Unsubscribe { subject } => match subscriptions.remove(&subject) {
            Some(_) => Ok(json!({ "op": "unsubscribed", "subject": subject })),
            None => Err(NodeError::not_found(format!("no subscription to {subject}"))),
        },
        Op::Publish {
            subject,
            data,
            data_base64,
            datacontenttype,
            expires_ms,
            retain,
            priority,
        } => {
            let subject: Subject = subject.parse()?;
            let (data, json_type) = match (data, data_base64) {
                (Some(Value::String(text)), None) => (text.into_bytes(), None),
                (Some(value), None) => (value.to_string().into_bytes(), Some("application/json".to_owned())),
                (None, Some(text)) => {
                    let bytes = BASE64.decode(text.as_bytes());
                    (
                        bytes.map_err(|e| NodeError::invalid(format!("data_base64: {e}")))?,
                        None,
                    )
                }
                (None, None) => (Vec::new(), None),
                (Some(_), Some(_)) => return Err(NodeError::invalid("data and data_base64 exclude each other")),
            };
            let options = PublishOptions {
                content_type: datacontenttype.or(json_type),
                expires_in: expires_ms.map(Duration::from_millis),
                retain,
                priority: priority_of(priority.as_deref())?,
                ..PublishOptions::default()
            };
            let (receipt, reference) = publish_any(app, &subject, BodyReader::of(data), options).await?;
            let mut published = json!({
                "op": "published", "id": receipt.id, "seq": receipt.sequence, "peers": receipt.peers, "direct": receipt.is_direct,
            });
            if let Some(reference) = reference {
                published["dataref"] = reference.to_string().into();
            }
            Ok(published)
        }
    }
}

/// Carries one subscription's deliveries to the WebSocket; its queue's bound makes a slow reader lose its own messages.
async fn forward(mut subscription: Subscription, deliveries: mpsc::Sender<Delivery>) {
    while let Some(delivery) = subscription.next().await {
        if deliveries.send(delivery).await.is_err() {
            return;
        }
    }
}

fn frame(delivery: &Delivery) -> Value {
    let Delivery::Message(received) = delivery else {
        let mut loss = loss_of(delivery);
        loss["op"] = "gap".into();
        return loss;
    };
    json!({ "op": "message", "message": cloud_event(received) })
}

/// What a subscriber lost: `dropped`, because it was too slow, or the messages `from` to `to` of a `publisher`, because
/// nobody has them any more.
fn loss_of(delivery: &Delivery) -> Value {
    match delivery {
        Delivery::Message(_) => json!({}),
        Delivery::Dropped(count) => json!({ "dropped": count }),
        Delivery::Gap { publisher, first, last } => {
            json!({ "publisher": publisher.to_string(), "from": first, "to": last })
        }
    }
}
