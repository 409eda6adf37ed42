//! From a fresh connection to an admitted member, and back.

use std::time::Duration;

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{ConnectedPoint, transport::PortUse},
    swarm::{ConnectionId, DialError},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use weft_protocol::{admission::AdmissionRefusal, control::CONTROL_PROTOCOL};

use super::{Command, Connection, Driver, with_peer};
use crate::{
    mesh::{
        admission::{self, AdmissionError, Proved, Verified},
        connector::Reason,
        control,
        peers::{Carrier, ConnectionInfo},
        sources,
        streams::{MeshStream, OpenError},
    },
    trust::Standing,
};

/// A node of another mesh is not dialled or let in for so long.
const STRANGER_BAN: Duration = Duration::from_secs(60);
/// A revoked one is not heard for so long after it was told. Shorter than a join waits, so that it hears why it fails.
const REVOKED_BAN: Duration = Duration::from_secs(10);
/// Who was refused gets so long to hear why before the connection is closed.
const FAREWELL: Duration = Duration::from_millis(250);
/// How long a connection is kept from being used while those are closed that an earlier process of the peer has left.
const LEFT_BEHIND_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a newcomer leaves it to the ticket's issuer before it hands the ticket's redemption to another member.
const ISSUER_FIRST: Duration = Duration::from_millis(700);
/// Proving is tried again after a broken dialogue.
const PROVE_AGAIN: Duration = Duration::from_millis(500);
const PROVE_TRIES: u32 = 20;

impl Driver {
    pub(super) fn on_established(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let address = remote_address(peer, endpoint);
        let inbound = endpoint.is_listener();
        tracing::debug!(%peer, connection = %id, %address, inbound, "connected");
        let verified = watch::Sender::new(false);
        let remote_verified = verified.subscribe();
        let heard = watch::Sender::new(false);
        let connection = Connection {
            peer,
            address,
            inbound,
            since: Instant::now(),
            verified,
            heard: heard.clone(),
            opened: false,
            remote_ready: false,
            waits_for_approval: false,
            test_only: is_test(endpoint),
            run: None,
            waits_to_open: None,
        };
        self.spawn_prover(peer, id, &connection, remote_verified, heard);
        self.connections.insert(id, connection);
    }

    fn spawn_prover(
        &self,
        peer: PeerId,
        id: ConnectionId,
        connection: &Connection,
        mut remote_verified: watch::Receiver<bool>,
        heard: watch::Sender<bool>,
    ) {
        let (inbound, test_only) = (connection.inbound, connection.test_only);
        let Some(sender) = self.sender.upgrade() else { return };
        let trust = self.trust.clone();
        let introduction = self.introduction.clone();
        let ticket = self.ticket.clone();
        self.tasks.spawn("prove", async move {
            // Who dialled proves first; the other follows once it knows whom it talks to.
            // A member that is known already need not: from it a node that was away learns what it has missed.
            if inbound && !trust.has_met(&peer) && remote_verified.wait_for(|v| *v).await.is_err() {
                return;
            }
            let mut standing = trust.watch_standing();
            if ticket.as_ref().is_some_and(|t| t.issuer.peer_id() != peer) {
                // The issuer itself is asked first, if it can be reached.
                let member = standing.wait_for(|s| matches!(s, Standing::Member(_)));
                let _ = tokio::time::timeout(ISSUER_FIRST, member).await;
            }
            for _ in 0..PROVE_TRIES {
                let Ok(mut stream) = open_admission(&sender, peer, id).await else {
                    return;
                };
                match admission::prove(&trust, &introduction, ticket.as_ref(), test_only, &heard, &mut stream).await {
                    Ok(Proved::Admitted) => {
                        let _ = sender.send(Command::RemoteReady { connection: id }).await;
                        admission::end(stream).await;
                        return;
                    }
                    Ok(Proved::Refused(AdmissionRefusal::Busy, detail)) => {
                        tracing::debug!(%peer, detail, "the peer is busy; asking again");
                        tokio::time::sleep(PROVE_AGAIN * 4).await;
                    }
                    Ok(Proved::Refused(reason, detail)) => {
                        let reason = Some(reason);
                        let refused = Command::NotAdmitted {
                            connection: id,
                            reason,
                            detail,
                            by_remote: true,
                        };
                        let _ = sender.send(refused).await;
                        return;
                    }
                    Err(AdmissionError::Trust(error)) if trust.mesh().is_none() => {
                        let detail = error.to_string();
                        let _ = sender.send(Command::CannotUse { connection: id, detail }).await;
                        return;
                    }
                    Err(AdmissionError::Frame(error)) => {
                        tracing::debug!(%peer, %error, "the admission dialogue broke off");
                        tokio::time::sleep(PROVE_AGAIN).await;
                    }
                    Err(error) => {
                        tracing::debug!(%peer, %error, "the admission dialogue failed");
                        tokio::time::sleep(PROVE_AGAIN / 5).await;
                    }
                }
            }
            let _ = sender.send(Command::Close { connection: id }).await;
        });
    }

