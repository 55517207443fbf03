//! Statuses out of the published view and the program's counters.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep};

use super::view::{NodeStatus, View};
use crate::{
    api::types::StatusReply,
    datapath::{Counters, DataPathError},
};

/// Watchers are told of the node itself, its interfaces and verdicts, this often: reading that takes a
/// hundred system calls, and they wait for their services.
const NODE_AGE: Duration = Duration::from_secs(1);

/// Where statuses come from.
pub(super) struct Statuses {
    counters: Counters,
    /// What watchers were told last.
    node: Mutex<Option<(Instant, NodeStatus)>>,
}

impl Statuses {
    /// Statuses with `counters`.
    pub(super) fn new(counters: Counters) -> Self {
        Self {
            counters,
            node: Mutex::new(None),
        }
    }

    /// The status of now.
    pub(super) fn now(&self, view: &View) -> Result<StatusReply, DataPathError> {
        view.status(None, &self.counters, view.node(&self.counters)?)
    }

    /// The status of `services`, or of all, for somebody who hears of each change.
    pub(super) fn told(
        &self,
        view: &View,
        services: Option<&[String]>,
    ) -> Result<StatusReply, DataPathError> {
        view.status(services, &self.counters, self.node(view)?)
    }

    fn node(&self, view: &View) -> Result<NodeStatus, DataPathError> {
        let told = || self.node.lock().unwrap_or_else(PoisonError::into_inner);
        let known = told().clone().filter(|(at, _)| at.elapsed() < NODE_AGE);
        if let Some((_, node)) = known {
            return Ok(node);
        }
        let node = view.node(&self.counters)?;
        *told() = Some((Instant::now(), node.clone()));
        Ok(node)
    }

    /// Tells `reader` each change, until it has left or the agent ends.
    pub(super) async fn tell(
        self: Arc<Self>,
        services: Option<Vec<String>>,
        mut views: watch::Receiver<Arc<View>>,
        reader: watch::Sender<StatusReply>,
    ) {
        loop {
            tokio::select! {
                () = reader.closed() => return,
                changed = views.changed() => if changed.is_err() { return },
            }
            let began = Instant::now();
            let view = views.borrow_and_update().clone();
            match self.told(&view, services.as_deref()) {
                Ok(status) => {
                    reader.send_if_modified(|before| {
                        let is_new = *before != status;
                        *before = status;
                        is_new
                    });
                }
                Err(error) => return tracing::error!(%error, "the status is not told any more"),
            }
            // At most a fifth of a core's time goes into one reader, however many services it has.
            tokio::select! {
                () = reader.closed() => return,
                () = sleep(began.elapsed() * 4) => {}
            }
        }
    }
}
