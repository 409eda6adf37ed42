//! Services: Weft's as NATS clients see them, and those of NATS clients as Weft sees them.
//!
//! `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, each also with a name and an id, are answered for every Weft service the directory knows, in
//! the forms of NATS micro. The numbers of `STATS` are each instance's own, asked of its node; one that does not say them in time does not
//! answer.
//!
//! A queue subscription to a literal subject of one or two tokens is offered to the mesh as a service, so that `weft call` reaches it: the
//! first token is the service, the second the endpoint.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use serde_json::{Map, Value, json};
use weft_protocol::{
    Subject, Wire as _,
    patterns::{
        nats::{ANNOUNCEMENT_KEY, NatsInterests},
        request_response::{EndpointStats, InstanceStats, check_service_name},
    },
};

use super::{
    ask::Question,
    door::{Door, Scope},
    headers,
    outbox::{Outgoing, Touched},
};
use crate::{
    local::rfc3339,
    patterns::request_response::{
        DEFAULT_ENDPOINT, EndpointOptions, IncomingCall, Instance, RequestResponseHandle, ServiceOptions, Serving,
    },
};

/// Marks the services that are queue subscriptions of NATS clients.
const MARK: (&str, &str) = ("door", "nats");
/// What NATS clients do not say of theirs.
const VERSION: &str = "0.0.0";
/// How long changes are gathered before the mesh is told.
const GATHER: Duration = Duration::from_millis(20);
/// How often the mesh is told at most.
const PAUSE: Duration = Duration::from_millis(200);
/// How long an instance may take to say what it has done.
const STATS_PATIENCE: Duration = Duration::from_secs(1);
/// Services whose instances are asked at once.
const ASKED_AT_ONCE: usize = 16;

/// The service and endpoint a subject calls.
pub(super) fn name_of(subject: &Subject) -> Option<(&str, &str)> {
    let text = subject.as_str();
    let (service, endpoint) = text.split_once('.').unwrap_or((text, DEFAULT_ENDPOINT));
    let is_name = |name| check_service_name("service", name).is_ok();
    (is_name(service) && is_name(endpoint)).then_some((service, endpoint))
}

fn subject_of(service: &str, endpoint: &str) -> String {
    if endpoint == DEFAULT_ENDPOINT {
        service.to_owned()
    } else {
        format!("{service}.{endpoint}")
    }
}

/// Weft's own services, not those of NATS clients.
fn weft_services(calls: &RequestResponseHandle) -> impl Iterator<Item = Instance> {
    let is_ours = |instance: &Instance| {
        !instance
            .info
            .metadata
            .iter()
            .any(|(key, value)| (&**key, &**value) == MARK)
    };
    calls.services().into_iter().filter(is_ours)
}

/// The subjects by which Weft's services are called.
pub(super) fn subjects(calls: &RequestResponseHandle) -> impl Iterator<Item = String> {
    weft_services(calls).flat_map(|instance| {
        let name = instance.info.name;
        instance
            .info
            .endpoints
            .into_iter()
            .map(move |endpoint| subject_of(&name, &endpoint.name))
    })
}

/// Answers `$SRV` for Weft's services. How many answers there were.
pub(super) async fn answer(door: &Door, question: &Question) -> u32 {
    let mut tokens = question.subject.tokens();
    if tokens.next() != Some("$SRV") {
        return 0;
    }
    let Some(verb) = tokens.next() else { return 0 };
    let (name, id) = (tokens.next(), tokens.next());
    if tokens.next().is_some() {
        return 0;
    }
    let is_meant = |instance: &Instance| {
        name.is_none_or(|name| name == instance.info.name) && id.is_none_or(|id| id == instance.info.id)
    };
    let meant: Vec<Instance> = weft_services(&door.calls).filter(is_meant).collect();
    let forms: Vec<Value> = match verb {
        "PING" => meant.iter().map(|instance| form(verb, instance)).collect(),
        "INFO" => meant.iter().map(described).collect(),
        "STATS" => with_numbers(door, &meant).await,
        _ => return 0,
    };
    let mut touched = Touched::default();
    let matched = door.router.matching(&question.reply);
    for form in &forms {
        let text = form.to_string();
        let message = Outgoing {
            subject: &question.reply,
            reply: None,
            headers: b"",
            payload: text.as_bytes(),
        };
        door.deliver(&matched, &message, Scope::ALL, &mut touched);
    }
    u32::try_from(forms.len()).unwrap_or(u32::MAX)
}

/// What all forms of NATS micro, version 1, have in common.
fn form(verb: &str, instance: &Instance) -> Value {
    let info = &instance.info;
    let own = info
        .metadata
        .iter()
        .map(|(key, value)| (key.clone(), value.clone().into()));
    let node = ("weft_node".to_owned(), instance.peer.to_string().into());
    let metadata: Map<String, Value> = own.chain([node]).collect();
    json!({
        "type": format!("io.nats.micro.v1.{}_response", verb.to_ascii_lowercase()),
        "name": info.name, "id": info.id, "version": info.version, "metadata": metadata,
    })
}

fn endpoint(service: &str, endpoint: &str) -> Value {
    json!({ "name": endpoint, "subject": subject_of(service, endpoint), "queue_group": "q", "metadata": {} })
}

fn described(instance: &Instance) -> Value {
    let info = &instance.info;
    let mut form = form("INFO", instance);
    form["description"] = format!("a Weft service on {}", instance.peer).into();
    form["endpoints"] = info.endpoints.iter().map(|e| endpoint(&info.name, &e.name)).collect();
    form
}

