//! Messages to all who subscribe.

use std::{collections::BTreeMap, sync::Arc};

use weft_node::patterns::pub_sub::{Delivery, PublishError, PublishOptions, Received};
use weft_protocol::{Pattern, Subject};

use super::{KEY, Ledger, key, parse_key};
use crate::{
    fleet::Running,
    network::HostId,
    oracle::{Arrival, Outcome},
};

/// Subscribes a node to the subjects of these workloads, by their numbers, for as long as its process lives.
pub fn subscribe(ledger: &Arc<Ledger>, host: HostId, running: &Running, subjects: &BTreeMap<usize, Subject>) {
    let Some(pub_sub) = &running.pub_sub else { return };
    for (workload, subject) in subjects {
        let mut subscription = pub_sub.subscribe(Pattern::exactly(subject), None);
        let (ledger, boot, workload) = (Arc::clone(ledger), running.boot, *workload);
        running.application.spawn("subscriber", async move {
            while let Some(delivery) = subscription.next().await {
                match delivery {
                    Delivery::Message(received) => take(&ledger, host, boot, workload, &received),
                    // Told, and so no promise is broken; the tally shows what is missing.
                    Delivery::Dropped(_) | Delivery::Gap { .. } => {}
                }
            }
        });
    }
}

fn take(ledger: &Ledger, host: HostId, boot: u32, subscribed: usize, received: &Received) {
    let at_ns = ledger.now_ns();
    let key = received.attributes().extension(KEY).and_then(parse_key);
    let Some((workload, item)) = key else {
        ledger.oracle().impossible(subscribed);
        return;
    };
    if workload != subscribed {
        // Two workloads share a subject: the other subscription takes it in.
        return;
    }
    let from = ledger.host(&received.from());
    let is_whole = received.data() == ledger.body(workload, item);
    ledger
        .network
        .note(&[at_ns, u64::from(host), 0xDE11 << 32 | item as u64], &[]);
    let mut oracle = ledger.oracle();
    let is_right = is_whole && oracle.is_from(workload, item, ledger.host(&received.publisher()));
    let arrival = Arrival {
        node: host,
        boot,
        at_ns,
        from,
    };
    oracle.arrived(workload, item, arrival, is_right);
}

/// Publishes the next message of a workload. Waits until the node has taken or refused it.
pub async fn publish(ledger: Arc<Ledger>, host: HostId, running: Running, workload: usize, subject: Subject) {
    let Some(pub_sub) = running.pub_sub else { return };
    let item = ledger.oracle().sending(workload, host, running.boot, ledger.now_ns());
    let options = PublishOptions {
        extensions: vec![key(workload, item)],
        ..PublishOptions::default()
    };
    let result = pub_sub.publish(&subject, ledger.body(workload, item), options).await;
    let outcome = match result {
        Ok(receipt) if receipt.peers == 0 => Outcome::Kept,
        Ok(_) => Outcome::Acknowledged,
        Err(PublishError::Busy(_) | PublishError::Invalid(_)) => Outcome::Refused,
        Err(_) => Outcome::Unknown,
    };
    ledger.oracle().outcome(workload, item, outcome);
}
