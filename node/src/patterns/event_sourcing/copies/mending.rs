//! Whose place in a group is given to whom.
//!
//! The leader looks once in a while who has not been heard of for so long that it is taken for lost, and has somebody else get its copy: first as one who
//! listens, with a vote when it has everything. Each step is decided upon what the group has agreed about its members, and nothing else is kept: so whoever
//! leads next goes on with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use weft_protocol::{
    PeerId,
    consensus::{GroupId, GroupReply, GroupRequest, VoterKey},
};

use super::{AGREE_WITHIN, Copies, Kept, ask, of_group, peer_of, voter_of};
use crate::{
    consensus::{self, Seats, Voter},
    patterns::event_sourcing::options::StreamError,
};

/// How long a member is away until somebody else gets its copy.
const LOST_AFTER: Duration = Duration::from_secs(600);
/// The same for one that says that it keeps nothing of the group.
const STRANGER_AFTER: Duration = Duration::from_secs(5);
/// How long one who was asked to listen may be silent.
const LISTENER_AFTER: Duration = Duration::from_secs(60);
/// Who was heard so lately is there.
const THERE: Duration = Duration::from_secs(5);
/// How long somebody who did not want to is not asked again.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// So few entries lacks who gets a vote.
const NEAR: u64 = 1000;

/// What is known of the others in a group, besides what they agree upon.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// Who says that it keeps nothing of the group, and since when.
    strangers: BTreeMap<Voter, Instant>,
    /// Who says that this node belongs to it no more.
    removed_by: BTreeSet<Voter>,
    /// When this node was connected with a member, last.
    connected: BTreeMap<Voter, Instant>,
    /// Who did not want to listen, and when.
    refused: BTreeMap<Voter, Instant>,
    /// Since when somebody listens, as far as this leader knows.
    listening: BTreeMap<Voter, Instant>,
    /// In which term this member leads, and since when.
    leading: Option<(u64, Instant)>,
    /// Whose place somebody wants to be given away, and to whom.
    asked: Option<(Voter, Option<Voter>)>,
}

/// Behind a lock that nobody holds for long.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<Others>);

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Others> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a member answered says something of it and of this one.
    pub(super) fn heard(&self, from: Voter, reply: &GroupReply) {
        let mut others = self.lock();
        match reply {
            GroupReply::Stranger => {
                others.strangers.entry(from).or_insert_with(Instant::now);
            }
            GroupReply::Removed => {
                others.removed_by.insert(from);
            }
            _ => {
                others.strangers.remove(&from);
                others.removed_by.remove(&from);
            }
        }
    }
}

/// What there is to decide upon.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// How many are to vote.
    size: usize,
    voters: BTreeSet<Voter>,
    /// Who listens, how many entries it lacks, and whether it is silent.
    listener: Option<(Voter, Option<u64>, bool)>,
    is_between: bool,
    /// Who is taken for lost.
    lost: Vec<Voter>,
    /// Whether all that vote are there.
    is_whole: bool,
    /// Who of them can be reached all the same, because it has another disk.
    blank: BTreeSet<Voter>,
    /// Whose place is to be given away, and to whom.
    asked: Option<(Voter, Option<Voter>)>,
    /// Who could get a copy.
    candidates: Vec<Voter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Nothing,
    /// Have somebody listen.
    Invite(Voter),
    /// Have these vote.
    Seat(BTreeSet<Voter>),
    /// Let go of somebody who listens.
    Dismiss(Voter),
}

