//! How streams lie in the keyspace. The records themselves are in a log of the store, one for each stream.
//!
//! ```text
//! s/NAME                    a stream: its number, options, when it was created
//! n                         the number of the next stream
//! x/STREAM                  one whose rest is being removed
//! b/STREAM BLOCK            a block's root
//! t/STREAM TERM BLOCK       which of its records have a type or a tag
//! i/STREAM TERM             where the event with an id is
//! p/STREAM TERM             how far a producer has come
//! c/STREAM NAME             a consumer
//! d/STREAM NAME / POSITION  its dead letters
//! v/STREAM                  its schemas, all of them
//! k/OWNER/NAME              the checkpoint of another member's stream that was verified last
//! f/NAME/OWNER              the evidence that a member's stream has forked
//! g/GROUP                   a group that keeps copies: who made it, and up to where everything of it is durable
//! ```
//! STREAM, BLOCK and POSITION are numbers of eight bytes, the most significant first; TERM has sixteen bytes.

use std::{ops::Range, sync::Arc};

use minicbor::{Decode, Encode};
use tokio::sync::Mutex;
use weft_protocol::{
    Subject, codec,
    consensus::{GroupId, Voters},
    merkle::Hash,
};

use super::{
    index::{Bits, Block, ItemTerms, Numbered, Term, Terms, producer_term},
    options::{StreamError, StreamOptions},
    schemas::SchemaSet,
    tree::BLOCK,
};
use crate::{
    consensus::Mark,
    store::{BATCH_OPERATIONS_MAX, Batch, Keyspace},
};

/// Entries that are read at once.
const PAGE: usize = 1000;
/// What is stored of anything but a record.
const ENTRY_BYTES_MAX: usize = 1 << 20;
const NEXT: &[u8] = b"n";
/// Numbers of streams that are set aside at once.
const NUMBERS_AT_ONCE: u64 = 64;

/// What is kept of a stream besides its records.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Facts {
    /// Its number on this node.
    #[n(0)]
    pub(super) number: u64,
    /// When it was created, Unix milliseconds.
    #[n(1)]
    pub(super) created_ms: u64,
    /// How much is kept.
    #[n(2)]
    pub(super) options: StreamOptions,
    /// What it is a copy of, where a group keeps the stream.
    #[n(3)]
    pub(super) copy: Option<CopyOf>,
}

/// What a copy is one of.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct CopyOf {
    /// The group that keeps the stream.
    #[n(0)]
    pub(super) group: GroupId,
    /// The entry of the group's log with which the stream was made.
    #[n(1)]
    pub(super) entry: u64,
    /// What the stream is called.
    #[n(2)]
    pub(super) name: Subject,
}

/// Entries of a stream that another member with a copy of it needs as well, besides the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(super) enum Kind {
    /// Roots of blocks.
    #[n(0)]
    Blocks,
    /// Types and tags in blocks.
    #[n(1)]
    Terms,
    /// Events with ids.
    #[n(2)]
    Ids,
    /// Producers.
    #[n(3)]
    Producers,
    /// Consumers.
    #[n(4)]
    Consumers,
    /// Their dead letters.
    #[n(5)]
    Dead,
    /// Schemas: one entry, of all of them.
    #[n(6)]
    Schemas,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Blocks => b'b',
            Kind::Terms => b't',
            Kind::Ids => b'i',
            Kind::Producers => b'p',
            Kind::Consumers => b'c',
            Kind::Dead => b'd',
            Kind::Schemas => b'v',
        }
    }
}

/// Entries of one kind, each by what follows the stream's number in its key.
pub(super) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What is known of a group besides its log.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct GroupFacts {
    /// Who made it.
    #[n(0)]
    pub(super) members: Voters,
    /// Up to where everything is durable.
    #[n(1)]
    pub(super) mark: Option<Mark>,
    /// How many are to vote; as many as made it, if nothing is said.
    #[n(2)]
    pub(super) size: Option<u8>,
    /// Whether some of its streams may be of a later time than others, because they were got from another member.
    #[n(3)]
    pub(super) is_partial: Option<bool>,
}

