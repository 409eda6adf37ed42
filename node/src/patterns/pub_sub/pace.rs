//! At most one message of each subject in a stretch of time: for who looks now and then at what changes all the time.
//!
//! Decisions without I/O, told the time.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;
use weft_protocol::Subject;

/// Subjects whose last message is remembered; with more, one may be let through early.
const SUBJECTS_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the last message of each was let through.
    last: HashMap<Subject, Instant>,
}

impl Pace {
    /// Whether a message is handed on now, where so long a pause is wanted.
    pub(super) fn lets_through(&mut self, subject: &Subject, pause: Duration, now: Instant) -> bool {
        let is_over = |last: &Instant| now.saturating_duration_since(*last) >= pause;
        if let Some(last) = self.last.get_mut(subject) {
            let is_over = is_over(last);
            if is_over {
                *last = now;
            }
            return is_over;
        }
        if self.last.len() >= SUBJECTS_MAX {
            self.last.retain(|_, last| !is_over(last));
        }
        if self.last.len() >= SUBJECTS_MAX {
            self.last.clear();
        }
        self.last.insert(subject.clone(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    #[test]
    fn each_subject_has_a_pace_of_its_own() {
        let (mut pace, second, start) = (Pace::default(), Duration::from_secs(1), Instant::now());
        let mut let_through = Vec::new();
        for tenth in 0..30 {
            let now = start + Duration::from_millis(100) * tenth;
            for (name, every) in [("a", 1), ("b", 7)] {
                if tenth % every == 0 && pace.lets_through(&subject(name), second, now) {
                    let_through.push((name, tenth));
                }
            }
        }
        assert_eq!(
            let_through,
            [("a", 0), ("b", 0), ("a", 10), ("b", 14), ("a", 20), ("b", 28)]
        );
    }

    #[test]
    fn very_many_subjects_take_bounded_memory() {
        let (mut pace, second, start) = (Pace::default(), Duration::from_secs(1), Instant::now());
        for n in 0..3 * SUBJECTS_MAX {
            assert!(pace.lets_through(&subject(&format!("a.{n}")), second, start));
        }
        assert!(pace.last.len() <= SUBJECTS_MAX);
        // Those whose time is over make room first.
        let later = start + Duration::from_secs(2);
        for n in 0..SUBJECTS_MAX {
            pace.lets_through(&subject(&format!("b.{n}")), second, later);
        }
        assert!(!pace.lets_through(&subject("b.0"), second, later) && pace.last.len() <= SUBJECTS_MAX);
    }
}
