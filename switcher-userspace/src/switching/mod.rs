//! The switch as a pure state machine: which color is active, what drains, what a request changes.
//!
//! No I/O and no clock: every function takes the time and what was observed, and returns the next
//! state, which the agent makes true in the kernel and on disk before it keeps it.

mod drain;
mod flip;
mod hold;
mod order;
mod time;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use serde::{Deserialize, Serialize};
use switcher_common::service::Color;

pub use drain::{AtDeadline, Counted, Cuts, Drain, DrainEnded, End, Receipt, Seen, Tally};
pub use hold::Pause;
pub use order::{Change, Conditions, DrainTerms, Gate, Obstacle, Order, Refusal, Shortage};
pub use time::Now;

use self::flip::Step;
use crate::failover::{self, Health};

/// The switch state of all services of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switchboard {
    /// Newest committed change of an active color, a split or a pause.
    pub generation: u64,
    /// By name.
    pub services: BTreeMap<String, Service>,
}

/// The switch state of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The active color.
    pub active: Color,
    /// Color of packets in the middle of a stream without a pin (G9): the color active before a
    /// flip that started while no drain ran, until the last drain ends.
    pub base: Color,
    /// Generation of its newest change.
    pub generation: u64,
    /// The newest change of its active color.
    #[serde(default)]
    pub newest: Option<Newest>,
    /// Its newest flip waits for a confirmation.
    #[serde(default)]
    pub confirm: Option<Confirm>,
    /// Share of the clients, in percent, whose fresh flows go to the standby.
    #[serde(default)]
    pub split_percent: u8,
    /// Fresh flows that are held.
    #[serde(default)]
    pub pauses: Vec<Pause>,
    /// Backends that take no fresh flows.
    #[serde(default)]
    pub drained_backends: BTreeSet<SocketAddr>,
    /// What the checks of backends say; those that are missing are unknown.
    #[serde(default)]
    pub health: BTreeMap<SocketAddr, Health>,
    /// Unhealthy backends that take no connection at all, and when that was found.
    #[serde(default)]
    pub dead: BTreeMap<SocketAddr, Now>,
    /// The drain that runs, or the newest one that ended.
    pub drain: Option<Drain>,
    /// When an operator changed the active color last.
    #[serde(default)]
    pub newest_manual: Option<Now>,
    /// A drill whose failover is going to be undone.
    #[serde(default)]
    pub drill: Option<Drill>,
    /// What the policy of automated failover remembers.
    #[serde(default)]
    pub failover: failover::State,
}

/// How the active color came to be active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Newest {
    /// By what.
    pub origin: Origin,
    /// The color that was active before.
    pub from: Color,
    /// The gate was not asked.
    pub forced: bool,
}

/// What changed an active color.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A flip.
    Flip,
    /// A standby with a share of the clients was promoted.
    Promote,
    /// An earlier change was undone.
    Rollback,
    /// A flip was not confirmed in time, or could not serve before, and was undone.
    Reverted,
    /// The agent left a color that could not serve any more.
    Failover,
    /// The agent went back to a color that it had left.
    Failback,
    /// A failover that an operator wanted to see.
    Drill,
}

impl Origin {
    /// Whether it undid an earlier change.
    #[must_use]
    pub const fn is_rollback(self) -> bool {
        matches!(self, Self::Rollback | Self::Reverted)
    }
}

/// A flip that is undone at an instant, unless it is confirmed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirm {
    /// The instant.
    pub deadline: Now,
    /// The flip's generation: its services are confirmed together.
    pub flip: u64,
}

/// A drill whose failover is undone when its drain has ended, at an instant at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drill {
    /// Its failover's generation.
    pub generation: u64,
    /// The instant.
    pub until: Now,
    /// How the color came to be active that is active again then.
    pub before: Option<Newest>,
}

impl Service {
    /// A service that was never switched.
    #[must_use]
    pub fn new(active: Color) -> Self {
        Self {
            active,
            base: active,
            generation: 0,
            newest: None,
            confirm: None,
            split_percent: 0,
            pauses: Vec::new(),
            drained_backends: BTreeSet::new(),
            health: BTreeMap::new(),
            dead: BTreeMap::new(),
            drain: None,
            newest_manual: None,
            drill: None,
            failover: failover::State::default(),
        }
    }

