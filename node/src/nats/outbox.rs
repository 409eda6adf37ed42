//! What waits to be written to one connection.
//!
//! Promises: whoever has something for a connection appends it and goes on; nobody waits for a slow reader. A connection that leaves more
//! unread than it may is cut off as a slow consumer, and so is the one with the most to read when all together leave too much. What is
//! waiting is written in large pieces: the writer takes all of it at once.

use std::{
    io::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A connection with less than this unread is not cut for what others leave.
const FAIR_BYTES: usize = 256 << 10;
/// A buffer that has grown larger is given back to the system once it is written.
const KEPT_BYTES_MAX: usize = 256 << 10;
/// What a slow consumer is told, if it still reads.
pub(super) const SLOW: &str = "-ERR 'Slow Consumer'\r\n";

/// The bytes that all connections of the door together leave unread.
#[derive(Debug)]
pub(super) struct Unread {
    bytes: AtomicUsize,
    all_max: usize,
    one_max: usize,
}

impl Unread {
    /// So many bytes for one connection, and for all.
    pub(super) fn new(one_max: usize, all_max: usize) -> Arc<Self> {
        Arc::new(Unread {
            bytes: AtomicUsize::new(0),
            all_max,
            one_max,
        })
    }
}

/// A message on its way to connections: everything but the subscription's own name for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outgoing<'a> {
    pub(super) subject: &'a str,
    pub(super) reply: Option<&'a str>,
    /// As the publisher's client wrote it, with its empty line; empty when there is none.
    pub(super) headers: &'a [u8],
    pub(super) payload: &'a [u8],
}

/// Connections to which something was appended and whose writers are to be woken, once each.
#[derive(Debug, Default)]
pub(super) struct Touched(Vec<Arc<Outbox>>);

impl Touched {
    /// Remembers one.
    pub(super) fn add(&mut self, outbox: &Arc<Outbox>) {
        if !outbox.touched.swap(true, Ordering::AcqRel) {
            self.0.push(Arc::clone(outbox));
        }
    }

    /// Wakes them; afterwards, those that fill faster than they empty.
    pub(super) fn wake(&mut self) -> Vec<Arc<Outbox>> {
        let mut filling = Vec::new();
        for outbox in self.0.drain(..) {
            // First the mark, then the call: what somebody appends in between is called out by him, or seen by this.
            outbox.touched.store(false, Ordering::Release);
            outbox.wake();
            if outbox.is_filling() {
                filling.push(outbox);
            }
        }
        filling
    }
}

impl Drop for Touched {
    fn drop(&mut self) {
        self.wake();
    }
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: BytesMut,
    closing: bool,
}

/// See the module. The connection that it belongs to holds the other half: it takes and writes.
#[derive(Debug)]
pub(super) struct Outbox {
    /// The connection's number.
    pub(super) id: u64,
    waiting: Mutex<Waiting>,
    /// Bytes taken and not yet written.
    writing: AtomicUsize,
    more: Notify,
    room: Notify,
    unread: Arc<Unread>,
    /// Whether the client understands `HMSG`.
    headers: AtomicBool,
    slow: AtomicBool,
    /// Whether somebody has appended and will wake the writer.
    touched: AtomicBool,
    /// Ends the connection.
    pub(super) cut: CancellationToken,
}

impl Outbox {
    pub(super) fn new(id: u64, unread: Arc<Unread>, cut: CancellationToken) -> Arc<Self> {
        Arc::new(Outbox {
            id,
            waiting: Mutex::default(),
            writing: AtomicUsize::new(0),
            more: Notify::new(),
            room: Notify::new(),
            unread,
            headers: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            touched: AtomicBool::new(false),
            cut,
        })
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Arc<Self> {
        Outbox::new(0, Unread::new(1 << 20, 1 << 20), CancellationToken::new())
    }

    /// From now on with headers, or without.
    pub(super) fn set_headers(&self, understood: bool) {
        self.headers.store(understood, Ordering::Relaxed);
    }

    /// Whether it was cut off because it did not read.
    pub(super) fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    /// Appends a message without waking the writer: whoever appends many wakes it once, by [`Outbox::wake`]. Whether it was taken.
    pub(super) fn message(&self, sid: &[u8], message: &Outgoing<'_>) -> bool {
        let headers = if self.headers.load(Ordering::Relaxed) {
            message.headers
        } else {
            b""
        };
        let len = headers.len() + message.payload.len();
        // Both numbers, blanks and line ends.
        let around = 64 + message.subject.len() + sid.len() + message.reply.map_or(0, str::len);
        self.append(around + len, |buffer| {
            buffer.extend_from_slice(if headers.is_empty() { b"MSG " } else { b"HMSG " });
            buffer.extend_from_slice(message.subject.as_bytes());
            buffer.extend_from_slice(b" ");
            buffer.extend_from_slice(sid);
            buffer.extend_from_slice(b" ");
            if let Some(reply) = message.reply {
                buffer.extend_from_slice(reply.as_bytes());
                buffer.extend_from_slice(b" ");
            }
            if !headers.is_empty() {
                number(buffer, headers.len());
                buffer.extend_from_slice(b" ");
            }
            number(buffer, len);
            buffer.extend_from_slice(b"\r\n");
            buffer.extend_from_slice(headers);
            buffer.extend_from_slice(message.payload);
            buffer.extend_from_slice(b"\r\n");
        })
    }

    /// Appends a line of the protocol, and wakes the writer.
    pub(super) fn say(&self, line: &str) {
        self.append(line.len(), |buffer| buffer.extend_from_slice(line.as_bytes()));
        self.wake();
    }

    fn append(&self, len_max: usize, write: impl FnOnce(&mut BytesMut)) -> bool {
        let mut waiting = self.lock();
        if waiting.closing {
            return false;
        }
        let before = waiting.bytes.len();
        let own = before + self.writing.load(Ordering::Relaxed) + len_max;
        let all = self.unread.bytes.load(Ordering::Relaxed) + len_max;
        if own > self.unread.one_max || (all > self.unread.all_max && own > FAIR_BYTES) {
            return self.cut_slow(waiting);
        }
        waiting.bytes.reserve(len_max);
        write(&mut waiting.bytes);
        let grown = waiting.bytes.len() - before;
        self.unread.bytes.fetch_add(grown, Ordering::Relaxed);
        true
    }

    fn cut_slow(&self, mut waiting: std::sync::MutexGuard<'_, Waiting>) -> bool {
        self.unread.bytes.fetch_sub(waiting.bytes.len(), Ordering::Relaxed);
        // What did not go out never will: the stream is cut here, not thinned.
        waiting.bytes = BytesMut::from(SLOW);
        self.unread.bytes.fetch_add(SLOW.len(), Ordering::Relaxed);
        waiting.closing = true;
        drop(waiting);
        self.slow.store(true, Ordering::Relaxed);
        self.cut.cancel();
        self.wake();
        false
    }

    /// Lets the writer see what was appended.
    pub(super) fn wake(&self) {
        self.more.notify_one();
    }

    /// Nothing more comes; what waits is still written.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.wake();
    }

