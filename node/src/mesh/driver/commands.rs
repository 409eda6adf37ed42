//! What others ask of the driver.

use std::collections::HashSet;

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    gossipsub::{IdentTopic, MessageAcceptance, MessageId, PublishError},
    kad,
    request_response::ResponseChannel,
    swarm::ConnectionId,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use weft_protocol::{Ticket, admission::AdmissionRefusal, direct::LANE_PROTOCOL};

use super::{Driver, MeshError};
use crate::mesh::{
    gossip::{sequence_number, topic_scoring},
    handle::{Gossip, Published, Validation},
    redeem,
    scales::Weighed,
    streams::{MeshStream, OpenError, OpenRequest},
};

/// Requests that wait for an answer at once; beyond it, `Busy`.
const REQUESTS_MAX: usize = 16_384;

/// A command. Each that can fail carries where its answer goes.
#[derive(Debug)]
pub(crate) enum Command {
    Open {
        peer: PeerId,
        protocol: StreamProtocol,
        reply: oneshot::Sender<Result<MeshStream, OpenError>>,
    },
    OpenOn {
        peer: PeerId,
        connection: ConnectionId,
        protocol: StreamProtocol,
        reply: oneshot::Sender<Result<MeshStream, OpenError>>,
    },
    OpenAdmission {
        peer: PeerId,
        connection: ConnectionId,
        reply: oneshot::Sender<Result<MeshStream, OpenError>>,
    },
    Request {
        peer: PeerId,
        bytes: Vec<u8>,
        reply: oneshot::Sender<Result<Vec<u8>, MeshError>>,
    },
    Respond {
        channel: ResponseChannel<Weighed>,
        reply: Weighed,
    },
    Publish {
        topic: String,
        data: Vec<u8>,
        reply: oneshot::Sender<Result<Published, MeshError>>,
    },
    Subscribe {
        topic: String,
        sink: mpsc::Sender<Box<Gossip>>,
        reply: oneshot::Sender<()>,
    },
    GossipNeighbours {
        topic: String,
        reply: oneshot::Sender<Vec<PeerId>>,
    },
    Verdict {
        id: MessageId,
        from: PeerId,
        verdict: Validation,
    },
    Announce {
        key: &'static str,
        value: Vec<u8>,
    },
    Provide {
        key: Vec<u8>,
        reply: oneshot::Sender<Result<(), MeshError>>,
    },
    Providers {
        key: Vec<u8>,
        reply: oneshot::Sender<Result<Vec<PeerId>, MeshError>>,
    },
    Bootstrap {
        addresses: Vec<Multiaddr>,
    },
    Hint {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
    },
    Ticket {
        ticket: Box<Ticket>,
    },
    /// We have verified the peer of a connection; answered once its gate is open.
    Verified {
        connection: ConnectionId,
        test_only: bool,
        run: Option<u64>,
        done: oneshot::Sender<()>,
    },
    /// The peer has admitted us.
    RemoteReady {
        connection: ConnectionId,
    },
    /// The peer is no member; or it will not have us.
    NotAdmitted {
        connection: ConnectionId,
        reason: Option<AdmissionRefusal>,
        detail: String,
        by_remote: bool,
    },
    /// What the peer told us on a connection is worth nothing here, for this reason.
    CannotUse {
        connection: ConnectionId,
        detail: String,
    },
    /// The peer waits for approval: its connection is left alone.
    WaitsForApproval {
        connection: ConnectionId,
    },
    Close {
        connection: ConnectionId,
    },
    /// Connections to one peer were measured against each other.
    Measured,
    Stop {
        reply: oneshot::Sender<()>,
    },
}