    /// Carries out an order. Returns whether active color, split or a pause has changed.
    fn take<G: Gate>(&mut self, order: &Order, step: &Step<'_, G>) -> Result<bool, Obstacle> {
        // A repeated `flip --to green --expect-active blue` is already true, and succeeds.
        let already =
            matches!(order.change, Change::Flip { to: Some(to), .. } if to == self.active);
        self.meets(&order.conditions, already, step.now)?;
        let done = |done: Result<(), Obstacle>| done.map(|()| false);
        match &order.change {
            Change::Flip {
                to,
                confirm_within_ms,
                force,
            } => {
                let changed = self.flip_to(*to, *confirm_within_ms, *force, step);
                self.by_hand(changed, step.now)
            }
            Change::Rollback { force } => {
                let changed = self.roll_back(Origin::Rollback, *force, step);
                self.by_hand(changed, step.now)
            }
            Change::Revert => self.roll_back(Origin::Reverted, false, step),
            Change::Confirm => done(self.confirm_flip()),
            Change::Split { percent } => self.split(*percent, step),
            Change::Promote { force } => {
                let changed = self.promote(*force, step);
                self.by_hand(changed, step.now)
            }
            Change::Abort => Ok(self.abort(step)),
            Change::Pause {
                listener,
                max_ms,
                hard,
            } => Ok(self.pause(Pause {
                listener: listener.clone(),
                until: step.now.plus_ms(*max_ms),
                hard: *hard,
            })),
            Change::Resume { listener } => self.resume(listener.as_deref()),
            Change::ExtendDrain { by_ms } => done(self.extend_drain(*by_ms)),
            Change::FinishDrain { at_deadline } => done(self.finish_drain(*at_deadline, step.now)),
            Change::DrainBackend { endpoint, force } => {
                done(self.drain_backend(*endpoint, *force, step))
            }
            Change::ResumeBackend { endpoint } => {
                self.drained_backends.remove(endpoint);
                Ok(false)
            }
            Change::FailOver { to, origin } => self.fail_over(*to, *origin, step),
            Change::Drill { undone_within_ms } => self.drill(*undone_within_ms, step),
            Change::EndDrill => self.end_drill(step),
            Change::SwitchFailover { on } => {
                if !cfg!(mutant = "failover-never-off") {
                    self.failover.switch(*on);
                }
                Ok(false)
            }
        }
    }

    /// What the checks of a backend say.
    #[must_use]
    pub fn health_of(&self, backend: SocketAddr) -> Health {
        self.health.get(&backend).copied().unwrap_or_default()
    }

    /// The color that is not active.
    #[must_use]
    pub const fn standby(&self) -> Color {
        self.active.other()
    }

    /// The drain that runs.
    #[must_use]
    pub fn running_drain(&self) -> Option<&Drain> {
        self.drain.as_ref().filter(|drain| drain.ended.is_none())
    }
}

/// What a full scan of the flow tables saw.
pub trait Observation {
    /// When the scan began, in milliseconds of `CLOCK_BOOTTIME`.
    fn began_boot_ms(&self) -> u64;
    /// What it says of the color of a service that drains since the change of `generation`, preview left
    /// out; `None` for a service that was not scanned.
    fn seen(&self, service: &str, color: Color, generation: u64) -> Option<Seen>;
}

impl Switchboard {
    /// The state after `order`; the same state when it is so already.
    pub fn changed(&self, order: &Order, gate: &impl Gate, now: Now) -> Result<Self, Refusal> {
        let mut next = self.clone();
        let generation = self.generation + 1;
        let mut is_switched = false;
        for name in self.meant(order) {
            let refused = |why| Refusal {
                verb: order.change.verb(),
                service: name.clone(),
                why,
            };
            let service = next.services.get_mut(name);
            let service = service.ok_or_else(|| refused(Obstacle::UnknownService))?;
            let step = Step {
                name,
                terms: order.drains.get(name).copied().unwrap_or_default(),
                gate,
                now,
                generation,
            };
            if service.take(order, &step).map_err(refused)? {
                service.generation = generation;
                is_switched = true;
            }
        }
        if is_switched {
            next.generation = generation;
        }
        Ok(next)
    }

