//! Graceful end: one signal that every driver watches.

use std::sync::Arc;

use tokio::sync::watch;

/// A switch that is thrown once and seen by all its clones.
#[derive(Debug, Clone)]
pub struct Shutdown {
    sender: Arc<watch::Sender<bool>>,
    seen: watch::Receiver<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        let (sender, seen) = watch::channel(false);
        Self { sender: Arc::new(sender), seen }
    }
}

impl Shutdown {
    /// A switch that is thrown by SIGTERM, by Ctrl-C, and by the end of a controlling parent process.
    ///
    /// # Errors
    /// When the process cannot listen for signals.
    pub fn on_signals() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut term, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = Self::default();
        let switch = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
            switch.begin();
        });
        crate::control::listen(&shutdown);
        Ok(shutdown)
    }

    /// Throws the switch.
    pub fn begin(&self) {
        self.sender.send_replace(true);
    }

    /// Whether it was thrown.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.seen.borrow()
    }

    /// Resolves once it is thrown.
    pub async fn begun(&self) {
        let mut seen = self.seen.clone();
        // The sender lives as long as this clone.
        let _ = seen.wait_for(|begun| *begun).await;
    }
}
