//! A range of seeds, as written on the command line.

/// The most seeds of one sweep.
const SEEDS_MAX: u64 = 1_000_000;

/// Seeds from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seeds {
    /// The first.
    pub(crate) first: u64,
    /// The last.
    pub(crate) last: u64,
}

impl Seeds {
    pub(crate) fn iter(self) -> std::ops::RangeInclusive<u64> {
        self.first..=self.last
    }

    pub(crate) fn count(self) -> u64 {
        self.last - self.first + 1
    }
}

/// `1..100`, both ends included; `7` alone.
pub(crate) fn seeds(text: &str) -> Result<Seeds, String> {
    let help = || format!("`{text}` is no range of seeds; write for example 1..100");
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| help());
    let (first, last) = match text.split_once("..") {
        Some((first, last)) => (number(first)?, number(last.trim_start_matches('='))?),
        None => (number(text)?, number(text)?),
    };
    if last < first {
        return Err(format!("`{text}` ends before it begins"));
    }
    if last - first >= SEEDS_MAX {
        return Err(format!("`{text}` are more than {SEEDS_MAX} seeds"));
    }
    Ok(Seeds { first, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(seeds("1..100"), Ok(Seeds { first: 1, last: 100 }));
        assert_eq!(seeds("1..=3").map(|seeds| seeds.count()), Ok(3));
        assert_eq!(seeds("7").map(|seeds| seeds.iter().collect::<Vec<_>>()), Ok(vec![7]));
        assert_eq!(seeds("5..2"), Err("`5..2` ends before it begins".into()));
        assert!(seeds("a..b").is_err() && seeds("..").is_err() && seeds("-1..2").is_err());
        assert!(seeds("0..18446744073709551615").is_err());
    }
}
