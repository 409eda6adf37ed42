//! How groups come to be, and how this node comes to belong to them.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use weft_protocol::{
    PeerId,
    consensus::{GroupId, GroupReply, GroupRequest, VoterKey, Voters},
};

use super::{AGREE_WITHIN, Copies, Kept, ask, first_of, of_group, peer_of, voter_of};
use crate::{
    consensus::{self, Voter},
    patterns::event_sourcing::options::StreamError,
    platform::random,
};

/// Groups that a node is in.
const GROUPS_MAX: usize = 64;
/// How long a new group has to find its leader.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);

impl Copies {
    /// A group with so many members: one of this node's, or a new one.
    pub(super) async fn group_for(&self, count: usize, places: &[String]) -> Result<GroupId, StreamError> {
        if !self.has_labels(self.local(), places) {
            return Err(StreamError::Invalid(format!(
                "this node, which would keep a copy, is not labelled {}",
                places.join(", ")
            )));
        }
        let _changing = self.changing.lock().await;
        let fitting = {
            // Whoever holds what is known of streams asks for groups, and never the other way round.
            let groups: Vec<(GroupId, Arc<Kept>)> =
                self.groups().iter().map(|(id, kept)| (*id, Arc::clone(kept))).collect();
            let fits = |(id, kept): &&(GroupId, Arc<Kept>)| {
                let is_placed = self.streams.places_of(*id) == places;
                is_placed && kept.size == count && kept.group.is_seated()
            };
            let fitting = groups.iter().filter(fits);
            // One that this node leads costs no detour.
            let mut fitting: Vec<(bool, GroupId)> = fitting.map(|(id, kept)| (!kept.group.is_leading(), *id)).collect();
            fitting.sort();
            fitting.first().map(|(_, id)| *id)
        };
        match fitting {
            Some(id) => Ok(id),
            None => self.begin(count, places).await,
        }
    }

    async fn begin(&self, count: usize, places: &[String]) -> Result<GroupId, StreamError> {
        if self.groups().len() >= GROUPS_MAX {
            return Err(StreamError::Busy(format!("a node is in at most {GROUPS_MAX} groups")));
        }
        let id = GroupId(u64::from_be_bytes(random(&*self.entropy)));
        let mut peers = self.mesh().peers().ids();
        // Another order for each group, so that they spread over the members.
        let place = |peer: &PeerId| voter_of(peer).map(|voter| u64::from_be_bytes(first_of(voter)) ^ id.0);
        peers.sort_by_key(place);
        let (mut members, mut refused) = (vec![self.local()], Vec::new());
        // Who joins is told with whom. So first it is seen who is there, and whoever is not makes room for the next.
        let mut candidates = peers
            .iter()
            .filter_map(voter_of)
            .filter(|voter| self.has_labels(*voter, places));
        loop {
            while members.len() < count {
                let Some(next) = candidates.next() else {
                    return Err(too_few(count, members.len(), &refused));
                };
                members.push(next);
            }
            let Some((away, reason)) = self.have_joined(id, &members).await else {
                break;
            };
            refused.push(reason);
            members.retain(|member| *member != away);
        }
        let founders = consensus::voters(&members);
        self.streams.put_group(id, founders.clone(), None).await?;
        let kept = self.open(id, founders, count).await.map_err(of_group)?;
        self.groups().insert(id, Arc::clone(&kept));
        kept.group.begin(&members).await.map_err(of_group)?;
        let led = async {
            while kept.group.leader().0.is_none() {
                kept.group.leader_changed(kept.group.leader()).await;
            }
        };
        timeout(BEGIN_WITHIN, led).await.map_err(|_| StreamError::Led(None))?;
        Ok(id)
    }

    /// Asks those other than this node to join; the first that does not, and why.
    async fn have_joined(&self, id: GroupId, members: &[Voter]) -> Option<(Voter, String)> {
        let others = members.iter().filter(|member| **member != self.local());
        for member in others {
            let Some(peer) = peer_of(*member) else { continue };
            let request = GroupRequest::Join(consensus::voters(members));
            let reason = match ask(self.mesh(), peer, id, request, AGREE_WITHIN).await {
                Ok(GroupReply::Joined) => continue,
                Ok(GroupReply::Refused(detail)) => detail,
                Ok(_) => "it answered something else".to_owned(),
                Err(error) => error.to_string(),
            };
            return Some((*member, format!("{peer}: {reason}")));
        }
        None
    }

    pub(super) async fn join(&self, from: Voter, id: GroupId, members: Voters) -> Result<(), StreamError> {
        let has = |voter: Voter| members.0.contains(&VoterKey(voter.0));
        if !has(from) || !has(self.local()) || !matches!(members.0.len(), 3 | 5) {
            return Err(StreamError::Invalid(
                "a group has 3 or 5 members, who asks and who is asked among them".into(),
            ));
        }
        let _changing = self.changing.lock().await;
        if let Ok(kept) = self.kept(id)
            && kept.group.standing().term > 0
        {
            return match kept.founders == members {
                true => Ok(()),
                false => Err(StreamError::Conflict(format!("the group {id} has other members"))),
            };
        }
        if self.groups().len() >= GROUPS_MAX {
            return Err(StreamError::Busy(format!("a node is in at most {GROUPS_MAX} groups")));
        }
        self.streams.put_group(id, members.clone(), None).await?;
        let before = self.groups().remove(&id);
        if let Some(before) = before {
            before.group.stop().await;
        }
        let size = members.0.len();
        let kept = self.open(id, members, size).await.map_err(of_group)?;
        self.groups().insert(id, kept);
        Ok(())
    }

    /// Gets what a group has, to vote in it one day.
    pub(super) async fn enter(&self, from: Voter, id: GroupId, members: Voters, size: u8) -> Result<(), StreamError> {
        let has = |voter: Voter| members.0.contains(&VoterKey(voter.0));
        if !has(from) || !has(self.local()) || !matches!(size, 3 | 5) {
            return Err(StreamError::Invalid(
                "3 or 5 vote in a group, and who asks and who is asked belong to it".into(),
            ));
        }
        let _changing = self.changing.lock().await;
        let known = self.kept(id).ok();
        if known
            .as_ref()
            .is_some_and(|kept| kept.group.seats().voters.contains(&self.local()))
        {
            // What it knows may be of another time; whoever votes has a log that counts.
            return Err(StreamError::Conflict(format!(
                "this node votes in the group {id}, as far as it knows"
            )));
        }
        if known.is_none() && self.groups().len() >= GROUPS_MAX {
            return Err(StreamError::Busy(format!("a node is in at most {GROUPS_MAX} groups")));
        }
        self.streams.put_group(id, members.clone(), Some(size)).await?;
        let kept = match known {
            None => self.open(id, members, size.into()).await.map_err(of_group)?,
            // It has come in before, and goes on where it was.
            Some(kept) => Arc::new(Kept {
                group: Arc::clone(&kept.group),
                keeper: Arc::clone(&kept.keeper),
                founders: members,
                size: size.into(),
                others: Arc::clone(&kept.others),
                fetch: Arc::clone(&kept.fetch),
            }),
        };
        self.groups().insert(id, kept);
        Ok(())
    }
}

fn too_few(count: usize, there: usize, refused: &[String]) -> StreamError {
    let why = match refused {
        [] => String::new(),
        refused => format!(" ({})", refused.join("; ")),
    };
    StreamError::TooFew(format!(
        "{count} copies need {count} members that can be reached, and there are {there}{why}"
    ))
}
