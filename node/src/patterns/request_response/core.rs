//! Which instance to ask, and whether to ask another: decisions without I/O.

use std::time::Duration;

use crate::error::ErrorKind;

/// From so much of what it can do at once, in thousandths, a caller looks further away.
const FULL: u16 = 800;
/// What is taken for the round trip to an instance that was never measured.
const UNMEASURED: Duration = Duration::from_millis(50);
/// Differences below it say nothing.
const NEAR: Duration = Duration::from_micros(200);
/// So many of our own calls in flight weigh as much as a full instance.
const OWN_FULL: f64 = 16.0;

/// What the caller's experience with an instance says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing against it.
    Good,
    /// It failed more often than not: only when there is nobody better.
    Outlier,
    /// It failed again and again: not now.
    Open,
}

/// What is known of an instance when it is chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) is_local: bool,
    pub(super) is_connected: bool,
    /// It says that it is where this node is.
    pub(super) same_zone: bool,
    pub(super) rtt: Option<Duration>,
    /// How long its service took lately.
    pub(super) service_time: Duration,
    /// What it said last, thousandths of what it can do at once.
    pub(super) load: u16,
    /// Our own calls that it has not answered.
    pub(super) in_flight: u32,
    pub(super) verdict: Verdict,
}

impl Candidate {
    /// How far away it is: here, in the same zone, connected, or not even that.
    fn distance(&self) -> u8 {
        match self {
            _ if self.verdict == Verdict::Outlier => 4,
            _ if self.is_local => 0,
            _ if !self.is_connected => 3,
            _ if self.same_zone => 1,
            _ => 2,
        }
    }

    /// What asking it costs, as a time; only for comparing.
    fn cost(&self) -> f64 {
        let way = if self.is_local {
            Duration::ZERO
        } else {
            self.rtt.unwrap_or(UNMEASURED)
        };
        let business = f64::from(self.load) / 1000.0 + f64::from(self.in_flight) / OWN_FULL;
        (way.max(NEAR) + self.service_time).as_secs_f64() * (1.0 + business)
    }
}

/// The order in which to ask: first the better one of two drawn from the nearest distance at which somebody has room,
/// then the rest, the near before the far. `dice` draws.
pub(super) fn order(candidates: &[Candidate], dice: u64) -> Vec<usize> {
    let mut able: Vec<usize> = (0..candidates.len())
        .filter(|at| candidates[*at].verdict != Verdict::Open)
        .collect();
    let cost = |at: &usize| candidates[*at].cost();
    able.sort_by(|a, b| {
        let (near, far) = (candidates[*a].distance(), candidates[*b].distance());
        near.cmp(&far).then(cost(a).total_cmp(&cost(b)))
    });
    let has_room = |at: &usize| candidates[*at].load < FULL;
    let Some(pool_at) = able
        .iter()
        .find(|at| has_room(at))
        .or(able.first())
        .map(|at| candidates[*at].distance())
    else {
        return able;
    };
    let pool: Vec<usize> = able
        .iter()
        .copied()
        .filter(|at| candidates[*at].distance() == pool_at)
        .collect();
    let count = pool.len() as u64;
    let one = dice % count;
    let other = if count > 1 {
        (one + 1 + (dice >> 32) % (count - 1)) % count
    } else {
        one
    };
    let (one, other) = (pool[one as usize], pool[other as usize]);
    let first = if cost(&other) < cost(&one) { other } else { one };
    able.retain(|at| *at != first);
    able.insert(0, first);
    able
}

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The instance surely did not see the request.
    NotSeen(ErrorKind),
    /// It may have.
    Seen,
}

/// Whether another instance may be asked without serving the call twice.
pub(super) fn may_ask_another(attempt: Attempt) -> bool {
    matches!(attempt, Attempt::NotSeen(kind) if kind != ErrorKind::Invalid && kind != ErrorKind::Denied)
}

/// What it means that no instance answered, given how each attempt ended.
pub(super) fn nobody(attempts: &[ErrorKind]) -> ErrorKind {
    if attempts.is_empty() {
        ErrorKind::NotFound
    } else if attempts.iter().all(|k| *k == ErrorKind::Busy) {
        ErrorKind::Busy
    } else if attempts.iter().all(|k| *k == ErrorKind::NotFound) {
        ErrorKind::NotFound
    } else {
        ErrorKind::Unreachable
    }
}

/// How much may be tried again: each call earns a little, each further try costs one. So a service in trouble gets a
/// tenth more calls, not twice as many.
#[derive(Debug)]
pub(super) struct Budget {
    /// In tenths of a try.
    tenths: u32,
}

impl Budget {
    const TENTHS_MAX: u32 = 100;

    pub(super) fn new() -> Self {
        Budget {
            tenths: Self::TENTHS_MAX,
        }
    }

    /// A call is made.
    pub(super) fn earn(&mut self) {
        self.tenths = (self.tenths + 1).min(Self::TENTHS_MAX);
    }

    /// Takes one further try, if there is any.
    pub(super) fn spend(&mut self) -> bool {
        match self.tenths.checked_sub(10) {
            Some(left) => {
                self.tenths = left;
                true
            }
            None => false,
        }
    }
}
