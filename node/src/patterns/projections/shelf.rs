//! How projections lie in the keyspace.
//!
//! ```text
//! d/NAME                      a projection: how it is defined, and which generation is served
//! n                           the number of the next generation
//! x/GENERATION                one whose rest is being removed
//! p/GENERATION                how far it has come
//! r/GENERATION GROUP          what is gathered of a group
//! s/GENERATION POSITION       a snapshot
//! c/GENERATION POSITION CHUNK its groups
//! ```
//! Numbers have eight bytes, the most significant first.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use weft_protocol::codec;

use super::{
    options::{ProjectionError, ProjectionOptions},
    sql::Group,
};
use crate::store::{Batch, Keyspace};

/// Entries that are read at once.
pub(super) const PAGE: usize = 1000;
/// What is stored of anything.
const ENTRY_BYTES_MAX: usize = 8 << 20;
/// Bytes of a snapshot's chunk, and one group.
const CHUNK_BYTES: usize = 1 << 20;
const NEXT: &[u8] = b"n";

/// A projection as it was defined.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Defined {
    #[n(0)]
    pub(super) options: ProjectionOptions,
    /// What is served.
    #[n(1)]
    pub(super) generation: u64,
    /// What is built to be served instead.
    #[n(2)]
    pub(super) next: Option<Next>,
    /// When it was defined, Unix milliseconds.
    #[n(3)]
    pub(super) created_ms: u64,
}

/// A generation that is being built.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Next {
    #[n(0)]
    pub(super) options: ProjectionOptions,
    #[n(1)]
    pub(super) generation: u64,
}

/// How far a generation has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Progress {
    /// Everything up to here has been looked at.
    #[n(0)]
    pub(super) position: u64,
    /// Events that counted.
    #[n(1)]
    pub(super) taken: u64,
    #[n(2)]
    pub(super) groups: u64,
    /// Values that were of no use: a text in a sum, say.
    #[n(3)]
    pub(super) misfits: u64,
    /// Events that the stream kept no more when it was their turn.
    #[n(4)]
    pub(super) missed: u64,
    /// When the last event was recorded, Unix milliseconds.
    #[n(5)]
    pub(super) recorded_ms: u64,
    /// Which stream of this name it is.
    #[n(6)]
    pub(super) stream_created_ms: Option<u64>,
    /// Why it cannot go on.
    #[n(7)]
    pub(super) stopped: Option<String>,
    /// Where the last snapshot was taken by itself.
    #[n(8)]
    pub(super) snapshot: u64,
}

/// A snapshot of a projection.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotInfo {
    /// Of which position.
    #[n(0)]
    pub position: u64,
    /// Rows, without those that `HAVING` leaves out.
    #[n(1)]
    pub groups: u64,
    /// Bytes.
    #[n(2)]
    pub bytes: u64,
    /// When it was taken, Unix milliseconds.
    #[n(3)]
    pub taken_ms: u64,
    /// Whether somebody asked for it: then nothing but somebody's word removes it.
    #[n(4)]
    pub is_asked_for: bool,
}

#[derive(Encode, Decode)]
struct Chunk {
    #[n(0)]
    groups: Vec<Entry>,
}

#[derive(Encode, Decode)]
struct Entry {
    #[cbor(n(0), with = "minicbor::bytes")]
    key: Vec<u8>,
    #[n(1)]
    group: Group,
}

/// Groups by the bytes that name them.
pub(super) type Groups = BTreeMap<Vec<u8>, Group>;

/// Where projections lie.
#[derive(Debug, Clone)]
pub(super) struct Shelf(Keyspace);

fn key(kind: u8, numbers: &[u64], rest: &[u8]) -> Vec<u8> {
    let mut key = vec![kind, b'/'];
    numbers
        .iter()
        .for_each(|number| key.extend_from_slice(&number.to_be_bytes()));
    key.extend_from_slice(rest);
    key
}

fn read<T: for<'b> Decode<'b, ()>>(bytes: &[u8], what: &'static str) -> Result<T, ProjectionError> {
    let decoded = codec::decode(bytes, ENTRY_BYTES_MAX, what);
    decoded.map_err(|error| ProjectionError::Corrupt(format!("what is stored of a projection cannot be read: {error}")))
}

impl Shelf {
    pub(super) fn new(keyspace: Keyspace) -> Self {
        Shelf(keyspace)
    }

