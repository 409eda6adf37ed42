//! Where streams are, and how they are asked: here, at one owner, or at those that keep copies, whoever leads them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::time::{Instant, timeout};
use weft_protocol::{
    PeerId, Subject, Wire as _,
    consensus::GroupId,
    patterns::event_sourcing::{ANNOUNCEMENT_KEY, KeptStreams, StreamFigures, StreamReply, StreamRequest},
};

use super::{
    copies::{Copies, peer_of},
    options::StreamError,
    remote,
    streams::{Opened, Streams},
};
use crate::{
    consensus::Voter,
    error::{ErrorKind, Kind as _},
};

/// How long other members have to say how their streams are, when all are listed.
const LIST_WITHIN: Duration = Duration::from_secs(2);
/// How long the owner of a stream may be away, a restart say, before that is an error.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one of several that keep a stream may take, where another can be asked as well.
const ONE_WITHIN: Duration = Duration::from_secs(3);
/// The pause until it is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// Members that are asked at once.
pub(super) const ASKED_MAX: usize = 32;

/// Where a stream is.
pub(super) enum Place {
    /// Here, and nowhere else.
    Here(Opened),
    /// Here, as a copy that this group keeps.
    Copy(GroupId),
    /// At one member.
    At(PeerId),
    /// At several, that have copies.
    Copies(Vec<PeerId>),
}

/// Finds streams and asks them.
#[derive(Clone)]
pub(super) struct Asking {
    pub(super) streams: Arc<Streams>,
    pub(super) copies: Arc<Copies>,
    known: Arc<Mutex<Known>>,
}

/// What other members say that they keep, as it was when their records had this version.
#[derive(Default)]
struct Known {
    version: Option<u64>,
    owners: HashMap<Subject, Vec<(PeerId, bool)>>,
    /// Who led those that keep a stream, when they were asked last.
    leaders: HashMap<Subject, PeerId>,
}

impl Asking {
    pub(super) fn new(streams: Arc<Streams>, copies: Arc<Copies>) -> Self {
        Asking {
            streams,
            copies,
            known: Arc::default(),
        }
    }

    /// Asks a stream something.
    pub(super) async fn ask(
        &self,
        name: &Subject,
        request: StreamRequest,
        wait: Duration,
    ) -> Result<StreamReply, StreamError> {
        match self.place(name).await? {
            Place::Here(opened) => remote::perform(&self.streams, &opened, request, None).await,
            Place::Copy(group) => self.ask_group(group, name, request, wait).await,
            Place::At(owner) => self.ask_patiently(owner, name, &request, wait).await,
            Place::Copies(at) => self.ask_copies(&at, name, &request, wait).await,
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

    /// Asks the leader of a group that this node is in, and whoever leads next when it goes.
    async fn ask_group(
        &self,
        group: GroupId,
        name: &Subject,
        request: StreamRequest,
        wait: Duration,
    ) -> Result<StreamReply, StreamError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let leading = self.copies.leading(group)?;
            let mut changed = leading.changed;
            let answer = match (leading.is_local, leading.leader) {
                (true, _) => self.copies.perform(group, name, request.clone(), None).await,
                (false, None) => Err(StreamError::Led(None)),
                (false, Some(leader)) => tokio::select! {
                    biased;
                    answer = remote::ask(&self.streams, leader, name, &request, wait) => of_leader(leader, answer, true),
                    // Whoever does not lead any more may never answer.
                    () = &mut changed => Err(StreamError::Unknown),
                },
            };
            match answer {
                Err(error) if may_ask_again(&error, &request) && Instant::now() < until => {
                    let _ = timeout(PAUSE, changed).await;
                }
                answer => return answer,
            }
        }
    }

