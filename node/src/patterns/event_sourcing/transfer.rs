//! Whole streams: checked, written out, and read in again.
//!
//! An export is text, a line at a time: a head, the records byte for byte in base64, and at the end the signed checkpoint they lead to with the
//! certificates of who signed it, and the stream's schemas, signed as well. Who reads it in sees whether anything was changed, left out or added.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use weft_protocol::{
    Chain, MeshId, PeerId, Signed, Subject, Wire as _,
    limits::{CHAIN_BYTES_MAX, CLOCK_SKEW_MS_MAX},
    merkle::{Hash, check_consistency, leaf_hash},
    patterns::event_sourcing::{RECORD_BYTES_MAX, Record, checkpoint::Checkpoint, schema::ExportedSchemas},
};

use super::{
    handle::Verified,
    options::StreamError,
    prove,
    schemas::{SchemaChange, SchemaSet, check_definition},
    stream::{Kept, Stream},
    streams::{Opened, Streams},
    tree::BLOCK,
};
use crate::{
    patterns::body::{BodyError, BodyReader, BodyWriter, body},
    store::{Frontier, Log},
    trust::Trust,
};

const FORM: u32 = 1;
/// A line of an export: the largest record, or the certificates.
const LINE_BYTES_MAX: usize = (RECORD_BYTES_MAX / 3 + 1) * 4 + 1024;
/// Records are appended in so many bytes at once.
const APPEND_BYTES: usize = 1 << 20;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    weft_stream_export: u32,
    stream: Subject,
    /// The position of the first record that follows.
    first: u64,
    /// The position of the last one.
    version: u64,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
struct Tail {
    checkpoint: String,
    /// The certificates of who signed it, base64; empty in an open mesh.
    chain: String,
    /// The stream's schemas with the owner's signature, base64; nothing where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schemas: Option<String>,
}

/// What was read in.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The stream that was exported.
    pub stream: Subject,
    /// How many records it has.
    pub records: u64,
    /// Who exported it.
    pub owner: PeerId,
    /// What the owner was called in its mesh, if it is not an open one.
    pub owner_name: Option<String>,
    /// The mesh.
    pub mesh: MeshId,
    /// When, Unix milliseconds.
    pub exported_ms: u64,
}

fn corrupt(reason: impl Into<String>) -> StreamError {
    StreamError::Corrupt(reason.into())
}

/// Begins to write a stream out.
pub(super) async fn export(streams: &Arc<Streams>, opened: &Opened) -> Result<BodyReader, StreamError> {
    let trust = streams.mesh.trust();
    let stream = Arc::clone(&opened.stream);
    let (version, checkpoint) = prove::checkpoint(&stream, trust)?;
    let head = Head {
        weft_stream_export: FORM,
        stream: stream.name.clone(),
        first: stream.first(),
        version,
    };
    let schemas = stream.schemas().await?.set.schemas.clone();
    let schemas = match schemas.is_empty() {
        true => None,
        false => {
            let checkpoint = checkpoint.clone();
            let signed = trust.sign(&ExportedSchemas { checkpoint, schemas })?;
            Some(BASE64.encode(&signed.to_checked_bytes()?))
        }
    };
    let tail = Tail {
        checkpoint,
        chain: BASE64.encode(&trust.chain().to_bytes()),
        schemas,
    };
    let (writer, reader) = body();
    streams.tasks.spawn("stream-export", async move {
        if let Err(error) = write_out(&stream, head, tail, writer).await {
            tracing::debug!(stream = %stream.name, %error, "a stream was written out in part");
        }
    });
    Ok(reader)
}

async fn write_out(stream: &Stream, head: Head, tail: Tail, mut to: BodyWriter) -> Result<(), StreamError> {
    let mut next = head.first - 1;
    let mut lines = line(&head)?;
    while next < head.version {
        let page = match stream.read(next, (head.version - next) as usize).await {
            Ok(page) => page,
            Err(error) => {
                to.fail(500, &error.to_string()).await;
                return Err(error);
            }
        };
        let Some(last) = page.last() else {
            to.fail(500, "records are missing").await;
            return Err(corrupt("records are missing"));
        };
        next = last.position;
        for kept in &page {
            lines.push_str(&BASE64.encode(&kept.bytes));
            lines.push('\n');
        }
        to.send(std::mem::take(&mut lines).into()).await.map_err(unread)?;
    }
    lines.push_str(&line(&tail)?);
    to.send(lines.into()).await.map_err(unread)?;
    to.finish().await.map_err(unread)
}

