//! What the clients of this door listen to, said to the mesh, and what those of other doors listen to.
//!
//! Interest travels in the node's own signed record, like its services: it is known a moment after a subscription, everywhere, also in a
//! partition. Inboxes are not told: answers have a way of their own. A door with more interest than fits says so, and counts as interested
//! in everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use tokio::sync::{Notify, watch};
use weft_protocol::{
    PeerId, Subject, Wire as _,
    limits::{NATS_INTEREST_BYTES_MAX, NATS_INTERESTS_MAX},
    patterns::nats::{ANNOUNCEMENT_KEY, NatsInterest, NatsInterests},
};

use super::router::Sub;
use crate::mesh::Mesh;

/// Where clients' libraries have their inboxes.
const INBOX: &str = "_INBOX";
/// Addresses that clients are told of.
const ADDRESSES_MAX: usize = 64;

/// A queue group and a pattern.
type Kind = (Option<Box<str>>, Box<str>);

/// How many subscriptions there are of each kind.
#[derive(Default)]
pub(super) struct Interests {
    counts: Mutex<BTreeMap<Kind, usize>>,
    pub(super) changed: Notify,
}

fn key(sub: &Sub) -> Option<Kind> {
    let pattern = sub.pattern.as_str();
    let first = pattern.split('.').next().unwrap_or_default();
    (first != INBOX).then(|| (sub.queue.clone(), pattern.into()))
}

impl Interests {
    /// One more.
    pub(super) fn add(&self, sub: &Sub) {
        let Some(key) = key(sub) else { return };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key).or_default();
        *count += 1;
        if *count == 1 {
            self.changed.notify_one();
        }
    }

    /// One less.
    pub(super) fn remove(&self, sub: &Sub) {
        let Some(key) = key(sub) else { return };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&key);
                self.changed.notify_one();
            }
        }
    }

    /// Whether anybody listens to what may come from the mesh.
    pub(super) fn is_empty(&self) -> bool {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// What to announce of a door that others may know by `address`: groups last in the order, first in the list, for only they need to
    /// be known exactly.
    pub(super) fn summary(&self, address: Option<&str>) -> NatsInterests {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = NatsInterests {
            address: address.map(ToOwned::to_owned),
            ..NatsInterests::default()
        };
        // The frame of each: three bytes for a text, one for a pair.
        let mut left = NATS_INTEREST_BYTES_MAX - 16 - address.map_or(0, str::len);
        for (group, pattern) in counts.keys().rev() {
            let cost = 8 + pattern.len() + group.as_ref().map_or(0, |g| g.len());
            let Ok(pattern) = pattern.parse() else { continue };
            if cost > left || found.list.len() >= NATS_INTERESTS_MAX {
                found.more = true;
                break;
            }
            left -= cost;
            let group = group.as_deref().map(ToOwned::to_owned);
            found.list.push(NatsInterest { pattern, group });
        }
        found
    }

    /// The literal subjects with a queue group, which can be called as services.
    pub(super) fn group_subjects(&self) -> Vec<Subject> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<Subject> = counts
            .keys()
            .filter(|(group, _)| group.is_some())
            .filter_map(|(_, pattern)| pattern.parse().ok())
            .collect();
        found.sort();
        found.dedup();
        found
    }
}

/// What is known of other doors.
pub(super) struct Elsewhere {
    mesh: Mesh,
    records: watch::Receiver<u64>,
    known: RwLock<(u64, Known)>,
}

type Known = Arc<Vec<(PeerId, NatsInterests)>>;

/// Who listens elsewhere to one subject.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listeners {
    /// Nodes with plain subscriptions.
    pub(super) plain: Vec<PeerId>,
    /// Nodes with members of each group.
    pub(super) groups: BTreeMap<String, Vec<PeerId>>,
}

impl Elsewhere {
    pub(super) fn new(mesh: Mesh) -> Self {
        let records = mesh.trust().watch_records();
        Elsewhere {
            mesh,
            records,
            // No version of the records.
            known: RwLock::new((u64::MAX, Known::default())),
        }
    }

