//! Members that keep copies say of the leader's checkpoint that they have the same history: one alone cannot show a stranger another.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;
use weft_protocol::{
    PeerId, PublicKey, Subject,
    consensus::{GroupId, VoterKey},
    patterns::event_sourcing::{StreamReply, StreamRequest, checkpoint::Checkpoint},
};

use super::{Copies, peer_of};
use crate::{
    consensus::Voter,
    patterns::event_sourcing::{options::StreamError, remote, transfer},
};

/// How long others have to cosign; a proof does not wait for those who are away.
const COSIGN_WITHIN: Duration = Duration::from_secs(3);
/// How long a copy may take to have what the leader has signed.
const HAVE_WITHIN: Duration = Duration::from_secs(2);

impl Copies {
    /// A checkpoint of this node, cosigned by the others that keep the stream and can be reached.
    pub(super) async fn cosigned(&self, id: GroupId, name: &Subject, text: String) -> String {
        let (Ok(kept), Ok(checkpoint)) = (self.kept(id), Checkpoint::open(&text)) else {
            return text;
        };
        let voters = kept.group.seats().voters.into_iter();
        let others = voters.filter(|voter| *voter != self.local()).filter_map(peer_of);
        let asked = others.map(|peer| {
            let request = StreamRequest::Cosign(text.clone());
            async move {
                let asked = remote::ask(&self.streams, peer, name, &request, Duration::ZERO);
                match timeout(COSIGN_WITHIN, asked).await {
                    Ok(Ok(StreamReply::Cosigned(line))) => Some((peer, line)),
                    Ok(Err(error)) => {
                        tracing::debug!(stream = %name, %peer, %error, "a checkpoint is not cosigned");
                        None
                    }
                    _ => None,
                }
            }
        });
        let mut whole = text.clone();
        for (peer, line) in join_all(asked).await.into_iter().flatten() {
            let its = checkpoint.cosigners(&format!("{text}{line}"));
            // One line, and that member's own.
            if its.len() == 1 && its.iter().all(|one| one.by.peer_id() == peer) && line.trim_end().lines().count() == 1
            {
                whole.push_str(&line);
            }
        }
        whole
    }

    /// Cosigns the leader's checkpoint, if this node's own copy has the same history.
    pub(in crate::patterns::event_sourcing) async fn cosign(
        &self,
        from: PeerId,
        name: &Subject,
        text: &str,
    ) -> Result<StreamReply, StreamError> {
        let id = self
            .streams
            .group_of(name)
            .ok_or_else(|| StreamError::NoStream(name.to_string()))?;
        let kept = self.kept(id)?;
        let signed = transfer::open_of(text, from, name)?;
        let key = PublicKey::from_peer_id(&from).map(|key| Voter::from(VoterKey(*key.as_bytes())));
        let trust = self.mesh().trust();
        if !key.is_some_and(|key| kept.group.has_member(key))
            || trust.mesh().map(|mesh| mesh.id) != Some(signed.origin.mesh)
        {
            return Err(StreamError::Invalid(
                "this is no checkpoint of a member that keeps the stream".into(),
            ));
        }
        let opened = self.streams.get(name).await?;
        timeout(HAVE_WITHIN, opened.stream.until(signed.size))
            .await
            .map_err(|_| StreamError::Busy("this copy has not so many records yet".into()))??;
        if transfer::root_at(&opened.stream, signed.size).await? != signed.root {
            tracing::error!(stream = %name, leader = %from, size = signed.size, "a leader has signed another history than this node's copy has");
            return Err(StreamError::Corrupt(format!(
                "this copy has another history of {} records than was signed",
                signed.size
            )));
        }
        let at_s = trust.now_ms() / 1000;
        Ok(StreamReply::Cosigned(trust.sign_note(|key| signed.cosign(key, at_s))))
    }
}
