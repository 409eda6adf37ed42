//! What applications ask of streams, wherever they are kept.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use tokio::time::Instant;
use weft_protocol::{
    Pattern, PeerId, Subject, Verb,
    merkle::Hash,
    patterns::event_sourcing::{
        Append, Appended, From, Query, ReadRequest, Record, StreamFigures, StreamReply, StreamRequest,
        consumer::{ConsumerReply, ConsumerRequest},
        proof::Proof,
        schema::Schema,
    },
};

use super::{
    asking::{ASKED_MAX, Asking, Place},
    copies::{Command, Copies, peer_of},
    options::{StreamError, StreamOptions, check_taking},
    read::{Page, Reader},
    remote::{self, RemoteReader},
    schemas::{SchemaChange, check_definition},
    stream::Kept,
    streams::{Opened, Streams},
    transfer::{self, Imported},
};
use crate::{
    consensus::Voter,
    error::{ErrorKind, Kind as _},
    patterns::body::BodyReader,
    trust::Trust,
};

/// How long those that keep a stream may be without a leader while it is verified.
const LEADER_WITHIN: Duration = Duration::from_secs(10);
/// The pause until they are asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// Streams of this node whose figures are listed.
const FIGURES_MAX: usize = 1000;
/// A cloneable handle on streams.
#[derive(Clone)]
pub struct EventSourcingHandle {
    pub(super) streams: Arc<Streams>,
    copies: Arc<Copies>,
    asking: Asking,
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

/// A stream that takes in messages of NATS clients.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taker {
    /// Which messages.
    pub(crate) subjects: Vec<Pattern>,
    /// Who keeps it, and so reads them.
    pub(crate) keepers: Vec<PeerId>,
}

impl Taker {
    /// Whether everyone who keeps the stream may hear messages on this subject.
    pub(crate) fn may_hear(&self, trust: &Trust, subject: &Subject) -> bool {
        let may = |peer: &PeerId| trust.check(peer, Verb::Subscribe, subject, &[]).allowed;
        self.keepers.iter().all(may)
    }
}

/// A record at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its position, from 1.
    pub position: u64,
    /// The record.
    pub record: Record,
}

impl Recorded {
    /// An event that is not recorded anywhere, as if it were.
    pub(crate) fn unplaced(event: weft_protocol::patterns::event_sourcing::Event) -> Self {
        let record = Record {
            recorded_ms: 0,
            author: None,
            producer: None,
            event,
            entry: None,
        };
        Recorded { position: 0, record }
    }
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
    pub(super) fn new(streams: Arc<Streams>, copies: Arc<Copies>) -> Self {
        EventSourcingHandle {
            asking: Asking::new(Arc::clone(&streams), Arc::clone(&copies)),
            streams,
            copies,
        }
    }

    /// Makes a stream on this node, or on several. Durable when it returns: with copies, at most of those that keep them.
    ///
    /// Not cancel-safe: what was begun may be done.
    ///
    /// # Errors
    /// `Exists` when a member has one of this name, as far as is known here; too few members for so many copies.
    pub async fn create(&self, name: &Subject, options: StreamOptions) -> Result<StreamInfo, StreamError> {
        self.check_free(name).await?;
        self.check_taken(name, &options)?;
        if options.copies() > 1 {
            let (copies, stream) = (Arc::clone(&self.copies), name.clone());
            self.finish(async move { copies.create(&stream, options).await })
                .await?;
            return self.info(name).await;
        }
        let opened = self.streams.create(name, options).await?;
        Ok(self.local_info(name, &opened))
    }