    /// The projections that are defined, by name.
    pub(super) async fn defined(&self) -> Result<Vec<(String, Defined)>, ProjectionError> {
        let entries = self.0.scan_prefix(b"d/", None, PAGE).await?;
        let defined = entries.into_iter().map(|(key, value)| {
            let name = String::from_utf8_lossy(key.get(2..).unwrap_or_default()).into_owned();
            Ok((name, read(&value, "projection")?))
        });
        defined.collect()
    }

    /// A number that no generation has had.
    pub(super) async fn number(&self) -> Result<u64, ProjectionError> {
        let next = self.0.get(NEXT).await?;
        let number = next.map_or(Ok(1), |bytes| read(&bytes, "number"))?;
        self.0.put(NEXT, codec::encode(&(number + 1))).await?;
        Ok(number)
    }

    /// Defines a projection; `gone` is a generation that is not needed any more.
    pub(super) async fn define(&self, name: &str, defined: &Defined, gone: Option<u64>) -> Result<(), ProjectionError> {
        let mut batch = Batch::new().put(format!("d/{name}"), codec::encode(defined));
        if let Some(gone) = gone {
            batch = batch.put(key(b'x', &[gone], b""), []);
        }
        Ok(self.0.commit(batch).await?)
    }

    /// Forgets a projection.
    pub(super) async fn remove(&self, name: &str, gone: &[u64]) -> Result<(), ProjectionError> {
        let batch = Batch::new().delete(format!("d/{name}"));
        let batch = gone
            .iter()
            .fold(batch, |batch, gone| batch.put(key(b'x', &[*gone], b""), []));
        Ok(self.0.commit(batch).await?)
    }

    /// The generations whose rest has to be removed.
    pub(super) async fn gone(&self) -> Result<Vec<u64>, ProjectionError> {
        let entries = self.0.scan_prefix(b"x/", None, PAGE).await?;
        let number = |(key, _): (Vec<u8>, Vec<u8>)| Some(u64::from_be_bytes(key.get(2..10)?.try_into().ok()?));
        Ok(entries.into_iter().filter_map(number).collect())
    }

    /// Removes everything of a generation.
    pub(super) async fn clear(&self, generation: u64) -> Result<(), ProjectionError> {
        for kind in [b'r', b's', b'c'] {
            self.clear_prefix(&key(kind, &[generation], b"")).await?;
        }
        let batch = Batch::new()
            .delete(key(b'p', &[generation], b""))
            .delete(key(b'x', &[generation], b""));
        Ok(self.0.commit(batch).await?)
    }

    async fn clear_prefix(&self, prefix: &[u8]) -> Result<(), ProjectionError> {
        loop {
            let page = self.0.scan_prefix(prefix, None, PAGE).await?;
            if page.is_empty() {
                return Ok(());
            }
            let batch = page.into_iter().fold(Batch::new(), |batch, (key, _)| batch.delete(key));
            self.0.commit(batch).await?;
        }
    }

    pub(super) async fn progress(&self, generation: u64) -> Result<Progress, ProjectionError> {
        let stored = self.0.get(&key(b'p', &[generation], b"")).await?;
        stored.map_or_else(|| Ok(Progress::default()), |bytes| read(&bytes, "progress"))
    }

    pub(super) async fn group(&self, generation: u64, name: &[u8]) -> Result<Option<Group>, ProjectionError> {
        let stored = self.0.get(&key(b'r', &[generation], name)).await?;
        stored.map(|bytes| read(&bytes, "group")).transpose()
    }

