//! Health and automated failover as pure state machines: what the results of checks say of a backend
//! ([`check`](Checked)), which backends get fresh flows ([`kept`]), and when the agent changes the active
//! color by itself ([`State::decide`]).
//!
//! No I/O and no clock, as in [`switching`](crate::switching): the agent passes in the time and what it
//! knows, carries out what is decided, and keeps the next state with it.

mod check;
mod evidence;
mod kept;
mod policy;
mod refusals;
mod standing;
mod state;
mod stay;
mod terms;

pub use check::{CheckTerms, Checked, Health, HealthChange};
pub use evidence::{Cause, Evidence, Side};
pub use kept::{Kept, kept};
pub use policy::{Decision, Situation, Verdict};
pub use refusals::{REFUSED_CLIENTS, Refusals};
pub use standing::{Candidate, Fitness, ListenerCount, Standing};
pub use state::{Alarm, AlarmKind, State};
pub use stay::StayReason;
pub use terms::{AtFailover, Terms};

#[cfg(test)]
mod tests;
