//! Getting a blob from those who have it: its publisher first, then whoever says in the DHT that it has fetched it.
//!
//! One fetch of a blob at a time, however many read it. What has come stays on the disk, so that the next try, with whomever, goes on from
//! there.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::io::BufReader;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use weft_protocol::{
    PeerId, Verb,
    patterns::blobs::{
        BlobId, BlobMessage, GROUP_BYTES, GroupHash, HASH_BYTES, PATTERN_ID, Reference, groups_of, hash_group,
    },
};

use super::{
    handle::BlobMetrics,
    options::BlobError,
    put::GROUPS_AT_ONCE,
    shelf::{InUse, Shelf},
};
use crate::{
    context::greeting,
    error::{ErrorKind, Kind as _},
    mesh::{self, Mesh, streams::MeshStream},
    tasks::Tasks,
};

/// How long the first word of an answer may take, and every further one.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a fetch goes on without anything coming.
const GIVE_UP: Duration = Duration::from_secs(60);
/// How long the DHT is asked.
const PROVIDERS_PATIENCE: Duration = Duration::from_secs(5);
/// Until everybody is asked again: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Who is asked in one round.
const ASKED_MAX: usize = 8;
/// Fetches at once.
const FETCHES_MAX: usize = 64;
/// What has come is written after this time, if it is not enough to be written before.
const WRITE_AFTER: Duration = Duration::from_millis(250);
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Blobs that a node says it has when it starts.
const PROVIDED_MAX: usize = 256;

/// How far a fetch is.
#[derive(Debug, Clone)]
pub(super) enum Progress {
    /// Nobody has been found yet who gives it.
    Looking,
    /// So many groups are on the disk.
    Groups(usize),
    /// All of it.
    Whole,
    /// It came to nothing.
    Failed(BlobError),
}

/// See the module.
pub(super) struct Fetching {
    mesh: Mesh,
    shelf: Arc<Shelf>,
    tasks: Tasks,
    metrics: BlobMetrics,
    under_way: Mutex<HashMap<BlobId, watch::Receiver<Progress>>>,
}

/// Who does not give it.
enum Failure {
    /// Not now, or it cannot be reached: it may be asked again.
    Later(String),
    /// It never will.
    Never(ErrorKind, String),
    /// This node cannot go on, whoever is asked.
    Own(BlobError),
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        Failure::Own(error)
    }
}

fn later(error: impl std::fmt::Display) -> Failure {
    Failure::Later(error.to_string())
}

impl Fetching {
    pub(super) fn new(mesh: Mesh, shelf: Arc<Shelf>, tasks: Tasks, metrics: BlobMetrics) -> Arc<Self> {
        Arc::new(Fetching {
            mesh,
            shelf,
            tasks,
            metrics,
            under_way: Mutex::default(),
        })
    }

    pub(super) fn local_peer(&self) -> PeerId {
        self.mesh.local_peer()
    }

    /// Follows the fetch of a blob, which begins unless it is under way.
    pub(super) fn follow(self: &Arc<Self>, reference: &Reference) -> Result<watch::Receiver<Progress>, BlobError> {
        let mut under_way = self.lock();
        if let Some(progress) = under_way.get(&reference.id) {
            return Ok(progress.clone());
        }
        if under_way.len() >= FETCHES_MAX {
            return Err(BlobError::Full(format!(
                "{FETCHES_MAX} blobs are being fetched already"
            )));
        }
        let (sender, progress) = watch::channel(Progress::Looking);
        under_way.insert(reference.id, progress.clone());
        let (fetching, reference) = (Arc::clone(self), reference.clone());
        self.tasks.spawn("blob-fetch", async move {
            let under_way = UnderWay(&fetching, reference.id);
            let fetch = Fetch {
                fetching: &fetching,
                reference: &reference,
                progress: &sender,
                hashes: Vec::new(),
                in_use: None,
            };
            let outcome = fetch.run().await;
            drop(under_way);
            match outcome {
                Ok(()) => {
                    sender.send_replace(Progress::Whole);
                    fetching.metrics.fetched.inc();
                    fetching.provide(&reference.id).await;
                }
                Err(error) => {
                    tracing::info!(blob = %reference.id, %error, "a blob could not be fetched");
                    sender.send_replace(Progress::Failed(error));
                }
            }
        });
        Ok(progress)
    }

