//! What a node says of the streams that it keeps.

use weft_protocol::{Subject, limits::ANNOUNCEMENT_BYTES_MAX, patterns::event_sourcing::KeptStreams};

/// As many names as there is room for.
pub(super) fn announcement(names: Vec<(Subject, bool)>) -> KeptStreams {
    // The bits of all names, and what surrounds them.
    let (mut bytes, mut said) = (16 + 132, KeptStreams::default());
    for (name, is_copy) in names {
        bytes += name.as_str().len() + 3;
        if bytes > ANNOUNCEMENT_BYTES_MAX || said.names.len() == 1024 {
            said.has_more = true;
            break;
        }
        said.push(name, is_copy);
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
}
