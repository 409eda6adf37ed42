use proptest::prelude::*;
use weft_protocol::Subject;

use super::*;

fn sub(pattern: &str, queue: Option<&str>) -> Arc<Sub> {
    Sub::new(Outbox::for_tests(), pattern.as_bytes(), pattern.parse().unwrap(), queue)
}

fn names(matched: &Matched) -> Vec<String> {
    let mut names: Vec<String> = matched.plain.iter().map(|s| s.pattern.to_string()).collect();
    names.sort();
    names
}

#[test]
fn a_subject_selects_literals_and_wildcards() {
    let router = Router::default();
    for pattern in ["a.b", "a.*", "a.>", "*.b", ">", "a", "a.b.c", "*"] {
        router.insert(&sub(pattern, None));
    }
    assert_eq!(names(&router.matching("a.b")), ["*.b", ">", "a.*", "a.>", "a.b"]);
    assert_eq!(names(&router.matching("a")), ["*", ">", "a"]);
    assert_eq!(names(&router.matching("a.b.c")), [">", "a.>", "a.b.c"]);
    assert!(router.matching("$SRV.PING").plain.is_empty());
}

#[test]
fn a_group_is_one_choice_and_a_plain_subscription_another() {
    let router = Router::default();
    let subs = [
        sub("a", Some("q")),
        sub("*", Some("q")),
        sub("a", Some("other")),
        sub("a", None),
    ];
    subs.iter().for_each(|s| router.insert(s));
    let matched = router.matching("a");
    assert_eq!(matched.plain.len(), 1);
    let mut sizes: Vec<usize> = matched.groups.iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 2]);
}

#[test]
fn what_is_taken_out_leaves_nothing_behind() {
    let router = Router::default();
    let subs: Vec<_> = ["a.b.c", "a.*", "a.>", "a.b.c"].map(|p| sub(p, None)).into();
    subs.iter().for_each(|s| router.insert(s));
    let before = router.generation();
    assert!(subs.iter().all(|s| router.remove(s)));
    // Twice is once.
    assert!(!subs.iter().any(|s| router.remove(s)));
    assert_eq!(router.generation(), before + 4);
    assert_eq!(router.len(), 0);
    assert!(router.root.read().unwrap().is_empty());
    assert!(subs.iter().all(|s| s.take_turn() == Turn::Over));
}

#[test]
fn a_limited_subscription_ends_with_its_last_message() {
    let limited = sub("a", None);
    assert!(!limited.limit(2));
    assert_eq!(
        [(); 4].map(|()| limited.take_turn()),
        [Turn::Send, Turn::Last, Turn::Over, Turn::Over]
    );
    // A limit that was reached before it was set.
    let late = sub("a", None);
    assert_eq!([(); 2].map(|()| late.take_turn()), [Turn::Send, Turn::Send]);
    assert!(late.limit(2));
    assert_eq!(late.take_turn(), Turn::Over);
}

fn token() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just("c")]
}

fn pattern() -> impl Strategy<Value = String> {
    let position = prop_oneof![3 => token(), 1 => Just("*")];
    (proptest::collection::vec(position, 1..5), any::<bool>()).prop_map(|(mut tokens, tail)| {
        if tail {
            tokens.push(">");
        }
        tokens.join(".")
    })
}

proptest! {
    #[test]
    fn the_trie_and_the_grammar_agree(
        patterns in proptest::collection::vec(pattern(), 0..20),
        subject in proptest::collection::vec(token(), 1..6),
    ) {
        let router = Router::default();
        let subs: Vec<_> = patterns.iter().map(|p| sub(p, None)).collect();
        subs.iter().for_each(|s| router.insert(s));
        let subject: Subject = subject.join(".").parse().unwrap();
        let mut expected: Vec<String> =
            subs.iter().filter(|s| s.pattern.matches(&subject)).map(|s| s.pattern.to_string()).collect();
        expected.sort();
        prop_assert_eq!(names(&router.matching(subject.as_str())), expected);
    }
}
