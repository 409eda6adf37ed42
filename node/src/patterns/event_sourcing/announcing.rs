//! What a node says of the streams that it keeps.

use std::collections::BTreeMap;

use weft_protocol::{Pattern, Subject, limits::ANNOUNCEMENT_BYTES_MAX, patterns::event_sourcing::KeptStreams};

/// As many names as there is room for, those that take in messages first: nobody asks for them by name.
pub(super) fn announcement(mut names: Vec<(Subject, bool)>, takers: &[(Subject, Vec<Pattern>)]) -> KeptStreams {
    let takers: BTreeMap<&Subject, &Vec<Pattern>> = takers.iter().map(|(name, subjects)| (name, subjects)).collect();
    names.sort_by_key(|(name, _)| !takers.contains_key(name));
    // The bits of all names, and what surrounds them.
    let (mut bytes, mut said) = (16 + 132, KeptStreams::default());
    for (name, is_copy) in names {
        let subjects = takers.get(&name).copied().cloned().unwrap_or_default();
        let taken: usize = subjects.iter().map(|pattern| pattern.as_str().len() + 3).sum();
        bytes += name.as_str().len() + 3 + if taken > 0 { taken + 12 } else { 0 };
        if bytes > ANNOUNCEMENT_BYTES_MAX || said.names.len() == 1024 {
            said.has_more = true;
            break;
        }
        said.push(name, is_copy, subjects);
    }
    said
}

#[cfg(test)]
mod tests {
    use weft_protocol::Wire as _;

    use super::*;

    #[test]
    fn an_announcement_has_as_many_names_as_fit() {
        let names = |count: usize, length: usize| -> Vec<(Subject, bool)> {
            (0..count)
                .map(|n| (format!("{n:0length$}").parse().unwrap(), n % 3 == 1))
                .collect()
        };
        let announcement = |names| announcement(names, &[]);
        assert!(!announcement(names(1000, 4)).has_more);
        for (count, length) in [(2000, 3), (1000, 200), (1025, 4)] {
            let said = announcement(names(count, length));
            assert!(said.has_more && !said.names.is_empty());
            let bytes = said.to_checked_bytes();
            let read = KeptStreams::from_bytes(&bytes.unwrap_or_else(|error| panic!("{count} of {length}: {error}")));
            let expected = names(count, length);
            assert!(
                read.unwrap().named().zip(expected).all(|(one, other)| one == other),
                "{count} of {length}"
            );
        }
    }

    #[test]
    fn streams_that_take_in_messages_come_first_and_with_what_they_take() {
        let names: Vec<(Subject, bool)> = (0..1000)
            .map(|n| (format!("s{n:09}").parse().unwrap(), n % 2 == 0))
            .collect();
        let pattern = |n: usize| -> Pattern { format!("topic-{n}.{}.>", "x".repeat(60)).parse().unwrap() };
        let takers: Vec<(Subject, Vec<Pattern>)> = (0..40)
            .map(|n| (names[n * 25].0.clone(), vec![pattern(n), pattern(n + 1000)]))
            .collect();
        let said = announcement(names, &takers);
        assert!(said.has_more);
        let read = KeptStreams::from_bytes(&said.to_checked_bytes().unwrap()).unwrap();
        let named: Vec<(Subject, Vec<Pattern>)> = read
            .takers()
            .map(|(name, subjects)| (name.clone(), subjects.to_vec()))
            .collect();
        assert_eq!(named, takers);
        // Which of them are copies is said of the right ones.
        let copies = read.named().filter(|(_, is_copy)| *is_copy);
        assert!(
            copies
                .into_iter()
                .all(|(name, _)| name.as_str().ends_with(['0', '2', '4', '6', '8']))
        );
    }
}
