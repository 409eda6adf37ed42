//! A peer made of plain libp2p parts that says what it is told, honest or not.
//!
//! It speaks the protocols it is given as raw bytes on streams of their own, so that a test can send what no honest node
//! would. It can become a member with a ticket, as an attacker does who has stolen one.

#![allow(missing_docs)] // of the enum that a derive makes

use std::{future::Future, io, time::Duration};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder,
    identity::Keypair,
    noise,
    request_response::{self, Codec, OutboundFailure, OutboundRequestId, ProtocolSupport},
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use weft_protocol::{
    Chain, Ticket, Wire as _,
    admission::{ADMISSION_PROTOCOL, AdmissionReply, AdmissionRequest},
    codec::frame,
};

/// How long one exchange may take.
const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(60);
/// Of an answer, more is not read.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// What is sent on a stream.
#[derive(Debug, Clone)]
pub enum Say {
    /// These bytes, then the end of our half.
    Bytes(Vec<u8>),
    /// These bytes, and then nothing more, without an end.
    AndHold(Vec<u8>),
    /// These bytes so many times.
    Again(Vec<u8>, usize),
}

/// Bytes as they are.
#[derive(Debug, Clone, Default)]
pub struct Raw;

impl Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Say;
    type Response = Vec<u8>;

    /// One frame, as the honest side sends it.
    async fn read_request<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Say> {
        let mut bytes = Vec::new();
        loop {
            let mut byte = [0];
            io.read_exact(&mut byte).await?;
            bytes.push(byte[0]);
            let prefix = frame::decode_prefix(&bytes, 1 << 20).map_err(io::Error::other)?;
            if let Some((length, _)) = prefix {
                let mut body = vec![0; length];
                io.read_exact(&mut body).await?;
                return Ok(Say::Bytes(body));
            }
        }
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        // A reset after the answer takes nothing back. After the verdict the node may close the whole connection.
        while let Ok(read) = io.read(&mut buffer).await {
            all.extend_from_slice(&buffer[..read]);
            let is_over = || protocol.as_ref() == ADMISSION_PROTOCOL && frames(&all).iter().any(|f| is_verdict(f));
            if read == 0 || all.len() >= ANSWER_BYTES_MAX || is_over() {
                break;
            }
        }
        Ok(all)
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        say: Say,
    ) -> io::Result<()> {
        match say {
            Say::Bytes(bytes) => io.write_all(&bytes).await?,
            Say::Again(bytes, times) => {
                for _ in 0..times {
                    io.write_all(&bytes).await?;
                }
            }
            Say::AndHold(bytes) => {
                io.write_all(&bytes).await?;
                io.flush().await?;
                std::future::pending::<()>().await;
            }
        }
        io.flush().await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&bytes).await
    }
}

/// What the attacker speaks.
#[derive(NetworkBehaviour)]
pub struct Speaks {
    admission: request_response::Behaviour<Raw>,
    target: request_response::Behaviour<Raw>,
}

/// See the module.
pub struct Attacker {
    swarm: Swarm<Speaks>,
    key: Keypair,
    /// Where it is connected to.
    remote: Option<PeerId>,
    /// Questions that are never answered.
    held: Vec<request_response::ResponseChannel<Vec<u8>>>,
    closed: bool,
}

