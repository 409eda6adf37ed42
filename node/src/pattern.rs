//! What a pattern is: a room of one shape, for insiders and outsiders alike.
//!
//! A pattern is given a [`Context`] and gives back a typed handle. It sees neither the swarm, nor the disk, nor the
//! clock, nor another pattern's insides.

use std::{any::Any, future::Future, pin::Pin};

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
pub(crate) type AnyHandle = Box<dyn Any + Send + Sync>;
type Starting = Pin<Box<dyn Future<Output = Result<AnyHandle, NodeError>> + Send>>;

/// The same without types, for the list of a node's patterns.
pub(crate) struct DynPattern {
    pub(crate) id: &'static str,
    pub(crate) start: Box<dyn FnOnce(Context) -> Starting + Send>,
}

impl DynPattern {
    pub(crate) fn new<P: Pattern>(pattern: P) -> Self {
        let start = move |context: Context| -> Starting {
            Box::pin(async move { Ok(Box::new(pattern.start(context).await?) as AnyHandle) })
        };
        DynPattern {
            id: P::ID,
            start: Box::new(start),
        }
    }
}
