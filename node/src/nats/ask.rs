//! Requests: a client's message with a reply subject, to whoever can answer it anywhere in the mesh.
//!
//! Who answers: this node's subscribers, who have it already; plain subscribers elsewhere, who get it as they get every message; one member
//! of each queue group, here if there is one, else on one node that has some; and a Weft service of that name when no queue group took
//! it. When there is nobody at all, the client is told at once: 503, no responders.

use std::sync::Arc;

use weft_protocol::{PeerId, Subject, patterns::nats::NatsItem};

use super::{
    door::{Door, Scope},
    headers,
    outbox::{Outbox, Outgoing, Touched},
    services,
};
use crate::{
    error::Kind as _,
    patterns::request_response::{CallError, CallOptions},
};

/// Nodes of a queue group that are tried one after the other.
const ATTEMPTS_MAX: usize = 3;
/// Nodes that are asked what services their clients offer.
const NODES_MAX: usize = 256;

/// A request, after this node's subscribers have got it.
pub(super) struct Question {
    pub(super) subject: Subject,
    pub(super) reply: String,
    pub(super) headers: Vec<u8>,
    pub(super) payload: Vec<u8>,
    /// Subscriptions of this node that got it.
    pub(super) reached: u32,
    /// Queue groups of this node that got it.
    pub(super) groups: Vec<Box<str>>,
    /// The client to tell when there is nobody; not all want to know.
    pub(super) asker: Option<Arc<Outbox>>,
}

/// Brings a request to those who can answer it, and a service's answer back.
pub(super) async fn ask(door: &Arc<Door>, question: Question) {
    let mut reached = question.reached;
    if question.subject.is_reserved() {
        reached += services::answer(door, &question).await;
        reached += ask_everybody(door, &question).await;
    } else {
        let listeners = door.elsewhere.listeners(&question.subject);
        reached += u32::try_from(listeners.plain.len()).unwrap_or(u32::MAX);
        let mut is_taken = !question.groups.is_empty();
        for (group, nodes) in &listeners.groups {
            if question.groups.iter().any(|own| **own == **group) {
                continue;
            }
            let taken = ask_group(door, &question, group, nodes).await;
            is_taken |= taken > 0;
            reached += taken;
        }
        // What has only just been offered here stands in no record yet.
        let is_offered = |subject: &str| services::subjects(&door.calls).any(|offered| offered == subject);
        let subject = question.subject.as_str();
        if !is_taken
            && (door.is_service(subject) || (reached == 0 && is_offered(subject)))
            && let Some((service, endpoint)) = services::name_of(&question.subject)
        {
            reached += u32::from(call(door, &question, service, endpoint).await);
        }
    }
    if reached == 0 {
        door.metrics.requests_unanswered.inc();
        nobody(door, &question);
    }
}

fn item(door: &Door, question: &Question, group: Option<&str>) -> Option<NatsItem> {
    Some(NatsItem::Deliver {
        subject: question.subject.clone(),
        reply: Some(Subject::reserved(&door.replies.rename(&question.reply)).ok()?),
        group: group.map(ToOwned::to_owned),
        headers: question.headers.clone(),
        payload: question.payload.clone(),
    })
}

/// One node after the other until one has a member that takes it.
async fn ask_group(door: &Arc<Door>, question: &Question, group: &str, nodes: &[PeerId]) -> u32 {
    let mut left = nodes.to_vec();
    for _ in 0..ATTEMPTS_MAX {
        let node = door.elsewhere.choose(&left, door.next_turn());
        let (Some(node), Some(item)) = (node, item(door, question, Some(group))) else {
            break;
        };
        let reached = door.peers.deliver(node, item).await;
        if reached > 0 {
            return reached;
        }
        left.retain(|other| *other != node);
    }
    0
}

/// A reserved subject travels only directly, to every node whose clients listen to it.
async fn ask_everybody(door: &Arc<Door>, question: &Question) -> u32 {
    let listeners = door.elsewhere.listeners(&question.subject);
    let mut nodes = listeners.plain;
    nodes.extend(listeners.groups.into_values().flatten());
    nodes.sort();
    nodes.dedup();
    let deliveries = nodes.into_iter().take(NODES_MAX).filter_map(|node| {
        let item = item(door, question, None)?;
        Some(async move { door.peers.deliver(node, item).await })
    });
    futures::future::join_all(deliveries).await.into_iter().sum()
}

/// Calls a Weft service and answers with what it says. Whether there is such a service.
async fn call(door: &Arc<Door>, question: &Question, service: &str, endpoint: &str) -> bool {
    let options = CallOptions {
        headers: headers::to_call(&question.headers),
        ..CallOptions::default()
    };
    let outcome = door
        .calls
        .call(service, endpoint, question.payload.clone(), options)
        .await;
    if matches!(outcome, Err(CallError::NoneKnown(_))) {
        return false;
    }
    let (headers, body) = match outcome {
        Ok(answer) => (headers::from_call(&answer.headers), answer.body),
        Err(error) => (failure(&error), Vec::new()),
    };
    door.answer(&question.reply, &headers, &body).await;
    true
}

/// A failed call in the words of NATS services.
fn failure(error: &CallError) -> Vec<u8> {
    let (code, reason) = match error {
        CallError::Failed { code, reason } => (*code, reason.clone()),
        other => (other.kind().http_status(), other.to_string()),
    };
    let code = code.to_string();
    let reason = reason.replace(['\r', '\n'], " ");
    headers::block(
        "",
        [
            ("Nats-Service-Error", reason.as_str()),
            ("Nats-Service-Error-Code", code.as_str()),
        ],
    )
}

/// Says to the asking client that there is nobody: on its own inbox, with a status and nothing else.
fn nobody(door: &Door, question: &Question) {
    let Some(asker) = &question.asker else { return };
    let status = headers::block(" 503", []);
    let message = Outgoing {
        subject: &question.reply,
        reply: None,
        headers: &status,
        payload: b"",
    };
    let mut matched = door.router.matching(&question.reply);
    matched.plain.retain(|sub| sub.to.id == asker.id);
    matched.groups.clear();
    door.deliver(&matched, &message, Scope::ALL, &mut Touched::default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_services_own_code_and_reason_come_through() {
        let made = failure(&CallError::Failed {
            code: 404,
            reason: "no apples\nnor pears".to_owned(),
        });
        let expected = "NATS/1.0\r\nNats-Service-Error: no apples nor pears\r\nNats-Service-Error-Code: 404\r\n\r\n";
        assert_eq!(std::str::from_utf8(&made).unwrap(), expected);
        let busy = failure(&CallError::AllBusy {
            service: "greet".to_owned(),
            retry_after: None,
        });
        assert_eq!(headers::field(&busy, "nats-service-error-code"), Some("429"));
    }
}
