//! What is decided about an append, given what is known: no disk, no network, no clock.

use std::collections::HashMap;

use weft_protocol::{
    merkle::Hash,
    patterns::event_sourcing::{Append, Appended, Event, Producer, Record},
};

use super::{
    index::{Numbered, Recent},
    options::{PRODUCERS_MAX, StreamError},
    tree::{BLOCK, Tree},
};

/// What the next append is decided upon: everything that was appended so far, also what is on its way to the disk.
#[derive(Debug)]
pub(super) struct Tail {
    /// The index of the next record; its position less one.
    pub(super) next: u64,
    /// When the last record was recorded.
    pub(super) last_ms: u64,
    /// The entry of the group's log that the last record comes from, where a group keeps the stream.
    pub(super) last_entry: Option<u64>,
    pub(super) recent: Recent,
    pub(super) tree: Tree,
    producers: HashMap<String, Numbered>,
}

/// What becomes of an append whose producer numbers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Numbering {
    /// It goes on where it stopped.
    Next,
    /// It was recorded already, there.
    Duplicate(Appended),
}

impl Tail {
    pub(super) fn new(tree: Tree, first_block: u64, producers: Vec<(String, Numbered)>) -> Self {
        Tail {
            next: first_block * BLOCK,
            last_ms: 0,
            last_entry: None,
            recent: Recent::from(first_block),
            tree,
            producers: producers.into_iter().collect(),
        }
    }

    /// The position of the last record.
    pub(super) fn version(&self) -> u64 {
        self.next
    }

    /// Notes a record that follows.
    pub(super) fn push(&mut self, record: &Record, leaf: Hash) {
        self.recent.push(self.next, &record.event);
        if let Some(Producer { id, sequence }) = &record.producer {
            let position = self.next + 1;
            let before = self.producers.get(id);
            let goes_on = before.is_some_and(|known| known.sequence + 1 == *sequence && known.position + 1 == position);
            let numbered = Numbered {
                sequence: *sequence,
                position,
                run: before.filter(|_| goes_on).map_or(0, |known| known.run) + 1,
            };
            self.producers.insert(id.clone(), numbered);
            self.recent.number(id, numbered);
        }
        self.last_ms = self.last_ms.max(record.recorded_ms);
        self.last_entry = record.entry.or(self.last_entry);
        self.next += 1;
        if let Some((_, root)) = self.tree.push(leaf) {
            self.recent.close(root);
        }
    }

    /// Whether the stream has the version that was expected.
    pub(super) fn check_version(&self, append: &Append) -> Result<(), StreamError> {
        match append.expect {
            Some(expected) if expected != self.version() => Err(StreamError::WrongVersion {
                expected,
                actual: self.version(),
            }),
            _ => Ok(()),
        }
    }

    /// What a producer's numbers say.
    pub(super) fn check_numbers(&self, producer: &Producer, count: u64) -> Result<Numbering, StreamError> {
        let Some(known) = self.producers.get(&producer.id) else {
            if self.producers.len() >= PRODUCERS_MAX {
                return Err(StreamError::Busy(format!(
                    "a stream has at most {PRODUCERS_MAX} producers"
                )));
            }
            return Ok(Numbering::Next);
        };
        let first = producer.sequence;
        let last = first.saturating_add(count - 1);
        if first == known.sequence + 1 {
            return Ok(Numbering::Next);
        }
        if last > known.sequence {
            return Err(StreamError::ProducerGap {
                id: producer.id.clone(),
                expected: known.sequence + 1,
                got: first,
            });
        }
        // Where it is, is known as far as the last run of records goes; further back only that it is there.
        let back = known.sequence - first;
        let first = if back < known.run { known.position - back } else { 0 };
        Ok(Numbering::Duplicate(Appended {
            first,
            last: if first == 0 { 0 } else { first + count - 1 },
            is_duplicate: true,
        }))
    }
}

