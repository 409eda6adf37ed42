//! What a directed link does to what is sent over it: decisions without I/O, told the time and the dice.
//!
//! Of a stream a lost packet comes late, and what was sent after it waits for it; a lost datagram does not come, and waits for
//! nobody. Packets of one directed link share its bandwidth, whichever connection they belong to.

use std::{collections::HashMap, time::Duration};

use super::HostId;
use crate::{
    scenario::{Latency, Link},
    virtual_os::split_mix,
};

/// Bytes of a packet on the wire.
const SEGMENT_BYTES: usize = 1448;
/// Headers of one packet.
const HEADER_BYTES: usize = 52;
/// The shortest time after which a sender that hears nothing sends again.
const RETRANSMIT_NS: u64 = 200_000_000;
/// No link is faster.
const LATENCY_MIN_NS: u64 = 10_000;
/// Retransmissions of one packet.
const TRIES_MAX: u32 = 16;

/// A link as one connection uses it in one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Path {
    pub(crate) latency_ns: u64,
    pub(crate) jitter_ns: u64,
    pub(crate) bandwidth_bits: Option<u64>,
    pub(crate) loss: f64,
    pub(crate) reorder: f64,
}

impl Path {
    /// There and back, if the other direction is alike.
    pub(crate) fn round_trip_ns(&self) -> u64 {
        self.latency_ns * 2
    }

    /// When a sender that hears nothing sends again.
    pub(crate) fn retransmit_ns(&self) -> u64 {
        RETRANSMIT_NS.max(self.round_trip_ns() * 2)
    }

    /// When `len` bytes that begin to be sent at `departure_ns` are there, as far as this packet alone is concerned.
    /// `busy` says that more is under way, so that a loss is noticed by what arrives after it.
    pub(crate) fn arrival_ns(&self, departure_ns: u64, len: usize, busy: bool, dice: &mut u64) -> u64 {
        let mut at_ns = departure_ns + self.latency_ns;
        if self.jitter_ns > 0 {
            at_ns += (unit(dice) * self.jitter_ns as f64) as u64;
        }
        if self.reorder > 0.0 && unit(dice) < self.reorder {
            // It took a longer way: others overtake it, and a stream waits for it.
            at_ns += (unit(dice) * self.latency_ns as f64) as u64;
        }
        if self.loss > 0.0 {
            let segments = len.div_ceil(SEGMENT_BYTES).max(1);
            let any_lost = 1.0 - (1.0 - self.loss).powi(i32::try_from(segments).unwrap_or(i32::MAX));
            if unit(dice) < any_lost {
                at_ns += self.recovery_ns(busy, dice);
            }
        }
        at_ns
    }

    /// When a datagram that has left at `departure_ns` is there, if it is not lost. Others may overtake it.
    pub(crate) fn datagram_arrival_ns(&self, departure_ns: u64, dice: &mut u64) -> u64 {
        let without_loss = Path { loss: 0.0, ..*self };
        without_loss.arrival_ns(departure_ns, 0, false, dice)
    }

    fn recovery_ns(&self, busy: bool, dice: &mut u64) -> u64 {
        let mut pause_ns = self.retransmit_ns();
        let mut late_ns = if busy { self.round_trip_ns() } else { pause_ns };
        for _ in 0..TRIES_MAX {
            if unit(dice) >= self.loss {
                break;
            }
            late_ns += pause_ns;
            pause_ns *= 2;
        }
        late_ns
    }

    /// How long the link is busy with `len` bytes.
    fn sending_ns(&self, len: usize) -> Option<u64> {
        let bits = self.bandwidth_bits?.max(1);
        let wire_bytes = len + len.div_ceil(SEGMENT_BYTES).max(1) * HEADER_BYTES;
        Some(u64::try_from(wire_bytes as u128 * 8 * 1_000_000_000 / u128::from(bits)).unwrap_or(u64::MAX / 4))
    }
}

