//! Waiting longer after every failure, up to a bound.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3);

/// The next wait after a failure.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// A short first wait.
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The wait for this failure; the next one is twice as long.
    pub(crate) fn step(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        wait
    }

    /// Back to the first wait, after a success.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }
}