impl Driver {
    pub(super) fn on_command(&mut self, command: Command) {
        // Whoever founded or entered a mesh a moment ago may use it at once.
        self.follow_standing();
        match command {
            Command::Open { peer, protocol, reply } => self.open(peer, OpenRequest { protocol, reply }),
            Command::OpenOn {
                peer,
                connection,
                protocol,
                reply,
            } => {
                if let Some(members) = self.swarm.behaviour_mut().members.inner() {
                    members
                        .others
                        .streams
                        .open_on(peer, connection, OpenRequest { protocol, reply });
                }
            }
            Command::OpenAdmission {
                peer,
                connection,
                reply,
            } => {
                let protocol = StreamProtocol::new(weft_protocol::admission::ADMISSION_PROTOCOL);
                self.swarm
                    .behaviour_mut()
                    .front
                    .admission
                    .open_on(peer, connection, OpenRequest { protocol, reply });
            }
            Command::Request { peer, bytes, reply } => self.request(peer, bytes, reply),
            Command::Respond { channel, reply } => {
                if let Some(members) = self.swarm.behaviour_mut().members.inner()
                    && members.others.direct.send_response(channel, reply).is_err()
                {
                    self.counters.dropped("direct_reply", "peer_gone");
                }
            }
            Command::Publish { topic, data, reply } => {
                let _ = reply.send(self.publish(&topic, data));
            }
            Command::Subscribe { topic, sink, reply } => {
                self.topics.insert(IdentTopic::new(&topic).hash(), sink);
                self.join_topic(&topic);
                let _ = reply.send(());
            }
            Command::GossipNeighbours { topic, reply } => {
                let hash = IdentTopic::new(topic).hash();
                let members = self.swarm.behaviour_mut().members.inner();
                let neighbours = members.map(|m| m.gossip.mesh_peers(&hash).copied().collect());
                let _ = reply.send(neighbours.unwrap_or_default());
            }
            Command::Verdict { id, from, verdict } => self.verdict(&id, &from, verdict),
            Command::Announce { key, value } => {
                if self.announcements.get(key) != Some(&value) {
                    self.announcements.insert(key, value);
                    self.publish_record();
                }
            }
            Command::Provide { key, reply } => self.provide(&key, reply),
            Command::Providers { key, reply } => self.providers(&key, reply),
            Command::Bootstrap { addresses } => {
                self.add_bootstrap(addresses);
                self.dial_due();
            }
            Command::Hint { peer, addresses } => self.connector.note(peer, &addresses, Instant::now()),
            Command::Ticket { ticket } => self.use_ticket(*ticket),
            Command::Verified {
                connection,
                test_only,
                run,
                done,
            } => self.on_verified(connection, (test_only, run), done),
            Command::RemoteReady { connection } => self.on_remote_ready(connection),
            Command::NotAdmitted {
                connection,
                reason,
                detail,
                by_remote,
            } => {
                self.on_not_admitted(connection, reason, &detail, by_remote);
            }
            Command::CannotUse { connection, detail } => self.on_cannot_use(connection, &detail),
            Command::WaitsForApproval { connection } => {
                if let Some(connection) = self.connections.get_mut(&connection) {
                    connection.waits_for_approval = true;
                }
            }
            Command::Close { connection } => {
                self.swarm.close_connection(connection);
            }
            Command::Measured => self.prefer_best(),
            Command::Stop { reply } => self.stopping = Some(reply),
        }
    }

    fn open(&mut self, peer: PeerId, request: OpenRequest) {
        let connected = match self.swarm.behaviour_mut().members.inner() {
            Some(members) => members.others.streams.open(peer, request),
            None => {
                let _ = request.reply.send(Err(OpenError::Closed));
                return;
            }
        };
        if !connected {
            self.reach_for(peer);
        }
    }

    /// Dials a peer somebody wants, if it is not connected or being dialled.
    pub(super) fn reach_for(&mut self, peer: PeerId) {
        if self.connections.values().any(|c| c.peer == peer) {
            // It is being admitted: the stream opens when the gate does.
            return;
        }
        if peer == *self.swarm.local_peer_id() {
            self.on_dial_failed(&peer, "that is this node itself");
            return;
        }
        let addresses = self.addresses_of(&peer);
        self.dial(peer, addresses);
    }

    fn request(&mut self, peer: PeerId, bytes: Vec<u8>, reply: super::Waiting) {
        if self.requests.len() >= REQUESTS_MAX {
            self.requests.retain(|_, waiting| !waiting.is_closed());
        }
        if self.requests.len() >= REQUESTS_MAX {
            let _ = reply.send(Err(MeshError::Busy("too many requests wait for answers".to_owned())));
            return;
        }
        let addresses = if self.peers.contains(&peer) {
            Vec::new()
        } else {
            self.addresses_of(&peer)
        };
        let Some(members) = self.swarm.behaviour_mut().members.inner() else {
            let _ = reply.send(Err(MeshError::Closed));
            return;
        };
        let id = members
            .others
            .direct
            .send_request_with_addresses(&peer, bytes, addresses);
        self.requests.insert(id, reply);
        // What follows takes a lane.
        if let Some(best) = self.peers.choose(&peer) {
            self.open_lane(peer, best);
        }
    }

    /// Opens a lane to a peer on one of its connections, unless it is there or under way.
    pub(super) fn open_lane(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(members) = self.swarm.behaviour_mut().members.inner() else {
            return;
        };
        if !self.lanes.begin(peer, connection) {
            return;
        }
        let (reply, answer) = oneshot::channel();
        let protocol = StreamProtocol::new(LANE_PROTOCOL);
        members
            .others
            .streams
            .open_on(peer, connection, OpenRequest { protocol, reply });
        let lanes = self.lanes.clone();
        self.tasks.spawn("lane", async move {
            match answer.await {
                Ok(Ok(stream)) => lanes.carry(peer, connection, stream).await,
                Ok(Err(OpenError::Unsupported { .. })) => lanes.without(peer, connection),
                Ok(Err(_)) | Err(_) => lanes.remove(&peer, connection),
            }
        });
    }

