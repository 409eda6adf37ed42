//! Asks whether nodes are there, tells those who watch, and says the wills of those that are gone.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use weft_protocol::{
    Pattern, PeerId, Wire as _,
    patterns::presence::{ANNOUNCEMENT_KEY, EPOCH_MAX, Presence, Presences},
};

use super::{
    handle::Present,
    standing::{Change, Consequences, Fate, Standing, change},
};
use crate::{
    mesh::{Mesh, PeerInfo},
    patterns::pub_sub::PubSubHandle,
    platform::{Clock, Entropy, random},
    tasks::Tasks,
};

/// How long a node has to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause after a node did not answer, until it is asked again.
const DOUBT: Duration = Duration::from_secs(2);
/// So often it does not answer until it counts as gone.
const DOUBTS: u32 = 2;
/// So often one that was not known to be there answers, [`SETTLE`] apart, until it counts as there.
const ANSWERS: u32 = 2;
/// How often a node that is not connected is asked, be it there or gone.
const PROBE_EVERY: Duration = Duration::from_secs(15);
/// One that was not known to be there may have started anew, and its new record may be on its way: so long its old one is not believed.
const SETTLE: Duration = Duration::from_secs(5);
/// Probes at once.
const PROBES_MAX: usize = 64;
/// Changes that come together are told together.
const GATHER: Duration = Duration::from_millis(50);
/// How long nothing happens at most while there is somebody to ask.
const TICK: Duration = Duration::from_millis(500);
/// Changes that wait for one who watches; with more its watch ends.
pub(super) const CHANGES_MAX: usize = 4096;

/// A node that is not connected.
#[derive(Debug, Default)]
struct Doubt {
    failures: u32,
    answers: u32,
    /// When it is asked next; not set while it is being asked.
    next: Option<Instant>,
}

struct Watcher {
    pattern: Pattern,
    sink: mpsc::Sender<Change>,
}

#[derive(Default)]
pub(super) struct State {
    /// What is declared here.
    pub(super) own: Presences,
    pub(super) next_number: u64,
    /// By number: cancelled when somebody withdraws it.
    pub(super) withdrawals: BTreeMap<u64, CancellationToken>,
    standing: Standing,
    doubts: BTreeMap<PeerId, Doubt>,
    watchers: Vec<Watcher>,
    /// The version of the records that was read.
    version: Option<u64>,
}

/// What the handle and the task share.
pub(super) struct Inner {
    pub(super) mesh: Mesh,
    pub(super) messages: PubSubHandle,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: Tasks,
    state: Mutex<State>,
    /// Something was declared, withdrawn or is watched.
    pub(super) changed: Notify,
}

