//! The admission dialogue: each side proves itself to the other on a stream of its own.
//!
//! The *prover* opens a stream of `/weft/admission/1` and shows its certificates, exchanges a ticket for them, or asks
//! to be let in; the *verifier* answers. Who dialled proves first, so that a node shows its certificates only to a peer
//! whose address and key it was given, or who has shown its own. Revocations travel as soon as the prover has shown good
//! certificates, before the word "admitted": a node that was away withholds that word until it has heard what the
//! members it can reach know (see [`Settled`]), and two nodes that were both away do not wait for each other.
//!
//! Sequential by nature, so plain `async`; the driver is told the outcome and never waits for it.

use std::time::Duration;

use futures::AsyncWriteExt as _;
use libp2p::{PeerId, swarm::ConnectionId};
use tokio::{sync::watch, time::timeout};
use weft_protocol::{
    Chain, MeshId, Redemption, RevocationNotice, Ticket, Wire as _,
    admission::{AdmissionRefusal, AdmissionReply, AdmissionRequest},
    limits::ADMISSION_BYTES_MAX,
};

use super::{
    frames::{self, FrameError},
    redeem::Redeemer,
    streams::MeshStream,
};
use crate::trust::{MeshInfo, MeshKind, PendingMember, ProofVerdict, Standing, Trust};

/// What a node that belongs to no mesh yet takes at most to become a member, once the other side has decided that it is one.
const BECOMING_MEMBER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one message of the dialogue may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node waits for approval on one stream; then it asks anew.
const APPROVAL_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a node that was away withholds admission while it looks for members that know what it has missed.
pub(crate) const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);
/// The same while a member is just telling it. Shorter than a prover waits.
pub(crate) const SETTLE_TIMEOUT_TELLING: Duration = Duration::from_secs(8);
/// How long the other side may take to end its half of a stream whose dialogue is over.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests on one stream: ticket, proof, and a second proof after an adoption.
const REQUESTS_MAX: usize = 4;

/// Whether this node has caught up with revocations since it started, as far as it could.
pub(crate) type Settled = watch::Receiver<bool>;

/// What this node says of itself before anything is proven.
#[derive(Debug, Clone)]
pub(crate) struct Introduction {
    pub(crate) name: String,
    pub(crate) agent: String,
    /// Another number with each start.
    pub(crate) run: u64,
}

/// How proving ourselves ended.
#[derive(Debug)]
pub(crate) enum Proved {
    /// The remote has opened its gate for us.
    Admitted,
    /// The remote refused; the reason is for people.
    Refused(AdmissionRefusal, String),
}

/// Why a dialogue ended without a verdict.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdmissionError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the peer took too long")]
    Timeout,
    #[error("the peer answered out of turn")]
    OutOfTurn,
    #[error(transparent)]
    Trust(#[from] crate::error::NodeError),
}

/// Proves this node to the peer on `stream`. Returns when the peer has admitted or refused us, and then [`end`] is due; while
/// we wait for approval that may take long. With `test_only` the connection is not to be used by anybody. `heard` becomes true when the peer has told us all the revocations it knows.
pub(crate) async fn prove(
    trust: &Trust,
    introduction: &Introduction,
    ticket: Option<&Ticket>,
    test_only: bool,
    heard: &watch::Sender<bool>,
    stream: &mut MeshStream,
) -> Result<Proved, AdmissionError> {
    let mut standing = trust.watch_standing();
    for _ in 0..REQUESTS_MAX {
        let request = next_request(trust, introduction, ticket, test_only);
        frames::write(stream, &request).await?;
        match converse(trust, stream, &mut standing, heard).await? {
            Outcome::Admitted => return Ok(Proved::Admitted),
            Outcome::Refused(reason, detail) => return Ok(Proved::Refused(reason, detail)),
            Outcome::ProveAgain => {}
        }
    }
    Err(AdmissionError::OutOfTurn)
}

enum Outcome {
    Admitted,
    Refused(AdmissionRefusal, String),
    ProveAgain,
}

