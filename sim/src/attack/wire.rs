//! An attacker's wire: what its gossip says is changed on its way out, and more is said than it wants to.
//!
//! Promises: as long as its attack does not break the rules ([`Behaviour::breaks_rules`]) not a byte is changed. While it does,
//! the attacker is a neighbour of everybody it is connected to, or asks to be one again and again: it grafts on every topic
//! each second whatever the degree and the backoff, at once when it was pruned, and prunes nobody; it promises messages that do not
//! exist; and it answers no question for one, unless its attack is one that forwards.
//!
//! How: between the encrypted connection and the node lies a multiplexer whose streams are looked at. One that negotiates
//! gossip is taken apart into frames ([`super::rpc`]). The node itself knows nothing of it.

use std::{
    collections::BTreeSet,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox};
use tokio::time::{Instant, Sleep};

use super::{Behaviour, rpc};
use crate::virtual_os::split_mix;

/// Between two rounds of grafts and promises.
const ROUND: Duration = Duration::from_secs(1);
/// Between two answers to being pruned.
const AGAIN: Duration = Duration::from_millis(250);
/// Messages promised in a round.
const PROMISES: usize = 64;
/// Bytes of such a message's id.
const ID_BYTES: usize = 46;
/// A frame longer than this is let go by as it is, with all that follows.
const FRAME_BYTES_MAX: usize = 4 << 20;
/// What may wait to be written, before the node has to wait.
const WAITING_BYTES_MAX: usize = 1 << 20;
const TOPICS_MAX: usize = 64;

/// What the streams of one connection share.
#[derive(Debug, Default)]
struct Talk {
    /// The stream on which we gossip.
    gossip: Option<Arc<Mutex<Outgoing>>>,
    topics: BTreeSet<Vec<u8>>,
    pruned: BTreeSet<Vec<u8>>,
}

/// A multiplexer whose gossip is tampered with.
pub struct TamperedMuxer {
    inner: StreamMuxerBox,
    behaviour: Arc<Behaviour>,
    talk: Arc<Mutex<Talk>>,
    next: Pin<Box<Sleep>>,
    again_at: Instant,
    round_at: Instant,
    dice: u64,
}

impl TamperedMuxer {
    /// Tampers with the streams of `inner`, as its behaviour says.
    pub fn new(inner: StreamMuxerBox, behaviour: Arc<Behaviour>, seed: u64) -> Self {
        let now = Instant::now();
        TamperedMuxer {
            inner,
            behaviour,
            talk: Arc::default(),
            next: Box::pin(tokio::time::sleep_until(now + ROUND)),
            again_at: now,
            round_at: now + ROUND,
            dice: seed,
        }
    }

    /// Says what its time has come for.
    fn speak(&mut self, cx: &mut Context<'_>) {
        let now = Instant::now();
        let mut said = Vec::new();
        let stream = {
            let mut talk = lock(&self.talk);
            if now >= self.again_at && !talk.pruned.is_empty() {
                self.again_at = now + AGAIN;
                let pruned = std::mem::take(&mut talk.pruned);
                said.extend(rpc::graft(pruned.iter().map(Vec::as_slice)));
            }
            if now >= self.round_at {
                self.round_at = now + ROUND;
                said.extend(rpc::graft(talk.topics.iter().map(Vec::as_slice)));
                let turn = split_mix(&mut self.dice) as usize % talk.topics.len().max(1);
                if let Some(topic) = talk.topics.iter().nth(turn) {
                    said.extend(rpc::have(topic, (0..PROMISES).map(|_| invented(&mut self.dice))));
                }
            }
            talk.gossip.clone()
        };
        if said.is_empty() || !self.behaviour.breaks_rules() {
            return;
        }
        if let Some(stream) = stream {
            lock(&stream).say(&said, cx);
        }
    }
}

