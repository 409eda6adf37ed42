//! openraft's types as they are written down and sent, and back.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{
    EmptyNode, EntryPayload, Membership,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
        VoteResponse,
    },
    type_config::alias::{LeaderIdOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf},
};
use weft_protocol::consensus::{
    Ballot, Candidacy, Content, Entry, EntryId, GroupReply, GroupRequest, Mark, Members, Reign, VoterKey, Voters,
};

use super::{Types, Voter, Words};

pub(super) type LogId = LogIdOf<Types>;
pub(super) type Vote = VoteOf<Types>;
type LeaderId = LeaderIdOf<Types>;
pub(super) type RaftEntry = <Types as openraft::RaftTypeConfig>::Entry;

fn reign(leader: &LeaderId) -> Reign {
    Reign {
        term: leader.term,
        leader: leader.node_id.0,
    }
}

fn reign_of(reign: Reign) -> LeaderId {
    LeaderId {
        term: reign.term,
        node_id: Voter(reign.leader),
    }
}

pub(super) fn ballot(vote: &Vote) -> Ballot {
    Ballot {
        reign: reign(&vote.leader_id),
        is_elected: vote.committed,
    }
}

pub(super) fn ballot_of(ballot: Ballot) -> Vote {
    Vote {
        leader_id: reign_of(ballot.reign),
        committed: ballot.is_elected,
    }
}

pub(super) fn id(of: &LogId) -> EntryId {
    EntryId {
        reign: reign(&of.leader_id),
        index: of.index,
    }
}

pub(super) fn id_of(id: EntryId) -> LogId {
    LogId {
        leader_id: reign_of(id.reign),
        index: id.index,
    }
}

fn listed(voters: impl IntoIterator<Item = Voter>) -> Voters {
    Voters(voters.into_iter().map(VoterKey::from).collect())
}

pub(super) fn members(membership: &Membership<Voter, EmptyNode>) -> Members {
    Members {
        voters: membership
            .get_joint_config()
            .iter()
            .map(|set| listed(set.iter().copied()))
            .collect(),
        all: listed(membership.nodes().map(|(voter, _)| *voter)),
    }
}

pub(super) fn members_of(members: Members) -> Result<Membership<Voter, EmptyNode>, String> {
    if members.voters.is_empty() && members.all.0.is_empty() {
        return Ok(Membership::default());
    }
    let set = |voters: Voters| -> BTreeSet<Voter> { voters.0.into_iter().map(Voter::from).collect() };
    let all: BTreeMap<Voter, EmptyNode> = set(members.all)
        .into_iter()
        .map(|voter| (voter, EmptyNode {}))
        .collect();
    Membership::new(members.voters.into_iter().map(set).collect(), all).map_err(|error| error.to_string())
}

/// How far everything was applied, if anything was.
pub(super) fn mark(last: Option<&LogId>, membership: &StoredMembershipOf<Types>) -> Option<Mark> {
    Some(Mark {
        last: id(last?),
        members_at: membership.log_id().as_ref().map(id),
        members: members(membership.membership()),
    })
}

pub(super) fn mark_of(mark: Mark) -> Result<(Option<LogId>, StoredMembershipOf<Types>), String> {
    let membership = StoredMembershipOf::<Types>::new(mark.members_at.map(id_of), members_of(mark.members)?);
    Ok((Some(id_of(mark.last)), membership))
}

pub(super) fn meta_of(mark: Mark) -> Result<SnapshotMetaOf<Types>, String> {
    let (last_log_id, last_membership) = mark_of(mark)?;
    Ok(SnapshotMetaOf::<Types> {
        last_log_id,
        last_membership,
    })
}

pub(super) fn entry(of: &RaftEntry) -> Entry {
    let content = match &of.payload {
        EntryPayload::Blank => Content::Blank,
        EntryPayload::Normal(command) => Content::Command(command.0.to_vec()),
        EntryPayload::Membership(membership) => Content::Members(members(membership)),
    };
    Entry {
        id: id(&of.log_id),
        content,
    }
}

