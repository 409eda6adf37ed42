//! Nodes that ask to be let in and wait for somebody's word.

use tokio::sync::watch;
use weft_protocol::{Chain, PeerId, PublicKey};

use super::{IssueOptions, Trust};
use crate::error::NodeError;

/// Nodes waiting at once; beyond it a newcomer is told to come back.
pub(crate) const PENDING_MAX: usize = 256;

/// A node that waits.
#[derive(Debug, Clone)]
pub struct PendingMember {
    /// Proven by the connection.
    pub peer: PeerId,
    /// What it calls itself.
    pub name: String,
    /// Its software.
    pub agent: String,
    /// Where it came from.
    pub address: String,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
}

pub(super) struct Waiting {
    member: PendingMember,
    decision: watch::Sender<Option<Chain>>,
}

impl Trust {
    /// Notes that a node waits; the receiver gets its certificate when somebody approves.
    ///
    /// # Errors
    /// `Busy` when [`PENDING_MAX`] wait already.
    pub(crate) fn wait_for_approval(&self, member: PendingMember) -> Result<watch::Receiver<Option<Chain>>, NodeError> {
        let mut state = self.state();
        if let Some(waiting) = state.pending.get_mut(&member.peer) {
            waiting.member = PendingMember {
                since_ms: waiting.member.since_ms,
                ..member
            };
            return Ok(waiting.decision.subscribe());
        }
        if state.pending.len() >= PENDING_MAX {
            // Those whose connection is gone make room.
            state.pending.retain(|_, w| w.decision.receiver_count() > 0);
        }
        if state.pending.len() >= PENDING_MAX {
            return Err(NodeError::busy("too many nodes wait for approval"));
        }
        let decision = watch::Sender::new(None);
        let receiver = decision.subscribe();
        tracing::info!(peer = %member.peer, name = %member.name, "a node asks to join: `weft member ls --pending`");
        state.pending.insert(member.peer, Waiting { member, decision });
        Ok(receiver)
    }

    /// The nodes that wait, oldest first.
    pub fn pending(&self) -> Vec<PendingMember> {
        let mut all: Vec<PendingMember> = self.state().pending.values().map(|w| w.member.clone()).collect();
        all.sort_by_key(|p| (p.since_ms, p.peer));
        all
    }

    /// Lets a waiting node in.
    ///
    /// # Errors
    /// `NotFound` when it does not wait here; `Denied` when this node may not admit it so.
    pub fn approve(&self, peer: &PeerId, options: &IssueOptions) -> Result<PendingMember, NodeError> {
        let member = self.state().pending.get(peer).map(|w| w.member.clone());
        let member = member.ok_or_else(|| {
            NodeError::not_found(format!("{peer} does not wait at this node"))
                .with_hint("`weft member ls --pending` shows who does")
        })?;
        let key = PublicKey::from_peer_id(peer).ok_or_else(|| NodeError::invalid("not an Ed25519 peer id"))?;
        let chain = self.issue(key, &member.name, options)?;
        if let Some(waiting) = self.state().pending.remove(peer) {
            waiting.decision.send_replace(Some(chain.clone()));
        }
        // Should its connection be gone by now, it finds its certificate when it asks again.
        self.state().adopted.insert(key, chain);
        Ok(member)
    }

    /// The certificate that waits for a node which asked before.
    pub(crate) fn approved(&self, peer: &PeerId) -> Option<Chain> {
        let key = PublicKey::from_peer_id(peer)?;
        let state = self.state();
        if state.is_revoked(&key) {
            return None;
        }
        state.adopted.get(&key).cloned()
    }
}