/// The instances' own numbers.
async fn with_numbers(door: &Door, meant: &[Instance]) -> Vec<Value> {
    let names: BTreeSet<&String> = meant.iter().map(|instance| &instance.info.name).collect();
    let names: Vec<&String> = names.into_iter().collect();
    let mut by_id: HashMap<String, InstanceStats> = HashMap::new();
    for some in names.chunks(ASKED_AT_ONCE) {
        let mut asking = Vec::new();
        for name in some {
            asking.push(door.calls.stats(name, STATS_PATIENCE));
        }
        let told = join_all(asking).await.into_iter().flatten();
        by_id.extend(told.filter_map(|told| Some((told.info.id, told.answer.ok()?))));
    }
    let form = |instance: &Instance| {
        let stats = by_id.get(&instance.info.id)?;
        let mut form = form("STATS", instance);
        form["started"] = rfc3339(stats.started_at_ms).into();
        let numbers = |stat: &EndpointStats| {
            let mut form = endpoint(&instance.info.name, &stat.name);
            let nanos = stat.total_us.saturating_mul(1000);
            form["num_requests"] = stat.requests.into();
            form["num_errors"] = stat.errors.into();
            form["last_error"] = stat.last_error.clone().unwrap_or_default().into();
            form["processing_time"] = nanos.into();
            form["average_processing_time"] = (nanos / stat.requests.max(1)).into();
            form
        };
        form["endpoints"] = stats.endpoints.iter().map(numbers).collect();
        Some(form)
    };
    meant.iter().filter_map(form).collect()
}

/// Tells the mesh what this door's clients listen to, and offers their queue groups as services, as long as the door is open.
pub(super) async fn keep_told(door: Arc<Door>) {
    let mut told = NatsInterests::default();
    let mut offered: BTreeMap<Subject, tokio_util::sync::DropGuard> = BTreeMap::new();
    loop {
        let summary = door.interests.summary(door.settings.advertise.as_deref());
        if told != summary {
            if door.mesh.announce(ANNOUNCEMENT_KEY, summary.to_bytes()).await.is_err() {
                return;
            }
            told = summary;
        }
        let wanted = door.interests.group_subjects();
        offered.retain(|subject, _| wanted.binary_search(subject).is_ok());
        for subject in wanted {
            if !offered.contains_key(&subject)
                && let Some(guard) = offer(&door, &subject).await
            {
                offered.insert(subject, guard);
            }
        }
        tokio::time::sleep(PAUSE).await;
        door.interests.changed.notified().await;
        tokio::time::sleep(GATHER).await;
    }
}

/// Offers one subject as a service; it is withdrawn with the guard.
async fn offer(door: &Arc<Door>, subject: &Subject) -> Option<tokio_util::sync::DropGuard> {
    let (service, endpoint) = name_of(subject)?;
    let mut options = ServiceOptions::new(service, VERSION);
    options.endpoints = vec![EndpointOptions::new(endpoint)];
    options.metadata = vec![(MARK.0.to_owned(), MARK.1.to_owned())];
    let serving = match door.calls.serve(options).await {
        Ok(serving) => serving,
        Err(error) => {
            tracing::debug!(%error, subject = subject.as_str(), "a queue subscription is not offered as a service");
            return None;
        }
    };
    let withdrawn = tokio_util::sync::CancellationToken::new();
    let (door, subject, until) = (Arc::clone(door), subject.clone(), withdrawn.clone());
    let tasks = door.tasks.clone();
    tasks.spawn("nats-service", async move {
        tokio::select! {
            biased;
            () = until.cancelled() => {}
            () = serve(&door, serving, &subject) => {}
        }
    });
    Some(withdrawn.drop_guard())
}

async fn serve(door: &Arc<Door>, mut serving: Serving, subject: &Subject) {
    while let Some(call) = serving.next().await {
        let (door, subject) = (Arc::clone(door), subject.clone());
        let tasks = door.tasks.clone();
        tasks.spawn("nats-call", async move { serve_one(&door, call, &subject).await });
    }
}

/// A call, answered by one member of one queue group; its first answer counts.
async fn serve_one(door: &Door, call: IncomingCall, subject: &Subject) {
    let (reply, answer) = door.replies.for_call();
    let block = headers::from_call(&call.headers);
    let message = Outgoing {
        subject: subject.as_str(),
        reply: Some(&reply),
        headers: &block,
        payload: &call.body,
    };
    let mut matched = door.router.matching(subject.as_str());
    matched.groups.truncate(1);
    let scope = Scope {
        plain: false,
        ..Scope::ALL
    };
    if door.deliver(&matched, &message, scope, &mut Touched::default()) == 0 {
        return call.fail(503, "no NATS client answers for this service any more");
    }
    let Ok(Ok((block, body))) = tokio::time::timeout_at(call.deadline, answer).await else {
        // The caller's own deadline has told it by now.
        return;
    };
    match headers::field(&block, "Nats-Service-Error") {
        Some(reason) => {
            let code = headers::field(&block, "Nats-Service-Error-Code").and_then(|code| code.parse().ok());
            call.fail(code.unwrap_or(500), reason);
        }
        None => call.answer(headers::to_call(&block), body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_of_one_or_two_names_is_a_service() {
        let name = |text: &str| name_of(&text.parse().unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(name("greet"), Some(("greet".into(), DEFAULT_ENDPOINT.into())));
        assert_eq!(name("stock.count"), Some(("stock".into(), "count".into())));
        assert_eq!(name("a.b.c"), None);
        assert_eq!(subject_of("greet", DEFAULT_ENDPOINT), "greet");
        assert_eq!(subject_of("stock", "count"), "stock.count");
    }
}
