//! Redeeming a ticket, at its issuer or through a member that reaches it.
//!
//! An issuer behind a router cannot be dialled by a newcomer, and the relays that make it reachable carry members only. So
//! the newcomer dials the relay itself, which its ticket names, and hands it the redemption; that member passes it on.
//! It learns nothing by which it could become somebody else's ticket holder: see [`weft_protocol::Redemption`].

use std::{sync::Arc, time::Duration};

use libp2p::{Multiaddr, PeerId, StreamProtocol, multiaddr::Protocol};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use weft_protocol::{Chain, PublicKey, Redemption, Ticket, admission::AdmissionRefusal, control::CONTROL_PROTOCOL};

use super::{
    control,
    driver::{Command, peer_of, with_peer},
};
use crate::trust::Trust;

/// Redemptions passed on at once; beyond it the newcomer is asked to come again.
const PASSED_ON_MAX: usize = 16;
/// How long the issuer may take. Shorter than a newcomer waits for one answer.
const ISSUER_TIMEOUT: Duration = Duration::from_secs(8);

/// Why there is no certificate: for programs and for people.
pub(crate) type Refusal = (AdmissionRefusal, String);

/// See the module.
#[derive(Clone)]
pub(crate) struct Redeemer {
    trust: Trust,
    commands: mpsc::WeakSender<Command>,
    places: Arc<Semaphore>,
}

impl Redeemer {
    pub(crate) fn new(trust: Trust, commands: mpsc::WeakSender<Command>) -> Self {
        Redeemer {
            trust,
            commands,
            places: Arc::new(Semaphore::new(PASSED_ON_MAX)),
        }
    }

    /// A certificate for `joiner`, from this node or from the ticket's issuer.
    pub(crate) async fn redeem(&self, joiner: &PeerId, redemption: &Redemption) -> Result<Chain, Refusal> {
        let Some(key) = PublicKey::from_peer_id(joiner) else {
            return Err(bad("only Ed25519 keys can be members"));
        };
        if redemption.issuer == self.trust.public_key() {
            return self.trust.redeem(key, redemption).await;
        }
        let issuer = redemption.issuer.peer_id();
        if !self.trust.is_member(&issuer) {
            return Err(bad("the ticket's issuer is no member that this node knows"));
        }
        let Ok(_place) = self.places.try_acquire() else {
            return Err(busy("too many tickets are being passed on"));
        };
        match timeout(ISSUER_TIMEOUT, self.ask(issuer, key, redemption)).await {
            Ok(answer) => answer,
            Err(_) => Err(busy("the ticket's issuer does not answer")),
        }
    }

    async fn ask(&self, issuer: PeerId, joiner: PublicKey, redemption: &Redemption) -> Result<Chain, Refusal> {
        let commands = self.commands.upgrade().ok_or_else(|| busy("the node is stopping"))?;
        let (reply, answer) = oneshot::channel();
        let open = Command::Open {
            peer: issuer,
            protocol: StreamProtocol::new(CONTROL_PROTOCOL),
            reply,
        };
        let closed = || busy("the connection to the ticket's issuer closed");
        commands.send(open).await.map_err(|_| closed())?;
        let mut stream = answer
            .await
            .map_err(|_| closed())?
            .map_err(|e| busy(&format!("the ticket's issuer: {e}")))?;
        control::redeem(&mut stream, joiner, redemption.clone())
            .await
            .unwrap_or_else(|e| Err(busy(&format!("the ticket's issuer: {e}"))))
    }
}

fn bad(text: &str) -> Refusal {
    (AdmissionRefusal::BadTicket, text.to_owned())
}

fn busy(text: &str) -> Refusal {
    (AdmissionRefusal::Busy, text.to_owned())
}

/// Whom a ticket leads to: its issuer, and the relays through which members reach it.
pub(crate) fn ways_in(ticket: &Ticket) -> Vec<Multiaddr> {
    let issuer = ticket.issuer.peer_id();
    let mut ways: Vec<Multiaddr> = Vec::new();
    for address in &ticket.addresses {
        let relayed = address.iter().any(|part| part == Protocol::P2pCircuit);
        let way = if relayed {
            // Up to the relay itself: a newcomer is carried no further.
            let way: Multiaddr = address
                .iter()
                .take_while(|part| *part != Protocol::P2pCircuit)
                .collect();
            if peer_of(&way).is_none() {
                continue;
            }
            way
        } else {
            with_peer(address.clone(), issuer)
        };
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_protocol::{MeshId, SecretKey, TicketSecret, ticket::TICKET_VERSION};

    #[test]
    fn a_relayed_address_leads_to_the_relay() {
        let key = |seed| SecretKey::from_bytes(&[seed; 32]).public();
        let relay = key(3).peer_id();
        let address = |text: String| text.parse::<Multiaddr>().unwrap();
        let ticket = Ticket {
            version: TICKET_VERSION,
            mesh: MeshId::from_root(&key(1)),
            root: key(1),
            issuer: key(2),
            addresses: vec![
                address("/ip4/10.0.0.2/tcp/7400".into()),
                address(format!("/ip4/192.0.2.1/tcp/7400/p2p/{relay}/p2p-circuit")),
                address("/ip4/192.0.2.9/tcp/7400/p2p-circuit".into()),
            ],
            secret: TicketSecret::from_bytes([0; 16]),
            role: "member".into(),
            not_after_ms: 1,
        };
        assert_eq!(
            ways_in(&ticket),
            [
                address(format!("/ip4/10.0.0.2/tcp/7400/p2p/{}", key(2).peer_id())),
                address(format!("/ip4/192.0.2.1/tcp/7400/p2p/{relay}")),
            ]
        );
    }
}
