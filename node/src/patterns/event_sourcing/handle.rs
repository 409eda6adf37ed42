//! What applications ask of streams, wherever they are kept.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::time::{Instant, timeout};
use weft_protocol::{
    PeerId, Subject, Wire as _,
    merkle::Hash,
    patterns::event_sourcing::{
        ANNOUNCEMENT_KEY, Append, Appended, From, KeptStreams, Query, ReadRequest, Record, StreamFigures, StreamReply,
        StreamRequest,
        consumer::{ConsumerReply, ConsumerRequest},
        proof::Proof,
    },
};

use super::{
    options::{StreamError, StreamOptions},
    read::{Page, Reader},
    remote::{self, RemoteReader},
    stream::Kept,
    streams::{Opened, Streams},
    transfer::{self, Imported},
};
use crate::{
    error::{ErrorKind, Kind as _},
    patterns::body::BodyReader,
};

/// How long other members have to say how their streams are, when all are listed.
const LIST_WITHIN: Duration = Duration::from_secs(2);
/// Streams of this node whose figures are listed.
const FIGURES_MAX: usize = 1000;
/// How long the owner of a stream may be away, a restart say, before that is an error.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause until it is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// Members that are asked at once.
const ASKED_MAX: usize = 32;

/// A cloneable handle on streams.
#[derive(Clone)]
pub struct EventSourcingHandle {
    pub(super) streams: Arc<Streams>,
    known: Arc<Mutex<Known>>,
}

/// What other members say that they keep, as it was when their records had this version.
#[derive(Default)]
struct Known {
    version: Option<u64>,
    owners: HashMap<Subject, Vec<PeerId>>,
}

/// Where a stream is.
enum Place {
    Here(Opened),
    At(PeerId),
}

/// A stream of the mesh.
#[derive(Debug, Clone)]
pub struct StreamInfo {
    /// Its name.
    pub name: Subject,
    /// Who keeps it.
    pub owner: PeerId,
    /// How it is; none when its owner did not say.
    pub figures: Option<StreamFigures>,
}

/// A record at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its position, from 1.
    pub position: u64,
    /// The record.
    pub record: Record,
}

/// What reading gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The next records.
    Records(Vec<Recorded>),
    /// Everything up to this position was read; what comes next is live.
    CaughtUp(u64),
}

impl EventSourcingHandle {
    pub(super) fn new(streams: Arc<Streams>) -> Self {
        EventSourcingHandle {
            streams,
            known: Arc::default(),
        }
    }

    /// Makes a stream on this node. Durable when it returns.
    ///
    /// # Errors
    /// `Exists` when a member has one of this name, as far as is known here.
    pub async fn create(&self, name: &Subject, options: StreamOptions) -> Result<StreamInfo, StreamError> {
        self.check_free(name).await?;
        let opened = self.streams.create(name, options).await?;
        Ok(self.local_info(name, &opened))
    }

    /// Whether no member has a stream of this name, as far as can be known: two that make it at the same moment do not hear of each other.
    async fn check_free(&self, name: &Subject) -> Result<(), StreamError> {
        let owner = match self.place(name).await {
            Err(StreamError::NoStream(_)) => return Ok(()),
            Ok(Place::Here(_)) => self.streams.local_peer(),
            Ok(Place::At(owner)) => owner,
            Err(error) => return Err(error),
        };
        let name = name.to_string();
        Err(StreamError::Exists { name, owner })
    }

    /// Changes how much of a stream of this node is kept.
    ///
    /// # Errors
    /// `NoStream`; a number that cannot be.
    pub async fn update(&self, name: &Subject, options: StreamOptions) -> Result<StreamInfo, StreamError> {
        self.streams.update(name, options).await?;
        let opened = self.streams.get(name).await?;
        Ok(self.local_info(name, &opened))
    }

    fn local_info(&self, name: &Subject, opened: &Opened) -> StreamInfo {
        StreamInfo {
            name: name.clone(),
            owner: self.streams.local_peer(),
            figures: Some(remote::figures(&self.streams, opened)),
        }
    }

    /// Deletes a stream of this node, with its records and its consumers.
    ///
    /// # Errors
    /// `NoStream` when this node does not keep it.
    pub async fn delete(&self, name: &Subject) -> Result<(), StreamError> {
        if !self.streams.has(name)
            && let Some(owner) = self.announcing(name).first()
        {
            return Err(StreamError::Conflict(format!(
                "the stream {name} is kept by {owner}, and deleted there"
            )));
        }
        let (streams, name) = (Arc::clone(&self.streams), name.clone());
        self.finish(async move { streams.delete(&name).await }).await
    }

