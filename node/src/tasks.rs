//! The only way to spawn: named, in a span, tracked, cancelled with the node, a panic reported by name. A [`Brake`] can make
//! everything spawned stand still.

use std::{
    any::Any,
    collections::BTreeMap,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use futures::{FutureExt as _, future::CatchUnwind};
use pin_project_lite::pin_project;
use tokio::sync::watch;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};
use tracing::Instrument as _;

/// A cloneable spawner. Children of one spawner are cancelled together.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
    panics: Arc<AtomicU64>,
    /// The first vital task that panicked.
    broken: watch::Sender<Option<&'static str>>,
    running: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    brake: Option<Arc<Brake>>,
}

/// Makes tasks stand still, all at once, as `SIGSTOP` does a process: while it is on, none is polled, whatever wakes it;
/// what became of its timers and its peers meanwhile it sees once the brake is off. A task can be cancelled all the same.
#[derive(Debug, Default)]
pub struct Brake(Mutex<Braking>);

#[derive(Debug, Default)]
struct Braking {
    on: bool,
    /// How often it was put on: who waits for this time waits once.
    times: u64,
    waiting: Vec<Waker>,
}

impl Brake {
    /// Nothing is polled from now on.
    pub fn put_on(&self) {
        let mut braking = self.lock();
        if !braking.on {
            braking.on = true;
            braking.times += 1;
        }
    }

    /// Everything goes on, in the order in which it was woken.
    pub fn release(&self) {
        let waiting = {
            let mut braking = self.lock();
            braking.on = false;
            std::mem::take(&mut braking.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.lock().on
    }

    /// Whether whoever is polled has to wait; it is woken later. `seen` is what it was told last, at first 0.
    pub fn holds(&self, seen: &mut u64, cx: &Context<'_>) -> bool {
        let mut braking = self.lock();
        if braking.on && *seen != braking.times {
            *seen = braking.times;
            braking.waiting.push(cx.waker().clone());
        }
        braking.on
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Braking> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// A spawner with nothing running.
    pub fn new() -> Self {
        Tasks {
            tracker: TaskTracker::new(),
            cancel: CancellationToken::new(),
            panics: Arc::default(),
            broken: watch::Sender::new(None),
            running: Arc::default(),
            brake: None,
        }
    }

    /// A spawner whose tasks stand still while the brake is on.
    pub fn with_brake(brake: Arc<Brake>) -> Self {
        Tasks {
            brake: Some(brake),
            ..Tasks::new()
        }
    }

    /// A spawner whose tasks end when its own or this one's are cancelled.
    pub fn child(&self) -> Self {
        Tasks {
            cancel: self.cancel.child_token(),
            ..self.clone()
        }
    }

    /// Runs `future` until it ends or the spawner is cancelled. A panic ends only this task.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.run(name, future, None);
    }

    /// The same for a task without which the node would only seem to work: its panic is everybody's business
    /// ([`Tasks::broken`]).
    pub fn spawn_vital(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.run(name, future, Some(self.broken.clone()));
    }

    fn run(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
        broken: Option<watch::Sender<Option<&'static str>>>,
    ) {
        let task = Task {
            cancelled: self.cancel.clone().cancelled_owned(),
            future: AssertUnwindSafe(future).catch_unwind(),
            panics: Arc::clone(&self.panics),
            running: Running::start(Arc::clone(&self.running), name),
            broken,
            brake: self.brake.clone(),
            braked: 0,
        };
        self.tracker
            .spawn(task.instrument(tracing::debug_span!("task", task = name)));
    }

    /// The future with its panics caught, for what is polled beside others in one task: then nothing, and it counts as a task that panicked.
    pub(crate) fn catch<T>(
        &self,
        name: &'static str,
        future: impl Future<Output = T>,
    ) -> impl Future<Output = Option<T>> {
        let panics = Arc::clone(&self.panics);
        let caught = AssertUnwindSafe(future).catch_unwind();
        caught.map(move |ended| ended.inspect_err(|panic| note_panic(&panics, name, &**panic)).ok())
    }

    /// Resolves when the spawner is cancelled.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + use<> {
        self.cancel.clone().cancelled_owned()
    }

    /// Cancels everything, and waits for nothing.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Cancels everything and waits for it to end, at most `within`. Returns whether everything ended.
    pub async fn stop(&self, within: Duration) -> bool {
        self.cancel.cancel();
        self.tracker.close();
        tokio::time::timeout(within, self.tracker.wait()).await.is_ok()
    }

    /// Resolves with the name of a vital task once one has panicked.
    pub async fn broken(&self) -> &'static str {
        let mut broken = self.broken.subscribe();
        match broken.wait_for(Option::is_some).await.map(|name| *name) {
            Ok(Some(name)) => name,
            _ => std::future::pending().await,
        }
    }

