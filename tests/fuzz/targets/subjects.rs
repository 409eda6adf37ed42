//! Subjects and patterns, beside the plainest way to match them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_protocol::{Pattern, Subject};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.lines();
    let (first, second, third) = (lines.next(), lines.next(), lines.next());
    let pattern = |text: Option<&str>| text.and_then(|text| text.parse::<Pattern>().ok());
    let (wide, narrow) = (pattern(first), pattern(second));
    let subject = third.and_then(|text| Subject::reserved(text).ok());
    for known in [&wide, &narrow].into_iter().flatten() {
        assert_eq!(known.as_str().parse::<Pattern>().ok().as_ref(), Some(known));
        if let Some(subject) = &subject {
            assert_eq!(
                known.matches(subject),
                plainly(known.as_str(), subject.as_str()),
                "{known} and {subject}"
            );
        }
    }
    if let (Some(wide), Some(narrow)) = (wide, narrow) {
        assert!(wide.covers(&wide) && narrow.covers(&narrow));
        if let Some(subject) = subject
            && wide.covers(&narrow)
            && narrow.matches(&subject)
        {
            assert!(
                wide.matches(&subject),
                "{wide} covers {narrow}, which matches {subject}"
            );
        }
    }
});

/// NATS's rules, token by token: `*` stands for one token, `>` at the end for one or more; what begins with `$` is matched only by a
/// pattern that begins with the same token.
fn plainly(pattern: &str, subject: &str) -> bool {
    if subject.starts_with('$') && pattern.split('.').next() != subject.split('.').next() {
        return false;
    }
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(_)) => {}
            (Some(token), Some(other)) if token == other => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}
