//! Publish-subscribe: subjects with wildcards, across the mesh.
//!
//! Promises: a message is forwarded only after its signature, its signer's membership and right, its size and its
//! freshness were checked; a subscriber gets what its pattern matches and its node's members may publish, each message
//! once and those of one publisher and first token in their order, also what gossip lost, as long as any member still
//! has it; what cannot be had any more is told as a gap, and so is what it was too slow for; a subscriber that comes back
//! within the replay window gets what it missed while it was away from its node.
//!
//! Does not promise history: frames are kept for minutes, in memory, and bounded. Does not promise an order between
//! subjects whose first tokens differ.
//!
//! What few members want goes to them directly, in frames on a long-lived stream to each. Everything else rides on eight gossip
//! topics, chosen by the subject's first token. Either way it is matched locally.
//!
//! A map: `publisher` puts publications into frames; `ways` says where they go, `pick` to whom in a queue group; `feeds` are the
//! streams to members, `ring` what is on its way on them, `receive` their other end, `direct` and `taken` what comes out there, `late` those who were not known to want it,
//! `report` says who has it; `hub` takes frames in, `parts` are what is in them, judged, `subscribers` are who they are for, found by `trie`, `queue` what waits for one of
//! them, `received` a message as it gets it, `window` the last ones for who comes back; `order` says what is new, next, missing; `cache`
//! keeps frames for others; `digest` compares them; `interest` is who wants what; `repair` fetches what is missing and answers those who
//! fetch; `past` is for subscribers that come late, `pace` for those that want less; `hops` says which way a message went; `positions` is what outlives the process.

mod cache;
mod digest;
mod direct;
mod feeds;
mod handle;
mod hops;
mod hub;
mod interest;
mod late;
mod order;
mod pace;
mod parts;
mod past;
mod pick;
mod positions;
mod priority;
mod publisher;
mod queue;
mod receive;
mod received;
mod repair;
mod report;
mod retained;
mod ring;
pub mod routes;
mod subscribers;
mod taken;
#[cfg(test)]
mod tests;
pub mod traces;
pub mod trie;
mod ways;
mod window;

use std::sync::Arc;

pub use handle::{Delivery, DirectMember, PubSubHandle, PublishError, PublishOptions, Receipt, Received, Subscription};
pub use hops::{HopRecord, Traced};
pub use past::{PAST_MAX, Past};
pub use priority::Priority;
#[cfg(test)]
pub(crate) use received::received;
pub use report::Report;
pub use ring::Outcome;
use tokio::sync::mpsc;
use weft_protocol::patterns::pub_sub::{PATTERN_ID, SHARDS, topic};

use crate::{context::Context, error::NodeError, pattern::Pattern, trust::Standing};

/// The pattern.
#[derive(Debug, Default)]
pub struct PubSub;

impl Pattern for PubSub {
    const ID: &'static str = PATTERN_ID;
    type Handle = PubSubHandle;

    async fn start(self, context: Context) -> Result<Self::Handle, NodeError> {
        let Context {
            mesh,
            doors,
            keyspace,
            tasks,
            clock,
            entropy,
            sharing,
            metrics,
            ..
        } = context;
        let begun = positions::begin(&keyspace, clock.now_unix_ms()).await?;
        let (differing, differ) = mpsc::channel(repair::DIFFERING_MAX);
        let (hops, to_tell) = hops::Hops::new(metrics.dropped().clone());
        let parts = hub::HubParts {
            mesh,
            clock,
            entropy,
            sharing,
            epoch: begun.epoch,
            orders: begun.orders,
            differing,
            hops,
        };
        let hub = Arc::new(hub::Hub::new(parts, &metrics));
        let keeper = retained::Keeper::new(Arc::clone(&hub), keyspace.clone());
        keeper.read().await?;
        tasks.spawn_vital("pub-sub-retained", Arc::clone(&keeper).run());
        hub.mesh.attach_note(PATTERN_ID, &hub);
        let (outbox, outgoing) = publisher::Outbox::new();
        let feeds = feeds::Feeds::new(Arc::clone(&hub), &tasks);
        tasks.spawn_vital("pub-sub", take_in(Arc::clone(&hub)));
        tasks.spawn_vital(
            "pub-sub-publisher",
            publisher::run(Arc::clone(&hub), Arc::clone(&feeds), outgoing),
        );
        tasks.spawn_vital("pub-sub-hops", hops::tell(Arc::clone(&hub), to_tell, tasks.child()));
        tasks.spawn_vital("pub-sub-interest", interest::announce(Arc::clone(&hub)));
        tasks.spawn_vital("pub-sub-positions", positions::keep(Arc::clone(&hub), keyspace));
        repair::Repair::start(Arc::clone(&hub), doors, differ, begun.was_away, &tasks);
        Ok(PubSubHandle::new(hub, feeds, outbox, keeper))
    }
}

/// Messages waiting for validation.
const VALIDATION_QUEUE_MAX: usize = 4096;

/// Takes in the shards as soon as the node belongs to a mesh, until it stops.
async fn take_in(hub: Arc<hub::Hub>) {
    let mut standing = hub.mesh.trust().watch_standing();
    let mesh = match standing
        .wait_for(|s| matches!(s, Standing::Member(_)))
        .await
        .map(|s| s.clone())
    {
        Ok(Standing::Member(mesh)) => mesh,
        _ => return,
    };
    let (sink, mut gossip) = mpsc::channel(VALIDATION_QUEUE_MAX);
    for shard in 0..SHARDS {
        if hub.mesh.subscribe(topic(&mesh.id, shard), sink.clone()).await.is_err() {
            return;
        }
    }
    drop(sink);
    while let Some(message) = gossip.recv().await {
        let signed = (message.sequence_number, &*message.signature);
        let verdict = hub.take_in(message.source, message.from(), &message.data, signed);
        if hub.mesh.validate(&message, verdict).await.is_err() {
            return;
        }
    }
}
