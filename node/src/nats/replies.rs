//! Answers that come from elsewhere: what this node asked, under ids that only those asked have seen.
//!
//! When a message with a reply subject leaves the node, the subject is replaced by `_WEFT.R.<node>.<id>`. Whatever is published to such
//! a subject is sent to that node directly, and there becomes an ordinary message on the subject it was. Promises: an id cannot be
//! guessed; it ends after [`TTL`]; there are at most [`REPLIES_MAX`], then the oldest goes.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use data_encoding::HEXLOWER;
use tokio::{sync::oneshot, time::Instant};
use weft_protocol::{PeerId, patterns::nats::REPLY_ID_BYTES};

use crate::platform::{self, Entropy};

/// How reply subjects of the mesh begin; clients cannot publish below it but by answering.
pub(super) const PREFIX: &str = "_WEFT.R.";
/// How long an answer may take.
const TTL: Duration = Duration::from_secs(300);
/// Questions that wait for answers at once.
const REPLIES_MAX: usize = 65_536;

/// An id of a question.
pub(super) type ReplyId = [u8; REPLY_ID_BYTES];

/// The first answer to a call: headers and payload.
pub(super) type CallReply = (Vec<u8>, Vec<u8>);

/// Where an answer goes.
#[derive(Debug)]
enum Goal {
    Subject(Arc<str>),
    Call(oneshot::Sender<CallReply>),
}

#[derive(Debug, Default)]
struct Open {
    goals: HashMap<ReplyId, Goal>,
    order: VecDeque<(Instant, ReplyId)>,
}

/// The questions of this node.
pub(super) struct Replies {
    local: PeerId,
    entropy: Arc<dyn Entropy>,
    open: Mutex<Open>,
}

/// What an answer turned out to be for.
#[derive(Debug)]
pub(super) enum Found {
    /// Subscribers of this subject.
    Subject(Arc<str>),
    /// A call, which is answered by that.
    Call(oneshot::Sender<CallReply>),
}

impl Replies {
    pub(super) fn new(local: PeerId, entropy: Arc<dyn Entropy>) -> Self {
        Replies {
            local,
            entropy,
            open: Mutex::default(),
        }
    }

    /// The subject under which others answer to `reply`.
    pub(super) fn rename(&self, reply: &str) -> String {
        // A question that is handed on keeps the name it came with.
        if reply.starts_with(PREFIX) {
            return reply.to_owned();
        }
        self.open(Goal::Subject(reply.into()))
    }

    /// A subject for the one answer to a call.
    pub(super) fn for_call(&self) -> (String, oneshot::Receiver<CallReply>) {
        let (sender, receiver) = oneshot::channel();
        (self.open(Goal::Call(sender)), receiver)
    }

    fn open(&self, goal: Goal) -> String {
        let id: ReplyId = platform::random(&*self.entropy);
        let now = Instant::now();
        let mut open = self.lock();
        while let Some((at, oldest)) = open.order.front().copied() {
            if open.order.len() < REPLIES_MAX && now.duration_since(at) < TTL {
                break;
            }
            open.order.pop_front();
            open.goals.remove(&oldest);
        }
        open.order.push_back((now, id));
        open.goals.insert(id, goal);
        format!("{PREFIX}{}.{}", self.local, HEXLOWER.encode(&id))
    }

    /// What an answer with this id is for; nothing when it is unknown, over, or answered.
    pub(super) fn find(&self, id: &ReplyId) -> Option<Found> {
        let mut open = self.lock();
        match open.goals.get(id)? {
            Goal::Subject(subject) => Some(Found::Subject(Arc::clone(subject))),
            Goal::Call(_) => match open.goals.remove(id)? {
                Goal::Call(sender) => Some(Found::Call(sender)),
                Goal::Subject(subject) => Some(Found::Subject(subject)),
            },
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The node and the id in a reply subject of the mesh.
pub(super) fn parse(subject: &str) -> Option<(PeerId, ReplyId)> {
    let (node, id) = subject.strip_prefix(PREFIX)?.split_once('.')?;
    let mut bytes = [0; REPLY_ID_BYTES];
    if id.len() != HEXLOWER.encode_len(REPLY_ID_BYTES) || HEXLOWER.decode_mut(id.as_bytes(), &mut bytes).is_err() {
        return None;
    }
    Some((node.parse().ok()?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::{Platform as _, RealPlatform};

    fn replies() -> Replies {
        Replies::new(PeerId::random(), RealPlatform.entropy())
    }

    #[tokio::test]
    async fn an_answer_finds_its_way_back() {
        let replies = replies();
        let name = replies.rename("_INBOX.a.1");
        weft_protocol::Subject::reserved(&name).unwrap();
        let (node, id) = parse(&name).unwrap();
        assert_eq!(node, replies.local);
        // As often as somebody answers.
        for _ in 0..2 {
            assert!(matches!(replies.find(&id), Some(Found::Subject(s)) if &*s == "_INBOX.a.1"));
        }
        assert_eq!(replies.rename(&name), name);
        assert!(replies.find(&[0; REPLY_ID_BYTES]).is_none());
    }

    #[tokio::test]
    async fn a_call_is_answered_once() {
        let replies = replies();
        let (name, _answer) = replies.for_call();
        let (_, id) = parse(&name).unwrap();
        assert!(matches!(replies.find(&id), Some(Found::Call(_))));
        assert!(replies.find(&id).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn questions_end_and_are_bounded() {
        let replies = replies();
        let (_, first) = parse(&replies.rename("first")).unwrap();
        tokio::time::advance(TTL).await;
        let (_, second) = parse(&replies.rename("second")).unwrap();
        assert!(replies.find(&first).is_none() && replies.find(&second).is_some());
        for _ in 0..REPLIES_MAX {
            replies.rename("more");
        }
        assert!(replies.find(&second).is_none());
        assert_eq!(replies.lock().goals.len(), REPLIES_MAX);
    }

    #[test]
    fn other_subjects_are_none_of_ours() {
        for text in [
            "_WEFT.R.",
            "_WEFT.R.x.00",
            "_INBOX.a",
            "_WEFT.R.x.000000000000000000000000",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
