//! What is agreed upon, handed to whoever uses the group.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot,
    storage::{EntryResponder, RaftStateMachine},
    type_config::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf},
};
use weft_protocol::consensus::Mark;

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
    /// What came of everything up to here was got from another member, and is durable; some of it may already be of later.
    /// From here on it goes on by the log.
    fn install(&self, mark: Mark) -> impl Future<Output = Result<(), io::Error>> + Send;
}

/// A machine as openraft sees it.
pub(crate) struct Applier<M> {
    machine: Arc<M>,
    last: Option<LogId>,
    membership: StoredMembershipOf<Types>,
}

impl<M: Machine> Applier<M> {
    pub(super) async fn open(machine: Arc<M>) -> Result<Self, io::Error> {
        let (last, membership) = match machine.mark().await? {
            Some(mark) => convert::mark_of(mark).map_err(io::Error::other)?,
            None => (None, StoredMembershipOf::<Types>::default()),
        };
        Ok(Applier {
            machine,
            last,
            membership,
        })
    }

    fn reached(&self) {
        if let Some(mark) = convert::mark(self.last.as_ref(), &self.membership) {
            self.machine.reached(mark);
        }
    }
}

/// The mark of what is durable. What came of the log up to there is not written down a second time: whoever needs it gets it from the machine.
async fn durable<M: Machine>(machine: &M) -> Result<Option<SnapshotOf<Types, ()>>, io::Error> {
    let Some(mark) = machine.mark().await? else {
        return Ok(None);
    };
    let meta = convert::meta_of(mark).map_err(io::Error::other)?;
    Ok(Some(Snapshot { meta, snapshot: () }))
}

/// Says what is durable.
pub(crate) struct Durable<M>(Arc<M>);

impl<M: Machine> RaftSnapshotBuilder<Types> for Durable<M> {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, ()>, io::Error> {
        let nothing = Snapshot {
            meta: SnapshotMetaOf::<Types>::default(),
            snapshot: (),
        };
        Ok(durable(&*self.0).await?.unwrap_or(nothing))
    }
}

impl<M: Machine> RaftStateMachine<Types> for Applier<M> {
    type SnapshotData = ();
    type SnapshotBuilder = Durable<M>;

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
        Durable(Arc::clone(&self.machine))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Types>, (): ()) -> Result<(), io::Error> {
        let mark = convert::mark(meta.last_log_id.as_ref(), &meta.last_membership);
        let mark = mark.ok_or_else(|| io::Error::other("what another member has is nothing"))?;
        self.machine.install(mark).await?;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, ()>>, io::Error> {
        durable(&*self.machine).await
    }
}
