//! Changes of the active color: flip, promote, rollback, and the confirmation of a flip.

use std::{collections::BTreeSet, net::SocketAddr};

use switcher_common::service::Color;

use super::{
    Confirm, Drain, DrainTerms, Drill, Gate, Newest, Now, Origin, Service,
    order::{Conditions, Obstacle},
};

/// Longest time from a plan to the end of its barrier that [`Conditions::while_paused`] reckons with.
const VISIBLE_WITHIN_MS: u64 = 100;

/// What a change of one service needs to know.
pub(super) struct Step<'a, G> {
    pub(super) name: &'a str,
    pub(super) terms: DrainTerms,
    pub(super) gate: &'a G,
    pub(super) now: Now,
    /// Of the change, if there is one.
    pub(super) generation: u64,
}

impl<G: Gate> Step<'_, G> {
    /// Refuses a color that could not serve.
    pub(super) fn ask_gate(
        &self,
        color: Color,
        drained: &BTreeSet<SocketAddr>,
        force: bool,
    ) -> Result<(), Obstacle> {
        if force {
            return Ok(());
        }
        match self.gate.shortage(self.name, color, drained) {
            None => Ok(()),
            Some(shortage) => Err(Obstacle::NotEnoughBackends { color, shortage }),
        }
    }
}

impl Service {
    /// Whether `conditions` hold. `already`: what is asked for is so, whatever was expected before.
    pub(super) fn meets(
        &self,
        conditions: &Conditions,
        already: bool,
        now: Now,
    ) -> Result<(), Obstacle> {
        if let Some(expected) = conditions.if_generation
            && expected != self.generation
        {
            return Err(Obstacle::GenerationDiffers {
                found: self.generation,
                expected,
            });
        }
        if conditions.while_paused
            && !already
            && !self.is_held_until(now.plus_ms(VISIBLE_WITHIN_MS))
        {
            return Err(Obstacle::NotPaused);
        }
        match conditions.expect_active {
            Some(expected) if expected != self.active && !already => Err(Obstacle::ActiveDiffers {
                found: self.active,
                expected,
            }),
            _ => Ok(()),
        }
    }

    /// Makes `to` active, if it is not. Returns whether it changed.
    pub(super) fn flip<G: Gate>(
        &mut self,
        to: Color,
        origin: Origin,
        force: bool,
        step: &Step<'_, G>,
    ) -> Result<bool, Obstacle> {
        if self.active == to {
            return Ok(false);
        }
        step.ask_gate(to, &self.drained_backends, force)?;
        self.drain_standby_of(to, step);
        self.newest = Some(Newest {
            origin,
            from: self.active,
            forced: force,
        });
        self.active = to;
        self.split_percent = 0;
        self.confirm = None;
        self.drill = None;
        Ok(true)
    }

    /// Notes that an operator has changed the active color, if that is what `changed` says.
    pub(super) fn by_hand(
        &mut self,
        changed: Result<bool, Obstacle>,
        now: Now,
    ) -> Result<bool, Obstacle> {
        if changed == Ok(true) && !cfg!(mutant = "freeze-forgotten") {
            self.newest_manual = Some(now);
        }
        changed
    }

    /// Changes the active color by the agent's own decision.
    pub(super) fn fail_over<G: Gate>(
        &mut self,
        to: Color,
        origin: Origin,
        step: &Step<'_, G>,
    ) -> Result<bool, Obstacle> {
        let changed = self.flip(to, origin, false, step)?;
        // Flows on dead backends do not wait for those of an earlier drain, whose color is active again.
        if let Some(drain) = self.drain.as_mut().filter(|_| changed) {
            drain.deadline = step.now.plus_ms(step.terms.timeout_ms);
        }
        Ok(changed)
    }

