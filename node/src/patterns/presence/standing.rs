//! Who is there, and what follows when that changes. Knows neither time nor network: what records say and whether a node answers is
//! told to it.

use std::collections::BTreeMap;

use weft_protocol::{
    PeerId, Subject,
    patterns::presence::{Presence, Presences, Will},
};

/// What became of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is there.
    Present,
    /// It took its leave.
    Withdrawn,
    /// It is gone without a word.
    Gone,
}

impl Fate {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fate::Present => "present",
            Fate::Withdrawn => "withdrawn",
            Fate::Gone => "gone",
        }
    }
}

/// Something came, or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it is called.
    pub subject: Subject,
    /// At which node.
    pub node: PeerId,
    /// Since when it is, or was, there; by that node's calendar, unix milliseconds.
    pub since_ms: u64,
    /// What became of it.
    pub fate: Fate,
}

/// What is known of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing: nobody here has asked yet.
    Nothing,
    /// It answers.
    Alive,
    /// It does not.
    Gone,
}

#[derive(Debug)]
struct Node {
    known: Known,
    said: Presences,
}

/// What followed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Consequences {
    /// For those who watch.
    pub(super) changes: Vec<Change>,
    /// Of whom, in which run of it, with which number: what is now to be said.
    pub(super) wills: Vec<(PeerId, u64, u64, Will)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Standing {
    nodes: BTreeMap<PeerId, Node>,
}

impl Standing {
    /// Takes over what the records say now, of all nodes.
    pub(super) fn read(&mut self, said: BTreeMap<PeerId, Presences>) -> Consequences {
        let mut found = Consequences::default();
        for (peer, node) in &mut self.nodes {
            // A node that started anew says so, or says nothing.
            let now = said.get(peer);
            let is_same_run = now.is_some_and(|now| now.epoch == node.said.epoch);
            let stays = |presence: &Presence| {
                let mut list = now.filter(|_| is_same_run).into_iter().flat_map(|now| &now.list);
                list.any(|other| other.number == presence.number)
            };
            for presence in node.said.list.iter().filter(|presence| !stays(presence)) {
                if node.known != Known::Alive {
                    continue;
                }
                match now.filter(|_| is_same_run) {
                    // What has a will left had it said by its node.
                    Some(now) => {
                        let is_gone = now.gone.contains(&presence.number);
                        let fate = if is_gone { Fate::Gone } else { Fate::Withdrawn };
                        found.changes.push(change(*peer, presence, fate));
                    }
                    None => found.leave(*peer, node.said.epoch, presence),
                }
            }
        }
        self.nodes.retain(|peer, _| said.contains_key(peer));
        for (peer, now) in said {
            let node = self.nodes.entry(peer).or_insert(Node {
                known: Known::Nothing,
                said: Presences::default(),
            });
            let before = std::mem::replace(&mut node.said, now);
            if node.known == Known::Alive {
                let is_new = |presence: &&Presence| {
                    before.epoch != node.said.epoch || before.list.iter().all(|other| other.number != presence.number)
                };
                for presence in node.said.list.iter().filter(is_new) {
                    found.come(peer, presence);
                }
            }
        }
        found
    }

    /// Takes over whether a node answers.
    pub(super) fn judge(&mut self, peer: &PeerId, is_alive: bool) -> Consequences {
        let mut found = Consequences::default();
        let Some(node) = self.nodes.get_mut(peer) else {
            return found;
        };
        let before = std::mem::replace(&mut node.known, if is_alive { Known::Alive } else { Known::Gone });
        for presence in &node.said.list {
            match (before, is_alive) {
                (Known::Nothing | Known::Gone, true) => found.come(*peer, presence),
                (Known::Alive, false) => found.leave(*peer, node.said.epoch, presence),
                // Whoever asks first about one that is long gone has missed nothing.
                (Known::Alive, true) | (Known::Nothing | Known::Gone, false) => {}
            }
        }
        found
    }

    /// It was alive, is not connected any more, and nobody here cares: nothing is known of it.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        if let Some(node) = self.nodes.get_mut(peer) {
            node.known = Known::Nothing;
        }
    }

    /// The nodes with anything, and what they say is there.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&PeerId, &[Presence])> {
        self.nodes.iter().map(|(peer, node)| (peer, &node.said.list[..]))
    }

    /// Whether a node says anything.
    pub(super) fn is_known(&self, peer: &PeerId) -> bool {
        self.nodes.contains_key(peer)
    }

    /// Whether a node was found to answer; `None` if nobody asked yet.
    pub(super) fn is_alive(&self, peer: &PeerId) -> Option<bool> {
        match self.nodes.get(peer)?.known {
            Known::Nothing => None,
            Known::Alive => Some(true),
            Known::Gone => Some(false),
        }
    }
}

impl Consequences {
    fn come(&mut self, node: PeerId, presence: &Presence) {
        self.changes.push(change(node, presence, Fate::Present));
    }

    /// It is gone without a word.
    fn leave(&mut self, node: PeerId, epoch: u64, presence: &Presence) {
        self.changes.push(change(node, presence, Fate::Gone));
        if let Some(will) = &presence.will {
            self.wills.push((node, epoch, presence.number, will.clone()));
        }
    }
}

/// What those who watch are told.
pub(super) fn change(node: PeerId, presence: &Presence, fate: Fate) -> Change {
    Change {
        subject: presence.subject.clone(),
        node,
        since_ms: presence.since_ms,
        fate,
    }
}
