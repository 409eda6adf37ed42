//! What the members of a group agree upon.

use minicbor::{Decode, Encode};
use weft_protocol::{
    DecodeError, PublicKey, Subject, Wire,
    consensus::COMMAND_BYTES_MAX,
    patterns::event_sourcing::{
        Append, Appended, StreamFailure,
        schema::{Schema, check_schema_id},
    },
};

use crate::patterns::event_sourcing::options::StreamOptions;

/// One entry of a group's log. It says everything that what comes of it depends upon: the time, and who asked.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(in super::super) enum Command {
    /// Make a stream.
    #[n(0)]
    Create {
        /// Its name.
        #[n(0)]
        name: Subject,
        /// How much of it is kept.
        #[n(1)]
        options: StreamOptions,
        /// When, Unix milliseconds.
        #[n(2)]
        at_ms: u64,
    },
    /// Append to one.
    #[n(1)]
    Append {
        /// Its name.
        #[n(0)]
        name: Subject,
        /// What.
        #[n(1)]
        append: Append,
        /// Who asked.
        #[n(2)]
        author: PublicKey,
        /// When, Unix milliseconds.
        #[n(3)]
        at_ms: u64,
    },
    /// Change how much of one is kept.
    #[n(2)]
    Update {
        /// Its name.
        #[n(0)]
        name: Subject,
        /// How much.
        #[n(1)]
        options: StreamOptions,
    },
    /// Delete one.
    #[n(3)]
    Delete(#[n(0)] Subject),
    /// Write down how a consumer is.
    #[n(4)]
    Consumer {
        /// The stream.
        #[n(0)]
        name: Subject,
        /// The consumer.
        #[n(1)]
        consumer: String,
        /// As what it is kept; none: not any more.
        #[cbor(n(2), with = "minicbor::bytes")]
        state: Option<Vec<u8>>,
        /// Dead letters that it has, or has no longer.
        #[n(3)]
        dead: Vec<DeadEntry>,
        /// The term in which that was found: another leader may have gone on from elsewhere.
        #[n(4)]
        term: u64,
    },
    /// Add a schema, or remove one.
    #[n(5)]
    Schema {
        /// The stream.
        #[n(0)]
        name: Subject,
        /// The schema's id.
        #[n(1)]
        id: String,
        /// What it says; none: it is no more.
        #[n(2)]
        schema: Option<Schema>,
    },
}

/// A dead letter of a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(in super::super) struct DeadEntry {
    /// Of which record.
    #[n(0)]
    pub(in super::super) position: u64,
    /// As what it is kept; none: not any more.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(in super::super) letter: Option<Vec<u8>>,
}

impl Wire for Command {
    const WHAT: &'static str = "command of a group";
    const BYTES_MAX: usize = COMMAND_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Command::Append { append, .. } => append.check(),
            Command::Schema { id, schema, .. } => {
                check_schema_id(id)?;
                schema.as_ref().map_or(Ok(()), Schema::check)
            }
            _ => Ok(()),
        }
    }

    fn bytes_expected(&self) -> usize {
        match self {
            Command::Append { append, .. } => append.events.iter().map(|event| event.bytes() + 64).sum::<usize>() + 256,
            _ => 0,
        }
    }
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(in super::super) enum Outcome {
    /// It was done.
    #[n(0)]
    Done,
    /// It was appended.
    #[n(1)]
    Appended(#[n(0)] Appended),
    /// It was not done.
    #[n(2)]
    Failed(#[n(0)] StreamFailure),
}

impl Wire for Outcome {
    const WHAT: &'static str = "outcome of a command";
    const BYTES_MAX: usize = 16 * 1024;
}
