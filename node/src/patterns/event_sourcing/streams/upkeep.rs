//! What is done to the streams of this node without being asked.

use std::{sync::Arc, time::Duration};

use weft_protocol::{Subject, Wire as _, patterns::event_sourcing::ANNOUNCEMENT_KEY};

use super::{Consumers, Facts, Streams};
use crate::patterns::event_sourcing::{announcing::announcement, options::StreamError};

/// How often what is not to be kept is let go of; where nobody uses the stream, every so-many-th time, which is every hour.
const RETAIN_EVERY: Duration = Duration::from_secs(15);
const RETAIN_UNUSED: u64 = 240;
/// Changes of what this node keeps that come together are said together.
const GATHER: Duration = Duration::from_millis(50);

impl Streams {
    /// Finishes what was cut off, says what this node keeps, and lets go of what is not to be kept, until the node stops.
    pub(in crate::patterns::event_sourcing) async fn run(self: Arc<Self>) {
        match self.shelf.deleted().await {
            Ok(deleted) => {
                for number in deleted {
                    if let Err(error) = self.sweep(number).await {
                        tracing::warn!(number, %error, "what is left of a deleted stream is not removed");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "it cannot be read which streams were deleted"),
        }
        let (mut retain, mut turn) = (tokio::time::interval(RETAIN_EVERY), 0);
        loop {
            tokio::select! {
                biased;
                () = self.changed.notified() => {
                    tokio::time::sleep(GATHER).await;
                    self.announce().await;
                }
                _ = retain.tick() => {
                    turn += 1;
                    self.retain(turn).await;
                    self.remove_idle_consumers().await;
                }
            }
        }
    }

    async fn announce(&self) {
        let said = announcement(self.names(), &self.takers());
        if self.mesh.announce(ANNOUNCEMENT_KEY, said.to_bytes()).await.is_err() {
            tracing::debug!("not announced: the node is stopping");
        }
    }

    async fn retain(self: &Arc<Self>, turn: u64) {
        let bounded: Vec<Subject> = {
            let (known, open) = (self.known(), self.opened());
            let is_turn = |name: &Subject, facts: &Facts| {
                open.contains_key(name) || facts.number % RETAIN_UNUSED == turn % RETAIN_UNUSED
            };
            known
                .facts
                .iter()
                .filter(|(name, facts)| facts.options.is_bounded() && is_turn(name, facts))
                .filter(|(_, facts)| self.may_retain(facts))
                .map(|(name, _)| name.clone())
                .collect()
        };
        for name in bounded {
            let done = match self.get_kept(&name, &name).await {
                Ok(opened) => opened.stream.retain().await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) | Err(StreamError::NoStream(_) | StreamError::Gone(_)) => {}
                Err(error) => tracing::warn!(stream = %name, %error, "old records of a stream are not removed"),
            }
        }
    }

    async fn remove_idle_consumers(&self) {
        let open: Vec<Arc<Consumers>> = self
            .opened()
            .values()
            .map(|opened| Arc::clone(&opened.consumers))
            .collect();
        for consumers in open {
            consumers.remove_idle().await;
        }
    }
}
