//! How the members of a group reach each other.

use std::{future::Future, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use openraft::{
    EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
    type_config::alias::SnapshotOf,
};
use weft_protocol::consensus::{GROUP_BYTES, GROUP_ENTRIES_MAX, GroupId, GroupReply, GroupRequest};

use super::{
    Types, Voter,
    convert::{self, RaftEntry, Vote},
};

/// How long a member may take to write entries down: its disk may be busy, and the way there long.
const APPEND_WITHIN: Duration = Duration::from_secs(5);
/// How long a member may take to say how far it is with what it gets besides the log, and how often it is asked.
const INSTALL_WITHIN: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Carries what members of a group ask each other.
pub(crate) trait Carry: Send + Sync + 'static {
    /// Asks a member.
    fn ask(
        &self,
        to: Voter,
        group: GroupId,
        request: GroupRequest,
        within: Duration,
    ) -> BoxFuture<'_, Result<GroupReply, String>>;
}

/// The ways to the other members.
pub(super) struct Lines {
    pub(super) id: GroupId,
    pub(super) local: Voter,
    pub(super) carry: Arc<dyn Carry>,
}

/// The way to one.
pub(super) struct Line {
    group: GroupId,
    to: Voter,
    carry: Arc<dyn Carry>,
}

impl RaftNetworkFactory<Types> for Lines {
    type Network = Line;

    async fn new_client(&mut self, target: Voter, _: &EmptyNode) -> Line {
        debug_assert!(target != self.local, "nobody asks itself");
        Line {
            group: self.id,
            to: target,
            carry: Arc::clone(&self.carry),
        }
    }
}

fn away(reason: impl ToString) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

fn unexpected(reply: &GroupReply) -> RPCError<Types> {
    away(match reply {
        GroupReply::Refused(detail) => detail.clone(),
        _ => "the member answered something else".to_owned(),
    })
}

impl Line {
    async fn ask(&self, request: GroupRequest, within: Duration) -> Result<GroupReply, RPCError<Types>> {
        self.carry.ask(self.to, self.group, request, within).await.map_err(away)
    }

    async fn ask_for_vote(
        &self,
        request: GroupRequest,
        within: Duration,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(request, within).await? {
            GroupReply::Voted {
                ballot,
                is_granted,
                last,
            } => Ok(VoteResponse::new(
                convert::ballot_of(ballot),
                last.map(convert::id_of),
                is_granted,
            )),
            other => Err(unexpected(&other)),
        }
    }
}

/// How many entries fit into a message.
fn count_of(entries: &[RaftEntry]) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&RaftEntry| {
        bytes += 128
            + match &entry.payload {
                openraft::EntryPayload::Normal(command) => command.0.len(),
                _ => 1024,
            };
        bytes <= GROUP_BYTES
    };
    entries
        .iter()
        .take(GROUP_ENTRIES_MAX)
        .take_while(fits)
        .count()
        .max(entries.len().min(1))
}

impl RaftNetworkV2<Types> for Line {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let within = match rpc.entries.is_empty() {
            true => option.hard_ttl(),
            false => APPEND_WITHIN,
        };
        let count = count_of(&rpc.entries);
        // What does not fit is sent with the next message: openraft goes on from what it is told has arrived.
        let sent = rpc.entries[..count]
            .last()
            .map(|last| last.log_id)
            .filter(|_| count < rpc.entries.len());
        Ok(match self.ask(convert::append(&rpc, count), within).await? {
            GroupReply::Appended => match sent {
                Some(last) => AppendEntriesResponse::PartialSuccess(Some(last)),
                None => AppendEntriesResponse::Success,
            },
            GroupReply::AppendedTo(to) => AppendEntriesResponse::PartialSuccess(to.map(convert::id_of)),
            // Before the first entry there is nothing to be in conflict with.
            GroupReply::Conflict if rpc.prev_log_id.is_some() => AppendEntriesResponse::Conflict,
            GroupReply::Higher(ballot) => AppendEntriesResponse::HigherVote(convert::ballot_of(ballot)),
            other => return Err(unexpected(&other)),
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(GroupRequest::Vote(convert::candidacy(&rpc)), option.hard_ttl())
            .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(GroupRequest::PreVote(convert::candidacy(&rpc)), option.hard_ttl())
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, ()>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let meta = &snapshot.meta;
        let mark = convert::mark(meta.last_log_id.as_ref(), &meta.last_membership);
        let mark =
            mark.ok_or_else(|| StreamingError::Unreachable(Unreachable::from_string("nothing is durable yet")))?;
        let ballot = convert::ballot(&vote);
        let mut cancel = std::pin::pin!(cancel);
        loop {
            let request = GroupRequest::Snapshot {
                ballot,
                mark: mark.clone(),
            };
            let asked = self
                .carry
                .ask(self.to, self.group, request, option.hard_ttl().max(INSTALL_WITHIN));
            let reply = tokio::select! {
                biased;
                closed = &mut cancel => return Err(StreamingError::Closed(closed)),
                reply = asked => reply,
            };
            match reply {
                Ok(GroupReply::Fetching) => {}
                Ok(GroupReply::Installed(ballot)) => return Ok(SnapshotResponse::new(convert::ballot_of(ballot))),
                Ok(GroupReply::Refused(reason)) | Err(reason) => {
                    return Err(StreamingError::Unreachable(Unreachable::from_string(reason)));
                }
                Ok(_) => {
                    let reason = "the member answered something else";
                    return Err(StreamingError::Unreachable(Unreachable::from_string(reason)));
                }
            }
            tokio::select! {
                biased;
                closed = &mut cancel => return Err(StreamingError::Closed(closed)),
                () = tokio::time::sleep(ASK_AGAIN) => {}
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        Ok(match self.ask(convert::transfer(&rpc), option.hard_ttl()).await? {
            GroupReply::Transferring => Ok(()),
            GroupReply::Higher(ballot) => Err(TransferLeaderError::VoteChanged {
                expected: *rpc.from_leader(),
                actual: convert::ballot_of(ballot),
            }),
            GroupReply::Behind(last) => Err(TransferLeaderError::LogNotFlushed {
                expected: rpc.last_log_id().copied(),
                actual: last.map(convert::id_of),
            }),
            other => return Err(unexpected(&other)),
        })
    }
}
