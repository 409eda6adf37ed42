//! What is agreed upon, handed to whoever uses the group.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
    type_config::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf},
};
use weft_protocol::consensus::{EntryId, Members};

use super::{
    Types, Words,
    convert::{self, LogId},
};

/// Where a command is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    /// The entry.
    pub(crate) index: u64,
    /// The term of the leader under whom it was made.
    pub(crate) term: u64,
}

/// How far everything was applied, and who belonged to the group there.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(crate) struct Mark {
    /// The last entry that was applied.
    #[n(0)]
    pub(crate) last: EntryId,
    /// The entry that said who belongs.
    #[n(1)]
    pub(crate) members_at: Option<EntryId>,
    /// Who belongs.
    #[n(2)]
    pub(crate) members: Members,
}

/// What commands mean. The same commands in the same order come to the same.
pub(crate) trait Machine: Send + Sync + 'static {
    /// The last mark of which everything is durable. What was applied behind it is applied again, and must not be done twice.
    fn mark(&self) -> impl Future<Output = Result<Option<Mark>, io::Error>> + Send;
    /// Applies a command, and gives what came of it.
    ///
    /// An error stops the group on this node: what cannot be applied now must not be passed over.
    fn apply(&self, at: At, command: Bytes) -> impl Future<Output = Result<Vec<u8>, io::Error>> + Send;
    /// Everything up to here was applied; to be made durable when there is time, and then given back as the mark.
    fn reached(&self, mark: Mark);
}

/// A machine as openraft sees it.
pub(crate) struct Applier<M> {
    machine: Arc<M>,
    last: Option<LogId>,
    membership: StoredMembershipOf<Types>,
}

impl<M: Machine> Applier<M> {
    pub(super) async fn open(machine: Arc<M>) -> Result<Self, io::Error> {
        let Some(Mark {
            last,
            members_at,
            members,
        }) = machine.mark().await?
        else {
            return Ok(Applier {
                machine,
                last: None,
                membership: StoredMembershipOf::<Types>::default(),
            });
        };
        let members = convert::members_of(members).map_err(io::Error::other)?;
        Ok(Applier {
            machine,
            last: Some(convert::id_of(last)),
            membership: StoredMembershipOf::<Types>::new(members_at.map(convert::id_of), members),
        })
    }

    fn reached(&self) {
        if let Some(last) = &self.last {
            self.machine.reached(Mark {
                last: convert::id(last),
                members_at: self.membership.log_id().as_ref().map(convert::id),
                members: convert::members(self.membership.membership()),
            });
        }
    }
}

fn no_snapshots() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "a group's log is kept whole: there are no snapshots",
    )
}

/// There are none.
pub(crate) struct NoSnapshots;

impl RaftSnapshotBuilder<Types> for NoSnapshots {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, ()>, io::Error> {
        Err(no_snapshots())
    }
}

impl<M: Machine> RaftStateMachine<Types> for Applier<M> {
    type SnapshotData = ();
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembershipOf<Types>), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let at = At {
                index: entry.log_id.index,
                term: entry.log_id.leader_id.term,
            };
            let done = match entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Normal(command) => self.machine.apply(at, command.0).await?,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembershipOf::<Types>::new(Some(entry.log_id), membership);
                    Vec::new()
                }
            };
            self.last = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(Words(done.into()));
            }
        }
        self.reached();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        NoSnapshots
    }

    async fn install_snapshot(&mut self, _: &SnapshotMetaOf<Types>, (): ()) -> Result<(), io::Error> {
        Err(no_snapshots())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, ()>>, io::Error> {
        Ok(None)
    }
}
