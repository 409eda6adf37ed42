//! The digest over everything that happened and when.
//!
//! Promises: two runs with equal digests delivered the same bytes in the same order at the same virtual nanoseconds, as
//! far as 64 bits can tell; the first difference, however small, changes every later value. What is digested are the
//! packets of the simulated network, whose bytes are encrypted: a random byte that came from elsewhere than the seed, or
//! a time that did not come from the virtual clock, shows in them.
//!
//! Not covered: what a node does without anybody else noticing.

/// A running digest. Not for secrets: fast, and good at telling apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    state: u64,
    events: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Trace {
            state: 0x5765_6674_5472_6163,
            events: 0,
        }
    }
}

impl Trace {
    /// Takes in one event: some numbers, and some bytes.
    pub fn event(&mut self, numbers: &[u64], bytes: &[u8]) {
        self.events += 1;
        for number in numbers {
            self.mix(*number);
        }
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.mix(u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
        }
        let mut rest = [0; 8];
        let tail = chunks.remainder();
        rest[..tail.len()].copy_from_slice(tail);
        self.mix(u64::from_le_bytes(rest) ^ (bytes.len() as u64) << 56);
    }

    /// The digest so far, as 16 hexadecimal digits.
    pub fn hash(&self) -> String {
        let mut last = *self;
        last.mix(self.events);
        format!("{:016x}", last.state)
    }

    /// How many events it covers.
    pub fn events(&self) -> u64 {
        self.events
    }

    fn mix(&mut self, value: u64) {
        // One multiplication to 128 bits, folded: each bit of the state depends on each bit of what came before.
        let wide = u128::from(self.state ^ value) * 0x9E37_79B9_7F4A_7C15_u128;
        self.state = (wide >> 64) as u64 ^ wide as u64 ^ self.state.rotate_left(23);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(events: &[(&[u64], &[u8])]) -> Trace {
        let mut trace = Trace::default();
        for (numbers, bytes) in events {
            trace.event(numbers, bytes);
        }
        trace
    }

    #[test]
    fn every_difference_shows() {
        let base = of(&[(&[1, 2], b"abc"), (&[3], b"")]);
        assert_eq!(base.hash(), of(&[(&[1, 2], b"abc"), (&[3], b"")]).hash());
        for other in [
            of(&[(&[1, 2], b"abd"), (&[3], b"")]),
            of(&[(&[2, 1], b"abc"), (&[3], b"")]),
            of(&[(&[3], b""), (&[1, 2], b"abc")]),
            of(&[(&[1, 2], b"abc")]),
            of(&[(&[1, 2], b"abc\0"), (&[3], b"")]),
            of(&[(&[1, 2], b"abc"), (&[3], b""), (&[0], b"")]),
        ] {
            assert_ne!(base.hash(), other.hash());
        }
        assert_eq!(base.events(), 2);
    }
}