/// Between 0 and 1.
pub(crate) fn unit(dice: &mut u64) -> f64 {
    (split_mix(dice) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A rule for the links between two groups.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The sender's group; none: any.
    pub from: Option<u16>,
    /// The receiver's group; none: any.
    pub to: Option<u16>,
    /// What its links are like.
    pub link: Link,
}

/// All links, by rule. They are values that may be changed while the mesh runs.
#[derive(Debug)]
pub struct Links {
    seed: u64,
    default: Link,
    rules: Vec<Rule>,
    /// By host.
    groups: Vec<u16>,
    /// By host: the index into `round_trips_ns`.
    cities: Vec<u16>,
    /// From city to city.
    round_trips_ns: Vec<Vec<u64>>,
    /// Hosts whose links are worse for a while; the last one that names a host counts.
    degraded: Vec<(u64, Vec<HostId>, Link)>,
    /// Grows with every change.
    generation: u32,
    /// When each directed link with a bandwidth is free again.
    free_ns: HashMap<(HostId, HostId), u64>,
}

impl Links {
    /// Links that are all alike.
    pub fn new(seed: u64, default: Link) -> Self {
        Links {
            seed,
            default,
            rules: Vec::new(),
            groups: Vec::new(),
            cities: Vec::new(),
            round_trips_ns: Vec::new(),
            degraded: Vec::new(),
            generation: 1,
            free_ns: HashMap::new(),
        }
    }

    /// With rules by group; the last one that fits counts.
    #[must_use]
    pub fn with_rules(mut self, groups: Vec<u16>, rules: Vec<Rule>) -> Self {
        self.groups = groups;
        self.rules = rules;
        self
    }

    /// With a city for each host and the round trips between the cities.
    #[must_use]
    pub fn with_cities(mut self, cities: Vec<u16>, round_trips: &[Vec<Duration>]) -> Self {
        self.cities = cities;
        let nanoseconds = |row: &Vec<Duration>| row.iter().map(|rtt| ns(*rtt)).collect();
        self.round_trips_ns = round_trips.iter().map(nanoseconds).collect();
        self
    }

    /// Makes the links of some hosts like `link`, until [`Links::restore`] with the same number.
    pub fn degrade(&mut self, number: u64, hosts: Vec<HostId>, link: Link) {
        self.degraded.push((number, hosts, link));
        self.generation += 1;
    }

    /// Ends what [`Links::degrade`] began.
    pub fn restore(&mut self, number: u64) {
        self.degraded.retain(|(other, ..)| *other != number);
        self.generation += 1;
    }

    /// Grows with every change; a [`Path`] of an older one is out of date.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// The link from one host to another, as it is now.
    pub(crate) fn path(&self, from: HostId, to: HostId) -> Path {
        let link = self.link(from, to);
        Path {
            latency_ns: self.latency_ns(&link.latency, from, to).max(LATENCY_MIN_NS),
            jitter_ns: ns(link.jitter),
            bandwidth_bits: link.bandwidth_bits,
            loss: link.loss.clamp(0.0, 0.99),
            reorder: link.reorder.clamp(0.0, 1.0),
        }
    }

    /// When `len` bytes have left, given that they are ready at `now_ns`: they wait for what was sent before.
    pub(crate) fn departure_ns(&mut self, path: &Path, from: HostId, to: HostId, len: usize, now_ns: u64) -> u64 {
        let Some(sending_ns) = path.sending_ns(len) else {
            return now_ns;
        };
        let free_ns = self.free_ns.entry((from, to)).or_default();
        *free_ns = (*free_ns).max(now_ns) + sending_ns;
        *free_ns
    }

    /// How long what is sent now would wait for what was sent before.
    pub(crate) fn busy_ns(&self, from: HostId, to: HostId, now_ns: u64) -> u64 {
        self.free_ns
            .get(&(from, to))
            .map_or(0, |free_ns| free_ns.saturating_sub(now_ns))
    }

    fn link(&self, from: HostId, to: HostId) -> &Link {
        let degraded = self
            .degraded
            .iter()
            .rev()
            .find(|(_, hosts, _)| hosts.contains(&from) || hosts.contains(&to));
        if let Some((.., link)) = degraded {
            return link;
        }
        if self.rules.is_empty() {
            return &self.default;
        }
        let group = |host: HostId| self.groups.get(host as usize).copied();
        let (from, to) = (group(from), group(to));
        let fits = |rule: &&Rule| {
            rule.from.is_none_or(|group| Some(group) == from) && rule.to.is_none_or(|group| Some(group) == to)
        };
        self.rules
            .iter()
            .rev()
            .find(fits)
            .map_or(&self.default, |rule| &rule.link)
    }

    fn latency_ns(&self, latency: &Latency, from: HostId, to: HostId) -> u64 {
        match latency {
            Latency::Constant(latency) => ns(*latency),
            Latency::Normal { mean, deviation } => {
                // The same both ways, whoever asks first.
                let (low, high) = (from.min(to), from.max(to));
                let mut dice = self.seed ^ (u64::from(low) << 32 | u64::from(high));
                let drawn = ns(*mean) as f64 + normal(&mut dice) * ns(*deviation) as f64;
                drawn.max(1_000_000.0) as u64
            }
            Latency::Cities => {
                let city = |host: HostId| self.cities.get(host as usize).map_or(0, |city| usize::from(*city));
                let row = self.round_trips_ns.get(city(from));
                row.and_then(|row| row.get(city(to))).map_or(0, |rtt| rtt / 2)
            }
        }
    }
}

/// Of a normal distribution with mean 0 and deviation 1 (Box and Muller).
fn normal(dice: &mut u64) -> f64 {
    let (u, v) = (unit(dice).max(f64::MIN_POSITIVE), unit(dice));
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Nanoseconds.
pub(crate) fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn link(latency: Latency) -> Link {
        Link {
            latency,
            jitter: Duration::ZERO,
            bandwidth_bits: None,
            loss: 0.0,
            reorder: 0.0,
        }
    }

    fn constant(ms: u64) -> Link {
        link(Latency::Constant(Duration::from_millis(ms)))
    }

    #[test]
    fn a_plain_link_is_as_late_as_it_says() {
        let links = Links::new(1, constant(50));
        let path = links.path(0, 1);
        assert_eq!(path.arrival_ns(7, 1_000, true, &mut 1), 7 + 50 * MS);
    }

    #[test]
    fn packets_of_one_link_wait_for_each_other_whatever_their_connection() {
        let slow = Link {
            bandwidth_bits: Some(8_000_000),
            ..constant(10)
        };
        let mut links = Links::new(1, slow);
        let path = links.path(0, 1);
        let first = links.departure_ns(&path, 0, 1, 1_000_000, 0);
        // A megabyte at a megabyte a second, and the headers.
        assert!((1_000 * MS..1_060 * MS).contains(&first), "{first}");
        assert!(links.departure_ns(&path, 0, 1, 1_000_000, 0) >= 2 * first - MS);
        // The other direction, and other hosts, are free.
        assert!(links.departure_ns(&path, 1, 0, 100, 0) < MS);
        assert!(links.departure_ns(&path, 0, 2, 100, 0) < MS);
    }

    #[test]
    fn loss_is_lateness_as_often_as_it_says() {
        let lossy = Link {
            loss: 0.1,
            ..constant(20)
        };
        let path = Links::new(1, lossy).path(0, 1);
        let mut dice = 3;
        let late = (0..10_000)
            .filter(|_| path.arrival_ns(0, 100, false, &mut dice) > 20 * MS)
            .count();
        assert!((900..1_100).contains(&late), "{late}");
        let busy_late = (0..10_000)
            .map(|_| path.arrival_ns(0, 100, true, &mut dice))
            .filter(|at| *at > 20 * MS)
            .min();
        assert_eq!(
            busy_late,
            Some(60 * MS),
            "what follows shows the loss after a round trip"
        );
    }

    #[test]
    fn a_drawn_latency_is_the_same_both_ways_and_spread_over_pairs() {
        let drawn = link(Latency::Normal {
            mean: Duration::from_millis(50),
            deviation: Duration::from_millis(10),
        });
        let links = Links::new(9, drawn);
        let all: Vec<u64> = (0..2_000).map(|to| links.path(5_000, to).latency_ns).collect();
        assert_eq!(links.path(0, 5_000), links.path(5_000, 0));
        let mean_ms = all.iter().sum::<u64>() / all.len() as u64 / MS;
        let within = all.iter().filter(|at| (40 * MS..60 * MS).contains(*at)).count();
        assert!(
            (49..=50).contains(&mean_ms) && (1_250..1_480).contains(&within),
            "{mean_ms} {within}"
        );
    }

    #[test]
    fn the_last_rule_that_fits_counts_and_a_degraded_host_is_worse() {
        let rules = vec![
            Rule {
                from: Some(0),
                to: None,
                link: constant(20),
            },
            Rule {
                from: Some(0),
                to: Some(1),
                link: constant(30),
            },
        ];
        let mut links = Links::new(1, constant(10)).with_rules(vec![0, 1, 2], rules);
        let ms = |links: &Links, from, to| links.path(from, to).latency_ns / MS;
        assert_eq!([ms(&links, 0, 1), ms(&links, 0, 2), ms(&links, 1, 0)], [30, 20, 10]);
        let before = links.generation();
        links.degrade(4, vec![1], constant(500));
        assert_eq!([ms(&links, 0, 1), ms(&links, 0, 2), ms(&links, 1, 2)], [500, 20, 500]);
        links.restore(4);
        assert_eq!(ms(&links, 0, 1), 30);
        assert!(links.generation() > before + 1);
    }

    #[test]
    fn cities_are_half_a_round_trip_apart() {
        let round_trips = [[2, 80], [80, 4]].map(|row| row.map(Duration::from_millis).to_vec());
        let links = Links::new(1, link(Latency::Cities)).with_cities(vec![0, 1, 1], &round_trips);
        let ms = |from, to| links.path(from, to).latency_ns / MS;
        assert_eq!([ms(0, 1), ms(1, 0), ms(1, 2)], [40, 40, 2]);
    }
}
