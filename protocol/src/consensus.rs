//! What the members of a group say to each other: the messages of Raft (Ongaro and Ousterhout, *In Search of an Understandable Consensus
//! Algorithm*, 2014), with an order of the leaders of one term, and votes that are asked for before they are asked for (Ongaro's
//! dissertation, 9.6).
//!
//! A group is a few members that keep the same log, and agree on each entry of it before anything comes of the entry. What a command means is
//! the business of whoever uses the group.

use minicbor::{Decode, Encode};

use crate::codec::{Wire, bounded};
use crate::direct::DIRECT_PAYLOAD_BYTES_MAX;
use crate::error::{DecodeError, at_most};
use crate::limits::REASON_BYTES_MAX;
use crate::name::check_text;

/// Members of a group, those among them that do not vote.
pub const GROUP_MEMBERS_MAX: usize = 16;
/// Entries in one message.
pub const GROUP_ENTRIES_MAX: usize = 1024;
/// A command: alone in a message, it fits.
pub const COMMAND_BYTES_MAX: usize = DIRECT_PAYLOAD_BYTES_MAX - 2048;
/// Bytes of entries in one message, unless its first entry is larger.
pub const GROUP_BYTES: usize = 512 * 1024;

/// A wish for what came of the log.
pub const FETCH_BYTES_MAX: usize = 4096;

/// What a member is called in a group: its public key. All zeros where nobody is meant, as in a group's first entry.
pub type Voter = [u8; 32];

/// Which group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct GroupId(#[n(0)] pub u64);

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who leads, and in which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Reign {
    /// The term.
    #[n(0)]
    pub term: u64,
    /// The leader.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub leader: Voter,
}

/// Whom a member has voted for, or follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Ballot {
    /// Whom.
    #[n(0)]
    pub reign: Reign,
    /// Whether most have voted so.
    #[n(1)]
    pub is_elected: bool,
}

/// Which entry: two with the same are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct EntryId {
    /// Under whom it was made.
    #[n(0)]
    pub reign: Reign,
    /// Its place in the log, from 0.
    #[n(1)]
    pub index: u64,
}

/// Who belongs to a group.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Members {
    /// Who votes: of each of these sets, most must agree. There are two while one gives way to the other.
    #[cbor(n(0), decode_with = "bounded::list::<4, _, _>")]
    pub voters: Vec<Voters>,
    /// All, also those that only listen.
    #[n(1)]
    pub all: Voters,
}

/// Some members.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Voters(#[cbor(n(0), decode_with = "bounded::list::<GROUP_MEMBERS_MAX, _, _>")] pub Vec<VoterKey>);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct VoterKey(#[cbor(n(0), with = "minicbor::bytes")] pub Voter);

/// How far everything was done that the log says, and who belonged to the group there.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Mark {
    /// The last entry.
    #[n(0)]
    pub last: EntryId,
    /// The entry that said who belongs.
    #[n(1)]
    pub members_at: Option<EntryId>,
    /// Who belongs.
    #[n(2)]
    pub members: Members,
}

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Content {
    /// Nothing: with it a leader begins.
    #[n(0)]
    Blank,
    /// What whoever uses the group makes of it.
    #[n(1)]
    Command(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// From here on these belong to the group.
    #[n(2)]
    Members(#[n(0)] Members),
}

/// An entry of the log, as it is sent and as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Which.
    #[n(0)]
    pub id: EntryId,
    /// What it holds.
    #[n(1)]
    pub content: Content,
}

impl Wire for Entry {
    const WHAT: &'static str = "entry of a group";
    const BYTES_MAX: usize = COMMAND_BYTES_MAX + 128;

    fn bytes_expected(&self) -> usize {
        match &self.content {
            Content::Command(command) => command.len() + 64,
            _ => 64,
        }
    }

    fn check(&self) -> Result<(), DecodeError> {
        match &self.content {
            Content::Command(command) => at_most("command", command.len(), COMMAND_BYTES_MAX),
            Content::Blank | Content::Members(_) => Ok(()),
        }
    }
}

/// A wish to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Candidacy {
    /// Who wants to, in which term.
    #[n(0)]
    pub ballot: Ballot,
    /// The last entry it has.
    #[n(1)]
    pub last: Option<EntryId>,
    /// Whether the leader has asked it to.
    #[n(2)]
    pub is_transfer: bool,
}

