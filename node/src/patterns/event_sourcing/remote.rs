//! Streams of other members, and this node's streams for them.

use std::{sync::Arc, time::Duration};

use futures::AsyncWriteExt as _;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tracing::Instrument as _;
use weft_protocol::{
    PeerId, PublicKey, Refusal, Subject, Verb, Wire as _,
    consensus::VoterKey,
    direct::DirectReply,
    patterns::event_sourcing::{
        Append, Appended, Labels, PATTERN_ID, Positioned, READ_BYTES_MAX, READ_RECORDS_MAX, ReadReply, ReadRequest,
        StreamFigures, StreamReply, StreamRequest, Subjects,
    },
};

use super::{
    copies::{Copies, peer_of},
    forks,
    options::StreamError,
    prove,
    read::{Page, Reader},
    stream::{Kept, Origin, Stream},
    streams::{Opened, Streams},
};
use crate::{
    consensus::Voter,
    context::greeting,
    mesh::{self, Answers, InboundRequest, InboundStream, MeshError, streams::MeshStream},
    tasks::Tasks,
};

/// How long the owner of a stream may take, unless something is waited for.
const WITHIN: Duration = Duration::from_secs(30);
/// How long a copy may take to have everything that was answered before.
const FRESH_WITHIN: Duration = Duration::from_secs(10);
/// The pause until it is looked again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long who reads may take to say what.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long who reads may take to take in the next records: its application may be slow. Who is gone is noticed by the mesh.
const TAKE_WITHIN: Duration = Duration::from_secs(600);

/// Which right a request needs.
pub(super) fn verb(request: &StreamRequest) -> Verb {
    match request {
        StreamRequest::Append(_) | StreamRequest::Group { .. } => Verb::Append,
        _ => Verb::Read,
    }
}

/// Whether a request asked twice does what it does once. Of an append only what it is known by makes it so.
pub(super) fn is_repeatable(request: &StreamRequest) -> bool {
    match request {
        StreamRequest::Append(append) => {
            append.producer.is_some() || append.events.iter().all(|event| event.id.is_some())
        }
        _ => true,
    }
}

/// Asks the owner of a stream.
pub(super) async fn ask(
    streams: &Streams,
    owner: PeerId,
    name: &Subject,
    request: &StreamRequest,
    wait: Duration,
) -> Result<StreamReply, StreamError> {
    let hello = greeting(PATTERN_ID, streams.mesh.trust(), verb(request), name);
    let payload = request.to_checked_bytes()?;
    let answer = streams.mesh.request(owner, hello, payload, WITHIN + wait).await?;
    match StreamReply::from_vec(answer)? {
        StreamReply::Failed(failure) => Err(StreamError::of_failure(failure)),
        StreamReply::Led(leader) => Err(StreamError::Led(leader.map(Voter::from).and_then(peer_of))),
        reply => Ok(reply),
    }
}

/// How a stream of this node is.
pub(super) fn figures(streams: &Streams, opened: &Opened) -> StreamFigures {
    let Opened { stream, consumers, .. } = opened;
    let facts = stream.facts();
    let damage: Vec<String> = stream.log.damage().iter().map(ToString::to_string).collect();
    let checkpoint = prove::checkpoint(stream, streams.mesh.trust());
    StreamFigures {
        version: stream.version(),
        first: stream.first(),
        bytes: stream.log.segments().iter().map(|(_, bytes)| bytes).sum(),
        created_ms: facts.created_ms,
        last_ms: None,
        retain_ms: facts.options.retain_ms,
        retain_bytes: facts.options.retain_bytes,
        retain_records: facts.options.retain_records,
        consumers: consumers.count() as u32,
        checkpoint: checkpoint.map(|(_, text)| text).unwrap_or_default(),
        damage: weft_protocol::name::reason(&damage.join("; ")),
        copies: None,
        keep: facts.options.keep,
        refuse_when_full: facts.options.refuse_when_full,
        subjects: facts.options.takes_any().then(|| Subjects(facts.options.subjects())),
        place: facts.options.place.map(Labels),
    }
}

