//! Agreement among a few members: a log that most of them have before anything comes of it.
//!
//! Promises: what was proposed and answered is on the disks of most members of the group, in one order, and stays; every member applies the same
//! commands in the same order, each once as far as its [`Machine`] knows what it has applied. At most one member leads a term, and what a
//! leader reads after [`Group::lead`] is not older than what was answered before.
//!
//! Does not promise progress without most of the members; nor that a proposal whose outcome was not heard did not happen.
//!
//! Raft itself is [openraft](https://docs.rs/openraft); here is what it stands on: `journal` keeps the log on the node's store, `machine` applies it,
//! `network` carries its messages, `convert` is how they are written, `runtime` makes its tasks the node's own.

mod convert;
mod journal;
mod machine;
mod network;
mod runtime;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use openraft::{
    Config, RaftMetrics, ReadPolicy, SnapshotPolicy,
    async_runtime::WatchReceiver as _,
    errors::{ClientWriteError, LinearizableReadError, RaftError},
    impls::OneshotResponder,
};
pub(crate) use weft_protocol::consensus::Mark;
use weft_protocol::consensus::{Ballot, GroupId, GroupReply, GroupRequest, VoterKey, Voters};

use self::{journal::Journal, machine::Applier, network::Lines, runtime::NodeRuntime};
pub(crate) use self::{
    machine::{At, Machine},
    network::Carry,
};
use crate::{
    platform::{Entropy, random},
    store::{Keyspace, Store},
    tasks::Tasks,
};

/// How often a leader says that it is there.
const HEARTBEAT_MS: u64 = 100;
/// The shortest of the times by which members tell themselves apart. For the time of its own a member holds a leader to be there that says
/// nothing more; after as long again it wants to lead itself.
const ELECTION_MS: u64 = 400;

/// What a member is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Voter(pub(crate) [u8; 32]);

impl std::fmt::Debug for Voter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Voter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<VoterKey> for Voter {
    fn from(key: VoterKey) -> Self {
        Voter(key.0)
    }
}

impl From<Voter> for VoterKey {
    fn from(voter: Voter) -> Self {
        VoterKey(voter.0)
    }
}

/// A command, or what came of it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Words(pub(crate) Bytes);

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// What openraft's types are made of here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Words;
    type R = Words;
    type NodeId = Voter;
    type Node = openraft::EmptyNode;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, Voter>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Words, Voter, openraft::EmptyNode>;
    type Entry = openraft::Entry<Self::LeaderId, Self::Payload>;
    type AsyncRuntime = NodeRuntime;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// Why the group does not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum GroupError {
    /// Another member leads, or none does.
    #[error("this member does not lead the group")]
    Led(Option<Voter>),
    /// What was proposed may come to pass, or not.
    #[error("the leader has changed meanwhile: it is not known whether this was done")]
    Unknown,
    /// Too few members answer.
    #[error("too few of the members that keep copies can be reached")]
    NoQuorum,
    /// It goes no further, until it is opened again.
    #[error("the group has stopped on this node: {0}")]
    Stopped(String),
    /// It is too large, or malformed.
    #[error("{0}")]
    Invalid(String),
}

/// What a group is opened with.
pub(crate) struct Parts<M> {
    pub(crate) id: GroupId,
    pub(crate) local: Voter,
    pub(crate) store: Store,
    pub(crate) keyspace: Keyspace,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) tasks: Tasks,
    pub(crate) carry: Arc<dyn Carry>,
    pub(crate) machine: Arc<M>,
}

/// A member's part in a group.
pub(crate) struct Group<M: Machine> {
    pub(crate) id: GroupId,
    local: Voter,
    raft: openraft::Raft<Types, Applier<M>>,
    journal: Journal,
}

/// What is known of a group's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) term: u64,
    pub(crate) leader: Option<Voter>,
    /// Every member, with how many entries it lacks where this one leads.
    pub(crate) members: Vec<(Voter, Option<u64>)>,
}

/// Who belongs to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seats {
    /// Who votes, or will when a change that has begun is over.
    pub(crate) voters: BTreeSet<Voter>,
    /// Who only listens, with how many entries it lacks where this member leads.
    pub(crate) listeners: Vec<(Voter, Option<u64>)>,
    /// Whether a change has begun and is not over.
    pub(crate) is_between: bool,
}

