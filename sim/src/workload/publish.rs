//! Messages to all who subscribe.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use weft_node::patterns::pub_sub::{Delivery, Past, PublishError, PublishOptions, Received};
use weft_protocol::{Pattern, Subject};

use super::{KEY, Ledger, key, parse_key};
use crate::{
    fleet::Running,
    network::HostId,
    oracle::{Arrival, Outcome, Read},
};

/// Last values come at once, those that there are.
const LAST_VALUES_TIME: Duration = Duration::from_secs(1);

/// Subscribes a node to the subjects of these workloads, by their numbers, for as long as its process lives.
pub fn subscribe(ledger: &Arc<Ledger>, host: HostId, running: &Running, patterns: &BTreeMap<usize, Pattern>) {
    let Some(pub_sub) = &running.pub_sub else { return };
    for (workload, pattern) in patterns {
        let mut subscription = pub_sub.subscribe(pattern.clone(), None);
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
pub async fn publish(
    ledger: Arc<Ledger>,
    host: HostId,
    running: Running,
    workload: usize,
    subject: Subject,
    retain: bool,
) {
    let Some(pub_sub) = running.pub_sub else { return };
    let item = ledger.oracle().sending(workload, host, running.boot, ledger.now_ns());
    let options = PublishOptions {
        extensions: vec![key(workload, item)],
        retain,
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

/// Asks a node for the last values of all senders of a workload, as who comes late does: what the oracle compares in the end.
pub async fn last_values(ledger: &Ledger, host: HostId, running: &Running, workload: usize, pattern: &Pattern) {
    let Some(pub_sub) = &running.pub_sub else { return };
    let mut subscription = pub_sub.subscribe_with(pattern.clone(), Past::LastOfEach).await;
    let mut items = BTreeMap::new();
    while let Ok(Some(delivery)) = tokio::time::timeout(LAST_VALUES_TIME, subscription.next()).await {
        let Delivery::Message(received) = delivery else {
            continue;
        };
        let key = received.attributes().extension(KEY).and_then(parse_key);
        let item = key.filter(|(of, item)| *of == workload && received.data() == ledger.body(workload, *item));
        let sender = ledger.host(&received.publisher()).unwrap_or(HostId::MAX);
        items.insert(u64::from(sender), item.map(|(_, item)| item));
    }
    let read = Read {
        node: host,
        is_whole: true,
        items,
    };
    ledger.oracle().read(workload, read);
}
