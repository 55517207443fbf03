//! Which backends of a listener get fresh flows, and which are ejected.

use switcher_common::service::{Color, PerColor};

use super::Candidate;

/// Who of a color's backends stays in its table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// For each backend, in the order given, whether it keeps its slots.
    pub keeps_slots: Vec<bool>,
    /// Backends that fail keep slots, as there are no better ones.
    pub is_fail_open: bool,
}

/// Who gets fresh flows of a listener with `backends` while `active` is active, and `is_shared`: the other color
/// gets some too, as with a split or by a preview.
///
/// 1. What is drained by hand gets none, whatever happens.
/// 2. Unhealthy backends leave. Unknown ones stay: nothing was found against them, and where checks
///    have just begun, the first pass must not draw all flows to one backend.
/// 3. A color of which nobody would be left keeps all: a table without backends helps nobody. So it is
///    also with an active color that has none while the standby could serve, but failover is switched off
///    or waits. But the dead of a color that gets no fresh flows leave it: a flow that was begun there and that none
///    of them answers goes to the other color by second chance.
/// 4. The active color keeps all where neither color has `min_healthy` eligible ones (G6): with so many
///    failing at once, the checks may be what fails, and the few left would get everything.
#[must_use]
pub fn kept(
    active: Color,
    is_shared: bool,
    backends: &PerColor<Vec<Candidate>>,
    min_healthy: u32,
) -> PerColor<Kept> {
    let eligible = |color| {
        let backends = backends.get(color).iter();
        backends.filter(|it| it.is_eligible()).count()
    };
    let is_open = !cfg!(mutant = "no-fail-open")
        && (Color::ALL.into_iter()).all(|color| eligible(color) < min_healthy as usize);
    PerColor::from_fn(|color| {
        let is_active = color == active;
        of_color(
            backends.get(color),
            is_open && is_active,
            is_shared || is_active,
        )
    })
}

fn of_color(backends: &[Candidate], is_open: bool, gets_fresh: bool) -> Kept {
    let stays = |it: &Candidate| !it.is_drained && !it.is_unhealthy();
    let keeps_all = is_open || !(cfg!(mutant = "no-fail-open") || backends.iter().any(stays));
    let is_of_use = |it: &Candidate| !it.is_drained && (gets_fresh || !it.is_dead);
    let keeps = |it: &Candidate| stays(it) || (keeps_all && is_of_use(it));
    Kept {
        keeps_slots: backends.iter().map(keeps).collect(),
        is_fail_open: backends.iter().any(|it| it.is_unhealthy() && keeps(it)),
    }
}
