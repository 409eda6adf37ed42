//! Calls with an idempotency key, so that the same call is served once.
//!
//! Promises: while a call with a key is being served, and for [`KEPT_FOR`] after its answer, the same caller's same key on the same
//! endpoint gets that answer, and the service sees nothing. A key that comes with another body is refused. Kept in memory:
//! for the life of the node, at most [`KEYS_MAX`] keys and [`BYTES_MAX`] of answers, the oldest answer making room; where only
//! calls under way are left, another one is turned away rather than served without a memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::{sync::watch, time::Instant};
use weft_protocol::{
    PeerId,
    patterns::request_response::{CallRequest, CallResponse},
};

/// How long an answer is remembered.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(600);
/// Keys at once.
pub(super) const KEYS_MAX: usize = 4096;
/// Bytes of answers at once.
pub(super) const BYTES_MAX: usize = 8 << 20;

/// Caller, service, endpoint, key.
type Key = (PeerId, String, String, String);
type Answer = Option<Arc<CallResponse>>;

struct Kept {
    body: [u8; 32],
    answer: watch::Receiver<Answer>,
    /// Bytes of the answer, once it is there.
    bytes: usize,
}

#[derive(Default)]
struct State {
    kept: HashMap<Key, Kept>,
    /// Keys with an answer, the oldest first, and when it was given.
    answered: VecDeque<(Key, Instant)>,
    bytes: usize,
}

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<State>>);

/// What is known of a key.
pub(super) enum Recall {
    /// Nothing: serve it, and tell the note how that ended.
    New(Note),
    /// It is being served, or was: here is its answer, or here it will be. One that ends without was not answered.
    Known(watch::Receiver<Answer>),
    /// It belongs to another request.
    Another,
    /// No room.
    Full,
}

/// A call that is being served; dropped without an answer, its key is forgotten.
pub(super) struct Note {
    memory: Memory,
    key: Key,
    answer: watch::Sender<Answer>,
}

impl Memory {
    /// Looks a call's key up, and begins to keep it.
    pub(super) fn recall(&self, caller: PeerId, request: &CallRequest, key: &str) -> Recall {
        let body: [u8; 32] = Sha256::digest(&request.body).into();
        let key = (
            caller,
            request.service.clone(),
            request.endpoint.clone(),
            key.to_owned(),
        );
        let mut state = self.lock();
        state.forget_old();
        if let Some(kept) = state.kept.get(&key) {
            return if kept.body == body {
                Recall::Known(kept.answer.clone())
            } else {
                Recall::Another
            };
        }
        if state.kept.len() >= KEYS_MAX && !state.forget_oldest() {
            return Recall::Full;
        }
        let (answer, receiver) = watch::channel(None);
        let kept = Kept {
            body,
            answer: receiver,
            bytes: 0,
        };
        state.kept.insert(key.clone(), kept);
        Recall::New(Note {
            memory: self.clone(),
            key,
            answer,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_old(&mut self) {
        while self.answered.front().is_some_and(|(_, at)| at.elapsed() >= KEPT_FOR) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let Some((key, _)) = self.answered.pop_front() else {
            return false;
        };
        if let Some(kept) = self.kept.remove(&key) {
            self.bytes -= kept.bytes;
        }
        true
    }
}

impl Note {
    /// The service has answered.
    pub(super) fn keep(self, answer: Arc<CallResponse>) {
        let bytes = match &*answer {
            CallResponse::Answer { body, .. } => body.len(),
            _ => 0,
        };
        {
            let mut state = self.memory.lock();
            state.bytes += bytes;
            if let Some(kept) = state.kept.get_mut(&self.key) {
                kept.bytes = bytes;
            }
            state.answered.push_back((self.key.clone(), Instant::now()));
            while state.bytes > BYTES_MAX && state.forget_oldest() {}
        }
        self.answer.send_replace(Some(answer));
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if self.answer.borrow().is_none() {
            self.memory.lock().kept.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: &[u8]) -> CallRequest {
        CallRequest::new("pay", "default", body.to_vec())
    }

    fn answer(bytes: usize) -> Arc<CallResponse> {
        Arc::new(CallResponse::answer(Vec::new(), vec![7; bytes]))
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_served_once_and_remembered_for_a_while() {
        let (memory, me) = (Memory::default(), PeerId::random());
        let Recall::New(note) = memory.recall(me, &call(b"a"), "k") else {
            panic!("not new")
        };
        let Recall::Known(mut twin) = memory.recall(me, &call(b"a"), "k") else {
            panic!("not known")
        };
        assert!(twin.borrow().is_none());
        assert!(matches!(memory.recall(me, &call(b"b"), "k"), Recall::Another));
        assert!(matches!(
            memory.recall(PeerId::random(), &call(b"b"), "k"),
            Recall::New(_)
        ));
        note.keep(answer(3));
        assert!(twin.wait_for(Option::is_some).await.is_ok());
        assert!(matches!(memory.recall(me, &call(b"a"), "k"), Recall::Known(_)));
        tokio::time::advance(KEPT_FOR).await;
        assert!(matches!(memory.recall(me, &call(b"a"), "k"), Recall::New(_)));
    }

    #[tokio::test]
    async fn one_that_ends_without_an_answer_is_forgotten() {
        let (memory, me) = (Memory::default(), PeerId::random());
        let Recall::New(note) = memory.recall(me, &call(b"a"), "k") else {
            panic!("not new")
        };
        let Recall::Known(mut twin) = memory.recall(me, &call(b"a"), "k") else {
            panic!("not known")
        };
        drop(note);
        assert!(twin.wait_for(Option::is_some).await.is_err());
        assert!(matches!(memory.recall(me, &call(b"a"), "k"), Recall::New(_)));
    }

    #[tokio::test]
    async fn answers_make_room_and_calls_under_way_do_not() {
        let (memory, me) = (Memory::default(), PeerId::random());
        for n in 0..10 {
            let Recall::New(note) = memory.recall(me, &call(b"a"), &n.to_string()) else {
                panic!("not new")
            };
            note.keep(answer(1 << 20));
        }
        assert!(memory.lock().bytes <= BYTES_MAX);
        assert!(matches!(memory.recall(me, &call(b"a"), "0"), Recall::New(_)));
        assert!(matches!(memory.recall(me, &call(b"a"), "9"), Recall::Known(_)));
        let mut notes = Vec::new();
        for n in 10.. {
            match memory.recall(me, &call(b"a"), &n.to_string()) {
                Recall::New(note) => notes.push(note),
                Recall::Full => break,
                _ => panic!("nobody knows {n}"),
            }
        }
        assert_eq!(notes.len(), KEYS_MAX);
    }
}
