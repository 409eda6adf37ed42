//! Whether the owner of a stream has signed one history: what this node and others have seen of it is compared.
//!
//! Who verifies a stream of another member remembers the checkpoint that it led to. Each later look, and what others remember, must be the
//! beginning of what the owner shows now. Where it is not, the two checkpoints and the hashes between them are evidence that a stranger can
//! check ([`Fork`]): it is kept, also when the stream is gone. A node that remembers a stream compares it with others from time to time.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use tokio::time::timeout;
use weft_protocol::{
    PeerId, PublicKey, Subject,
    merkle::{Hash, consistency_ranges, leaf_hash},
    patterns::event_sourcing::{
        From, Query, ReadRequest, StreamReply, StreamRequest, checkpoint::Checkpoint, fork::Fork,
    },
};

use super::{
    asking::{ASKED_MAX, Asking},
    options::StreamError,
    read::Page,
    remote::{self, RemoteReader},
    streams::Streams,
    transfer,
};
use crate::{
    error::{ErrorKind, Kind as _},
    local::rfc3339,
    store::Frontier,
};

/// How long another member has to say what it has seen.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// How often what was seen is compared with what others have seen, and of how many streams at a time.
const COMPARE_EVERY: Duration = Duration::from_secs(600);
const COMPARED_MAX: usize = 16;

/// A checkpoint that somebody has seen.
#[derive(Debug, Clone)]
pub(super) struct Note {
    /// Who has; none: this node.
    by: Option<PeerId>,
    text: String,
    signed: Checkpoint,
}

impl Asking {
    /// Compares what this node and the members nearby have seen of a stream with what its owner shows now, which is the answer.
    ///
    /// # Errors
    /// `Corrupt` when the owner has signed two histories; its owner cannot be reached.
    pub(super) async fn compare(&self, owner: PeerId, name: &Subject) -> Result<String, StreamError> {
        let mut latest = None;
        for note in self.notes(owner, name).await {
            latest = Some(self.compare_one(owner, name, &note).await?);
        }
        match latest {
            Some(latest) => Ok(latest),
            None => Ok(self.extend_at(owner, name, 0).await?.0),
        }
    }

    /// What this node has seen, and what the members nearby have, each history once.
    async fn notes(&self, owner: PeerId, name: &Subject) -> Vec<Note> {
        let Some(key) = PublicKey::from_peer_id(&owner) else {
            return Vec::new();
        };
        let own = self.streams.seen_note(owner, name).await.ok().flatten();
        let request = StreamRequest::Seen {
            owner: key,
            checkpoint: own.clone(),
        };
        let nearby = self
            .streams
            .mesh
            .peers()
            .ids()
            .into_iter()
            .filter(|peer| *peer != owner);
        let asked = stream::iter(nearby.take(ASKED_MAX)).map(|peer| {
            let (request, streams) = (&request, &self.streams);
            async move {
                let asked = remote::ask(streams, peer, name, request, Duration::ZERO);
                match timeout(SEEN_WITHIN, asked).await {
                    Ok(Ok(StreamReply::Seen(text))) => Some((Some(peer), text?)),
                    // An older node does not know the question; another may not be asked.
                    _ => None,
                }
            }
        });
        let others: Vec<_> = asked.buffer_unordered(ASKED_MAX).collect().await;
        let all = own
            .map(|text| (None, text))
            .into_iter()
            .chain(others.into_iter().flatten());
        let mut notes: Vec<Note> = Vec::new();
        for (by, text) in all {
            // What somebody made up is not the owner's word.
            let Ok(signed) = transfer::open_of(&text, owner, name) else {
                continue;
            };
            let is_known = |note: &Note| note.signed.size == signed.size && note.signed.root == signed.root;
            if !notes.iter().any(is_known) {
                notes.push(Note { by, text, signed });
            }
        }
        notes
    }

    async fn extend_at(&self, owner: PeerId, name: &Subject, old: u64) -> Result<(String, Vec<Hash>), StreamError> {
        let request = StreamRequest::Extend(old);
        match remote::ask(&self.streams, owner, name, &request, Duration::ZERO).await? {
            StreamReply::Extended { checkpoint, hashes } => Ok((checkpoint, hashes)),
            _ => Err(StreamError::Corrupt(
                "the owner of the stream answered something else".into(),
            )),
        }
    }

    /// Whether what the owner shows now goes on from what was seen.
    async fn compare_one(&self, owner: PeerId, name: &Subject, note: &Note) -> Result<String, StreamError> {
        let (text, hashes) = match self.extend_at(owner, name, note.signed.size).await {
            Err(error) if error.kind() == ErrorKind::Conflict => return Err(fewer(note, error)),
            extended => extended?,
        };
        let now = transfer::open_of(&text, owner, name)?;
        let Err(error) = transfer::check_extends(&note.signed, &now, &hashes) else {
            return Ok(text);
        };
        let by = note.by.map_or("this node".to_owned(), |peer| peer.to_string());
        tracing::error!(stream = %name, %owner, seen_by = by, %error, "a stream has forked");
        match self.evidence(owner, name, note, (text, now)).await {
            Ok(fork) => {
                self.streams.keep_fork(owner, name, &fork).await?;
                Err(StreamError::Forked {
                    name: name.to_string(),
                    reason: error.to_string(),
                    by,
                })
            }
            Err(missing) => {
                tracing::warn!(stream = %name, %owner, error = %missing, "there is no evidence of the fork that a stranger could check");
                Err(error)
            }
        }
    }