    /// Every stream of the mesh that is known here, by name. Owners that do not answer in two seconds say nothing of theirs, and of more streams
    /// than 1000 of this node nobody is asked how they are.
    pub async fn list(&self) -> Vec<StreamInfo> {
        let own = self
            .streams
            .names()
            .into_iter()
            .map(|name| (name, self.streams.local_peer()));
        let others = self.announced().into_iter();
        let others = others.flat_map(|(peer, said)| said.names.into_iter().map(move |name| (name, peer)));
        let all: Vec<(Subject, PeerId)> = own.chain(others).collect();
        let asked = stream::iter(all.into_iter().enumerate()).map(|(number, (name, owner))| async move {
            let figures = match owner == self.streams.local_peer() {
                // Each would be opened to be asked.
                true if number >= FIGURES_MAX => None,
                true => match self.streams.get(&name).await {
                    Ok(opened) => Some(remote::figures(&self.streams, &opened)),
                    Err(_) => None,
                },
                false => self.figures_at(owner, &name).await,
            };
            StreamInfo { name, owner, figures }
        });
        let mut list: Vec<StreamInfo> = asked.buffer_unordered(ASKED_MAX).collect().await;
        list.sort_by(|a, b| (&a.name, a.owner).cmp(&(&b.name, b.owner)));
        list
    }

    async fn figures_at(&self, owner: PeerId, name: &Subject) -> Option<StreamFigures> {
        let asked = remote::ask(&self.streams, owner, name, &StreamRequest::Figures, Duration::ZERO);
        match timeout(LIST_WITHIN, asked).await {
            Ok(Ok(StreamReply::Figures(figures))) => Some(figures),
            _ => None,
        }
    }

    /// How a stream is.
    ///
    /// # Errors
    /// `NoStream`; its owner cannot be reached.
    pub async fn info(&self, name: &Subject) -> Result<StreamInfo, StreamError> {
        let place = self.place(name).await?;
        let owner = match &place {
            Place::Here(_) => self.streams.local_peer(),
            Place::At(owner) => *owner,
        };
        let reply = self.ask_at(place, name, StreamRequest::Figures, Duration::ZERO).await?;
        let StreamReply::Figures(figures) = reply else {
            return Err(unexpected());
        };
        Ok(StreamInfo {
            name: name.clone(),
            owner,
            figures: Some(figures),
        })
    }

    /// Appends events: all of them, or none.
    ///
    /// Not cancel-safe: what was begun is finished. When its outcome is not known, because the owner is not reached any more, the same append
    /// with ids or a producer's numbers is recorded once.
    ///
    /// # Errors
    /// What was expected is not so; what cannot be appended; the owner cannot be reached.
    pub async fn append(&self, name: &Subject, append: Append) -> Result<Appended, StreamError> {
        append.check()?;
        match self.ask(name, StreamRequest::Append(append), Duration::ZERO).await? {
            StreamReply::Appended(appended) => Ok(appended),
            _ => Err(unexpected()),
        }
    }

    /// Reads records from somewhere on.
    ///
    /// # Errors
    /// `NoStream`; the owner cannot be reached.
    pub async fn read(&self, name: &Subject, request: ReadRequest) -> Result<Reading, StreamError> {
        request.query.check()?;
        let source = match self.place(name).await? {
            Place::Here(opened) => Source::Here(Reader::new(Arc::clone(&opened.stream), request).await?),
            Place::At(owner) => Source::At(RemoteReader::new(&self.streams, owner, name, &request).await?),
        };
        Ok(Reading(source))
    }

    /// The proof that the record at this position is in the stream. From another member it is checked before it is given.
    ///
    /// # Errors
    /// `NoRecord`; what came does not prove it.
    pub async fn prove(&self, name: &Subject, position: u64) -> Result<Proof, StreamError> {
        let reply = self.ask(name, StreamRequest::Prove(position), Duration::ZERO).await?;
        let StreamReply::Proof(proof) = reply else {
            return Err(unexpected());
        };
        let proved = proof.verify();
        let proved = proved.map_err(|error| StreamError::Corrupt(format!("what came proves nothing: {error}")))?;
        if proved.position != position || proved.checkpoint.origin.stream != *name {
            return Err(StreamError::Corrupt("what came proves something else".into()));
        }
        Ok(proof)
    }

    /// The position of the event with this id, which somebody has given it.
    ///
    /// # Errors
    /// `NoStream`; its owner cannot be reached.
    pub async fn locate(&self, name: &Subject, id: &str) -> Result<Option<u64>, StreamError> {
        match self
            .ask(name, StreamRequest::Locate(id.to_owned()), Duration::ZERO)
            .await?
        {
            StreamReply::Located(position) => Ok(position),
            _ => Err(unexpected()),
        }
    }

