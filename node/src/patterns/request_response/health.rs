//! What a caller has learned of one instance: how long it takes, how busy it says it is, whether it fails.
//!
//! A circuit breaker: [`FAILURES_IN_A_ROW`] failures open it, for a time that doubles with each opening; then one call is let
//! through, whose end closes or opens it again. An instance that fails at least half of its calls is an outlier, asked only when there is
//! nobody better. A failure here is one of the instance (no answer, a broken connection), never what a service says about a
//! request.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::core::Verdict;

/// So many open the breaker.
pub(super) const FAILURES_IN_A_ROW: u32 = 5;
/// How long it is open the first time, and at most.
const OPEN_FIRST: Duration = Duration::from_secs(1);
const OPEN_MAX: Duration = Duration::from_secs(30);
/// Calls before a share of failures says anything, and the share.
const SAMPLES_MIN: u32 = 10;
const FAILING: f64 = 0.5;
/// How much the latest call counts.
const WEIGHT: f64 = 0.2;
/// What an instance said of its load so long ago says nothing now.
const LOAD_STALE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct State {
    service_s: f64,
    load: u16,
    load_at: Option<Instant>,
    in_flight: u32,
    failures: u32,
    samples: u32,
    failing: f64,
    open_until: Option<Instant>,
    openings: u32,
    /// The one call that is let through after a pause is under way.
    probing: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

/// What is known now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) service_time: Duration,
    pub(super) load: u16,
    pub(super) in_flight: u32,
    pub(super) verdict: Verdict,
    /// How long the breaker is open yet.
    pub(super) open_for: Option<Duration>,
}

/// How a call ended, as far as it tells of the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It answered, whatever it said.
    Answered,
    /// It did not, and that is its fault or its connection's.
    Failed,
    /// It tells nothing.
    Unclear,
}

/// A call that is under way; its drop says that nobody waited for the end.
pub(super) struct UnderWay<'a> {
    health: &'a Health,
    started: Instant,
    is_over: bool,
}

impl Health {
    pub(super) fn known(&self) -> Known {
        let state = self.lock();
        let now = Instant::now();
        let is_fresh = state.load_at.is_some_and(|at| now.duration_since(at) < LOAD_STALE);
        let open_for = state.open_until.map(|until| until.saturating_duration_since(now));
        let verdict = match open_for {
            Some(left) if !left.is_zero() || state.probing => Verdict::Open,
            Some(_) => Verdict::Good,
            None if state.samples >= SAMPLES_MIN && state.failing >= FAILING => Verdict::Outlier,
            None => Verdict::Good,
        };
        Known {
            service_time: Duration::from_secs_f64(state.service_s),
            load: if is_fresh { state.load } else { 0 },
            in_flight: state.in_flight,
            verdict,
            open_for,
        }
    }

    /// A call begins.
    pub(super) fn begin(&self) -> UnderWay<'_> {
        let mut state = self.lock();
        state.in_flight += 1;
        state.probing |= state.open_until.is_some();
        UnderWay {
            health: self,
            started: Instant::now(),
            is_over: false,
        }
    }

    /// What the instance says of its load.
    pub(super) fn note_load(&self, load: Option<u16>) {
        if let Some(load) = load {
            let mut state = self.lock();
            (state.load, state.load_at) = (load, Some(Instant::now()));
        }
    }

    fn end(&self, ended: Ended, load: Option<u16>, started: Instant) {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(load) = load {
            (state.load, state.load_at) = (load, Some(now));
        }
        state.in_flight = state.in_flight.saturating_sub(1);
        state.probing = false;
        let failed = match ended {
            Ended::Unclear => return,
            Ended::Answered => 0.0,
            Ended::Failed => 1.0,
        };
        state.samples = state.samples.saturating_add(1);
        state.failing += (failed - state.failing) * WEIGHT;
        if ended == Ended::Answered {
            let took_s = now.duration_since(started).as_secs_f64();
            state.service_s = if state.service_s == 0.0 {
                took_s
            } else {
                state.service_s + (took_s - state.service_s) * WEIGHT
            };
            state.failures = 0;
            state.openings = 0;
            state.open_until = None;
            return;
        }
        state.failures += 1;
        if state.failures >= FAILURES_IN_A_ROW {
            let open = (OPEN_FIRST * 2_u32.saturating_pow(state.openings.min(10))).min(OPEN_MAX);
            state.openings += 1;
            state.open_until = Some(now + open);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay<'_> {
    /// The call is over.
    pub(super) fn end(self, ended: Ended) {
        self.end_with(ended, None);
    }

    /// The call is over, and the instance said this of its load.
    pub(super) fn end_with(mut self, ended: Ended, load: Option<u16>) {
        self.is_over = true;
        self.health.end(ended, load, self.started);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.health.end(Ended::Unclear, None, self.started);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_breaker_opens_lets_one_through_and_closes() {
        let health = Health::default();
        for _ in 0..FAILURES_IN_A_ROW {
            assert_eq!(health.known().verdict, Verdict::Good);
            health.begin().end(Ended::Failed);
        }
        assert_eq!(health.known().verdict, Verdict::Open);
        tokio::time::advance(OPEN_FIRST).await;
        assert_eq!(health.known().verdict, Verdict::Good, "one is let through");
        let probe = health.begin();
        assert_eq!(health.known().verdict, Verdict::Open, "and no other");
        probe.end(Ended::Failed);
        tokio::time::advance(OPEN_FIRST).await;
        assert_eq!(health.known().verdict, Verdict::Open, "twice as long");
        tokio::time::advance(OPEN_FIRST).await;
        health.begin().end(Ended::Answered);
        assert_eq!(health.known().open_for, None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_every_other_call_is_an_outlier_until_it_does_not() {
        let health = Health::default();
        for n in 0..20 {
            health
                .begin()
                .end(if n % 5 == 0 { Ended::Answered } else { Ended::Failed });
        }
        assert_eq!(health.known().verdict, Verdict::Outlier);
        for _ in 0..10 {
            health.begin().end(Ended::Answered);
        }
        assert_eq!(health.known().verdict, Verdict::Good);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_nobody_waited_for_says_nothing_and_an_old_load_neither() {
        let health = Health::default();
        for _ in 0..FAILURES_IN_A_ROW {
            drop(health.begin());
        }
        let known = health.known();
        assert_eq!((known.verdict, known.in_flight), (Verdict::Good, 0));
        health.note_load(Some(900));
        assert_eq!(health.known().load, 900);
        tokio::time::advance(LOAD_STALE).await;
        assert_eq!(health.known().load, 0);
    }
}
