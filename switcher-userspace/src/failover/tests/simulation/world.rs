//! The backends as they are, and as their checks have told.

use super::*;

pub(super) const LISTENERS: [&str; 2] = ["http", "dns"];
const PER_LISTENER: usize = 3;
const PER_COLOR: usize = LISTENERS.len() * PER_LISTENER;
pub(super) const BACKENDS: usize = 2 * PER_COLOR;
pub(super) const MIN_HEALTHY: u32 = 2;
pub(super) const CHECKS: CheckTerms = CheckTerms { fall: 3, rise: 2 };

/// Several backends, a bit for each.
pub(super) type Mask = u32;

pub(super) fn mask_of(color: Color) -> Mask {
    let blue = (1 << PER_COLOR) - 1;
    match color {
        Color::Blue => blue,
        Color::Green => blue << PER_COLOR,
    }
}

pub(super) fn mask_of_listener(color: Color, listener: usize) -> Mask {
    let first = (1 << PER_LISTENER) - 1;
    (first << (listener * PER_LISTENER + PER_COLOR * color as usize)) & mask_of(color)
}

pub(super) fn members(mask: Mask) -> impl Iterator<Item = usize> {
    (0..BACKENDS).filter(move |backend| mask & (1 << backend) != 0)
}

#[derive(Clone, Default)]
pub(super) struct Backend {
    /// Faults that hit it now; it serves when there are none.
    faults: u32,
    /// So many checks will fail though it serves.
    pub(super) false_failures: u32,
    pub(super) is_drained: bool,
    /// Checks are simulated only while they have something to tell: the others would all say the same.
    pub(super) is_watched: bool,
    /// Under test.
    pub(super) checked: Checked,
    /// The same, told by the newest results alone.
    told: Health,
    row: (bool, u32),
}

impl Backend {
    pub(super) fn serves(&self) -> bool {
        self.faults == 0
    }

    /// Whether further checks would change nothing.
    pub(super) fn is_settled(&self) -> bool {
        let truth = if self.serves() {
            Health::Healthy
        } else {
            Health::Unhealthy
        };
        self.checked.health == truth && self.checked.against == 0 && self.false_failures == 0
    }

    /// Takes in a result. Returns whether its health has changed.
    pub(super) fn observe(&mut self, passed: bool) -> bool {
        let row = if self.row.0 == passed {
            self.row.1 + 1
        } else {
            1
        };
        self.row = (passed, row);
        let needed = match (self.told, passed) {
            (Health::Unknown, true) => 1,
            (_, true) => CHECKS.rise,
            (_, false) => CHECKS.fall,
        };
        let before = self.told;
        if row >= needed {
            self.told = if passed {
                Health::Healthy
            } else {
                Health::Unhealthy
            };
        }
        let change = self.checked.observe(passed, CHECKS);
        assert_eq!(self.checked.health, self.told, "the newest results decide");
        let expected = (before != self.told).then_some(HealthChange {
            from: before,
            to: self.told,
        });
        assert_eq!(change, expected, "and a change is told");
        change.is_some()
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            health: Some(self.checked.health),
            is_drained: self.is_drained,
            is_dead: false,
        }
    }
}

pub(super) struct World(pub(super) Vec<Backend>);

impl World {
    pub(super) fn new() -> Self {
        Self(vec![Backend::default(); BACKENDS])
    }

    pub(super) fn hit(&mut self, mask: Mask) {
        members(mask).for_each(|backend| self.0[backend].faults += 1);
    }

    pub(super) fn heal(&mut self, mask: Mask) {
        members(mask).for_each(|backend| self.0[backend].faults -= 1);
    }

    fn of(&self, color: Color, listener: usize) -> impl Iterator<Item = &Backend> {
        members(mask_of_listener(color, listener)).map(|backend| &self.0[backend])
    }

    fn candidates(&self, color: Color, listener: usize) -> Vec<Candidate> {
        self.of(color, listener).map(Backend::candidate).collect()
    }

    /// As the code under test counts it.
    pub(super) fn standing(&self, color: Color) -> Standing {
        let count = |(at, name): (usize, &&str)| {
            ListenerCount::of(name, &self.candidates(color, at), MIN_HEALTHY)
        };
        Standing(LISTENERS.iter().enumerate().map(count).collect())
    }

    /// Whether each listener of `color` has enough backends of which `counts` holds.
    fn has_enough(&self, color: Color, counts: impl Fn(&Backend) -> bool) -> bool {
        (0..LISTENERS.len()).all(|listener| {
            let fit = self.of(color, listener).filter(|it| !it.is_drained);
            fit.filter(|it| counts(it)).count() >= MIN_HEALTHY as usize
        })
    }

    /// By the newest results it has enough.
    pub(super) fn is_good(&self, color: Color) -> bool {
        self.has_enough(color, |it| it.told == Health::Healthy)
    }

    /// By the newest results it has too few, whatever the unknown ones are.
    pub(super) fn is_bad(&self, color: Color) -> bool {
        !self.has_enough(color, |it| it.told != Health::Unhealthy)
    }

    /// In truth it has enough.
    pub(super) fn could_serve(&self, color: Color) -> bool {
        self.has_enough(color, Backend::serves)
    }

    /// Checks lie about nobody.
    pub(super) fn is_honest(&self) -> bool {
        self.0.iter().all(|it| it.false_failures == 0)
    }

    /// A color with backends that are not drained by hand has a table, and so far as it goes a good one.
    pub(super) fn tables_are_sound(&self, active: Color) {
        for listener in 0..LISTENERS.len() {
            let both = PerColor::from_fn(|color| self.candidates(color, listener));
            let kept = kept(active, false, &both, MIN_HEALTHY);
            for color in Color::ALL {
                let keeps = &kept.get(color).keeps_slots;
                let backends = || self.of(color, listener).zip(keeps);
                assert!(
                    keeps.contains(&true) || backends().all(|(it, _)| it.is_drained),
                    "an empty table"
                );
                let is_needless = |(it, keeps): (&Backend, &bool)| {
                    *keeps && it.told == Health::Unhealthy && !kept.get(color).is_fail_open
                };
                assert!(
                    !backends().any(is_needless),
                    "an unhealthy backend has slots"
                );
            }
        }
    }

    /// What an agent finds that starts again.
    pub(super) fn restart(&mut self) {
        for backend in &mut self.0 {
            let text = serde_json::to_string(&backend.checked).expect("JSON");
            backend.checked = serde_json::from_str(&text).expect("the same");
        }
    }
}