    /// Says that this node has it. Nobody depends on that being heard.
    pub(super) async fn provide(&self, id: &BlobId) {
        let _ = timeout(PROVIDERS_PATIENCE, self.mesh.provide(key(id))).await;
    }

    async fn providers(&self, id: &BlobId) -> Vec<PeerId> {
        let asked = timeout(PROVIDERS_PATIENCE, self.mesh.providers(key(id))).await;
        let mut providers = asked.ok().and_then(Result::ok).unwrap_or_default();
        providers.sort_unstable();
        // Not all of those who want it ask the same one first.
        if !providers.is_empty() {
            let turn = usize::from(self.local_peer().to_bytes().last().copied().unwrap_or_default());
            let turn = turn % providers.len();
            providers.rotate_left(turn);
        }
        providers
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BlobId, watch::Receiver<Progress>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Under which key the DHT has those who have a blob.
fn key(id: &BlobId) -> Vec<u8> {
    [b"weft-blob/", &id.as_bytes()[..]].concat()
}

/// Says what this node has from before.
pub(super) async fn provide_all(fetching: Arc<Fetching>) {
    let mut state = fetching.mesh.watch_state();
    if state.wait_for(|state| state.listening).await.is_err() {
        return;
    }
    drop(state);
    let mut whole = fetching.shelf.list();
    whole.retain(|(_, entry)| entry.facts.is_whole);
    whole.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.used_ms));
    for (id, _) in whole.iter().take(PROVIDED_MAX) {
        fetching.provide(id).await;
    }
}

/// It is under way as long as this lives.
struct UnderWay<'a>(&'a Fetching, BlobId);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

/// One fetch.
struct Fetch<'a> {
    fetching: &'a Fetching,
    reference: &'a Reference,
    progress: &'a watch::Sender<Progress>,
    /// Those of all groups, once they were checked.
    hashes: Vec<GroupHash>,
    in_use: Option<InUse>,
}

