//! Which way a publication goes: directly to the members that want it, or by gossip.
//!
//! Directly, when those that want anything with the same first token are few and all have streams; so what one publisher says under a
//! first token has one way at a time, and keeps its order. When the way changes, what went the old way is waited for. A member that
//! has no stream for a moment is waited for as well.
//!
//! Also who takes it in each queue group.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use weft_protocol::{
    PeerId, Subject,
    limits::PICKS_MAX,
    patterns::pub_sub::{Attributes, Pick, Picks},
};

use super::{
    feeds::Feeds,
    hub::Hub,
    interest::{Audience, Group},
    pick,
    publisher::{FRAME_BYTES_SOFT, OwnRun},
    retained::is_retained,
};
use crate::platform::random;

/// What a pick takes besides the name of its group.
const PICK_BYTES: usize = 40;
/// Subjects whose audience is remembered.
const SUBJECTS_MAX: usize = 4096;
/// First tokens whose last way is remembered.
const TOKENS_MAX: usize = 4096;

/// The way of one publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// By gossip, to everybody.
    Gossip,
    /// Directly to these, in order.
    Direct(Arc<[PeerId]>),
}

impl Way {
    pub(super) fn is_direct(&self) -> bool {
        matches!(self, Way::Direct(_))
    }
}

/// Who wants a subject.
struct Known {
    audience: Audience,
    is_direct: bool,
    /// The turn of the members of its groups. Of each subject its own: with one for all, those that take turns with each other in what is
    /// published would always meet the same member.
    turn: AtomicUsize,
}

/// See the module.
pub(super) struct Ways {
    hub: Arc<Hub>,
    feeds: Arc<Feeds>,
    /// What follows is true of this version of what is known.
    version: (u64, u64, u64),
    audiences: HashMap<Subject, Arc<Known>>,
    /// The last subject, and who wants it: the next one is often the same.
    last: Option<(Subject, Arc<Known>)>,
    /// Whether the last publication under a first token went directly.
    tokens: BTreeMap<String, bool>,
    /// First tokens under which something was retained: that goes to everybody, and so does the rest, in its order.
    retained: BTreeSet<String>,
}

impl Ways {
    pub(super) fn new(hub: Arc<Hub>, feeds: Arc<Feeds>) -> Self {
        Ways {
            hub,
            feeds,
            version: (u64::MAX, 0, 0),
            audiences: HashMap::new(),
            last: None,
            tokens: BTreeMap::new(),
            retained: BTreeSet::new(),
        }
    }

    /// The version of what is known. To be looked at once for many publications.
    pub(super) fn refresh(&mut self) {
        let (own, records) = self.hub.wanted_version();
        let version = (own, records, self.feeds.version());
        if self.version != version {
            self.version = version;
            self.audiences.clear();
            self.last = None;
        }
    }

    /// The way of publications on one subject, which goes to all whom any of them is for. Notes in them who is to take them.
    pub(super) fn choose(&mut self, run: OwnRun) -> (Vec<OwnRun>, Way) {
        if is_retained(&run.attributes) {
            self.note_retained(&run.attributes.subject);
        }
        let known = self.audience(&run.attributes.subject);
        let audience = &known.audience;
        let (runs, picked) = self.deal(run, &known);
        if !known.is_direct {
            return (runs, Way::Gossip);
        }
        if picked.is_empty() {
            return (runs, Way::Direct(Arc::clone(&audience.plain)));
        }
        let local = self.hub.mesh.local_peer();
        let mut members: Vec<PeerId> = audience.plain.iter().copied().chain(picked).collect();
        members.retain(|peer| *peer != local);
        members.sort_unstable();
        members.dedup();
        (runs, Way::Direct(members.into()))
    }

    fn note_retained(&mut self, subject: &Subject) {
        let first = subject.tokens().next().unwrap_or_default();
        if self.retained.contains(first) {
            return;
        }
        if self.retained.len() >= TOKENS_MAX {
            self.retained.clear();
        }
        self.retained.insert(first.to_owned());
        self.audiences.clear();
        self.last = None;
    }

