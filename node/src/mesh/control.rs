//! The members-only control protocol: round-trip times, the directory and revocations kept equal, renewal.
//!
//! Each side of a connection keeps one stream of `/weft/control/1` open and asks on it: a probe every few seconds
//! measures the round trip and compares digests, changes are pushed at once, differences are pulled. A peer that does not
//! answer within [`REPLY_TIMEOUT`] is taken for gone.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use libp2p::{PeerId, swarm::ConnectionId};
use tokio::time::{Instant, timeout};
use weft_protocol::{
    Chain, NodeRecord, PublicKey, Redemption, Signed, Wire as _,
    admission::AdmissionRefusal,
    control::{ControlReply, ControlRequest},
    limits::{BURST_BYTES_MAX, CONTROL_BYTES_MAX, HAVE_MAX},
};

use super::{
    admission::pages,
    frames::{self, FrameError},
    notes::Notes,
    peers::PeerTable,
    streams::MeshStream,
};
use crate::{
    error::NodeError,
    telemetry::metrics::MeshCounters,
    trust::{Trust, guard::token_id},
};

/// Between two probes, with few and with many peers.
const PROBE_EVERY: Duration = Duration::from_secs(4);
const PROBE_EVERY_CROWDED: Duration = Duration::from_secs(12);
const CROWDED: usize = 24;
/// A side that was probed does not probe for as long, so that the two take turns; who has just probed waits longer by this, or by
/// twice as much on the side with the greater id, so that they do not do it at once for ever.
const TURN: Duration = Duration::from_millis(500);
/// A peer that takes longer is taken for gone.
const REPLY_TIMEOUT: Duration = Duration::from_secs(8);
/// A peer that takes longer is doubted: what hangs on it, such as a place at a relay, is looked for elsewhere too.
const DOUBT_AFTER: Duration = Duration::from_secs(2);
/// The same when another connection to the peer has come: it may have restarted, and left this one behind.
const REPLY_TIMEOUT_SUPERSEDED: Duration = Duration::from_secs(3);
/// Catching up with a peer that knows more may take longer.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a neighbour waits for its turn to be asked for records while nothing comes from those whose turn it is, before it is asked all
/// the same.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);
/// Changes of the directory are pushed to so many of the connected members; with as many each, all hear of them in a
/// few steps.
const PUSHED_TO: usize = 10;
/// Changes that come together are pushed together.
const GATHER: Duration = Duration::from_millis(50);
/// Of a page of records. When many join at once each neighbour is being sent one, and it lies in memory three times on its way out.
const PAGE_BYTES: usize = CONTROL_BYTES_MAX / 8;
/// Frames of one burst, and bursts of one measurement.
const BURST_FRAMES: usize = 8;
const BURSTS: usize = 2;
/// A responder closes a control stream on which nothing is asked for so long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Why a control stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the peer does not answer")]
    Silent,
    #[error("the peer answered out of turn")]
    OutOfTurn,
    #[error(transparent)]
    Trust(#[from] NodeError),
}

/// One measured round trip.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// There and back.
    pub rtt: Duration,
    /// How far the peer's calendar is ahead of ours, milliseconds.
    pub clock_skew_ms: i64,
    members_digest: [u8; 32],
    revocations_digest: [u8; 32],
    knows_marks: bool,
}