    /// Whether no member has a stream of this name, as far as can be known: two that make it at the same moment do not hear of each other.
    async fn check_free(&self, name: &Subject) -> Result<(), StreamError> {
        let owner = match self.asking.place(name).await {
            Err(StreamError::NoStream(_)) => return Ok(()),
            Ok(Place::Here(_) | Place::Copy(_)) => self.streams.local_peer(),
            Ok(Place::At(owner)) => owner,
            Ok(Place::Copies(at)) => at.first().copied().unwrap_or_else(|| self.streams.local_peer()),
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
        self.check_taken(name, &options)?;
        if let Some(group) = self.streams.group_of(name) {
            options.check()?;
            let known = self.streams.get(name).await?.stream.facts().options;
            let options = StreamOptions {
                replicas: options.replicas.or(known.replicas),
                place: options.place.or(known.place),
                ..options
            };
            let name_of = name.clone();
            self.copies
                .have_done(group, &Command::Update { name: name_of, options })
                .await?;
            return self.info(name).await;
        }
        self.streams.update(name, options).await?;
        let opened = self.streams.get(name).await?;
        Ok(self.local_info(name, &opened))
    }

    /// The streams of the mesh that take in messages of NATS clients.
    pub(crate) fn takers(&self) -> BTreeMap<Subject, Taker> {
        let mut takers: BTreeMap<Subject, Taker> = BTreeMap::new();
        for (peer, kept) in self.asking.announced() {
            for (name, subjects) in kept.takers() {
                let taker = takers.entry(name.clone()).or_default();
                taker.subjects = subjects.to_vec();
                taker.keepers.push(peer);
            }
        }
        // What this node knows of its own is newer.
        for (name, subjects) in self.streams.takers() {
            let taker = takers.entry(name).or_default();
            taker.subjects = subjects;
            taker.keepers.push(self.streams.local_peer());
        }
        takers
    }

    /// Another pair when [`EventSourcingHandle::takers`] may have changed.
    pub(crate) fn takers_version(&self) -> (u64, u64) {
        let records = *self.streams.mesh.trust().watch_records().borrow();
        (self.streams.generation(), records)
    }

    /// Whether no other stream takes in what this one is to take in, as far as is known here.
    fn check_taken(&self, name: &Subject, options: &StreamOptions) -> Result<(), StreamError> {
        options.check()?;
        check_taking(name, options)?;
        let trust = self.streams.mesh.trust();
        for wanted in options.subjects() {
            // Each begins with a name. A stream whose keepers may not hear it stands in nobody's way.
            let first = wanted.as_str().split('.').next().unwrap_or_default().parse::<Subject>();
            let counts = |taker: &Taker| first.as_ref().map_or(true, |first| taker.may_hear(trust, first));
            for (other, taker) in self.takers().iter().filter(|(other, _)| *other != name) {
                if !counts(taker) {
                    continue;
                }
                if let Some(taken) = taker.subjects.iter().find(|subject| subject.overlaps(&wanted)) {
                    return Err(StreamError::Conflict(format!(
                        "the stream {other} takes in {taken}, which has messages in common with {wanted}"
                    )));
                }
            }
        }
        Ok(())
    }

    fn local_info(&self, name: &Subject, opened: &Opened) -> StreamInfo {
        StreamInfo {
            name: name.clone(),
            owner: self.streams.local_peer(),
            figures: Some(self.local_figures(name, opened)),
        }
    }

    /// Deletes a stream of this node, with its records and its consumers.
    ///
    /// # Errors
    /// `NoStream` when this node does not keep it.
    pub async fn delete(&self, name: &Subject) -> Result<(), StreamError> {
        if !self.streams.has(name)
            && let Some((owner, _)) = self.asking.announcing(name).first()
        {
            return Err(StreamError::Conflict(format!(
                "the stream {name} is kept by {owner}, and deleted there"
            )));
        }
        let (streams, copies, name) = (Arc::clone(&self.streams), Arc::clone(&self.copies), name.clone());
        let delete = async move {
            match streams.group_of(&name) {
                Some(group) => copies.have_done(group, &Command::Delete(name)).await,
                None => streams.delete(&name).await,
            }
        };
        self.finish(delete).await
    }

    /// Every stream of the mesh that is known here, by name. Owners that do not answer in two seconds say nothing of theirs, and of more streams
    /// than 1000 of this node nobody is asked how they are.
    pub async fn list(&self) -> Vec<StreamInfo> {
        let all = self.asking.all();
        let asked = stream::iter(all.into_iter().enumerate()).map(|(number, (name, owner))| async move {
            let figures = match owner == self.streams.local_peer() {
                // Each would be opened to be asked.
                true if number >= FIGURES_MAX => None,
                true => match self.streams.get(&name).await {
                    Ok(opened) => Some(self.local_figures(&name, &opened)),
                    Err(_) => None,
                },
                false => self.asking.figures_at(owner, &name).await,
            };
            info_of(name, owner, figures)
        });
        let mut list: Vec<StreamInfo> = asked.buffer_unordered(ASKED_MAX).collect().await;
        list.sort_by(|a, b| (&a.name, a.owner).cmp(&(&b.name, b.owner)));
        list
    }

    /// How a stream is.
    ///
    /// # Errors
    /// `NoStream`; its owner cannot be reached.
    pub async fn info(&self, name: &Subject) -> Result<StreamInfo, StreamError> {
        let place = self.asking.place(name).await?;
        let owner = match &place {
            Place::Here(_) | Place::Copy(_) => self.streams.local_peer(),
            Place::At(owner) => *owner,
            Place::Copies(at) => at.first().copied().unwrap_or_else(|| self.streams.local_peer()),
        };
        let reply = match (self.ask(name, StreamRequest::Figures, Duration::ZERO).await, place) {
            // Without a leader what this node knows is still worth something.
            (Err(error), Place::Copy(_)) if error.kind() == ErrorKind::Unreachable => {
                let opened = self.streams.get(name).await?;
                return Ok(info_of(name.clone(), owner, Some(self.local_figures(name, &opened))));
            }
            (reply, _) => reply?,
        };
        let StreamReply::Figures(figures) = reply else {
            return Err(unexpected());
        };
        Ok(info_of(name.clone(), owner, Some(figures)))
    }

    fn local_figures(&self, name: &Subject, opened: &Opened) -> StreamFigures {
        let mut figures = remote::figures(&self.streams, opened);
        let group = self.streams.group_of(name);
        figures.copies = group.and_then(|group| self.copies.figures_of(group));
        figures
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
        let source = match self.asking.place(name).await? {
            Place::Here(opened) => Source::Here(Reader::new(Arc::clone(&opened.stream), request).await?),
            Place::Copy(_) => {
                let opened = remote::fresh(&self.streams, &self.copies, name).await?;
                Source::Here(Reader::new(Arc::clone(&opened.stream), request).await?)
            }
            Place::At(owner) => Source::At(RemoteReader::new(&self.streams, owner, name, &request).await?),
            Place::Copies(at) => Source::At(RemoteReader::first(&self.streams, &at, name, &request).await?),
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

    /// What the data of a stream's events must be like, by the ids of the schemas.
    ///
    /// # Errors
    /// `NoStream`; its owner cannot be reached.
    pub async fn schemas(&self, name: &Subject) -> Result<Vec<Schema>, StreamError> {
        match self.ask(name, StreamRequest::Schemas, Duration::ZERO).await? {
            StreamReply::Schemas(schemas) => Ok(schemas),
            _ => Err(unexpected()),
        }
    }

    /// Adds a schema to a stream of this node: from then on events that name it are checked, and those of its types must name one. Durable when
    /// it returns. The same one twice is no mistake. What was recorded before is not looked at.
    ///
    /// # Errors
    /// `NoStream` when this node does not keep it; what cannot be understood; `Conflict` with another schema.
    pub async fn add_schema(&self, name: &Subject, schema: Schema) -> Result<(), StreamError> {
        let added_ms = self.streams.clock.now_unix_ms();
        let schema = Schema { added_ms, ..schema };
        check_definition(&schema)?;
        self.change_schemas(name, SchemaChange::Add(schema)).await
    }

    /// Removes a schema of a stream of this node. What was recorded with it stays as it is.
    ///
    /// # Errors
    /// `NoStream`, `NoSchema`; `Conflict` when another schema's data are made of its own.
    pub async fn remove_schema(&self, name: &Subject, id: &str) -> Result<(), StreamError> {
        let stream = self.kept_here(name).await?.stream;
        stream.schemas().await?.set.check_removal(id)?;
        self.change_schemas(name, SchemaChange::Remove(id.to_owned())).await
    }

    async fn change_schemas(&self, name: &Subject, change: SchemaChange) -> Result<(), StreamError> {
        let opened = self.kept_here(name).await?;
        let (group, copies, name) = (self.streams.group_of(name), Arc::clone(&self.copies), name.clone());
        let change = async move {
            let Some(group) = group else {
                return opened.stream.change_schemas(None, change).await;
            };
            let (id, schema) = match change {
                SchemaChange::Add(schema) => (schema.id.clone(), Some(schema)),
                SchemaChange::Remove(id) => (id, None),
            };
            copies.have_done(group, &Command::Schema { name, id, schema }).await
        };
        self.finish(change).await
    }

    /// A stream that is to be changed, and so must be kept here.
    async fn kept_here(&self, name: &Subject) -> Result<Opened, StreamError> {
        match self.streams.get(name).await {
            Err(StreamError::NoStream(_)) => {}
            opened => return opened,
        }
        let owner = match self.asking.place(name).await? {
            Place::Here(opened) => return Ok(opened),
            Place::Copy(_) => return self.streams.get(name).await,
            Place::At(owner) => Some(owner),
            Place::Copies(at) => at.first().copied(),
        };
        let owner = owner.map_or_else(|| "others".to_owned(), |owner| owner.to_string());
        Err(StreamError::Conflict(format!(
            "the stream {name} is kept by {owner}, and changed there"
        )))
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

    /// The evidence that a stream of this name has forked, for each owner it was found of: text that anybody can check.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn evidence(&self, name: &Subject) -> Result<Vec<String>, StreamError> {
        self.streams.forks(name).await
    }

    /// Reads every record, from this node's disk or from the stream's owner: whether each is what was appended and signed, and whether the owner
    /// has signed the same history when this node, or a member nearby, verified it last.
    ///
    /// # Errors
    /// `Corrupt` with what is wrong; `Forked` when there is evidence of two histories.
    pub async fn verify(&self, name: &Subject) -> Result<Verified, StreamError> {
        match self.asking.place(name).await? {
            Place::Here(opened) => transfer::verify(self.streams.mesh.trust(), &opened.stream).await,
            Place::Copy(_) => {
                let opened = remote::fresh(&self.streams, &self.copies, name).await?;
                transfer::verify(self.streams.mesh.trust(), &opened.stream).await
            }
            Place::At(owner) => self.verify_at(owner, name).await,
            Place::Copies(_) => {
                // The leader's word is what counts, and it is the leader who signs; who that is may change meanwhile.
                let until = Instant::now() + LEADER_WITHIN;
                loop {
                    let leader = self.info(name).await?.owner;
                    match self.verify_at(leader, name).await {
                        Err(StreamError::Led(_)) if Instant::now() < until => tokio::time::sleep(PAUSE).await,
                        verified => return verified,
                    }
                }
            }
        }
    }

    async fn verify_at(&self, owner: PeerId, name: &Subject) -> Result<Verified, StreamError> {
        let checkpoint = self.asking.compare(owner, name).await?;
        let signed = transfer::open_of(&checkpoint, owner, name)?;
        let request = ReadRequest {
            from: From::Position(1),
            query: Query::default(),
            follow: false,
            limit: Some(signed.size),
            is_upcast: None,
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

    /// Has a member's copy of a stream, and of all that the same members keep, given to another: to this one, or to whom the leader chooses. It is begun
    /// when this returns; [`EventSourcingHandle::info`] shows how far it is.
    ///
    /// # Errors
    /// `Conflict` when this node has no copy; `Invalid` when the member has none; nobody can be found who would get it.
    pub async fn replace_copy(
        &self,
        name: &Subject,
        member: &PeerId,
        by: Option<&PeerId>,
    ) -> Result<StreamInfo, StreamError> {
        let Place::Copy(group) = self.asking.place(name).await? else {
            return Err(StreamError::Conflict(format!(
                "this node has no copy of {name}: ask one that has, which `weft stream info {name}` shows"
            )));
        };
        self.copies.have_replaced(group, member, by).await?;
        self.info(name).await
    }

    /// Lets others lead the groups that keep copies: this node is about to stop. Cancel-safe.
    pub async fn hand_over(&self) {
        self.copies.hand_over().await;
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
        self.asking.ask(name, request, wait).await
    }
}

/// Of a stream with copies whoever leads those that keep it is its owner.
fn info_of(name: Subject, owner: PeerId, figures: Option<StreamFigures>) -> StreamInfo {
    let leader = figures.as_ref().and_then(|figures| figures.copies.as_ref()?.leader);
    let owner = leader.map(Voter::from).and_then(peer_of).unwrap_or(owner);
    StreamInfo { name, owner, figures }
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
