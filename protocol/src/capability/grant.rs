//! Grants and the one rule by which they are handed on.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};

use super::{Verb, Verbs};
use crate::error::{DecodeError, at_most};
use crate::limits::{GRANTS_MAX, SUBJECT_BYTES_MAX};
use crate::subject::{Pattern, Subject};

/// Verbs on a pattern of subjects. Text form: `pub,sub:orders.>` or, with a depth, `pub,sub:orders.>:2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct Grant {
    /// What may be done.
    #[n(0)]
    pub verbs: Verbs,
    /// With what.
    #[n(1)]
    pub resource: Pattern,
    /// How many times it may be handed on; 0: used, but not handed on.
    #[n(2)]
    #[serde(default)]
    pub depth: u8,
}

impl Grant {
    /// A grant that may be handed on `depth` times.
    pub fn new(verbs: impl Into<Verbs>, resource: Pattern, depth: u8) -> Self {
        Self {
            verbs: verbs.into(),
            resource,
            depth,
        }
    }

    /// Everything, as the founder of a mesh has it.
    pub fn everything(depth: u8) -> Self {
        Self {
            verbs: Verbs::ALL,
            resource: Pattern::all(),
            depth,
        }
    }

    /// Whether using it is allowed: this verb on this subject.
    pub fn permits(&self, verb: Verb, subject: &Subject) -> bool {
        self.verbs.contains(verb) && self.resource.matches(subject)
    }

    /// Whether `child` allows nothing that `self` does not, leaving depth aside.
    pub fn contains(&self, child: &Grant) -> bool {
        child.verbs.is_subset(self.verbs) && self.resource.covers(&child.resource)
    }

    /// Whether the holder of `self` may hand on `child`: nothing more is allowed, and its depth is smaller.
    pub fn covers(&self, child: &Grant) -> bool {
        self.contains(child) && child.depth < self.depth
    }
}

/// Whether the holder of `held` may hand on `child`. Verb by verb, so that two grants can together cover a third.
pub fn covered(held: &[Grant], child: &Grant) -> bool {
    child.verbs.iter().all(|verb| {
        let single = Grant {
            verbs: Verbs::one(verb),
            resource: child.resource.clone(),
            depth: child.depth,
        };
        held.iter().any(|grant| grant.covers(&single))
    })
}

/// Whether one of the grants allows `verb` on `subject`.
pub fn permits(grants: &[Grant], verb: Verb, subject: &Subject) -> bool {
    grants.iter().any(|grant| grant.permits(verb, subject))
}

/// Checks a list of grants: their number, and that each allows something.
pub fn check_grants(grants: &[Grant]) -> Result<(), DecodeError> {
    at_most("grants", grants.len(), GRANTS_MAX)?;
    match grants.iter().find(|grant| grant.verbs.is_empty()) {
        Some(empty) => Err(DecodeError::invalid(
            "grant",
            format!("it has no verb for {}", empty.resource),
        )),
        None => Ok(()),
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.verbs, self.resource)?;
        if self.depth > 0 {
            write!(f, ":{}", self.depth)
        } else {
            Ok(())
        }
    }
}

impl FromStr for Grant {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        at_most("grant", text.len(), SUBJECT_BYTES_MAX * 2)?;
        let mut parts = text.split(':');
        let (Some(verbs), Some(resource)) = (parts.next(), parts.next()) else {
            return Err(DecodeError::malformed(
                "grant",
                format!("{text:?} is not of the form verbs:resource[:depth]"),
            ));
        };
        let depth = match parts.next() {
            None => 0,
            Some(depth) => depth.parse().map_err(|_| {
                DecodeError::malformed("grant", format!("its depth {depth:?} is not a number below 256"))
            })?,
        };
        if parts.next().is_some() {
            return Err(DecodeError::malformed(
                "grant",
                format!("{text:?} has more than three parts"),
            ));
        }
        Ok(Self {
            verbs: verbs.parse()?,
            resource: resource.parse()?,
            depth,
        })
    }
}
