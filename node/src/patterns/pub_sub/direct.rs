//! Takes in what members hand to this node directly, and hands this node's own to the subscribers here.
//!
//! Promises: each frame is handed over once, and those of a line in their order. A member that did not know in time what is wanted here hands
//! over late what others got meanwhile; a subscriber gets it, unless it has had something later of the same line: that one is told of a gap,
//! so that nothing comes out of order and nothing is passed over in silence.

use std::sync::Arc;

use weft_protocol::{
    CapabilityToken, DecodeError, PeerId, Subject, Verb,
    patterns::pub_sub::{DIRECT, Frame, Line, hop::Trace},
};

use super::{
    cache::{Bytes, Facts, Kept},
    handle::Delivery,
    hub::{Hub, State},
    late::SLACK_MS,
    parts::{Parts, permitted},
    received::{Run, stretches},
    taken::{Came, Taken},
};
use crate::mesh::PeerInfo;

impl Hub {
    /// A frame of this node's own went to those who want it: hands it to the subscribers here.
    pub(super) fn went_directly(&self, frame: &Frame<'_>, data: Bytes) {
        let Some(line) = self.own_line(frame.shard) else { return };
        self.published.inc_by(frame.len() as u64);
        let kept = Kept::new(line, &Facts::of(frame), data);
        let mut state = self.lock();
        let mut runs = frame.runs.iter().map(|run| &run.attributes);
        let is_wanted = runs.any(|a| state.subscribers.matched(&a.subject).is_some() || Trace::of(a).is_some());
        if !is_wanted {
            // Under the same lock: who comes back at this moment finds it among what came meanwhile.
            state.window.note(&Arc::new(kept), 0, frame.len() as u32);
            return;
        }
        drop(state);
        if let Some(parts) = Parts::own(kept) {
            self.deliver(&mut self.lock(), parts);
        }
    }

    /// Takes in a frame that its publisher handed over directly.
    ///
    /// # Errors
    /// What is malformed or of an earlier run: nothing more is taken from this stream.
    pub(super) fn take_direct(&self, publisher: PeerId, data: Vec<u8>) -> Result<(), DecodeError> {
        let frame = Frame::read(&data)?;
        let line = Line::new(&publisher, frame.epoch, frame.shard).filter(|line| line.shard >= DIRECT);
        let line = line.ok_or_else(|| misplaced("it is on no direct line"))?;
        if frame.is_empty() {
            return Err(misplaced("it has no publications"));
        }
        let numbers = (frame.first_seq, frame.last_seq());
        let may = self.mesh.trust().is_member(&publisher) && self.may_publish(&publisher, &frame);
        let skew_ms = self.mesh.peers().look(&publisher, |info: &PeerInfo| info.clock_skew_ms);
        let mut state = self.lock();
        let taken = state.direct.entry(publisher).or_insert_with(|| Taken::new(frame.epoch));
        let came = taken.take(frame.epoch, frame.shard, numbers);
        let came = came.ok_or_else(|| misplaced("it is of an earlier run"))?;
        if came == Came::Again {
            return Ok(());
        }
        if !may {
            self.dropped.add("publication", "denied", frame.len() as u64);
            return Ok(());
        }
        self.received.inc_by(frame.len() as u64);
        let trust = self.mesh.trust();
        let is_welcome = permitted(|subject: &Subject, tokens: &[CapabilityToken]| {
            trust.check(&publisher, Verb::Publish, subject, tokens).allowed
        });
        let (facts, stretches) = (Facts::of(&frame), stretches(frame, &data));
        let kept = Kept::new(line, &facts, Arc::new(data.into()));
        state.subscribers.note_touched();
        let parts = Parts::new(kept, stretches, is_welcome);
        match came {
            Came::Late => self.deliver_late(&mut state, parts, skew_ms.flatten().unwrap_or(0)),
            _ => self.deliver(&mut state, parts),
        }
        Ok(())
    }

    /// Hands over what stands before something that was handed over already. Queue groups have others who took it.
    fn deliver_late(&self, state: &mut State, parts: Parts, skew_ms: i64) {
        let line = *parts.kept.line();
        for (stretch, is_welcome) in parts.stretches {
            let count = stretch.len() as u32;
            if !is_welcome {
                self.dropped.add("publication", "denied", u64::from(count));
                continue;
            }
            let first_number = state.window.note(&parts.kept, stretch.first_index(), count);
            let is_only_traced = Trace::of(&stretch.attributes).is_some_and(|trace| trace.is_only);
            let matched = state.subscribers.matched(&stretch.attributes.subject);
            let Some(matched) = matched.filter(|_| !is_only_traced) else {
                continue;
            };
            // By this node's calendar.
            let made_ms = stretch.attributes.time_ms.unwrap_or(0);
            let made_ms = made_ms.saturating_add_signed(skew_ms.saturating_neg());
            let source = state.window.source(&parts.kept, self.mesh_id());
            let run = Run::new(source, stretch, first_number);
            let (first, last) = (run.sequence(0), run.sequence(run.len() - 1));
            for id in matched.plain() {
                let Some((since_ms, is_beyond)) = state.subscribers.standing(*id, &line, last) else {
                    continue;
                };
                if since_ms > made_ms.saturating_add(SLACK_MS) {
                    continue;
                }
                let offered = if is_beyond {
                    let publisher = line.publisher();
                    tracing::debug!(%publisher, shard = line.shard, first, last, "messages came too late for their order");
                    let gap = Delivery::Gap { publisher, first, last };
                    state.subscribers.tell(*id, gap, last - first + 1)
                } else {
                    let held_bytes = state.window.held_bytes();
                    state.subscribers.offer(*id, &run, (0, run.len()), held_bytes)
                };
                self.count(offered);
            }
        }
    }

    /// A publisher says that what it had for this node is lost.
    pub(super) fn take_loss(&self, publisher: PeerId, shard: u16, numbers: (u64, u64)) {
        let mut state = self.lock();
        let lost = match state.direct.get_mut(&publisher) {
            Some(taken) => taken.lose(shard, numbers),
            None => vec![numbers],
        };
        for lost in lost {
            self.tell_gap(&mut state, shard, publisher, lost);
        }
    }
}

fn misplaced(reason: &str) -> DecodeError {
    DecodeError::Invalid {
        what: "direct publication",
        reason: reason.to_owned(),
    }
}
