//! A node's local API, through its Unix socket: such a socket is reached from every network namespace.

use std::{path::Path, time::Duration};

use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::{oracle::Outcome, run::RunError};

/// A question that is answered from memory.
const ASK_TIME_MAX: Duration = Duration::from_secs(5);
/// A message that is taken in; under load it may wait.
const PUBLISH_TIME_MAX: Duration = Duration::from_secs(20);
/// Beyond a call's own deadline: the node says itself that time is over.
const CALL_GRACE: Duration = Duration::from_secs(2);
/// The longest event of a stream of them: a message of 1 MiB in base 64, with room to spare.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// The header, and the attribute of a message, that says which item of which workload it is.
pub(super) const KEY: &str = "weftsim";

/// The door of one node.
#[derive(Debug, Clone)]
pub(super) struct Api {
    client: Client,
}

#[derive(Deserialize)]
struct Peer {
    peer_id: String,
}

/// What a node says of itself.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Status {
    /// Its id.
    pub(super) peer_id: String,
    /// It belongs to a mesh, and listens.
    pub(super) ready: bool,
    /// Members it is connected with.
    pub(super) peers: usize,
}

/// A call's end.
pub(super) struct Called {
    /// What the caller knows.
    pub(super) outcome: Outcome,
    /// The id of the node that answered, and whether the answer is what was sent.
    pub(super) answer: Option<(String, bool)>,
}

impl Api {
    pub(super) fn new(socket: &Path) -> Result<Self, RunError> {
        let client = Client::builder()
            .unix_socket(socket.to_owned())
            .no_proxy()
            .http1_only()
            .build()
            .map_err(|error| RunError::Failed(format!("cannot make a client for {}: {error}", socket.display())))?;
        Ok(Self { client })
    }

    async fn get<T: for<'d> Deserialize<'d>>(&self, path: &str) -> Option<T> {
        let answer = self
            .client
            .get(format!("http://localhost{path}"))
            .timeout(ASK_TIME_MAX)
            .send()
            .await
            .ok()?;
        if !answer.status().is_success() {
            return None;
        }
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    }

    /// What it says of itself; none while it does not answer.
    pub(super) async fn status(&self) -> Option<Status> {
        self.get("/v1/status").await
    }

    /// The ids of the members it is connected with.
    pub(super) async fn peers(&self) -> Option<Vec<String>> {
        let peers: Vec<Peer> = self.get("/v1/peers").await?;
        Some(peers.into_iter().map(|peer| peer.peer_id).collect())
    }

    /// Its metrics, as text.
    pub(super) async fn metrics(&self) -> Option<String> {
        let request = self.client.get("http://localhost/metrics").timeout(ASK_TIME_MAX);
        let answer = request.send().await.ok()?;
        if answer.status().is_success() {
            answer.text().await.ok()
        } else {
            None
        }
    }

