//! Values that many nodes hold alike.
//!
//! What a member says of itself is the same wherever it is known, and so is a message. On a machine there is one node to a
//! process, and nobody to share with; a simulator has thousands in one, whose memory would be the square of their number.
//!
//! Promises: what is handed out equals what was given, and never changes. So nothing a node does depends on whether it was
//! shared.

use std::{
    any::Any,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hash},
    sync::Arc,
};

/// A value that can be compared with any other.
pub trait Alike: Any + Send + Sync {
    /// Whether `other` is of the same type and equal.
    fn is_like(&self, other: &dyn Any) -> bool;
    /// The same for equal values, in every process.
    fn digest(&self) -> u64;
}

impl<T: Any + Send + Sync + Eq + Hash> Alike for T {
    fn is_like(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<T>().is_some_and(|other| other == self)
    }

    fn digest(&self) -> u64 {
        BuildHasherDefault::<DefaultHasher>::default().hash_one(self)
    }
}

/// Where values are shared.
pub trait Sharing: Send + Sync + 'static {
    /// This value, or an equal one that somebody holds already.
    fn shared(&self, value: Arc<dyn Alike>) -> Arc<dyn Alike>;
}

/// Where nothing is: everybody keeps what is their own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unshared;

impl Sharing for Unshared {
    fn shared(&self, value: Arc<dyn Alike>) -> Arc<dyn Alike> {
        value
    }
}

/// [`Sharing::shared`] for a value whose type is known.
pub fn share<T: Alike>(sharing: &dyn Sharing, value: T) -> Arc<T> {
    let value = Arc::new(value);
    let shared: Arc<dyn Any + Send + Sync> = sharing.shared(Arc::clone(&value) as Arc<dyn Alike>);
    shared.downcast().unwrap_or(value)
}