impl Fetch<'_> {
    async fn run(mut self) -> Result<(), BlobError> {
        if self.resume().await? {
            return Ok(());
        }
        let (mut hopeless, mut pause) = (HashSet::new(), PAUSE_MIN);
        let mut give_up = Instant::now() + GIVE_UP;
        loop {
            let (mut reasons, before) = (Vec::new(), self.groups());
            let mut asked = HashSet::from([self.fetching.local_peer()]);
            let mut to_ask = VecDeque::from([self.reference.publisher]);
            let mut dht_was_asked = false;
            let mut denied = None;
            loop {
                let Some(peer) = to_ask.pop_front() else {
                    if std::mem::replace(&mut dht_was_asked, true) || asked.len() > ASKED_MAX {
                        break;
                    }
                    to_ask.extend(self.fetching.providers(&self.reference.id).await);
                    continue;
                };
                if hopeless.contains(&peer) || asked.len() > ASKED_MAX || !asked.insert(peer) {
                    continue;
                }
                match self.ask(peer).await {
                    Ok(()) => return self.fetching.shelf.complete(&self.reference.id).await,
                    // Somebody here published the same meanwhile.
                    Err(Failure::Own(_)) if self.is_whole() => return Ok(()),
                    Err(Failure::Own(error)) => return Err(error),
                    Err(Failure::Later(why)) => reasons.push(format!("{peer}: {why}")),
                    Err(Failure::Never(kind, why)) => {
                        if kind == ErrorKind::Denied {
                            denied = Some(why.clone());
                        }
                        reasons.push(format!("{peer}: {why}"));
                        hopeless.insert(peer);
                    }
                }
            }
            if self.groups() > before {
                (give_up, pause) = (Instant::now() + GIVE_UP, PAUSE_MIN);
            }
            // Nobody is left who could change their mind: those that were asked say so, or it was this node's own, and nobody else has it.
            let local = self.fetching.local_peer();
            let is_hopeless = (!reasons.is_empty() || self.reference.publisher == local)
                && asked.iter().all(|peer| hopeless.contains(peer) || *peer == local);
            if is_hopeless || Instant::now() + pause > give_up {
                return Err(self.failure(reasons, denied));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn failure(&self, mut reasons: Vec<String>, denied: Option<String>) -> BlobError {
        if reasons.is_empty() {
            reasons.push("nobody is known to have it".to_owned());
        }
        let words = format!("the blob {} cannot be had: {}", self.reference.id, reasons.join("; "));
        match denied {
            Some(_) => BlobError::Denied(words),
            None => BlobError::Unreachable(words),
        }
    }

    fn groups(&self) -> usize {
        self.in_use.as_ref().map_or(0, InUse::groups)
    }

    fn is_whole(&self) -> bool {
        let facts = self.fetching.shelf.facts(&self.reference.id);
        facts.is_some_and(|facts| facts.is_whole)
    }

    /// Takes up what an earlier fetch left. Whether all of it is here.
    async fn resume(&mut self) -> Result<bool, BlobError> {
        let (shelf, id) = (&self.fetching.shelf, &self.reference.id);
        let in_use = match shelf.take(id).await? {
            None => return Ok(false),
            Some((_, true)) => return Ok(true),
            Some((in_use, false)) => in_use,
        };
        let hashes = shelf.hashes(id).await?.unwrap_or_default();
        if in_use.bytes() != self.reference.bytes || BlobId::of_groups(&hashes) != Some(*id) {
            drop(in_use);
            shelf.remove(id).await?;
            return Ok(false);
        }
        self.progress.send_replace(Progress::Groups(in_use.groups()));
        (self.hashes, self.in_use) = (hashes, Some(in_use));
        Ok(false)
    }

    /// Asks one member for what is missing.
    async fn ask(&mut self, peer: PeerId) -> Result<(), Failure> {
        let total = groups_of(self.reference.bytes);
        if self.groups() >= total {
            return Ok(());
        }
        let hello = greeting(
            PATTERN_ID,
            self.fetching.mesh.trust(),
            Verb::Subscribe,
            &self.reference.subject,
        );
        let opened = timeout(PATIENCE, self.fetching.mesh.open(peer, &hello)).await;
        let mut stream = opened.map_err(later)?.map_err(|error| match error.kind() {
            kind @ (ErrorKind::Denied | ErrorKind::Invalid) => Failure::Never(kind, error.to_string()),
            _ => later(error),
        })?;
        let want = BlobMessage::Want {
            id: self.reference.id,
            first_group: u32::try_from(self.groups()).unwrap_or(u32::MAX),
            hashes: self.hashes.is_empty(),
        };
        mesh::write(&mut stream, &want).await.map_err(later)?;
        let mut stream = BufReader::with_capacity(READ_BUFFER_BYTES, stream);
        match next(&mut stream).await? {
            BlobMessage::Have { bytes } if bytes == self.reference.bytes => {}
            BlobMessage::Have { bytes } => {
                let words = format!("it has {bytes} bytes there, and not {}", self.reference.bytes);
                return Err(Failure::Never(ErrorKind::Invalid, words));
            }
            BlobMessage::TurnedAway { is_busy: true, detail } => return Err(Failure::Later(detail)),
            BlobMessage::TurnedAway { detail, .. } => return Err(Failure::Never(ErrorKind::NotFound, detail)),
            _ => return Err(self.wrong(peer, "its answer is not about this blob")),
        }
        if self.hashes.is_empty() {
            self.take_hashes(peer, &mut stream, total).await?;
        }
        self.take_groups(peer, &mut stream, total).await
    }

    fn wrong(&self, peer: PeerId, why: &str) -> Failure {
        tracing::warn!(%peer, blob = %self.reference.id, why, "a member gives a blob that is none");
        self.fetching.metrics.wrong.inc();
        Failure::Never(ErrorKind::Corrupt, why.to_owned())
    }

    async fn take_hashes(
        &mut self,
        peer: PeerId,
        stream: &mut BufReader<MeshStream>,
        total: usize,
    ) -> Result<(), Failure> {
        // Grows with what arrives.
        let mut bytes = Vec::new();
        while bytes.len() < total * HASH_BYTES {
            match next(stream).await? {
                BlobMessage::Hashes(part) if bytes.len() + part.len() <= total * HASH_BYTES => bytes.extend(part),
                _ => return Err(self.wrong(peer, "its hashes are out of turn")),
            }
        }
        let hashes = bytes.as_chunks::<HASH_BYTES>().0.to_vec();
        if BlobId::of_groups(&hashes) != Some(self.reference.id) {
            return Err(self.wrong(peer, "its hashes are not those of this blob"));
        }
        let Reference { id, bytes, subject, .. } = self.reference;
        let in_use = self.fetching.shelf.begin(*id, *bytes, subject, &hashes).await?;
        self.progress.send_replace(Progress::Groups(0));
        (self.hashes, self.in_use) = (hashes, Some(in_use));
        Ok(())
    }

    async fn take_groups(
        &mut self,
        peer: PeerId,
        stream: &mut BufReader<MeshStream>,
        total: usize,
    ) -> Result<(), Failure> {
        let (mut waiting, mut written) = (Vec::new(), Instant::now());
        for index in self.groups()..total {
            let length = (self.reference.bytes - (index * GROUP_BYTES) as u64).min(GROUP_BYTES as u64) as usize;
            let group = match self.group(peer, stream, length).await {
                Ok(group) if hash_group(index, total, &group) == self.hashes[index] => group,
                outcome => {
                    // What came before it is good.
                    self.write(std::mem::take(&mut waiting)).await?;
                    return Err(match outcome {
                        Ok(_) => self.wrong(peer, "its content is not that of this blob"),
                        Err(failure) => failure,
                    });
                }
            };
            waiting.push(group);
            if waiting.len() >= GROUPS_AT_ONCE || index + 1 == total || written.elapsed() > WRITE_AFTER {
                self.write(std::mem::take(&mut waiting)).await?;
                written = Instant::now();
            }
        }
        Ok(())
    }

    async fn group(&self, peer: PeerId, stream: &mut BufReader<MeshStream>, length: usize) -> Result<Bytes, Failure> {
        let mut group = Vec::with_capacity(length);
        while group.len() < length {
            match next(stream).await? {
                BlobMessage::Part(part) if !part.is_empty() && group.len() + part.len() <= length => {
                    group.extend_from_slice(&part);
                }
                _ => return Err(self.wrong(peer, "its content is out of turn")),
            }
        }
        Ok(group.into())
    }

    async fn write(&self, groups: Vec<Bytes>) -> Result<(), Failure> {
        let (Some(in_use), false) = (&self.in_use, groups.is_empty()) else {
            return Ok(());
        };
        let bytes: usize = groups.iter().map(Bytes::len).sum();
        in_use.append(groups).await?;
        self.fetching.metrics.fetched_bytes.inc_by(bytes as u64);
        self.progress.send_replace(Progress::Groups(in_use.groups()));
        Ok(())
    }
}

async fn next(stream: &mut BufReader<MeshStream>) -> Result<BlobMessage, Failure> {
    match timeout(PATIENCE, mesh::expect::<BlobMessage>(stream)).await {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(error)) => Err(later(error)),
        Err(_) => Err(later(format!("nothing came for {} s", PATIENCE.as_secs()))),
    }
}