fn config(id: GroupId, entropy: &dyn Entropy) -> Result<Arc<Config>, GroupError> {
    // Each member waits for a time of its own, so that they do not want to lead at once.
    let waits = ELECTION_MS + u64::from(u16::from_be_bytes(random(entropy))) % ELECTION_MS;
    let config = Config {
        cluster_name: id.to_string(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: waits,
        election_timeout_max: waits + 1,
        enable_pre_vote: Some(true),
        // Who comes back is elected like anybody else.
        enable_leader_restore: Some(false),
        // A member whose disk lied about a sync, or has been wiped, lacks what it said it had. It gets that again; what most had stays decided.
        allow_log_reversion: Some(true),
        // The log is shortened when `Group::shorten` says so. Whoever lacks something is given entries as long as they are there.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        ..Config::default()
    };
    let config = config
        .validate()
        .map_err(|error| GroupError::Invalid(error.to_string()))?;
    Ok(Arc::new(config))
}

impl<M: Machine> Group<M> {
    /// Opens this member's part, as it was or empty.
    pub(crate) async fn open(parts: Parts<M>) -> Result<Arc<Self>, GroupError> {
        let Parts {
            id,
            local,
            store,
            keyspace,
            entropy,
            tasks,
            carry,
            machine,
        } = parts;
        let config = config(id, &*entropy)?;
        let journal = Journal::open(id, &store, keyspace, &tasks).await.map_err(stopped)?;
        let applier = Applier::open(machine).await.map_err(stopped)?;
        let lines = Lines { id, local, carry };
        let raft = openraft::Raft::new(local, config, lines, journal.clone(), applier);
        let raft = runtime::within(&tasks, raft).await;
        let raft = raft.map_err(|error| GroupError::Stopped(error.to_string()))?;
        Ok(Arc::new(Group {
            id,
            local,
            raft,
            journal,
        }))
    }

    /// Makes these the members of a group that nobody belongs to yet.
    pub(crate) async fn begin(&self, members: &[Voter]) -> Result<(), GroupError> {
        let members: BTreeSet<Voter> = members.iter().copied().collect();
        let begun = self.raft.initialize(members).await;
        begun.map_err(|error| GroupError::Stopped(error.to_string()))
    }

    /// Has the group agree on a command, and gives what came of it here.
    ///
    /// Not cancel-safe: what was begun may be done.
    pub(crate) async fn propose(&self, command: Vec<u8>) -> Result<Bytes, GroupError> {
        if command.len() > weft_protocol::consensus::COMMAND_BYTES_MAX {
            return Err(GroupError::Invalid("this is too large for streams with copies".into()));
        }
        match self.raft.client_write(Words(command.into())).await {
            Ok(written) => Ok(written.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => Err(GroupError::Led(to.leader_id)),
            // It may be in the log, here or at others.
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) | RaftError::Fatal(_)) => {
                Err(GroupError::Unknown)
            }
            Err(error) => Err(GroupError::Stopped(error.to_string())),
        }
    }

    /// Makes sure that this member leads, and has applied whatever was answered before.
    pub(crate) async fn lead(&self) -> Result<(), GroupError> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => Err(GroupError::Led(to.leader_id)),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(GroupError::NoQuorum),
            Err(error) => Err(GroupError::Stopped(error.to_string())),
        }
    }

    /// How the group is.
    pub(crate) fn standing(&self) -> Standing {
        standing_of(&self.raft.metrics().borrow_watched())
    }

    /// Follows who leads, and in which term.
    pub(crate) fn leader(&self) -> (Option<Voter>, u64) {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        (metrics.current_leader, metrics.vote.leader_id.term)
    }

    /// Whether this member leads, as far as it knows.
    pub(crate) fn is_leading(&self) -> bool {
        self.leader().0 == Some(self.local)
    }

    /// Waits until another leads than before; for ever where the group has stopped on this node.
    pub(crate) async fn leader_changed(&self, before: (Option<Voter>, u64)) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let now = {
                let metrics = metrics.borrow_watched();
                (metrics.current_leader, metrics.vote.leader_id.term)
            };
            if now != before {
                return;
            }
            if metrics.changed().await.is_err() {
                // Whoever waits has other things to wait for as well.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Who belongs to the group.
    pub(crate) fn seats(&self) -> Seats {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let mut sets = membership.get_joint_config().iter().rev();
        let voters = sets.next().cloned().unwrap_or_default();
        let behind = behind(&metrics);
        let listeners = membership.learner_ids().map(|voter| (voter, behind(&voter)));
        Seats {
            listeners: listeners.collect(),
            is_between: sets.next().is_some(),
            voters,
        }
    }

    /// Whether this member votes, or belongs to a group of which it knows nothing yet.
    pub(crate) fn is_seated(&self) -> bool {
        let Seats { voters, listeners, .. } = self.seats();
        voters.contains(&self.local) || voters.is_empty() && listeners.is_empty()
    }

    /// How long ago a member answered, where this one leads; nothing when it has not since.
    pub(crate) fn heard(&self, voter: Voter) -> Option<std::time::Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = (**metrics.heartbeat.as_ref()?.get(&voter)?.as_ref()?).to_owned();
        Some(openraft::Instant::elapsed(&heard))
    }

    /// Has the group send somebody its log, who does not vote yet.
    ///
    /// Not cancel-safe: what was begun may be done. So are the next two.
    pub(crate) async fn listen(&self, voter: Voter) -> Result<(), GroupError> {
        changed(self.raft.add_learner(voter, openraft::EmptyNode {}, false).await)
    }

    /// Has these vote from now on. Whoever is new among them has listened before; whoever is not among them any more belongs to the group no more.
    pub(crate) async fn seat(&self, voters: BTreeSet<Voter>) -> Result<(), GroupError> {
        changed(self.raft.change_membership(voters, false).await)
    }

    /// Lets go of somebody who listens.
    pub(crate) async fn dismiss(&self, listener: Voter) -> Result<(), GroupError> {
        let removed = openraft::ChangeMembers::RemoveNodes(BTreeSet::from([listener]));
        changed(self.raft.change_membership(removed, false).await)
    }

    /// Lets go of the beginning of the log when it is long and what came of it is durable. Called once in a while.
    ///
    /// Each member does so for itself. Whoever needs what is gone gets what came of it instead.
    pub(crate) async fn shorten(&self) {
        let Some(upto) = self.journal.shortened() else { return };
        let durable = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.snapshot.map(|durable| durable.index)
        };
        let asked = match durable {
            Some(durable) if durable >= upto => self.raft.trigger().purge_log(upto).await,
            // It is not known yet that so much is durable.
            _ => self.raft.trigger().snapshot().await,
        };
        if let Err(error) = asked {
            tracing::debug!(group = %self.id, %error, "the log of a group is not shortened");
        }
    }

    /// The last entry that was applied here.
    pub(crate) fn applied(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.last_applied.map(|last| last.index)
    }

    /// Goes on by the log from `mark`, up to which everything was got from the leader; says whom this member follows.
    pub(crate) async fn install(&self, ballot: Ballot, mark: Mark) -> Result<Ballot, GroupError> {
        if mark.last.reign.term > ballot.reign.term {
            return Err(GroupError::Invalid("the entry is of a later leader".into()));
        }
        let meta = convert::meta_of(mark).map_err(GroupError::Invalid)?;
        let snapshot = openraft::Snapshot { meta, snapshot: () };
        let installed = self
            .raft
            .install_full_snapshot(convert::ballot_of(ballot), snapshot)
            .await;
        match installed {
            Ok(installed) => Ok(convert::ballot(&installed.vote)),
            Err(error) => Err(GroupError::Stopped(error.to_string())),
        }
    }

    /// Why it goes no further, if it does not.
    pub(crate) fn failure(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.running_state.as_ref().err().map(ToString::to_string)
    }

    /// Whether somebody belongs to the group.
    pub(crate) fn has_member(&self, voter: Voter) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&voter).is_some()
    }

    /// Hands the lead to a member that has everything, if there is one.
    pub(crate) async fn hand_over(&self) {
        let to = {
            let standing = self.standing();
            let others = standing.members.into_iter().filter(|(voter, _)| *voter != self.local);
            others
                .filter_map(|(voter, behind)| Some((behind?, voter)))
                .min()
                .map(|(_, voter)| voter)
        };
        if let Some(to) = to.filter(|_| self.is_leading()) {
            let _ = self.raft.trigger().transfer_leader(to).await;
        }
    }

    /// Stops this member's part.
    pub(crate) async fn stop(&self) {
        let _ = self.raft.shutdown().await;
    }

    /// Answers another member of the group.
    pub(crate) async fn answer(&self, request: GroupRequest) -> GroupReply {
        let refused = |error: String| GroupReply::Refused(weft_protocol::name::reason(&error));
        match request {
            GroupRequest::Join(_) => GroupReply::Joined,
            GroupRequest::Leave
            | GroupRequest::Replace { .. }
            | GroupRequest::Enter { .. }
            | GroupRequest::Snapshot { .. }
            | GroupRequest::Fetch(_) => refused("this is not asked of the log".to_owned()),
            GroupRequest::PreVote(candidacy) => match self.raft.pre_vote(convert::candidacy_of(candidacy)).await {
                Ok(vote) => convert::voted(vote),
                Err(error) => refused(error.to_string()),
            },
            GroupRequest::Vote(candidacy) => match self.raft.vote(convert::candidacy_of(candidacy)).await {
                Ok(vote) => convert::voted(vote),
                Err(error) => refused(error.to_string()),
            },
            GroupRequest::Append {
                ballot,
                before,
                entries,
                committed,
            } => {
                let rpc = match convert::append_of(ballot, before, entries, committed) {
                    Ok(rpc) => rpc,
                    Err(error) => return refused(error),
                };
                match self.raft.append_entries(rpc).await {
                    Ok(appended) => convert::appended(appended),
                    Err(error) => refused(error.to_string()),
                }
            }
            GroupRequest::Transfer { ballot, last } => {
                let rpc = convert::transfer_of(ballot, self.local, last);
                match self.raft.handle_transfer_leader(rpc).await {
                    Ok(done) => convert::transferring(done),
                    Err(error) => refused(error.to_string()),
                }
            }
            GroupRequest::Propose(command) => match self.propose(command).await {
                Ok(done) => GroupReply::Proposed(done.to_vec()),
                Err(GroupError::Led(leader)) => GroupReply::Led(leader.map(VoterKey::from)),
                Err(error) => refused(error.to_string()),
            },
        }
    }
}

