//! Who may do what: verbs on subjects, granted by signature, handed on only narrower.
//!
//! A [`Grant`] is a set of verbs on a pattern of subjects, with a depth: how many times it may be handed on. A certificate carries
//! grants for a member; a [`CapabilityToken`] carries grants for a key or a role beyond that. Both follow one rule ([`covered`]): what is
//! handed on is, verb by verb, on the same or fewer subjects, with a smaller depth.
//!
//! Promises: [`CapabilityToken::verify`] accepts only what leads back to the mesh's root without widening anywhere, is in its time, and
//! depends on no revoked key. [`CapabilityToken::issue`] and [`CapabilityToken::delegate`] refuse to make anything else.
//!
//! Not promised: that whoever presents a token is its audience. That is for the door-keeper, who knows the connection's identity
//! ([`Effective::is_for`]). A token lives no longer than the certificates it was issued under.

mod grant;
#[cfg(test)]
pub(crate) mod tests;
mod token;
mod verb;

pub use grant::{Grant, check_grants, covered, permits};
pub use token::{Audience, Capability, CapabilityRequest, CapabilityToken, Effective};
pub use verb::{Verb, Verbs};
