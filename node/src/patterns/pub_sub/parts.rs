//! A frame's publications on their way to subscribers, each judged.

use std::sync::Arc;

use weft_protocol::{
    CapabilityToken, Subject, Wire as _,
    patterns::pub_sub::{Attributes, Frame},
};

use super::{
    cache::Kept,
    order::Items,
    received::{Stretch, stretches},
};

/// What is in a frame, on its way to subscribers.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) kept: Arc<Kept>,
    /// Each with whether its publisher may publish it here.
    pub(super) stretches: Vec<(Stretch, bool)>,
}

impl Parts {
    pub(super) fn new(kept: Kept, stretches: Vec<Stretch>, mut is_welcome: impl FnMut(&Attributes) -> bool) -> Self {
        let judged = |stretch: Stretch| {
            let is_welcome = is_welcome(&stretch.attributes);
            (stretch, is_welcome)
        };
        Parts {
            kept: Arc::new(kept),
            stretches: stretches.into_iter().map(judged).collect(),
        }
    }

    /// Of a frame of this node's own.
    pub(super) fn own(kept: Kept) -> Option<Self> {
        let stretches = stretches(Frame::read(&kept.data).ok()?, &kept.data);
        Some(Parts::new(kept, stretches, |_| true))
    }
}

impl Items for Parts {
    fn count(&self) -> usize {
        self.stretches.iter().map(|(stretch, _)| stretch.len()).sum()
    }

    fn skip(&mut self, mut count: usize) {
        self.stretches.retain_mut(|(stretch, _)| {
            let skipped = count.min(stretch.len());
            count -= skipped;
            stretch.skip(skipped);
            stretch.len() > 0
        });
    }
}

/// A judge of publications that asks once for those in a row that have one subject and show no capability.
pub(super) fn permitted(ask: impl Fn(&Subject, &[CapabilityToken]) -> bool) -> impl FnMut(&Attributes) -> bool {
    let mut last: Option<(Subject, bool)> = None;
    move |attributes| {
        let subject = &attributes.subject;
        if let Some((known, answer)) = &last
            && known == subject
            && attributes.capability.is_empty()
        {
            return *answer;
        }
        let tokens = attributes.capability.iter();
        let tokens: Vec<CapabilityToken> = tokens.filter_map(|b| CapabilityToken::from_bytes(b).ok()).collect();
        let answer = ask(subject, &tokens);
        if attributes.capability.is_empty() {
            last = Some((subject.clone(), answer));
        }
        answer
    }
}
