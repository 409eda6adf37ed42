//! Notices what gossip did not bring, and fetches it from other members.
//!
//! Promises: what is missing of a line is asked for, in random moments and of one member after the other: who handed over
//! what comes behind it, the connected members, the publisher. Members whose digests differ compare how far they have followed, and what a
//! node learns in this way it passes on, so that both sides of a healed partition, and a node that was away, get what
//! they missed. What is fetched counts only with its publisher's signature.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};
use weft_protocol::{
    Hello, PeerId, Refusal, Subject, Verb, Wire as _,
    direct::DirectReply,
    limits::{FRAME_BYTES_MAX, HEADS_MAX, ORIGINALS_MAX},
    patterns::pub_sub::{
        Line, PATTERN_ID,
        repair::{Head, Original, RepairReply, RepairRequest},
        topic,
    },
};

use super::{cache::Kept, hub::Hub, order::Want, past, publisher::sleep_until, receive, ring::Outcome};
use crate::{
    context::greeting,
    mesh::{self, Answers, InboundRequest, InboundStream, MeshError, PatternDoors},
    platform::random,
    tasks::Tasks,
};

/// Fetches under way at once.
const FETCHES_MAX: usize = 8;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Publications asked for at once.
const FETCH_SEQS_MAX: u64 = 4096;
/// Bytes of frames in one answer, unless the first one is larger.
pub(super) const FETCH_BYTES_MAX: usize = 512 << 10;
/// Members whose digests differ and that wait to be compared with.
pub(super) const DIFFERING_MAX: usize = 64;
/// After a restart so many members are compared with whatever their digests say.
const COMPARE_FIRST: usize = 4;
/// A member is asked at a random moment within this time from when it was found to differ.
const COMPARE_JITTER: Duration = Duration::from_millis(300);
/// Members compared with at once when many differ; the others follow one a second.
const COMPARE_BURST: u32 = 4;
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// Two that have compared do not do it again for so long; twice as long each time that nothing came of it.
const COMPARED_FOR: Duration = Duration::from_secs(5);
const FRUITLESS_MAX: u32 = 4;
/// Who is told what was learnt from another.
const TOLD_MAX: usize = 6;
const TELL_AFTER: Duration = Duration::from_millis(100);
/// How long a publisher waits for its neighbours to keep up.
const PACE_PATIENCE: Duration = Duration::from_secs(2);
/// When nothing of an awaited line has come for so long, it is fetched.
const AWAITED_STALL: Duration = Duration::from_millis(300);
/// Before the deadline of a request its answer leaves.
const ANSWER_MARGIN: Duration = Duration::from_millis(200);

/// What this node learnt by asking, for those who have not asked: from whom, which line, how far.
type News = mpsc::Sender<(PeerId, Line, u64)>;

/// That two have compared.
#[derive(Debug, Clone, Copy)]
struct Compared {
    not_before: Instant,
    /// How often in a row nothing came of it.
    fruitless: u32,
}

/// What the tasks of repair share.
#[derive(Clone)]
pub(super) struct Repair {
    hub: Arc<Hub>,
    tasks: Tasks,
    news: News,
    /// Members that were compared with, and when.
    compared: Arc<std::sync::Mutex<BTreeMap<PeerId, Compared>>>,
    fetches: Arc<Semaphore>,
}

impl Repair {
    /// Spawns everything.
    pub(super) fn start(
        hub: Arc<Hub>,
        doors: PatternDoors,
        differ: mpsc::Receiver<PeerId>,
        was_away: bool,
        tasks: &Tasks,
    ) {
        let (news, heard) = mpsc::channel(HEADS_MAX);
        let repair = Repair {
            hub,
            tasks: tasks.child(),
            news,
            compared: Arc::default(),
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
        };
        tasks.spawn_vital("pub-sub-gaps", repair.clone().fill_gaps());
        tasks.spawn_vital("pub-sub-news", repair.clone().pass_on(heard));
        tasks.spawn_vital("pub-sub-compare-all", repair.clone().compare_all(differ, was_away));
        doors.requests.open(repair.clone());
        tasks.spawn_vital("pub-sub-doors", repair.receive_all(doors.streams));
    }

