//! What wakes a sleeper: a flag, and whom to tell besides.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
};

use futures::task::{ArcWake, AtomicWaker, waker};

#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    outer: AtomicWaker,
}

impl ArcWake for Bell {
    fn wake_by_ref(bell: &Arc<Self>) {
        // First the flag: who is told by the waker looks at it.
        bell.rung.store(true, Ordering::Release);
        bell.outer.wake();
    }
}

/// See the module.
pub(super) struct Alarm {
    bell: Arc<Bell>,
    waker: Waker,
}

impl Alarm {
    /// One that has just been rung: nobody sleeps before the first look.
    pub(super) fn rung() -> Self {
        let bell = Arc::new(Bell::default());
        bell.rung.store(true, Ordering::Release);
        Alarm {
            waker: waker(Arc::clone(&bell)),
            bell,
        }
    }

    /// Whether the sleeper is to be polled now. If not, `cx` will be woken when it is.
    pub(super) fn rang(&self, cx: &Context<'_>) -> bool {
        // Before the flag is looked at, so that a ring after the look wakes somebody.
        self.bell.outer.register(cx.waker());
        self.bell.rung.swap(false, Ordering::AcqRel)
    }

    /// Rings from within the task that will look.
    pub(super) fn ring(&self) {
        self.bell.rung.store(true, Ordering::Release);
    }

    /// Rings it when something the sleeper waits for happens.
    pub(super) fn waker(&self) -> Waker {
        self.waker.clone()
    }
}
