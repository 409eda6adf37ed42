//! What can be done, and sets of it.

use std::fmt;
use std::str::FromStr;

use minicbor::decode::{Decoder, Error};
use minicbor::encode::{self, Encoder, Write};
use minicbor::{Decode, Encode};

use crate::error::{DecodeError, at_most};
use crate::text::serde_as_text;

/// Something a member does. The codes are part of the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
#[repr(u8)]
pub enum Verb {
    /// Publish messages on a subject.
    #[n(0)]
    Publish = 0,
    /// Receive messages of a subject.
    #[n(1)]
    Subscribe = 1,
    /// Call a service.
    #[n(2)]
    Call = 2,
    /// Answer for a service.
    #[n(3)]
    Serve = 3,
    /// Append to a stream.
    #[n(4)]
    Append = 4,
    /// Read a stream or a file.
    #[n(5)]
    Read = 5,
    /// Start a workflow, a pipeline or a query.
    #[n(6)]
    Run = 6,
    /// Issue certificates; the resource is `role.<name>` of the roles they may carry.
    #[n(7)]
    Invite = 7,
    /// Issue capabilities on a resource.
    #[n(8)]
    Grant = 8,
    /// Revoke members.
    #[n(9)]
    Admin = 9,
}

impl Verb {
    /// Every verb, in the order of its code.
    pub const ALL: [Self; 10] = [
        Self::Publish,
        Self::Subscribe,
        Self::Call,
        Self::Serve,
        Self::Append,
        Self::Read,
        Self::Run,
        Self::Invite,
        Self::Grant,
        Self::Admin,
    ];

    /// The code on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The verb with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The word people type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "pub",
            Self::Subscribe => "sub",
            Self::Call => "call",
            Self::Serve => "serve",
            Self::Append => "append",
            Self::Read => "read",
            Self::Run => "run",
            Self::Invite => "invite",
            Self::Grant => "grant",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Verb {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        at_most("verb", text.len(), 16)?;
        Self::ALL.into_iter().find(|verb| verb.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|verb| verb.as_str()).collect();
            DecodeError::invalid("verb", format!("{text:?} is none of {}", known.join(" ")))
        })
    }
}

serde_as_text!(Verb);

/// A set of verbs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Verbs(u16);

impl Verbs {
    /// No verb.
    pub const NONE: Self = Self(0);
    /// Every verb.
    pub const ALL: Self = Self((1 << Verb::ALL.len()) - 1);

    /// The set with this one verb.
    pub fn one(verb: Verb) -> Self {
        Self(1 << verb.code())
    }

    /// The set as bits, bit number = code of the verb; `None` if a bit is no verb.
    pub fn from_bits(bits: u16) -> Option<Self> {
        (bits & !Self::ALL.0 == 0).then_some(Self(bits))
    }

    /// The bits, bit number = code of the verb.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Whether `verb` is in the set.
    pub fn contains(self, verb: Verb) -> bool {
        self.0 & (1 << verb.code()) != 0
    }

    /// Whether every verb of `self` is in `other`.
    pub fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether there is no verb in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set with `verb` added.
    #[must_use]
    pub fn with(self, verb: Verb) -> Self {
        Self(self.0 | 1 << verb.code())
    }

    /// The verbs, in the order of their codes.
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |verb| self.contains(*verb))
    }
}

impl FromIterator<Verb> for Verbs {
    fn from_iter<I: IntoIterator<Item = Verb>>(verbs: I) -> Self {
        verbs.into_iter().fold(Self::NONE, Self::with)
    }
}

impl From<Verb> for Verbs {
    fn from(verb: Verb) -> Self {
        Self::one(verb)
    }
}

impl fmt::Display for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("all");
        }
        for (at, verb) in self.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            f.write_str(verb.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verbs({self})")
    }
}

impl FromStr for Verbs {
    type Err = DecodeError;

    /// Reads `pub,sub` or `all`.
    fn from_str(text: &str) -> Result<Self, DecodeError> {
        at_most("verbs", text.len(), 256)?;
        if text == "all" {
            return Ok(Self::ALL);
        }
        text.split(',').map(|word| word.trim().parse::<Verb>()).collect()
    }
}

serde_as_text!(Verbs);

impl<C> Encode<C> for Verbs {
    fn encode<W: Write>(&self, encoder: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        encoder.u16(self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Verbs {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
        let bits = decoder.u16()?;
        Self::from_bits(bits).ok_or_else(|| Error::message(format!("verbs {bits:#x} that do not exist")))
    }
}
