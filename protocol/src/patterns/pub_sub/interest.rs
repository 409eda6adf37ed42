//! Interest: what the applications of a node subscribe to, as its record says it to every member.

use minicbor::{Decode, Encode};

use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::limits::{ANNOUNCEMENT_BYTES_MAX, GROUP_BYTES_MAX, INTEREST_PATTERNS_MAX};
use crate::name::check_text;
use crate::subject::{Pattern, Subject};

/// The key of the announcement in a node record.
pub const ANNOUNCEMENT_KEY: &str = "pub_sub";

/// A pattern that somebody at the node subscribes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Wanted {
    /// What is subscribed to.
    #[n(0)]
    pub pattern: Pattern,
    /// The queue group that shares it: one member of the group gets each message.
    #[n(1)]
    pub group: Option<String>,
    /// The attribute by which messages stick to a member of the group: those with the same value go to the same one.
    #[n(2)]
    pub key: Option<String>,
    /// Since when, Unix milliseconds by the node's calendar.
    #[n(3)]
    pub since_ms: u64,
}

impl Wanted {
    /// A subscription of its own.
    pub fn plain(pattern: Pattern, since_ms: u64) -> Self {
        Self {
            pattern,
            group: None,
            key: None,
            since_ms,
        }
    }

    /// Whether this one says all that another does.
    fn covers(&self, other: &Self) -> bool {
        (&self.group, &self.key) == (&other.group, &other.key) && self.pattern.covers(&other.pattern)
    }

    fn bytes(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(1, |text| text.len() + 2);
        self.pattern.as_str().len() + 3 + length(&self.group) + length(&self.key) + 10
    }
}

/// Checks the name of a queue group, or of the attribute that holds its key.
pub fn check_group(name: &str) -> Result<(), DecodeError> {
    if name.is_empty() {
        return Err(DecodeError::invalid("queue group", "its name is empty"));
    }
    check_text("queue group", name, GROUP_BYTES_MAX)
}

/// Patterns that cover everything a node subscribes to; wider than that when it subscribes to much.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Interest(#[cbor(n(0), decode_with = "bounded::list::<{ INTEREST_PATTERNS_MAX }, _, _>")] pub Vec<Wanted>);

impl Interest {
    /// What covers these and fits into an announcement: the patterns themselves, or everything that begins with the same
    /// first tokens, or everything. Groups are not widened: what does not fit is wanted by the node as a whole.
    pub fn covering<'a>(wanted: impl IntoIterator<Item = &'a Wanted>) -> Self {
        let mut distinct: Vec<Wanted> = Vec::new();
        let mut by_first: Vec<Wanted> = Vec::new();
        let mut since_ms = u64::MAX;
        for one in wanted {
            since_ms = since_ms.min(one.since_ms);
            add(&mut distinct, one.clone());
            for wide in widened(&one.pattern) {
                add(&mut by_first, Wanted::plain(wide, one.since_ms));
            }
        }
        let fitting = [distinct, by_first].into_iter().map(Self::narrowed).find(Self::fits);
        fitting.unwrap_or_else(|| Self(vec![Wanted::plain(Pattern::all(), since_ms)]))
    }

    /// Whether a subject is among those wanted.
    pub fn includes(&self, subject: &Subject) -> bool {
        self.0.iter().any(|wanted| wanted.pattern.matches(subject))
    }

    /// Without those that others of them cover. What covers takes the earlier time.
    fn narrowed(mut wanted: Vec<Wanted>) -> Self {
        if wanted.len() > INTEREST_PATTERNS_MAX {
            return Self(wanted);
        }
        wanted.sort();
        let mut kept: Vec<Wanted> = Vec::new();
        for one in &wanted {
            if wanted.iter().any(|other| other != one && other.covers(one)) {
                continue;
            }
            let covered = wanted.iter().filter(|other| one.covers(other));
            let since_ms = covered.map(|other| other.since_ms).min().unwrap_or(one.since_ms);
            kept.push(Wanted {
                since_ms,
                ..one.clone()
            });
        }
        Self(kept)
    }

    fn fits(&self) -> bool {
        let bytes: usize = self.0.iter().map(Wanted::bytes).sum();
        self.0.len() <= INTEREST_PATTERNS_MAX && bytes < ANNOUNCEMENT_BYTES_MAX
    }
}

/// Adds what is not there. One more than the most that fit is as good as many more.
fn add(all: &mut Vec<Wanted>, wanted: Wanted) {
    let same =
        |one: &&mut Wanted| (&one.pattern, &one.group, &one.key) == (&wanted.pattern, &wanted.group, &wanted.key);
    if let Some(one) = all.iter_mut().find(same) {
        one.since_ms = one.since_ms.min(wanted.since_ms);
    } else if all.len() <= INTEREST_PATTERNS_MAX {
        all.push(wanted);
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
        at_most("patterns", self.0.len(), INTEREST_PATTERNS_MAX)?;
        self.0.iter().try_for_each(|wanted| {
            wanted.group.as_deref().map_or(Ok(()), check_group)?;
            wanted.key.as_deref().map_or(Ok(()), check_group)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(texts: &[String]) -> Vec<Wanted> {
        let wanted = |(text, since_ms): (&String, u64)| Wanted::plain(text.parse().unwrap(), since_ms);
        texts.iter().zip(1..).map(wanted).collect()
    }

    fn covering(texts: &[String]) -> Vec<String> {
        let interest = Interest::covering(&wanted(texts));
        let bytes = interest.to_checked_bytes().unwrap();
        assert_eq!(Interest::from_bytes(&bytes).as_ref(), Ok(&interest));
        let text = |wanted: &Wanted| wanted.pattern.as_str().to_owned();
        interest.0.iter().map(text).collect()
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
    fn whatever_is_said_covers_what_is_wanted_and_since_when() {
        for count in [1, 100, 200, 2000] {
            let texts: Vec<String> = (0..count).map(|n| format!("t{}.x.n{n}", n % 150)).collect();
            let interest = Interest::covering(&wanted(&texts));
            for (text, since_ms) in texts.iter().zip(1..) {
                let subject = text.parse().unwrap();
                let covers = |one: &Wanted| one.pattern.matches(&subject) && one.since_ms <= since_ms;
                assert!(interest.0.iter().any(covers), "{count}: {text}");
            }
        }
        assert!(!Interest::covering(&wanted(&["a.*".to_owned()])).includes(&"b.c".parse().unwrap()));
    }

    #[test]
    fn groups_are_said_beside_what_is_wanted_without_them() {
        let plain = Wanted::plain("jobs.>".parse().unwrap(), 5);
        let grouped = Wanted {
            pattern: "jobs.eu".parse().unwrap(),
            group: Some("g".to_owned()),
            key: None,
            since_ms: 3,
        };
        let keyed = Wanted {
            key: Some("order".to_owned()),
            ..grouped.clone()
        };
        let interest = Interest::covering([&plain, &grouped, &keyed, &grouped]);
        assert_eq!(interest.0.len(), 3);
        let nameless = Wanted {
            group: Some(String::new()),
            ..grouped
        };
        assert!(Interest(vec![nameless]).to_checked_bytes().is_err());
    }
}
