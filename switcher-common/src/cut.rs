//! Orders to cut a backend's flows: at the deadline of a drain, or because the backend is dead.
//!
//! The program carries an order out by itself, flow by flow, so it holds while no agent runs.

use bytemuck::{Pod, Zeroable};

use crate::{address::Address, clock::has_come, flow::FlowEntry, shared};

/// What happens to a cut flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// TCP: nothing more is sent on, both sides get a RST. UDP: as [`Self::Move`].
    Reset = 1,
    /// UDP: selects afresh with the client's next datagram. TCP: goes on.
    Move = 2,
}

/// The order for the flows of one backend; index is the backend's id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CutOrder {
    /// Tick from which it holds, for the flows that began until then.
    pub deadline: u32,
    /// An [`Action`] as its number; 0: no order.
    pub action: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
shared!(CutOrder, 8);

impl CutOrder {
    /// `action` from `deadline` on.
    #[must_use]
    pub const fn new(action: Action, deadline: u32) -> Self {
        Self {
            deadline,
            action: action as u8,
            reserved: [0; 3],
        }
    }

    /// Whether the flow of `entry` is cut at tick `now`: previews never are.
    #[inline(always)]
    #[must_use]
    pub const fn cuts_flow<A: Address>(
        &self,
        entry: &FlowEntry<A>,
        is_tcp: bool,
        now: u32,
    ) -> bool {
        !entry.is_preview() && self.cuts(is_tcp, entry.created, now)
    }

    /// Whether a flow that began at tick `created` is cut at tick `now`.
    #[inline(always)]
    #[must_use]
    const fn cuts(self, is_tcp: bool, created: u32, now: u32) -> bool {
        let is_meant = match self.action {
            0 => false,
            action => !is_tcp || action == Action::Reset as u8,
        };
        let is_old = has_come(created, self.deadline) || cfg!(mutant = "fault-cut-newer");
        is_meant && has_come(self.deadline, now) && is_old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_holds_from_its_deadline_on_for_what_began_until_then() {
        let order = CutOrder::new(Action::Reset, 100);
        assert!(!order.cuts(true, 50, 99), "before");
        assert!(order.cuts(true, 50, 100), "at the deadline");
        assert!(order.cuts(true, 100, 200), "began with it");
        assert!(!order.cuts(true, 101, 200), "began later");
        let across = CutOrder::new(Action::Reset, 5);
        assert!(across.cuts(true, u32::MAX - 5, 7), "across the wrap");
    }

    #[test]
    fn a_move_is_for_udp_and_no_order_for_nobody() {
        let order = CutOrder::new(Action::Move, 100);
        assert!(order.cuts(false, 50, 100));
        assert!(!order.cuts(true, 50, 100));
        assert!(CutOrder::new(Action::Reset, 100).cuts(false, 50, 100));
        assert!(!CutOrder::default().cuts(false, 0, 100));
    }
}