fn unread(_: BodyError) -> StreamError {
    StreamError::Closed
}

fn line(value: &impl Serialize) -> Result<String, StreamError> {
    let text = serde_json::to_string(value).map_err(|error| corrupt(error.to_string()))?;
    Ok(text + "\n")
}

/// Lines of a body.
struct Lines {
    body: BodyReader,
    buffer: BytesMut,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        let mut looked = 0;
        loop {
            if let Some(at) = self.buffer[looked..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(looked + at + 1).freeze();
                return Ok(Some(line.slice(..line.len() - 1)));
            }
            looked = self.buffer.len();
            if looked > LINE_BYTES_MAX {
                return Err(StreamError::Invalid("a line of the export is too long".into()));
            }
            match self.body.next().await {
                Ok(Some(part)) => self.buffer.extend_from_slice(&part),
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => {
                    return Err(StreamError::Invalid(
                        "the export breaks off in the middle of a line".into(),
                    ));
                }
                Err(error) => return Err(StreamError::Invalid(format!("the export breaks off: {error}"))),
            }
        }
    }
}

/// Reads a stream in, under a name that nobody sees until all of it was checked.
pub(super) async fn import(streams: &Arc<Streams>, name: &Subject, from: BodyReader) -> Result<Imported, StreamError> {
    super::options::check_name(name)?;
    let hidden = streams.begin_import(name).await?;
    let done = async {
        let (imported, set) = read_in(&hidden.1, from).await?;
        if !set.schemas.is_empty() {
            streams.put_schemas(&hidden.0, &set).await?;
        }
        streams.end_import(name, &hidden.0).await?;
        Ok(imported)
    };
    match done.await {
        Ok(imported) => Ok(imported),
        Err(error) => {
            streams.give_up_import(&hidden.0).await;
            Err(error)
        }
    }
}

async fn read_in(log: &Log, from: BodyReader) -> Result<(Imported, SchemaSet), StreamError> {
    let mut lines = Lines {
        body: from,
        buffer: BytesMut::new(),
    };
    let not_one = || StreamError::Invalid("this is no export of a stream".into());
    let head = lines.next().await?.ok_or_else(not_one)?;
    let head: Head = serde_json::from_slice(&head).map_err(|_| not_one())?;
    if head.weft_stream_export != FORM {
        return Err(StreamError::Invalid(format!(
            "the export has the form {}, understood is {FORM}",
            head.weft_stream_export
        )));
    }
    if head.first != 1 {
        return Err(StreamError::Conflict(format!(
            "the export begins with the record {}: what was before it was not kept, and nothing can be built on it",
            head.first
        )));
    }
    let (mut frontier, mut batch, mut bytes) = (Frontier::default(), Vec::new(), 0);
    while frontier.count() < head.version {
        let short = || {
            corrupt(format!(
                "the export ends after {} of {} records",
                frontier.count(),
                head.version
            ))
        };
        let line = lines.next().await?.ok_or_else(short)?;
        let position = frontier.count() + 1;
        let record = BASE64.decode(&line);
        let record = record.map_err(|_| corrupt(format!("the record {position} of the export is no base64")))?;
        let read = Record::from_bytes(&record);
        read.map_err(|error| corrupt(format!("the record {position} of the export cannot be read: {error}")))?;
        frontier.push(leaf_hash(&record));
        bytes += record.len();
        batch.push(Bytes::from(record));
        if bytes >= APPEND_BYTES || batch.len() == 1000 {
            log.append(std::mem::take(&mut batch)).await?;
            bytes = 0;
        }
    }
    log.append(batch).await?;
    let tail = lines.next().await?.ok_or_else(|| corrupt("the export has no end"))?;
    let tail: Tail = serde_json::from_slice(&tail).map_err(|_| corrupt("the export has more records than it says"))?;
    if lines.next().await?.is_some() {
        return Err(corrupt("the export goes on behind its end"));
    }
    let imported = check(&head, &tail, frontier.root())?;
    let schemas = schemas_of(&tail, imported.owner)?;
    Ok((imported, schemas))
}