    /// The client that reads too slowly was found out by its socket.
    pub(super) fn note_slow(&self) {
        self.slow.store(true, Ordering::Relaxed);
    }

    /// Whether so much waits that its publishers had better wait a little.
    pub(super) fn is_filling(&self) -> bool {
        self.lock().bytes.len() + self.writing.load(Ordering::Relaxed) > self.unread.one_max / 4
    }

    /// Resolves when something was written. Cancel-safe.
    pub(super) async fn drained(&self) {
        self.room.notified().await;
    }

    /// All that waits, as soon as something does; nothing when nothing more comes. Cancel-safe.
    pub(super) async fn take(&self) -> Option<BytesMut> {
        loop {
            {
                let mut waiting = self.lock();
                if !waiting.bytes.is_empty() {
                    let bytes = waiting.bytes.split();
                    self.writing.store(bytes.len(), Ordering::Relaxed);
                    return Some(bytes);
                }
                if waiting.closing {
                    return None;
                }
            }
            self.more.notified().await;
        }
    }

    /// What was taken is written, or lost.
    pub(super) fn written(&self, mut bytes: BytesMut) {
        self.unread.bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
        self.writing.store(0, Ordering::Relaxed);
        bytes.clear();
        let mut waiting = self.lock();
        // The same memory again, rather than a new piece each time.
        if waiting.bytes.is_empty() && bytes.capacity() <= KEPT_BYTES_MAX {
            waiting.bytes = bytes;
        }
        drop(waiting);
        self.room.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let left = self
            .waiting
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .bytes
            .len();
        self.unread.bytes.fetch_sub(left, Ordering::Relaxed);
    }
}

fn number(buffer: &mut BytesMut, number: usize) {
    let mut digits = [0; 20];
    let mut cursor = &mut digits[..];
    let room = cursor.len();
    // Twenty digits are enough for 64 bits.
    let _ = write!(cursor, "{number}");
    let len = room - cursor.len();
    buffer.extend_from_slice(&digits[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &[u8]) -> Outgoing<'_> {
        Outgoing {
            subject: "a.b",
            reply: Some("r"),
            headers: b"NATS/1.0\r\nk: v\r\n\r\n",
            payload,
        }
    }

    #[tokio::test]
    async fn a_message_is_written_as_the_client_understands_it() {
        let outbox = Outbox::for_tests();
        assert!(outbox.message(b"7", &message(b"hi")));
        outbox.set_headers(true);
        assert!(outbox.message(b"7", &message(b"hi")));
        let bytes = outbox.take().await.unwrap();
        let expected = "MSG a.b 7 r 2\r\nhi\r\nHMSG a.b 7 r 18 20\r\nNATS/1.0\r\nk: v\r\n\r\nhi\r\n";
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), expected);
        outbox.written(bytes);
        assert_eq!(outbox.unread.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn who_does_not_read_is_cut_and_told() {
        let outbox = Outbox::new(1, Unread::new(1000, 1 << 20), CancellationToken::new());
        let mut taken = 0;
        while outbox.message(b"1", &message(&[0; 100])) {
            taken += 1;
        }
        assert!((3..10).contains(&taken));
        assert!(outbox.is_slow() && outbox.cut.is_cancelled());
        assert_eq!(outbox.take().await.unwrap(), SLOW.as_bytes());
        assert!(outbox.take().await.is_none());
    }

    #[tokio::test]
    async fn all_together_have_a_bound_that_spares_those_who_read() {
        let unread = Unread::new(4 << 20, 1 << 20);
        let new = |id| Outbox::new(id, Arc::clone(&unread), CancellationToken::new());
        let (greedy, modest) = (new(1), new(2));
        while greedy.message(b"1", &message(&[0; 1000])) {}
        let held = unread.bytes.load(Ordering::Relaxed);
        assert!(held <= 1 << 20, "{held}");
        assert!(greedy.is_slow());
        assert!(modest.message(b"1", &message(b"hi")));
        drop((greedy, modest));
        assert_eq!(unread.bytes.load(Ordering::Relaxed), 0);
    }
}
