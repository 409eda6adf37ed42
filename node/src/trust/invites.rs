//! Invitations: a secret that can be exchanged for a certificate, a counted number of times.

use serde::{Deserialize, Serialize};
use weft_protocol::{
    Chain, Multiaddr, PublicKey, Redemption, Ticket, TicketKey, TicketSecret, admission::AdmissionRefusal,
    ticket::TICKET_VERSION,
};

use super::{IssueOptions, PREFIX_INVITE, Trust, authority::ROLE_MEMBER, keyed, scan, unreadable};
use crate::error::NodeError;

/// Open invitations at once.
pub(crate) const INVITES_MAX: usize = 1000;
/// Uses of one invitation at most.
pub(crate) const USES_MAX: u32 = 10_000;

/// What an invitation gives.
#[derive(Debug, Clone)]
pub struct InviteOptions {
    /// How long it can be used, milliseconds.
    pub ttl_ms: u64,
    /// How many nodes it lets in.
    pub uses: u32,
    /// The role they get; empty: `member`.
    pub role: String,
    /// The labels they get.
    pub labels: Vec<(String, String)>,
}

/// An invitation as this node remembers it: never the secret itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Invitation {
    /// The first bytes of the secret's hash, in hex.
    pub id: String,
    secret_sha256: String,
    /// The role it gives.
    pub role: String,
    /// The labels it gives.
    pub labels: Vec<(String, String)>,
    /// How many it lets in.
    pub uses: u32,
    /// Who used it.
    pub used_by: Vec<PublicKey>,
    /// Until when, Unix milliseconds.
    pub not_after_ms: u64,
}

impl Invitation {
    fn key(&self) -> Option<TicketKey> {
        let bytes = data_encoding::HEXLOWER.decode(self.secret_sha256.as_bytes()).ok()?;
        Some(TicketKey::from_bytes(bytes.try_into().ok()?))
    }
}

impl Trust {
    /// Makes an invitation and its ticket, which leads a newcomer to `addresses`.
    ///
    /// # Errors
    /// `Denied` when this node may not admit with that role; `Invalid` for a use count or role that cannot be.
    pub async fn invite(
        &self,
        options: &InviteOptions,
        addresses: Vec<Multiaddr>,
    ) -> Result<(Ticket, Invitation), NodeError> {
        let mesh = self.mesh().ok_or_else(|| {
            NodeError::denied("this node belongs to no mesh yet").with_hint("wait until it is approved: `weft status`")
        })?;
        let role = if options.role.is_empty() {
            ROLE_MEMBER.to_owned()
        } else {
            options.role.clone()
        };
        if !self.may_admit(std::slice::from_ref(&role)) {
            return Err(
                NodeError::denied(format!("this node may not admit members with the role {role}"))
                    .with_hint("ask a member that holds the `invite` right: `weft cap explain self invite role.NAME`"),
            );
        }
        if options.uses == 0 || options.uses > USES_MAX {
            return Err(NodeError::invalid(format!(
                "an invitation has 1 to {USES_MAX} uses, not {}",
                options.uses
            )));
        }
        let _writing = self.0.writing.lock().await;
        let open = self.invitations_locked().await?;
        if open.len() >= INVITES_MAX {
            return Err(NodeError::busy(format!("{INVITES_MAX} invitations are open")).with_hint("`weft invite rm ID`"));
        }
        let secret = TicketSecret::from_bytes(self.random());
        let key = secret.key();
        let invitation = Invitation {
            id: hex(&key.invitation()),
            secret_sha256: hex(key.expose()),
            role: role.clone(),
            labels: options.labels.clone(),
            uses: options.uses,
            used_by: Vec::new(),
            not_after_ms: self.now_ms().saturating_add(options.ttl_ms),
        };
        self.save(&invitation).await?;
        let ticket = Ticket {
            version: TICKET_VERSION,
            mesh: mesh.id,
            root: mesh.root,
            issuer: self.0.public,
            addresses,
            secret,
            role,
            not_after_ms: invitation.not_after_ms,
        };
        Ok((ticket, invitation))
    }