    fn publish(&mut self, topic: &str, data: Vec<u8>) -> Result<Published, MeshError> {
        let members = self.swarm.behaviour_mut().members.inner().ok_or(MeshError::Closed)?;
        let hash = IdentTopic::new(topic).hash();
        let peers = members
            .gossip
            .all_peers()
            .filter(|(_, topics)| topics.contains(&&hash))
            .count();
        match members.gossip.publish(hash, data) {
            Ok(id) => Ok(Published {
                peers,
                sequence_number: sequence_number(&id),
            }),
            // A node alone is a mesh of one.
            Err(PublishError::NoPeersSubscribedToTopic) => Ok(Published {
                peers: 0,
                sequence_number: None,
            }),
            Err(PublishError::AllQueuesFull(n)) => {
                self.counters.dropped("publish", "queues_full");
                Err(MeshError::Busy(format!("the queues to all {n} neighbours are full")))
            }
            Err(PublishError::MessageTooLarge) => Err(MeshError::Invalid("the message is too large".to_owned())),
            Err(error) => Err(MeshError::Invalid(error.to_string())),
        }
    }

    pub(super) fn join_topic(&mut self, topic: &str) {
        let is_scored = self
            .trust
            .mesh()
            .is_some_and(|mesh| self.config.scores_peers(mesh.kind));
        let Some(members) = self.swarm.behaviour_mut().members.inner() else {
            self.wanted_topics.push(topic.to_owned());
            return;
        };
        let topic = IdentTopic::new(topic);
        if is_scored && let Err(error) = members.gossip.set_topic_params(topic.clone(), topic_scoring()) {
            tracing::error!(%topic, error, "the topic is not scored");
        }
        if let Err(error) = members.gossip.subscribe(&topic) {
            tracing::error!(%topic, %error, "cannot subscribe");
        }
    }

    pub(super) fn verdict(&mut self, id: &MessageId, from: &PeerId, verdict: Validation) {
        let Some(members) = self.swarm.behaviour_mut().members.inner() else {
            return;
        };
        let acceptance = match verdict {
            Validation::Accept => MessageAcceptance::Accept,
            Validation::Reject => MessageAcceptance::Reject,
            Validation::Ignore => MessageAcceptance::Ignore,
        };
        members.gossip.report_verdict(id, from, acceptance);
    }

    /// Puts the members the directory knows into the DHT's table. Done when the DHT is asked, and not as members come:
    /// each change of the table makes Kademlia search, and dial everybody it finds, until all are connected with all.
    fn fill_table(&mut self) {
        let known = self.trust.known_members();
        let own = *self.swarm.local_peer_id();
        let members = self.swarm.behaviour_mut().members.inner();
        let Some(kad) = members.and_then(|m| m.others.kad.as_mut()) else {
            return;
        };
        for member in known.into_iter().filter(|member| member.peer != own) {
            for address in member.record.addresses {
                kad.add_address(&member.peer, address);
            }
        }
    }

    fn provide(&mut self, key: &[u8], reply: oneshot::Sender<Result<(), MeshError>>) {
        self.fill_table();
        let Some(members) = self.swarm.behaviour_mut().members.inner() else {
            let _ = reply.send(Err(MeshError::Closed));
            return;
        };
        let Some(kad) = members.others.kad.as_mut() else {
            let _ = reply.send(Err(no_dht()));
            return;
        };
        match kad.start_providing(kad::RecordKey::new(&key)) {
            Ok(query) => {
                self.provide_queries.insert(query, reply);
            }
            Err(error) => {
                let _ = reply.send(Err(MeshError::Busy(format!("cannot provide: {error:?}"))));
            }
        }
    }

    fn providers(&mut self, key: &[u8], reply: oneshot::Sender<Result<Vec<PeerId>, MeshError>>) {
        self.fill_table();
        let Some(members) = self.swarm.behaviour_mut().members.inner() else {
            let _ = reply.send(Err(MeshError::Closed));
            return;
        };
        let Some(kad) = members.others.kad.as_mut() else {
            let _ = reply.send(Err(no_dht()));
            return;
        };
        let query = kad.get_providers(kad::RecordKey::new(&key));
        self.provider_queries.insert(query, (HashSet::new(), reply));
    }

    fn use_ticket(&mut self, ticket: Ticket) {
        let issuer = ticket.issuer.peer_id();
        self.add_bootstrap(redeem::ways_in(&ticket));
        self.ticket = Some(ticket);
        // A connection on which we asked plainly is made anew, to show the ticket on it.
        let ids: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, c)| c.peer == issuer)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.swarm.close_connection(id);
        }
        self.dial_due();
    }
}

fn no_dht() -> MeshError {
    MeshError::Invalid("this node takes no part in the DHT".to_owned())
}
