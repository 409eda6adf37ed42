//! Ctrl-C: the first ends a run with the report so far, the second ends the program.

use crate::run::Cancel;

/// The exit code of a program that was interrupted, as shells have it.
const INTERRUPTED: i32 = 130;

/// A switch that Ctrl-C and SIGTERM throw.
///
/// They are listened for on a thread of their own, which stays real when the one that simulates becomes virtual.
pub(crate) fn on_interrupt() -> Cancel {
    let cancel = Cancel::default();
    let switch = cancel.clone();
    let listen = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        runtime.block_on(async {
            let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            let Ok(mut terminate) = terminate else { return };
            tokio::select! {
                biased;
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            switch.cancel();
            let _ = tokio::signal::ctrl_c().await;
            std::process::exit(INTERRUPTED);
        });
    };
    // Without it Ctrl-C ends the program at once, as in any other.
    let _ = std::thread::Builder::new().name("interrupt".into()).spawn(listen);
    cancel
}
