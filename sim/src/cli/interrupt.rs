//! Ctrl-C: the first ends a run with the report so far, the second ends the program.

use tokio::signal::unix::{SignalKind, signal};

use crate::run::Cancel;

/// The exit code of a program that was interrupted, as shells have it.
const INTERRUPTED: i32 = 130;

/// A switch that Ctrl-C and SIGTERM throw. They are listened for when this returns.
///
/// On a thread of their own, which stays real when the one that simulates becomes virtual. It is waited for until it listens: tokio
/// seeds the dice of its runtimes from a counter of the process, so that two runs of one seed could differ by which of the two
/// runtimes was made first.
pub(crate) fn on_interrupt() -> Cancel {
    let cancel = Cancel::default();
    let switch = cancel.clone();
    let (listening, listens) = std::sync::mpsc::sync_channel(1);
    let listen = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            // Whoever waits for it waits still.
            let _ = listening.send(());
            tokio::select! {
                biased;
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            switch.cancel();
            interrupt.recv().await;
            std::process::exit(INTERRUPTED);
        });
    };
    // Without it Ctrl-C ends the program at once, as in any other.
    if std::thread::Builder::new()
        .name("interrupt".into())
        .spawn(listen)
        .is_ok()
    {
        // An error means that it gave up: then there is nothing to wait for.
        let _ = listens.recv();
    }
    cancel
}