    /// Fails over although nothing is wrong. What it undoes later is kept, so that a rollback after the drill
    /// means what it meant before.
    pub(super) fn drill<G: Gate>(
        &mut self,
        undone_within_ms: Option<u64>,
        step: &Step<'_, G>,
    ) -> Result<bool, Obstacle> {
        let disturbed = if self.drill.is_some() {
            Some("a drill is on its way")
        } else if self.split_percent > 0 {
            Some("a share of the clients goes to its standby, and would go there for good")
        } else {
            None
        };
        if let Some(what) = disturbed {
            return Err(Obstacle::DrillDisturbs { what });
        }
        let before = self.newest;
        let changed = self.flip(self.standby(), Origin::Drill, false, step)?;
        self.drill = undone_within_ms.map(|ms| Drill {
            generation: step.generation,
            until: step.now.plus_ms(ms),
            before,
        });
        Ok(changed)
    }

    /// An operator wants the color that a drill has made active: it stays, as if he had flipped to it.
    fn adopt_drill(&mut self, now: Now) {
        if let Some(newest) = &mut self.newest {
            newest.origin = Origin::Flip;
        }
        self.newest_manual = Some(now);
    }

    /// Undoes a drill's failover.
    pub(super) fn end_drill<G: Gate>(&mut self, step: &Step<'_, G>) -> Result<bool, Obstacle> {
        let Some(drill) = self.drill else {
            return Ok(false);
        };
        let changed = self.flip(self.standby(), Origin::Rollback, false, step)?;
        self.newest = drill.before;
        Ok(changed)
    }

    /// As [`Self::flip`], taken back unless it is confirmed in time.
    pub(super) fn flip_to<G: Gate>(
        &mut self,
        to: Option<Color>,
        confirm_within_ms: Option<u64>,
        force: bool,
        step: &Step<'_, G>,
    ) -> Result<bool, Obstacle> {
        let to = to.unwrap_or(self.standby());
        if to == self.active && self.drill.take().is_some() {
            self.adopt_drill(step.now);
            return Ok(false);
        }
        let changed = self.flip(to, Origin::Flip, force, step)?;
        if changed {
            self.confirm = confirm_within_ms.map(|ms| Confirm {
                deadline: step.now.plus_ms(ms),
                flip: step.generation,
            });
        }
        Ok(changed)
    }

    /// Undoes the newest change of the active color. The second time nothing changes.
    pub(super) fn roll_back<G: Gate>(
        &mut self,
        origin: Origin,
        force: bool,
        step: &Step<'_, G>,
    ) -> Result<bool, Obstacle> {
        let newest = self.newest.ok_or(Obstacle::NothingToUndo)?;
        if newest.origin.is_rollback() {
            return Ok(false);
        }
        self.flip(newest.from, origin, force, step)
    }

    /// Makes the standby active that has a share of the clients. The second time nothing changes.
    pub(super) fn promote<G: Gate>(
        &mut self,
        force: bool,
        step: &Step<'_, G>,
    ) -> Result<bool, Obstacle> {
        if self.split_percent == 0 {
            let done = matches!(self.newest, Some(newest) if newest.origin == Origin::Promote);
            return if done {
                Ok(false)
            } else {
                Err(Obstacle::NoSplit)
            };
        }
        self.flip(self.standby(), Origin::Promote, force, step)
    }

    /// Lets the flip stand.
    pub(super) fn confirm_flip(&mut self) -> Result<(), Obstacle> {
        let reverted = matches!(self.newest, Some(newest) if newest.origin == Origin::Reverted);
        if self.confirm.take().is_none() && reverted {
            return Err(Obstacle::AlreadyReverted {
                active: self.active,
            });
        }
        Ok(())
    }

    /// Begins the drain of the color beside `serving`, which gets all fresh flows from now on.
    pub(super) fn drain_standby_of<G>(&mut self, serving: Color, step: &Step<'_, G>) {
        let color = serving.other();
        let mut drain = Drain::begin(color, step.generation, step.now, step.terms);
        match self.running_drain() {
            // Flipping back to a draining color merges the drains.
            Some(running) if running.deadline.boot_ms > drain.deadline.boot_ms => {
                drain.deadline = running.deadline;
            }
            Some(_) => {}
            None => self.base = self.active,
        }
        self.drain = Some(drain);
    }
}
