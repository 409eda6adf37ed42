//! Consumers: who has taken what of a stream, kept by its owner.

use minicbor::{Decode, Encode};

use super::{CONSUMER_NAME_BYTES_MAX, From, Positioned, Query, READ_RECORDS_MAX, RECORD_BYTES_MAX};
use crate::codec::bounded;
use crate::error::{DecodeError, at_most};
use crate::limits::REASON_BYTES_MAX;
use crate::name::check_text;

/// Pauses of a consumer.
pub const BACKOFF_MAX: usize = 16;
/// Records settled at once.
pub const SETTLE_MAX: usize = 1024;
/// Consumers of one stream.
pub const CONSUMERS_MAX: usize = 256;
const DAY_MS: u64 = 86_400_000;

/// How records are handed out.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ConsumerOptions {
    /// Where it began.
    #[n(0)]
    pub from: From,
    /// Which records.
    #[n(1)]
    pub query: Query,
    /// How long a worker has to settle a record, milliseconds; then it is handed out again.
    #[n(2)]
    pub ack_wait_ms: u64,
    /// How often a record is handed out until it is a dead letter; none: for ever.
    #[n(3)]
    pub deliver_max: Option<u32>,
    /// The pauses before a record is handed out again, milliseconds: after the first time, after the second, …; the last one goes on.
    #[cbor(n(4), decode_with = "bounded::list::<{ BACKOFF_MAX }, _, _>")]
    pub backoff_ms: Vec<u64>,
    /// Records that are handed out and not settled, at most.
    #[n(5)]
    pub pending_max: u32,
    /// What comes after what.
    #[n(6)]
    pub order: Order,
    /// Whether workers settle what they are handed. If not it is done as soon as it is handed out, and comes once at most.
    #[n(7)]
    pub is_acked: bool,
    /// The consumer goes when nobody has asked for records or settled one for so long, milliseconds; none: it stays.
    #[n(8)]
    pub idle_ms: Option<u64>,
    /// Whether data come as the newest schema has them, as far as the stream knows how.
    #[n(9)]
    pub is_upcast: Option<bool>,
}

/// In which order records are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum Order {
    /// As they stand in the stream: what is handed out together is settled before more is.
    #[n(0)]
    Stream,
    /// Records of one key one after the other, each when the one before is settled; others beside each other.
    #[default]
    #[n(1)]
    Key,
    /// As workers come.
    #[n(2)]
    Any,
}

impl ConsumerOptions {
    /// What must hold beyond the shape.
    ///
    /// # Errors
    /// A number that cannot be.
    pub fn check(&self) -> Result<(), DecodeError> {
        self.query.check()?;
        at_most("pauses", self.backoff_ms.len(), BACKOFF_MAX)?;
        let mut numbers = vec![
            (
                "the time to settle a record, in milliseconds",
                self.ack_wait_ms,
                1,
                DAY_MS,
            ),
            ("the records handed out at once", self.pending_max.into(), 1, 10_000),
        ];
        if let Some(idle) = self.idle_ms {
            let what = "the time that a consumer stays without work, in milliseconds";
            numbers.push((what, idle, 1000, 30 * DAY_MS));
        }
        if let Some(most) = self.deliver_max {
            numbers.push(("the deliveries of a record", most.into(), 1, 1000));
        }
        let pauses = self.backoff_ms.iter();
        numbers.extend(pauses.map(|pause| ("a pause, in milliseconds", *pause, 0, DAY_MS)));
        for (what, value, least, most) in numbers {
            if !(least..=most).contains(&value) {
                let reason = format!("{what}: {value} is not {least} to {most}");
                return Err(DecodeError::invalid("consumer", reason));
            }
        }
        Ok(())
    }
}

/// Whether a consumer may be called so.
///
/// # Errors
/// It is empty, too long, or has other characters than letters, digits, - and _.
pub fn check_consumer_name(name: &str) -> Result<(), DecodeError> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > CONSUMER_NAME_BYTES_MAX || !name.bytes().all(is_good) {
        return Err(DecodeError::invalid(
            "consumer's name",
            format!("it has 1 to {CONSUMER_NAME_BYTES_MAX} letters, digits, - and _"),
        ));
    }
    Ok(())
}

/// What becomes of a record that was handed out.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Settlement {
    /// It is done.
    #[n(0)]
    Done,
    /// It is handed out again, after this pause or the consumer's own.
    #[n(1)]
    Again {
        /// Milliseconds.
        #[n(0)]
        pause_ms: Option<u64>,
        /// Why, for people.
        #[n(1)]
        reason: String,
    },
    /// It is a dead letter.
    #[n(2)]
    Dead {
        /// Why, for people.
        #[n(0)]
        reason: String,
    },
    /// The worker needs more time: as much as it had.
    #[n(3)]
    Longer,
    /// No worker got it: it is handed out again at once, and this time does not count.
    #[n(4)]
    Unseen,
}

/// What was handed out: a record's position, and the how-many-th time it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Handed {
    /// The position.
    #[n(0)]
    pub position: u64,
    /// From 1.
    #[n(1)]
    pub delivery: u32,
}