/// The schemas of an export that are to be its stream's: those that its owner has signed together with its checkpoint.
fn schemas_of(tail: &Tail, owner: PeerId) -> Result<SchemaSet, StreamError> {
    let mut set = SchemaSet::default();
    let Some(text) = &tail.schemas else { return Ok(set) };
    let untrue = |reason: String| {
        corrupt(format!(
            "the schemas of the export are not as they were signed: {reason}"
        ))
    };
    let bytes = BASE64.decode(text.as_bytes());
    let bytes = bytes.map_err(|error| untrue(error.to_string()))?;
    let signed: Signed<ExportedSchemas> = Signed::from_bytes(&bytes).map_err(|error| untrue(error.to_string()))?;
    let exported = signed.open().map_err(|error| untrue(error.to_string()))?;
    if signed.signer().peer_id() != owner || exported.checkpoint != tail.checkpoint {
        return Err(untrue("they are those of another".into()));
    }
    for schema in exported.schemas {
        check_definition(&schema)?;
        set.apply(SchemaChange::Add(schema))?;
    }
    Ok(set)
}

fn check(head: &Head, tail: &Tail, root: Hash) -> Result<Imported, StreamError> {
    let untrue = |reason: String| corrupt(format!("the export is not as it was signed: {reason}"));
    let checkpoint = Checkpoint::open(&tail.checkpoint).map_err(|error| untrue(error.to_string()))?;
    let origin = &checkpoint.origin;
    if origin.stream != head.stream || checkpoint.size != head.version || checkpoint.root != root {
        return Err(untrue("its records are not those that were signed".into()));
    }
    let chain = BASE64.decode(tail.chain.as_bytes()).ok();
    let chain = chain.filter(|bytes| bytes.len() <= CHAIN_BYTES_MAX);
    let chain = chain.and_then(|bytes| Chain::from_bytes(&bytes).ok());
    let chain = chain.ok_or_else(|| untrue("its certificates cannot be read".into()))?;
    let mut owner_name = None;
    if let Some(root) = chain.root() {
        if MeshId::from_root(&root) != origin.mesh {
            return Err(untrue("its certificates are of another mesh".into()));
        }
        let at_ms = checkpoint.time_ms;
        let member = chain.verify(&root, &origin.mesh, at_ms, CLOCK_SKEW_MS_MAX, &|_| false);
        let member = member.map_err(|error| untrue(error.to_string()))?;
        if member.key != origin.owner {
            return Err(untrue("its certificates are of another node".into()));
        }
        owner_name = Some(member.name);
    }
    Ok(Imported {
        stream: head.stream.clone(),
        records: checkpoint.size,
        owner: origin.owner.peer_id(),
        owner_name,
        mesh: origin.mesh,
        exported_ms: checkpoint.time_ms,
    })
}

/// Reads every record that is kept and builds the tree anew.
pub(super) async fn verify(trust: &Trust, stream: &Stream) -> Result<Verified, StreamError> {
    if let Some(damage) = stream.log.damage().into_iter().next() {
        return Err(damage.into());
    }
    let (version, checkpoint) = prove::checkpoint(stream, trust)?;
    let first = stream.first() - 1;
    // What was before the block of the first record that is kept stands for itself in the tree, as the roots of whole blocks.
    let begin = first / BLOCK * BLOCK;
    let peaks = stream.hashes(&peaks(begin)).await?;
    let mut frontier = Frontier::from_peaks(begin, peaks).ok_or_else(|| corrupt("the tree has no beginning"))?;
    let (mut last_ms, mut next) = (0, begin);
    while next < version {
        let page = stream.read(next, (version - next) as usize).await?;
        if page.is_empty() {
            return Err(corrupt(format!("the record {} is missing", next + 1)));
        }
        for kept in &page {
            if kept.position != next + 1 {
                return Err(corrupt(format!("the record {} is missing", next + 1)));
            }
            let record = kept.record()?;
            if record.recorded_ms < last_ms {
                return Err(corrupt(format!(
                    "the record {} is older than the one before",
                    kept.position
                )));
            }
            last_ms = record.recorded_ms;
            frontier.push(leaf_hash(&kept.bytes));
            next += 1;
        }
    }
    let signed = Checkpoint::open(&checkpoint).map_err(|error| corrupt(error.to_string()))?;
    if frontier.root() != signed.root {
        return Err(corrupt("the records do not lead to the signed root"));
    }
    Ok(Verified {
        records: version - first,
        first: first + 1,
        checkpoint,
    })
}

