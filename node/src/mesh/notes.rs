//! What patterns say to every connected member with each probe, and hear of it: a few bytes every few seconds, without a
//! stream or a request of their own.

use std::sync::{Arc, PoisonError, RwLock, Weak};

use libp2p::PeerId;
use weft_protocol::{
    control::Note,
    limits::{NOTE_BYTES_MAX, NOTES_MAX},
};

/// A pattern's side of it. Both are asked in the middle of a probe, so neither may take long.
pub trait Noted: Send + Sync {
    /// What to say now; at most [`NOTE_BYTES_MAX`] bytes, or it is left out.
    fn note(&self) -> Vec<u8>;

    /// A member said this. It may be anything.
    fn heard(&self, peer: &PeerId, note: &[u8]);
}

/// One that speaks. Weak, since it has a handle on the mesh, which has this.
type Speaker = (&'static str, Weak<dyn Noted>);

/// The patterns that say something.
#[derive(Clone, Default)]
pub(crate) struct Notes {
    patterns: Arc<RwLock<Vec<Speaker>>>,
}

impl std::fmt::Debug for Notes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notes").finish_non_exhaustive()
    }
}

impl Notes {
    /// Lets a pattern speak as long as `noted` is there, instead of what spoke for it before. There is room for [`NOTES_MAX`].
    pub(crate) fn attach(&self, pattern: &'static str, noted: Weak<dyn Noted>) {
        let mut patterns = self.patterns.write().unwrap_or_else(PoisonError::into_inner);
        patterns.retain(|(known, _)| *known != pattern);
        if patterns.len() < NOTES_MAX {
            patterns.push((pattern, noted));
        }
    }

    /// What all of them say.
    pub(crate) fn say(&self) -> Vec<Note> {
        let patterns = self.patterns.read().unwrap_or_else(PoisonError::into_inner);
        let notes = patterns.iter().filter_map(|(pattern, noted)| {
            Some(Note {
                pattern: (*pattern).to_owned(),
                bytes: noted.upgrade()?.note(),
            })
        });
        notes.filter(|note| note.bytes.len() <= NOTE_BYTES_MAX).collect()
    }

    /// Hands each what its like on a member said.
    pub(crate) fn hear(&self, peer: &PeerId, notes: &[Note]) {
        let patterns = self.patterns.read().unwrap_or_else(PoisonError::into_inner);
        for note in notes {
            let known = patterns.iter().find(|(pattern, _)| *pattern == note.pattern);
            if let Some(noted) = known.and_then(|(_, noted)| noted.upgrade()) {
                noted.heard(peer, &note.bytes);
            }
        }
    }
}