    /// A peer opened an admission stream: it wants to prove itself.
    pub(super) fn on_admission_stream(&mut self, peer: PeerId, id: ConnectionId, mut stream: MeshStream) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let Some(sender) = self.sender.upgrade() else { return };
        let address = connection.address.to_string();
        let trust = self.trust.clone();
        let mut settled = self.settled.subscribe();
        let proven = connection.verified.clone();
        let redeemer = self.redeemer.clone();
        self.tasks.spawn("verify", async move {
            let waits = Command::WaitsForApproval { connection: id };
            let verified = tokio::select! {
                verified = admission::verify(&trust, &redeemer, &mut settled, &proven, peer, id, &address, &mut stream) => verified,
                // Longer than any dialogue that needs no human: it waits for approval.
                never = async {
                    tokio::time::sleep(Duration::from_secs(12)).await;
                    let _ = sender.send(waits).await;
                    std::future::pending().await
                } => never,
            };
            match verified {
                Ok(Verified::Member { test_only, run }) => {
                    let (done, opened) = oneshot::channel();
                    let verified = Command::Verified {
                        connection: id,
                        test_only,
                        run,
                        done,
                    };
                    if sender.send(verified).await.is_err() || opened.await.is_err() {
                        return;
                    }
                    if let Err(error) = admission::admit(&trust, &mut stream).await {
                        tracing::debug!(%peer, %error, "the verdict did not arrive");
                        let _ = sender.send(Command::Close { connection: id }).await;
                    }
                    admission::end(stream).await;
                }
                Ok(Verified::Refused(reason)) => {
                    // Closing at once could overtake the refusal: QUIC gives up what it has not sent yet.
                    tokio::join!(tokio::time::sleep(FAREWELL), admission::end(stream));
                    let detail = String::new();
                    let refused = Command::NotAdmitted {
                        connection: id,
                        reason: Some(reason),
                        detail,
                        by_remote: false,
                    };
                    let _ = sender.send(refused).await;
                }
                Ok(Verified::Gone) => {}
                Err(error) => tracing::debug!(%peer, %error, "the peer's admission failed"),
            }
        });
    }

    /// `done` hears of it once the connection accepts the members' protocols: what the peer opens as soon as it knows that
    /// it is admitted must not come too early.
    pub(super) fn on_verified(
        &mut self,
        id: ConnectionId,
        (test_only, run): (bool, Option<u64>),
        done: oneshot::Sender<()>,
    ) {
        self.follow_standing();
        if self.swarm.behaviour_mut().members.inner().is_none() {
            // No gate can be opened yet; the peer gets no verdict and asks again.
            return;
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.opened {
            // It asked again because the verdict did not reach it.
            let _ = done.send(());
            return;
        }
        connection.test_only |= test_only;
        connection.run = run;
        connection.waits_for_approval = false;
        connection.verified.send_replace(true);
        let left_behind = self.left_behind(id);
        if left_behind.is_empty() {
            return self.open_gate(id, done);
        }
        // The peer was started again, and its earlier process said no farewell. What it left is dead, though this machine has not noticed; and
        // to gossip a connection beside it would be no first one, on which subscriptions are told. It is opened when they are gone.
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.waits_to_open = Some((done, Instant::now()));
            tracing::info!(peer = %connection.peer, ?left_behind, "a member was started again: closing what it left behind");
        }
        for other in left_behind {
            self.swarm.close_connection(other);
        }
    }

    /// The connections of an earlier process of the peer.
    fn left_behind(&self, id: ConnectionId) -> Vec<ConnectionId> {
        let Some((peer, run)) = self.connections.get(&id).and_then(|c| Some((c.peer, c.run?))) else {
            return Vec::new();
        };
        let others = self.connections.iter().filter(|(_, c)| c.peer == peer);
        let others = others.filter(|(_, c)| c.run.is_some_and(|other| other != run));
        others.map(|(other, _)| *other).collect()
    }

    fn open_gate(&mut self, id: ConnectionId, done: oneshot::Sender<()>) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        // Another verdict on it may still have waited.
        connection.waits_to_open = None;
        if !self.trust.is_member(&connection.peer) {
            // It was revoked in this very moment.
            self.swarm.close_connection(id);
            return;
        }
        connection.opened = true;
        self.swarm.behaviour_mut().members.open(id, done);
        self.maybe_connected(id);
    }

    /// Opens the connections for which nothing is left to wait for, or long enough was waited.
    pub(super) fn open_waiting(&mut self, now: Instant) {
        let waiting = self
            .connections
            .iter()
            .filter_map(|(id, c)| Some((*id, c.waits_to_open.as_ref()?.1)));
        let waiting: Vec<_> = waiting.collect();
        for (id, since) in waiting {
            if now.duration_since(since) < LEFT_BEHIND_TIMEOUT && !self.left_behind(id).is_empty() {
                continue;
            }
            let waited = self.connections.get_mut(&id).and_then(|c| c.waits_to_open.take());
            if let Some((done, _)) = waited {
                self.open_gate(id, done);
            }
        }
    }

    pub(super) fn on_remote_ready(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.remote_ready = true;
        connection.waits_for_approval = false;
        self.swarm.behaviour_mut().members.remote_ready(id);
        // The standing may have changed in the same breath: the gate must not wait for the next tick.
        self.follow_standing();
        self.maybe_connected(id);
    }

    /// Both sides have admitted each other.
    fn maybe_connected(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        if !(connection.opened && connection.remote_ready) || connection.test_only {
            return;
        }
        let (peer, address, inbound) = (connection.peer, connection.address.clone(), connection.inbound);
        let now = Instant::now();
        self.connector.on_connected(peer, now);
        if !inbound {
            self.connector
                .add(peer, std::slice::from_ref(&address), Reason::Member, now);
        }
        let agent = self.agents.get(&peer).cloned().unwrap_or_default();
        let carrier = Carrier::of(&address);
        let since_ms = self.trust.now_ms();
        if !self.peers.contains(&peer) {
            tracing::info!(%peer, %address, ?carrier, inbound, "member connected");
        }
        let info = ConnectionInfo {
            address: address.clone(),
            carrier,
            inbound,
            rtt: None,
            goodput_bytes_per_s: None,
            since_ms,
            doubted: false,
            probed: None,
        };
        self.peers.opened(peer, id, info, &agent);
        self.prefer_best();
        self.spawn_control(peer, id);
        self.reach_tick(now);
        self.publish_record();
    }

    fn spawn_control(&self, peer: PeerId, id: ConnectionId) {
        let Some(sender) = self.sender.upgrade() else { return };
        let trust = self.trust.clone();
        let peers = self.peers.clone();
        let (counters, notes) = (self.counters.clone(), self.notes.clone());
        self.tasks.spawn("control", async move {
            let (reply, answer) = oneshot::channel();
            let protocol = StreamProtocol::new(CONTROL_PROTOCOL);
            if sender
                .send(Command::OpenOn {
                    peer,
                    connection: id,
                    protocol,
                    reply,
                })
                .await
                .is_err()
            {
                return;
            }
            let ended = match answer.await {
                Ok(Ok(stream)) => control::ask(&trust, &peers, peer, id, &counters, &notes, stream)
                    .await
                    .map_err(|e| e.to_string()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the connection closed".to_owned()),
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, connection = %id, %error, "control ended: the connection is closed");
                let _ = sender.send(Command::Close { connection: id }).await;
            }
        });
    }

    pub(super) fn on_not_admitted(
        &mut self,
        id: ConnectionId,
        reason: Option<AdmissionRefusal>,
        detail: &str,
        by_remote: bool,
    ) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (peer, address) = (connection.peer, connection.address.clone());
        if by_remote {
            let refusal = format!("{peer} does not admit this node: {detail}");
            // Whoever refuses does so again at the next try: it is said loudly once.
            if self.state.borrow().refusal.as_ref() == Some(&refusal) {
                tracing::debug!(%peer, %address, ?reason, detail, "the peer does not admit this node");
            } else {
                tracing::warn!(%peer, %address, ?reason, detail, "the peer does not admit this node");
            }
            // Only its issuer knows what a ticket is worth; anybody else may just want to keep us out.
            let by_issuer = self
                .ticket
                .as_ref()
                .is_some_and(|ticket| ticket.issuer.peer_id() == peer);
            let is_final = by_issuer && reason.is_some_and(AdmissionRefusal::is_of_ticket);
            self.state.send_modify(|s| {
                s.refusal = Some(refusal);
                if is_final {
                    s.ticket_refusal = Some(detail.to_owned());
                }
            });
        } else {
            tracing::info!(%peer, %address, ?reason, "a peer was not admitted");
            self.counters.refused_peer();
        }
        self.swarm.close_connection(id);
        let error = OpenError::Denied {
            peer,
            reason: format!("{reason:?}: {detail}"),
        };
        if let Some(members) = self.swarm.behaviour_mut().members.inner() {
            members.others.streams.fail(&peer, &error);
        }
        match reason {
            Some(AdmissionRefusal::WrongMesh) => self.swarm.behaviour_mut().front.sources.ban(peer, STRANGER_BAN),
            Some(AdmissionRefusal::Revoked) => self.swarm.behaviour_mut().front.sources.ban(peer, REVOKED_BAN),
            _ => {}
        }
        self.connector.on_failed(&peer, Instant::now());
    }

    /// What the peer issued or told is worth nothing here. Most likely one of the two clocks is wrong.
    pub(super) fn on_cannot_use(&mut self, id: ConnectionId, detail: &str) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let peer = connection.peer;
        let beginning = format!("what {peer} says cannot be used here");
        let refusal = format!("{beginning}: {detail}; is the clock of each machine right?");
        let is_known = |known: &String| known.starts_with(&beginning);
        if self.state.borrow().refusal.as_ref().is_some_and(is_known) {
            tracing::debug!("{refusal}");
        } else {
            tracing::warn!("{refusal}");
        }
        self.state.send_modify(|s| s.refusal = Some(refusal));
        self.swarm.close_connection(id);
        self.connector.on_failed(&peer, Instant::now());
    }

    pub(super) fn on_closed(&mut self, peer: PeerId, id: ConnectionId) {
        self.connections.remove(&id);
        self.forget_connection(id);
        self.peers.closed(&peer, id);
        self.lanes.remove(&peer, id);
        self.open_waiting(Instant::now());
        if !self.connections.values().any(|c| c.peer == peer) {
            self.agents.remove(&peer);
            self.connector.on_disconnected(&peer, Instant::now());
            let error = OpenError::Unreachable {
                peer,
                reason: "the connection closed before it was admitted".to_owned(),
            };
            if let Some(members) = self.swarm.behaviour_mut().members.inner()
                && members.others.streams.is_waiting(&peer)
            {
                members.others.streams.fail(&peer, &error);
            }
        }
    }

    /// Somebody else, perhaps this node itself, answered where the peer was looked for. That ends a dial, though the peer
    /// may be at the other addresses.
    pub(super) fn on_mistaken(&mut self, peer: PeerId, address: &Multiaddr, error: &DialError) {
        let now = Instant::now();
        let members = self.swarm.behaviour_mut().members.inner();
        if let Some(kad) = members.and_then(|m| m.others.kad.as_mut()) {
            kad.remove_address(&peer, address);
        }
        if self.connector.mistaken(&peer, address, now) {
            let addresses = self.connector.addresses(&peer, now).unwrap_or_default();
            self.dial(peer, addresses);
        } else {
            self.on_dial_failed(&peer, &error.to_string());
        }
    }

    pub(super) fn on_dial_failed(&mut self, peer: &PeerId, reason: &str) {
        if self.connections.values().any(|c| c.peer == *peer) {
            return;
        }
        self.connector.on_failed(peer, Instant::now());
        let error = OpenError::Unreachable {
            peer: *peer,
            reason: reason.to_owned(),
        };
        if let Some(members) = self.swarm.behaviour_mut().members.inner() {
            members.others.streams.fail(peer, &error);
        }
    }

    /// Cuts everybody who is no member any more.
    pub(super) fn cut_revoked(&mut self) {
        let gone: Vec<(ConnectionId, PeerId)> = self
            .connections
            .iter()
            .filter(|(_, c)| c.opened && !self.trust.is_member(&c.peer))
            .map(|(id, c)| (*id, c.peer))
            .collect();
        for (id, peer) in gone {
            tracing::info!(%peer, connection = %id, "cut: no member any more");
            self.swarm.close_connection(id);
            let revoked = weft_protocol::PublicKey::from_peer_id(&peer).is_some_and(|key| self.trust.is_revoked(&key));
            if revoked {
                // Not banned yet: when it knocks again, it is told why it is out.
                self.connector.remove(&peer);
            }
        }
    }

    /// Found on the local network.
    pub(super) fn on_found(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        let now = Instant::now();
        for (peer, address) in found {
            // A dial under way may go to where it was before, and take long to fail.
            if self.connector.is_dialing(&peer) {
                self.dial_also(peer, address.clone());
            }
            self.connector.add(peer, &[address], Reason::Hint, now);
        }
        self.dial_due();
    }
}

/// Whether we have made a connection only to try a member's address for it: nobody else but AutoNAT dials from a new port.
fn is_test(endpoint: &ConnectedPoint) -> bool {
    matches!(
        endpoint,
        ConnectedPoint::Dialer {
            port_use: PortUse::New,
            ..
        }
    )
}

/// Where the other end of a connection is. One that came through a relay names only the peer: the relay is in our own
/// address.
fn remote_address(peer: PeerId, endpoint: &ConnectedPoint) -> Multiaddr {
    match endpoint {
        ConnectedPoint::Listener { local_addr, .. } if sources::is_relayed(local_addr) => {
            with_peer(local_addr.clone(), peer)
        }
        _ => endpoint.get_remote_address().clone(),
    }
}

async fn open_admission(
    sender: &mpsc::Sender<Command>,
    peer: PeerId,
    connection: ConnectionId,
) -> Result<MeshStream, OpenError> {
    let (reply, answer) = oneshot::channel();
    sender
        .send(Command::OpenAdmission {
            peer,
            connection,
            reply,
        })
        .await
        .map_err(|_| OpenError::Closed)?;
    answer.await.map_err(|_| OpenError::Closed)?
}
