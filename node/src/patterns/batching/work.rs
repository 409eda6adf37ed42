//! What becomes of closed batches: how many are under way at once, when a failed one is tried again, and how a poisoned record is found.
//! Decisions without I/O.
//!
//! Of one key at most one batch is under way, so its records arrive in their order; the next one waits until it is delivered or dead. Batches
//! without a key wait for nobody.
//!
//! A batch whose destination is away or busy waits and is tried again as it is, for as long as that takes. One that the destination
//! fails is cut in half until the record that cannot be taken is alone; that one is tried some more times, and then is dead.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::core::Closed;

const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What came of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The destination has it.
    Delivered,
    /// It was not tried, or the destination had no room: as it is, later; not before this time has passed, if one is named.
    Later(Option<Duration>, String),
    /// The destination could not take it, for this reason.
    Failed(String),
    /// It took all but these, named by their place, each with the reason.
    Partly(Vec<(usize, String)>),
}

/// Records on their way together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job<T> {
    place: Place,
    /// They.
    pub items: Vec<T>,
    /// How often exactly these failed.
    failures: u32,
}

impl<T> Job<T> {
    /// Which try of exactly these it is, from 0.
    pub fn attempt(&self) -> u32 {
        self.failures
    }

    /// What they have in common; empty for records without a key.
    pub fn key(&self) -> &str {
        match &self.place {
            Place::Of(key) => key,
            Place::Nameless(_) => "",
        }
    }
}

/// What is handed over one after the other: the batches of a key, or the pieces of one batch without a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Of(String),
    Nameless(u64),
}

/// What a job leaves behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Settled<T> {
    /// The destination has these.
    pub delivered: Vec<T>,
    /// It will never take these, for which reason.
    pub dead: Vec<(T, String)>,
}