/// Asks on `stream` until the connection ends.
pub(crate) async fn ask(
    trust: &Trust,
    peers: &PeerTable,
    peer: PeerId,
    connection: ConnectionId,
    counters: &MeshCounters,
    notes: &Notes,
    mut stream: MeshStream,
) -> Result<(), ControlError> {
    let mut records = trust.watch_records();
    let mut revocations = trust.watch_revocations();
    let mut tokens = trust.watch_tokens();
    let mut delivered = Delivered::default();
    let mut pushed = 0;
    let mut comings = peers.watch();
    let connections = || peers.get(&peer).map_or(0, |info| info.connections.len());
    let mut known_connections = connections();
    let mut patience = REPLY_TIMEOUT;
    loop {
        let doubted = || peers.doubt(&peer, connection);
        // Boxed, here and below: between two of them this waits, for each connection, and their memory is free.
        let probing = Box::pin(timeout(
            patience,
            doubting(doubted, probe(trust, notes, &peer, &mut stream)),
        ));
        let probe = probing.await.map_err(|_| ControlError::Silent)??;
        peers.measured(&peer, connection, probe.rtt, probe.clock_skew_ms);
        counters.round_trip(probe.rtt);
        let reconciling = Box::pin(timeout(
            RECONCILE_TIMEOUT,
            reconcile(trust, &peer, &probe, &mut stream, &mut pushed),
        ));
        reconciling.await.map_err(|_| ControlError::Silent)??;
        Box::pin(deliver(trust, &peer, &mut stream, &mut delivered)).await?;
        let pause = if peers.len() > CROWDED {
            PROBE_EVERY_CROWDED
        } else {
            PROBE_EVERY
        };
        let turn = if trust.local_peer() < peer { TURN } else { TURN * 2 };
        let mut next = Instant::now() + pause + turn;
        patience = REPLY_TIMEOUT;
        loop {
            tokio::select! {
                biased;
                changed = comings.changed() => {
                    if changed.is_err() { return Ok(()); }
                    let before = std::mem::replace(&mut known_connections, connections());
                    if known_connections > before {
                        patience = REPLY_TIMEOUT_SUPERSEDED;
                        break;
                    }
                }
                changed = revocations.changed() => {
                    if changed.is_err() { return Ok(()); }
                    Box::pin(doubting(doubted, push_revocations(trust, &mut stream))).await?;
                }
                changed = records.changed() => {
                    if changed.is_err() { return Ok(()); }
                    if !peers.is_near(&trust.local_peer(), &peer, PUSHED_TO) {
                        // The others hear of it from those near to us, or see it in a digest.
                        records.mark_unchanged();
                        continue;
                    }
                    tokio::time::sleep(GATHER).await;
                    records.mark_unchanged();
                    Box::pin(doubting(doubted, push_records(trust, &peer, &mut stream, &mut pushed))).await?;
                }
                changed = tokens.changed() => {
                    if changed.is_err() { return Ok(()); }
                    Box::pin(deliver(trust, &peer, &mut stream, &mut delivered)).await?;
                }
                () = tokio::time::sleep_until(next) => {
                    let theirs = peers.last_probed(&peer, connection).map(|at| at + pause);
                    match theirs.filter(|later| *later > next) {
                        Some(later) => next = later,
                        None => break,
                    }
                }
            }
        }
    }
}

/// Calls `doubted` when `asking` takes longer than [`DOUBT_AFTER`], and goes on waiting.
async fn doubting<T>(doubted: impl FnOnce(), asking: impl Future<Output = T>) -> T {
    let mut asking = std::pin::pin!(asking);
    if let Ok(answer) = timeout(DOUBT_AFTER, &mut asking).await {
        return answer;
    }
    doubted();
    asking.await
}

/// One round trip.
pub(crate) async fn probe(
    trust: &Trust,
    notes: &Notes,
    peer: &PeerId,
    stream: &mut MeshStream,
) -> Result<Probe, ControlError> {
    let sent_at_ms = trust.now_ms();
    let started = Instant::now();
    let request = ControlRequest::Probe {
        sent_at_ms,
        members_digest: trust.records_digest(),
        revocations_digest: trust.revocations_digest(),
        notes: notes.say(),
    };
    match exchange(stream, &request).await? {
        ControlReply::Probe {
            clock_ms,
            members_digest,
            revocations_digest,
            notes: theirs,
            knows_marks,
        } => {
            notes.hear(peer, &theirs);
            let rtt = started.elapsed();
            let middle_ms = sent_at_ms.saturating_add(rtt.as_millis() as u64 / 2);
            let clock_skew_ms = clock_ms as i64 - middle_ms as i64;
            Ok(Probe {
                rtt,
                clock_skew_ms,
                members_digest,
                revocations_digest,
                knows_marks: knows_marks == Some(true),
            })
        }
        _ => Err(ControlError::OutOfTurn),
    }
}