    /// The invitations that can still be used.
    ///
    /// # Errors
    /// What the store says.
    pub async fn invitations(&self) -> Result<Vec<Invitation>, NodeError> {
        let _writing = self.0.writing.lock().await;
        let mut open = self.invitations_locked().await?;
        open.retain(|i| i.used_by.len() < i.uses as usize);
        Ok(open)
    }

    /// Withdraws an invitation.
    ///
    /// # Errors
    /// `NotFound` when there is none of that id.
    pub async fn withdraw_invitation(&self, id: &str) -> Result<(), NodeError> {
        let _writing = self.0.writing.lock().await;
        if !self.invitations_locked().await?.iter().any(|i| i.id == id) {
            return Err(NodeError::not_found(format!("no invitation {id}")));
        }
        Ok(self.0.keyspace.delete(keyed(PREFIX_INVITE, id.as_bytes())).await?)
    }

    /// Exchanges a proof of a ticket's secret for a certificate for `key`. The use is durable before the certificate exists; the same node
    /// may redeem again, should the answer have been lost.
    ///
    /// Cancel-safe: a cancelled exchange has either not happened or can be repeated by the same node.
    pub(crate) async fn redeem(
        &self,
        key: PublicKey,
        redemption: &Redemption,
    ) -> Result<Chain, (AdmissionRefusal, String)> {
        let internal = |e: NodeError| (AdmissionRefusal::Busy, e.to_string());
        let bad = |text: &str| (AdmissionRefusal::BadTicket, text.to_owned());
        if self.is_revoked(&key) {
            return Err((AdmissionRefusal::Revoked, "this key is revoked".to_owned()));
        }
        let _writing = self.0.writing.lock().await;
        let id = hex(&redemption.invitation);
        let stored = self.0.keyspace.get(&keyed(PREFIX_INVITE, id.as_bytes())).await;
        let stored = stored.map_err(|e| internal(e.into()))?;
        let stored = stored.ok_or_else(|| bad("this node has issued no such ticket, or withdrew it, or it ran out"))?;
        let mut invitation: Invitation =
            serde_json::from_slice(&stored).map_err(|e| internal(unreadable("invitation", &e)))?;
        let kept = invitation
            .key()
            .ok_or_else(|| internal(NodeError::internal("the invitation in the store is damaged")))?;
        if !redemption.is_proven(&kept, &key) {
            return Err(bad("the ticket's secret is wrong"));
        }
        if self.now_ms() >= invitation.not_after_ms {
            return Err((
                AdmissionRefusal::Expired,
                "the ticket has run out; ask for a new one".to_owned(),
            ));
        }
        if !invitation.used_by.contains(&key) {
            if invitation.used_by.len() >= invitation.uses as usize {
                return Err((
                    AdmissionRefusal::UsedTicket,
                    "the ticket has been used; ask for a new one".to_owned(),
                ));
            }
            invitation.used_by.push(key);
            self.save(&invitation).await.map_err(internal)?;
        }
        let options = IssueOptions {
            roles: vec![invitation.role.clone()],
            labels: invitation.labels.clone(),
            ..IssueOptions::default()
        };
        self.issue(key, &redemption.name, &options)
            .map_err(|e| (AdmissionRefusal::NotIssuer, e.to_string()))
    }

    /// Also those that are used up: who used one may redeem it again until it runs out. The others are forgotten.
    async fn invitations_locked(&self) -> Result<Vec<Invitation>, NodeError> {
        let now_ms = self.now_ms();
        let mut open = Vec::new();
        for (key, bytes) in scan(&self.0.keyspace, PREFIX_INVITE).await? {
            match serde_json::from_slice::<Invitation>(&bytes) {
                Ok(invitation) if invitation.not_after_ms > now_ms => open.push(invitation),
                _ => self.0.keyspace.delete(key).await?,
            }
        }
        Ok(open)
    }

    async fn save(&self, invitation: &Invitation) -> Result<(), NodeError> {
        let bytes = serde_json::to_vec(invitation).map_err(|e| NodeError::internal(e.to_string()))?;
        Ok(self
            .0
            .keyspace
            .put(keyed(PREFIX_INVITE, invitation.id.as_bytes()), bytes)
            .await?)
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}
