//! Interest: what the applications of a node subscribe to, as its record says it to every member.

use minicbor::{Decode, Encode};

use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::limits::{ANNOUNCEMENT_BYTES_MAX, INTEREST_PATTERNS_MAX};
use crate::subject::{Pattern, Subject};

/// The key of the announcement in a node record.
pub const ANNOUNCEMENT_KEY: &str = "pub_sub";

/// Patterns that cover everything a node subscribes to; wider than that when it subscribes to much.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Interest(#[cbor(n(0), decode_with = "bounded::list::<{ INTEREST_PATTERNS_MAX }, _, _>")] pub Vec<Pattern>);

impl Interest {
    /// What covers these patterns and fits into an announcement: the patterns themselves, or everything that begins with the
    /// same first tokens, or everything.
    pub fn covering<'a>(patterns: impl IntoIterator<Item = &'a Pattern>) -> Self {
        let mut distinct: Vec<Pattern> = Vec::new();
        let mut by_first: Vec<Pattern> = Vec::new();
        for pattern in patterns {
            add(&mut distinct, pattern.clone());
            for wide in widened(pattern) {
                add(&mut by_first, wide);
            }
        }
        let fitting = [distinct, by_first].into_iter().map(Self::narrowed).find(Self::fits);
        fitting.unwrap_or_else(|| Self(vec![Pattern::all()]))
    }

    /// Whether a subject is among those wanted.
    pub fn includes(&self, subject: &Subject) -> bool {
        self.0.iter().any(|pattern| pattern.matches(subject))
    }

    /// Without the patterns that others of them cover.
    fn narrowed(mut patterns: Vec<Pattern>) -> Self {
        if patterns.len() > INTEREST_PATTERNS_MAX {
            return Self(patterns);
        }
        patterns.sort();
        let covered = |one: &Pattern| patterns.iter().any(|other| other != one && other.covers(one));
        Self(patterns.iter().filter(|one| !covered(one)).cloned().collect())
    }

    fn fits(&self) -> bool {
        let bytes: usize = self.0.iter().map(|pattern| pattern.as_str().len() + 3).sum();
        self.0.len() <= INTEREST_PATTERNS_MAX && bytes < ANNOUNCEMENT_BYTES_MAX
    }
}

/// Adds what is not there. One more than the most that fit is as good as many more.
fn add(patterns: &mut Vec<Pattern>, pattern: Pattern) {
    if patterns.len() <= INTEREST_PATTERNS_MAX && !patterns.contains(&pattern) {
        patterns.push(pattern);
    }
}

/// What covers a pattern and says no more than its first token.
fn widened(pattern: &Pattern) -> Vec<Pattern> {
    let (first, rest) = match pattern.as_str().split_once('.') {
        Some((first, _)) => (first, true),
        None => (pattern.as_str(), false),
    };
    match (first, rest) {
        ("*" | ">", _) => vec![Pattern::all()],
        (first, true) => format!("{first}.>").parse().into_iter().collect(),
        (_, false) => vec![pattern.clone()],
    }
}

impl Wire for Interest {
    const WHAT: &'static str = "interest";
    const BYTES_MAX: usize = ANNOUNCEMENT_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        at_most("patterns", self.0.len(), INTEREST_PATTERNS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[String]) -> Vec<Pattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn covering(texts: &[String]) -> Vec<String> {
        let interest = Interest::covering(&patterns(texts));
        let bytes = interest.to_checked_bytes().unwrap();
        assert_eq!(Interest::from_bytes(&bytes).as_ref(), Ok(&interest));
        interest.0.iter().map(|pattern| pattern.as_str().to_owned()).collect()
    }

    #[test]
    fn little_is_said_as_it_is_and_much_is_said_widely() {
        assert!(covering(&[]).is_empty());
        let few = ["orders.eu".to_owned(), "orders.>".to_owned(), "a.*.c".to_owned()];
        assert_eq!(covering(&few), ["a.*.c", "orders.>"]);
        let many: Vec<String> = (0..1000)
            .map(|n| format!("orders.n{n}"))
            .chain(["alone".to_owned()])
            .collect();
        assert_eq!(covering(&many), ["alone", "orders.>"]);
        let all: Vec<String> = (0..1000).map(|n| format!("t{n}.x")).collect();
        assert_eq!(covering(&all), [">"]);
        let long: Vec<String> = (0..100).map(|n| format!("{}.{n}", "long".repeat(40))).collect();
        assert_eq!(covering(&long).len(), 1);
    }

    #[test]
    fn whatever_is_said_covers_what_is_wanted() {
        for count in [1, 100, 200, 2000] {
            let texts: Vec<String> = (0..count).map(|n| format!("t{}.x.n{n}", n % 150)).collect();
            let interest = Interest::covering(&patterns(&texts));
            for text in &texts {
                assert!(interest.includes(&text.parse().unwrap()), "{count}: {text}");
            }
        }
        assert!(!Interest::covering(&patterns(&["a.*".to_owned()])).includes(&"b.c".parse().unwrap()));
    }
}
