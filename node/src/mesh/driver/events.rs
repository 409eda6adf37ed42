//! What the swarm reports.

use libp2p::{
    PeerId, gossipsub, identify, kad, mdns,
    metrics::Recorder as _,
    request_response::{self, OutboundFailure},
    swarm::{DialError, SwarmEvent},
};
use tokio::time::Instant;
use weft_protocol::{control::CONTROL_PROTOCOL, direct::LANE_PROTOCOL};

use super::{Command, Driver, MeshError, UNKNOWN_MAX, UNKNOWN_PATIENCE};
use crate::mesh::{
    behaviour::{Behaviour, BehaviourEvent, FrontEvent, MembersEvent, OthersEvent},
    control,
    gossip::take_signature,
    handle::{Gossip, Validation},
    lanes,
    scales::Weighed,
    streams,
};

type Event = SwarmEvent<<Behaviour as libp2p::swarm::NetworkBehaviour>::ToSwarm>;

impl Driver {
    pub(super) fn on_event(&mut self, event: Event) {
        self.libp2p_metrics.record(&event);
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                self.on_established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            } => {
                tracing::debug!(peer = %peer_id, connection = %connection_id, ?cause, "connection closed");
                self.on_closed(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                error,
                ..
            } => {
                tracing::debug!(%peer, %error, "dial failed");
                match &error {
                    DialError::DialPeerConditionFalse(_) => {}
                    DialError::WrongPeerId { address, .. } | DialError::LocalPeerId { address } => {
                        self.on_mistaken(peer, address, &error);
                    }
                    _ => self.on_dial_failed(&peer, &short(&error)),
                }
            }
            SwarmEvent::IncomingConnectionError {
                send_back_addr, error, ..
            } => {
                self.counters.refused_connection();
                tracing::debug!(address = %send_back_addr, %error, "an inbound connection failed");
            }
            SwarmEvent::NewListenAddr { listener_id, address } => self.on_listening(listener_id, address),
            SwarmEvent::ExpiredListenAddr { listener_id, address } => self.on_listen_expired(listener_id, &address),
            SwarmEvent::ListenerClosed {
                listener_id,
                addresses,
                reason,
            } => {
                self.on_listener_closed(listener_id, &addresses, reason.err().map(|e| e.to_string()));
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener reports an error"),
            SwarmEvent::NewExternalAddrCandidate { address } => self.on_candidate(address),
            SwarmEvent::ExternalAddrConfirmed { address } => self.on_external(&address, true),
            SwarmEvent::ExternalAddrExpired { address } => self.on_external(&address, false),
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Members(MembersEvent::Gossip(event)) => self.on_gossip_event(event),
            BehaviourEvent::Members(MembersEvent::Others(event)) => self.on_member_event(event),
            BehaviourEvent::Front(event) => self.on_front_event(event),
        }
    }

    fn on_front_event(&mut self, event: FrontEvent) {
        match event {
            FrontEvent::Admission(streams::Event::Inbound {
                peer,
                connection,
                stream,
                ..
            }) => {
                self.on_admission_stream(peer, connection, stream);
            }
            // Not recorded: its metrics keep all that every peer has said, once more.
            FrontEvent::Identify(identify::Event::Received {
                peer_id,
                connection_id,
                ref info,
            }) => {
                let agent: String = info
                    .agent_version
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(128)
                    .collect();
                self.peers.identified(&peer_id, &agent);
                self.agents.insert(peer_id, agent);
                self.on_identified(peer_id, connection_id, info);
            }
            FrontEvent::Mdns(mdns::Event::Discovered(found)) => self.on_found(found),
            FrontEvent::Upnp(event) => tracing::debug!(?event, "UPnP"),
            _ => {}
        }
    }