/// Asks the peer on `stream` for a fresh certificate.
pub(crate) async fn renew(trust: &Trust, stream: &mut MeshStream) -> Result<(), ControlError> {
    match timeout(
        REPLY_TIMEOUT,
        exchange(stream, &ControlRequest::Renew { chain: trust.chain() }),
    )
    .await
    {
        Ok(Ok(ControlReply::Renewed { chain })) => Ok(trust.replace_certificate(chain).await?),
        Ok(Ok(ControlReply::Refused { detail, .. })) => Err(NodeError::denied(detail).into()),
        Ok(Ok(_)) => Err(ControlError::OutOfTurn),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ControlError::Silent),
    }
}

/// Passes a newcomer's redemption on to its issuer, the peer on `stream`: its certificate, or why there is none.
pub(crate) async fn redeem(
    stream: &mut MeshStream,
    joiner: PublicKey,
    redemption: Redemption,
) -> Result<Result<Chain, (AdmissionRefusal, String)>, ControlError> {
    match exchange(stream, &ControlRequest::Redeem { joiner, redemption }).await? {
        ControlReply::Renewed { chain } => Ok(Ok(chain)),
        ControlReply::Refused { reason, detail } => Ok(Err((reason, detail))),
        _ => Err(ControlError::OutOfTurn),
    }
}

/// How fast the connection under `stream` carries, bytes per second.
pub(crate) async fn burst(stream: &mut MeshStream, within: Duration) -> Result<f64, ControlError> {
    let started = Instant::now();
    let mut bytes = 0;
    for _ in 0..BURSTS {
        let sent = async {
            let padding = vec![0; BURST_BYTES_MAX];
            // All at once: what is measured is the way there, not the pauses between.
            for _ in 0..BURST_FRAMES {
                let padding = padding.clone();
                frames::write(stream, &ControlRequest::Burst { padding }).await?;
            }
            for _ in 0..BURST_FRAMES {
                match frames::expect(stream).await? {
                    ControlReply::Ok => {}
                    _ => return Err(ControlError::OutOfTurn),
                }
            }
            Ok(())
        };
        bytes += BURST_FRAMES * BURST_BYTES_MAX;
        match timeout(within, sent).await {
            Ok(sent) => sent?,
            // So fast at best.
            Err(_) => break,
        }
    }
    Ok(bytes as f64 / started.elapsed().as_secs_f64().max(1e-6))
}

/// Makes us know what the peer knows; the peer does the same on its own stream.
async fn reconcile(
    trust: &Trust,
    peer: &PeerId,
    probe: &Probe,
    stream: &mut MeshStream,
    pushed: &mut u64,
) -> Result<(), ControlError> {
    if probe.revocations_digest != trust.revocations_digest() {
        let mut after = 0;
        loop {
            match exchange(stream, &ControlRequest::PullRevocations { after }).await? {
                ControlReply::Revocations { notices, more } => {
                    after += notices.len() as u32;
                    let more = more && !notices.is_empty();
                    trust.learn_revocations(notices).await?;
                    if !more {
                        break;
                    }
                }
                _ => return Err(ControlError::OutOfTurn),
            }
        }
    }
    if probe.members_digest == trust.records_digest() || trust.is_directory_full() {
        return Ok(());
    }
    loop {
        // What this node has is said with each question, and would lie in memory for each neighbour.
        let _turn = trust.turn_to_pull(TURN_TIMEOUT).await;
        // Perhaps another neighbour had it meanwhile.
        if probe.members_digest == trust.records_digest() {
            break;
        }
        let request = if probe.knows_marks {
            ControlRequest::PullLacking { have: trust.have() }
        } else {
            let have = trust.have_by_key(HAVE_MAX);
            ControlRequest::PullRecords { have }
        };
        match exchange(stream, &request).await? {
            ControlReply::Records { records, more } => {
                let learned = trust.learn_records(records, Some(*peer));
                if learned > 0 {
                    trust.note_page_pulled();
                }
                if !more || learned == 0 {
                    break;
                }
            }
            _ => return Err(ControlError::OutOfTurn),
        }
    }
    if *pushed == 0 {
        // What we knew before this connection the peer pulls, having seen our digest.
        *pushed = trust.records_after(u64::MAX, peer, 0).1;
    }
    Ok(())
}

