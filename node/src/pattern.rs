//! What a pattern is: a room of one shape, for insiders and outsiders alike.
//!
//! A pattern is given a [`Context`] and gives back a typed handle. It sees neither the swarm, nor the disk, nor the
//! clock, nor another pattern's insides; one that stands on another uses its handle ([`Handles`]).

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::Arc,
};

use crate::{context::Context, error::NodeError};

/// One pattern of data and communication flow.
pub trait Pattern: Send + 'static {
    /// Its name in protocols, keyspaces, metrics and configuration: `[a-z_]`, at most 64 bytes.
    const ID: &'static str;
    /// What applications ask it by; cheap to clone.
    type Handle: Clone + Send + Sync + 'static;

    /// Starts it. Tasks are spawned through the context and end with it.
    fn start(self, context: Context) -> impl Future<Output = Result<Self::Handle, NodeError>> + Send;
}

/// A handle without its type.
pub(crate) type AnyHandle = Arc<dyn Any + Send + Sync>;
type Starting = Pin<Box<dyn Future<Output = Result<AnyHandle, NodeError>> + Send>>;

/// The handles of patterns that have been started.
#[derive(Clone, Default)]
pub struct Handles(HashMap<TypeId, AnyHandle>);

impl Handles {
    pub(crate) fn insert(&mut self, pattern: TypeId, handle: AnyHandle) {
        self.0.insert(pattern, handle);
    }

    /// The handle of a pattern; `None` when the node was built without it, or when it comes later.
    pub fn get<P: Pattern>(&self) -> Option<P::Handle> {
        self.0.get(&TypeId::of::<P>())?.downcast_ref::<P::Handle>().cloned()
    }
}

/// The same without types, for the list of a node's patterns.
pub(crate) struct DynPattern {
    pub(crate) id: &'static str,
    pub(crate) start: Box<dyn FnOnce(Context) -> Starting + Send>,
}

impl DynPattern {
    pub(crate) fn new<P: Pattern>(pattern: P) -> Self {
        let start = move |context: Context| -> Starting {
            Box::pin(async move { Ok(Arc::new(pattern.start(context).await?) as AnyHandle) })
        };
        DynPattern {
            id: P::ID,
            start: Box::new(start),
        }
    }
}
