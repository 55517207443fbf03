//! Planning a flip: conditions, the gate, and the state after it.

use std::collections::BTreeMap;

use switcher_common::service::{Color, PerColor};

use super::{AtDeadline, Cuts, Drain, Now, Switchboard};

/// A flip as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlipOrder {
    /// Services that are switched by one store.
    pub services: Vec<String>,
    /// The new active color; absent: each service's standby.
    pub to: Option<Color>,
    /// What must hold before.
    pub conditions: Conditions,
    /// Longest drain in milliseconds, by service.
    pub drain_timeout_ms: BTreeMap<String, u64>,
    /// What happens at the end of that time, by service.
    pub at_deadline: BTreeMap<String, AtDeadline>,
    /// Flows that packets have cut so far, by service and color.
    pub cut_before: BTreeMap<String, PerColor<Cuts>>,
}

/// What must hold before a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Every named service has this active color.
    pub expect_active: Option<Color>,
    /// Every named service's newest change has this generation.
    pub if_generation: Option<u64>,
}

/// Answers how many backends could serve.
pub trait Gate {
    /// What a color of a service lacks; `None`: enough.
    fn shortage(&self, service: &str, color: Color) -> Option<Shortage>;
}

/// A listener without enough eligible backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The listener.
    pub listener: String,
    /// How many it has.
    pub eligible: usize,
    /// How many it needs.
    pub min_healthy: u32,
}

/// Why a flip is not carried out. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such service.
    #[error("cannot flip {service}: there is no such service")]
    UnknownService {
        /// As it was named.
        service: String,
    },
    /// `expect_active` does not hold.
    #[error("cannot flip {service}: {found} is active, {expected} was expected", found = found.name(), expected = expected.name())]
    ActiveDiffers {
        /// Of this service.
        service: String,
        /// Active.
        found: Color,
        /// Expected.
        expected: Color,
    },
    /// `if_generation` does not hold.
    #[error(
        "cannot flip {service}: its newest change is generation {found}, {expected} was expected"
    )]
    GenerationDiffers {
        /// Of this service.
        service: String,
        /// As it is.
        found: u64,
        /// As expected.
        expected: u64,
    },
    /// The gate said no (G6).
    #[error("cannot flip {service} to {to}: listener {listener} has {eligible} eligible backends there, {min_healthy} are needed; {active} stays active", to = to.name(), active = to.other().name(), listener = shortage.listener, eligible = shortage.eligible, min_healthy = shortage.min_healthy)]
    NotEnoughBackends {
        /// Of this service.
        service: String,
        /// The color that was asked for.
        to: Color,
        /// What it lacks.
        shortage: Shortage,
    },
}

impl Switchboard {
    /// The state after `order`; the same state when it is so already.
    pub fn flipped(&self, order: &FlipOrder, gate: &impl Gate, now: Now) -> Result<Self, Refusal> {
        let mut next = self.clone();
        next.generation += 1;
        let mut changed = false;
        for name in &order.services {
            let to = self.target(name, order)?;
            let service = next.services.get_mut(name).ok_or_else(|| unknown(name))?;
            if service.active == to {
                continue;
            }
            if let Some(shortage) = gate.shortage(name, to) {
                return Err(Refusal::NotEnoughBackends {
                    service: name.clone(),
                    to,
                    shortage,
                });
            }
            let timeout_ms = order.drain_timeout_ms.get(name).copied().unwrap_or(0);
            let cut_before = order.cut_before.get(name).copied().unwrap_or_default();
            let mut drain = Drain::begin(
                service.active,
                next.generation,
                now,
                timeout_ms,
                order.at_deadline.get(name).copied().unwrap_or_default(),
                *cut_before.get(service.active),
            );
            match service.running_drain() {
                // Flipping back to a draining color merges the drains.
                Some(running) if running.deadline.boot_ms > drain.deadline.boot_ms => {
                    drain.deadline = running.deadline;
                }
                Some(_) => {}
                None => service.base = service.active,
            }
            service.drain = Some(drain);
            service.active = to;
            service.generation = next.generation;
            changed = true;
        }
        Ok(if changed { next } else { self.clone() })
    }

    /// The color that `order` wants for a service, after its conditions.
    fn target(&self, name: &str, order: &FlipOrder) -> Result<Color, Refusal> {
        let service = self.services.get(name).ok_or_else(|| unknown(name))?;
        let to = order.to.unwrap_or(service.standby());
        if let Some(expected) = order.conditions.if_generation
            && expected != service.generation
        {
            return Err(Refusal::GenerationDiffers {
                service: name.to_owned(),
                found: service.generation,
                expected,
            });
        }
        // A repeated `flip --to green --expect-active blue` is already true, and succeeds.
        let already = order.to == Some(service.active);
        match order.conditions.expect_active {
            Some(expected) if expected != service.active && !already => {
                Err(Refusal::ActiveDiffers {
                    service: name.to_owned(),
                    found: service.active,
                    expected,
                })
            }
            _ => Ok(to),
        }
    }
}

fn unknown(service: &str) -> Refusal {
    Refusal::UnknownService {
        service: service.to_owned(),
    }
}
