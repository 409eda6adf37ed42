//! `[links]`: what the links are like.

use std::time::Duration;

use super::super::{
    data::{Latency, Link, LinkBetween, Links},
    field::{Bandwidth, Share},
    reader::Keys,
};
use super::Frame;

/// Exceptions between groups.
const BETWEEN_MAX: usize = 1_000;
/// The longest way of one packet.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// A link nobody says anything about.
const LATENCY_DEFAULT: Duration = Duration::from_millis(20);

pub(super) fn links(mut keys: Keys<'_>, frame: &Frame) -> Links {
    let plain = Link {
        latency: Latency::Constant(LATENCY_DEFAULT),
        jitter: Duration::ZERO,
        bandwidth_bits: None,
        loss: 0.0,
        reorder: 0.0,
    };
    let default = link(&mut keys, &plain);
    let mut between = Vec::new();
    for mut keys in keys.list("between") {
        if between.len() == BETWEEN_MAX {
            keys.wrong("", format!("is there more than {BETWEEN_MAX} times"));
            break;
        }
        let from = frame.group(&mut keys, "from");
        let to = frame.group(&mut keys, "to");
        let both = keys.or("both", true);
        let link = link(&mut keys, &default);
        keys.done();
        between.push(LinkBetween { from, to, both, link });
    }
    keys.done();
    Links { default, between }
}

/// The keys of a link; what is not said is as in `base`.
pub(super) fn link(keys: &mut Keys<'_>, base: &Link) -> Link {
    let link = Link {
        latency: keys.or("latency", base.latency.clone()),
        jitter: keys.or("jitter", base.jitter),
        bandwidth_bits: keys
            .opt::<Bandwidth>("bandwidth")
            .map(|bandwidth| bandwidth.0)
            .or(base.bandwidth_bits),
        loss: keys.or("loss", Share(base.loss)).0,
        reorder: keys.or("reorder", Share(base.reorder)).0,
    };
    let longest = match link.latency {
        Latency::Constant(latency) => latency,
        Latency::Normal { mean, deviation } => mean.max(deviation),
        Latency::Cities => Duration::ZERO,
    };
    for (key, span) in [("latency", longest), ("jitter", link.jitter)] {
        if span > LATENCY_MAX {
            keys.wrong(key, "is longer than 1m");
        }
    }
    if link.loss >= 1.0 {
        keys.wrong("loss", "of everything is a cut: use a fault of the kind cut");
    }
    link
}