/// What is asked about consumers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ConsumerRequest {
    /// Define one; the same definition twice is no mistake.
    #[n(0)]
    Add {
        /// Its name.
        #[n(0)]
        name: String,
        /// How.
        #[n(1)]
        options: ConsumerOptions,
    },
    /// Remove one.
    #[n(1)]
    Remove(#[n(0)] String),
    /// All of the stream.
    #[n(2)]
    List,
    /// Hand out records.
    #[n(3)]
    Next {
        /// Whose.
        #[n(0)]
        name: String,
        /// So many at most.
        #[n(1)]
        count: u32,
        /// How long to wait for the first, milliseconds.
        #[n(2)]
        wait_ms: u32,
    },
    /// Settle records.
    #[n(4)]
    Settle {
        /// Whose.
        #[n(0)]
        name: String,
        /// Which.
        #[cbor(n(1), decode_with = "bounded::list::<{ SETTLE_MAX }, _, _>")]
        handed: Vec<Handed>,
        /// What becomes of them.
        #[n(2)]
        settlement: Settlement,
    },
    /// Begin anew from somewhere.
    #[n(5)]
    Reset {
        /// Whose.
        #[n(0)]
        name: String,
        /// Where.
        #[n(1)]
        from: From,
    },
    /// Dead letters, from the one behind this position.
    #[n(6)]
    DeadLetters {
        /// Whose.
        #[n(0)]
        name: String,
        /// Behind.
        #[n(1)]
        after: u64,
        /// So many at most.
        #[n(2)]
        count: u32,
    },
    /// Hand out dead letters again.
    #[n(7)]
    Redrive {
        /// Whose.
        #[n(0)]
        name: String,
        /// Which; none: all.
        #[cbor(n(1), decode_with = "bounded::list::<{ SETTLE_MAX }, _, _>")]
        positions: Vec<u64>,
    },
}

impl ConsumerRequest {
    /// What must hold beyond the shape.
    ///
    /// # Errors
    /// A name or a number that cannot be.
    pub fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Add { name, options } => {
                check_consumer_name(name)?;
                options.check()
            }
            Self::Settle { name, settlement, .. } => {
                check_consumer_name(name)?;
                match settlement {
                    Settlement::Again { reason, .. } | Settlement::Dead { reason } => {
                        check_text("reason", reason, REASON_BYTES_MAX)
                    }
                    Settlement::Done | Settlement::Longer | Settlement::Unseen => Ok(()),
                }
            }
            Self::Remove(name)
            | Self::Next { name, .. }
            | Self::Reset { name, .. }
            | Self::DeadLetters { name, .. }
            | Self::Redrive { name, .. } => check_consumer_name(name),
            Self::List => Ok(()),
        }
    }
}

/// How a consumer is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ConsumerFigures {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// How it was defined.
    #[n(1)]
    pub options: ConsumerOptions,
    /// Every record up to this position is settled.
    #[n(2)]
    pub settled: u64,
    /// The last position that was handed out, or passed over.
    #[n(3)]
    pub reached: u64,
    /// Records that are handed out and not settled.
    #[n(4)]
    pub pending: u32,
    /// Records that wait to be handed out again.
    #[n(5)]
    pub waiting: u32,
    /// Records behind the last one that was reached, whether they are meant or not.
    #[n(6)]
    pub behind: u64,
    /// Dead letters.
    #[n(7)]
    pub dead: u32,
}

/// A record that was handed out.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Delivery {
    /// Where and what it is.
    #[n(0)]
    pub record: Positioned,
    /// The how-many-th time it is handed out.
    #[n(1)]
    pub delivery: u32,
}

/// A record that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DeadLetter {
    /// Its position.
    #[n(0)]
    pub position: u64,
    /// How often it was handed out.
    #[n(1)]
    pub deliveries: u32,
    /// Why, for people.
    #[n(2)]
    pub reason: String,
    /// Since when, Unix milliseconds.
    #[n(3)]
    pub since_ms: u64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ConsumerReply {
    /// It is done; so many records, or whether it was new.
    #[n(0)]
    Done(#[n(0)] u64),
    /// All of the stream.
    #[n(1)]
    List(#[cbor(n(0), decode_with = "bounded::list::<{ CONSUMERS_MAX }, _, _>")] Vec<ConsumerFigures>),
    /// What is handed out.
    #[n(2)]
    Handed(#[cbor(n(0), decode_with = "bounded::list::<{ READ_RECORDS_MAX }, _, _>")] Vec<Delivery>),
    /// Dead letters.
    #[n(3)]
    Dead(#[cbor(n(0), decode_with = "bounded::list::<{ READ_RECORDS_MAX }, _, _>")] Vec<DeadLetter>),
}

impl ConsumerReply {
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Handed(list) => list
                .iter()
                .try_for_each(|one| at_most("record", one.record.record.len(), RECORD_BYTES_MAX)),
            Self::Dead(list) => list
                .iter()
                .try_for_each(|one| check_text("reason", &one.reason, REASON_BYTES_MAX)),
            Self::List(list) => list.iter().try_for_each(|one| check_consumer_name(&one.name)),
            Self::Done(_) => Ok(()),
        }
    }
}