/// Whether events with ids that are known are the ones that were recorded: then all of them are, in a row. `found` has, for each event with an
/// id that is known, where the record is and, if it is still kept, the event in it.
pub(super) fn check_ids(
    events: &[Event],
    found: &[Option<(u64, Option<Event>)>],
) -> Result<Option<Appended>, StreamError> {
    let Some((at, (first, _))) = found.iter().enumerate().find_map(|(at, one)| Some((at, one.as_ref()?))) else {
        return Ok(None);
    };
    let taken = |event: &Event, position: u64| StreamError::IdTaken {
        id: event.id.clone().unwrap_or_default(),
        position,
    };
    let begin = first.checked_sub(at as u64).ok_or_else(|| taken(&events[at], *first))?;
    for (offset, (event, one)) in events.iter().zip(found).enumerate() {
        match one {
            Some((position, known))
                if *position == begin + offset as u64 && known.as_ref().is_none_or(|known| known == event) => {}
            Some((position, _)) => return Err(taken(event, *position)),
            None => return Err(taken(&events[at], *first)),
        }
    }
    Ok(Some(Appended {
        first: begin,
        last: begin + events.len() as u64 - 1,
        is_duplicate: true,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail() -> Tail {
        Tail::new(Tree::default(), 0, Vec::new())
    }

    fn push(tail: &mut Tail, producer: Option<(&str, u64)>) {
        let record = Record {
            recorded_ms: 1,
            author: None,
            producer: producer.map(|(id, sequence)| Producer {
                id: id.to_owned(),
                sequence,
            }),
            event: Event::new("k", ""),
            entry: None,
        };
        tail.push(&record, [0; 32]);
    }

    fn numbers(tail: &Tail, sequence: u64, count: u64) -> Result<Numbering, StreamError> {
        let id = "p".to_owned();
        tail.check_numbers(&Producer { id, sequence }, count)
    }

    fn duplicate(first: u64, last: u64) -> Numbering {
        Numbering::Duplicate(Appended {
            first,
            last,
            is_duplicate: true,
        })
    }

    #[test]
    fn a_producer_goes_on_where_it_stopped_and_repeats_what_it_said() {
        let mut tail = tail();
        assert_eq!(numbers(&tail, 7, 3).unwrap(), Numbering::Next);
        push(&mut tail, None);
        (7..10).for_each(|sequence| push(&mut tail, Some(("p", sequence))));
        assert_eq!(numbers(&tail, 10, 1).unwrap(), Numbering::Next);
        assert_eq!(numbers(&tail, 7, 3).unwrap(), duplicate(2, 4));
        assert_eq!(numbers(&tail, 9, 1).unwrap(), duplicate(4, 4));
        // A part of it is new, or something is left out.
        for (sequence, count) in [(9, 2), (11, 1)] {
            let refused = numbers(&tail, sequence, count).unwrap_err();
            assert!(
                matches!(refused, StreamError::ProducerGap { expected: 10, .. }),
                "{refused}"
            );
        }
        // Another's record between them: what was before it is known to be there, not where.
        push(&mut tail, Some(("other", 0)));
        push(&mut tail, Some(("p", 10)));
        assert_eq!(numbers(&tail, 10, 1).unwrap(), duplicate(6, 6));
        assert_eq!(numbers(&tail, 8, 1).unwrap(), duplicate(0, 0));
        assert!(numbers(&tail, u64::MAX, 2).is_err());
    }

    #[test]
    fn ids_are_those_of_one_append_or_taken() {
        let event = |id: &str, data: &str| Event {
            id: Some(id.to_owned()),
            ..Event::new("k", data)
        };
        let events = [event("a", "1"), event("b", "2")];
        let at = |position: u64, event: &Event| Some((position, Some(event.clone())));
        assert_eq!(check_ids(&events, &[None, None]).unwrap(), None);
        let again = check_ids(&events, &[at(5, &events[0]), at(6, &events[1])]).unwrap();
        assert_eq!(again.map(|again| (again.first, again.last)), Some((5, 6)));
        // Of what is not kept any more only the place is known.
        let again = check_ids(&events, &[Some((5, None)), at(6, &events[1])]).unwrap();
        assert_eq!(again.map(|again| again.last), Some(6));
        for found in [
            [at(5, &events[0]), None],
            [None, at(6, &events[1])],
            [at(5, &events[0]), at(7, &events[1])],
            [at(5, &event("a", "other")), at(6, &events[1])],
            [None, at(0, &events[1])],
        ] {
            assert!(check_ids(&events, &found).is_err(), "{found:?}");
        }
    }
}