    /// The services that an order is about: a flip is confirmed in all its services.
    fn meant<'a>(&'a self, order: &'a Order) -> Vec<&'a String> {
        let mut names: Vec<&String> = order.services.iter().collect();
        if order.change == Change::Confirm {
            let flip_of = |name: &String| Some(self.services.get(name)?.confirm?.flip);
            let flips: BTreeSet<u64> = order.services.iter().filter_map(flip_of).collect();
            let others = self.services.keys().filter(|name| {
                !order.services.contains(name)
                    && flip_of(name).is_some_and(|flip| flips.contains(&flip))
            });
            names.extend(others);
        }
        names
    }

    /// Services whose flip was not confirmed in time, by flip.
    #[must_use]
    pub fn unconfirmed(&self, now: Now) -> BTreeMap<u64, Vec<String>> {
        let mut flips: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for (name, service) in &self.services {
            if let Some(confirm) = service.confirm
                && confirm.deadline.boot_ms <= now.boot_ms
                && !cfg!(mutant = "never-taken-back")
            {
                flips.entry(confirm.flip).or_default().push(name.clone());
            }
        }
        flips
    }

    /// Services whose drill is to end: its failover's drain has ended, or its time is over.
    #[must_use]
    pub fn drills_to_end(&self, now: Now) -> Vec<String> {
        let is_due = |(_, service): &(&String, &Service)| {
            let has_time = |drill: Drill| {
                drill.until.boot_ms > now.boot_ms && service.running_drain().is_some()
            };
            let is_over = service.drill.is_some_and(|drill| !has_time(drill));
            is_over && !cfg!(mutant = "drill-never-ends")
        };
        let due = self.services.iter().filter(is_due);
        due.map(|(name, _)| name.clone()).collect()
    }

    /// Gives the confirmation of `services` until `deadline`.
    pub fn postpone_confirmation(&mut self, services: &[String], deadline: Now) {
        for name in services {
            let service = self.services.get_mut(name);
            if let Some(confirm) = service.and_then(|service| service.confirm.as_mut()) {
                confirm.deadline = deadline;
            }
        }
    }

    /// The next instant at which something ends by itself, in milliseconds of `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn next_deadline_boot_ms(&self) -> Option<u64> {
        let of_service = |service: &Service| {
            let pauses = service.pauses.iter().map(|pause| pause.until.boot_ms);
            let confirm = service.confirm.map(|confirm| confirm.deadline.boot_ms);
            let drill = service.drill.map(|drill| drill.until.boot_ms);
            pauses.chain(confirm).chain(drill).min()
        };
        self.services.values().filter_map(of_service).min()
    }

    /// Forgets pauses that have ended by themselves.
    pub fn end_pauses(&mut self, now: Now) {
        for service in self.services.values_mut() {
            service.end_pauses(now);
        }
    }

    /// Notes that no running program can see the state any more that the newest flips replaced:
    /// scans that begin from now on may end their drains. `tally` reads the counters of a color of a
    /// service.
    pub fn barrier_passed(&mut self, now: Now, tally: impl Fn(&str, Color) -> Tally) {
        for (name, service) in &mut self.services {
            if let Some(drain) = &mut service.drain {
                drain.barrier_passed(now, |color| tally(name, color));
            }
        }
    }

    /// Takes in a scan. Returns the drains that it ended; their services' base color is the active
    /// one from then on, which the caller must make true in the kernel.
    pub fn observe(&mut self, scan: &impl Observation, now: Now) -> Vec<DrainEnded> {
        let mut ended = Vec::new();
        for (name, service) in &mut self.services {
            let Some(drain) = service.drain.as_mut().filter(|d| d.ended.is_none()) else {
                continue;
            };
            let Some(seen) = scan.seen(name, drain.color, drain.generation) else {
                continue;
            };
            if let Some(end) = drain.observe(scan.began_boot_ms(), &seen, now) {
                service.base = service.active;
                ended.push(DrainEnded {
                    service: name.clone(),
                    color: drain.color,
                    end,
                });
            }
        }
        ended
    }

    /// Whether any drain runs.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.services.values().any(|s| s.running_drain().is_some())
    }
}

#[cfg(test)]
mod tests;
