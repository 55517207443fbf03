//! The server's word to its connections that it stops.

use tokio::sync::watch;

/// Says that everything shall stop.
pub(super) struct Stopper(watch::Sender<bool>);

/// Hears it.
#[derive(Clone)]
pub(super) struct Stop(watch::Receiver<bool>);

pub(super) fn pair() -> (Stopper, Stop) {
    let (stopper, stop) = watch::channel(false);
    (Stopper(stopper), Stop(stop))
}

impl Stopper {
    pub(super) fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Ready when it was said, also before this call, or when nobody is left who could say it.
    pub(super) async fn requested(&mut self) {
        // The value's guard must not live across the caller's next await, hence this function.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}
