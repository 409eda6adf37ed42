//! Waiting for a condition instead of for a time.

use std::time::{Duration, Instant};

/// How long anything may take that usually takes less than two seconds.
pub const PATIENCE: Duration = Duration::from_secs(45);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` finds something, for at most [`PATIENCE`].
///
/// # Panics
/// When it finds nothing in time; `what` names what was waited for.
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, look)
}

/// Looks until `look` finds something.
///
/// # Panics
/// When it finds nothing within `limit`.
pub fn until_within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {} s: {what}", limit.as_secs());
        std::thread::sleep(LOOK_EVERY);
    }
}