pub(super) fn entry_of(entry: Entry) -> Result<RaftEntry, String> {
    let payload = match entry.content {
        Content::Blank => EntryPayload::Blank,
        Content::Command(command) => EntryPayload::Normal(Words(command.into())),
        Content::Members(members) => EntryPayload::Membership(members_of(members)?),
    };
    Ok(RaftEntry {
        log_id: id_of(entry.id),
        payload,
    })
}

pub(super) fn candidacy(rpc: &VoteRequest<Types>) -> Candidacy {
    Candidacy {
        ballot: ballot(&rpc.vote),
        last: rpc.last_log_id.as_ref().map(id),
        is_transfer: rpc.leadership_transfer,
    }
}

pub(super) fn candidacy_of(candidacy: Candidacy) -> VoteRequest<Types> {
    VoteRequest {
        leadership_transfer: candidacy.is_transfer,
        ..VoteRequest::new(ballot_of(candidacy.ballot), candidacy.last.map(id_of))
    }
}

pub(super) fn voted(vote: VoteResponse<Types>) -> GroupReply {
    GroupReply::Voted {
        ballot: ballot(&vote.vote),
        is_granted: vote.vote_granted,
        last: vote.last_log_id.as_ref().map(id),
    }
}

pub(super) fn append(rpc: &AppendEntriesRequest<Types>, count: usize) -> GroupRequest {
    GroupRequest::Append {
        ballot: ballot(&rpc.vote),
        before: rpc.prev_log_id.as_ref().map(id),
        entries: rpc.entries.iter().take(count).map(entry).collect(),
        committed: rpc.leader_commit.as_ref().map(id),
    }
}

pub(super) fn append_of(
    ballot: Ballot,
    before: Option<EntryId>,
    entries: Vec<Entry>,
    committed: Option<EntryId>,
) -> Result<AppendEntriesRequest<Types>, String> {
    // What openraft takes for granted: they follow each other.
    let mut next = before.map_or(Some(0), |before| before.index.checked_add(1));
    for entry in &entries {
        if next != Some(entry.id.index) {
            return Err("the entries do not follow each other".into());
        }
        next = entry.id.index.checked_add(1);
    }
    Ok(AppendEntriesRequest {
        vote: ballot_of(ballot),
        prev_log_id: before.map(id_of),
        entries: entries.into_iter().map(entry_of).collect::<Result<_, _>>()?,
        leader_commit: committed.map(id_of),
    })
}

pub(super) fn appended(reply: AppendEntriesResponse<Types>) -> GroupReply {
    match reply {
        AppendEntriesResponse::Success => GroupReply::Appended,
        AppendEntriesResponse::PartialSuccess(to) => GroupReply::AppendedTo(to.as_ref().map(id)),
        AppendEntriesResponse::Conflict => GroupReply::Conflict,
        AppendEntriesResponse::HigherVote(vote) => GroupReply::Higher(ballot(&vote)),
    }
}

pub(super) fn transfer(rpc: &TransferLeaderRequest<Types>) -> GroupRequest {
    GroupRequest::Transfer {
        ballot: ballot(rpc.from_leader()),
        last: rpc.last_log_id().map(id),
    }
}

pub(super) fn transfer_of(ballot: Ballot, to: Voter, last: Option<EntryId>) -> TransferLeaderRequest<Types> {
    TransferLeaderRequest::new(ballot_of(ballot), to, last.map(id_of))
}

pub(super) fn transferring(done: TransferLeaderResponse<Types>) -> GroupReply {
    use openraft::raft::TransferLeaderError;
    match done {
        Ok(()) => GroupReply::Transferring,
        Err(TransferLeaderError::VoteChanged { actual, .. }) => GroupReply::Higher(ballot(&actual)),
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => GroupReply::Behind(actual.as_ref().map(id)),
    }
}