    /// Asks for what is missing as long as it is.
    async fn fill_gaps(self) {
        loop {
            let (wants, next) = self.hub.due();
            for want in wants {
                let Ok(place) = Arc::clone(&self.fetches).acquire_owned().await else {
                    return;
                };
                let repair = self.clone();
                self.tasks.spawn("pub-sub-fetch", async move {
                    let _place = place;
                    repair.fill(want).await;
                });
            }
            tokio::select! {
                biased;
                () = self.hub.lacks.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    async fn fill(&self, want: Want) {
        let Some(peer) = self.source(&want) else { return };
        let to_seq = want.to_seq.min(want.from_seq + FETCH_SEQS_MAX);
        if let Err(error) = self.fetch(peer, want.line, want.from_seq, to_seq).await {
            tracing::debug!(%peer, %error, "missing messages could not be fetched");
        }
    }

    /// Whom to ask. The publisher last, unless it is connected: all who miss something would ask it.
    fn source(&self, want: &Want) -> Option<PeerId> {
        let publisher = want.line.publisher();
        let connected = self.hub.mesh.peers().ids();
        let dice = u32::from_be_bytes(random(&*self.hub.entropy)) as usize;
        let any = (!connected.is_empty()).then(|| connected[dice % connected.len()]);
        match (want.tries, want.hint) {
            (0, Some(hint)) if connected.contains(&hint) => Some(hint),
            (0 | 1, _) if connected.contains(&publisher) => Some(publisher),
            (tries, _) if tries >= 4 && tries % 2 == 0 => Some(publisher),
            _ => any.or(Some(publisher)),
        }
    }

    /// Fetches publications of a line; the number of frames that were new.
    async fn fetch(&self, peer: PeerId, line: Line, from_seq: u64, to_seq: u64) -> Result<usize, MeshError> {
        let request = RepairRequest::Fetch { line, from_seq, to_seq };
        let RepairReply::Originals { originals } = ask(&self.hub, peer, &request, REQUEST_TIMEOUT).await? else {
            return Err(not_an_answer(peer));
        };
        let Some(mesh) = self.hub.mesh_id() else {
            return Err(MeshError::Closed);
        };
        let mut new = 0;
        for original in originals {
            let original = mesh::Original {
                source: line.publisher(),
                sequence_number: original.gossip_seq,
                topic: topic(&mesh, line.shard),
                data: original.data,
                signature: original.signature,
            };
            if !self.hub.mesh.trust().is_member(&original.source) || !original.verify() {
                return Err(not_an_answer(peer));
            }
            let signed = (original.sequence_number, &*original.signature);
            let verdict = self.hub.take_in(original.source, peer, &original.data, signed);
            new += usize::from(verdict == mesh::Validation::Accept);
        }
        self.hub.repaired.inc_by(new as u64);
        Ok(new)
    }

    /// Compares with members whose digests differ, and after a restart with the first ones that connect: what was published
    /// while this node was away is in no digest of its.
    async fn compare_all(self, mut differ: mpsc::Receiver<PeerId>, was_away: bool) {
        let mut changes = self.hub.mesh.peers().watch();
        let mut firsts = if was_away { COMPARE_FIRST } else { 0 };
        let mut due: BTreeSet<PeerId> = BTreeSet::new();
        let (mut burst, mut refilled) = (COMPARE_BURST, Instant::now());
        loop {
            if firsts > 0 {
                due.extend(self.hub.mesh.peers().ids());
            }
            let now = Instant::now();
            due.retain(|peer| !self.has_compared(peer, now));
            while now.saturating_duration_since(refilled) >= COMPARE_EVERY {
                refilled += COMPARE_EVERY;
                burst = (burst + 1).min(COMPARE_BURST);
                if burst == COMPARE_BURST {
                    refilled = now;
                    break;
                }
            }
            while burst > 0
                && let Some(peer) = due.pop_first()
            {
                (burst, firsts) = (burst - 1, firsts.saturating_sub(1));
                let repair = self.clone();
                self.tasks.spawn("pub-sub-compare", async move {
                    tokio::time::sleep(repair.hub.jitter(COMPARE_JITTER)).await;
                    repair.compare(peer).await;
                });
            }
            let again = (!due.is_empty()).then(|| now + COMPARE_EVERY);
            tokio::select! {
                biased;
                peer = differ.recv() => match peer {
                    Some(peer) => drop(due.insert(peer)),
                    None => return,
                },
                changed = changes.changed(), if firsts > 0 => if changed.is_err() { return },
                () = sleep_until(again) => {}
            }
        }
    }

    fn has_compared(&self, peer: &PeerId, now: Instant) -> bool {
        self.compared()
            .get(peer)
            .is_some_and(|compared| now < compared.not_before)
    }

    /// Notes that two have compared. As long as nothing comes of it, although their digests differ, they do it less often.
    fn note_compared(&self, peer: PeerId, was_fruitless: bool) {
        let now = Instant::now();
        let mut compared = self.compared();
        compared.retain(|_, compared| now < compared.not_before + COMPARED_FOR);
        let before = compared.get(&peer).map_or(0, |compared| compared.fruitless);
        let fruitless = if was_fruitless {
            (before + 1).min(FRUITLESS_MAX)
        } else {
            0
        };
        let not_before = now + COMPARED_FOR * 2_u32.pow(fruitless);
        compared.insert(peer, Compared { not_before, fruitless });
    }

    fn compared(&self) -> std::sync::MutexGuard<'_, BTreeMap<PeerId, Compared>> {
        self.compared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Asks a member how far it has followed, says how far this node has, and fetches what it has beyond.
    async fn compare(&self, peer: PeerId) {
        if self.has_compared(&peer, Instant::now()) {
            return;
        }
        self.note_compared(peer, true);
        let (since_ms, heads) = self.hub.heads(HEADS_MAX);
        let whole = true;
        let request = RepairRequest::Heads { since_ms, heads, whole };
        match ask(&self.hub, peer, &request, REQUEST_TIMEOUT).await {
            Ok(RepairReply::Heads { heads }) => {
                if self.catch_up(peer, heads).await {
                    self.note_compared(peer, false);
                }
            }
            Ok(_) => tracing::debug!(%peer, "its answer makes no sense"),
            Err(error) => tracing::debug!(%peer, %error, "how far it has followed messages is not known"),
        }
    }

    /// Fetches what a member has beyond this node; whether there was anything.
    async fn catch_up(&self, peer: PeerId, heads: Vec<Head>) -> bool {
        let mut any = false;
        for head in heads {
            let mut learnt = false;
            let mut last = 0;
            while let Some(from_seq) = self.hub.behind(&head).filter(|from_seq| *from_seq > last) {
                let Ok(place) = self.fetches.acquire().await else {
                    return any;
                };
                let to_seq = head.last_seq.min(from_seq + FETCH_SEQS_MAX);
                let fetched = self.fetch(peer, head.line, from_seq, to_seq).await;
                drop(place);
                match fetched {
                    Ok(new) if new > 0 => (learnt, last) = (true, from_seq),
                    _ => break,
                }
            }
            if learnt {
                // When many lines wait to be told of, the others are seen in digests.
                let _ = self.news.try_send((peer, head.line, head.last_seq));
                any = true;
            }
        }
        any
    }

    /// Tells some of the other members what was learnt.
    async fn pass_on(self, mut heard: mpsc::Receiver<(PeerId, Line, u64)>) {
        let mut batch = Vec::new();
        while heard.recv_many(&mut batch, HEADS_MAX).await > 0 {
            tokio::time::sleep(TELL_AFTER + self.hub.jitter(TELL_AFTER)).await;
            while batch.len() < HEADS_MAX
                && let Ok(more) = heard.try_recv()
            {
                batch.push(more);
            }
            let from: BTreeSet<PeerId> = batch.iter().map(|(peer, ..)| *peer).collect();
            let lines: BTreeSet<Line> = batch.drain(..).map(|(_, line, _)| line).collect();
            let head = |line: Line| {
                Some(Head {
                    line,
                    last_seq: self.hub.followed(&line)?,
                    first_seq: 0,
                })
            };
            let heads: Vec<Head> = lines.into_iter().filter_map(head).collect();
            let mut others = self.hub.mesh.peers().ids();
            others.retain(|peer| !from.contains(peer));
            let start = u32::from_be_bytes(random(&*self.hub.entropy)) as usize % others.len().max(1);
            others.rotate_left(start);
            for peer in others.into_iter().take(TOLD_MAX) {
                let (repair, heads) = (self.clone(), heads.clone());
                self.tasks.spawn("pub-sub-tell", async move {
                    let request = RepairRequest::Heads {
                        since_ms: 0,
                        heads,
                        whole: false,
                    };
                    let _ = ask(&repair.hub, peer, &request, REQUEST_TIMEOUT).await;
                });
            }
        }
    }

    /// Takes in what other members hand to this node directly.
    async fn receive_all(self, mut streams: mpsc::Receiver<Box<InboundStream>>) {
        while let Some(stream) = streams.recv().await {
            let hub = Arc::clone(&self.hub);
            self.tasks.spawn("pub-sub-receive", receive::run(hub, stream));
        }
    }

    fn take_heads(&self, peer: PeerId, (since_ms, heads, whole): (u64, Vec<Head>, bool)) -> RepairReply {
        let beyond = if whole {
            self.note_compared(peer, false);
            self.hub.heads_beyond(&heads, since_ms, HEADS_MAX)
        } else {
            Vec::new()
        };
        let ahead: Vec<Head> = heads.into_iter().filter(|h| self.hub.behind(h).is_some()).collect();
        if !ahead.is_empty() {
            let repair = self.clone();
            self.tasks.spawn("pub-sub-catch-up", async move {
                repair.catch_up(peer, ahead).await;
            });
        }
        RepairReply::Heads { heads: beyond }
    }

    /// Waits until this node follows a line so far, or until the asker hardly waits any more; how far it is then. If nothing of it comes,
    /// although its own publisher says that it is so far, gossip did not bring it: it is fetched.
    async fn await_line(&self, peer: PeerId, line: Line, seq: u64, deadline: Instant) -> RepairReply {
        let until = deadline.checked_sub(ANSWER_MARGIN).unwrap_or(deadline);
        let follow = async {
            let mut progress = self.hub.progress.subscribe();
            let mut is_fetched = peer != line.publisher();
            loop {
                let before = self.hub.followed(&line);
                if before.is_some_and(|last| last >= seq) {
                    return;
                }
                let there = progress.wait_for(|_| self.hub.followed(&line).is_some_and(|last| last >= seq));
                if tokio::time::timeout(AWAITED_STALL, there).await.is_err()
                    && !is_fetched
                    && self.hub.followed(&line) == before
                {
                    is_fetched = true;
                    let (last_seq, first_seq) = (seq, 0);
                    let claimed = Head {
                        line,
                        last_seq,
                        first_seq,
                    };
                    self.catch_up(peer, vec![claimed]).await;
                }
            }
        };
        let _ = tokio::time::timeout_at(until, follow).await;
        let head = Head {
            line,
            last_seq: self.hub.followed(&line).unwrap_or(0),
            first_seq: 0,
        };
        RepairReply::Heads { heads: vec![head] }
    }

    /// In a task of its own, for there may be much to read and to sign.
    async fn in_task(&self, work: impl FnOnce(&Hub) -> RepairReply + Send + 'static) -> Option<RepairReply> {
        let (reply, answer) = oneshot::channel();
        let hub = Arc::clone(&self.hub);
        self.tasks.spawn("pub-sub-answer", async move {
            let _ = reply.send(work(&hub));
        });
        answer.await.ok()
    }
}

impl Answers for Repair {
    async fn answer(&self, request: InboundRequest) -> DirectReply {
        let asked = match RepairRequest::from_bytes(&request.payload) {
            Ok(asked) => asked,
            Err(error) => return DirectReply::refused(Refusal::Malformed, &error.to_string()),
        };
        let reply = match asked {
            RepairRequest::Heads { since_ms, heads, whole } => {
                Some(self.take_heads(request.peer, (since_ms, heads, whole)))
            }
            RepairRequest::Fetch { line, from_seq, to_seq } => {
                self.in_task(move |hub| {
                    let kept = hub.kept(line, (from_seq, to_seq), ORIGINALS_MAX, FETCH_BYTES_MAX);
                    let originals = kept.iter().filter_map(|kept| original(hub, kept)).collect();
                    RepairReply::Originals { originals }
                })
                .await
            }
            RepairRequest::Past {
                pattern,
                since_ms,
                before,
            } => {
                self.in_task(move |hub| past::answer(hub, &pattern, since_ms, before))
                    .await
            }
            RepairRequest::Hop { hop } => {
                if !self.hub.hops.heard(self.hub.mesh.local_peer(), request.peer, hop) {
                    let detail = "it is no hop of a message of this node, or not the asker's word";
                    return DirectReply::refused(Refusal::Malformed, detail);
                }
                Some(RepairReply::Noted)
            }
            RepairRequest::Await { line, seq } => {
                Some(self.await_line(request.peer, line, seq, request.deadline).await)
            }
        };
        match reply {
            Some(reply) => DirectReply::answer(reply.to_bytes()),
            None => DirectReply::refused(Refusal::Closing, "the node is stopping"),
        }
    }
}

/// A frame as its publisher signed it; this node's own is signed now.
pub(super) fn original(hub: &Hub, kept: &Kept) -> Option<Original> {
    let signature = match kept.signature.get() {
        Some(signature) => signature,
        None => {
            let topic = topic(&hub.mesh_id()?, kept.line().shard);
            let signed = hub.mesh.sign(topic, kept.gossip_seq, kept.data.to_vec())?;
            kept.signature.get_or_init(|| hub.shared(&signed.signature))
        }
    };
    Some(Original {
        gossip_seq: kept.gossip_seq,
        data: kept.data.to_vec(),
        signature: signature.to_vec(),
    })
}

/// Waits until the neighbours of a shard have followed this node's line so far, for a bounded time.
pub(super) async fn await_neighbours(hub: &Hub, shard: u16, seq: u64) {
    let Some(mesh) = hub.mesh_id() else {
        return;
    };
    let Ok(neighbours) = hub.mesh.gossip_neighbours(topic(&mesh, shard)).await else {
        return;
    };
    await_members(hub, neighbours, shard, seq).await;
}

/// Waits until these members have followed this node's line so far, for a bounded time.
pub(super) async fn await_members(hub: &Hub, members: Vec<PeerId>, shard: u16, seq: u64) {
    let Some(line) = hub.own_line(shard).filter(|_| seq > 0) else {
        return;
    };
    let request = RepairRequest::Await { line, seq };
    let waits = members.into_iter().map(|peer| ask(hub, peer, &request, PACE_PATIENCE));
    for answer in futures::future::join_all(waits).await {
        let kept_up = matches!(answer, Ok(RepairReply::Heads { heads }) if heads.iter().any(|h| h.last_seq >= seq));
        if !kept_up {
            hub.dropped.inc("publish", "slow_neighbour");
        }
    }
}

/// Whether a member has followed a line of this node so far, or does within a time.
pub(super) async fn has_followed(hub: &Hub, peer: PeerId, line: Line, seq: u64, within: Duration) -> Outcome {
    match ask(hub, peer, &RepairRequest::Await { line, seq }, within).await {
        Ok(RepairReply::Heads { heads }) if heads.iter().any(|head| head.last_seq >= seq) => Outcome::Confirmed,
        Ok(_) | Err(MeshError::Timeout { .. }) => Outcome::Silent,
        Err(_) => Outcome::Unreachable,
    }
}

/// Asks a member, and reads its answer.
pub(super) async fn ask(
    hub: &Hub,
    peer: PeerId,
    request: &RepairRequest,
    within: Duration,
) -> Result<RepairReply, MeshError> {
    let bytes = request
        .to_checked_bytes()
        .map_err(|e| MeshError::Invalid(e.to_string()))?;
    let answer = hub.mesh.request(peer, hello(hub)?, bytes, within).await?;
    RepairReply::from_bytes(&answer).map_err(|error| MeshError::Broken {
        peer,
        reason: error.to_string(),
    })
}

/// Gossip is for all members, and so is what it lost; who may publish what is judged with each publication.
pub(super) fn hello(hub: &Hub) -> Result<Hello, MeshError> {
    let resource = Subject::reserved("$pub_sub").map_err(|e| MeshError::Invalid(e.to_string()))?;
    Ok(greeting(PATTERN_ID, hub.mesh.trust(), Verb::Subscribe, &resource))
}

fn not_an_answer(peer: PeerId) -> MeshError {
    MeshError::Broken {
        peer,
        reason: "its answer is no answer to what was asked".to_owned(),
    }
}

const _: () = assert!(FETCH_BYTES_MAX < FRAME_BYTES_MAX);