/// The next step to a group of `size` that vote, none of them lost.
fn next_step(seen: &Seen) -> Step {
    if seen.is_between {
        // Whoever began this does not lead any more.
        return Step::Seat(seen.voters.clone());
    }
    let asked = seen.asked.filter(|(member, _)| seen.voters.contains(member));
    let is_minority = seen.lost.len() * 2 < seen.voters.len();
    let lost = seen.lost.first().copied().filter(|_| is_minority);
    let leaving = asked.map(|(member, _)| member).or(lost);
    let has_room = seen.voters.len() < seen.size;
    match seen.listener {
        Some((listener, _, true)) => Step::Dismiss(listener),
        Some((listener, ..)) if !has_room && leaving.is_none() => match seen.is_whole {
            true => Step::Dismiss(listener),
            // Whoever led before may have known who is lost.
            false => Step::Nothing,
        },
        Some((listener, Some(..=NEAR), _)) => {
            let mut voters = seen.voters.clone();
            voters.insert(listener);
            if let Some(leaving) = leaving.filter(|_| !has_room) {
                voters.remove(&leaving);
            }
            Step::Seat(voters)
        }
        Some(_) => Step::Nothing,
        None if !has_room && leaving.is_none() => Step::Nothing,
        None => {
            let wanted = asked.and_then(|(_, by)| by).filter(|by| seen.candidates.contains(by));
            match (wanted.or_else(|| seen.candidates.first().copied()), leaving) {
                (Some(candidate), _) => Step::Invite(candidate),
                // Nobody else is there. Once it is out it can come in again, and has not voted before.
                (None, Some(leaving)) if seen.blank.contains(&leaving) && !has_room => {
                    Step::Seat(seen.voters.iter().copied().filter(|voter| *voter != leaving).collect())
                }
                _ => Step::Nothing,
            }
        }
    }
}

impl Copies {
    /// Looks after the groups that this node leads, and leaves those to which it belongs no more. Called once in a while.
    pub(super) async fn mend(&self, id: GroupId, kept: &Kept) {
        if self.is_removed(kept) {
            if let Err(error) = self.leave(id).await {
                tracing::warn!(group = %id, %error, "a copy that is not needed any more stays on the disk");
            }
            return;
        }
        let seats = kept.group.seats();
        self.note_connected(kept, &seats);
        let (leader, term) = kept.group.leader();
        if leader != Some(self.local()) {
            let mut others = kept.others.lock();
            (others.leading, others.asked) = (None, None);
            return;
        }
        let seen = self.seen(id, kept, &seats, term, false);
        let step = next_step(&seen);
        let done = match &step {
            Step::Nothing => return,
            Step::Invite(newcomer) => self.invite(id, kept, &seen, *newcomer).await,
            Step::Seat(voters) => self.seat(kept, voters).await,
            Step::Dismiss(listener) => {
                let dismissed = kept.group.dismiss(*listener).await.map_err(of_group);
                self.tell_to_leave(id, *listener).await;
                dismissed
            }
        };
        match done {
            Ok(()) => tracing::info!(group = %id, ?step, "a place in a group is given away"),
            Err(error) => tracing::info!(group = %id, ?step, %error, "a place in a group is not given away yet"),
        }
    }

    /// Whoever leads one day knows for how long somebody has been away.
    fn note_connected(&self, kept: &Kept, seats: &Seats) {
        let peers = self.mesh().peers().ids();
        let (now, mut others) = (Instant::now(), kept.others.lock());
        others.connected.retain(|voter, _| seats.voters.contains(voter));
        for voter in &seats.voters {
            others.connected.entry(*voter).or_insert(now);
        }
        for voter in peers
            .iter()
            .filter_map(voter_of)
            .filter(|voter| seats.voters.contains(voter))
        {
            others.connected.insert(voter, now);
        }
    }