    /// Asks those that keep copies one after the other, until one of them leads.
    async fn ask_copies(
        &self,
        at: &[PeerId],
        name: &Subject,
        request: &StreamRequest,
        wait: Duration,
    ) -> Result<StreamReply, StreamError> {
        let until = Instant::now() + PATIENCE;
        let mut next = self
            .known()
            .leaders
            .get(name)
            .copied()
            .filter(|leader| at.contains(leader));
        let mut turn = at.iter().cycle();
        loop {
            let Some(peer) = next.take().or_else(|| turn.next().copied()) else {
                return Err(StreamError::NoStream(name.to_string()));
            };
            let asked = remote::ask(&self.streams, peer, name, request, wait);
            let answer = match remote::is_repeatable(request) {
                true => timeout(ONE_WITHIN + wait, asked)
                    .await
                    .unwrap_or(Err(StreamError::Unknown)),
                false => asked.await,
            };
            match of_leader(peer, answer, false) {
                Err(StreamError::Led(Some(leader))) if leader != peer && Instant::now() < until => {
                    next = Some(leader);
                    tokio::task::yield_now().await;
                }
                Err(error) if may_ask_again(&error, request) && Instant::now() < until => {
                    self.known().leaders.remove(name);
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(answer) => {
                    self.known().leaders.insert(name.clone(), peer);
                    return Ok(answer);
                }
                failed => return failed,
            }
        }
    }

    /// How a stream is, as a member says.
    pub(super) async fn figures_at(&self, owner: PeerId, name: &Subject) -> Option<StreamFigures> {
        let asked = remote::ask(&self.streams, owner, name, &StreamRequest::Figures, Duration::ZERO);
        match timeout(LIST_WITHIN, asked).await {
            Ok(Ok(StreamReply::Figures(figures))) => Some(figures),
            _ => None,
        }
    }

    /// What other members say that they keep.
    pub(super) fn announced(&self) -> Vec<(PeerId, KeptStreams)> {
        let said = self.streams.mesh.trust().announcements(ANNOUNCEMENT_KEY).into_iter();
        let read = |(peer, bytes): (PeerId, Vec<u8>)| Some((peer, KeptStreams::from_bytes(&bytes).ok()?));
        said.filter(|(peer, _)| *peer != self.streams.local_peer())
            .filter_map(read)
            .collect()
    }

    /// The members that say that they keep a stream, and whether others do as well.
    pub(super) fn announcing(&self, name: &Subject) -> Vec<(PeerId, bool)> {
        let version = *self.streams.mesh.trust().watch_records().borrow();
        let mut known = self.known();
        if known.version != Some(version) {
            // Read again only when somebody has said something: each append asks.
            let mut owners: HashMap<Subject, Vec<(PeerId, bool)>> = HashMap::new();
            for (peer, said) in self.announced() {
                for (name, is_copy) in said.named() {
                    owners.entry(name).or_default().push((peer, is_copy));
                }
            }
            known.leaders.retain(|name, _| owners.contains_key(name));
            (known.version, known.owners) = (Some(version), owners);
        }
        known.owners.get(name).cloned().unwrap_or_default()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a stream is: here, where it is announced, or else at one of those that have not announced all of theirs, or of the members nearby, whose
    /// newest streams nobody has heard of yet.
    pub(super) async fn place(&self, name: &Subject) -> Result<Place, StreamError> {
        let group = self.streams.group_of(name);
        if let Some(group) = group.filter(|group| self.copies.is_seated(*group)) {
            return Ok(Place::Copy(group));
        }
        if group.is_none() && self.streams.has(name) {
            return Ok(Place::Here(self.streams.get(name).await?));
        }
        let announcing = self.announcing(name);
        match announcing[..] {
            [(owner, false)] => return Ok(Place::At(owner)),
            [] => {}
            ref all if all.iter().all(|(_, is_copy)| *is_copy) => {
                return Ok(Place::Copies(all.iter().map(|(peer, _)| *peer).collect()));
            }
            ref several => {
                let owners: Vec<String> = several.iter().map(|(peer, _)| peer.to_string()).collect();
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
            figures.map(|figures| (peer, figures.copies.is_some()))
        });
        let mut found = std::pin::pin!(asked.buffer_unordered(ASKED_MAX).filter_map(std::future::ready));
        match found.next().await {
            Some((owner, true)) => Ok(Place::Copies(vec![owner])),
            Some((owner, false)) => Ok(Place::At(owner)),
            None => Err(StreamError::NoStream(name.to_string())),
        }
    }

    /// Every stream that is known here, and who is asked how it is: of those with copies this node, if it has one.
    pub(super) fn all(&self) -> Vec<(Subject, PeerId)> {
        let local = self.streams.local_peer();
        let own = self.streams.names().into_iter().map(|named| (local, named));
        let others = self.announced().into_iter();
        let others = others.flat_map(|(peer, said)| said.named().map(move |named| (peer, named)));
        let (mut alone, mut shared) = (Vec::new(), BTreeMap::new());
        for (peer, (name, is_copy)) in own.chain(others) {
            if is_copy {
                shared.entry(name).or_insert(peer);
            } else {
                alone.push((name, peer));
            }
        }
        alone.extend(shared);
        alone
    }
}

/// How a stream is anybody says who has a copy; what counts is the leader's word. Where nobody leads, another's will do unless `must_lead`.
fn of_leader(
    asked: PeerId,
    answer: Result<StreamReply, StreamError>,
    must_lead: bool,
) -> Result<StreamReply, StreamError> {
    let Ok(StreamReply::Figures(figures)) = &answer else {
        return answer;
    };
    let leader = figures
        .copies
        .as_ref()
        .map(|copies| copies.leader.map(Voter::from).and_then(peer_of));
    match leader {
        Some(Some(leader)) if leader != asked => Err(StreamError::Led(Some(leader))),
        Some(None) if must_lead => Err(StreamError::Led(None)),
        _ => answer,
    }
}

/// Whether something can be asked again: nothing was done, or it does no harm to do it twice.
fn may_ask_again(error: &StreamError, request: &StreamRequest) -> bool {
    match error {
        StreamError::Led(_) => true,
        StreamError::Unknown | StreamError::NoQuorum | StreamError::NoStream(_) => remote::is_repeatable(request),
        StreamError::Mesh(error) => error.kind() == ErrorKind::Unreachable && remote::is_repeatable(request),
        // As another member hears that there is no leader, or that it cannot know.
        StreamError::AtOwner { kind, .. } => *kind == ErrorKind::Unreachable && remote::is_repeatable(request),
        _ => false,
    }
}
