//! What a member hands over to another that makes copies of a group's streams: the streams as they are, not the log that led to them.
//!
//! What is handed over is of different moments, all of them behind the mark up to which everything was durable when that was begun. That does no
//! harm: whoever gets it goes on by the log from the mark, and what the log says that was done already is not done again. It is as after a restart.

use minicbor::{Decode, Encode, bytes::ByteVec};
use tokio::time::timeout;
use weft_protocol::{
    Subject, Wire,
    consensus::{FETCH_BYTES_MAX, GROUP_BYTES, GroupId, GroupReply},
    direct::DIRECT_PAYLOAD_BYTES_MAX,
};

use super::{AGREE_WITHIN, Copies, Kept, of_group};
use crate::patterns::event_sourcing::{
    options::{StreamError, StreamOptions},
    shelf::Kind,
    streams::Opened,
};

/// Streams that are named at once.
const STREAMS_AT_ONCE: usize = 64;
/// Records that are handed over at once.
const RECORDS_AT_ONCE: u64 = 1024;

/// What a member wants to have.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum Wanted {
    /// Which streams there are, behind this one by name.
    #[n(0)]
    Streams(#[n(0)] Option<Subject>),
    /// Where the records of one begin on the disk, and where they end.
    #[n(1)]
    Bounds(#[n(0)] Which),
    /// Its records.
    #[n(2)]
    Records {
        /// Whose.
        #[n(0)]
        of: Which,
        /// The index of the first.
        #[n(1)]
        from: u64,
        /// The index behind the last.
        #[n(2)]
        until: u64,
    },
    /// What is known of it besides.
    #[n(3)]
    Pairs {
        /// Of which.
        #[n(0)]
        of: Which,
        /// What.
        #[n(1)]
        kind: Kind,
        /// Behind this key.
        #[n(2)]
        after: Option<ByteVec>,
    },
    /// How far the log was applied at its leader.
    #[n(4)]
    Applied,
}

/// A stream, and not another that had its name before.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Which {
    /// Its name.
    #[n(0)]
    pub(super) name: Subject,
    /// The entry of the group's log with which it was made.
    #[n(1)]
    pub(super) entry: u64,
}

/// What it gets.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum Given {
    /// Streams, in the order of their names; none: there are no more.
    #[n(0)]
    Streams(#[n(0)] Vec<HeldStream>),
    /// Where the records of one begin and end.
    #[n(1)]
    Bounds {
        /// The index of the first on the disk.
        #[n(0)]
        first: u64,
        /// The tree before it: the roots of its whole subtrees, largest first.
        #[n(1)]
        peaks: Vec<ByteVec>,
        /// The index behind the last: also the end of an entry of the log.
        #[n(2)]
        version: u64,
    },
    /// Records, one after the other.
    #[n(2)]
    Records(#[n(0)] Vec<ByteVec>),
    /// What is known of it besides, in the order of the keys.
    #[n(3)]
    Pairs {
        /// Key and value.
        #[n(0)]
        pairs: Vec<(ByteVec, ByteVec)>,
        /// Whether there is nothing behind.
        #[n(1)]
        is_all: bool,
    },
    /// How far the log was applied.
    #[n(4)]
    Applied(#[n(0)] u64),
}

/// A stream that a member has.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct HeldStream {
    /// Which.
    #[n(0)]
    pub(super) which: Which,
    /// How much of it is kept.
    #[n(1)]
    pub(super) options: StreamOptions,
    /// When it was created, Unix milliseconds.
    #[n(2)]
    pub(super) created_ms: u64,
}

impl Wire for Wanted {
    const WHAT: &'static str = "wish of a member of a group";
    const BYTES_MAX: usize = FETCH_BYTES_MAX;
}

impl Wire for Given {
    const WHAT: &'static str = "what a member of a group hands over";
    const BYTES_MAX: usize = DIRECT_PAYLOAD_BYTES_MAX;

    fn bytes_expected(&self) -> usize {
        match self {
            Given::Records(records) => records.iter().map(|record| record.len() + 8).sum::<usize>() + 16,
            _ => 1024,
        }
    }
}

fn bytes(of: &[u8]) -> ByteVec {
    of.to_vec().into()
}

impl Copies {
    /// Hands over some of what this node has of a group.
    pub(super) async fn give(&self, id: GroupId, wanted: &[u8]) -> Result<GroupReply, StreamError> {
        let given = match Wanted::from_bytes(wanted)? {
            Wanted::Streams(after) => self.streams_behind(id, after),
            Wanted::Bounds(of) => {
                let opened = self.held(id, &of).await?;
                let version = opened.stream.version();
                let beginning = opened.stream.log.beginning().await?;
                Given::Bounds {
                    first: beginning.count(),
                    peaks: beginning.peaks().iter().map(|peak| bytes(peak)).collect(),
                    version,
                }
            }
            Wanted::Records { of, from, until } => {
                let opened = self.held(id, &of).await?;
                let count = until.saturating_sub(from).min(RECORDS_AT_ONCE) as usize;
                let page = opened.stream.log.read(from, count, GROUP_BYTES).await?;
                Given::Records(page.iter().map(|record| bytes(&record.data)).collect())
            }
            Wanted::Pairs { of, kind, after } => {
                let number = self.held(id, &of).await?.stream.number;
                let after = after.as_ref().map(|after| after.as_slice());
                let (pairs, is_all) = self.streams.pairs(number, kind, after, GROUP_BYTES).await?;
                let pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.into()));
                Given::Pairs {
                    pairs: pairs.collect(),
                    is_all,
                }
            }
            Wanted::Applied => Given::Applied(self.applied(&*self.kept(id)?).await?),
        };
        Ok(GroupReply::Fetched(given.to_checked_bytes()?))
    }

    /// How far the log was applied here, and so at least as far as anybody ever said to have applied it: this member leads.
    pub(super) async fn applied(&self, kept: &Kept) -> Result<u64, StreamError> {
        let led = timeout(AGREE_WITHIN, kept.group.lead()).await;
        led.map_err(|_| StreamError::NoQuorum)?.map_err(of_group)?;
        Ok(kept.group.applied().unwrap_or(0))
    }

    fn streams_behind(&self, id: GroupId, after: Option<Subject>) -> Given {
        let mut held = self.streams.copies_of(id);
        held.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        let behind = held
            .into_iter()
            .filter(|(copy, _)| after.as_ref().is_none_or(|after| copy.name > *after));
        let streams = behind.take(STREAMS_AT_ONCE).map(|(copy, facts)| HeldStream {
            which: Which {
                name: copy.name,
                entry: copy.entry,
            },
            options: facts.options,
            created_ms: facts.created_ms,
        });
        Given::Streams(streams.collect())
    }

    async fn held(&self, id: GroupId, of: &Which) -> Result<Opened, StreamError> {
        let opened = self.streams.copy(id, &of.name).await?;
        match opened.stream.facts().copy {
            Some(copy) if copy.entry == of.entry => Ok(opened),
            _ => Err(StreamError::Gone(of.name.to_string())),
        }
    }
}