/// The id of a message that nobody sent.
fn invented(dice: &mut u64) -> Vec<u8> {
    let words = std::iter::repeat_with(|| split_mix(dice).to_le_bytes());
    words.flatten().take(ID_BYTES).collect()
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StreamMuxer for TamperedMuxer {
    type Substream = TamperedStream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<TamperedStream>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
        Poll::Ready(Ok(TamperedStream::new(stream, false, &self.behaviour, &self.talk)))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<TamperedStream>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        Poll::Ready(Ok(TamperedStream::new(stream, true, &self.behaviour, &self.talk)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        loop {
            self.speak(cx);
            let now = Instant::now();
            let due = if lock(&self.talk).pruned.is_empty() {
                self.round_at
            } else {
                self.round_at.min(self.again_at.max(now))
            };
            if self.next.deadline() != due {
                self.next.as_mut().reset(due);
            }
            if Future::poll(self.next.as_mut(), cx).is_pending() {
                break;
            }
        }
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// What a stream has turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The two sides still choose a protocol.
    Choosing,
    Gossip,
    /// Anything else.
    Plain,
}

/// Bytes on their way, taken apart into what has its length in front.
#[derive(Debug)]
struct Frames {
    kind: Kind,
    begun: Vec<u8>,
}

impl Frames {
    fn new() -> Self {
        Frames {
            kind: Kind::Choosing,
            begun: Vec::new(),
        }
    }

    /// Takes in some bytes; gives each frame that is whole now, with its length and without, to `each`, and what is no frame
    /// to `each` as it is.
    fn take(&mut self, bytes: &[u8], mut each: impl FnMut(Kind, &[u8], &[u8])) {
        if self.kind == Kind::Plain {
            return each(Kind::Plain, bytes, &[]);
        }
        self.begun.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((len, head)) = rpc::varint(&self.begun[at..]) {
            let Some(frame) = usize::try_from(len)
                .ok()
                .filter(|len| *len <= FRAME_BYTES_MAX)
                .map(|len| at + head..at + head + len)
            else {
                self.kind = Kind::Plain;
                break;
            };
            let Some(body) = self.begun.get(frame.clone()) else {
                break;
            };
            if body.first() == Some(&b'/') && !body.starts_with(b"/multistream/") {
                self.kind = if body.starts_with(b"/meshsub/") {
                    Kind::Gossip
                } else {
                    Kind::Plain
                };
                each(Kind::Choosing, &self.begun[at..frame.end], body);
            } else {
                each(self.kind, &self.begun[at..frame.end], body);
            }
            at = frame.end;
            if self.kind == Kind::Plain {
                break;
            }
        }
        self.begun.drain(..at);
        if self.kind == Kind::Plain && !self.begun.is_empty() {
            each(Kind::Plain, &std::mem::take(&mut self.begun), &[]);
        }
    }
}

/// A stream, and what is to be written to it.
#[derive(Debug)]
struct Outgoing {
    stream: Inner,
    frames: Frames,
    waiting: Vec<u8>,
}

/// A stream that can be shown.
struct Inner(SubstreamBox);

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inner")
    }
}

impl Outgoing {
    /// Says something between two frames of the node's. What finds no room is not said.
    fn say(&mut self, frames: &[u8], cx: &mut Context<'_>) {
        if self.frames.kind == Kind::Gossip && self.waiting.len() < WAITING_BYTES_MAX {
            self.waiting.extend_from_slice(frames);
            // Whether it could be written, the node notices when it writes itself.
            let _ = self.poll_drain(cx);
            let _ = Pin::new(&mut self.stream.0).poll_flush(cx);
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let count = ready!(Pin::new(&mut self.stream.0).poll_write(cx, &self.waiting))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

/// A stream of an attacker's.
pub struct TamperedStream {
    out: Arc<Mutex<Outgoing>>,
    /// We opened it.
    is_ours: bool,
    behaviour: Arc<Behaviour>,
    talk: Arc<Mutex<Talk>>,
    heard: Frames,
}

impl TamperedStream {
    fn new(stream: SubstreamBox, is_ours: bool, behaviour: &Arc<Behaviour>, talk: &Arc<Mutex<Talk>>) -> Self {
        TamperedStream {
            out: Arc::new(Mutex::new(Outgoing {
                stream: Inner(stream),
                frames: Frames::new(),
                waiting: Vec::new(),
            })),
            is_ours,
            behaviour: Arc::clone(behaviour),
            talk: Arc::clone(talk),
            heard: Frames::new(),
        }
    }
}

impl AsyncRead for TamperedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut lock(&self.out).stream.0).poll_read(cx, buffer))?;
        // Their gossip comes on streams that they opened.
        if !self.is_ours && self.heard.kind != Kind::Plain {
            let talk = Arc::clone(&self.talk);
            self.heard.take(&buffer[..count], |kind, _, frame| {
                if kind == Kind::Gossip {
                    let pruned = rpc::pruned(frame);
                    if !pruned.is_empty() {
                        lock(&talk).pruned.extend(pruned.into_iter().take(TOPICS_MAX));
                        cx.waker().wake_by_ref();
                    }
                }
            });
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for TamperedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut guard = lock(&self.out);
        let out = &mut *guard;
        if !self.is_ours || out.frames.kind == Kind::Plain && out.waiting.is_empty() {
            return Pin::new(&mut out.stream.0).poll_write(cx, data);
        }
        if out.waiting.len() >= WAITING_BYTES_MAX {
            ready!(out.poll_drain(cx))?;
        }
        let (tampers, starves) = (self.behaviour.breaks_rules(), self.behaviour.starves());
        let mut topics = Vec::new();
        let waiting = &mut out.waiting;
        out.frames.take(data, |kind, whole, frame| {
            if kind == Kind::Gossip {
                topics.extend(rpc::subscribed(frame));
            }
            if kind == Kind::Gossip && tampers {
                waiting.extend(rpc::tampered(frame, starves).unwrap_or_default());
            } else {
                waiting.extend_from_slice(whole);
            }
        });
        let gossips = out.frames.kind == Kind::Gossip;
        let drained = out.poll_drain(cx);
        drop(guard);
        if gossips {
            let mut talk = lock(&self.talk);
            talk.topics.extend(topics);
            while talk.topics.len() > TOPICS_MAX {
                talk.topics.pop_last();
            }
            talk.gossip = Some(Arc::clone(&self.out));
        }
        match drained {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(data.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = lock(&self.out);
        ready!(out.poll_drain(cx))?;
        Pin::new(&mut out.stream.0).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = lock(&self.out);
        ready!(out.poll_drain(cx))?;
        Pin::new(&mut out.stream.0).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is given out when `bytes` come in pieces of `size`.
    fn pieces(bytes: &[u8], size: usize) -> Vec<(Kind, Vec<u8>)> {
        let (mut frames, mut seen) = (Frames::new(), Vec::new());
        for piece in bytes.chunks(size) {
            frames.take(piece, |kind, whole, _| seen.push((kind, whole.to_vec())));
        }
        seen
    }

    fn line(text: &str) -> Vec<u8> {
        let mut line = vec![text.len() as u8 + 1];
        line.extend_from_slice(text.as_bytes());
        line.push(b'\n');
        line
    }

    #[test]
    fn frames_are_found_however_the_bytes_come_and_nothing_is_lost() {
        let (hello, name) = (line("/multistream/1.0.0"), line("/meshsub/1.2.0"));
        let graft = rpc::graft([&b"news"[..]]);
        let all = [hello.clone(), name.clone(), graft.clone(), graft.clone()].concat();
        for size in [1, 3, 7, all.len()] {
            let seen = pieces(&all, size);
            let wanted = [
                (Kind::Choosing, hello.clone()),
                (Kind::Choosing, name.clone()),
                (Kind::Gossip, graft.clone()),
                (Kind::Gossip, graft.clone()),
            ];
            assert_eq!(seen, wanted, "{size}");
        }
        let other = [hello, line("/weft/control/1"), vec![0xff; 300]].concat();
        for size in [1, 20, other.len()] {
            let seen = pieces(&other, size);
            assert_eq!(
                seen.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>(),
                other
            );
            assert_eq!(seen.last().map(|(kind, _)| *kind), Some(Kind::Plain), "{size}");
        }
    }
}
