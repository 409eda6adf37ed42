//! Subjects (`orders.eu.created`) and the patterns that select them (`orders.*.created`, `orders.>`).
//!
//! The grammar is that of NATS with plain tokens: `[A-Za-z0-9_-]+` between dots. In a pattern `*` stands for one token and `>`, at the
//! end, for one or more. A first token that begins with `$` is reserved for the node itself: text from users cannot name such a subject
//! ([`Subject::reserved`] can), and no wildcard matches it, a pattern has to spell it out. So neither a subscription to `>` nor a grant on
//! `>` reaches the node's own subjects.

mod pattern;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use minicbor::decode::{Decode, Decoder, Error};
use minicbor::encode::{self, Encode, Encoder, Write};

pub use pattern::{Pattern, Shards};

use crate::error::{DecodeError, at_most};
use crate::limits::{SUBJECT_BYTES_MAX, SUBJECT_TOKENS_MAX};
use crate::text::serde_as_text;

const WHAT: &str = "subject";

/// A concrete subject, without wildcards.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(String);

impl Subject {
    /// A subject whose first token may be reserved (`$weft.health`); for the node's own use.
    pub fn reserved(text: &str) -> Result<Self, DecodeError> {
        check_tokens(WHAT, text)?;
        for token in text.split('.').enumerate() {
            check_literal(WHAT, token.1, token.0 == 0)?;
        }
        Ok(Self(text.to_owned()))
    }

    /// The subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tokens between the dots.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether the first token is reserved for the node itself.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }

    /// Which of `shards` topics carries this subject; decided by the first token, so that most patterns need only one.
    pub fn shard(&self, shards: u16) -> u16 {
        shard_of(self.0.split('.').next().unwrap_or_default(), shards)
    }
}

/// FNV-1a, folded: cheap, the same everywhere, and not a defence against anybody.
fn shard_of(token: &str, shards: u16) -> u16 {
    let hash = token.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    ((hash ^ (hash >> 32)) % u64::from(shards.max(1))) as u16
}

/// Length and number of tokens.
fn check_tokens(what: &'static str, text: &str) -> Result<(), DecodeError> {
    at_most(what, text.len(), SUBJECT_BYTES_MAX)?;
    if text.is_empty() {
        return Err(DecodeError::invalid(what, "it is empty"));
    }
    let tokens = text.split('.').count();
    if tokens > SUBJECT_TOKENS_MAX {
        let reason = format!("it has {tokens} tokens, the limit is {SUBJECT_TOKENS_MAX}");
        return Err(DecodeError::invalid(what, reason));
    }
    Ok(())
}

/// One token that is not a wildcard.
fn check_literal(what: &'static str, token: &str, first: bool) -> Result<(), DecodeError> {
    let body = if first {
        token.strip_prefix('$').unwrap_or(token)
    } else {
        token
    };
    if body.is_empty() {
        return Err(DecodeError::invalid(what, "it has an empty token"));
    }
    match body
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || *c == '_' || *c == '-'))
    {
        Some(odd) => Err(DecodeError::invalid(
            what,
            format!("a token contains {odd:?}, allowed are A-Z a-z 0-9 _ -"),
        )),
        None => Ok(()),
    }
}

impl FromStr for Subject {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        let subject = Self::reserved(text)?;
        if subject.is_reserved() {
            return Err(DecodeError::invalid(WHAT, "subjects that begin with '$' are reserved"));
        }
        Ok(subject)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subject({})", self.0)
    }
}

serde_as_text!(Subject);

impl<C> Encode<C> for Subject {
    fn encode<W: Write>(&self, encoder: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        encoder.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Subject {
    /// Between nodes reserved subjects are ordinary ones.
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
        Self::reserved(decoder.str()?).map_err(Error::custom)
    }
}
