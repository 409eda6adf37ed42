//! The bytes of one file in memory, as pages that two pictures of the file share until one of them changes.
//!
//! A page of zeros takes no room.

use std::sync::Arc;

/// Small, because engines write their own larger pages whole, and these are often half empty.
const PAGE_BYTES: usize = 512;

type Page = [u8; PAGE_BYTES];

/// Bytes; a clone shares its pages with the original.
#[derive(Debug, Clone, Default)]
pub(super) struct Pages {
    len: usize,
    /// As many as `len` needs. Bytes beyond `len` are zeros.
    pages: Vec<Option<Arc<Page>>>,
}

impl Pages {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Cuts, or extends with zeros.
    pub(super) fn resize(&mut self, len: usize) {
        if len < self.len {
            let within = len % PAGE_BYTES;
            if within > 0
                && let Some(Some(last)) = self.pages.get_mut(len / PAGE_BYTES)
            {
                Arc::make_mut(last)[within..].fill(0);
            }
        }
        self.len = len;
        self.pages.resize(len.div_ceil(PAGE_BYTES), None);
    }

    /// Copies what is there from `offset` on into `buffer`; returns how much that was.
    pub(super) fn read(&self, buffer: &mut [u8], offset: usize) -> usize {
        let start = offset.min(self.len);
        let count = buffer.len().min(self.len - start);
        for (page, within, range) in parts(start, count) {
            let target = &mut buffer[range];
            match &self.pages[page] {
                Some(page) => target.copy_from_slice(&page[within..within + target.len()]),
                None => target.fill(0),
            }
        }
        count
    }

    /// Puts `data` at `offset`; what lies between the end and there becomes zeros.
    pub(super) fn write(&mut self, data: &[u8], offset: usize) {
        if data.is_empty() {
            return;
        }
        if self.len < offset + data.len() {
            self.resize(offset + data.len());
        }
        for (page, within, range) in parts(offset, data.len()) {
            let (source, page) = (&data[range], &mut self.pages[page]);
            let is_all = source.len() == PAGE_BYTES;
            if (is_all || page.is_none()) && source.iter().all(|byte| *byte == 0) {
                *page = None;
                continue;
            }
            let page = page.get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[within..within + source.len()].copy_from_slice(source);
        }
    }

    pub(super) fn flip_bit(&mut self, offset: usize, bit: u8) {
        let mut byte = [0];
        if self.read(&mut byte, offset) == 1 {
            self.write(&[byte[0] ^ (1 << (bit % 8))], offset);
        }
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut all = vec![0; self.len];
        self.read(&mut all, 0);
        all
    }
}

impl From<&[u8]> for Pages {
    fn from(data: &[u8]) -> Self {
        let mut pages = Pages::default();
        pages.write(data, 0);
        pages
    }
}

/// The pages that `count` bytes from `start` on touch: which, from where in it, and which of the bytes.
fn parts(start: usize, count: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == count {
            return None;
        }
        let at = start + done;
        let within = at % PAGE_BYTES;
        let here = (PAGE_BYTES - within).min(count - done);
        let part = (at / PAGE_BYTES, within, done..done + here);
        done += here;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_bytes() {
        let (mut pages, mut plain) = (Pages::default(), Vec::<u8>::new());
        let mut state = 7_u64;
        let mut next = |below: usize| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for _ in 0..500 {
            let (offset, count) = (next(20_000), next(9_000));
            if next(5) == 0 {
                pages.resize(offset);
                plain.resize(offset, 0);
            } else {
                let data = vec![next(256) as u8 * next(2) as u8; count];
                pages.write(&data, offset);
                if count > 0 && plain.len() < offset + count {
                    plain.resize(offset + count, 0);
                }
                plain.splice(offset..offset + count.min(plain.len().saturating_sub(offset)), data);
            }
            assert_eq!((pages.len(), pages.to_vec()), (plain.len(), plain.clone()));
            let mut buffer = vec![9; count];
            let read = pages.read(&mut buffer, offset);
            let start = offset.min(plain.len());
            assert_eq!(buffer[..read], plain[start..start + count.min(plain.len() - start)]);
        }
    }

    #[test]
    fn a_clone_shares_and_does_not_follow() {
        let mut first = Pages::from(&[1; 10_000][..]);
        let second = first.clone();
        first.write(&[2], 5_000);
        first.flip_bit(0, 0);
        assert_eq!((first.to_vec()[5_000], first.to_vec()[0]), (2, 0));
        assert_eq!(second.to_vec(), [1; 10_000]);
        assert!(Arc::ptr_eq(
            first.pages[2].as_ref().unwrap(),
            second.pages[2].as_ref().unwrap()
        ));
    }

    #[test]
    fn zeros_take_no_room() {
        let room = |pages: &Pages| pages.pages.iter().flatten().count();
        let mut pages = Pages::from(&[0; 10 * PAGE_BYTES][..]);
        assert_eq!((pages.len(), room(&pages)), (10 * PAGE_BYTES, 0));
        pages.write(&[1; 2 * PAGE_BYTES], PAGE_BYTES / 2);
        assert_eq!(room(&pages), 3);
        pages.write(&[0; 3 * PAGE_BYTES], 0);
        assert_eq!((room(&pages), pages.to_vec()), (0, vec![0; 10 * PAGE_BYTES]));
    }
}