    fn seen(&self, id: GroupId, kept: &Kept, seats: &Seats, term: u64, is_asked: bool) -> Seen {
        let now = Instant::now();
        let connected: BTreeSet<Voter> = self.mesh().peers().ids().iter().filter_map(voter_of).collect();
        let mut others = kept.others.lock();
        if others.leading.is_none_or(|(known, _)| known != term) {
            others.leading = Some((term, now));
            others.listening.clear();
        }
        let leading_for = others.leading.map_or(Duration::ZERO, |(_, since)| now - since);
        others.refused.retain(|_, at| now - *at < REFUSED_FOR);
        let silent_for = |voter: Voter| kept.group.heard(voter).unwrap_or(leading_for);
        let is_stranger = |others: &Others, voter: &Voter| {
            others
                .strangers
                .get(voter)
                .is_some_and(|since| now - *since > STRANGER_AFTER)
        };
        let is_away = |voter: &Voter| others.connected.get(voter).is_some_and(|at| now - *at > LOST_AFTER);
        let is_lost = |voter: &&Voter| {
            **voter != self.local()
                && (silent_for(**voter) > LOST_AFTER
                    || is_away(voter)
                    || is_stranger(&others, voter)
                    || weft_protocol::PublicKey::from_bytes(voter.0)
                        .is_ok_and(|key| self.mesh().trust().is_revoked(&key)))
        };
        let is_there =
            |voter: &&Voter| **voter == self.local() || kept.group.heard(**voter).is_some_and(|ago| ago < THERE);
        let is_whole = seats.voters.iter().all(|voter| is_there(&voter));
        let lost: Vec<Voter> = seats.voters.iter().filter(is_lost).copied().collect();
        let blank = lost
            .iter()
            .filter(|voter| connected.contains(voter) && is_stranger(&others, voter));
        let blank: BTreeSet<Voter> = blank.copied().collect();
        let listener = seats.listeners.first().map(|(voter, behind)| {
            let since = *others.listening.entry(*voter).or_insert(now);
            let is_silent = now - since > LISTENER_AFTER && silent_for(*voter) > LISTENER_AFTER;
            (*voter, *behind, is_silent || is_stranger(&others, voter))
        });
        let is_free = |voter: &Voter| {
            !seats.voters.contains(voter)
                && listener.is_none_or(|(one, ..)| one != *voter)
                && !others.refused.contains_key(voter)
        };
        let mut candidates: Vec<Voter> = connected.into_iter().filter(is_free).collect();
        if !is_asked && others.asked.is_none() && lost.is_empty() && seats.voters.len() >= kept.size {
            // Nobody is needed, as nearly always, and to look for labels takes a while.
            candidates.clear();
        }
        if !candidates.is_empty() {
            let places = self.streams.places_of(id);
            candidates.retain(|voter| self.has_labels(*voter, &places));
        }
        candidates.sort_by_key(|voter| u64::from_be_bytes(super::first_of(*voter)) ^ id.0);
        Seen {
            size: kept.size,
            voters: seats.voters.clone(),
            listener,
            is_between: seats.is_between,
            lost,
            is_whole,
            blank,
            asked: others.asked,
            candidates,
        }
    }

    /// Whether a member has all of these labels.
    pub(super) fn has_labels(&self, voter: Voter, places: &[String]) -> bool {
        let trust = self.mesh().trust();
        let labels = match voter == self.local() {
            true => trust.own_membership().map(|own| own.labels.clone()),
            false => peer_of(voter)
                .and_then(|peer| trust.member(&peer))
                .map(|member| member.labels),
        };
        let labels = labels.unwrap_or_default();
        let has = |place: &String| labels.iter().any(|(key, value)| format!("{key}={value}") == *place);
        places.iter().all(has)
    }

    /// Has somebody get what the others have.
    async fn invite(&self, id: GroupId, kept: &Kept, seen: &Seen, newcomer: Voter) -> Result<(), StreamError> {
        let members: Vec<Voter> = seen.voters.iter().copied().chain([newcomer]).collect();
        let peer = peer_of(newcomer).ok_or_else(|| StreamError::Invalid("no member has this key".into()))?;
        let request = GroupRequest::Enter {
            members: consensus::voters(&members),
            size: u8::try_from(seen.size).unwrap_or(u8::MAX),
        };
        match ask(self.mesh(), peer, id, request, AGREE_WITHIN).await {
            Ok(GroupReply::Joined) => {}
            answer => {
                kept.others.lock().refused.insert(newcomer, Instant::now());
                return match answer {
                    Ok(GroupReply::Refused(reason)) => Err(StreamError::Busy(format!("{peer}: {reason}"))),
                    Ok(_) => Err(StreamError::Corrupt("a member answered something else".into())),
                    Err(error) => Err(error),
                };
            }
        }
        {
            let mut others = kept.others.lock();
            others.strangers.remove(&newcomer);
            others.listening.insert(newcomer, Instant::now());
        }
        within(kept.group.listen(newcomer)).await
    }