impl Attacker {
    /// An attacker with a fresh key that will speak `protocols` besides admission.
    pub fn new(protocols: &[&str]) -> Self {
        let mut seed = [0; 32];
        io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut seed).unwrap();
        let key = Keypair::ed25519_from_bytes(seed).unwrap();
        let config = || {
            request_response::Config::default()
                .with_request_timeout(EXCHANGE_TIME_MAX)
                .with_max_concurrent_streams(1 << 20)
        };
        let admission = [(StreamProtocol::new(ADMISSION_PROTOCOL), ProtocolSupport::Full)];
        let target = protocols.iter().map(|name| {
            (
                StreamProtocol::try_from_owned((*name).to_owned()).unwrap(),
                ProtocolSupport::Outbound,
            )
        });
        let behaviour = Speaks {
            admission: request_response::Behaviour::with_codec(Raw, admission, config()),
            target: request_response::Behaviour::with_codec(Raw, target, config()),
        };
        let swarm = SwarmBuilder::with_existing_identity(key.clone())
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_quic()
            .with_behaviour(|_| behaviour)
            .unwrap()
            .with_swarm_config(|c| c.with_idle_connection_timeout(Duration::from_secs(3600)))
            .build();
        Attacker {
            swarm,
            key,
            remote: None,
            held: Vec::new(),
            closed: false,
        }
    }

    /// Its id.
    pub fn peer(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Its key.
    pub fn key(&self) -> &Keypair {
        &self.key
    }

    /// Connects.
    ///
    /// # Errors
    /// What the dial says.
    pub async fn connect(&mut self, address: &str) -> Result<(), String> {
        let address: Multiaddr = address.parse().unwrap();
        self.swarm.dial(address).map_err(|e| e.to_string())?;
        self.closed = false;
        loop {
            match self.event().await {
                Some(SwarmEvent::ConnectionEstablished { peer_id, .. }) => {
                    self.remote = Some(peer_id);
                    return Ok(());
                }
                Some(SwarmEvent::OutgoingConnectionError { error, .. }) => return Err(error.to_string()),
                Some(_) => {}
                None => return Err("the dial takes too long".to_owned()),
            }
        }
    }

    /// Waits until the other side ends the connection.
    pub async fn wait_cut(&mut self) -> bool {
        while !self.closed {
            if self.event().await.is_none() {
                return false;
            }
        }
        true
    }

    /// Says something on a stream of the target protocols; the answer is whatever comes back.
    ///
    /// # Errors
    /// When the stream cannot be opened or breaks.
    pub async fn say(&mut self, say: Say) -> Result<Vec<u8>, OutboundFailure> {
        let id = self.send(say);
        self.answer(id).await
    }

    /// Begins to say something.
    pub fn send(&mut self, say: Say) -> OutboundRequestId {
        let remote = self.remote.expect("it is connected");
        self.swarm.behaviour_mut().target.send_request(&remote, say)
    }

    /// Waits for the answer to what was said.
    ///
    /// # Errors
    /// When the stream cannot be opened or breaks.
    pub async fn answer(&mut self, id: OutboundRequestId) -> Result<Vec<u8>, OutboundFailure> {
        self.outcome(|event| match event {
            SpeaksEvent::Target(event) => outcome_of(event, id),
            SpeaksEvent::Admission(_) => None,
        })
        .await
    }

    /// Says something on the admission protocol.
    ///
    /// # Errors
    /// When the stream cannot be opened or breaks.
    pub async fn say_admission(&mut self, say: Say) -> Result<Vec<u8>, OutboundFailure> {
        let remote = self.remote.expect("it is connected");
        let id = self.swarm.behaviour_mut().admission.send_request(&remote, say);
        self.outcome(|event| match event {
            SpeaksEvent::Admission(event) => outcome_of(event, id),
            SpeaksEvent::Target(_) => None,
        })
        .await
    }

    /// Sends an honest admission request; the replies.
    ///
    /// # Errors
    /// When the stream cannot be opened or breaks, or what comes back is not the protocol.
    pub async fn request_admission(&mut self, request: &AdmissionRequest) -> Result<Vec<AdmissionReply>, String> {
        let bytes = frame::encode(&request.to_bytes());
        let answer = self.say_admission(Say::Bytes(bytes)).await.map_err(|e| e.to_string())?;
        frames(&answer)
            .into_iter()
            .map(|body| AdmissionReply::from_bytes(&body).map_err(|e| e.to_string()))
            .collect()
    }

    /// Becomes a member with a ticket, on the connection that stands.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn join(&mut self, ticket: &Ticket) -> Result<Chain, String> {
        let (name, agent) = ("mallory".to_owned(), "attacker/1".to_owned());
        let joiner = weft_protocol::PublicKey::from_peer_id(&self.peer()).ok_or("no Ed25519 key")?;
        let redemption = weft_protocol::Redemption::new(ticket, &joiner, &name, &agent, [7; 16]);
        let redeem = AdmissionRequest::Redeem(redemption);
        let issued = self.request_admission(&redeem).await?;
        let Some(AdmissionReply::Issued { chain, .. }) = issued.last().cloned() else {
            return Err(format!("{issued:?}"));
        };
        let prove = AdmissionRequest::Prove {
            mesh: ticket.mesh,
            chain: chain.clone(),
            name,
            agent,
            test_only: false,
            run: None,
        };
        let proved = self.request_admission(&prove).await?;
        match proved.last() {
            Some(AdmissionReply::Admitted { .. }) => Ok(chain),
            other => Err(format!("{other:?}")),
        }
    }

    /// Lets the network do its work until `until` is done.
    pub async fn drive<T>(&mut self, until: impl Future<Output = T>) -> T {
        tokio::pin!(until);
        loop {
            tokio::select! {
                done = &mut until => return done,
                event = self.swarm.select_next_some() => drop(self.note(event)),
            }
        }
    }

    async fn outcome(
        &mut self,
        mut pick: impl FnMut(SpeaksEvent) -> Option<Result<Vec<u8>, OutboundFailure>>,
    ) -> Result<Vec<u8>, OutboundFailure> {
        loop {
            match self.event().await {
                Some(SwarmEvent::Behaviour(event)) => {
                    if let Some(outcome) = pick(event) {
                        return outcome;
                    }
                }
                Some(_) => {}
                None => return Err(OutboundFailure::Timeout),
            }
        }
    }

    async fn event(&mut self) -> Option<SwarmEvent<SpeaksEvent>> {
        let deadline = tokio::time::Instant::now() + EXCHANGE_TIME_MAX;
        loop {
            let event = tokio::time::timeout_at(deadline, self.swarm.select_next_some())
                .await
                .ok()?;
            if let Some(event) = self.note(event) {
                return Some(event);
            }
        }
    }

    fn note(&mut self, event: SwarmEvent<SpeaksEvent>) -> Option<SwarmEvent<SpeaksEvent>> {
        match event {
            SwarmEvent::ConnectionClosed { num_established: 0, .. } => {
                self.closed = true;
                Some(event)
            }
            // The other side proves itself. It waits for our verdict in vain, which keeps it from asking anything else.
            SwarmEvent::Behaviour(SpeaksEvent::Admission(request_response::Event::Message {
                message: request_response::Message::Request { channel, .. },
                ..
            })) => {
                self.held.push(channel);
                None
            }
            _ => Some(event),
        }
    }
}

