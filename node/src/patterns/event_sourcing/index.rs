//! By what records are found: their types, their tags and their ids, block by block.
//!
//! For every type and every tag that occurs in a block there is one entry: a bit for each record that has it. A block's entries are made
//! while it fills, and written when it is full, together with its root, so that they are there or not at all.

use std::collections::{BTreeMap, HashMap, VecDeque};

use sha2::{Digest as _, Sha256};
use weft_protocol::{
    merkle::Hash,
    patterns::event_sourcing::{Event, Query},
};

use super::tree::BLOCK;

/// What stands for a type, a tag or an id.
pub(super) type Term = [u8; 16];
/// One bit for each record of a block.
pub(super) type Bits = [u64; (BLOCK / 64) as usize];

const ALL: Bits = [u64::MAX; (BLOCK / 64) as usize];
const NONE: Bits = [0; (BLOCK / 64) as usize];

fn term(kind: u8, text: &str) -> Term {
    let mut hasher = Sha256::new();
    hasher.update([kind]);
    hasher.update(text);
    let hash: Hash = hasher.finalize().into();
    let mut term = Term::default();
    term.copy_from_slice(&hash[..16]);
    term
}

fn type_term(kind: &str) -> Term {
    term(b't', kind)
}

fn tag_term(tag: &str) -> Term {
    term(b'g', tag)
}

/// What stands for an event's id.
pub(super) fn id_term(id: &str) -> Term {
    term(b'i', id)
}

/// What stands for a producer.
pub(super) fn producer_term(id: &str) -> Term {
    term(b'p', id)
}

fn and(left: Bits, right: &Bits) -> Bits {
    let mut joined = left;
    joined.iter_mut().zip(right).for_each(|(bits, other)| *bits &= other);
    joined
}

fn or(left: Bits, right: &Bits) -> Bits {
    let mut joined = left;
    joined.iter_mut().zip(right).for_each(|(bits, other)| *bits |= other);
    joined
}

/// The first record of the block, from the one at `from` on, that has its bit set.
fn first_from(bits: &Bits, block: u64, from: u64) -> Option<u64> {
    let begin = from.saturating_sub(block * BLOCK);
    let is_set = |at: &u64| bits[(at / 64) as usize] & (1 << (at % 64)) != 0;
    (begin..BLOCK).find(is_set).map(|at| block * BLOCK + at)
}

/// A query in terms of the index.
#[derive(Debug)]
pub(super) struct Terms {
    items: Vec<ItemTerms>,
}

/// One of its alternatives.
#[derive(Debug)]
pub(super) struct ItemTerms {
    pub(super) types: Vec<Term>,
    pub(super) tags: Vec<Term>,
}

impl Terms {
    /// `None` when the query means everything: then there is nothing to look up.
    pub(super) fn of(query: &Query) -> Option<Self> {
        if query.is_all() {
            return None;
        }
        let items = query.items.iter().map(|item| ItemTerms {
            types: item.types.iter().map(|kind| type_term(kind)).collect(),
            tags: item.tags.iter().map(|tag| tag_term(tag)).collect(),
        });
        Some(Terms { items: items.collect() })
    }

    pub(super) fn items(&self) -> &[ItemTerms] {
        &self.items
    }
}

impl ItemTerms {
    /// The records of a block that it means.
    pub(super) fn bits(&self, of: impl Fn(&Term) -> Option<Bits>) -> Bits {
        let get = |term: &Term| of(term).unwrap_or(NONE);
        let types = match self.types.is_empty() {
            true => ALL,
            false => self.types.iter().fold(NONE, |bits, kind| or(bits, &get(kind))),
        };
        self.tags.iter().fold(types, |bits, tag| and(bits, &get(tag)))
    }

    /// The first record of the block from `from` on that it means.
    pub(super) fn first(&self, block: u64, from: u64, of: impl Fn(&Term) -> Option<Bits>) -> Option<u64> {
        first_from(&self.bits(of), block, from)
    }
}

