//! The line that says how far a run is, on standard error.
//!
//! The run only leaves numbers here; a thread of its own shows them by the real clock, because the run's clock may be virtual.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use weft_node::config::format_duration;

use super::out::Out;
use crate::{
    report::{count, seconds},
    run::{Progress, Watch},
};

/// How often the line is written anew on a terminal, and how often a line is added elsewhere.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);
const LOG_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Shared {
    virtual_ms: AtomicU64,
    nodes_up: AtomicU64,
    sent: AtomicU64,
    delivered: AtomicU64,
    done: AtomicBool,
}

impl Watch for Shared {
    fn progress(&self, progress: Progress) {
        let ms = u64::try_from(progress.virtual_time.as_millis()).unwrap_or(u64::MAX);
        self.virtual_ms.store(ms, Ordering::Relaxed);
        self.nodes_up.store(progress.nodes_up as u64, Ordering::Relaxed);
        self.sent.store(progress.sent, Ordering::Relaxed);
        self.delivered.store(progress.delivered, Ordering::Relaxed);
    }
}

/// The line; gone when dropped.
pub(crate) struct Line {
    shared: Arc<Shared>,
    shower: Option<JoinHandle<()>>,
}

impl Line {
    /// Begins to show how far a run of this duration is.
    pub(crate) fn start(out: &Out, name: &str, duration: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        if out.quiet {
            return Self { shared, shower: None };
        }
        let (watched, name, terminal) = (shared.clone(), name.to_owned(), out.talk_terminal);
        let show = move || show(&watched, &name, duration, terminal);
        let shower = std::thread::Builder::new().name("progress".into()).spawn(show).ok();
        Self { shared, shower }
    }

    /// For the run, to leave its numbers.
    pub(crate) fn watch(&self) -> Arc<dyn Watch> {
        self.shared.clone()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Relaxed);
        if let Some(shower) = self.shower.take() {
            shower.thread().unpark();
            // It has nothing to say when it broke.
            let _ = shower.join();
        }
    }
}

fn show(shared: &Shared, name: &str, duration: Duration, terminal: bool) {
    let began = Instant::now();
    let interval = if terminal { TERMINAL_INTERVAL } else { LOG_INTERVAL };
    let mut next = began + interval;
    loop {
        let wait = next.saturating_duration_since(Instant::now());
        std::thread::park_timeout(wait);
        if shared.done.load(Ordering::Relaxed) {
            break;
        }
        if Instant::now() < next {
            continue;
        }
        next += interval;
        let line = words(shared, name, duration, began.elapsed());
        let text = if terminal {
            format!("\r\u{1b}[K{line}")
        } else {
            format!("{line}\n")
        };
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
    if terminal {
        let _ = std::io::stderr().lock().write_all(b"\r\x1b[K");
    }
}

fn words(shared: &Shared, name: &str, duration: Duration, wall: Duration) -> String {
    let at = Duration::from_millis(shared.virtual_ms.load(Ordering::Relaxed));
    let percent = at.as_secs_f64() / duration.as_secs_f64().max(1e-9) * 100.0;
    format!(
        "{name}: {:.1} s of {} ({percent:.0} %) in {}, {} nodes up, {} sent, {} delivered",
        at.as_secs_f64(),
        format_duration(duration),
        seconds(wall.as_secs_f64()),
        count(shared.nodes_up.load(Ordering::Relaxed)),
        count(shared.sent.load(Ordering::Relaxed)),
        count(shared.delivered.load(Ordering::Relaxed)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_both_times() {
        let shared = Shared::default();
        shared.progress(Progress {
            virtual_time: Duration::from_millis(12_300),
            nodes_up: 100,
            sent: 1234,
            delivered: 123_456,
        });
        assert_eq!(
            words(&shared, "hello", Duration::from_secs(60), Duration::from_millis(2500)),
            "hello: 12.3 s of 1m (20 %) in 2.5 s, 100 nodes up, 1 234 sent, 123 456 delivered"
        );
    }
}