    /// Follows what others announce.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.mesh.trust().watch_records()
    }

    fn known(&self) -> Known {
        let version = *self.records.borrow();
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if known.0 == version {
                return Arc::clone(&known.1);
            }
        }
        let local = self.mesh.local_peer();
        let all = self.mesh.trust().announcements(ANNOUNCEMENT_KEY);
        let fresh: Known = Arc::new(
            all.into_iter()
                .filter(|(peer, _)| *peer != local)
                .filter_map(|(peer, bytes)| Some((peer, NatsInterests::from_bytes(&bytes).ok()?)))
                .filter(|(_, interests)| interests.more || !interests.list.is_empty())
                .collect(),
        );
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = (version, Arc::clone(&fresh));
        fresh
    }

    /// Where other doors can be reached by whoever is at this one, this one's `own` address first. None when this one has none.
    pub(super) fn addresses(&self, own: Option<&str>) -> Vec<String> {
        let Some(own) = own else {
            return Vec::new();
        };
        let trust = self.mesh.trust();
        // Clients take their credentials along: to nobody who was shown the door.
        let theirs = trust
            .announcements(ANNOUNCEMENT_KEY)
            .into_iter()
            .filter(|(peer, _)| trust.is_member(peer))
            .filter_map(|(_, bytes)| NatsInterests::from_bytes(&bytes).ok()?.address);
        let theirs: BTreeSet<String> = theirs.filter(|address| address != own).collect();
        std::iter::once(own.to_owned())
            .chain(theirs)
            .take(ADDRESSES_MAX)
            .collect()
    }

    /// Who listens to a subject.
    pub(super) fn listeners(&self, subject: &Subject) -> Listeners {
        listeners(&self.known(), subject)
    }

    /// Of these nodes the one to choose: connected, near, and not always the same.
    pub(super) fn choose(&self, nodes: &[PeerId], turn: usize) -> Option<PeerId> {
        let connected: Vec<PeerId> = nodes
            .iter()
            .copied()
            .filter(|p| self.mesh.peers().contains(p))
            .collect();
        let list = if connected.is_empty() { nodes } else { &connected };
        list.get(turn % list.len().max(1)).copied()
    }
}

fn listeners(known: &[(PeerId, NatsInterests)], subject: &Subject) -> Listeners {
    let mut found = Listeners::default();
    for (peer, interests) in known {
        let mut is_plain = interests.more;
        for interest in interests.list.iter().filter(|i| i.pattern.matches(subject)) {
            match &interest.group {
                None => is_plain = true,
                Some(group) => {
                    let nodes = found.groups.entry(group.clone()).or_default();
                    if nodes.last() != Some(peer) {
                        nodes.push(*peer);
                    }
                }
            }
        }
        if is_plain {
            found.plain.push(*peer);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::outbox::Outbox;

    fn sub(pattern: &str, queue: Option<&str>) -> Arc<Sub> {
        Sub::new(Outbox::for_tests(), b"1", pattern.parse().unwrap(), queue)
    }

    #[test]
    fn interest_is_counted_and_inboxes_are_nobodys_business() {
        let interests = Interests::default();
        let subs = [
            sub("a.*", None),
            sub("a.*", None),
            sub("greet", Some("q")),
            sub("greet.ann", Some("q")),
            sub("x.>", Some("q")),
            sub("_INBOX.x.*", None),
        ];
        subs.iter().for_each(|s| interests.add(s));
        let summary = interests.summary(None);
        assert_eq!(summary.list.len(), 4);
        assert!(!summary.more && summary.list[0].group.is_some());
        let subjects: Vec<String> = interests.group_subjects().iter().map(ToString::to_string).collect();
        assert_eq!(subjects, ["greet", "greet.ann"]);
        subs.iter().for_each(|s| interests.remove(s));
        assert!(interests.is_empty() && interests.summary(None) == NatsInterests::default());
    }

    #[test]
    fn any_number_of_subscriptions_can_be_announced() {
        let interests = Interests::default();
        for n in 0..1000 {
            let long = "x".repeat(n % 200);
            interests.add(&sub(&format!("s{n}{long}.*"), (n % 3 == 0).then_some("workers")));
        }
        let summary = interests.summary(None);
        assert!(summary.more);
        summary.to_checked_bytes().unwrap();
    }

    #[test]
    fn listeners_are_found_by_subject_and_group() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let interest = |pattern: &str, group: Option<&str>| NatsInterest {
            pattern: pattern.parse().unwrap(),
            group: group.map(Into::into),
        };
        let of = |list: Vec<NatsInterest>, more| NatsInterests {
            list,
            more,
            address: None,
        };
        let known = [
            (
                a,
                of(
                    vec![
                        interest("a.*", None),
                        interest("a.b", Some("q")),
                        interest("a.>", Some("q")),
                    ],
                    false,
                ),
            ),
            (b, of(vec![interest("a.b", Some("q"))], true)),
        ];
        let found = listeners(&known, &"a.b".parse().unwrap());
        assert_eq!(found.plain, [a, b]);
        assert_eq!(found.groups["q"], [a, b]);
        assert_eq!(listeners(&known[..1], &"c".parse().unwrap()), Listeners::default());
    }
}
