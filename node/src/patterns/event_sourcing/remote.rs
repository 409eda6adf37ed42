//! Streams of other members, and this node's streams for them.

use std::{sync::Arc, time::Duration};

use futures::AsyncWriteExt as _;
use tokio::{sync::mpsc, time::timeout};
use tracing::Instrument as _;
use weft_protocol::{
    PeerId, PublicKey, Refusal, Subject, Verb, Wire as _,
    direct::DirectReply,
    patterns::event_sourcing::{
        Append, Appended, PATTERN_ID, Positioned, READ_BYTES_MAX, READ_RECORDS_MAX, ReadReply, ReadRequest,
        StreamFigures, StreamReply, StreamRequest,
    },
};

use super::{
    options::StreamError,
    prove,
    read::{Page, Reader},
    stream::{Kept, Stream},
    streams::{Opened, Streams},
};
use crate::{
    context::greeting,
    mesh::{self, Answers, InboundRequest, InboundStream, MeshError, streams::MeshStream},
    tasks::Tasks,
};

/// How long the owner of a stream may take, unless something is waited for.
const WITHIN: Duration = Duration::from_secs(30);
/// How long who reads may take to say what.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long who reads may take to take in the next records: its application may be slow. Who is gone is noticed by the mesh.
const TAKE_WITHIN: Duration = Duration::from_secs(600);

/// Which right a request needs.
pub(super) fn verb(request: &StreamRequest) -> Verb {
    match request {
        StreamRequest::Append(_) => Verb::Append,
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
        reply => Ok(reply),
    }
}

/// How a stream of this node is.
pub(super) fn figures(streams: &Streams, opened: &Opened) -> StreamFigures {
    let Opened { stream, consumers } = opened;
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
    })
}

async fn counted(
    streams: &Streams,
    stream: &Stream,
    append: Append,
    author: Option<PublicKey>,
) -> Result<Appended, StreamError> {
    let (count, metrics) = (append.events.len() as u64, &streams.metrics);
    let appended = stream.append(append, author).await;
    match &appended {
        Ok(appended) if appended.is_duplicate => metrics.repeated.inc(),
        Ok(_) => metrics.appended.inc_by(count),
        Err(_) => metrics.refused.inc(),
    };
    appended
}

/// Answers other members.
pub(super) struct Serving {
    streams: Arc<Streams>,
}

impl Serving {
    pub(super) fn new(streams: Arc<Streams>) -> Self {
        Serving { streams }
    }

    async fn serve(&self, request: &InboundRequest) -> Result<StreamReply, StreamError> {
        let asked = StreamRequest::from_bytes(&request.payload)?;
        if verb(&asked) != request.hello.verb {
            return Err(StreamError::Invalid(
                "the greeting asks for another right than the request needs".into(),
            ));
        }
        let name: Subject = request.hello.resource.parse()?;
        let opened = self.streams.get(&name).await?;
        let author = PublicKey::from_peer_id(&request.peer);
        // In a task of its own: what was begun is finished, whoever has gone meanwhile.
        let (streams, span) = (Arc::clone(&self.streams), request.span.clone());
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.streams.tasks.spawn("stream-request", async move {
            let done = perform(&streams, &opened, asked, author).instrument(span).await;
            let _ = answer.send(done);
        });
        answered.await.map_err(|_| StreamError::Closed)?
    }
}

impl Answers for Serving {
    async fn answer(&self, request: InboundRequest) -> DirectReply {
        let reply = self
            .serve(&request)
            .await
            .unwrap_or_else(|error| StreamReply::Failed(error.to_failure()));
        match reply.to_checked_bytes() {
            Ok(payload) => DirectReply::Answer { payload },
            Err(error) => DirectReply::refused(Refusal::Unknown, &error.to_string()),
        }
    }
}

/// Takes those who read from the door until the node stops.
pub(super) async fn run(mut doors: mpsc::Receiver<Box<InboundStream>>, streams: Arc<Streams>, tasks: Tasks) {
    while let Some(inbound) = doors.recv().await {
        let (streams, span) = (Arc::clone(&streams), inbound.span.clone());
        tasks.spawn("stream-read", give(streams, *inbound).instrument(span));
    }
}

async fn give(streams: Arc<Streams>, mut inbound: InboundStream) {
    let Ok(Ok(request)) = timeout(PATIENCE, mesh::expect::<ReadRequest>(&mut inbound.stream)).await else {
        return;
    };
    if let Err(error) = give_all(&streams, &mut inbound, request).await {
        let failed = ReadReply::Failed(error.to_failure());
        let _ = timeout(PATIENCE, mesh::write(&mut inbound.stream, &failed)).await;
    }
    let _ = timeout(PATIENCE, inbound.stream.close()).await;
}

async fn give_all(
    streams: &Arc<Streams>,
    inbound: &mut InboundStream,
    request: ReadRequest,
) -> Result<(), StreamError> {
    if inbound.hello.verb != Verb::Read {
        return Err(StreamError::Invalid("who reads asks for the right to read".into()));
    }
    let name: Subject = inbound.hello.resource.parse()?;
    let opened = streams.get(&name).await?;
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
            Page::End => return Ok(()),
            Page::CaughtUp(version) => vec![ReadReply::CaughtUp(version)],
            Page::Records(records) => batches(records),
        };
        for reply in replies {
            let written = timeout(TAKE_WITHIN, mesh::write(&mut inbound.stream, &reply)).await;
            if !matches!(written, Ok(Ok(()))) {
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

    /// Not cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Page, StreamError> {
        let reply = mesh::read::<ReadReply>(&mut self.stream).await;
        match reply.map_err(|error| broken(self.owner, error.to_string()))? {
            None => Ok(Page::End),
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