    fn on_gossip_event(&mut self, event: gossipsub::Event) {
        self.libp2p_metrics.record(&event);
        match event {
            gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            } => {
                self.on_gossip(propagation_source, message_id, message);
            }
            gossipsub::Event::SlowPeer { peer_id, .. } => {
                self.counters.dropped("gossip", "slow_peer");
                tracing::debug!(peer = %peer_id, "a peer is too slow for the gossip it should get");
            }
            _ => {}
        }
    }

    fn on_member_event(&mut self, event: OthersEvent) {
        match &event {
            OthersEvent::Kad(event) => self.libp2p_metrics.record(event),
            OthersEvent::RelayServer(event) => self.libp2p_metrics.record(event),
            OthersEvent::HolePunch(event) => self.libp2p_metrics.record(event),
            _ => {}
        }
        match event {
            OthersEvent::Direct(event) => self.on_direct(event),
            OthersEvent::Streams(streams::Event::Inbound {
                peer,
                connection,
                protocol,
                stream,
            }) => {
                if protocol == CONTROL_PROTOCOL {
                    let (trust, peers, notes) = (self.trust.clone(), self.peers.clone(), self.notes.clone());
                    self.tasks.spawn("control-answer", async move {
                        let answering = control::answer(&trust, &peers, &notes, (peer, connection), stream);
                        if let Err(error) = answering.await {
                            tracing::debug!(%peer, %error, "a control stream ended");
                        }
                    });
                } else if protocol == LANE_PROTOCOL {
                    let door = self.door.clone();
                    self.tasks.spawn("lane-answer", async move {
                        if let Err(error) = lanes::answer(door, peer, stream).await {
                            tracing::debug!(%peer, %error, "a lane of a peer broke");
                        }
                    });
                } else {
                    self.tasks
                        .spawn("door", self.door.clone().admit_stream(peer, protocol, stream));
                }
            }
            OthersEvent::Kad(event) => self.on_kad(event),
            OthersEvent::Reachability(event) => self.on_reachability(&event),
            OthersEvent::RelayClient(event) => self.on_relay_client(&event),
            OthersEvent::RelayServer(event) => tracing::debug!(?event, "relay"),
            OthersEvent::HolePunch(event) => self.on_hole_punch(&event),
            _ => {}
        }
    }

    fn on_direct(&mut self, event: request_response::Event<Vec<u8>, Weighed>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                request_response::Message::Request { request, channel, .. } => {
                    let door = self.door.clone();
                    let Some(sender) = self.sender.upgrade() else { return };
                    self.tasks.spawn("request", async move {
                        let reply = door.serve_request(peer, request).await;
                        let _ = sender.send(Command::Respond { channel, reply }).await;
                    });
                }
                request_response::Message::Response { request_id, response } => {
                    if let Some(waiting) = self.requests.remove(&request_id) {
                        let _ = waiting.send(Ok(response.bytes));
                    }
                }
            },
            request_response::Event::OutboundFailure {
                peer,
                request_id,
                error,
                ..
            } => {
                if let Some(waiting) = self.requests.remove(&request_id) {
                    let _ = waiting.send(Err(request_error(peer, &error)));
                }
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "a request could not be answered");
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    /// Gossip: its signature was checked by the behaviour, its signer's membership is checked here, the rest by whoever
    /// takes the topic in. Until a verdict nothing is forwarded.
    fn on_gossip(&mut self, from: PeerId, id: gossipsub::MessageId, mut message: gossipsub::Message) {
        let signature = take_signature(&mut message.data);
        let (Some(source), Some(sequence_number), Some(signature)) =
            (message.source, message.sequence_number, signature)
        else {
            self.verdict(&id, &from, Validation::Reject);
            return;
        };
        let gossip = Gossip {
            source,
            data: message.data,
            sequence_number,
            signature,
            id,
            from,
        };
        if !self.intake.take(from, gossip.data.len(), Instant::now()) {
            self.counters.dropped("gossip", "over_budget");
            self.verdict(&gossip.id, &from, Validation::Ignore);
        } else if self.trust.is_member(&source) {
            self.hand_over(gossip, &message.topic);
        } else if weft_protocol::PublicKey::from_peer_id(&source).is_some_and(|key| self.trust.is_revoked(&key)) {
            self.counters.dropped("gossip", "revoked");
            self.verdict(&gossip.id, &from, Validation::Ignore);
        } else if self.unknown.len() < UNKNOWN_MAX {
            // The message may have overtaken its signer's record.
            self.unknown
                .push_back((Instant::now() + UNKNOWN_PATIENCE, gossip, message.topic));
        } else {
            self.counters.dropped("gossip", "unknown_signer");
            self.verdict(&gossip.id, &from, Validation::Ignore);
        }
    }

    fn hand_over(&mut self, gossip: Gossip, topic: &gossipsub::TopicHash) {
        let (id, from) = (gossip.id.clone(), gossip.from);
        let taken = self
            .topics
            .get(topic)
            .is_some_and(|sink| sink.try_send(Box::new(gossip)).is_ok());
        if !taken {
            self.counters.dropped("gossip", "queue_full");
            self.verdict(&id, &from, Validation::Ignore);
        }
    }

    pub(super) fn retry_unknown(&mut self, now: Instant) {
        for _ in 0..self.unknown.len() {
            let Some((until, gossip, topic)) = self.unknown.pop_front() else {
                return;
            };
            if self.trust.is_member(&gossip.source) {
                self.hand_over(gossip, &topic);
            } else if now < until {
                self.unknown.push_back((until, gossip, topic));
            } else {
                self.counters.dropped("gossip", "unknown_signer");
                self.verdict(&gossip.id, &gossip.from, Validation::Ignore);
            }
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                match result {
                    kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })) => {
                        if let Some((found, _)) = self.provider_queries.get_mut(&id) {
                            found.extend(providers);
                        }
                    }
                    kad::QueryResult::StartProviding(result) => {
                        if let Some(reply) = self.provide_queries.remove(&id) {
                            let result = result.map(|_| ()).map_err(|e| MeshError::Busy(e.to_string()));
                            let _ = reply.send(result);
                        }
                    }
                    _ => {}
                }
                if step.last
                    && let Some((found, reply)) = self.provider_queries.remove(&id)
                {
                    let mut found: Vec<PeerId> = found.into_iter().collect();
                    found.sort();
                    let _ = reply.send(Ok(found));
                }
            }
            kad::Event::InboundRequest { request } => self.on_kad_request(request),
            _ => {}
        }
    }

    /// What others want stored: provider records of members for themselves, and nothing else.
    fn on_kad_request(&mut self, request: kad::InboundRequest) {
        let kad::InboundRequest::AddProvider { record: Some(record) } = request else {
            return;
        };
        let trusted = self.trust.is_member(&record.provider);
        let members = self.swarm.behaviour_mut().members.inner().filter(|_| trusted);
        if let Some(kad) = members.and_then(|m| m.others.kad.as_mut()) {
            use kad::store::RecordStore as _;
            if kad.store_mut().add_provider(record).is_err() {
                self.counters.dropped("kad_provider", "store_full");
            }
        }
    }
}

fn request_error(peer: PeerId, error: &OutboundFailure) -> MeshError {
    let unreachable = |reason: String| MeshError::Open(streams::OpenError::Unreachable { peer, reason });
    match error {
        OutboundFailure::DialFailure => unreachable("it could not be dialled".to_owned()),
        OutboundFailure::Timeout => MeshError::Timeout { peer, within_ms: 0 },
        OutboundFailure::UnsupportedProtocols => MeshError::Open(streams::OpenError::Unsupported {
            peer,
            protocol: "/weft/direct/1".to_owned(),
        }),
        OutboundFailure::ConnectionClosed => MeshError::Broken {
            peer,
            reason: "the connection closed".to_owned(),
        },
        OutboundFailure::Io(error) => MeshError::Broken {
            peer,
            reason: error.to_string(),
        },
    }
}

/// The first cause of a failed dial, for people.
fn short(error: &DialError) -> String {
    match error {
        DialError::NoAddresses => "no address of it is known".to_owned(),
        DialError::Transport(errors) => {
            let all: Vec<String> = errors.iter().take(3).map(|(a, e)| format!("{a}: {e}")).collect();
            all.join("; ")
        }
        other => other.to_string(),
    }
}