/// Does what is asked of a stream of this node.
pub(super) async fn perform(
    streams: &Streams,
    opened: &Opened,
    request: StreamRequest,
    author: Option<PublicKey>,
) -> Result<StreamReply, StreamError> {
    let (stream, trust) = (&opened.stream, streams.mesh.trust());
    Ok(match request {
        StreamRequest::Append(append) => StreamReply::Appended(counted(streams, stream, append, author).await?),
        StreamRequest::Figures => {
            let mut figures = figures(streams, opened);
            if let Some(last) = figures.version.checked_sub(1).filter(|last| *last >= figures.first - 1) {
                figures.last_ms = stream.recorded_ms(last).await.ok();
            }
            StreamReply::Figures(figures)
        }
        StreamRequest::Prove(position) => StreamReply::Proof(prove::prove(stream, trust, position).await?),
        StreamRequest::Extend(old) => {
            let (checkpoint, hashes) = prove::extend(stream, trust, old).await?;
            StreamReply::Extended { checkpoint, hashes }
        }
        StreamRequest::Locate(id) => StreamReply::Located(stream.locate(&id).await?),
        StreamRequest::Consumer(request) => StreamReply::Consumer(opened.consumers.answer(request).await?),
        StreamRequest::Schemas => StreamReply::Schemas(stream.schemas().await?.set.schemas.clone()),
        StreamRequest::Group { .. } | StreamRequest::Seen { .. } | StreamRequest::Cosign(_) => {
            return Err(StreamError::Invalid("this is not asked of a stream".into()));
        }
    })
}

async fn counted(
    streams: &Streams,
    stream: &Stream,
    append: Append,
    author: Option<PublicKey>,
) -> Result<Appended, StreamError> {
    let count_of = append.events.len() as u64;
    let appended = stream.append(append, Origin::Member(author)).await;
    count(streams, &appended, count_of);
    appended
}

/// Counts what became of an append.
pub(super) fn count(streams: &Streams, appended: &Result<Appended, StreamError>, count: u64) {
    let metrics = &streams.metrics;
    match appended {
        Ok(appended) if appended.is_duplicate => metrics.repeated.inc(),
        Ok(_) => metrics.appended.inc_by(count),
        Err(_) => metrics.refused.inc(),
    };
}

/// Answers other members.
pub(super) struct Serving {
    streams: Arc<Streams>,
    copies: Arc<Copies>,
}

impl Serving {
    pub(super) fn new(streams: Arc<Streams>, copies: Arc<Copies>) -> Self {
        Serving { streams, copies }
    }

    async fn serve(&self, request: &InboundRequest) -> Result<StreamReply, StreamError> {
        let asked = StreamRequest::from_bytes(&request.payload)?;
        if verb(&asked) != request.hello.verb {
            return Err(StreamError::Invalid(
                "the greeting asks for another right than the request needs".into(),
            ));
        }
        if let StreamRequest::Group { group, request: asked } = asked {
            return Ok(StreamReply::Group(
                self.copies.answer(&request.peer, group, asked).await?,
            ));
        }
        let name: Subject = request.hello.resource.parse()?;
        if let StreamRequest::Seen { owner, checkpoint } = asked {
            return forks::say_seen(&self.streams, &name, &owner, checkpoint).await;
        }
        if let StreamRequest::Cosign(checkpoint) = asked {
            return self.copies.cosign(request.peer, &name, &checkpoint).await;
        }
        let author = PublicKey::from_peer_id(&request.peer);
        // In a task of its own: what was begun is finished, whoever has gone meanwhile.
        let (streams, copies, span) = (
            Arc::clone(&self.streams),
            Arc::clone(&self.copies),
            request.span.clone(),
        );
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.streams.tasks.spawn("stream-request", async move {
            let done = perform_here(&streams, &copies, &name, asked, author)
                .instrument(span)
                .await;
            let _ = answer.send(done);
        });
        answered.await.map_err(|_| StreamError::Closed)?
    }
}