/// What a member of a group asks another.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum GroupRequest {
    /// Keep the group's log with these from now on.
    #[n(0)]
    Join(#[n(0)] Voters),
    /// Would you vote for me?
    #[n(1)]
    PreVote(#[n(0)] Candidacy),
    /// Vote for me.
    #[n(2)]
    Vote(#[n(0)] Candidacy),
    /// Append these entries; without any it says that the leader is there.
    #[n(3)]
    Append {
        /// Who leads.
        #[n(0)]
        ballot: Ballot,
        /// The entry before them.
        #[n(1)]
        before: Option<EntryId>,
        /// The entries.
        #[cbor(n(2), decode_with = "bounded::list::<GROUP_ENTRIES_MAX, _, _>")]
        entries: Vec<Entry>,
        /// Up to here most have them.
        #[n(3)]
        committed: Option<EntryId>,
    },
    /// Lead in my place, when you have all up to here.
    #[n(4)]
    Transfer {
        /// Who leads.
        #[n(0)]
        ballot: Ballot,
        /// The last entry there is.
        #[n(1)]
        last: Option<EntryId>,
    },
    /// Have the group agree on this command; the leader alone can.
    #[n(5)]
    Propose(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// You belong to the group no more, and were never one that votes in it.
    #[n(6)]
    Leave,
    /// Give the place of one member to another; the leader alone can.
    #[n(7)]
    Replace {
        /// Whose place.
        #[n(0)]
        member: VoterKey,
        /// Who takes it; without it the leader chooses.
        #[n(1)]
        by: Option<VoterKey>,
    },
    /// Get what the group has, and vote in it when you have it.
    #[n(8)]
    Enter {
        /// Who belongs to it, and whoever gets this.
        #[n(0)]
        members: Voters,
        /// How many are to vote.
        #[n(1)]
        size: u8,
    },
    /// My log does not begin early enough for you any more: get what came of it from me, and say when you have it.
    #[n(9)]
    Snapshot {
        /// Who leads.
        #[n(0)]
        ballot: Ballot,
        /// What came of the entries up to here is on my disk.
        #[n(1)]
        mark: Mark,
    },
    /// Give me some of what came of the log; how it is said what is the business of whoever uses the group.
    #[n(10)]
    Fetch(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
}

impl Wire for GroupRequest {
    const WHAT: &'static str = "request in a group";
    const BYTES_MAX: usize = DIRECT_PAYLOAD_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Append { entries, .. } => entries.iter().try_for_each(Entry::check),
            Self::Propose(command) => at_most("command", command.len(), COMMAND_BYTES_MAX),
            Self::Fetch(wanted) => at_most("wish", wanted.len(), FETCH_BYTES_MAX),
            Self::Join(_)
            | Self::PreVote(_)
            | Self::Vote(_)
            | Self::Transfer { .. }
            | Self::Leave
            | Self::Replace { .. }
            | Self::Enter { .. }
            | Self::Snapshot { .. } => Ok(()),
        }
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum GroupReply {
    /// It is not done, for people.
    #[n(0)]
    Refused(#[n(0)] String),
    /// It keeps the log.
    #[n(1)]
    Joined,
    /// Its vote.
    #[n(2)]
    Voted {
        /// Whom it votes for.
        #[n(0)]
        ballot: Ballot,
        /// Whether that is who asked.
        #[n(1)]
        is_granted: bool,
        /// The last entry it has.
        #[n(2)]
        last: Option<EntryId>,
    },
    /// It has all of them.
    #[n(3)]
    Appended,
    /// It has them up to here.
    #[n(4)]
    AppendedTo(#[n(0)] Option<EntryId>),
    /// It has another entry where the one before them should be.
    #[n(5)]
    Conflict,
    /// It follows somebody of a later term.
    #[n(6)]
    Higher(#[n(0)] Ballot),
    /// It will lead.
    #[n(7)]
    Transferring,
    /// It has not all of them.
    #[n(8)]
    Behind(#[n(0)] Option<EntryId>),
    /// What came of the command.
    #[n(9)]
    Proposed(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// It does not lead; who does, as far as it knows.
    #[n(10)]
    Led(#[n(0)] Option<VoterKey>),
    /// It keeps nothing of this group: it never did, or its disk is another one now.
    #[n(11)]
    Stranger,
    /// Who asks does not belong to the group, as far as it knows.
    #[n(12)]
    Removed,
    /// It has left.
    #[n(13)]
    Gone,
    /// It will be done.
    #[n(14)]
    Replacing,
    /// It is getting it.
    #[n(15)]
    Fetching,
    /// It has it, and whom it follows.
    #[n(16)]
    Installed(#[n(0)] Ballot),
    /// What was wished for.
    #[n(17)]
    Fetched(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
}

impl Wire for GroupReply {
    const WHAT: &'static str = "answer in a group";
    const BYTES_MAX: usize = DIRECT_PAYLOAD_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Refused(detail) => check_text("detail", detail, REASON_BYTES_MAX),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(command: Vec<u8>) -> Entry {
        let reign = Reign {
            term: 3,
            leader: [7; 32],
        };
        Entry {
            id: EntryId { reign, index: 9 },
            content: Content::Command(command),
        }
    }

    #[test]
    fn the_largest_command_fits_into_a_message() {
        let largest = entry(vec![1; COMMAND_BYTES_MAX]);
        assert!(largest.to_checked_bytes().is_ok());
        let id = largest.id;
        let append = GroupRequest::Append {
            ballot: Ballot {
                reign: id.reign,
                is_elected: true,
            },
            before: Some(id),
            entries: vec![largest],
            committed: Some(id),
        };
        let bytes = append.to_checked_bytes().unwrap();
        assert_eq!(GroupRequest::from_bytes(&bytes).unwrap(), append);
        assert!(entry(vec![1; COMMAND_BYTES_MAX + 1]).to_checked_bytes().is_err());
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let many = Voters(vec![VoterKey([1; 32]); GROUP_MEMBERS_MAX + 1]);
        let bytes = GroupRequest::Join(many).to_bytes();
        assert!(GroupRequest::from_bytes(&bytes).is_err());
        let reply = GroupReply::Refused("x".repeat(REASON_BYTES_MAX + 1)).to_bytes();
        assert!(GroupReply::from_bytes(&reply).is_err());
    }
}