fn outcome_of(
    event: request_response::Event<Say, Vec<u8>>,
    id: OutboundRequestId,
) -> Option<Result<Vec<u8>, OutboundFailure>> {
    match event {
        request_response::Event::Message {
            message: request_response::Message::Response { request_id, response },
            ..
        } if request_id == id => Some(Ok(response)),
        request_response::Event::OutboundFailure { request_id, error, .. } if request_id == id => Some(Err(error)),
        _ => None,
    }
}

fn is_verdict(body: &[u8]) -> bool {
    !matches!(AdmissionReply::from_bytes(body), Ok(AdmissionReply::Revocations { .. }))
}

/// The bodies of the whole frames in `bytes`.
pub fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Ok(Some((length, prefix))) = frame::decode_prefix(bytes, ANSWER_BYTES_MAX) {
        let Some(body) = bytes.get(prefix..prefix + length) else {
            break;
        };
        all.push(body.to_vec());
        bytes = &bytes[prefix + length..];
    }
    all
}

/// A gossip message as it is on the wire, signed by `key` (the pubsub specification's StrictSign).
pub fn gossip(key: &Keypair, seqno: u64, topic: &str, data: &[u8]) -> Vec<u8> {
    let from = key.public().to_peer_id().to_bytes();
    let mut message = Vec::new();
    for (number, value) in [
        (1, &from[..]),
        (2, data),
        (3, &seqno.to_be_bytes()[..]),
        (4, topic.as_bytes()),
    ] {
        field(&mut message, number, value);
    }
    let signature = key.sign(&[b"libp2p-pubsub:", &message[..]].concat()).unwrap();
    field(&mut message, 5, &signature);
    field(&mut message, 6, &key.public().encode_protobuf());
    let mut rpc = Vec::new();
    field(&mut rpc, 2, &message);
    frame::encode(&rpc)
}

/// A length-delimited field of a protobuf message.
pub fn field(into: &mut Vec<u8>, number: u8, value: &[u8]) {
    into.push(number << 3 | 2);
    into.extend(frame::encode(value));
}

/// A fresh key.
pub fn fresh_key(number: u64) -> Keypair {
    let mut seed = [0x5a; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    Keypair::ed25519_from_bytes(seed).unwrap()
}