async fn push_records(
    trust: &Trust,
    peer: &PeerId,
    stream: &mut MeshStream,
    pushed: &mut u64,
) -> Result<(), ControlError> {
    loop {
        let (records, reached): (Vec<Signed<NodeRecord>>, u64) = trust.records_after(*pushed, peer, PAGE_BYTES);
        *pushed = reached;
        if records.is_empty() {
            return Ok(());
        }
        acknowledged(stream, &ControlRequest::PushRecords { records }).await?;
    }
}

/// What was handed over on this connection.
#[derive(Default)]
struct Delivered {
    tokens: HashSet<[u8; 16]>,
    /// The name of the promise that was last kept, or tried.
    promise: Option<u64>,
}

/// Hands the peer the capabilities that were granted to it here, and the certificate that was promised.
async fn deliver(
    trust: &Trust,
    peer: &PeerId,
    stream: &mut MeshStream,
    delivered: &mut Delivered,
) -> Result<(), ControlError> {
    for token in trust.tokens_for(peer) {
        if !delivered.tokens.insert(token_id(&token)) {
            continue;
        }
        if let Some(detail) = handed(stream, &ControlRequest::PushCapability { token }).await? {
            tracing::debug!(%peer, detail, "a capability was not taken");
        }
    }
    let Some((promise, chain)) = trust.promised(peer).await else {
        return Ok(());
    };
    if delivered.promise.replace(promise) == Some(promise) {
        return Ok(());
    }
    let request = ControlRequest::PushCertificate { chain: chain.clone() };
    match handed(stream, &request).await? {
        None => {
            trust.handed_over(peer, &chain).await;
            tracing::info!(%peer, "a member has the certificate that was promised to it");
        }
        Some(detail) => tracing::warn!(%peer, detail, "a member did not take the certificate that was promised to it"),
    }
    Ok(())
}

/// The reason when the peer does not take it.
async fn handed(stream: &mut MeshStream, request: &ControlRequest) -> Result<Option<String>, ControlError> {
    match timeout(REPLY_TIMEOUT, exchange(stream, request)).await {
        Ok(Ok(ControlReply::Ok)) => Ok(None),
        Ok(Ok(ControlReply::Refused { detail, .. })) => Ok(Some(detail)),
        Ok(Ok(_)) => Err(ControlError::OutOfTurn),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ControlError::Silent),
    }
}

async fn push_revocations(trust: &Trust, stream: &mut MeshStream) -> Result<(), ControlError> {
    for notices in pages(trust.revocation_notices()) {
        acknowledged(stream, &ControlRequest::PushRevocations { notices }).await?;
    }
    Ok(())
}

async fn acknowledged(stream: &mut MeshStream, request: &ControlRequest) -> Result<(), ControlError> {
    match timeout(REPLY_TIMEOUT, exchange(stream, request)).await {
        Ok(Ok(ControlReply::Ok)) => Ok(()),
        Ok(Ok(_)) => Err(ControlError::OutOfTurn),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ControlError::Silent),
    }
}

async fn exchange(stream: &mut MeshStream, request: &ControlRequest) -> Result<ControlReply, ControlError> {
    frames::write(stream, request).await?;
    Ok(frames::expect(stream).await?)
}

