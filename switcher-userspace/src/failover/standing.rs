//! What a color's backends come to: enough, too few, or not known.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Health;

/// A backend that could get fresh flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its health; `None` in a service without checks, where nothing makes a backend unhealthy.
    pub health: Option<Health>,
    /// It was drained by hand.
    pub is_drained: bool,
    /// It is unhealthy because it takes no connection at all.
    pub is_dead: bool,
}

impl Candidate {
    /// Whether it counts towards `min_healthy`.
    #[must_use]
    pub const fn is_eligible(self) -> bool {
        !self.is_drained && matches!(self.health, None | Some(Health::Healthy))
    }

    fn is_of(self, health: Health) -> bool {
        self.health == Some(health) && !self.is_drained
    }

    /// Whether checks say that it does not serve.
    #[must_use]
    pub fn is_unhealthy(self) -> bool {
        self.is_of(Health::Unhealthy)
    }
}

/// Whether a color could serve alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fitness {
    /// Each listener has at least `min_healthy` eligible backends.
    Enough,
    /// Not each has, but unknown backends could make it so. Neither a failure nor a target.
    Unknown,
    /// A listener has too few, whatever its unknown backends turn out to be.
    Short,
}

/// How many backends of a color a listener has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerCount {
    /// The listener.
    pub listener: String,
    /// That count.
    pub eligible: u32,
    /// That have no result yet, without those drained by hand.
    pub unknown: u32,
    /// That fail, without those drained by hand.
    pub unhealthy: u32,
    /// That are drained by hand.
    pub drained: u32,
    /// How many eligible ones it needs (`min_healthy`).
    pub needed: u32,
}

impl ListenerCount {
    /// Counts a listener's backends of one color.
    #[must_use]
    pub fn of(listener: &str, backends: &[Candidate], min_healthy: u32) -> Self {
        let count = |is: fn(Candidate) -> bool| {
            let found = backends.iter().filter(|it| is(**it)).count();
            u32::try_from(found).unwrap_or(u32::MAX)
        };
        Self {
            listener: listener.to_owned(),
            eligible: count(Candidate::is_eligible),
            unknown: count(|it| it.is_of(Health::Unknown)),
            unhealthy: count(Candidate::is_unhealthy),
            drained: count(|it| it.is_drained),
            needed: min_healthy,
        }
    }

    /// Whether it could serve.
    #[must_use]
    pub const fn fitness(&self) -> Fitness {
        let unknown = if cfg!(mutant = "unknown-is-failure") {
            0
        } else {
            self.unknown
        };
        if self.eligible >= self.needed {
            Fitness::Enough
        } else if self.eligible.saturating_add(unknown) >= self.needed {
            Fitness::Unknown
        } else {
            Fitness::Short
        }
    }
}

impl fmt::Display for ListenerCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "listener {} has {} eligible backends, {} needed",
            self.listener, self.eligible, self.needed
        )?;
        let others = [
            (self.unhealthy, "unhealthy"),
            (self.unknown, "unknown"),
            (self.drained, "drained by hand"),
        ];
        for (count, what) in others.iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} {what}")?;
        }
        Ok(())
    }
}

/// The counts of a color's listeners, previews left out: those select the standby whatever it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing(pub Vec<ListenerCount>);

impl Standing {
    /// The color is as fit as its worst listener.
    #[must_use]
    pub fn fitness(&self) -> Fitness {
        self.decisive()
            .map_or(Fitness::Enough, ListenerCount::fitness)
    }

    /// The listener that decides: the worst, the first among equals.
    #[must_use]
    pub fn decisive(&self) -> Option<&ListenerCount> {
        let rank = |count: &&ListenerCount| match count.fitness() {
            Fitness::Short => 0,
            Fitness::Unknown => 1,
            Fitness::Enough => 2,
        };
        self.0.iter().min_by_key(rank)
    }
}
