//! Which subscriptions match a subject, among very many: a tree with a branch for each token.
//!
//! A match walks at most two branches for each token of the subject, the literal one and `*`, however many subscriptions there
//! are. A first token that begins with `$` is met by itself only, as [`weft_protocol::Pattern`] has it.

use std::collections::{BTreeSet, HashMap};

use weft_protocol::{Pattern, Subject, limits::SUBJECT_TOKENS_MAX};

#[derive(Debug, Default)]
struct Branch {
    literal: HashMap<Box<str>, Branch>,
    one: Option<Box<Branch>>,
    /// Subscriptions that end here.
    here: BTreeSet<u64>,
    /// Subscriptions that take everything below here.
    tail: BTreeSet<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct SubjectTrie {
    root: Branch,
}

impl SubjectTrie {
    /// Adds a subscription.
    pub fn insert(&mut self, pattern: &Pattern, id: u64) {
        let mut branch = &mut self.root;
        for token in pattern.as_str().split('.') {
            branch = match token {
                ">" => {
                    branch.tail.insert(id);
                    return;
                }
                "*" => branch.one.get_or_insert_default(),
                literal => branch.literal.entry(literal.into()).or_default(),
            };
        }
        branch.here.insert(id);
    }

    /// Takes a subscription out, and the branches that nobody needs any more.
    pub fn remove(&mut self, pattern: &Pattern, id: u64) {
        let tokens: Vec<&str> = pattern.as_str().split('.').collect();
        self.root.remove(&tokens, id);
    }

    /// The subscriptions that match, each once, in no particular order.
    pub fn matching(&self, subject: &Subject, found: &mut Vec<u64>) {
        let mut tokens = [""; SUBJECT_TOKENS_MAX];
        let mut count = 0;
        for token in subject.tokens().take(SUBJECT_TOKENS_MAX) {
            tokens[count] = token;
            count += 1;
        }
        self.root.matching(&tokens[..count], !subject.is_reserved(), found);
    }
}

impl Branch {
    fn is_empty(&self) -> bool {
        self.literal.is_empty() && self.one.is_none() && self.here.is_empty() && self.tail.is_empty()
    }

    /// As deep as a pattern has tokens, which is bounded.
    fn remove(&mut self, tokens: &[&str], id: u64) {
        match tokens {
            [] => {
                self.here.remove(&id);
            }
            [">", ..] => {
                self.tail.remove(&id);
            }
            ["*", rest @ ..] => {
                if let Some(one) = &mut self.one {
                    one.remove(rest, id);
                }
                self.one.take_if(|one| one.is_empty());
            }
            [literal, rest @ ..] => {
                let Some(branch) = self.literal.get_mut(*literal) else {
                    return;
                };
                branch.remove(rest, id);
                if branch.is_empty() {
                    self.literal.remove(*literal);
                }
            }
        }
    }

    fn matching(&self, tokens: &[&str], wild_allowed: bool, found: &mut Vec<u64>) {
        let [first, rest @ ..] = tokens else {
            found.extend(&self.here);
            return;
        };
        if wild_allowed {
            found.extend(&self.tail);
            if let Some(one) = &self.one {
                one.matching(rest, true, found);
            }
        }
        if let Some(branch) = self.literal.get(*first) {
            branch.matching(rest, true, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(trie: &SubjectTrie, subject: &str) -> Vec<u64> {
        let mut found = Vec::new();
        trie.matching(&Subject::reserved(subject).unwrap(), &mut found);
        found.sort_unstable();
        found
    }

    #[test]
    fn wildcards_match_as_patterns_do_and_nothing_is_left_behind() {
        let mut trie = SubjectTrie::default();
        let patterns = [">", "*", "a.*", "a.>", "a.b", "*.b", "$sys.>", "*.*.c"];
        let patterns: Vec<Pattern> = patterns.iter().map(|p| p.parse().unwrap()).collect();
        for (pattern, id) in patterns.iter().zip(0..) {
            trie.insert(pattern, id);
        }
        assert_eq!(found(&trie, "a"), [0, 1]);
        assert_eq!(found(&trie, "a.b"), [0, 2, 3, 4, 5]);
        assert_eq!(found(&trie, "a.b.c"), [0, 3, 7]);
        assert_eq!(found(&trie, "$sys.b"), [6]);
        for (pattern, id) in patterns.iter().zip(0..) {
            trie.remove(pattern, id);
            trie.remove(pattern, id);
        }
        assert!(trie.root.is_empty());
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_patterns_themselves(
            patterns in prop::collection::vec("([ab]|\\*)(\\.([ab]|\\*)){0,3}(\\.>)?", 1..30),
            subjects in prop::collection::vec("\\$?[ab](\\.[ab]){0,4}", 1..20),
            gone in any::<prop::sample::Index>(),
        ) {
            let patterns: Vec<Pattern> = patterns.iter().map(|p| p.parse().unwrap()).collect();
            let mut trie = SubjectTrie::default();
            for (pattern, id) in patterns.iter().zip(0..) {
                trie.insert(pattern, id);
            }
            let gone = gone.index(patterns.len());
            trie.remove(&patterns[gone], gone as u64);
            for subject in &subjects {
                let parsed = Subject::reserved(subject).unwrap();
                let expected: Vec<u64> = patterns
                    .iter()
                    .zip(0u64..)
                    .filter(|(pattern, id)| *id != gone as u64 && pattern.matches(&parsed))
                    .map(|(_, id)| id)
                    .collect();
                prop_assert_eq!(found(&trie, subject), expected, "{}", subject);
            }
        }
    }
}
