//! Streams that several nodes keep: which groups this node is in, and what is asked of their streams.
//!
//! A group is a few members with one log, upon which they agree ([`crate::consensus`]). It keeps any number of streams, so that what a
//! group costs when nothing happens does not grow with them. The streams themselves are as those of one owner: a log, its tree, its index,
//! on each member's disk. What the group's log says is done to each of them, in its order.

mod command;
mod cosigning;
mod fetching;
mod founding;
mod handing;
mod machine;
mod mending;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Fuse},
    stream,
};
use tokio::time::{Instant, timeout};
use weft_protocol::{
    PeerId, PublicKey, Subject, Verb, Wire as _,
    consensus::{GroupId, GroupReply, GroupRequest, VoterKey, Voters},
    patterns::event_sourcing::{CopyFigure, CopyFigures, PATTERN_ID, StreamReply, StreamRequest},
};

pub(super) use self::command::{Command, DeadEntry};
use self::{command::Outcome, fetching::Fetch, machine::Keeper, mending::Watch};
use super::{
    options::{StreamError, StreamOptions},
    remote,
    streams::Streams,
};
use crate::{
    consensus::{self, Carry, Group, GroupError, Voter},
    context::greeting,
    mesh::Mesh,
    platform::Entropy,
    store::{Keyspace, Store},
};

/// Groups that are mended at once.
const MENDED_AT_ONCE: usize = 16;
/// How long those that keep a stream have to agree on something.
const AGREE_WITHIN: Duration = Duration::from_secs(10);
/// How often what was applied is made durable and noted; and how long a group that has stopped rests.
const MARK_EVERY: Duration = Duration::from_secs(1);
const REST: Duration = Duration::from_secs(5);
/// How often it is looked whether somebody's place is to be given away.
const MEND_EVERY: Duration = Duration::from_secs(1);

/// The groups that this node is in.
pub(super) struct Copies {
    streams: Arc<Streams>,
    store: Store,
    keyspace: Keyspace,
    entropy: Arc<dyn Entropy>,
    groups: Mutex<BTreeMap<GroupId, Arc<Kept>>>,
    /// Held by whoever makes one.
    changing: tokio::sync::Mutex<()>,
}

struct Kept {
    group: Arc<Group<Keeper>>,
    keeper: Arc<Keeper>,
    /// Who was told to belong to it when this node came to it.
    founders: Voters,
    /// How many are to vote.
    size: usize,
    others: Arc<Watch>,
    fetch: Arc<Fetch>,
}

/// Carries what members of groups say to each other over the mesh.
struct OverMesh {
    mesh: Mesh,
    others: Arc<Watch>,
}

impl Carry for OverMesh {
    fn ask(
        &self,
        to: Voter,
        group: GroupId,
        request: GroupRequest,
        within: Duration,
    ) -> BoxFuture<'_, Result<GroupReply, String>> {
        async move {
            let peer = peer_of(to).ok_or("no member has this key")?;
            let reply = ask(&self.mesh, peer, group, request, within).await;
            let reply = reply.map_err(|error| error.to_string())?;
            self.others.heard(to, &reply);
            Ok(reply)
        }
        .boxed()
    }
}

/// Asks a member of a group.
pub(super) async fn ask(
    mesh: &Mesh,
    to: PeerId,
    group: GroupId,
    request: GroupRequest,
    within: Duration,
) -> Result<GroupReply, StreamError> {
    let resource = Subject::reserved(&format!("$group.{group}"))?;
    let hello = greeting(PATTERN_ID, mesh.trust(), Verb::Append, &resource);
    let payload = StreamRequest::Group { group, request }.to_checked_bytes()?;
    let answer = mesh.request(to, hello, payload, within).await?;
    match StreamReply::from_vec(answer)? {
        StreamReply::Group(reply) => Ok(reply),
        StreamReply::Failed(failure) => Err(StreamError::of_failure(failure)),
        _ => Err(StreamError::Corrupt("a member answered something else".into())),
    }
}

