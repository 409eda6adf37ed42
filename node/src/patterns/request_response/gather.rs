//! One question to every instance of a service, and their answers as they come.
//!
//! It ends when all have answered, when enough have, when nothing came for a while (the stall timer, from the first answer on), when an
//! answer says that it is the last (an empty one, where the caller agrees to that), or at the deadline, whichever is first. Those
//! that have not answered by then are told that nobody waits. Not promised: that instances which come meanwhile are asked.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::Instant};
use weft_protocol::PeerId;

use super::{
    catalogue::Entry,
    handle::{RequestResponseHandle, target, wanted},
    options::{CallAnswer, CallError, CallOptions, DEFAULT_ENDPOINT},
};

/// Instances that are asked at once, and at all.
pub const GATHER_MAX: usize = 512;

/// When to stop gathering.
#[derive(Debug, Clone, Default)]
pub struct GatherOptions {
    /// After so many answers.
    pub answers_max: Option<usize>,
    /// When nothing more came for so long after an answer.
    pub stall: Option<Duration>,
    /// An empty answer means that nothing more is to be waited for; it is not passed on.
    pub ends_at_empty: bool,
}

/// What one instance said.
#[derive(Debug)]
pub struct Gathered {
    /// Its node.
    pub peer: PeerId,
    /// The instance.
    pub instance: String,
    /// Its answer.
    pub answer: Result<CallAnswer, CallError>,
}

impl RequestResponseHandle {
    /// Calls every instance of a service that will do, and gives each answer to `sink` as it comes. How many answered.
    ///
    /// Cancel-safe: those that have not answered are told. The same when nobody reads `sink` any more.
    ///
    /// # Errors
    /// `NoneKnown` when there is no such instance; `Invalid` as for one call. What a single instance does wrong goes to `sink`.
    pub async fn call_all(
        &self,
        service: &str,
        endpoint: &str,
        body: &[u8],
        options: &CallOptions,
        gather: &GatherOptions,
        sink: mpsc::Sender<Gathered>,
    ) -> Result<usize, CallError> {
        let endpoint = if endpoint.is_empty() {
            DEFAULT_ENDPOINT
        } else {
            endpoint
        };
        let wanted = wanted(endpoint, options)?;
        let deadline = Instant::now() + options.timeout;
        let found = self.known(service, &wanted, deadline).await;
        if found.is_empty() {
            return Err(CallError::NoneKnown(target(service, &wanted)));
        }
        let mut asking = FuturesUnordered::new();
        for entry in found.into_iter().take(GATHER_MAX) {
            let one = CallOptions {
                node: Some(entry.peer),
                instance: Some(entry.info.id.clone()),
                hedge_after: None,
                ..options.clone()
            };
            asking.push(self.ask_one_of_all(entry, (service, endpoint), body, one));
        }
        let mut answers = 0;
        let mut stalls_at = None;
        loop {
            let until = stalls_at.unwrap_or(deadline).min(deadline);
            let next = tokio::select! {
                biased;
                next = asking.next() => next,
                () = sink.closed() => None,
                () = tokio::time::sleep_until(until) => None,
            };
            let Some((entry, answer)) = next else {
                return Ok(answers);
            };
            if let Ok(answer) = &answer {
                if gather.ends_at_empty && answer.body.is_empty() {
                    return Ok(answers);
                }
                answers += 1;
                stalls_at = gather.stall.map(|pause| Instant::now() + pause);
            }
            let gathered = Gathered {
                peer: entry.peer,
                instance: entry.info.id.clone(),
                answer,
            };
            let is_enough = gather.answers_max.is_some_and(|most| answers >= most);
            if sink.send(gathered).await.is_err() || is_enough {
                return Ok(answers);
            }
        }
    }

    async fn ask_one_of_all(
        &self,
        entry: Arc<Entry>,
        (service, endpoint): (&str, &str),
        body: &[u8],
        options: CallOptions,
    ) -> (Arc<Entry>, Result<CallAnswer, CallError>) {
        let answer = self.call(service, endpoint, body.to_vec(), options).await;
        (entry, answer)
    }
}