    /// The stream's checkpoint now, and the hashes that prove that its first `old` records are the same as ever.
    ///
    /// # Errors
    /// `Conflict` when it never had so many.
    pub async fn extend(&self, name: &Subject, old: u64) -> Result<(String, Vec<Hash>), StreamError> {
        match self.ask(name, StreamRequest::Extend(old), Duration::ZERO).await? {
            StreamReply::Extended { checkpoint, hashes } => Ok((checkpoint, hashes)),
            _ => Err(unexpected()),
        }
    }

    /// Asks about a stream's consumers.
    ///
    /// Not cancel-safe: what was handed out and not heard of is handed out again when its time is over.
    ///
    /// # Errors
    /// `NoStream`, `NoConsumer`; what is wrong with the request.
    pub async fn consumer(&self, name: &Subject, request: ConsumerRequest) -> Result<ConsumerReply, StreamError> {
        request.check()?;
        let wait = match &request {
            ConsumerRequest::Next { wait_ms, .. } => Duration::from_millis((*wait_ms).into()),
            _ => Duration::ZERO,
        };
        match self.ask(name, StreamRequest::Consumer(request), wait).await? {
            StreamReply::Consumer(reply) => Ok(reply),
            _ => Err(unexpected()),
        }
    }

    /// Everything that a stream of this node keeps, as one text that proves itself.
    ///
    /// # Errors
    /// `NoStream` when this node does not keep it.
    pub async fn export(&self, name: &Subject) -> Result<BodyReader, StreamError> {
        let opened = self.streams.get(name).await?;
        transfer::export(&self.streams, &opened).await
    }

    /// Makes a stream on this node of what was exported, if all of it is as it was signed.
    ///
    /// # Errors
    /// `Exists`; `Corrupt` when it is not what was exported: then nothing is left of it.
    pub async fn import(&self, name: &Subject, body: BodyReader) -> Result<Imported, StreamError> {
        self.check_free(name).await?;
        let (streams, name) = (Arc::clone(&self.streams), name.clone());
        self.finish(async move { transfer::import(&streams, &name, body).await })
            .await
    }

    /// Reads every record, from this node's disk or from the stream's owner: whether each is what was appended and signed, and whether the owner
    /// has signed the same history when this node verified it last.
    ///
    /// # Errors
    /// `Corrupt` with what is wrong.
    pub async fn verify(&self, name: &Subject) -> Result<Verified, StreamError> {
        match self.place(name).await? {
            Place::Here(opened) => transfer::verify(self.streams.mesh.trust(), &opened.stream).await,
            Place::At(owner) => self.verify_at(owner, name).await,
        }
    }

    async fn verify_at(&self, owner: PeerId, name: &Subject) -> Result<Verified, StreamError> {
        let seen = self.streams.seen(owner, name).await?;
        let old = seen.as_ref().map_or(0, |seen| seen.size);
        let (checkpoint, hashes) = self.extend(name, old).await?;
        let signed = transfer::open_of(&checkpoint, owner, name)?;
        if let Some(seen) = &seen {
            transfer::check_extends(seen, &signed, &hashes)?;
        }
        let request = ReadRequest {
            from: From::Position(1),
            query: Query::default(),
            follow: false,
            limit: Some(signed.size),
        };
        let mut reader = RemoteReader::new(&self.streams, owner, name, &request).await?;
        let mut built = transfer::Built::default();
        while built.count() < signed.size {
            match reader.next().await? {
                Page::Records(records) => built.add(&records)?,
                Page::CaughtUp(_) => {}
                Page::End => break,
            }
        }
        let verified = built.check(&signed, checkpoint)?;
        self.streams.saw(owner, name, &verified.checkpoint).await?;
        Ok(verified)
    }

