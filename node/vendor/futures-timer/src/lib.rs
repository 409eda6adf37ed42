//! Stands in for the crate `futures-timer`, whose `Delay` libp2p uses everywhere.
//!
//! The original runs a helper thread with a clock of its own. This one is tokio's timer: a thread less, and time that
//! passes where tokio's passes, so that a simulator which pauses tokio's clock holds libp2p's too. Must be used within a
//! tokio runtime.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// What stands for "never" when a deadline cannot be represented.
const FAR_AWAY: Duration = Duration::from_secs(86_400 * 365 * 30);

/// A future that is ready after a while.
pub struct Delay(Pin<Box<Sleep>>);

impl Delay {
    /// Ready `after` now.
    pub fn new(after: Duration) -> Delay {
        Delay(Box::pin(sleep(after)))
    }

    /// Ready `after` now, whatever was said before.
    pub fn reset(&mut self, after: Duration) {
        let now = Instant::now();
        let at = now.checked_add(after).unwrap_or_else(|| now + FAR_AWAY);
        self.0.as_mut().reset(at);
    }
}

impl Future for Delay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delay").finish_non_exhaustive()
    }
}
