//! Caps per CPU.

use switcher_common::rate::Capped;

use crate::maps::{RATE_BUDGETS, RATE_WINDOWS};

/// Whether this CPU may record one more flow in the window of tick `now`.
#[inline(always)]
pub(crate) fn may_insert(now: u32) -> bool {
    cfg!(mutant = "no-insert-cap") || take(Capped::Insert, now)
}

/// Counts one more; `false`: the budget is used up.
#[inline(always)]
pub(crate) fn take(what: Capped, now: u32) -> bool {
    let (Some(budget), Some(window)) = (
        RATE_BUDGETS.get(what as u32),
        RATE_WINDOWS.get_ptr_mut(what as u32),
    ) else {
        return false;
    };
    // SAFETY: per-CPU value; the program does not interrupt itself.
    unsafe { (*window).take(now, *budget) }
}