    /// How many tasks panicked since the start.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// How many tasks run, by name.
    pub fn running(&self) -> BTreeMap<&'static str, u64> {
        self.running
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// For libp2p's connection tasks.
    pub(crate) fn executor(&self) -> impl libp2p::swarm::Executor + Send + use<> {
        let tasks = self.clone();
        move |future: Pin<Box<dyn Future<Output = ()> + Send>>| tasks.spawn("connection", future)
    }
}

pin_project! {
    /// What a task is besides its future. No async block, because that would hold the future twice.
    struct Task<F> {
        #[pin]
        cancelled: WaitForCancellationFutureOwned,
        #[pin]
        future: CatchUnwind<AssertUnwindSafe<F>>,
        panics: Arc<AtomicU64>,
        running: Running,
        // Where a panic is told, when the node cannot be without this task.
        broken: Option<watch::Sender<Option<&'static str>>>,
        brake: Option<Arc<Brake>>,
        braked: u64,
    }
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.cancelled.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if this.brake.as_ref().is_some_and(|brake| brake.holds(this.braked, cx)) {
            return Poll::Pending;
        }
        if let Err(panic) = ready!(this.future.poll(cx)) {
            let name = this.running.name;
            note_panic(this.panics, name, &*panic);
            if let Some(broken) = this.broken {
                broken.send_if_modified(|first| {
                    let is_first = first.is_none();
                    first.get_or_insert(name);
                    is_first
                });
            }
        }
        Poll::Ready(())
    }
}

fn note_panic(panics: &AtomicU64, name: &'static str, panic: &(dyn Any + Send)) {
    panics.fetch_add(1, Ordering::Relaxed);
    tracing::error!(task = name, panic = panic_text(panic), "a task panicked");
}

struct Running {
    table: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    name: &'static str,
}

impl Running {
    fn start(table: Arc<Mutex<BTreeMap<&'static str, u64>>>, name: &'static str) -> Self {
        *table
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .entry(name)
            .or_default() += 1;
        Running { table, name }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut table = self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(count) = table.get_mut(self.name) {
            *count -= 1;
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_counted_and_hurts_nobody_else() {
        let tasks = Tasks::new();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        tasks.spawn("bad", async { panic!("on purpose") });
        tasks.spawn("good", async move { assert!(sender.send(7).is_ok()) });
        assert_eq!(receiver.await.unwrap(), 7);
        assert!(tasks.stop(Duration::from_secs(5)).await);
        assert_eq!(tasks.panics(), 1);
        assert!(tasks.running().values().all(|n| *n == 0));
    }

    #[tokio::test]
    async fn a_panic_of_a_vital_task_is_told_to_who_asks() {
        let tasks = Tasks::new();
        tasks.spawn("bad", async { panic!("on purpose") });
        tasks.child().spawn_vital("heart", async { panic!("on purpose") });
        assert_eq!(tasks.broken().await, "heart");
        let told_later = tokio::time::timeout(Duration::from_secs(5), tasks.broken());
        assert_eq!(told_later.await.unwrap(), "heart");
    }

    #[tokio::test]
    async fn stopping_cancels_what_never_ends() {
        let tasks = Tasks::new();
        tasks.child().spawn("endless", std::future::pending());
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_moves_while_the_brake_is_on() {
        let brake = Arc::new(Brake::default());
        let tasks = Tasks::with_brake(Arc::clone(&brake));
        let ticks = Arc::new(AtomicU64::new(0));
        let count = || ticks.load(Ordering::Relaxed);
        let counter = Arc::clone(&ticks);
        tasks.child().spawn("clock", async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!(count(), 2);
        for _ in 0..2 {
            let before = count();
            brake.put_on();
            brake.put_on();
            tasks.spawn("new", std::future::pending());
            tokio::time::sleep(Duration::from_secs(100)).await;
            assert_eq!((count(), brake.is_on()), (before, true));
            brake.release();
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(count(), before + 1, "the timer that was due comes late, and once");
            tokio::time::sleep(Duration::from_millis(2_000)).await;
            assert_eq!(count(), before + 3);
        }
        brake.put_on();
        assert!(
            tasks.stop(Duration::from_secs(5)).await,
            "what stands still can be killed"
        );
    }

    #[tokio::test]
    async fn a_child_can_stop_alone() {
        let parent = Tasks::new();
        let child = parent.child();
        child.spawn("endless", std::future::pending());
        child.cancel.cancel();
        child.cancelled().await;
        assert!(!parent.cancel.is_cancelled());
    }
}