/// What is known of a block's records.
#[derive(Debug, Clone, Default)]
pub(super) struct Block {
    pub(super) number: u64,
    /// Set when it is full.
    pub(super) root: Option<Hash>,
    pub(super) terms: BTreeMap<Term, Bits>,
    pub(super) ids: Vec<(Term, u64)>,
    /// Producers, and the last of their numbers in it.
    pub(super) producers: HashMap<String, Numbered>,
}

/// How far a producer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(super) struct Numbered {
    /// Its last number.
    #[n(0)]
    pub(super) sequence: u64,
    /// Where the record with it is, from 1.
    #[n(1)]
    pub(super) position: u64,
    /// How many records up to it follow each other with numbers that do so, too.
    #[n(2)]
    pub(super) run: u64,
}

/// The blocks whose entries are not written yet; the last one is being filled.
#[derive(Debug)]
pub(super) struct Recent {
    blocks: VecDeque<Block>,
    ids: HashMap<Term, u64>,
}

impl Recent {
    /// From this block on.
    pub(super) fn from(number: u64) -> Self {
        let block = Block {
            number,
            ..Block::default()
        };
        Recent {
            blocks: VecDeque::from([block]),
            ids: HashMap::new(),
        }
    }

    /// Notes a record.
    pub(super) fn push(&mut self, index: u64, event: &Event) {
        let id = event.id.as_deref().map(id_term);
        let block = self.blocks.back_mut().expect("invariant: one block is being filled");
        let at = index % BLOCK;
        let terms = std::iter::once(type_term(&event.kind)).chain(event.tags.iter().map(|tag| tag_term(tag)));
        for term in terms {
            block.terms.entry(term).or_insert(NONE)[(at / 64) as usize] |= 1 << (at % 64);
        }
        if let Some(id) = id {
            block.ids.push((id, index));
            self.ids.insert(id, index);
        }
    }

    /// Notes how far a producer has come.
    pub(super) fn number(&mut self, producer: &str, numbered: Numbered) {
        let block = self.blocks.back_mut().expect("invariant: one block is being filled");
        block.producers.insert(producer.to_owned(), numbered);
    }

    /// The block that is being filled is full, and has this root.
    pub(super) fn close(&mut self, root: Hash) {
        let block = self.blocks.back_mut().expect("invariant: one block is being filled");
        block.root = Some(root);
        let number = block.number + 1;
        self.blocks.push_back(Block {
            number,
            ..Block::default()
        });
    }

    /// The oldest block that is full.
    pub(super) fn full(&self) -> Option<&Block> {
        self.blocks.front().filter(|block| block.root.is_some())
    }

    /// How many are full.
    pub(super) fn full_count(&self) -> usize {
        self.blocks.len() - 1
    }

    /// The oldest block's entries are written.
    pub(super) fn written(&mut self, number: u64) {
        if self.full().is_some_and(|block| block.number == number)
            && let Some(block) = self.blocks.pop_front()
        {
            for (id, index) in block.ids {
                if self.ids.get(&id) == Some(&index) {
                    self.ids.remove(&id);
                }
            }
        }
    }

    /// The first block whose entries are not written.
    pub(super) fn first_block(&self) -> u64 {
        self.blocks.front().map_or(0, |block| block.number)
    }

    /// The record with this id.
    pub(super) fn id(&self, id: &Term) -> Option<u64> {
        self.ids.get(id).copied()
    }

    /// The first record from `from` on that is meant.
    pub(super) fn find(&self, terms: &Terms, from: u64) -> Option<u64> {
        let blocks = self.blocks.iter().filter(|block| (block.number + 1) * BLOCK > from);
        let in_block = |block: &Block| {
            let of = |term: &Term| block.terms.get(term).copied();
            let items = terms.items.iter();
            items.filter_map(|item| item.first(block.number, from, of)).min()
        };
        blocks.into_iter().find_map(in_block)
    }
}
