//! What applications ask of presence.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weft_protocol::{
    Pattern, PeerId, Subject, Wire as _,
    limits::PRESENCES_MAX,
    patterns::presence::{Presence, Presences, Will},
};

use super::{
    standing::{Change, Fate},
    watch::Inner,
};
use crate::{
    error::{ErrorKind, Kind},
    patterns::pub_sub::PublishOptions,
};

/// Those that went without a word are told apart from those that were withdrawn, so many of the last ones.
const GONE_MAX: usize = 32;

/// Why something cannot be declared.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PresenceError {
    /// It exceeds a limit.
    #[error("{0}")]
    Invalid(String),
    /// There is no room for more on this node.
    #[error("{0}")]
    Full(String),
}

impl Kind for PresenceError {
    fn kind(&self) -> ErrorKind {
        match self {
            PresenceError::Invalid(_) => ErrorKind::Invalid,
            PresenceError::Full(_) => ErrorKind::Busy,
        }
    }
}

/// Something that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// What it is called.
    pub subject: Subject,
    /// At which node.
    pub node: PeerId,
    /// Since when, by that node's calendar, unix milliseconds.
    pub since_ms: u64,
    /// Whether something is said when it is gone without a word.
    pub has_will: bool,
}

/// What applications use.
#[derive(Clone)]
pub struct PresenceHandle {
    inner: Arc<Inner>,
}

impl PresenceHandle {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        PresenceHandle { inner }
    }

    /// Says that something is there, for as long as what is returned is kept. If the node goes without a word, `will` is given to the
    /// subscribers of its subject.
    ///
    /// # Errors
    /// `Invalid` when the will is too large; `Full` when there is no room for more on this node: all that it declares stands in its record, in 8 KiB.
    pub fn declare(&self, subject: Subject, will: Option<Will>) -> Result<Declared, PresenceError> {
        let mut state = self.inner.lock();
        let number = state.next_number;
        let presence = Presence {
            subject,
            number,
            since_ms: self.inner.clock.now_unix_ms(),
            will,
        };
        let alone = Presences {
            epoch: state.own.epoch,
            list: vec![presence.clone()],
            gone: Vec::new(),
        };
        if let Err(error) = alone.to_checked_bytes() {
            return Err(PresenceError::Invalid(error.to_string()));
        }
        state.own.list.push(presence.clone());
        if let Err(error) = state.own.to_checked_bytes() {
            state.own.list.pop();
            return Err(PresenceError::Full(format!(
                "this node has no room for more presences ({PRESENCES_MAX} at most, with their wills 8 KiB): {error}"
            )));
        }
        state.next_number += 1;
        let withdrawn = CancellationToken::new();
        state.withdrawals.insert(number, withdrawn.clone());
        self.inner.tell_own(&mut state, &presence, Fate::Present);
        drop(state);
        self.inner.changed.notify_one();
        Ok(Declared {
            inner: Arc::clone(&self.inner),
            presence,
            withdrawn,
            is_over: false,
        })
    }

    /// Withdraws something by its number, whoever has declared it. Says whether it was there.
    pub fn withdraw(&self, subject: &Subject, number: u64) -> bool {
        let state = self.inner.lock();
        let is_it = |presence: &Presence| presence.number == number && presence.subject == *subject;
        let withdrawn = state
            .withdrawals
            .get(&number)
            .filter(|_| state.own.list.iter().any(is_it));
        withdrawn.inspect(|withdrawn| withdrawn.cancel()).is_some()
    }

    /// Whoever declared it has gone without a word. With the node everything goes: then the others notice, and say it.
    pub(super) fn let_go(&self, mut declared: Declared) {
        let tasks = &self.inner.tasks;
        if tasks.cancelled().now_or_never().is_some() {
            declared.is_over = true;
            return;
        }
        tasks.spawn("presence-will", declared.is_gone());
    }

    /// What is there now, in the order of subjects. Nodes that are not connected are asked, which takes three seconds if they do not answer.
    pub async fn present(&self, pattern: &Pattern) -> Vec<Present> {
        self.inner.present(pattern).await
    }

    /// What is there, and from then on what comes and goes.
    pub fn watch(&self, pattern: Pattern) -> Watching {
        Watching {
            changes: self.inner.watch(pattern),
        }
    }
}

/// Something that is there. Dropping it withdraws it.
pub struct Declared {
    inner: Arc<Inner>,
    presence: Presence,
    withdrawn: CancellationToken,
    is_over: bool,
}

impl Declared {
    /// Tells it from the node's others.
    pub fn number(&self) -> u64 {
        self.presence.number
    }

    /// When somebody has withdrawn it by its number. It is still to be dropped.
    pub async fn withdrawn(&self) {
        self.withdrawn.cancelled().await;
    }

    /// It takes its leave: its will is not said. Dropping it does the same.
    pub fn withdraw(mut self) {
        self.end(Fate::Withdrawn);
    }

    /// It is gone without a word: this node publishes its will.
    pub async fn is_gone(mut self) {
        self.end(Fate::Gone);
        let Some(will) = self.presence.will.take() else {
            return;
        };
        let options = PublishOptions {
            content_type: will.datacontenttype,
            ..PublishOptions::default()
        };
        let said = self
            .inner
            .messages
            .publish(&will.subject, Bytes::from(will.data), options);
        if let Err(error) = said.await {
            tracing::warn!(%error, subject = will.subject.as_str(), "a will could not be published");
        }
    }

    fn end(&mut self, fate: Fate) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let mut state = self.inner.lock();
        state.own.list.retain(|other| other.number != self.presence.number);
        state.withdrawals.remove(&self.presence.number);
        if fate == Fate::Gone {
            let excess = (state.own.gone.len() + 1).saturating_sub(GONE_MAX);
            state.own.gone.drain(..excess);
            state.own.gone.push(self.presence.number);
        }
        self.inner.tell_own(&mut state, &self.presence, fate);
        drop(state);
        self.inner.changed.notify_one();
    }
}

impl Drop for Declared {
    fn drop(&mut self) {
        self.end(Fate::Withdrawn);
    }
}

/// What comes and goes.
pub struct Watching {
    changes: mpsc::Receiver<Change>,
}

impl Watching {
    /// The next change; first what is there already. Nothing more when the node stops, or when changes came faster than they were taken.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Change> {
        self.changes.recv().await
    }
}