impl<T> Default for Settled<T> {
    fn default() -> Self {
        Settled {
            delivered: Vec::new(),
            dead: Vec::new(),
        }
    }
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<Job<T>>,
    is_busy: bool,
    is_paused: bool,
    pause: Duration,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Lane {
            waiting: VecDeque::new(),
            is_busy: false,
            is_paused: false,
            pause: PAUSE_FIRST,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Work<T> {
    lanes: BTreeMap<Place, Lane<T>>,
    /// Lanes that have something to hand over, in turn.
    ready: VecDeque<Place>,
    /// Those that pause.
    paused: BTreeSet<(Instant, Place)>,
    nameless: u64,
    under_way: usize,
    window: Window,
    attempts_max: u32,
}

/// How many batches are under way at once: one more for each round in which all were delivered about as quickly as ever, a quarter fewer
/// when it gets slow or something does not fit (additive increase, multiplicative decrease).
#[derive(Debug)]
struct Window {
    size: f64,
    max: usize,
    quickest: Option<Duration>,
    usual: Option<Duration>,
}

impl Window {
    fn delivered(&mut self, took: Duration) {
        let quickest = self.quickest.map_or(took, |known| known.min(took));
        self.quickest = Some(quickest);
        let usual = self.usual.map_or(took, |known| (known * 7 + took) / 8);
        self.usual = Some(usual);
        // What is quick anyway may vary.
        let is_slow = usual > (quickest * 4).max(Duration::from_millis(20));
        let change = if is_slow { -0.25 } else { 1.0 / self.size };
        self.size = (self.size + change).clamp(1.0, self.max as f64);
    }

    fn shrink(&mut self) {
        self.size = (self.size * 0.75).max(1.0);
    }
}

impl<T> Work<T> {
    /// One with nothing to do. At most `window_max` batches are under way at once; a record alone is tried `attempts_max` times.
    pub fn new(window_max: usize, attempts_max: u32) -> Self {
        let window = Window {
            size: 1.0,
            max: window_max.max(1),
            quickest: None,
            usual: None,
        };
        Work {
            lanes: BTreeMap::new(),
            ready: VecDeque::new(),
            paused: BTreeSet::new(),
            nameless: 0,
            under_way: 0,
            window,
            attempts_max: attempts_max.max(1),
        }
    }

    /// Takes a closed batch.
    pub fn add(&mut self, closed: Closed<T>) {
        let Closed { key, items, .. } = closed;
        let place = if key.is_empty() {
            self.nameless += 1;
            Place::Nameless(self.nameless)
        } else {
            Place::Of(key)
        };
        let job = Job {
            place: place.clone(),
            items,
            failures: 0,
        };
        let lane = self.lanes.entry(place.clone()).or_default();
        lane.waiting.push_back(job);
        if lane.waiting.len() == 1 && !lane.is_busy && !lane.is_paused {
            self.ready.push_back(place);
        }
    }

    /// Batches that are closed and not done with.
    pub fn batches(&self) -> usize {
        self.under_way + self.lanes.values().map(|lane| lane.waiting.len()).sum::<usize>()
    }

    /// Batches that are being handed over.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// How many may be at once, now.
    pub fn window(&self) -> usize {
        self.window.size as usize
    }

    /// What can be handed over now.
    pub fn next(&mut self, now: Instant) -> Option<Job<T>> {
        while let Some((at, place)) = self.paused.first().cloned() {
            if at > now {
                break;
            }
            self.paused.pop_first();
            if let Some(lane) = self.lanes.get_mut(&place) {
                lane.is_paused = false;
                self.ready.push_back(place);
            }
        }
        if self.under_way >= self.window() {
            return None;
        }
        let lane = self.lanes.get_mut(&self.ready.pop_front()?)?;
        let job = lane.waiting.pop_front()?;
        lane.is_busy = true;
        self.under_way += 1;
        Some(job)
    }

    /// When a pause ends.
    pub fn next_due(&self) -> Option<Instant> {
        self.paused.first().map(|(at, _)| *at)
    }

    /// What came of a job that took so long.
    pub fn done(&mut self, job: Job<T>, outcome: Outcome, took: Duration, now: Instant) -> Settled<T> {
        self.under_way = self.under_way.saturating_sub(1);
        let place = job.place.clone();
        let lane = self.lanes.entry(place.clone()).or_default();
        lane.is_busy = false;
        let (mut settled, mut pause) = (Settled::default(), None);
        match outcome {
            Outcome::Delivered => {
                self.window.delivered(took);
                lane.pause = PAUSE_FIRST;
                settled.delivered = job.items;
            }
            Outcome::Later(at_least, _) => {
                self.window.shrink();
                pause = Some(at_least.unwrap_or_default().clamp(lane.pause, PAUSE_MAX));
                lane.pause = (lane.pause * 2).min(PAUSE_MAX);
                lane.waiting.push_front(job);
            }
            Outcome::Failed(reason) if job.items.len() > 1 => halve(lane, job, &reason),
            Outcome::Failed(reason) => fail(lane, job, reason, self.attempts_max, &mut settled),
            Outcome::Partly(failed) => {
                self.window.delivered(took);
                pick(lane, job, &failed, self.attempts_max, &mut settled);
            }
        }
        match lane.waiting.front() {
            Some(job) if job.failures > 0 && pause.is_none() => {
                pause = Some(lane.pause);
                lane.pause = (lane.pause * 2).min(PAUSE_MAX);
            }
            _ if !settled.dead.is_empty() => lane.pause = PAUSE_FIRST,
            _ => {}
        }
        if let Some(pause) = pause {
            let at = now + pause;
            lane.is_paused = true;
            self.paused.insert((at, place));
        } else if lane.waiting.is_empty() {
            self.lanes.remove(&place);
        } else {
            self.ready.push_back(place);
        }
        settled
    }
}

/// Cuts a failed batch in half.
fn halve<T>(lane: &mut Lane<T>, mut job: Job<T>, reason: &str) {
    tracing::debug!(
        key = job.key(),
        records = job.items.len(),
        reason,
        "a batch failed, and is cut in half"
    );
    let second = Job {
        place: job.place.clone(),
        items: job.items.split_off(job.items.len().div_ceil(2)),
        failures: 0,
    };
    job.failures = 0;
    lane.waiting.push_front(second);
    lane.waiting.push_front(job);
}

/// A record failed that is alone: it is tried again, unless that was often enough.
fn fail<T>(lane: &mut Lane<T>, mut job: Job<T>, reason: String, attempts_max: u32, settled: &mut Settled<T>) {
    job.failures += 1;
    if job.failures < attempts_max {
        lane.waiting.push_front(job);
    } else {
        settled
            .dead
            .extend(job.items.into_iter().map(|item| (item, reason.clone())));
    }
}

/// Of a batch some were not taken: each of them is alone from now on.
fn pick<T>(lane: &mut Lane<T>, job: Job<T>, failed: &[(usize, String)], attempts_max: u32, settled: &mut Settled<T>) {
    let failures = if job.items.len() == 1 { job.failures + 1 } else { 1 };
    let mut again = Vec::new();
    for (index, item) in job.items.into_iter().enumerate() {
        match failed.iter().find(|(failed, _)| *failed == index) {
            None => settled.delivered.push(item),
            Some((_, reason)) if failures >= attempts_max => settled.dead.push((item, reason.clone())),
            Some(_) => again.push(Job {
                place: job.place.clone(),
                items: vec![item],
                failures,
            }),
        }
    }
    again.into_iter().rev().for_each(|job| lane.waiting.push_front(job));
}
