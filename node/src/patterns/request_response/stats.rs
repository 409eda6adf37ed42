//! What became of the calls of each endpoint: counts, times, the last failure.
//!
//! Times are kept in buckets an eighth wide, so a percentile is right within that; an endpoint that was never called has none.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use weft_protocol::patterns::request_response::{CallResponse, EndpointStats};

/// Buckets of one power of two.
const STEPS: u64 = 8;
/// Up to 2^36 microseconds, which is nineteen hours.
const BUCKETS: usize = 34 * STEPS as usize;

/// How long things took.
#[derive(Debug)]
struct Times {
    counts: Box<[u32; BUCKETS]>,
    all: u64,
}

impl Times {
    fn new() -> Self {
        Times {
            counts: Box::new([0; BUCKETS]),
            all: 0,
        }
    }

    fn note(&mut self, us: u64) {
        if let Some(count) = self.counts.get_mut(bucket(us)) {
            *count = count.saturating_add(1);
            self.all += 1;
        }
    }

    /// A bound that so large a share of the times keeps.
    fn percentile_us(&self, share: f64) -> u64 {
        let wanted = (self.all as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return upper(index);
            }
        }
        0
    }
}

/// Where a time is counted: below 16 exactly, above in eighths of its power of two.
fn bucket(us: u64) -> usize {
    if us < 2 * STEPS {
        return us as usize;
    }
    let power = u64::from(us.ilog2());
    let within = (us >> (power - 3)) - STEPS;
    (((power - 2) * STEPS + within) as usize).min(BUCKETS - 1)
}

/// The largest time that is counted there.
fn upper(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * STEPS {
        return index;
    }
    let (power, within) = (index / STEPS + 2, index % STEPS);
    ((STEPS + within + 1) << (power - 3)) - 1
}

#[derive(Debug, Default)]
struct Counts {
    requests: u64,
    errors: u64,
    abandoned: u64,
    rejected: u64,
    in_flight: u32,
    total: Duration,
    times: Option<Times>,
    last_error: Option<String>,
}

/// The counts of one endpoint.
#[derive(Debug, Default)]
pub(super) struct EndpointCounts(Mutex<Counts>);

impl EndpointCounts {
    /// A call is handed to the service.
    pub(super) fn begin(&self) {
        let mut counts = self.lock();
        counts.requests += 1;
        counts.in_flight += 1;
    }

    /// A call is over; without an answer, its caller did not wait for one.
    pub(super) fn end(&self, answer: Option<&CallResponse>, took: Duration) {
        let mut counts = self.lock();
        counts.in_flight = counts.in_flight.saturating_sub(1);
        match answer {
            None => {
                counts.abandoned += 1;
                return;
            }
            Some(CallResponse::Failed { reason, .. }) => {
                counts.errors += 1;
                counts.last_error = Some(reason.clone());
            }
            Some(_) => {}
        }
        counts.total += took;
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        counts.times.get_or_insert_with(Times::new).note(us);
    }

    /// A call is turned away.
    pub(super) fn reject(&self) {
        self.lock().rejected += 1;
    }

    /// How long an answer takes on average; nothing before the first.
    pub(super) fn mean(&self) -> Option<Duration> {
        let counts = self.lock();
        let answered = counts.times.as_ref()?.all.max(1);
        Some(counts.total / u32::try_from(answered).unwrap_or(u32::MAX))
    }

    /// All of it.
    pub(super) fn snapshot(&self, name: &str) -> EndpointStats {
        let counts = self.lock();
        let percentile = |share| counts.times.as_ref().map_or(0, |times| times.percentile_us(share));
        EndpointStats {
            name: name.to_owned(),
            requests: counts.requests,
            errors: counts.errors,
            abandoned: counts.abandoned,
            rejected: counts.rejected,
            in_flight: counts.in_flight,
            p50_us: percentile(0.5),
            p99_us: percentile(0.99),
            total_us: u64::try_from(counts.total.as_micros()).unwrap_or(u64::MAX),
            last_error: counts.last_error.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_where_its_bound_is_at_most_an_eighth_more() {
        let mut last = 0;
        for us in (0..5000).chain((0..40).map(|n| 3_u64 << n)) {
            let (at, bound) = (bucket(us), upper(bucket(us)));
            assert!(at >= last || us < 5000);
            last = at;
            if at < BUCKETS - 1 {
                assert!(bound >= us && bound <= us + us / 8, "{us} is counted up to {bound}");
            }
        }
    }

    #[test]
    fn percentiles_are_those_of_what_was_noted() {
        let counts = EndpointCounts::default();
        for ms in 1..=100 {
            counts.begin();
            let answer = CallResponse::answer(Vec::new(), Vec::new());
            counts.end(Some(&answer), Duration::from_millis(ms));
        }
        let stats = counts.snapshot("default");
        assert!((50_000..=57_000).contains(&stats.p50_us), "{stats:?}");
        assert!((99_000..=112_000).contains(&stats.p99_us), "{stats:?}");
        assert_eq!(counts.mean(), Some(Duration::from_micros(50_500)));
        assert_eq!((stats.requests, stats.in_flight), (100, 0));
    }

    #[test]
    fn failures_and_those_nobody_waited_for_are_told_apart() {
        let counts = EndpointCounts::default();
        counts.begin();
        counts.end(Some(&CallResponse::failed(7, "no apples")), Duration::ZERO);
        counts.begin();
        counts.end(None, Duration::ZERO);
        counts.begin();
        counts.reject();
        let stats = counts.snapshot("x");
        assert_eq!((stats.requests, stats.errors, stats.abandoned), (3, 1, 1));
        assert_eq!((stats.rejected, stats.in_flight), (1, 1));
        assert_eq!(stats.last_error.as_deref(), Some("no apples"));
    }
}