fn next_request(
    trust: &Trust,
    introduction: &Introduction,
    ticket: Option<&Ticket>,
    test_only: bool,
) -> AdmissionRequest {
    let Introduction { name, agent, run } = introduction.clone();
    if let Some(mesh) = trust.mesh() {
        return AdmissionRequest::Prove {
            mesh: mesh.id,
            chain: trust.chain(),
            name,
            agent,
            test_only,
            run: Some(run),
        };
    }
    match ticket {
        Some(ticket) => AdmissionRequest::Redeem(Redemption::new(
            ticket,
            &trust.public_key(),
            &name,
            &agent,
            trust.nonce(),
        )),
        None => AdmissionRequest::Ask {
            mesh: None,
            name,
            agent,
        },
    }
}

/// Reads answers until one of them decides.
async fn converse(
    trust: &Trust,
    stream: &mut MeshStream,
    standing: &mut watch::Receiver<Standing>,
    heard: &watch::Sender<bool>,
) -> Result<Outcome, AdmissionError> {
    let mut patience = STEP_TIMEOUT;
    loop {
        let waiting = patience > STEP_TIMEOUT;
        let reply: AdmissionReply = tokio::select! {
            biased;
            reply = timeout(patience, frames::expect(stream)) => reply.map_err(|_| AdmissionError::Timeout)??,
            // Somebody else has let us in meanwhile: the stream is given up, the next one will prove it.
            _ = standing.wait_for(|s| matches!(s, Standing::Member(_))), if waiting => {
                return Err(AdmissionError::OutOfTurn);
            }
        };
        match reply {
            AdmissionReply::Admitted { mesh, root, open, .. } => {
                if trust.mesh().is_none() {
                    if !open {
                        return Err(AdmissionError::OutOfTurn);
                    }
                    trust
                        .enter(
                            MeshInfo {
                                id: mesh,
                                root,
                                kind: MeshKind::Open,
                            },
                            Chain::default(),
                        )
                        .await?;
                }
                return Ok(Outcome::Admitted);
            }
            AdmissionReply::Issued {
                mesh,
                root,
                chain,
                open,
            } => {
                let kind = if open { MeshKind::Open } else { MeshKind::Private };
                trust.enter(MeshInfo { id: mesh, root, kind }, chain).await?;
                return Ok(Outcome::ProveAgain);
            }
            AdmissionReply::Pending { mesh } => {
                trust.set_pending(mesh);
                patience = APPROVAL_TIMEOUT;
            }
            AdmissionReply::Revocations { notices, more } => {
                trust.learn_revocations(notices).await?;
                if !more {
                    heard.send_replace(true);
                }
            }
            AdmissionReply::Refused { reason, detail } => return Ok(Outcome::Refused(reason, detail)),
        }
    }
}

/// What the verifier tells the driver.
#[derive(Debug)]
pub(crate) enum Verified {
    /// The peer is a member: open the gate, then say so with [`admit`].
    Member {
        /// The connection is for nothing but the peer's test of an address.
        test_only: bool,
        /// Which start of the peer's it is, if it says so.
        run: Option<u64>,
    },
    /// The peer is none and was told why.
    Refused(AdmissionRefusal),
    /// The peer went away.
    Gone,
}