fn changed<T>(outcome: Result<T, RaftError<Types, ClientWriteError<Types>>>) -> Result<(), GroupError> {
    match outcome {
        Ok(_) => Ok(()),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => Err(GroupError::Led(to.leader_id)),
        Err(RaftError::Fatal(error)) => Err(GroupError::Stopped(error.to_string())),
        Err(error) => Err(GroupError::Invalid(error.to_string())),
    }
}

/// How many entries a member lacks, where this one leads.
fn behind(metrics: &RaftMetrics<Types>) -> impl Fn(&Voter) -> Option<u64> {
    let last = metrics.last_log_index.unwrap_or(0);
    move |voter| {
        let matched = metrics.replication.as_ref()?.get(voter)?;
        Some(match matched {
            Some(matched) => last.saturating_sub(matched.index),
            None => last + 1,
        })
    }
}

fn standing_of(metrics: &RaftMetrics<Types>) -> Standing {
    let members = metrics.membership_config.membership().nodes();
    let behind = behind(metrics);
    Standing {
        term: metrics.current_term,
        leader: metrics.current_leader,
        members: members.map(|(voter, _)| (*voter, behind(voter))).collect(),
    }
}

fn stopped(error: std::io::Error) -> GroupError {
    GroupError::Stopped(error.to_string())
}

/// Removes what a member that is not open keeps of a group.
pub(crate) async fn forget(id: GroupId, store: &Store, keyspace: &Keyspace) -> Result<(), crate::store::StoreError> {
    journal::forget(id, store, keyspace).await
}

/// The members of a group as they are written down.
pub(crate) fn voters(of: &[Voter]) -> Voters {
    Voters(of.iter().copied().map(VoterKey::from).collect())
}
