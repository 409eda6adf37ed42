//! Takes in what other members hand to this node directly.
//!
//! Promises: what is taken in is said so only after it was handed to the subscribers here; while one of them has no room the
//! publisher waits, at most [`PATIENCE`] for one that does not read.

use std::{sync::Arc, time::Duration};

use futures::{AsyncReadExt as _, io::BufReader};
use tokio::time::{Instant, timeout_at};
use weft_protocol::{
    PeerId,
    limits::FRAME_PUBLICATIONS_MAX,
    patterns::pub_sub::direct::{DirectItem, DirectTaken},
};

use super::hub::Hub;
use crate::mesh::{self, FrameError, InboundStream};

/// How long a subscriber that does not read holds up those who publish to it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether messages that wait for subscribers became fewer bytes.
const LOOK: Duration = Duration::from_millis(2);
const BUFFER_BYTES: usize = 128 << 10;
/// Bytes that are taken in before it is said, when more comes without a pause.
const SAY_AFTER_BYTES: usize = 512 << 10;

/// Takes in one publisher's stream until it ends.
pub(super) async fn run(hub: Arc<Hub>, mut inbound: Box<InboundStream>) {
    let peer = inbound.peer;
    if let Err(error) = take_in(&hub, peer, &mut inbound).await {
        tracing::debug!(%peer, %error, "a member's stream of publications ended");
    }
}

async fn take_in(hub: &Hub, peer: PeerId, inbound: &mut InboundStream) -> Result<(), FrameError> {
    let (read, mut write) = (&mut inbound.stream).split();
    let mut read = BufReader::with_capacity(BUFFER_BYTES, read);
    let mut unsaid_bytes = 0;
    while let Some(item) = mesh::read::<DirectItem>(&mut read).await? {
        let ordinal = match item {
            DirectItem::Frame { ordinal, data } => {
                unsaid_bytes += data.len();
                hub.take_direct(peer, data)?;
                make_room(hub).await;
                ordinal
            }
            DirectItem::Lost {
                ordinal,
                shard,
                first_seq,
                last_seq,
            } => {
                hub.take_loss(peer, shard, (first_seq, last_seq));
                ordinal
            }
        };
        if read.buffer().is_empty() || unsaid_bytes >= SAY_AFTER_BYTES {
            mesh::write(&mut write, &DirectTaken { ordinal }).await?;
            unsaid_bytes = 0;
        }
    }
    Ok(())
}

/// Waits until the subscribers that got something have room for as much again.
async fn make_room(hub: &Hub) {
    let until = Instant::now() + PATIENCE;
    for (id, sink) in hub.take_tight() {
        if timeout_at(until, sink.wait_for_room(FRAME_PUBLICATIONS_MAX))
            .await
            .is_err()
        {
            hub.give_up_on(id);
        }
    }
    while hub.is_heavy() && Instant::now() < until {
        tokio::time::sleep(LOOK).await;
    }
}