impl Default for GroupFacts {
    fn default() -> Self {
        GroupFacts {
            members: Voters(Vec::new()),
            mark: None,
            size: None,
            is_partial: None,
        }
    }
}

impl GroupFacts {
    /// How many are to vote.
    pub(super) fn size(&self) -> usize {
        self.size.map_or(self.members.0.len(), usize::from)
    }
}

#[derive(Encode, Decode)]
struct NumberedProducer {
    #[n(0)]
    id: String,
    #[n(1)]
    numbered: Numbered,
}

pub(super) fn read<T: for<'b> Decode<'b, ()>>(bytes: &[u8], what: &'static str) -> Result<T, StreamError> {
    codec::decode(bytes, ENTRY_BYTES_MAX, what)
        .map_err(|error| StreamError::Corrupt(format!("what is stored of a stream cannot be read: {error}")))
}

fn key(kind: u8, number: u64, rest: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![kind, b'/'];
    key.extend_from_slice(&number.to_be_bytes());
    rest.iter().for_each(|part| key.extend_from_slice(part));
    key
}

fn tail_number(key: &[u8]) -> Option<u64> {
    let tail = key.get(key.len().checked_sub(8)?..)?;
    Some(u64::from_be_bytes(tail.try_into().ok()?))
}

fn name_key(name: &Subject) -> Vec<u8> {
    [b"s/", name.as_str().as_bytes()].concat()
}

fn seen_key(owner: &str, name: &Subject) -> Vec<u8> {
    format!("k/{owner}/{name}").into_bytes()
}

fn bits_to_bytes(bits: &Bits) -> Vec<u8> {
    bits.iter().flat_map(|part| part.to_be_bytes()).collect()
}

fn bits_of(bytes: &[u8]) -> Result<Bits, StreamError> {
    let mut bits = Bits::default();
    let (parts, rest) = bytes.as_chunks::<8>();
    if parts.len() != bits.len() || !rest.is_empty() {
        return Err(StreamError::Corrupt(
            "an entry of a stream's index has a wrong length".into(),
        ));
    }
    bits.iter_mut()
        .zip(parts)
        .for_each(|(bits, part)| *bits = u64::from_be_bytes(*part));
    Ok(bits)
}

/// Everything that is kept of streams but their records.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    keyspace: Keyspace,
    /// Numbers of streams that no other will have, and are not used yet.
    numbers: Arc<Mutex<Range<u64>>>,
}

impl Shelf {
    pub(super) fn new(keyspace: Keyspace) -> Self {
        Shelf {
            keyspace,
            numbers: Arc::default(),
        }
    }