/// The member that is called so in groups.
pub(crate) fn peer_of(voter: Voter) -> Option<PeerId> {
    Some(PublicKey::from_bytes(voter.0).ok()?.peer_id())
}

fn voter_of(peer: &PeerId) -> Option<Voter> {
    Some(Voter(*PublicKey::from_peer_id(peer)?.as_bytes()))
}

fn of_group(error: GroupError) -> StreamError {
    match error {
        GroupError::Led(leader) => StreamError::Led(leader.and_then(peer_of)),
        GroupError::Unknown => StreamError::Unknown,
        GroupError::NoQuorum => StreamError::NoQuorum,
        GroupError::Stopped(reason) => StreamError::Again(format!("the group has stopped on this node: {reason}")),
        GroupError::Invalid(reason) => StreamError::Invalid(reason),
    }
}

impl Copies {
    /// Opens every group that this node is in.
    pub(super) async fn open_all(
        streams: Arc<Streams>,
        store: Store,
        keyspace: Keyspace,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Arc<Self>, StreamError> {
        let copies = Arc::new(Copies {
            streams,
            store,
            keyspace,
            entropy,
            groups: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        });
        copies.streams.attach(&copies);
        for (id, facts) in copies.streams.groups().await? {
            let size = facts.size();
            let kept = copies.open(id, facts.members, size).await.map_err(of_group)?;
            copies.groups().insert(id, kept);
        }
        Ok(copies)
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<GroupId, Arc<Kept>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self, id: GroupId) -> Result<Arc<Kept>, StreamError> {
        let kept = self.groups().get(&id).cloned();
        kept.ok_or_else(|| StreamError::NoStream(format!("of the group {id}")))
    }

    fn mesh(&self) -> &Mesh {
        &self.streams.mesh
    }

    fn local(&self) -> Voter {
        Voter(*self.mesh().trust().public_key().as_bytes())
    }

    async fn open(&self, id: GroupId, founders: Voters, size: usize) -> Result<Arc<Kept>, GroupError> {
        let known = self.streams.group(id).await;
        let known = known.map_err(|error| GroupError::Stopped(error.to_string()))?;
        let keeper = Keeper::new(id, Arc::clone(&self.streams), known.is_partial.is_some());
        let others: Arc<Watch> = Arc::default();
        let group = Box::pin(Group::open(consensus::Parts {
            id,
            local: self.local(),
            store: self.store.clone(),
            keyspace: self.keyspace.clone(),
            entropy: Arc::clone(&self.entropy),
            tasks: self.streams.tasks.clone(),
            carry: Arc::new(OverMesh {
                mesh: self.mesh().clone(),
                others: Arc::clone(&others),
            }),
            machine: Arc::clone(&keeper),
        }));
        Ok(Arc::new(Kept {
            group: group.await?,
            keeper,
            size,
            founders,
            others,
            fetch: Arc::default(),
        }))
    }

    /// Whether this node's copies of a group's streams count: it does not only listen to get them.
    pub(super) fn is_seated(&self, id: GroupId) -> bool {
        self.kept(id).is_ok_and(|kept| kept.group.is_seated())
    }

    /// Gives places in groups to others where members are lost, until the node stops.
    pub(super) async fn run_mending(self: Arc<Self>) {
        let mut seated = std::collections::BTreeSet::new();
        loop {
            tokio::time::sleep(MEND_EVERY).await;
            let all: Vec<(GroupId, Arc<Kept>)> =
                self.groups().iter().map(|(id, kept)| (*id, Arc::clone(kept))).collect();
            let seated_now = all
                .iter()
                .filter(|(_, kept)| kept.group.is_seated())
                .map(|(id, _)| *id)
                .collect();
            if seated_now != seated {
                // Only what counts is announced.
                seated = seated_now;
                self.streams.say_again();
            }
            // One that cannot agree takes its time, and holds up no other.
            let well = all.into_iter().filter(|(_, kept)| kept.group.failure().is_none());
            let mending = stream::iter(well).for_each_concurrent(MENDED_AT_ONCE, |(id, kept)| {
                let this = &self;
                async move {
                    if let Err(error) = this.note_whole(id, &kept).await {
                        tracing::debug!(group = %id, %error, "it is not known how far the leader is");
                    }
                    this.mend(id, &kept).await;
                }
            });
            mending.await;
        }
    }

    /// Leaves a group, with all that was kept of it.
    pub(super) async fn leave(&self, id: GroupId) -> Result<(), StreamError> {
        let _changing = self.changing.lock().await;
        let Some(kept) = self.groups().remove(&id) else {
            return Ok(());
        };
        tracing::info!(group = %id, "this node belongs to a group no more, and lets go of its copies");
        kept.group.stop().await;
        kept.fetch.stop().await;
        kept.keeper.close().await;
        self.streams.forget_group(id).await?;
        consensus::forget(id, &self.store, &self.keyspace).await?;
        Ok(())
    }

    /// Makes what was applied durable and notes it, and opens again what has stopped, until the node stops.
    pub(super) async fn run(self: Arc<Self>) {
        let mut resting: BTreeMap<GroupId, Instant> = BTreeMap::new();
        loop {
            tokio::time::sleep(MARK_EVERY).await;
            let all: Vec<(GroupId, Arc<Kept>)> =
                self.groups().iter().map(|(id, kept)| (*id, Arc::clone(kept))).collect();
            for (id, kept) in all {
                let marked = kept.keeper.keep_mark().await.map_err(|error| error.to_string());
                let Some(reason) = kept.group.failure().or(marked.err()) else {
                    resting.remove(&id);
                    kept.group.shorten().await;
                    continue;
                };
                let now = Instant::now();
                match resting.get(&id) {
                    Some(until) if now < *until => continue,
                    Some(_) => {
                        resting.remove(&id);
                        self.open_again(id, &kept).await;
                    }
                    None => {
                        tracing::error!(group = %id, reason, "a group that keeps copies has stopped on this node");
                        resting.insert(id, now + REST);
                    }
                }
            }
        }
    }

    async fn open_again(&self, id: GroupId, kept: &Arc<Kept>) {
        kept.group.stop().await;
        kept.fetch.stop().await;
        kept.keeper.close().await;
        self.streams.recover_copies(id).await;
        match self.open(id, kept.founders.clone(), kept.size).await {
            Ok(again) => {
                tracing::info!(group = %id, "a group goes on");
                self.groups().insert(id, again);
            }
            Err(error) => tracing::error!(group = %id, %error, "a group cannot be opened"),
        }
    }

    /// Makes a stream that several members keep.
    pub(super) async fn create(&self, name: &Subject, options: StreamOptions) -> Result<(), StreamError> {
        super::options::check_name(name)?;
        options.check()?;
        let at_ms = self.streams.clock.now_unix_ms();
        let id = self.group_for(options.copies(), options.places()).await?;
        let name = name.clone();
        self.have_done(id, &Command::Create { name, options, at_ms }).await
    }

    /// Has a group do something about its streams, whoever leads it.
    pub(super) async fn have_done(&self, id: GroupId, command: &Command) -> Result<(), StreamError> {
        let until = Instant::now() + AGREE_WITHIN;
        loop {
            let group = Arc::clone(&self.kept(id)?.group);
            let before = group.leader();
            let done = match before.0.filter(|leader| *leader != self.local()).and_then(peer_of) {
                Some(leader) => self.have_done_at(leader, id, command).await,
                None => self.propose(id, command).await.map(drop),
            };
            match done {
                Err(StreamError::Led(_) | StreamError::Mesh(_)) if Instant::now() < until => {
                    let _ = timeout(Duration::from_millis(200), group.leader_changed(before)).await;
                }
                done => return done,
            }
        }
    }

    async fn have_done_at(&self, leader: PeerId, id: GroupId, command: &Command) -> Result<(), StreamError> {
        let request = GroupRequest::Propose(command.to_checked_bytes()?);
        match ask(self.mesh(), leader, id, request, AGREE_WITHIN).await? {
            GroupReply::Proposed(outcome) => done(Outcome::from_bytes(&outcome)?).map(drop),
            GroupReply::Led(leader) => Err(StreamError::Led(leader.map(Voter::from).and_then(peer_of))),
            GroupReply::Refused(detail) => Err(StreamError::Busy(detail)),
            _ => Err(StreamError::Corrupt("a member answered something else".into())),
        }
    }

    /// Has a group that this member leads agree on something.
    ///
    /// Not cancel-safe: what was begun may be done.
    pub(super) async fn propose(&self, id: GroupId, command: &Command) -> Result<Outcome, StreamError> {
        let group = Arc::clone(&self.kept(id)?.group);
        let proposed = timeout(AGREE_WITHIN, group.propose(command.to_checked_bytes()?)).await;
        let outcome = proposed.map_err(|_| StreamError::Unknown)?.map_err(of_group)?;
        done(Outcome::from_bytes(&outcome)?)
    }

    /// Answers another member of a group.
    pub(super) async fn answer(
        self: &Arc<Self>,
        from: &PeerId,
        id: GroupId,
        request: GroupRequest,
    ) -> Result<GroupReply, StreamError> {
        let from = voter_of(from).ok_or_else(|| StreamError::Invalid("only Ed25519 keys can be in a group".into()))?;
        if let GroupRequest::Join(members) = request {
            self.join(from, id, members).await?;
            return Ok(GroupReply::Joined);
        }
        if let GroupRequest::Enter { members, size } = request {
            self.enter(from, id, members, size).await?;
            return Ok(GroupReply::Joined);
        }
        let Ok(kept) = self.kept(id) else {
            return Ok(GroupReply::Stranger);
        };
        let seats = kept.group.seats();
        if !kept.group.has_member(from) {
            // Who leads may have come to the group behind what this member has of its log.
            let is_behind = kept.founders.0.contains(&VoterKey(from.0)) && !seats.voters.contains(&self.local());
            if !is_behind {
                return Ok(GroupReply::Removed);
            }
        }
        match request {
            GroupRequest::Snapshot { ballot, mark } => return self.catch_up(from, id, &kept, ballot, mark).await,
            GroupRequest::Fetch(wanted) => return self.give(id, &wanted).await,
            GroupRequest::Leave => {
                if seats.voters.contains(&self.local()) {
                    return Err(StreamError::Conflict("this node votes in the group".into()));
                }
                self.leave(id).await?;
                return Ok(GroupReply::Gone);
            }
            GroupRequest::Replace { member, by } => {
                return Ok(match self.replace(id, member.into(), by.map(Voter::from)) {
                    Ok(()) => GroupReply::Replacing,
                    Err(StreamError::Led(leader)) => {
                        GroupReply::Led(leader.as_ref().and_then(voter_of).map(VoterKey::from))
                    }
                    Err(error) => GroupReply::Refused(weft_protocol::name::reason(&error.to_string())),
                });
            }
            _ => {}
        }
        if let GroupRequest::Propose(command) = &request {
            // What nobody understands would stop everybody.
            let command = Command::from_bytes(command)?;
            if matches!(command, Command::Append { .. } | Command::Consumer { .. }) {
                return Err(StreamError::Invalid("this is asked of the stream".into()));
            }
        }
        Ok(kept.group.answer(request).await)
    }

    /// Who leads those that keep a stream of which this node has a copy, and how to wait for another.
    pub(super) fn leading(&self, id: GroupId) -> Result<Leading, StreamError> {
        let group = Arc::clone(&self.kept(id)?.group);
        let now = group.leader();
        // What has stopped here is opened again, and says nothing until then.
        let leader = now.0.filter(|_| group.failure().is_none());
        Ok(Leading {
            is_local: leader == Some(self.local()),
            leader: leader.and_then(peer_of),
            changed: async move { group.leader_changed(now).await }.boxed().fuse(),
        })
    }

    /// Does what is asked of a stream whose group this node leads.
    pub(super) async fn perform(
        &self,
        id: GroupId,
        name: &Subject,
        request: StreamRequest,
        author: Option<PublicKey>,
    ) -> Result<StreamReply, StreamError> {
        if let StreamRequest::Append(append) = request {
            let author = author.unwrap_or_else(|| self.mesh().trust().public_key());
            let count = append.events.len() as u64;
            let kept = self.kept(id)?;
            if kept.group.is_leading() {
                // The leader lets in what each copy will do: none may decide for itself.
                let stream = self.streams.get(name).await?.stream;
                stream.check_schemas(&append).await?;
                if !kept.keeper.is_partial() {
                    stream.check_room(&append).await?;
                }
            }
            let at_ms = self.streams.clock.now_unix_ms();
            let name = name.clone();
            let appended = self
                .propose(
                    id,
                    &Command::Append {
                        name,
                        append,
                        author,
                        at_ms,
                    },
                )
                .await;
            let appended = match appended {
                Ok(Outcome::Appended(appended)) => Ok(appended),
                Ok(_) => Err(StreamError::Corrupt("something else came of an append".into())),
                Err(error) => Err(error),
            };
            remote::count(&self.streams, &appended, count);
            return appended.map(StreamReply::Appended);
        }
        let group = Arc::clone(&self.kept(id)?.group);
        let is_figures = matches!(request, StreamRequest::Figures);
        // How it is, as far as this node knows, is said by whoever is asked.
        let is_led = !is_figures || group.is_leading();
        if is_led {
            let led = timeout(AGREE_WITHIN, group.lead()).await;
            led.map_err(|_| StreamError::NoQuorum)?.map_err(of_group)?;
        }
        let opened = match is_figures {
            true => self.streams.get(name).await?,
            false => self.streams.in_term(name, group.leader().1).await?,
        };
        opened.stream.settle().await?;
        let mut reply = remote::perform(&self.streams, &opened, request, author).await?;
        if let StreamReply::Proof(proof) = &mut reply {
            proof.checkpoint = self.cosigned(id, name, std::mem::take(&mut proof.checkpoint)).await;
        }
        if let StreamReply::Figures(figures) = &mut reply {
            let mut copies = self.figures(&group);
            if !is_led && copies.leader == Some(self.local().into()) {
                // It may have been elected meanwhile, but what was said is older than that.
                copies.leader = None;
            }
            figures.copies = Some(copies);
        }
        Ok(reply)
    }

    /// Who keeps the streams of a group.
    pub(super) fn figures_of(&self, id: GroupId) -> Option<CopyFigures> {
        let kept = self.kept(id).ok()?;
        Some(self.figures(&kept.group))
    }

    fn figures(&self, group: &Group<Keeper>) -> CopyFigures {
        let standing = group.standing();
        let voters = group.seats().voters;
        let member = |(voter, behind): (Voter, Option<u64>)| CopyFigure {
            key: voter.into(),
            behind,
            is_new: (!voters.contains(&voter)).then_some(true),
        };
        CopyFigures {
            group: group.id,
            leader: standing.leader.map(VoterKey::from),
            members: standing.members.into_iter().map(member).collect(),
        }
    }

    /// Hands the lead of every group to others: this node is stopping.
    pub(super) async fn hand_over(&self) {
        let all: Vec<Arc<Kept>> = self.groups().values().cloned().collect();
        for kept in all {
            kept.group.hand_over().await;
        }
    }
}

/// Who leads.
pub(super) struct Leading {
    pub(super) is_local: bool,
    pub(super) leader: Option<PeerId>,
    /// Resolves when that has changed, once.
    pub(super) changed: Fuse<BoxFuture<'static, ()>>,
}

fn first_of(voter: Voter) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&voter.0[..8]);
    first
}

fn done(outcome: Outcome) -> Result<Outcome, StreamError> {
    match outcome {
        Outcome::Failed(failure) => Err(StreamError::of_failure(failure)),
        outcome => Ok(outcome),
    }
}