    /// A ticket for so many nodes of a role.
    pub(super) async fn invite(&self, role: &str, uses: usize) -> Result<String, RunError> {
        let fail = |why: String| RunError::Failed(format!("the founder gives no ticket for the role {role}: {why}"));
        let request = self
            .client
            .post("http://localhost/v1/invites")
            .header("content-type", "application/json")
            .timeout(ASK_TIME_MAX)
            .body(serde_json::json!({ "ttl_s": 7 * 86_400, "uses": uses, "role": role, "labels": {} }).to_string());
        let answer = request.send().await.map_err(|error| fail(error.to_string()))?;
        let bytes = answer.bytes().await.map_err(|error| fail(error.to_string()))?;
        let invite: Value = serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))?;
        let ticket = invite.get("ticket").and_then(Value::as_str);
        ticket.map(str::to_owned).ok_or_else(|| fail(invite.to_string()))
    }

    /// Publishes a message.
    pub(super) async fn publish(&self, subject: &str, key: String, body: String) -> Outcome {
        let request = self
            .client
            .post(format!("http://localhost/v1/messages/{subject}"))
            .header("content-type", "text/plain")
            .header(format!("weft-header-{KEY}"), key)
            .timeout(PUBLISH_TIME_MAX)
            .body(body);
        let receipt = match request.send().await {
            Ok(answer) if answer.status().is_success() => answer.bytes().await,
            Ok(answer) => return refused(answer.status()),
            Err(error) if error.is_connect() => return Outcome::Refused,
            Err(_) => return Outcome::Unknown,
        };
        let receipt = receipt
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        match receipt.and_then(|receipt| receipt.get("peers")?.as_u64()) {
            Some(0) => Outcome::Kept,
            Some(_) => Outcome::Acknowledged,
            None => Outcome::Unknown,
        }
    }

    /// Calls a service that answers with what it was sent.
    pub(super) async fn call(&self, service: &str, body: String, timeout: Duration) -> Called {
        let request = self
            .client
            .post(format!("http://localhost/v1/services/{service}"))
            .header("content-type", "text/plain")
            .header("weft-timeout-ms", timeout.as_millis().max(1).to_string())
            .timeout(timeout + CALL_GRACE)
            .body(body.clone());
        let unanswered = |outcome| Called { outcome, answer: None };
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => return unanswered(Outcome::Refused),
            Err(_) => return unanswered(Outcome::Unknown),
        };
        if !answer.status().is_success() {
            return unanswered(refused(answer.status()));
        }
        let server = answer
            .headers()
            .get("weft-node")
            .and_then(|id| id.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        match answer.bytes().await {
            Ok(bytes) => Called {
                outcome: Outcome::Acknowledged,
                answer: Some((server, bytes == body.as_bytes())),
            },
            Err(_) => unanswered(Outcome::Unknown),
        }
    }

    /// Subscribes to a subject.
    pub(super) async fn subscribe(&self, subject: &str) -> Option<Subscription> {
        // A subject has no character that would have to be escaped.
        let request = self
            .client
            .get(format!("http://localhost/v1/messages?subject={subject}&via=true"));
        // Only the answer's head is waited for so long: the rest comes as long as both live.
        let answer = tokio::time::timeout(ASK_TIME_MAX, request.send()).await.ok()?.ok()?;
        answer.status().is_success().then(|| Subscription {
            answer,
            buffer: Vec::new(),
        })
    }
}

/// What a refusal leaves the sender knowing. After some a call may have been served.
fn refused(status: StatusCode) -> Outcome {
    match status {
        StatusCode::BAD_REQUEST
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::TOO_MANY_REQUESTS => Outcome::Refused,
        _ => Outcome::Unknown,
    }
}

/// Server-sent events of a subscription.
pub(super) struct Subscription {
    answer: Response,
    buffer: Vec<u8>,
}

impl Subscription {
    /// The next message, as a CloudEvent; none when the stream is over. Cancel-safe: what has come is kept.
    pub(super) async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some(event) = self.take_event() {
                if let Some(message) = message(&event) {
                    return Some(message);
                }
            }
            if self.buffer.len() > EVENT_BYTES_MAX {
                return None;
            }
            let chunk = self.answer.chunk().await.ok()??;
            self.buffer.extend_from_slice(&chunk);
        }
    }

    /// A whole event from the buffer: everything before an empty line.
    fn take_event(&mut self) -> Option<String> {
        let end = self.buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
        Some(String::from_utf8_lossy(&event).into_owned())
    }
}

/// The data of an event, if it is a message.
fn message(event: &str) -> Option<Value> {
    let field = |name: &str| -> Vec<&str> {
        let lines = event
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        lines.map(|value| value.strip_prefix(' ').unwrap_or(value)).collect()
    };
    if field("event") != ["message"] {
        return None;
    }
    serde_json::from_str(&field("data").join("\n")).ok()
}

/// `workload.item`.
pub(super) fn key(workload: usize, item: usize) -> String {
    format!("{workload}.{item}")
}

/// The neighbour that handed a message to the node, if the node says it.
pub(super) fn via(event: &Value) -> Option<&str> {
    event.get("weftvia").and_then(Value::as_str)
}

/// The key of a CloudEvent, and its body as text.
pub(super) fn read_event(event: &Value) -> (Option<(usize, usize)>, &str) {
    let key = event.get(KEY).and_then(Value::as_str).and_then(|key| {
        let (workload, item) = key.split_once('.')?;
        Some((workload.parse().ok()?, item.parse().ok()?))
    });
    (key, event.get("data").and_then(Value::as_str).unwrap_or_default())
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn events_are_read_as_the_node_writes_them() {
        let text = "id: 7\nevent: message\ndata: {\"weftsim\":\"0.12\",\"data\":\"abc\"}\n";
        let event = message(text).unwrap();
        assert_eq!(read_event(&event), (Some((0, 12)), "abc"));
        assert_eq!(message("event: gap\ndata: {\"dropped\":3}\n"), None);
        assert_eq!(message(": keep-alive\n"), None);
        assert_eq!(read_event(&serde_json::json!({ "weftsim": "x" })), (None, ""));
    }
}
