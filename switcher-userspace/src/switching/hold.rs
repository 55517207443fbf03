//! Changes that leave the active color as it is: the standby's share, pauses, drains, backends.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{AtDeadline, Gate, Now, Service, flip::Step, order::Obstacle};

/// Longest drain in milliseconds, extensions included: as the configuration allows.
const MAX_DRAIN_MS: u64 = 24 * 60 * 60 * 1_000;

/// Fresh flows of a listener, or of all of a service, are held until an instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// The listener's name; absent: all of the service.
    pub listener: Option<String>,
    /// When it ends by itself.
    pub until: Now,
    /// All packets are dropped, in both directions.
    pub hard: bool,
}

impl Service {
    /// Gives the standby `percent` of the clients.
    pub(super) fn split<G: Gate>(
        &mut self,
        percent: u8,
        step: &Step<'_, G>,
    ) -> Result<bool, Obstacle> {
        if self.split_percent == percent {
            return Ok(false);
        }
        if percent > self.split_percent {
            let color = self.standby();
            if self.running_drain().is_some() {
                return Err(Obstacle::StandbyDrains { color });
            }
            step.ask_gate(color, &self.drained_backends, false)?;
        }
        self.split_percent = percent;
        Ok(true)
    }

    /// Ends the standby's share; what it got drains.
    pub(super) fn abort<G: Gate>(&mut self, step: &Step<'_, G>) -> bool {
        if self.split_percent == 0 {
            return false;
        }
        self.split_percent = 0;
        self.drain_standby_of(self.active, step);
        true
    }

    /// Holds fresh flows. One that is there for the same is replaced, unless it is the same and lasts longer.
    pub(super) fn pause(&mut self, pause: Pause) -> bool {
        let same = |there: &&mut Pause| there.listener == pause.listener;
        match self.pauses.iter_mut().find(same) {
            Some(there)
                if there.hard == pause.hard && there.until.boot_ms >= pause.until.boot_ms =>
            {
                return false;
            }
            Some(there) => *there = pause,
            None => self.pauses.push(pause),
        }
        true
    }

    /// Whether a pause of the whole service lasts until then.
    pub(super) fn is_held_until(&self, then: Now) -> bool {
        let lasts = |pause: &Pause| pause.listener.is_none() && pause.until.boot_ms > then.boot_ms;
        self.pauses.iter().any(lasts)
    }

    /// Ends the pause of a listener, or all.
    pub(super) fn resume(&mut self, listener: Option<&str>) -> Result<bool, Obstacle> {
        let before = self.pauses.len();
        match listener {
            None => self.pauses.clear(),
            Some(name) => {
                let is_whole = |pause: &Pause| pause.listener.is_none();
                if self.pauses.iter().any(is_whole) {
                    return Err(Obstacle::PausedAsAWhole {
                        listener: name.to_owned(),
                    });
                }
                self.pauses
                    .retain(|pause| pause.listener.as_deref() != Some(name));
            }
        }
        Ok(self.pauses.len() < before)
    }

    /// Forgets the pauses that have ended by themselves.
    pub(super) fn end_pauses(&mut self, now: Now) {
        self.pauses
            .retain(|pause| pause.until.boot_ms > now.boot_ms);
    }

    /// Moves the running drain's deadline away.
    pub(super) fn extend_drain(&mut self, by_ms: u64) -> Result<(), Obstacle> {
        let drain = self.drain.as_mut().filter(|drain| drain.ended.is_none());
        let drain = drain.ok_or(Obstacle::NoDrain)?;
        let latest = drain.started.plus_ms(MAX_DRAIN_MS);
        let extended = drain.deadline.plus_ms(by_ms);
        drain.deadline = if extended.boot_ms > latest.boot_ms {
            latest
        } else {
            extended
        };
        drain.late_scans = 0;
        Ok(())
    }

    /// Makes the running drain's deadline now. One that has ended stays as it is.
    pub(super) fn finish_drain(
        &mut self,
        at_deadline: AtDeadline,
        now: Now,
    ) -> Result<(), Obstacle> {
        let drain = self.drain.as_mut().ok_or(Obstacle::NoDrain)?;
        if drain.ended.is_none() {
            drain.at_deadline = at_deadline;
            drain.finished_by_hand = true;
            if drain.deadline.boot_ms > now.boot_ms {
                drain.deadline = now;
            }
        }
        Ok(())
    }

    /// Takes fresh flows away from a backend, unless the active color could not serve without it.
    pub(super) fn drain_backend<G: Gate>(
        &mut self,
        endpoint: SocketAddr,
        force: bool,
        step: &Step<'_, G>,
    ) -> Result<(), Obstacle> {
        let mut drained = self.drained_backends.clone();
        if drained.insert(endpoint) {
            let is_enough = |drained| step.ask_gate(self.active, drained, force);
            if is_enough(&self.drained_backends).is_ok() {
                is_enough(&drained)?;
            }
            self.drained_backends = drained;
        }
        Ok(())
    }
}
