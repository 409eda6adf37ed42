//! Requests to end a command that runs until it is told to.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::CliError;

/// Requests to stop: SIGINT and SIGTERM.
pub(crate) struct Signals(pub(super) mpsc::Receiver<()>);

impl Signals {
    /// Listens from now on.
    pub(crate) fn of_process() -> Result<Self, CliError> {
        let fail = |error| CliError::io("cannot listen for signals", error);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
        // The second one means more than the first; a third means nothing new.
        let (sender, receiver) = mpsc::channel(2);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if sender.send(()).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self(receiver))
    }

    /// The next request to stop. Cancel-safe.
    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}