/// The verifier's half, up to the verdict. After [`Verified::Member`] the caller opens the gate and calls [`admit`].
/// `proven` becomes true when the peer has shown good certificates, which may be well before the verdict.
#[expect(
    clippy::too_many_arguments,
    reason = "what is known of the connection, and what this node decides with"
)]
pub(crate) async fn verify(
    trust: &Trust,
    redeemer: &Redeemer,
    settled: &mut Settled,
    proven: &watch::Sender<bool>,
    peer: PeerId,
    connection: ConnectionId,
    address: &str,
    stream: &mut MeshStream,
) -> Result<Verified, AdmissionError> {
    let (mut test_only, mut run) = (false, None);
    for _ in 0..REQUESTS_MAX {
        let request = timeout(STEP_TIMEOUT, frames::read::<AdmissionRequest>(stream));
        let request = match request.await.map_err(|_| AdmissionError::Timeout)? {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(Verified::Gone),
            Err(FrameError::Decode(error)) => {
                return refuse(stream, AdmissionRefusal::Malformed, &error.to_string()).await;
            }
            Err(error) => return Err(error.into()),
        };
        tracing::trace!(%peer, %connection, "admission request");
        let step = match request {
            AdmissionRequest::Prove {
                mesh,
                chain,
                name,
                test_only: for_test,
                run: this_run,
                ..
            } => {
                (test_only, run) = (for_test, this_run);
                on_prove(trust, settled, proven, &peer, &mesh, &chain, &name, stream).await?
            }
            AdmissionRequest::Redeem(redemption) => match trust.mesh() {
                Some(own) if own.id == redemption.mesh => match redeemer.redeem(&peer, &redemption).await {
                    Ok(chain) => issued(trust, chain, stream).await?,
                    Err((reason, detail)) => Some(refuse(stream, reason, &detail).await?),
                },
                _ => Some(refuse(stream, AdmissionRefusal::WrongMesh, "the ticket is for another mesh").await?),
            },
            AdmissionRequest::Ask { mesh, name, agent } => {
                let asks = PendingMember {
                    peer,
                    name,
                    agent,
                    address: address.to_owned(),
                    since_ms: trust.now_ms(),
                };
                on_ask(trust, settled, proven, mesh, asks, stream).await?
            }
        };
        match step {
            Some(Verified::Member { .. }) => return Ok(Verified::Member { test_only, run }),
            Some(verdict) => return Ok(verdict),
            None => {}
        }
    }
    refuse(stream, AdmissionRefusal::Busy, "too many requests on one stream").await
}

#[expect(
    clippy::too_many_arguments,
    reason = "what was shown, by whom, and what is waited for; nothing of it belongs together"
)]
async fn on_prove(
    trust: &Trust,
    settled: &mut Settled,
    proven: &watch::Sender<bool>,
    peer: &PeerId,
    mesh: &MeshId,
    chain: &Chain,
    name: &str,
    stream: &mut MeshStream,
) -> Result<Option<Verified>, AdmissionError> {
    // The peer may prove itself while its verdict on this node is still being read: then this node is about to belong to its mesh.
    if trust.mesh().is_none() {
        let mut standing = trust.watch_standing();
        let member = standing.wait_for(|s| matches!(s, Standing::Member(_)));
        let _ = timeout(BECOMING_MEMBER_TIMEOUT, member).await;
    }
    // A forged certificate is refused at once; a good one waits until we know who was revoked while we were away.
    if let ProofVerdict::Refused(reason, detail) = trust.verify_proof(peer, mesh, chain, name) {
        return Ok(Some(refuse(stream, reason, &detail).await?));
    }
    proven.send_replace(true);
    tell_revocations(trust, stream).await?;
    let _ = timeout(SETTLE_TIMEOUT_TELLING, settled.wait_for(|s| *s)).await;
    match trust.verify_proof(peer, mesh, chain, name) {
        ProofVerdict::Member => {
            let (test_only, run) = (false, None);
            Ok(Some(Verified::Member { test_only, run }))
        }
        ProofVerdict::Adopted(chain) => issued(trust, chain, stream).await,
        ProofVerdict::Refused(reason, detail) => Ok(Some(refuse(stream, reason, &detail).await?)),
    }
}

async fn on_ask(
    trust: &Trust,
    settled: &mut Settled,
    proven: &watch::Sender<bool>,
    asked: Option<MeshId>,
    asks: PendingMember,
    stream: &mut MeshStream,
) -> Result<Option<Verified>, AdmissionError> {
    let Some(mesh) = trust.mesh() else {
        let detail = "this node belongs to no mesh yet";
        return Ok(Some(refuse(stream, AdmissionRefusal::NotMember, detail).await?));
    };
    if asked.is_some_and(|asked| asked != mesh.id) {
        return Ok(Some(
            refuse(stream, AdmissionRefusal::WrongMesh, "this is another mesh").await?,
        ));
    }
    if mesh.kind == MeshKind::Open {
        return on_prove(
            trust,
            settled,
            proven,
            &asks.peer,
            &mesh.id,
            &Chain::default(),
            &asks.name,
            stream,
        )
        .await;
    }
    if let Some(chain) = trust.approved(&asks.peer) {
        return issued(trust, chain, stream).await;
    }
    if weft_protocol::PublicKey::from_peer_id(&asks.peer).is_none_or(|key| trust.is_revoked(&key)) {
        return Ok(Some(
            refuse(stream, AdmissionRefusal::Revoked, "this key is revoked").await?,
        ));
    }
    let mut decision = match trust.wait_for_approval(asks) {
        Ok(decision) => decision,
        Err(error) => return Ok(Some(refuse(stream, AdmissionRefusal::Busy, &error.to_string()).await?)),
    };
    frames::write(stream, &AdmissionReply::Pending { mesh: mesh.id }).await?;
    let chain = tokio::select! {
        biased;
        decided = timeout(APPROVAL_TIMEOUT, decision.wait_for(Option::is_some)) => match decided {
            Ok(Ok(chain)) => chain.clone().unwrap_or_default(),
            _ => return Ok(Some(Verified::Gone)),
        },
        // Nothing more is expected from the peer: an end or an error means it is gone.
        _ = frames::read_bytes(stream, 1) => return Ok(Some(Verified::Gone)),
    };
    issued(trust, chain, stream).await
}