    async fn seat(&self, kept: &Kept, voters: &BTreeSet<Voter>) -> Result<(), StreamError> {
        within(kept.group.seat(voters.clone())).await?;
        let mut others = kept.others.lock();
        if others.asked.is_some_and(|(member, _)| !voters.contains(&member)) {
            others.asked = None;
        }
        others.strangers.retain(|voter, _| voters.contains(voter));
        Ok(())
    }

    async fn tell_to_leave(&self, id: GroupId, listener: Voter) {
        if let Some(peer) = peer_of(listener) {
            let _ = ask(self.mesh(), peer, id, GroupRequest::Leave, AGREE_WITHIN).await;
        }
    }

    /// Whether most of those that vote say that this node belongs to the group no more.
    fn is_removed(&self, kept: &Kept) -> bool {
        let voters = kept.group.seats().voters;
        let others = kept.others.lock();
        let say_so = others.removed_by.iter().filter(|voter| voters.contains(voter)).count();
        say_so > voters.len() / 2
    }

    /// Has the place of a member given to another: by this node, which leads, when it looks next.
    pub(super) fn replace(&self, id: GroupId, member: Voter, by: Option<Voter>) -> Result<(), StreamError> {
        let kept = self.kept(id)?;
        let seats = kept.group.seats();
        let name = |voter: Voter| peer_of(voter).map_or_else(|| voter.to_string(), |peer| peer.to_string());
        if !seats.voters.contains(&member) {
            return Err(StreamError::Invalid(format!(
                "{} has no copy of the stream",
                name(member)
            )));
        }
        let (leader, term) = kept.group.leader();
        if leader != Some(self.local()) {
            return Err(StreamError::Led(leader.and_then(peer_of)));
        }
        let candidates = self.seen(id, &kept, &seats, term, true).candidates;
        let places = self.streams.places_of(id);
        let with = match places.is_empty() {
            true => String::new(),
            false => format!(" and is labelled {}", places.join(", ")),
        };
        match by {
            Some(by) if seats.voters.contains(&by) => {
                return Err(StreamError::Conflict(format!("{} has a copy already", name(by))));
            }
            Some(by) if !candidates.contains(&by) => {
                return Err(StreamError::TooFew(format!(
                    "{} is not a member that can be reached{with}",
                    name(by)
                )));
            }
            None if candidates.is_empty() => {
                return Err(StreamError::TooFew(format!(
                    "there is no other member that can be reached{with}"
                )));
            }
            _ => {}
        }
        kept.others.lock().asked = Some((member, by));
        Ok(())
    }

    /// The same, whoever leads.
    pub(in super::super) async fn have_replaced(
        &self,
        id: GroupId,
        member: &PeerId,
        by: Option<&PeerId>,
    ) -> Result<(), StreamError> {
        let of =
            |peer: &PeerId| voter_of(peer).ok_or_else(|| StreamError::Invalid(format!("{peer} cannot be in a group")));
        let (member, by) = (of(member)?, by.map(of).transpose()?);
        let until = Instant::now() + AGREE_WITHIN;
        loop {
            let group = std::sync::Arc::clone(&self.kept(id)?.group);
            let before = group.leader();
            let asked = match before.0.and_then(peer_of) {
                None => Err(StreamError::Led(None)),
                Some(leader) if leader == self.mesh().local_peer() => self.replace(id, member, by),
                Some(leader) => {
                    let request = GroupRequest::Replace {
                        member: member.into(),
                        by: by.map(VoterKey::from),
                    };
                    match ask(self.mesh(), leader, id, request, AGREE_WITHIN).await {
                        Ok(GroupReply::Replacing) => Ok(()),
                        Ok(GroupReply::Refused(reason)) => Err(StreamError::Conflict(reason)),
                        Ok(_) => Err(StreamError::Corrupt("a member answered something else".into())),
                        Err(error) => Err(error),
                    }
                }
            };
            match asked {
                Err(StreamError::Led(_) | StreamError::Mesh(_)) if Instant::now() < until => {
                    let _ = tokio::time::timeout(Duration::from_millis(200), group.leader_changed(before)).await;
                }
                asked => return asked,
            }
        }
    }
}

