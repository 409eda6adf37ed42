//! Patterns: which subjects they match and which patterns they contain.

use std::fmt;
use std::str::FromStr;

use minicbor::decode::{Decode, Decoder, Error};
use minicbor::encode::{self, Encode, Encoder, Write};

use super::{Subject, check_literal, check_tokens, shard_of};
use crate::error::DecodeError;
use crate::limits::SUBJECT_TOKENS_MAX;
use crate::text::serde_as_text;

const WHAT: &str = "pattern";

/// A subject with wildcards: `*` is one token, a final `>` is one or more.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(String);

/// The shards in which the subjects of a pattern can occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shards {
    /// Only this one.
    One(u16),
    /// Any of them.
    All,
}

/// One position of a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Literal(&'a str),
    One,
    Tail,
}

impl<'a> Token<'a> {
    fn of(text: &'a str) -> Self {
        match text {
            "*" => Self::One,
            ">" => Self::Tail,
            literal => Self::Literal(literal),
        }
    }

    /// A literal that only a literal can match.
    fn is_reserved(self) -> bool {
        matches!(self, Self::Literal(text) if text.starts_with('$'))
    }
}

impl Pattern {
    /// `>`: every subject that is not reserved.
    pub fn all() -> Self {
        Self(String::from(">"))
    }

    /// The pattern that matches exactly one subject.
    pub fn exactly(subject: &Subject) -> Self {
        Self(subject.as_str().to_owned())
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The subject, if there is no wildcard.
    pub fn as_subject(&self) -> Option<Subject> {
        Subject::reserved(&self.0).ok()
    }

    /// Whether `subject` is one of those meant.
    pub fn matches(&self, subject: &Subject) -> bool {
        let mut tokens = subject.tokens();
        let mut wild_allowed = !subject.is_reserved();
        for token in self.tokens() {
            let Some(given) = tokens.next() else {
                return false;
            };
            match token {
                Token::Literal(text) if text != given => return false,
                Token::One | Token::Tail if !wild_allowed => return false,
                Token::Tail => return true,
                Token::Literal(_) | Token::One => {}
            }
            wild_allowed = true;
        }
        tokens.next().is_none()
    }

    /// Whether every subject that `narrower` matches is matched by `self`. Exact but for one case it denies: containment that
    /// holds only because a subject has at most 256 bytes.
    pub fn covers(&self, narrower: &Pattern) -> bool {
        let mut wide = self.tokens().enumerate().map(|(at, token)| bounded(at, token));
        let mut narrow = narrower.tokens().enumerate().map(|(at, token)| bounded(at, token));
        let mut first = true;
        loop {
            let covered = match (wide.next(), narrow.next()) {
                (None, None) => return true,
                // A final `>` takes the rest, unless the narrower one spells out a reserved token here.
                (Some(Token::Tail), Some(token)) => return !(first && token.is_reserved()),
                (Some(Token::One), Some(Token::Literal(_))) if first => !narrower.0.starts_with('$'),
                (Some(Token::One), Some(Token::Literal(_) | Token::One)) => true,
                (Some(Token::Literal(wide)), Some(Token::Literal(narrow))) => wide == narrow,
                _ => false,
            };
            if !covered {
                return false;
            }
            first = false;
        }
    }

    /// Whether there is a subject that both match.
    pub fn overlaps(&self, other: &Pattern) -> bool {
        let (mut one, mut two) = (self.tokens(), other.tokens());
        let mut first = true;
        loop {
            let (a, b) = match (one.next(), two.next()) {
                (None, None) => return true,
                (Some(a), Some(b)) => (a, b),
                _ => return false,
            };
            if first && (a.is_reserved() != b.is_reserved()) {
                return false;
            }
            match (a, b) {
                (Token::Tail, _) | (_, Token::Tail) => return true,
                (Token::Literal(a), Token::Literal(b)) if a != b => return false,
                _ => first = false,
            }
        }
    }

    /// Whether a subject that it matches can begin with this token.
    pub fn reaches(&self, first: &str) -> bool {
        match self.tokens().next() {
            Some(Token::Literal(text)) => text == first,
            _ => !first.starts_with('$'),
        }
    }

    /// Where subjects of this pattern can occur when there are `shards` topics.
    pub fn shards(&self, shards: u16) -> Shards {
        match self.tokens().next() {
            Some(Token::Literal(text)) => Shards::One(shard_of(text, shards)),
            _ => Shards::All,
        }
    }

    fn tokens(&self) -> impl Iterator<Item = Token<'_>> {
        self.0.split('.').map(Token::of)
    }
}

/// At the last possible position `>` can only stand for one token.
fn bounded(at: usize, token: Token<'_>) -> Token<'_> {
    if at + 1 == SUBJECT_TOKENS_MAX && token == Token::Tail {
        Token::One
    } else {
        token
    }
}

impl FromStr for Pattern {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        check_tokens(WHAT, text)?;
        let last = text.split('.').count() - 1;
        for (at, token) in text.split('.').enumerate() {
            match Token::of(token) {
                Token::Literal(literal) => check_literal(WHAT, literal, at == 0)?,
                Token::Tail if at != last => return Err(DecodeError::invalid(WHAT, "'>' is not its last token")),
                Token::One | Token::Tail => {}
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.0)
    }
}

serde_as_text!(Pattern);

impl<C> Encode<C> for Pattern {
    fn encode<W: Write>(&self, encoder: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        encoder.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Pattern {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
        decoder.str()?.parse().map_err(Error::custom)
    }
}