/// Answers on a stream a peer has opened, until it ends.
pub(crate) async fn answer(
    trust: &Trust,
    peers: &PeerTable,
    notes: &Notes,
    (peer, connection): (PeerId, ConnectionId),
    mut stream: MeshStream,
) -> Result<(), ControlError> {
    loop {
        let request = match timeout(IDLE_TIMEOUT, frames::read::<ControlRequest>(&mut stream)).await {
            Ok(Ok(Some(request))) => request,
            Ok(Ok(None)) | Err(_) => return Ok(()),
            Ok(Err(FrameError::Decode(error))) => {
                let reply = ControlReply::refused(AdmissionRefusal::Malformed, &error.to_string());
                frames::write(&mut stream, &reply).await?;
                return Err(FrameError::Decode(error).into());
            }
            Ok(Err(error)) => return Err(error.into()),
        };
        if !trust.is_member(&peer) {
            return Ok(());
        }
        if let ControlRequest::Probe {
            members_digest,
            revocations_digest,
            ..
        } = &request
            && *revocations_digest == trust.revocations_digest()
            && (*members_digest == trust.records_digest() || trust.is_directory_full())
        {
            peers.probed(&peer, connection);
        }
        // Boxed: for nearly all its time this waits for a request.
        let replying = Box::pin(async {
            let reply = reply_to(trust, notes, &peer, request).await?;
            frames::write(&mut stream, &reply).await.map_err(ControlError::from)
        });
        replying.await?;
    }
}

async fn reply_to(
    trust: &Trust,
    notes: &Notes,
    peer: &PeerId,
    request: ControlRequest,
) -> Result<ControlReply, ControlError> {
    Ok(match request {
        ControlRequest::Probe { notes: theirs, .. } => {
            notes.hear(peer, &theirs);
            ControlReply::Probe {
                clock_ms: trust.now_ms(),
                members_digest: trust.records_digest(),
                revocations_digest: trust.revocations_digest(),
                notes: notes.say(),
                knows_marks: Some(true),
            }
        }
        ControlRequest::PullRevocations { after } => {
            let mut rest = trust.revocation_notices();
            rest.drain(..(after as usize).min(rest.len()));
            let total = rest.len();
            let mut bytes = 0;
            rest.retain(|notice| {
                bytes += notice.to_bytes().len() + 16;
                bytes < PAGE_BYTES
            });
            rest.truncate(weft_protocol::limits::NOTICES_PER_MESSAGE_MAX);
            ControlReply::Revocations {
                more: rest.len() < total,
                notices: rest,
            }
        }
        ControlRequest::PullLacking { have } => {
            let (records, more) = trust.lacking(|key, seq| have.covers(key, seq), PAGE_BYTES);
            ControlReply::Records { records, more }
        }
        ControlRequest::PullRecords { have } => {
            let have: HashMap<PublicKey, u64> = have.into_iter().collect();
            let covers = |key: &PublicKey, seq| have.get(key).is_some_and(|known| *known >= seq);
            let (records, more) = trust.lacking(covers, PAGE_BYTES);
            ControlReply::Records { records, more }
        }
        ControlRequest::PushRecords { records } => {
            trust.learn_records(records, Some(*peer));
            ControlReply::Ok
        }
        ControlRequest::PushRevocations { notices } => {
            trust.learn_revocations(notices).await?;
            ControlReply::Ok
        }
        ControlRequest::PushCapability { token } => match trust.keep(token).await {
            Ok(_) => ControlReply::Ok,
            Err(error) => ControlReply::refused(AdmissionRefusal::Malformed, &error.to_string()),
        },
        ControlRequest::PushCertificate { chain } => match trust.replace_certificate(chain).await {
            Ok(()) => {
                tracing::info!(%peer, "a member gave this node a new certificate");
                ControlReply::Ok
            }
            Err(error) => ControlReply::refused(AdmissionRefusal::NotIssuer, &error.to_string()),
        },
        ControlRequest::Redeem { joiner, redemption } => match trust.redeem(joiner, &redemption).await {
            Ok(chain) => ControlReply::Renewed { chain },
            Err((reason, detail)) => ControlReply::refused(reason, &detail),
        },
        // That it has arrived is all there is to say of it.
        ControlRequest::Burst { .. } => ControlReply::Ok,
        ControlRequest::Renew { chain } => match trust.renew(peer, &chain) {
            Ok(chain) => ControlReply::Renewed { chain },
            Err(error) => ControlReply::refused(AdmissionRefusal::NotIssuer, &error.to_string()),
        },
    })
}
