//! Round trips between cities, as measured: the averages one cloud publishes for its regions.
//!
//! From IBM Cloud's documentation of the latency between its regions, 28 September to 27 October 2024; the two directions
//! differ by a few milliseconds there, the mean of both is here. Within a city: between its data centres.

use std::time::Duration;

/// The cities, in the order of the matrix.
pub const CITIES: [&str; 10] = [
    "Dallas",
    "Toronto",
    "Washington",
    "Frankfurt",
    "London",
    "Madrid",
    "Osaka",
    "Sydney",
    "Tokyo",
    "Sao Paulo",
];

/// Round trips in milliseconds, below the diagonal.
const ROUND_TRIP_MS: [&[u16]; 10] = [
    &[],
    &[34],
    &[31, 19],
    &[123, 92, 91],
    &[114, 84, 76, 13],
    &[119, 108, 90, 29, 27],
    &[150, 170, 176, 233, 244, 259],
    &[185, 214, 214, 250, 261, 275, 122],
    &[142, 163, 168, 231, 243, 256, 9, 115],
    &[144, 131, 119, 198, 188, 207, 292, 328, 285],
];

/// Round trip within a city.
const WITHIN_MS: u64 = 2;

/// The number of a city, however it is capitalised; `São Paulo` too.
pub fn city(name: &str) -> Option<usize> {
    let plain = name.trim().to_lowercase().replace('ã', "a");
    CITIES.iter().position(|city| city.to_lowercase() == plain)
}

/// One way from city to city: half the round trip.
pub fn one_way(from: usize, to: usize) -> Duration {
    let (low, high) = (from.min(to), from.max(to));
    let round_trip_ms = ROUND_TRIP_MS
        .get(high)
        .and_then(|row| row.get(low))
        .map_or(WITHIN_MS, |ms| u64::from(*ms));
    Duration::from_micros(round_trip_ms * 500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_a_latency() {
        for from in 0..CITIES.len() {
            for to in 0..CITIES.len() {
                let ms = one_way(from, to).as_secs_f64() * 1000.0;
                assert_eq!(one_way(from, to), one_way(to, from));
                assert_eq!(ms == 1.0, from == to, "{from} {to}: {ms} ms");
            }
        }
        assert_eq!(city("São Paulo"), Some(9));
        assert_eq!(city("TOKYO"), Some(8));
        assert_eq!(city("Atlantis"), None);
        assert_eq!(one_way(8, 6), Duration::from_micros(4500));
    }
}
