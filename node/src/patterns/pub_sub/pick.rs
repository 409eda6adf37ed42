//! Which member of a queue group takes a message.
//!
//! With a key the same one as long as the members are the same; when one comes or goes, only its own keys move (rendezvous hashing).

/// Which of these a key belongs to: its place; 0 if there are none.
pub(super) fn spread<B: AsRef<[u8]>>(key: &str, members: impl Iterator<Item = B>) -> usize {
    let weighed = members.map(|member| hash(key, member.as_ref())).enumerate();
    weighed.max_by_key(|(_, weight)| *weight).map_or(0, |(at, _)| at)
}

/// FNV-1a, stirred: the same everywhere, and not a defence against anybody.
fn hash(key: &str, member: &[u8]) -> u64 {
    let bytes = key.bytes().chain([0]).chain(member.iter().copied());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_where_they_are_when_others_come_and_are_spread_evenly() {
        let members: Vec<[u8; 8]> = (0..5_u64).map(u64::to_be_bytes).collect();
        let (mut counts, mut moved) = ([0; 5], 0);
        for n in 0..1000 {
            let key = format!("customer-{n}");
            let before = spread(&key, members[..4].iter());
            let after = spread(&key, members.iter());
            moved += usize::from(before != after);
            assert!(after == before || after == 4);
            counts[after] += 1;
        }
        assert!(counts.iter().all(|n| (150..250).contains(n)), "{counts:?}");
        assert!((150..250).contains(&moved), "{moved}");
        assert_eq!(spread("x", std::iter::empty::<[u8; 1]>()), 0);
    }
}