    /// The evidence, from the records that the owner hands out: they lead to what it signed, or prove nothing.
    async fn evidence(
        &self,
        owner: PeerId,
        name: &Subject,
        note: &Note,
        (later, now): (String, Checkpoint),
    ) -> Result<Fork, StreamError> {
        let (old, new) = (note.signed.size, now.size);
        let mut fork = Fork {
            earlier: note.text.clone(),
            later,
            root: now.root,
            hashes: Vec::new(),
        };
        if old < new {
            let mut between = Between::new(old, new);
            let request = ReadRequest {
                from: From::Position(1),
                query: Query::default(),
                follow: false,
                limit: Some(new),
                is_upcast: None,
            };
            let mut reader = RemoteReader::new(&self.streams, owner, name, &request).await?;
            while between.count < new {
                match reader.next().await? {
                    Page::Records(records) => {
                        for kept in records {
                            if kept.position != between.count + 1 {
                                return Err(StreamError::Conflict("its first records are not kept any more".into()));
                            }
                            between.push(leaf_hash(&kept.bytes));
                        }
                    }
                    Page::CaughtUp(_) => {}
                    Page::End => break,
                }
            }
            (fork.root, fork.hashes) = between.finish();
        }
        fork.verify()
            .map_err(|error| StreamError::Corrupt(format!("what its owner hands out proves nothing: {error}")))?;
        Ok(fork)
    }
}

/// The owner never had so many records, it says now. That it is forgetful is no evidence: nothing that it signed contradicts that.
fn fewer(note: &Note, error: StreamError) -> StreamError {
    let by = note.by.map_or("this node".to_owned(), |peer| peer.to_string());
    StreamError::Corrupt(format!(
        "the owner has signed {} records at {}, as {by} has seen, and has fewer now: {error}",
        note.signed.size,
        rfc3339(note.signed.time_ms),
    ))
}

/// The root of the first records, and the hashes from there to the root of more of them.
struct Between {
    old: u64,
    count: u64,
    beginning: Frontier,
    root: Hash,
    ranges: Vec<((u64, u64), Frontier)>,
}

impl Between {
    fn new(old: u64, new: u64) -> Self {
        let ranges = consistency_ranges(old, new).into_iter();
        Between {
            old,
            count: 0,
            beginning: Frontier::default(),
            root: Frontier::default().root(),
            ranges: ranges.map(|range| (range, Frontier::default())).collect(),
        }
    }

    fn push(&mut self, leaf: Hash) {
        let index = self.count;
        if index < self.old {
            self.beginning.push(leaf);
            if index + 1 == self.old {
                self.root = self.beginning.root();
            }
        }
        for ((start, end), frontier) in &mut self.ranges {
            if (*start..*end).contains(&index) {
                frontier.push(leaf);
            }
        }
        self.count += 1;
    }

    fn finish(self) -> (Hash, Vec<Hash>) {
        (
            self.root,
            self.ranges.iter().map(|(_, frontier)| frontier.root()).collect(),
        )
    }
}

/// What this node has seen of a stream, said to another member that has seen something too.
pub(super) async fn say_seen(
    streams: &Streams,
    name: &Subject,
    owner: &PublicKey,
    theirs: Option<String>,
) -> Result<StreamReply, StreamError> {
    let owner = owner.peer_id();
    let own = streams.seen_note(owner, name).await?;
    // As many records and others: nobody needs to be asked.
    if let (Some(own), Some(theirs)) = (&own, theirs)
        && let (Ok(one), Ok(other)) = (
            transfer::open_of(own, owner, name),
            transfer::open_of(&theirs, owner, name),
        )
        && one.size == other.size
    {
        let fork = Fork {
            earlier: own.clone(),
            later: theirs,
            root: other.root,
            hashes: Vec::new(),
        };
        if fork.verify().is_ok() {
            tracing::error!(stream = %name, %owner, "a stream has forked: another member has seen another history");
            streams.keep_fork(owner, name, &fork).await?;
        }
    }
    Ok(StreamReply::Seen(own))
}

/// Compares what this node has seen with what others have, some streams at a time, until the node stops.
pub(super) async fn run(asking: Asking) {
    let mut turn = tokio::time::interval(COMPARE_EVERY);
    turn.tick().await;
    let mut after: Option<Vec<u8>> = None;
    loop {
        turn.tick().await;
        let page = match asking.streams.seen_after(after.as_deref(), COMPARED_MAX).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "it cannot be read what was seen of streams");
                continue;
            }
        };
        after = page.last().map(|(key, _, _)| key.clone());
        for (_, owner, name) in page {
            match asking.compare(owner, &name).await {
                // That it has forked was said.
                Ok(_) | Err(StreamError::Forked { .. }) => {}
                Err(error) => tracing::debug!(stream = %name, %owner, %error, "a stream is not compared"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_protocol::merkle::check_consistency;

    use super::*;

    #[test]
    fn the_hashes_between_are_those_of_the_proof() {
        let leaf = |n: u64| leaf_hash(&n.to_be_bytes());
        let root = |count: u64| {
            let mut frontier = Frontier::default();
            (0..count).for_each(|n| frontier.push(leaf(n)));
            frontier.root()
        };
        for new in 1..=70 {
            for old in 1..new {
                let mut between = Between::new(old, new);
                (0..new).for_each(|n| between.push(leaf(n)));
                let (beginning, hashes) = between.finish();
                assert_eq!(beginning, root(old));
                check_consistency((old, &beginning), (new, &root(new)), &hashes).unwrap();
            }
        }
    }
}
