//! Calls, each to one who serves; the service echoes.

use std::{sync::Arc, time::Duration};

use weft_node::patterns::request_response::{CallError, CallOptions, ServiceOptions};
use weft_protocol::PeerId;

use super::{KEY, Ledger, key, parse_key};
use crate::{
    fleet::Running,
    network::HostId,
    oracle::{Arrival, Outcome},
};

/// A call that has not ended so long after its deadline was not held to it.
const LATE_MAX: Duration = Duration::from_millis(200);

/// Serves a service on a node for as long as its process lives.
pub fn serve(ledger: &Arc<Ledger>, host: HostId, running: &Running, service: String) {
    let Some(calls) = running.calls.clone() else { return };
    let (ledger, boot) = (Arc::clone(ledger), running.boot);
    running.application.spawn("service", async move {
        let Ok(mut serving) = calls.serve(ServiceOptions::new(service, "1.0.0")).await else {
            return;
        };
        // Calls that wait for a service that hangs, each with its own end.
        let mut unanswered = Vec::new();
        while let Some(call) = serving.next().await {
            let key = call.headers.iter().find(|(name, _)| name == KEY);
            if let Some((workload, item)) = key.and_then(|(_, value)| parse_key(value)) {
                let at_ns = ledger.now_ns();
                let is_whole = call.body == ledger.body(workload, item);
                let from = ledger.host(&call.caller);
                ledger
                    .network
                    .note(&[at_ns, u64::from(host), 0xCA11 << 32 | item as u64], &[]);
                let mut oracle = ledger.oracle();
                let is_right = is_whole && oracle.is_from(workload, item, from);
                oracle.arrived(
                    workload,
                    item,
                    Arrival {
                        node: host,
                        boot,
                        at_ns,
                        from,
                    },
                    is_right,
                );
            }
            if ledger.oracle().is_hanging(host) {
                unanswered.push(call);
                continue;
            }
            let body = call.body.clone();
            call.answer(Vec::new(), body);
        }
    });
}

/// Makes the next call of a workload, to `server` or to whom the node chooses, and waits for what becomes of it.
pub async fn call(
    ledger: Arc<Ledger>,
    host: HostId,
    running: Running,
    workload: usize,
    service: String,
    server: Option<PeerId>,
    timeout: Duration,
) {
    let Some(calls) = running.calls else { return };
    let sent_ns = ledger.now_ns();
    let item = ledger.oracle().sending(workload, host, running.boot, sent_ns);
    let body = ledger.body(workload, item);
    let options = CallOptions {
        timeout,
        node: server,
        headers: vec![key(workload, item)],
        ..CallOptions::default()
    };
    let result = calls.call(&service, "", body.clone(), options).await;
    let at_ns = ledger.now_ns();
    let mut oracle = ledger.oracle();
    let waited = Duration::from_nanos(at_ns.saturating_sub(sent_ns));
    if waited > timeout + LATE_MAX {
        oracle.broken(format!(
            "call {item} was waited for {waited:?}, its time was {timeout:?}"
        ));
    }
    match result {
        Ok(answer) => {
            if answer.body != body {
                oracle.broken(format!("call {item} was answered with other bytes than it sent"));
            }
            let node = ledger.host(&answer.node).unwrap_or(HostId::MAX);
            oracle.answered(workload, item, node, at_ns);
        }
        Err(CallError::Timeout(_) | CallError::Unknown { .. } | CallError::Closed) => {
            oracle.outcome(workload, item, Outcome::Unknown);
        }
        Err(_) => oracle.outcome(workload, item, Outcome::Refused),
    }
}
