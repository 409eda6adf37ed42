//! What keeps packets from passing for a while: partitions, and cuts in one direction.

use super::HostId;

/// Some of the hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostSet(Vec<bool>);

impl HostSet {
    /// These.
    pub fn of(hosts: impl IntoIterator<Item = HostId>) -> Self {
        let mut set = Vec::new();
        for host in hosts {
            let host = host as usize;
            if set.len() <= host {
                set.resize(host + 1, false);
            }
            set[host] = true;
        }
        HostSet(set)
    }

    /// Whether it is one of them.
    pub fn contains(&self, host: HostId) -> bool {
        self.0.get(host as usize).copied().unwrap_or(false)
    }
}

/// A reason not to pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wall {
    /// Each host is in the part its place in the list names; nothing passes between parts. A host beyond the list is in
    /// the first part.
    Islands(Vec<u16>),
    /// Nothing passes between these and all others.
    Apart(HostSet),
    /// Nothing passes from the first to the second; the other direction is open.
    OneWay(HostSet, HostSet),
}

impl Wall {
    /// Whether it stands between the two, for packets from the first to the second.
    pub(crate) fn stops(&self, from: HostId, to: HostId) -> bool {
        match self {
            Wall::Islands(parts) => {
                let part = |host: HostId| parts.get(host as usize).copied().unwrap_or(0);
                part(from) != part(to)
            }
            Wall::Apart(some) => some.contains(from) != some.contains(to),
            Wall::OneWay(senders, receivers) => senders.contains(from) && receivers.contains(to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wall_stops_what_it_says_and_no_more() {
        let islands = Wall::Islands(vec![0, 0, 1]);
        assert!(islands.stops(0, 2) && islands.stops(2, 1) && !islands.stops(0, 1) && !islands.stops(0, 9));
        let apart = Wall::Apart(HostSet::of([1, 2]));
        assert!(apart.stops(0, 1) && apart.stops(2, 0) && !apart.stops(1, 2) && !apart.stops(0, 3));
        let one_way = Wall::OneWay(HostSet::of([0]), HostSet::of([1]));
        assert!(one_way.stops(0, 1) && !one_way.stops(1, 0));
    }
}
