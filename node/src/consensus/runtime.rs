//! openraft's tasks as tasks of the node: tracked, cancelled with it, and standing still when it is made to.
//!
//! openraft spawns by a function of a type, with no way to pass it the node. So the node's spawner goes along as a task-local value: it is set while
//! the group is opened, and each task that openraft spawns sets it for those that it spawns.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use openraft::{AsyncRuntime, OptionalSend, impls::TokioRuntime};
use tokio::sync::oneshot;

use crate::tasks::Tasks;

tokio::task_local! {
    static TASKS: Tasks;
}

/// Runs something that may open groups, whose tasks are then these.
pub(super) async fn within<T>(tasks: &Tasks, work: impl Future<Output = T>) -> T {
    TASKS.scope(tasks.clone(), work).await
}

/// The node as openraft sees it.
#[derive(Debug)]
pub(crate) struct NodeRuntime;

/// A task of openraft's.
pub(crate) struct Joining<T>(oneshot::Receiver<T>);

/// It was cancelled, or panicked.
#[derive(Debug, thiserror::Error)]
#[error("the task was cut off")]
pub(crate) struct CutOff;

impl<T> Future for Joining<T> {
    type Output = Result<T, CutOff>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(|_| CutOff)
    }
}

/// The same numbers each time (SplitMix64; Steele, Lea and Flood, 2014): nothing that openraft asks for matters, for each member's election time is
/// chosen by the node ([`super::config`]). But they must differ, or sampling by rejection never ends.
pub(crate) struct Fixed(u64);

impl rand::TryRng for Fixed {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok((self.try_next_u64()? >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(mixed ^ (mixed >> 31))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for part in bytes.chunks_mut(8) {
            let next = self.try_next_u64()?.to_le_bytes();
            part.copy_from_slice(&next[..part.len()]);
        }
        Ok(())
    }
}

impl AsyncRuntime for NodeRuntime {
    type JoinError = CutOff;
    type JoinHandle<T: OptionalSend + 'static> = Joining<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Fixed;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let tasks = TASKS.with(Tasks::clone);
        let (answer, answered) = oneshot::channel();
        let inner = TASKS.scope(tasks.clone(), async move {
            let _ = answer.send(future.await);
        });
        tasks.spawn("group", inner);
        Joining(answered)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(_: &Self::JoinError) -> bool {
        false
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Fixed(0)
    }

    fn new(_: usize) -> Self {
        NodeRuntime
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        // For openraft's own tests of what it stands on.
        TokioRuntime::new(1).block_on(future)
    }
}
