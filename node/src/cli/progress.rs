//! How far long work is: one line on standard error that is written over, where a person looks at it.

use std::io::{Write as _, stderr};

use tokio::time::{Duration, Instant};

use super::{output::Out, view};

/// How often the line changes.
pub(crate) const EVERY: Duration = Duration::from_millis(200);

/// See the module. The line is taken away on drop.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    total: Option<u64>,
    /// How an amount is said.
    amount: fn(u64) -> String,
    begun: Instant,
    shown: Option<Instant>,
    is_seen: bool,
}

impl Progress {
    /// Of work that has done `what` to so many bytes, of a total if that is known.
    pub(crate) fn new(out: &Out, what: &'static str, total: Option<u64>) -> Self {
        Progress {
            what,
            total,
            amount: view::bytes,
            begun: Instant::now(),
            shown: None,
            is_seen: out.talk_terminal && !out.json,
        }
    }

    /// The same of so many things.
    pub(crate) fn of_things(out: &Out, what: &'static str, total: Option<u64>) -> Self {
        Progress {
            amount: |count| count.to_string(),
            ..Progress::new(out, what, total)
        }
    }

    /// So much by now.
    pub(crate) fn show(&mut self, done: u64) {
        let last = self.shown.unwrap_or(self.begun);
        if !self.is_seen || last.elapsed() < EVERY {
            return;
        }
        self.shown = Some(Instant::now());
        // Nobody is left to be told when standard error is gone.
        let _ = write!(stderr(), "\r\u{1b}[K{}", self.line(done, self.begun.elapsed()));
        let _ = stderr().flush();
    }

    fn line(&self, amount: u64, took: Duration) -> String {
        let rate = (amount as f64 / took.as_secs_f64().max(0.001)) as u64;
        let (done, rate) = ((self.amount)(amount), (self.amount)(rate));
        match self.total.filter(|total| *total > 0) {
            Some(total) => {
                let share = (amount as f64 / total as f64 * 100.0).floor();
                format!("{} {done} of {} ({share} %), {rate}/s", self.what, (self.amount)(total))
            }
            None => format!("{} {done}, {rate}/s", self.what),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(stderr(), "\r\u{1b}[K");
            let _ = stderr().flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_much_of_how_much_and_how_fast() {
        let out = Out::piped(false, Box::new(std::io::sink()), Box::new(std::io::sink()));
        let of = Progress::new(&out, "sent", Some(10 << 20));
        assert_eq!(
            of.line(5 << 20, Duration::from_secs(2)),
            "sent 5.0 MiB of 10.0 MiB (50 %), 2.5 MiB/s"
        );
        let unknown = Progress::new(&out, "sent", None);
        assert_eq!(unknown.line(1000, Duration::from_secs(1)), "sent 1000 B, 1000 B/s");
        assert!(!of.is_seen);
    }
}