    /// Carries something to its end, whoever goes meanwhile.
    async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StreamError>> + Send + 'static,
    ) -> Result<T, StreamError> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.streams.tasks.spawn("stream-work", async move {
            let _ = answer.send(work.await);
        });
        answered.await.map_err(|_| StreamError::Closed)?
    }

    async fn ask(&self, name: &Subject, request: StreamRequest, wait: Duration) -> Result<StreamReply, StreamError> {
        let place = self.place(name).await?;
        self.ask_at(place, name, request, wait).await
    }

    async fn ask_at(
        &self,
        place: Place,
        name: &Subject,
        request: StreamRequest,
        wait: Duration,
    ) -> Result<StreamReply, StreamError> {
        match place {
            Place::Here(opened) => remote::perform(&self.streams, &opened, request, None).await,
            Place::At(owner) => self.ask_patiently(owner, name, &request, wait).await,
        }
    }

    /// Asks the owner, and again while it cannot be reached, if it does no harm that it may have heard it the first time.
    async fn ask_patiently(
        &self,
        owner: PeerId,
        name: &Subject,
        request: &StreamRequest,
        wait: Duration,
    ) -> Result<StreamReply, StreamError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = remote::ask(&self.streams, owner, name, request, wait).await;
            let is_away = matches!(&answer, Err(StreamError::Mesh(error)) if error.kind() == ErrorKind::Unreachable);
            if !is_away || !remote::is_repeatable(request) || Instant::now() > until {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What other members say that they keep.
    fn announced(&self) -> Vec<(PeerId, KeptStreams)> {
        let said = self.streams.mesh.trust().announcements(ANNOUNCEMENT_KEY).into_iter();
        let read = |(peer, bytes): (PeerId, Vec<u8>)| Some((peer, KeptStreams::from_bytes(&bytes).ok()?));
        said.filter(|(peer, _)| *peer != self.streams.local_peer())
            .filter_map(read)
            .collect()
    }

    fn announcing(&self, name: &Subject) -> Vec<PeerId> {
        let version = *self.streams.mesh.trust().watch_records().borrow();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.version != Some(version) {
            // Read again only when somebody has said something: each append asks.
            let mut owners: HashMap<Subject, Vec<PeerId>> = HashMap::new();
            for (peer, said) in self.announced() {
                said.names
                    .into_iter()
                    .for_each(|name| owners.entry(name).or_default().push(peer));
            }
            *known = Known {
                version: Some(version),
                owners,
            };
        }
        known.owners.get(name).cloned().unwrap_or_default()
    }

    /// Where a stream is: here, where it is announced, or else at one of those that have not announced all of theirs, or of the members nearby, whose
    /// newest streams nobody has heard of yet.
    async fn place(&self, name: &Subject) -> Result<Place, StreamError> {
        if self.streams.has(name) {
            return Ok(Place::Here(self.streams.get(name).await?));
        }
        match self.announcing(name)[..] {
            [owner] => return Ok(Place::At(owner)),
            [] => {}
            ref several => {
                let owners: Vec<String> = several.iter().map(ToString::to_string).collect();
                return Err(StreamError::Ambiguous {
                    name: name.to_string(),
                    owners: owners.join(", "),
                });
            }
        }
        let more = self.announced().into_iter().filter(|(_, said)| said.has_more);
        let nearby = self.streams.mesh.peers().ids().into_iter();
        let all: BTreeSet<PeerId> = more.map(|(peer, _)| peer).chain(nearby.take(ASKED_MAX)).collect();
        let asked = stream::iter(all).map(|peer| async move {
            let figures = self.figures_at(peer, name).await;
            figures.map(|_| peer)
        });
        let mut found = std::pin::pin!(asked.buffer_unordered(ASKED_MAX).filter_map(std::future::ready));
        match found.next().await {
            Some(owner) => Ok(Place::At(owner)),
            None => Err(StreamError::NoStream(name.to_string())),
        }
    }
}

/// What a check of a whole stream found to be right.
#[derive(Debug, Clone)]
pub struct Verified {
    /// How many records were read.
    pub records: u64,
    /// The first of them.
    pub first: u64,
    /// The signed checkpoint that they lead to.
    pub checkpoint: String,
}

enum Source {
    Here(Reader),
    At(RemoteReader),
}

/// Records that are being read.
pub struct Reading(Source);

impl Reading {
    /// What comes next; `None` at the end.
    ///
    /// Not cancel-safe.
    ///
    /// # Errors
    /// What the disk says, or the owner; the connection to it broke.
    pub async fn next(&mut self) -> Result<Option<Read>, StreamError> {
        let page = match &mut self.0 {
            Source::Here(reader) => reader.next().await?,
            Source::At(reader) => reader.next().await?,
        };
        Ok(match page {
            Page::End => None,
            Page::CaughtUp(version) => Some(Read::CaughtUp(version)),
            Page::Records(records) => {
                let read: Result<Vec<Recorded>, StreamError> = records.iter().map(recorded).collect();
                Some(Read::Records(read?))
            }
        })
    }
}

fn recorded(kept: &Kept) -> Result<Recorded, StreamError> {
    Ok(Recorded {
        position: kept.position,
        record: kept.record()?,
    })
}

fn unexpected() -> StreamError {
    StreamError::Corrupt("the owner of the stream answered something else".into())
}