async fn within(change: impl Future<Output = Result<(), crate::consensus::GroupError>>) -> Result<(), StreamError> {
    let changed = tokio::time::timeout(AGREE_WITHIN, change).await;
    changed.map_err(|_| StreamError::NoQuorum)?.map_err(of_group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(number: u8) -> Voter {
        Voter([number; 32])
    }

    fn seen() -> Seen {
        Seen {
            size: 3,
            voters: (1..=3).map(voter).collect(),
            candidates: vec![voter(4), voter(5)],
            ..Seen::default()
        }
    }

    fn voters(numbers: &[u8]) -> Step {
        Step::Seat(numbers.iter().copied().map(voter).collect())
    }

    #[test]
    fn a_lost_member_gives_its_place_to_one_that_has_everything() {
        let mut seen = seen();
        assert_eq!(next_step(&seen), Step::Nothing);
        seen.lost = vec![voter(3)];
        assert_eq!(next_step(&seen), Step::Invite(voter(4)));
        seen.listener = Some((voter(4), None, false));
        assert_eq!(next_step(&seen), Step::Nothing);
        seen.listener = Some((voter(4), Some(NEAR + 1), false));
        assert_eq!(next_step(&seen), Step::Nothing);
        seen.listener = Some((voter(4), Some(3), false));
        assert_eq!(next_step(&seen), voters(&[1, 2, 4]));
        // Which may have been begun by another.
        seen.is_between = true;
        seen.voters = [1, 2, 4].map(voter).into();
        assert_eq!(next_step(&seen), voters(&[1, 2, 4]));
    }

    #[test]
    fn who_comes_back_keeps_its_place_and_who_is_silent_gets_none() {
        let mut seen = seen();
        seen.listener = Some((voter(4), Some(3), false));
        assert_eq!(next_step(&seen), Step::Nothing);
        seen.is_whole = true;
        assert_eq!(next_step(&seen), Step::Dismiss(voter(4)));
        seen.lost = vec![voter(3)];
        seen.listener = Some((voter(4), Some(3), true));
        assert_eq!(next_step(&seen), Step::Dismiss(voter(4)));
    }

    #[test]
    fn nobody_is_lost_where_most_are() {
        let mut seen = seen();
        seen.lost = vec![voter(2), voter(3)];
        assert_eq!(next_step(&seen), Step::Nothing);
    }

    #[test]
    fn one_with_another_disk_is_put_out_before_it_comes_in_again() {
        let mut seen = seen();
        (seen.lost, seen.candidates) = (vec![voter(3)], Vec::new());
        assert_eq!(next_step(&seen), Step::Nothing);
        seen.blank = BTreeSet::from([voter(3)]);
        assert_eq!(next_step(&seen), voters(&[1, 2]));
        seen.voters.remove(&voter(3));
        (seen.lost, seen.blank) = (Vec::new(), BTreeSet::new());
        seen.candidates = vec![voter(3)];
        assert_eq!(next_step(&seen), Step::Invite(voter(3)));
        seen.listener = Some((voter(3), Some(0), false));
        assert_eq!(next_step(&seen), voters(&[1, 2, 3]));
    }

    #[test]
    fn a_place_is_given_to_whom_it_is_wanted() {
        let mut seen = seen();
        seen.asked = Some((voter(1), Some(voter(5))));
        assert_eq!(next_step(&seen), Step::Invite(voter(5)));
        seen.listener = Some((voter(5), Some(0), false));
        assert_eq!(next_step(&seen), voters(&[2, 3, 5]));
        seen.voters = [2, 3, 5].map(voter).into();
        seen.listener = None;
        assert_eq!(next_step(&seen), Step::Nothing);
    }
}