impl Inner {
    pub(super) fn new(
        mesh: Mesh,
        messages: PubSubHandle,
        (clock, entropy): (Arc<dyn Clock>, &dyn Entropy),
        tasks: Tasks,
    ) -> Self {
        let own = Presences {
            epoch: u64::from_be_bytes(random(entropy)) % EPOCH_MAX,
            ..Presences::default()
        };
        Inner {
            mesh,
            messages,
            clock,
            tasks,
            state: Mutex::new(State {
                own,
                ..State::default()
            }),
            changed: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn local(&self) -> PeerId {
        self.mesh.local_peer()
    }

    /// Tells those who watch here of something of this node's own.
    pub(super) fn tell_own(&self, state: &mut State, presence: &Presence, fate: Fate) {
        state.tell(&[change(self.local(), presence, fate)]);
    }

    /// Begins to watch: what is there already, then what changes.
    pub(super) fn watch(&self, pattern: Pattern) -> mpsc::Receiver<Change> {
        let (sink, changes) = mpsc::channel(CHANGES_MAX);
        let mut state = self.lock();
        let mut there: Vec<Change> = state
            .own
            .list
            .iter()
            .map(|presence| change(self.local(), presence, Fate::Present))
            .collect();
        for (peer, list) in state.standing.nodes() {
            if state.standing.is_alive(peer) == Some(true) {
                there.extend(list.iter().map(|presence| change(*peer, presence, Fate::Present)));
            }
        }
        for told in there.into_iter().filter(|told| pattern.matches(&told.subject)) {
            // There is room for so many as can be here; with more the watch ends at once, and says so.
            if sink.try_send(told).is_err() {
                return changes;
            }
        }
        state.watchers.push(Watcher { pattern, sink });
        drop(state);
        self.changed.notify_one();
        changes
    }

    /// What is there now. Nodes that are not connected are asked.
    pub(super) async fn present(&self, pattern: &Pattern) -> Vec<Present> {
        self.read_records();
        let present = |node: PeerId, presence: &Presence| Present {
            subject: presence.subject.clone(),
            node,
            since_ms: presence.since_ms,
            has_will: presence.will.is_some(),
        };
        let (mut found, mut asked) = (Vec::new(), Vec::new());
        {
            let state = self.lock();
            let matching = |list: &[Presence], node: PeerId| -> Vec<Present> {
                let list = list.iter().filter(|presence| pattern.matches(&presence.subject));
                list.map(|presence| present(node, presence)).collect()
            };
            found.extend(matching(&state.own.list, self.local()));
            for (peer, list) in state.standing.nodes() {
                let list = matching(list, *peer);
                if self.mesh.peers().contains(peer) {
                    found.extend(list);
                } else if !list.is_empty() {
                    asked.push((*peer, list));
                }
            }
        }
        for some in asked.chunks(PROBES_MAX) {
            let answers = some.iter().map(|(peer, _)| self.mesh.ping(*peer, PROBE_TIMEOUT));
            for ((_, list), answer) in some.iter().zip(join_all(answers).await) {
                if answer.is_ok() {
                    found.extend(list.iter().cloned());
                }
            }
        }
        found.sort_by(|a, b| (&a.subject, a.since_ms, a.node).cmp(&(&b.subject, b.since_ms, b.node)));
        found
    }

    /// Takes over what the records say, if they changed.
    fn read_records(&self) {
        let trust = self.mesh.trust();
        // The version first: what changes meanwhile is read again next time.
        let version = *trust.watch_records().borrow();
        let mut state = self.lock();
        if state.version == Some(version) {
            return;
        }
        state.version = Some(version);
        let local = self.local();
        let said = trust.announcements(ANNOUNCEMENT_KEY).into_iter();
        let said = said.filter(|(peer, _)| *peer != local && trust.is_member(peer));
        let said = said.filter_map(|(peer, bytes)| Some((peer, Presences::from_bytes(&bytes).ok()?)));
        let consequences = state.standing.read(said.collect());
        self.follow(&mut state, consequences);
    }

    /// Tells those who watch, and says what is to be said.
    fn follow(&self, state: &mut State, consequences: Consequences) {
        state.tell(&consequences.changes);
        for (peer, epoch, number, will) in consequences.wills {
            tracing::debug!(%peer, subject = will.subject.as_str(), "it is gone, and its will is said");
            self.messages.hand_here(peer, (epoch, number), will);
        }
    }

    /// Looks who is connected, and which of the others are to be asked now.
    fn look(&self) -> (Vec<PeerId>, bool) {
        self.read_records();
        let mut state = self.lock();
        state.watchers.retain(|watcher| !watcher.sink.is_closed());
        let state = &mut *state;
        let (mut alive, mut missing, mut is_waiting) = (Vec::new(), Vec::new(), false);
        for (peer, list) in state.standing.nodes().filter(|(_, list)| !list.is_empty()) {
            if let Some(info) = self.mesh.peers().get(peer) {
                let is_believed = state.standing.is_alive(peer) == Some(true) || self.is_settled(&info);
                is_waiting |= !is_believed;
                alive.push((*peer, is_believed));
                continue;
            }
            let concerns = |presence: &Presence| {
                let is_watched = |watcher: &Watcher| watcher.pattern.matches(&presence.subject);
                let will = presence.will.as_ref();
                state.watchers.iter().any(is_watched)
                    || will.is_some_and(|will| self.messages.subscribed_here(&will.subject) > 0)
            };
            missing.push((*peer, list.iter().any(concerns)));
        }
        let now = Instant::now();
        let mut due = Vec::new();
        for (peer, is_believed) in alive {
            state.doubts.remove(&peer);
            if is_believed {
                let consequences = state.standing.judge(&peer, true);
                self.follow(state, consequences);
            }
        }
        for (peer, is_of_concern) in missing {
            if !is_of_concern {
                state.standing.forget(&peer);
                state.doubts.remove(&peer);
                continue;
            }
            let doubt = state.doubts.entry(peer).or_insert_with(|| Doubt {
                next: Some(now),
                ..Doubt::default()
            });
            if doubt.next.is_some_and(|next| next <= now) && due.len() < PROBES_MAX {
                doubt.next = None;
                due.push(peer);
            }
        }
        let standing = &state.standing;
        state.doubts.retain(|peer, _| standing.is_known(peer));
        (due, is_waiting || !state.doubts.is_empty())
    }

    /// Whether a connected node's record is the one it has now: both had the same, or there was time enough.
    fn is_settled(&self, info: &PeerInfo) -> bool {
        let now_ms = self.clock.now_unix_ms();
        let is_old = |since_ms: u64| now_ms.saturating_sub(since_ms) >= SETTLE.as_millis() as u64;
        let mut connections = info.connections.values();
        connections.any(|connection| connection.probed.is_some() || is_old(connection.since_ms))
    }

    /// Takes over what a probe found.
    fn probed(&self, peer: PeerId, answered: bool) {
        let mut state = self.lock();
        let now = Instant::now();
        let was_alive = state.standing.is_alive(&peer) == Some(true);
        let Some(doubt) = state.doubts.get_mut(&peer) else {
            return;
        };
        let (failures, answers) = (doubt.failures + 1, doubt.answers + 1);
        (doubt.failures, doubt.answers) = if answered { (0, answers) } else { (failures, 0) };
        let (is_sure, pause) = match answered {
            true => (was_alive || doubt.answers >= ANSWERS, SETTLE),
            false => (doubt.failures >= DOUBTS, DOUBT),
        };
        doubt.next = Some(now + if is_sure { PROBE_EVERY } else { pause });
        if is_sure {
            let consequences = state.standing.judge(&peer, answered);
            self.follow(&mut state, consequences);
        }
    }
}

impl State {
    /// Hands changes to those who watch. One that does not keep up is not told of anything more.
    fn tell(&mut self, changes: &[Change]) {
        self.watchers.retain(|watcher| {
            let mut wanted = changes.iter().filter(|told| watcher.pattern.matches(&told.subject));
            wanted.all(|told| watcher.sink.try_send(told.clone()).is_ok())
        });
    }
}

/// Announces, asks and tells until the node stops.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut records = inner.mesh.trust().watch_records();
    let mut peers = inner.mesh.peers().watch();
    // A node on which nothing was ever declared says nothing.
    let mut said = inner.lock().own.clone();
    said.list.clear();
    let (found, mut finds) = mpsc::channel(PROBES_MAX);
    loop {
        let own = inner.lock().own.clone();
        if own != said {
            if inner.mesh.announce(ANNOUNCEMENT_KEY, own.to_bytes()).await.is_err() {
                return;
            }
            said = own;
        }
        let (due, is_waiting) = inner.look();
        for peer in due {
            let (mesh, found) = (inner.mesh.clone(), found.clone());
            inner.tasks.spawn("presence-probe", async move {
                let answered = mesh.ping(peer, PROBE_TIMEOUT).await.is_ok();
                let _ = found.send((peer, answered)).await;
            });
        }
        tokio::select! {
            changed = records.changed() => if changed.is_err() { return },
            changed = peers.changed() => if changed.is_err() { return },
            () = inner.changed.notified() => {}
            Some((peer, answered)) = finds.recv() => inner.probed(peer, answered),
            () = tokio::time::sleep(TICK), if is_waiting => continue,
        }
        tokio::time::sleep(GATHER).await;
    }
}
