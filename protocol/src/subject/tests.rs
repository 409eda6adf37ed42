use proptest::prelude::*;

use super::*;
use crate::patterns::pub_sub::SHARDS;

fn subject(text: &str) -> Subject {
    Subject::reserved(text).unwrap()
}

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap()
}

#[test]
fn the_grammar_is_kept() {
    for good in ["a", "orders.eu.created", "A-1.b_2", "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p"] {
        assert_eq!(good.parse::<Subject>().unwrap().as_str(), good);
        assert_eq!(good.parse::<Pattern>().unwrap().as_subject(), Some(subject(good)));
    }
    let long = "a".repeat(257);
    let many = "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q";
    for bad in [
        "", ".", "a.", ".a", "a..b", "a b", "ä", "a.*", "*", ">", "a.$b", "a$", "$", "$.a", "a/b", &long, many,
    ] {
        assert!(
            bad.parse::<Subject>().is_err() && Subject::reserved(bad).is_err(),
            "{bad:?}"
        );
    }
    for bad in ["", "a.>.b", ">.a", "a.**", "a*", "a.>>", "a.$b", "$", "*.", many] {
        assert!(bad.parse::<Pattern>().is_err(), "{bad:?}");
    }
}

#[test]
fn reserved_subjects_are_for_the_node_alone() {
    assert!("$weft.health".parse::<Subject>().is_err());
    assert!(serde_json::from_str::<Subject>("\"$weft.health\"").is_err());
    let health = subject("$weft.health");
    assert!(health.is_reserved());
    assert!(!Pattern::all().matches(&health) && !pattern("*.health").matches(&health));
    assert!(pattern("$weft.>").matches(&health) && pattern("$weft.*").matches(&health));
    assert!(!Pattern::all().covers(&pattern("$weft.>")) && !pattern("*.health").covers(&pattern("$weft.health")));
    assert!(pattern("$weft.>").covers(&pattern("$weft.*")));
}

/// The meaning of a pattern, written down a second time and differently.
fn means(pattern: &[&str], subject: &[&str], first: bool) -> bool {
    let wild = !(first && subject.first().is_some_and(|token| token.starts_with('$')));
    match (pattern, subject) {
        ([], []) => true,
        ([">"], [_, ..]) => wild,
        (["*", pattern @ ..], [_, subject @ ..]) => wild && means(pattern, subject, false),
        ([literal, pattern @ ..], [token, subject @ ..]) => literal == token && means(pattern, subject, false),
        _ => false,
    }
}

/// All sequences of one to `longest` tokens, the first from `first`.
fn sequences(first: &[&'static str], later: &[&'static str], longest: usize) -> Vec<Vec<&'static str>> {
    let mut all: Vec<Vec<&str>> = first.iter().map(|token| vec![*token]).collect();
    let mut layer = all.clone();
    for _ in 1..longest {
        layer = layer
            .iter()
            .flat_map(|start| later.iter().map(|token| [&start[..], &[*token]].concat()))
            .collect();
        all.extend(layer.clone());
    }
    all
}

/// Every pair of patterns of up to three tokens against every subject that could tell them apart: "c" stands for all the tokens that no
/// pattern names, and one token more than the longest pattern for all that are longer.
#[test]
fn matching_and_covering_are_exact() {
    let texts: Vec<_> = sequences(&["a", "$a", "*", ">"], &["a", "b", "*", ">"], 3)
        .into_iter()
        .filter(|tokens| !tokens[..tokens.len() - 1].contains(&">"))
        .collect();
    let patterns: Vec<Pattern> = texts.iter().map(|tokens| pattern(&tokens.join("."))).collect();
    let all = sequences(&["a", "b", "c", "$a", "$c"], &["a", "b", "c"], 4);
    let subjects: Vec<Subject> = all.iter().map(|tokens| subject(&tokens.join("."))).collect();
    let matched: Vec<Vec<bool>> = patterns
        .iter()
        .zip(&texts)
        .map(|(pattern, text)| {
            let matches = |(subject, tokens): (&Subject, &Vec<&str>)| {
                let expected = means(text, tokens, true);
                assert_eq!(pattern.matches(subject), expected, "{pattern} on {subject}");
                expected
            };
            subjects.iter().zip(&all).map(matches).collect()
        })
        .collect();
    assert!(patterns.len() > 40 && subjects.len() > 150);
    for (wide, wide_matches) in patterns.iter().zip(&matched) {
        for (narrow, narrow_matches) in patterns.iter().zip(&matched) {
            let contained = narrow_matches
                .iter()
                .zip(wide_matches)
                .all(|(narrow, wide)| !narrow || *wide);
            assert_eq!(wide.covers(narrow), contained, "{wide} covers {narrow}");
        }
    }
}

#[test]
fn the_last_position_leaves_no_tail() {
    let stars = vec!["*"; 16].join(".");
    let tail = format!("{}.>", vec!["*"; 15].join("."));
    assert!(pattern(&stars).covers(&pattern(&tail)) && pattern(&tail).covers(&pattern(&stars)));
}

#[test]
fn a_pattern_knows_its_shards() {
    let shards: std::collections::BTreeSet<u16> = (0..100).map(|n| subject(&format!("t{n}")).shard(SHARDS)).collect();
    assert_eq!(shards.len(), usize::from(SHARDS), "a hundred tokens reach every shard");
    assert_eq!(
        pattern("orders.>").shards(SHARDS),
        Shards::One(subject("orders.eu").shard(SHARDS))
    );
    assert_eq!(pattern("*.eu").shards(SHARDS), Shards::All);
    assert_eq!(Pattern::all().shards(SHARDS), Shards::All);
    assert_eq!((subject("a").shard(0), subject("a").shard(1)), (0, 0));
}

fn tokens() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[A-Za-z0-9_-]{1,5}", 1..10)
}

proptest! {
    #[test]
    fn a_pattern_made_from_a_subject_matches_it(tokens in tokens(), holes in any::<u16>(), tail in any::<bool>()) {
        let given = subject(&tokens.join("."));
        let mut parts: Vec<&str> = tokens.iter().map(String::as_str).collect();
        for (at, part) in parts.iter_mut().enumerate() {
            if holes & (1 << at) != 0 {
                *part = "*";
            }
        }
        if tail {
            *parts.last_mut().unwrap() = ">";
        }
        let wild = pattern(&parts.join("."));
        prop_assert!(wild.matches(&given));
        prop_assert!(wild.covers(&Pattern::exactly(&given)) && Pattern::all().covers(&wild));
        match wild.shards(SHARDS) {
            Shards::One(shard) => prop_assert_eq!(shard, given.shard(SHARDS)),
            Shards::All => prop_assert!(parts[0] == "*" || parts[0] == ">"),
        }
        prop_assert_eq!(wild.reaches(&tokens[0]), true);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
        if let Ok(subject) = text.parse::<Subject>() {
            prop_assert_eq!(subject.to_string(), text.clone());
        }
        if let Ok(pattern) = text.parse::<Pattern>() {
            prop_assert_eq!(pattern.to_string(), text);
            prop_assert!(pattern.covers(&pattern));
        }
    }
}