    /// Every stream, by name.
    pub(super) async fn streams(&self) -> Result<Vec<(Subject, Facts)>, StreamError> {
        let (mut streams, mut after) = (Vec::new(), None);
        loop {
            let page = self.keyspace.scan_prefix(b"s/", after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else {
                return Ok(streams);
            };
            after = Some(last.clone());
            for (key, value) in page {
                let name = String::from_utf8_lossy(key.get(2..).unwrap_or_default()).into_owned();
                streams.push((Subject::reserved(&name)?, read(&value, "stream")?));
            }
        }
    }

    /// Notes a new stream, durably, under a number that no other has had.
    pub(super) async fn create(
        &self,
        name: &Subject,
        options: StreamOptions,
        created_ms: u64,
        copy: Option<CopyOf>,
    ) -> Result<Facts, StreamError> {
        let facts = Facts {
            number: self.number().await?,
            created_ms,
            options,
            copy,
        };
        let batch = Batch::new()
            .require(name_key(name), None)
            .put(name_key(name), codec::encode(&facts));
        self.keyspace.commit(batch).await?;
        Ok(facts)
    }

    /// A number that no stream has had. Some are set aside at once, so that streams are made beside each other; after a restart what was
    /// left of them is passed over.
    async fn number(&self) -> Result<u64, StreamError> {
        let mut numbers = self.numbers.lock().await;
        if let Some(number) = numbers.next() {
            return Ok(number);
        }
        let before = self.keyspace.get(NEXT).await?;
        let first = before.as_deref().and_then(tail_number).unwrap_or(1);
        let end = first + NUMBERS_AT_ONCE;
        let batch = Batch::new().require(NEXT, before).put(NEXT, end.to_be_bytes());
        self.keyspace.commit(batch).await?;
        *numbers = first + 1..end;
        Ok(first)
    }

    /// Gives a stream another name, if nobody has it.
    pub(super) async fn rename(&self, from: &Subject, to: &Subject, facts: &Facts) -> Result<(), StreamError> {
        let batch = Batch::new()
            .require(name_key(to), None)
            .delete(name_key(from))
            .put(name_key(to), codec::encode(facts));
        Ok(self.keyspace.commit(batch).await?)
    }

    /// Changes how much of a stream is kept.
    pub(super) async fn update(&self, name: &Subject, facts: &Facts) -> Result<(), StreamError> {
        Ok(self.keyspace.put(name_key(name), codec::encode(facts)).await?)
    }

    /// Forgets a stream; what is left of it is removed by [`Shelf::sweep`], after a restart if need be.
    pub(super) async fn delete(&self, name: &Subject, number: u64) -> Result<(), StreamError> {
        let batch = Batch::new()
            .delete(name_key(name))
            .put(key(b'x', number, &[]), Vec::new());
        Ok(self.keyspace.commit(batch).await?)
    }

    /// The numbers of streams that were deleted, and are not swept.
    pub(super) async fn deleted(&self) -> Result<Vec<u64>, StreamError> {
        let page = self.keyspace.scan_prefix(b"x/", None, PAGE).await?;
        Ok(page.iter().filter_map(|(key, _)| tail_number(key)).collect())
    }

    /// Removes what is left of a deleted stream.
    pub(super) async fn sweep(&self, number: u64) -> Result<(), StreamError> {
        for kind in *b"btipcdv" {
            let prefix = key(kind, number, &[]);
            loop {
                let page = self.keyspace.scan_prefix(&prefix, None, PAGE).await?;
                if page.is_empty() {
                    break;
                }
                let batch = page.into_iter().fold(Batch::new(), |batch, (key, _)| batch.delete(key));
                self.keyspace.commit(batch).await?;
            }
        }
        Ok(self.keyspace.delete(key(b'x', number, &[])).await?)
    }

    /// The roots of the blocks whose entries are written, in their order.
    pub(super) async fn blocks(&self, number: u64) -> Result<Vec<Hash>, StreamError> {
        let (prefix, mut after, mut blocks) = (key(b'b', number, &[]), None, Vec::new());
        loop {
            let page = self.keyspace.scan_prefix(&prefix, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else {
                return Ok(blocks);
            };
            after = Some(last.clone());
            for (key, value) in page {
                let root: Option<Hash> = value.try_into().ok();
                match (tail_number(&key), root) {
                    (Some(block), Some(root)) if block == blocks.len() as u64 => blocks.push(root),
                    _ => return Err(StreamError::Corrupt("the index of a stream has a hole".into())),
                }
            }
        }
    }

    /// Writes a full block's entries, all at once.
    pub(super) async fn write(&self, number: u64, block: &Block) -> Result<(), StreamError> {
        let Some(root) = block.root else {
            return Ok(());
        };
        let at = block.number.to_be_bytes();
        let mut batch = Batch::new().put(key(b'b', number, &[&at]), root.to_vec());
        for (term, bits) in &block.terms {
            batch = batch.put(key(b't', number, &[term, &at]), bits_to_bytes(bits));
        }
        for (id, index) in &block.ids {
            batch = batch.put(key(b'i', number, &[id]), index.to_be_bytes());
        }
        for (id, numbered) in &block.producers {
            let producer = NumberedProducer {
                id: id.clone(),
                numbered: *numbered,
            };
            batch = batch.put(key(b'p', number, &[&producer_term(id)]), codec::encode(&producer));
        }
        debug_assert!(
            batch.len() <= BATCH_OPERATIONS_MAX,
            "a block's entries fit into one batch"
        );
        Ok(self.keyspace.commit(batch).await?)
    }

    /// Every producer of a stream, and how far it had come when its last block was written.
    pub(super) async fn producers(&self, number: u64) -> Result<Vec<(String, Numbered)>, StreamError> {
        let (prefix, mut after, mut producers) = (key(b'p', number, &[]), None, Vec::new());
        loop {
            let page = self.keyspace.scan_prefix(&prefix, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else {
                return Ok(producers);
            };
            after = Some(last.clone());
            for (_, value) in page {
                let NumberedProducer { id, numbered } = read(&value, "producer")?;
                producers.push((id, numbered));
            }
        }
    }

    /// The record with this id, among those whose entries are written.
    pub(super) async fn id(&self, number: u64, id: &Term) -> Result<Option<u64>, StreamError> {
        let found = self.keyspace.get(&key(b'i', number, &[id])).await?;
        Ok(found.as_deref().and_then(tail_number))
    }

    /// The first record from `from` on that is meant, among those whose entries are written.
    pub(super) async fn find(&self, number: u64, terms: &Terms, from: u64) -> Result<Option<u64>, StreamError> {
        let mut first: Option<u64> = None;
        for item in terms.items() {
            if let Some(found) = self.find_item(number, item, from, first).await? {
                first = Some(first.map_or(found, |first| first.min(found)));
            }
        }
        Ok(first)
    }

    async fn find_item(
        &self,
        number: u64,
        item: &ItemTerms,
        from: u64,
        before: Option<u64>,
    ) -> Result<Option<u64>, StreamError> {
        // With tags any one of them leads; without, each of the types does.
        let leading = match item.tags.first() {
            Some(tag) => std::slice::from_ref(tag),
            None => &item.types,
        };
        let mut first = before;
        for lead in leading {
            if let Some(found) = self.find_led(number, item, lead, from, first).await? {
                first = Some(first.map_or(found, |first| first.min(found)));
            }
        }
        Ok(first)
    }

    async fn find_led(
        &self,
        number: u64,
        item: &ItemTerms,
        lead: &Term,
        from: u64,
        before: Option<u64>,
    ) -> Result<Option<u64>, StreamError> {
        let prefix = key(b't', number, &[lead]);
        // What is read is what follows a key: that of the block before.
        let mut after = (from / BLOCK)
            .checked_sub(1)
            .map(|block| key(b't', number, &[lead, &block.to_be_bytes()]));
        let mut size = 8;
        loop {
            let page = self.keyspace.scan_prefix(&prefix, after.as_deref(), size).await?;
            let Some((last, _)) = page.last() else {
                return Ok(None);
            };
            after = Some(last.clone());
            size = PAGE.min(size * 4);
            for (found, _) in &page {
                let Some(block) = tail_number(found) else { continue };
                if before.is_some_and(|before| block * BLOCK >= before) {
                    return Ok(None);
                }
                let mut known = std::collections::BTreeMap::new();
                for term in item.tags.iter().chain(&item.types) {
                    let bits = self
                        .keyspace
                        .get(&key(b't', number, &[term, &block.to_be_bytes()]))
                        .await?;
                    if let Some(bits) = bits {
                        known.insert(*term, bits_of(&bits)?);
                    }
                }
                if let Some(found) = item.first(block, from, |term| known.get(term).copied()) {
                    return Ok(Some(found));
                }
            }
        }
    }

    /// Gives another name's place to a stream: whoever had it before is forgotten, as by [`Shelf::delete`].
    pub(super) async fn replace(
        &self,
        from: &Subject,
        to: &Subject,
        facts: &Facts,
        before: Option<u64>,
    ) -> Result<(), StreamError> {
        let mut batch = Batch::new()
            .delete(name_key(from))
            .put(name_key(to), codec::encode(facts));
        if let Some(number) = before {
            batch = batch.put(key(b'x', number, &[]), Vec::new());
        }
        Ok(self.keyspace.commit(batch).await?)
    }

    /// Entries of a stream behind a key, in so many bytes if it is more than one; and whether they are the last ones.
    pub(super) async fn pairs(
        &self,
        number: u64,
        kind: Kind,
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> Result<(Pairs, bool), StreamError> {
        let prefix = key(kind.byte(), number, &[]);
        let after = after.map(|after| [&prefix[..], after].concat());
        let page = self.keyspace.scan_prefix(&prefix, after.as_deref(), PAGE).await?;
        let is_all = page.is_empty();
        let (mut pairs, mut bytes) = (Pairs::new(), 0);
        for (key, value) in page {
            bytes += key.len() + value.len() + 16;
            if !pairs.is_empty() && bytes > bytes_max {
                break;
            }
            pairs.push((key.get(prefix.len()..).unwrap_or_default().to_vec(), value));
        }
        Ok((pairs, is_all))
    }

    /// Makes the entries behind a key, up to the last of these or to the end, the same as these.
    pub(super) async fn mirror(
        &self,
        number: u64,
        kind: Kind,
        after: Option<&[u8]>,
        pairs: Pairs,
        is_all: bool,
    ) -> Result<(), StreamError> {
        let prefix = key(kind.byte(), number, &[]);
        let full = |rest: &[u8]| [&prefix[..], rest].concat();
        let last = pairs.last().map(|(last, _)| full(last));
        let mut batch = Batch::new();
        let mut from = after.map(full);
        'known: loop {
            let page = self.keyspace.scan_prefix(&prefix, from.as_deref(), PAGE).await?;
            let Some((end, _)) = page.last() else { break };
            from = Some(end.clone());
            for (known, _) in page {
                if !is_all && last.as_ref().is_none_or(|last| known > *last) {
                    break 'known;
                }
                let rest = known.get(prefix.len()..).unwrap_or_default();
                if pairs.binary_search_by(|(one, _)| one.as_slice().cmp(rest)).is_err() {
                    batch = batch.delete(known);
                    if batch.len() >= PAGE {
                        self.keyspace.commit(std::mem::take(&mut batch)).await?;
                    }
                }
            }
        }
        for (rest, value) in pairs {
            batch = batch.put(full(&rest), value);
        }
        match batch.len() {
            0 => Ok(()),
            _ => Ok(self.keyspace.commit(batch).await?),
        }
    }

    /// Every group that this node is in.
    pub(super) async fn groups(&self) -> Result<Vec<(GroupId, GroupFacts)>, StreamError> {
        let page = self.keyspace.scan_prefix(b"g/", None, PAGE).await?;
        let one = |(key, value): (Vec<u8>, Vec<u8>)| {
            let id = tail_number(&key).ok_or_else(|| StreamError::Corrupt("a group has no number".into()))?;
            Ok((GroupId(id), read(&value, "group")?))
        };
        page.into_iter().map(one).collect()
    }

    /// Forgets a group.
    pub(super) async fn remove_group(&self, id: GroupId) -> Result<(), StreamError> {
        Ok(self.keyspace.delete(key(b'g', id.0, &[])).await?)
    }

    /// What is known of a group.
    pub(super) async fn group(&self, id: GroupId) -> Result<Option<GroupFacts>, StreamError> {
        let found = self.keyspace.get(&key(b'g', id.0, &[])).await?;
        found.map(|bytes| read(&bytes, "group")).transpose()
    }

    /// Notes it, durably.
    pub(super) async fn put_group(&self, id: GroupId, facts: &GroupFacts) -> Result<(), StreamError> {
        Ok(self.keyspace.put(key(b'g', id.0, &[]), codec::encode(facts)).await?)
    }

    /// The last checkpoint of another member's stream that was verified here.
    pub(super) async fn seen(&self, owner: &str, name: &Subject) -> Result<Option<String>, StreamError> {
        let found = self.keyspace.get(&seen_key(owner, name)).await?;
        Ok(found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Notes it.
    pub(super) async fn saw(&self, owner: &str, name: &Subject, checkpoint: &str) -> Result<(), StreamError> {
        Ok(self.keyspace.put(seen_key(owner, name), checkpoint.as_bytes()).await?)
    }

    /// What was verified last, behind this key: the key, the owner and the name.
    pub(super) async fn seen_after(
        &self,
        after: Option<&[u8]>,
        most: usize,
    ) -> Result<Vec<(Vec<u8>, String, String)>, StreamError> {
        let page = self.keyspace.scan_prefix(b"k/", after, most).await?;
        let parts = |(key, _): (Vec<u8>, Vec<u8>)| {
            let text = std::str::from_utf8(key.get(2..)?).ok()?;
            let (owner, name) = text.split_once('/')?;
            let (owner, name) = (owner.to_owned(), name.to_owned());
            Some((key, owner, name))
        };
        Ok(page.into_iter().filter_map(parts).collect())
    }

    /// Keeps evidence of a fork, unless there is some.
    pub(super) async fn keep_fork(&self, owner: &str, name: &Subject, text: &str) -> Result<(), StreamError> {
        let key = format!("f/{name}/{owner}").into_bytes();
        if self.keyspace.get(&key).await?.is_none() {
            self.keyspace.put(key, text.as_bytes()).await?;
        }
        Ok(())
    }

    /// Evidence of forks of streams with this name.
    pub(super) async fn forks(&self, name: &Subject) -> Result<Vec<String>, StreamError> {
        let prefix = format!("f/{name}/").into_bytes();
        let page = self.keyspace.scan_prefix(&prefix, None, PAGE).await?;
        let text = |(_, value): (Vec<u8>, Vec<u8>)| String::from_utf8_lossy(&value).into_owned();
        Ok(page.into_iter().map(text).collect())
    }

    /// The schemas of a stream.
    pub(super) async fn schemas(&self, number: u64) -> Result<SchemaSet, StreamError> {
        let found = self.keyspace.get(&key(b'v', number, &[])).await?;
        found.map_or_else(|| Ok(SchemaSet::default()), |bytes| read(&bytes, "schemas"))
    }

    /// Writes them, durably.
    pub(super) async fn put_schemas(&self, number: u64, set: &SchemaSet) -> Result<(), StreamError> {
        Ok(self.keyspace.put(key(b'v', number, &[]), codec::encode(set)).await?)
    }

    /// Every consumer of a stream, as it was written.
    pub(super) async fn consumers(&self, number: u64) -> Result<Vec<(String, Vec<u8>)>, StreamError> {
        let prefix = key(b'c', number, &[]);
        let page = self.keyspace.scan_prefix(&prefix, None, PAGE).await?;
        let name = |key: &[u8]| String::from_utf8_lossy(key.get(prefix.len()..).unwrap_or_default()).into_owned();
        Ok(page.into_iter().map(|(key, value)| (name(&key), value)).collect())
    }

    /// Writes a consumer, and dead letters that it has or has no longer.
    pub(super) async fn write_consumer(
        &self,
        number: u64,
        name: &str,
        state: Vec<u8>,
        dead: &[(u64, Option<Vec<u8>>)],
    ) -> Result<(), StreamError> {
        let mut batch = Batch::new().put(key(b'c', number, &[name.as_bytes()]), state);
        for (position, letter) in dead {
            let place = key(b'd', number, &[name.as_bytes(), b"/", &position.to_be_bytes()]);
            batch = match letter {
                Some(letter) => batch.put(place, letter.clone()),
                None => batch.delete(place),
            };
        }
        Ok(self.keyspace.commit(batch).await?)
    }

    /// Dead letters of a consumer, behind a position.
    pub(super) async fn dead(
        &self,
        number: u64,
        name: &str,
        after: u64,
        most: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StreamError> {
        let prefix = key(b'd', number, &[name.as_bytes(), b"/"]);
        let after = [&prefix[..], &after.to_be_bytes()].concat();
        let page = self.keyspace.scan_prefix(&prefix, Some(&after), most.min(PAGE)).await?;
        let numbered = page
            .into_iter()
            .filter_map(|(key, value)| Some((tail_number(&key)?, value)));
        Ok(numbered.collect())
    }

    /// Forgets a consumer.
    pub(super) async fn remove_consumer(&self, number: u64, name: &str) -> Result<(), StreamError> {
        loop {
            let letters = self.dead(number, name, 0, PAGE).await?;
            if letters.is_empty() {
                break;
            }
            let place = |position: u64| key(b'd', number, &[name.as_bytes(), b"/", &position.to_be_bytes()]);
            let batch = letters
                .iter()
                .fold(Batch::new(), |batch, (position, _)| batch.delete(place(*position)));
            self.keyspace.commit(batch).await?;
        }
        Ok(self.keyspace.delete(key(b'c', number, &[name.as_bytes()])).await?)
    }
}
