//! Who in the mesh wants what: says it of this node in its record, and reads it in the records of the others.
//!
//! Promises: every subscription is covered by what is said, at the latest [`SAY_EVERY`] after it was made. Does not promise
//! that what others say is fresh: a record takes its time through the mesh, and that of a member that died counts until it
//! expires.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use weft_protocol::{
    PeerId, Subject, Wire as _,
    patterns::pub_sub::interest::{ANNOUNCEMENT_KEY, Interest},
};

use super::hub::Hub;
use crate::trust::Trust;

/// The shortest time between two announcements.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// What each member wants.
pub(super) type All = Arc<[(PeerId, Interest)]>;

/// What the records of the others say, read once for each version of the directory.
#[derive(Debug, Default)]
pub(super) struct Interests {
    read: Mutex<Option<(u64, All)>>,
}

/// A queue group that wants a subject.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    /// The attribute that messages stick by.
    pub(super) key: Option<String>,
    /// The members at which it has subscribers, this node perhaps among them; in order.
    pub(super) members: Vec<PeerId>,
}

/// Who wants a subject.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Audience {
    /// Other members with subscribers of their own; in order.
    pub(super) plain: Arc<[PeerId]>,
    /// Queue groups by name.
    pub(super) groups: BTreeMap<String, Group>,
    /// Other members that want anything that begins with the same token.
    pub(super) near: Vec<PeerId>,
}

impl Interests {
    /// The version of what is known; changes with every record.
    pub(super) fn version(trust: &Trust) -> u64 {
        *trust.watch_records().borrow()
    }

    /// The members that want a subject, as far as is known; without this node.
    pub(super) fn of(&self, trust: &Trust, subject: &Subject) -> Vec<PeerId> {
        let local = trust.local_peer();
        let all = self.all(trust);
        let wanting = all
            .iter()
            .filter(|(peer, interest)| *peer != local && interest.includes(subject));
        wanting
            .map(|(peer, _)| *peer)
            .filter(|peer| trust.is_member(peer))
            .collect()
    }

    /// Who wants a subject, and in which way. `own` is what this node wants.
    pub(super) fn audience(&self, trust: &Trust, own: &Interest, subject: &Subject) -> Audience {
        let local = trust.local_peer();
        let first = subject.tokens().next().unwrap_or_default();
        let (mut found, mut plain) = (Audience::default(), Vec::new());
        let all = self.all(trust);
        let others = all.iter().filter(|(peer, _)| *peer != local && trust.is_member(peer));
        let own = (local, own);
        for (peer, interest) in others.map(|(peer, interest)| (*peer, interest)).chain([own]) {
            if peer != local && interest.0.iter().any(|wanted| wanted.pattern.reaches(first)) {
                found.near.push(peer);
            }
            for wanted in interest.0.iter().filter(|wanted| wanted.pattern.matches(subject)) {
                match &wanted.group {
                    None if peer != local => plain.push(peer),
                    None => {}
                    Some(name) => {
                        let group = found.groups.entry(name.clone()).or_default();
                        group.members.push(peer);
                        group.key = group.key.take().or_else(|| wanted.key.clone());
                    }
                }
            }
        }
        plain.sort_unstable();
        plain.dedup();
        found.plain = plain.into();
        for group in found.groups.values_mut() {
            group.members.sort_unstable();
            group.members.dedup();
        }
        found
    }

    /// The other members at which a queue group has subscribers to a subject.
    pub(super) fn group(&self, trust: &Trust, subject: &Subject, name: &str) -> Vec<PeerId> {
        let all = self.all(trust);
        let is_of = |interest: &Interest| {
            let mut matching = interest.0.iter().filter(|wanted| wanted.pattern.matches(subject));
            matching.any(|wanted| wanted.group.as_deref() == Some(name))
        };
        let members = all
            .iter()
            .filter(|(_, interest)| is_of(interest))
            .map(|(peer, _)| *peer);
        members.filter(|peer| trust.is_member(peer)).collect()
    }

    /// What each of the other members wants.
    pub(super) fn others(&self, trust: &Trust) -> All {
        self.all(trust)
    }

    fn all(&self, trust: &Trust) -> All {
        // The version first: what changes meanwhile is read again next time.
        let version = Self::version(trust);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, all)) = read.as_ref().filter(|(known, _)| *known == version) {
            return Arc::clone(all);
        }
        let said = trust.announcements(ANNOUNCEMENT_KEY).into_iter();
        let understood = said.filter_map(|(peer, bytes)| Some((peer, Interest::from_bytes(&bytes).ok()?)));
        let all: All = understood.collect();
        *read = Some((version, Arc::clone(&all)));
        all
    }
}

/// Says what this node wants whenever that changes, until the node stops.
pub(super) async fn announce(hub: Arc<Hub>) {
    let mut said = Interest::default();
    loop {
        hub.wanted.notified().await;
        let interest = hub.interest();
        if interest == said {
            continue;
        }
        if hub.mesh.announce(ANNOUNCEMENT_KEY, interest.to_bytes()).await.is_err() {
            return;
        }
        said = interest;
        tokio::time::sleep(SAY_EVERY).await;
    }
}