/// A checkpoint that says what it should be about.
pub(super) fn open_of(text: &str, owner: PeerId, name: &Subject) -> Result<Checkpoint, StreamError> {
    let checkpoint =
        Checkpoint::open(text).map_err(|error| corrupt(format!("the checkpoint does not hold: {error}")))?;
    if checkpoint.origin.owner.peer_id() != owner || checkpoint.origin.stream != *name {
        return Err(corrupt("the checkpoint is of another stream"));
    }
    Ok(checkpoint)
}

/// The root of a stream's first records, from what is known of it without reading them all.
pub(super) async fn root_at(stream: &Stream, size: u64) -> Result<Hash, StreamError> {
    let peaks = stream.hashes(&peaks(size)).await?;
    let frontier = Frontier::from_peaks(size, peaks).ok_or_else(|| corrupt("the tree has no beginning"))?;
    Ok(frontier.root())
}

/// Whether a history goes on from the one that was seen before.
pub(super) fn check_extends(seen: &Checkpoint, now: &Checkpoint, hashes: &[Hash]) -> Result<(), StreamError> {
    let extends = check_consistency((seen.size, &seen.root), (now.size, &now.root), hashes);
    extends.map_err(|_| {
        corrupt(format!(
            "the owner has signed two histories: one of {} records at {}, which is not the beginning of the one of {} records at {}",
            seen.size,
            crate::local::rfc3339(seen.time_ms),
            now.size,
            crate::local::rfc3339(now.time_ms),
        ))
    })
}

/// The tree of records that come from elsewhere.
#[derive(Default)]
pub(super) struct Built(Frontier);

impl Built {
    pub(super) fn count(&self) -> u64 {
        self.0.count()
    }

    pub(super) fn add(&mut self, records: &[Kept]) -> Result<(), StreamError> {
        for kept in records {
            if kept.position != self.count() + 1 {
                return Err(StreamError::Conflict(format!(
                    "the record {} is not kept any more: the whole history can be verified by its owner alone",
                    self.count() + 1
                )));
            }
            kept.record()?;
            self.0.push(leaf_hash(&kept.bytes));
        }
        Ok(())
    }

    /// Whether it is what was signed.
    pub(super) fn check(self, signed: &Checkpoint, checkpoint: String) -> Result<Verified, StreamError> {
        if self.count() != signed.size || self.0.root() != signed.root {
            return Err(corrupt("the records that came are not those that were signed"));
        }
        Ok(Verified {
            records: signed.size,
            first: 1,
            checkpoint,
        })
    }
}

/// The whole subtrees over the first `count` leaves, largest first.
fn peaks(count: u64) -> Vec<(u64, u64)> {
    let (mut start, mut ranges) = (0, Vec::new());
    for bit in (0..u64::BITS).rev() {
        let size = 1_u64 << bit;
        if count & size != 0 {
            ranges.push((start, start + size));
            start += size;
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use weft_protocol::{SecretKey, merkle::node_hash, patterns::event_sourcing::checkpoint::Origin};

    use super::*;

    #[test]
    fn a_history_that_does_not_go_on_is_noticed() {
        let leaf = |n: u8| leaf_hash(&[n]);
        let signed = |size, root| Checkpoint {
            origin: Origin {
                mesh: MeshId::from_bytes([1; 32]),
                stream: "orders".parse().unwrap(),
                owner: SecretKey::from_bytes(&[3; 32]).public(),
            },
            size,
            root,
            time_ms: 5,
        };
        let seen = signed(2, node_hash(&leaf(1), &leaf(2)));
        let now = |second: u8| signed(3, node_hash(&node_hash(&leaf(1), &leaf(second)), &leaf(3)));
        check_extends(&seen, &now(2), &[leaf(3)]).unwrap();
        let refused = check_extends(&seen, &now(7), &[leaf(3)]).unwrap_err();
        assert!(refused.to_string().contains("two histories"), "{refused}");
        // As long as before, or shorter, and another one.
        check_extends(&seen, &signed(2, leaf(9)), &[]).unwrap_err();
        check_extends(&seen, &signed(1, leaf(1)), &[]).unwrap_err();
        check_extends(&seen, &seen, &[]).unwrap();
    }

    #[test]
    fn peaks_are_the_whole_subtrees() {
        assert_eq!(peaks(0), []);
        assert_eq!(peaks(512), [(0, 512)]);
        assert_eq!(peaks(768), [(0, 512), (512, 768)]);
    }
}