    /// Deals publications out to the members of each queue group, in stretches of about the same length. All who got any.
    fn deal(&self, mut run: OwnRun, known: &Known) -> (Vec<OwnRun>, Vec<PeerId>) {
        let (local, peers) = (self.hub.mesh.local_peer(), self.hub.mesh.peers());
        let is_there = |peer: &PeerId| *peer == local || peers.contains(peer);
        let there = |group: &Group| {
            let there: Vec<PeerId> = group.members.iter().copied().filter(is_there).collect();
            if there.is_empty() { group.members.clone() } else { there }
        };
        let groups = known.audience.groups.iter().take(PICKS_MAX);
        let groups: Vec<_> = groups
            .map(|(name, group)| (name, group.key.as_deref(), there(group)))
            .collect();
        let hands = groups.iter().filter(|(_, key, _)| key.is_none());
        let hands = hands.map(|(_, _, there)| there.len()).max().unwrap_or(1);
        // Each stretch says its attributes again: together no more than a frame's worth of them.
        let picks_bytes = groups.iter().map(|(name, ..)| name.len() + PICK_BYTES).sum::<usize>();
        let most = FRAME_BYTES_SOFT / (run.attributes.bytes() + picks_bytes);
        let each = run.data.len().div_ceil(hands.min(most).max(1)).max(1);
        let (mut runs, mut picked) = (Vec::with_capacity(1), Vec::new());
        loop {
            let rest = run.data.split_off(each.min(run.data.len()));
            if !groups.is_empty() {
                let turn = known.turn.fetch_add(1, Ordering::Relaxed);
                let picks = pick_of_each(&groups, &run.attributes, turn);
                picked.extend(picks.iter().map(|(_, member)| *member));
                let picks = picks
                    .into_iter()
                    .filter_map(|(group, member)| Pick::new(group, &member));
                run.attributes.picks = Some(Picks(picks.collect()));
            }
            if rest.is_empty() {
                runs.push(run);
                return (runs, picked);
            }
            let attributes = run.attributes.clone();
            runs.push(std::mem::replace(&mut run, OwnRun { attributes, data: rest }));
        }
    }

    fn audience(&mut self, subject: &Subject) -> Arc<Known> {
        if let Some((last, audience)) = &self.last
            && last == subject
        {
            return Arc::clone(audience);
        }
        let audience = match self.audiences.get(subject) {
            Some(audience) => Arc::clone(audience),
            None => {
                let mut audience = self.hub.audience(subject);
                let first = subject.tokens().next().unwrap_or_default();
                let was_direct = self.tokens.get(first).copied().unwrap_or(false);
                let is_direct = !audience.near.is_empty()
                    && !self.retained.contains(first)
                    && (self.feeds.are_open(&audience.near) || was_direct && self.feeds.are_expected(&audience.near));
                if !is_direct {
                    // Gossip asks nobody who wants it.
                    audience.plain = Arc::default();
                }
                let turn = u32::from_be_bytes(random(&*self.hub.entropy)) as usize;
                let audience = Arc::new(Known {
                    audience,
                    is_direct,
                    turn: AtomicUsize::new(turn),
                });
                if self.audiences.len() >= SUBJECTS_MAX {
                    self.audiences.clear();
                }
                self.audiences.insert(subject.clone(), Arc::clone(&audience));
                audience
            }
        };
        self.last = Some((subject.clone(), Arc::clone(&audience)));
        audience
    }

    /// Notes the way that a publication under a first token is about to go. Whether the one before went another way.
    pub(super) fn changes(&mut self, first: &str, is_direct: bool) -> bool {
        if let Some(was_direct) = self.tokens.get_mut(first) {
            return std::mem::replace(was_direct, is_direct) != is_direct;
        }
        // Of what is not remembered it is only known that it may have gone by gossip.
        let was_full = self.tokens.len() >= TOKENS_MAX;
        if was_full {
            self.tokens.clear();
        }
        self.tokens.insert(first.to_owned(), is_direct);
        was_full && is_direct
    }

    /// The members that anything under the first token of a subject goes to.
    pub(super) fn near(&mut self, subject: &Subject) -> Vec<PeerId> {
        self.audience(subject).audience.near.clone()
    }
}

/// A member of each group: by the group's key, or whose turn it is.
fn pick_of_each(
    groups: &[(&String, Option<&str>, Vec<PeerId>)],
    attributes: &Attributes,
    turn: usize,
) -> Vec<(String, PeerId)> {
    let pick = |(name, key, there): &(&String, Option<&str>, Vec<PeerId>)| {
        let place = match key {
            Some(key) => {
                let key = attributes.extension(key).unwrap_or_default();
                pick::spread(key, there.iter().map(|peer| peer.to_bytes()))
            }
            None => turn % there.len().max(1),
        };
        there.get(place).map(|member| ((*name).clone(), *member))
    };
    groups.iter().filter_map(pick).collect()
}