    /// Writes groups and how far that is, together.
    pub(super) async fn advance<'a>(
        &self,
        generation: u64,
        groups: impl Iterator<Item = (&'a Vec<u8>, &'a Group)>,
        progress: &Progress,
    ) -> Result<(), ProjectionError> {
        let batch = groups.fold(Batch::new(), |batch, (name, group)| {
            batch.put(key(b'r', &[generation], name), codec::encode(group))
        });
        let batch = batch.put(key(b'p', &[generation], b""), codec::encode(progress));
        Ok(self.0.commit(batch).await?)
    }

    /// Groups whose names begin so, behind `after`; none: there are no more.
    pub(super) async fn groups(
        &self,
        generation: u64,
        prefix: &[u8],
        after: Option<&[u8]>,
        most: usize,
    ) -> Result<Vec<(Vec<u8>, Group)>, ProjectionError> {
        let after = after.map(|after| key(b'r', &[generation], after));
        let page = self
            .0
            .scan_prefix(&key(b'r', &[generation], prefix), after.as_deref(), most)
            .await?;
        let group =
            |(key, value): (Vec<u8>, Vec<u8>)| Ok((key.get(10..).unwrap_or_default().to_vec(), read(&value, "group")?));
        page.into_iter().map(group).collect()
    }

    /// Keeps a snapshot of everything that is kept of a generation now; nobody may change it meanwhile.
    pub(super) async fn snapshot(
        &self,
        generation: u64,
        progress: &Progress,
        taken_ms: u64,
        is_asked_for: bool,
    ) -> Result<SnapshotInfo, ProjectionError> {
        let mut info = SnapshotInfo {
            position: progress.position,
            groups: 0,
            bytes: 0,
            taken_ms,
            is_asked_for,
        };
        let header = key(b's', &[generation, info.position], b"");
        if let Some(known) = self.0.get(&header).await? {
            let known: SnapshotInfo = read(&known, "snapshot")?;
            let is_asked_for = known.is_asked_for || is_asked_for;
            let known = SnapshotInfo { is_asked_for, ..known };
            self.0.put(header, codec::encode(&known)).await?;
            return Ok(known);
        }
        // What was cut off in the middle, when it was to be taken before.
        self.clear_prefix(&key(b'c', &[generation, info.position], b"")).await?;
        let (mut chunk, mut held, mut number, mut after) = (Vec::new(), 0, 0, None::<Vec<u8>>);
        loop {
            let page = self.groups(generation, b"", after.as_deref(), PAGE).await?;
            let is_last = page.is_empty();
            after = page.last().map(|(key, _)| key.clone());
            for (key, group) in page {
                held += key.len() + group.weight();
                chunk.push(Entry { key, group });
                info.groups += 1;
                if held > CHUNK_BYTES {
                    info.bytes += self.chunk(generation, info.position, number, &mut chunk).await?;
                    (held, number) = (0, number + 1);
                }
            }
            if is_last {
                break;
            }
        }
        info.bytes += self.chunk(generation, info.position, number, &mut chunk).await?;
        self.0.put(header, codec::encode(&info)).await?;
        Ok(info)
    }

    async fn chunk(
        &self,
        generation: u64,
        position: u64,
        number: u64,
        chunk: &mut Vec<Entry>,
    ) -> Result<u64, ProjectionError> {
        let groups = std::mem::take(chunk);
        let bytes = codec::encode(&Chunk { groups });
        let length = bytes.len() as u64;
        self.0
            .put(key(b'c', &[generation, position, number], b""), bytes)
            .await?;
        Ok(length)
    }

    /// The snapshots of a generation, the oldest first.
    pub(super) async fn snapshots(&self, generation: u64) -> Result<Vec<SnapshotInfo>, ProjectionError> {
        let (prefix, mut all, mut after) = (key(b's', &[generation], b""), Vec::new(), None::<Vec<u8>>);
        loop {
            let page = self.0.scan_prefix(&prefix, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(all) };
            after = Some(last.clone());
            for (_, value) in page {
                all.push(read(&value, "snapshot")?);
            }
        }
    }

    /// The groups of a snapshot.
    pub(super) async fn snapshot_groups(
        &self,
        generation: u64,
        position: u64,
        bytes_max: u64,
    ) -> Result<Groups, ProjectionError> {
        let (prefix, mut groups, mut after) = (key(b'c', &[generation, position], b""), Groups::new(), None::<Vec<u8>>);
        let mut bytes = 0;
        loop {
            let page = self.0.scan_prefix(&prefix, after.as_deref(), 8).await?;
            let Some((last, _)) = page.last() else {
                return Ok(groups);
            };
            after = Some(last.clone());
            for (_, value) in page {
                bytes += value.len() as u64;
                if bytes > bytes_max {
                    return Err(too_much(bytes_max));
                }
                let chunk: Chunk = read(&value, "snapshot")?;
                groups.extend(chunk.groups.into_iter().map(|entry| (entry.key, entry.group)));
            }
        }
    }

    /// Removes a snapshot.
    pub(super) async fn forget(&self, generation: u64, position: u64) -> Result<(), ProjectionError> {
        self.0.delete(key(b's', &[generation, position], b"")).await?;
        self.clear_prefix(&key(b'c', &[generation, position], b"")).await
    }
}

/// What is looked at in the past is held in memory.
pub(super) fn too_much(bytes_max: u64) -> ProjectionError {
    ProjectionError::Invalid(format!(
        "the rows of that moment are more than {} MiB, which are looked at at once",
        bytes_max >> 20
    ))
}
