//! The only way to spawn: named, in a span, tracked, cancelled with the node, a panic reported by name.

use std::{
    collections::BTreeMap,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
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
        self.run(name, future, || {});
    }

    /// The same for a task without which the node would only seem to work: its panic is everybody's business
    /// ([`Tasks::broken`]).
    pub fn spawn_vital(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let broken = self.broken.clone();
        self.run(name, future, move || {
            broken.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert(name);
                is_first
            });
        });
    }

    fn run(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
        on_panic: impl FnOnce() + Send + 'static,
    ) {
        let cancel = self.cancel.clone();
        let panics = Arc::clone(&self.panics);
        let running = Running::start(Arc::clone(&self.running), name);
        let task = async move {
            let _running = running;
            let guarded = AssertUnwindSafe(future).catch_unwind();
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                result = guarded => if let Err(panic) = result {
                    panics.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(task = name, panic = panic_text(&*panic), "a task panicked");
                    on_panic();
                }
            }
        };
        self.tracker
            .spawn(task.instrument(tracing::debug_span!("task", task = name)));
    }

    /// Resolves when the spawner is cancelled.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + use<> {
        self.cancel.clone().cancelled_owned()
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