async fn issued(trust: &Trust, chain: Chain, stream: &mut MeshStream) -> Result<Option<Verified>, AdmissionError> {
    let Some(mesh) = trust.mesh() else {
        return Ok(Some(Verified::Gone));
    };
    let open = mesh.kind == MeshKind::Open;
    frames::write(
        stream,
        &AdmissionReply::Issued {
            mesh: mesh.id,
            root: mesh.root,
            chain,
            open,
        },
    )
    .await?;
    Ok(None)
}

async fn refuse(stream: &mut MeshStream, reason: AdmissionRefusal, detail: &str) -> Result<Verified, AdmissionError> {
    timeout(
        STEP_TIMEOUT,
        frames::write(stream, &AdmissionReply::refused(reason, detail)),
    )
    .await
    .map_err(|_| AdmissionError::Timeout)??;
    Ok(Verified::Refused(reason))
}

/// Tells a peer that has shown good certificates all that we know of revocations; if it is nothing, then that.
async fn tell_revocations(trust: &Trust, stream: &mut MeshStream) -> Result<(), AdmissionError> {
    let mut pages = pages(trust.revocation_notices());
    if pages.is_empty() {
        pages.push(Vec::new());
    }
    let last = pages.len() - 1;
    for (index, notices) in pages.into_iter().enumerate() {
        let revocations = AdmissionReply::Revocations {
            notices,
            more: index < last,
        };
        timeout(STEP_TIMEOUT, frames::write(stream, &revocations))
            .await
            .map_err(|_| AdmissionError::Timeout)??;
    }
    Ok(())
}

/// Ends a dialogue that came to its verdict: closes this node's half of the stream and waits a moment for the end of the
/// other's. A stream that is dropped before both have ended is reset, which libp2p of others reports as a failure.
pub(crate) async fn end(mut stream: MeshStream) {
    let _ = timeout(END_TIMEOUT, async {
        stream.close().await.map_err(FrameError::from)?;
        frames::read_bytes(&mut stream, 0).await
    })
    .await;
}

/// Tells a verified peer that our gate is open for it. Then [`end`] is due.
pub(crate) async fn admit(trust: &Trust, stream: &mut MeshStream) -> Result<(), AdmissionError> {
    let Some(mesh) = trust.mesh() else {
        return Err(AdmissionError::OutOfTurn);
    };
    let admitted = AdmissionReply::Admitted {
        mesh: mesh.id,
        root: mesh.root,
        open: mesh.kind == MeshKind::Open,
        revocations_digest: trust.revocations_digest(),
    };
    timeout(STEP_TIMEOUT, frames::write(stream, &admitted))
        .await
        .map_err(|_| AdmissionError::Timeout)??;
    Ok(())
}

/// Notices in messages that keep the protocol's size limit.
pub(crate) fn pages(notices: Vec<RevocationNotice>) -> Vec<Vec<RevocationNotice>> {
    let mut pages: Vec<Vec<RevocationNotice>> = Vec::new();
    let mut bytes = 0;
    for notice in notices {
        let size = notice.to_bytes().len() + 16;
        match pages.last_mut() {
            Some(page) if bytes + size < ADMISSION_BYTES_MAX / 2 => {
                bytes += size;
                page.push(notice);
            }
            _ => {
                bytes = size;
                pages.push(vec![notice]);
            }
        }
    }
    pages
}
