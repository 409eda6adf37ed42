//! When something is due.

use std::str::FromStr as _;

use chrono::{DateTime, Utc};
use croner::Cron;
use minicbor::{Decode, Encode};

/// The shortest time between two occurrences.
const EVERY_MS_MIN: u64 = 1000;
/// Bytes of a cron expression.
const CRON_BYTES_MAX: usize = 256;
/// Occurrences that are counted at most when they are left out.
const COUNTED_MAX: u64 = 10_000;

/// When something is due.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum When {
    /// Once, at this time, Unix milliseconds.
    #[n(0)]
    Once(#[n(0)] u64),
    /// Again and again: so many milliseconds after each other.
    #[n(1)]
    Every(#[n(0)] u64),
    /// As a cron expression says, in UTC: minute, hour, day, month, day of the week; six fields begin with the second.
    #[n(2)]
    Cron(#[n(0)] String),
}

fn time(unix_ms: u64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(i64::try_from(unix_ms).ok()?)
}

fn cron(expression: &str) -> Option<Cron> {
    Cron::from_str(expression).ok()
}

impl When {
    /// Whether it can be.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn check(&self) -> Result<(), String> {
        match self {
            When::Once(_) => Ok(()),
            When::Every(..EVERY_MS_MIN) => Err("it is due once a second at most".to_owned()),
            When::Every(_) => Ok(()),
            When::Cron(expression) if expression.len() > CRON_BYTES_MAX => {
                Err(format!("a cron expression has {CRON_BYTES_MAX} bytes at most"))
            }
            When::Cron(expression) => match Cron::from_str(expression) {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{expression:?} is no cron expression: {error}")),
            },
        }
    }

    /// Whether it is due once only.
    pub fn is_once(&self) -> bool {
        matches!(self, When::Once(_))
    }

    /// When it is due first, if it is defined now.
    pub fn first(&self, now_ms: u64) -> Option<u64> {
        match self {
            When::Once(at_ms) => Some(*at_ms),
            _ => self.after(now_ms),
        }
    }

    /// When it is due next behind this time; nothing when never again.
    pub fn after(&self, unix_ms: u64) -> Option<u64> {
        match self {
            When::Once(_) => None,
            When::Every(every_ms) => unix_ms.checked_add(*every_ms),
            When::Cron(expression) => {
                let next = cron(expression)?.find_next_occurrence(&time(unix_ms)?, false).ok()?;
                u64::try_from(next.timestamp_millis()).ok()
            }
        }
    }

    /// The last occurrence up to now, of those from `due_ms` on; and how many there were before it.
    pub fn last(&self, due_ms: u64, now_ms: u64) -> (u64, u64) {
        match self {
            When::Every(every_ms) => {
                let left_out = now_ms.saturating_sub(due_ms) / every_ms;
                (due_ms + left_out * every_ms, left_out)
            }
            _ => {
                let (mut last, mut left_out) = (due_ms, 0);
                while let Some(next) = self.after(last).filter(|next| *next <= now_ms) {
                    (last, left_out) = (next, left_out + 1);
                    if left_out == COUNTED_MAX {
                        // From here the last one is looked for from the other side.
                        return (self.latest(now_ms).unwrap_or(last).max(last), left_out);
                    }
                }
                (last, left_out)
            }
        }
    }

    fn latest(&self, now_ms: u64) -> Option<u64> {
        let When::Cron(expression) = self else { return None };
        let latest = cron(expression)?.find_previous_occurrence(&time(now_ms)?, true).ok()?;
        u64::try_from(latest.timestamp_millis()).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-30T10:20:30.500Z, a Monday.
    const NOW_MS: u64 = 1_796_034_030_500;

    fn at(text: &str) -> u64 {
        crate::patterns::cloud_event::parse_time(text).unwrap()
    }

    #[test]
    fn when_it_is_due_next() {
        for (expression, next) in [
            ("* * * * *", "2026-11-30T10:21:00Z"),
            ("*/10 * * * * *", "2026-11-30T10:20:40Z"),
            ("0 3 * * *", "2026-12-01T03:00:00Z"),
            ("0 3 * * 1", "2026-12-07T03:00:00Z"),
            ("0 3 * * SUN", "2026-12-06T03:00:00Z"),
            ("30 12 1 1 *", "2027-01-01T12:30:00Z"),
            ("@daily", "2026-12-01T00:00:00Z"),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
        ] {
            let when = When::Cron(expression.to_owned());
            when.check().unwrap();
            assert_eq!(when.first(NOW_MS), Some(at(next)), "{expression}");
        }
        assert_eq!(When::Every(1500).first(NOW_MS), Some(NOW_MS + 1500));
        assert_eq!(When::Once(5).first(NOW_MS), Some(5));
        assert_eq!(When::Once(5).after(NOW_MS), None);
        for wrong in ["", "* * * *", "61 * * * *", "soon", &"*".repeat(1000)] {
            When::Cron(wrong.to_owned()).check().unwrap_err();
        }
        When::Every(999).check().unwrap_err();
        // Never.
        assert_eq!(When::Cron("0 0 30 2 *".to_owned()).first(NOW_MS), None);
    }

    #[test]
    fn of_several_that_were_missed_the_last_counts() {
        let minutely = When::Cron("* * * * *".to_owned());
        let due = at("2026-11-30T10:00:00Z");
        assert_eq!(minutely.last(due, due), (due, 0));
        assert_eq!(minutely.last(due, due + 59_999), (due, 0));
        assert_eq!(minutely.last(due, due + 180_001), (due + 180_000, 3));
        // A year of them.
        let (last, left_out) = minutely.last(due, due + 31_536_000_001);
        assert_eq!((last, left_out), (due + 31_536_000_000, COUNTED_MAX));
        assert_eq!(When::Every(1000).last(due, due + 3999), (due + 3000, 3));
    }

    proptest! {
        #[test]
        fn the_last_is_not_in_the_future_and_the_next_is(every in 1000_u64..1_000_000, late in 0_u64..100_000_000) {
            let when = When::Every(every);
            let (last, left_out) = when.last(NOW_MS, NOW_MS + late);
            prop_assert_eq!(last, NOW_MS + left_out * every);
            prop_assert!(last <= NOW_MS + late);
            prop_assert!(when.after(last).unwrap() > NOW_MS + late);
        }
    }
}
