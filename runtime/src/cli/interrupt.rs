//! Ctrl-C and SIGTERM: the first asks for a graceful end, the second ends at once.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::{exit, progress};

/// Tells whether the process has been asked to end.
#[derive(Debug, Clone)]
pub(super) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Starts listening. `what` the command does about it is said when the signal comes.
    pub(super) fn listen(what: &'static str) -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        let mut signals = [
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
        ];
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            next(&mut signals).await;
            progress::note(&format!("stopping: {what} (once more to stop at once)"));
            sender.send_replace(true);
            next(&mut signals).await;
            // Nothing acknowledged is lost: that is what the crash tests are about.
            std::process::exit(i32::from(exit::INTERRUPTED));
        });
        Ok(Self(receiver))
    }

    /// Whether a signal has come.
    pub(super) fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once a signal has come.
    pub(super) async fn requested(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|requested| *requested).await.is_err() {
            // The listener is gone with its runtime: there will be no signal.
            std::future::pending::<()>().await;
        }
    }
}

async fn next([interrupt, terminate]: &mut [Signal; 2]) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