impl Answers for Serving {
    async fn answer(&self, request: InboundRequest) -> DirectReply {
        let reply = match self.serve(&request).await {
            Ok(reply) => reply,
            Err(StreamError::Led(leader)) => StreamReply::Led(leader.as_ref().and_then(key_of)),
            Err(error) => StreamReply::Failed(error.to_failure()),
        };
        match reply.to_checked_bytes() {
            Ok(payload) => DirectReply::Answer { payload },
            Err(error) => DirectReply::refused(Refusal::Unknown, &error.to_string()),
        }
    }
}

fn key_of(peer: &PeerId) -> Option<VoterKey> {
    Some(VoterKey(*PublicKey::from_peer_id(peer)?.as_bytes()))
}

/// Does what is asked of a stream that this node keeps, alone or with others.
pub(super) async fn perform_here(
    streams: &Arc<Streams>,
    copies: &Arc<Copies>,
    name: &Subject,
    request: StreamRequest,
    author: Option<PublicKey>,
) -> Result<StreamReply, StreamError> {
    match streams.group_of(name) {
        Some(group) => copies.perform(group, name, request, author).await,
        None => perform(streams, &streams.get(name).await?, request, author).await,
    }
}

/// A stream that this node keeps, with everything in it that was answered before: a copy may lag behind.
pub(super) async fn fresh(streams: &Arc<Streams>, copies: &Arc<Copies>, name: &Subject) -> Result<Opened, StreamError> {
    let Some(group) = streams.group_of(name) else {
        return streams.get(name).await;
    };
    let until = Instant::now() + FRESH_WITHIN;
    loop {
        let leading = copies.leading(group)?;
        let figures = match (leading.is_local, leading.leader) {
            (true, _) => copies.perform(group, name, StreamRequest::Figures, None).await,
            (false, Some(leader)) => tokio::select! {
                answer = ask(streams, leader, name, &StreamRequest::Figures, Duration::ZERO) => answer,
                () = leading.changed => Err(StreamError::Led(None)),
            },
            (false, None) => Err(StreamError::Led(None)),
        };
        let asked = leading.leader.as_ref().and_then(key_of);
        match figures {
            // Only a leader knows what there is.
            Ok(StreamReply::Figures(figures)) if figures.copies.as_ref().and_then(|copies| copies.leader) == asked => {
                let opened = streams.get(name).await?;
                let caught_up = timeout(FRESH_WITHIN, opened.stream.until(figures.version)).await;
                caught_up.map_err(|_| StreamError::NoQuorum)??;
                return Ok(opened);
            }
            Err(error) if Instant::now() > until => return Err(error),
            _ if Instant::now() > until => return Err(StreamError::Led(None)),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Takes those who read from the door until the node stops.
pub(super) async fn run(
    mut doors: mpsc::Receiver<Box<InboundStream>>,
    streams: Arc<Streams>,
    copies: Arc<Copies>,
    tasks: Tasks,
) {
    while let Some(inbound) = doors.recv().await {
        let (streams, copies, span) = (Arc::clone(&streams), Arc::clone(&copies), inbound.span.clone());
        tasks.spawn("stream-read", give(streams, copies, *inbound).instrument(span));
    }
}

async fn give(streams: Arc<Streams>, copies: Arc<Copies>, mut inbound: InboundStream) {
    let Ok(Ok(request)) = timeout(PATIENCE, mesh::expect::<ReadRequest>(&mut inbound.stream)).await else {
        return;
    };
    if let Err(error) = give_all(&streams, &copies, &mut inbound, request).await {
        let failed = ReadReply::Failed(error.to_failure());
        let _ = timeout(PATIENCE, mesh::write(&mut inbound.stream, &failed)).await;
    }
    let _ = timeout(PATIENCE, inbound.stream.close()).await;
}

async fn give_all(
    streams: &Arc<Streams>,
    copies: &Arc<Copies>,
    inbound: &mut InboundStream,
    request: ReadRequest,
) -> Result<(), StreamError> {
    if inbound.hello.verb != Verb::Read {
        return Err(StreamError::Invalid("who reads asks for the right to read".into()));
    }
    let name: Subject = inbound.hello.resource.parse()?;
    let opened = fresh(streams, copies, &name).await?;
    let mut reader = Reader::new(Arc::clone(&opened.stream), request).await?;
    drop(opened);
    loop {
        let page = tokio::select! {
            biased;
            page = reader.next() => page?,
            // Who reads says nothing more: it has gone.
            _ = mesh::read::<ReadRequest>(&mut inbound.stream) => return Ok(()),
        };
        let replies = match page {
            Page::End => vec![ReadReply::End],
            Page::CaughtUp(version) => vec![ReadReply::CaughtUp(version)],
            Page::Records(records) => batches(records),
        };
        for reply in replies {
            let written = timeout(TAKE_WITHIN, mesh::write(&mut inbound.stream, &reply)).await;
            if !matches!(written, Ok(Ok(()))) || reply == ReadReply::End {
                return Ok(());
            }
        }
    }
}

fn batches(records: Vec<Kept>) -> Vec<ReadReply> {
    let (mut replies, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
    for kept in records {
        if batch.len() == READ_RECORDS_MAX || (bytes > 0 && bytes + kept.bytes.len() > READ_BYTES_MAX) {
            replies.push(ReadReply::Records(std::mem::take(&mut batch)));
            bytes = 0;
        }
        bytes += kept.bytes.len();
        batch.push(Positioned {
            position: kept.position,
            record: kept.bytes.to_vec(),
        });
    }
    if !batch.is_empty() {
        replies.push(ReadReply::Records(batch));
    }
    replies
}

/// Reads a stream of another member.
pub(super) struct RemoteReader {
    owner: PeerId,
    stream: MeshStream,
    /// The last position that came.
    last: u64,
}

impl RemoteReader {
    pub(super) async fn new(
        streams: &Streams,
        owner: PeerId,
        name: &Subject,
        request: &ReadRequest,
    ) -> Result<Self, StreamError> {
        let hello = greeting(PATTERN_ID, streams.mesh.trust(), Verb::Read, name);
        let mut stream = streams.mesh.open(owner, &hello).await?;
        let written = mesh::write(&mut stream, request).await;
        written.map_err(|error| broken(owner, error.to_string()))?;
        Ok(RemoteReader { owner, stream, last: 0 })
    }

    /// The same, at the first of several that can be reached.
    pub(super) async fn first(
        streams: &Streams,
        owners: &[PeerId],
        name: &Subject,
        request: &ReadRequest,
    ) -> Result<Self, StreamError> {
        let mut failed = StreamError::NoStream(name.to_string());
        for owner in owners {
            match Self::new(streams, *owner, name, request).await {
                Ok(reader) => return Ok(reader),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Not cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Page, StreamError> {
        let reply = mesh::read::<ReadReply>(&mut self.stream).await;
        match reply.map_err(|error| broken(self.owner, error.to_string()))? {
            // An owner that was killed has said nothing.
            None => Err(broken(self.owner, "it broke off before its end".into())),
            Some(ReadReply::End) => Ok(Page::End),
            Some(ReadReply::Failed(failure)) => Err(StreamError::of_failure(failure)),
            Some(ReadReply::CaughtUp(version)) => Ok(Page::CaughtUp(version)),
            Some(ReadReply::Records(records)) => {
                let mut kept = Vec::with_capacity(records.len());
                for Positioned { position, record } in records {
                    if position <= self.last {
                        return Err(broken(self.owner, format!("the record {position} came out of order")));
                    }
                    self.last = position;
                    kept.push(Kept {
                        position,
                        bytes: record.into(),
                    });
                }
                Ok(Page::Records(kept))
            }
        }
    }
}

fn broken(peer: PeerId, reason: String) -> StreamError {
    StreamError::Mesh(MeshError::Broken { peer, reason })
}
