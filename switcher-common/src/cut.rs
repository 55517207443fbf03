//! Orders about a backend: to cut its flows, at the deadline of a drain or because it is dead; to hold them
//! in a pause; to begin none there while there is another one, as it is ejected.
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
    /// What a dead backend's flows get: as [`Self::Reset`], but for TCP flows that it has not answered, which
    /// go on to another one by second chance.
    ResetAnswered = 3,
}

/// Which packets of a paused listener are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hold {
    /// Those that begin a flow.
    Fresh = 1,
    /// All, in both directions.
    All = 2,
}

/// Longest pause in ticks, 30 s. An end that is further away has passed long ago: ticks wrap.
const MAX_HOLD_TICKS: u32 = 28_611;

/// The order for one backend; index is the backend's id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CutOrder {
    /// Tick from which it holds, for the flows that began until then.
    pub deadline: u32,
    /// An [`Action`] as its number; 0: no order.
    pub action: u8,
    /// A [`Hold`] as its number; 0: no pause.
    pub hold: u8,
    /// 1: no flow begins here while there is another backend, whatever slots it has. Written at once, whereas
    /// tables take their time.
    pub ejected: u8,
    /// Zero.
    pub reserved: u8,
    /// Tick at which the pause ends.
    pub hold_until: u32,
}
shared!(CutOrder, 12);

impl CutOrder {
    /// `action` from `deadline` on.
    #[must_use]
    pub const fn new(action: Action, deadline: u32) -> Self {
        Self {
            deadline,
            action: action as u8,
            hold: 0,
            ejected: 0,
            reserved: 0,
            hold_until: 0,
        }
    }

    /// With a pause beside it; of two, the one that drops more.
    #[must_use]
    pub const fn with_hold(mut self, hold: Hold, until: u32) -> Self {
        if hold as u8 >= self.hold {
            self.hold = hold as u8;
            self.hold_until = until;
        }
        self
    }

    /// With the word that no flow begins there.
    #[must_use]
    pub const fn ejecting(mut self) -> Self {
        self.ejected = 1;
        self
    }

    /// Whether no flow begins there while there is another backend.
    #[inline(always)]
    #[must_use]
    pub const fn ejects(&self) -> bool {
        self.ejected != 0 && !cfg!(mutant = "ejected-gets-flows")
    }

    /// Whether it may mean anything for a flow that has begun.
    #[inline(always)]
    #[must_use]
    pub const fn concerns_flows(&self) -> bool {
        self.action | self.hold != 0
    }

    /// Whether a packet of a flow is dropped at tick `now` because of a pause; previews' never are.
    #[inline(always)]
    #[must_use]
    pub const fn holds(&self, is_preview: bool, begins: bool, now: u32) -> bool {
        let is_meant = self.hold == Hold::All as u8 || (begins && self.hold == Hold::Fresh as u8);
        let left = self.hold_until.wrapping_sub(now);
        let is_over = left == 0 || left > MAX_HOLD_TICKS || cfg!(mutant = "no-pause");
        is_meant && !is_preview && !is_over
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
        self.is_due(entry, is_tcp, now) && !self.lets_go_on(entry, is_tcp)
    }

    /// Whether an answer to the TCP flow of `entry` comes too late at tick `now`: the flow is not cut only
    /// because it may go on to another backend, and would be once this one's answer is taken.
    #[inline(always)]
    #[must_use]
    pub const fn refuses_answer<A: Address>(&self, entry: &FlowEntry<A>, now: u32) -> bool {
        self.is_due(entry, true, now) && self.lets_go_on(entry, true)
    }

    /// Whether the order has come for the flow of `entry` at tick `now`.
    #[inline(always)]
    #[must_use]
    pub const fn is_due<A: Address>(&self, entry: &FlowEntry<A>, is_tcp: bool, now: u32) -> bool {
        !entry.is_preview() && self.cuts(is_tcp, entry.created, now)
    }

    #[inline(always)]
    const fn lets_go_on<A: Address>(&self, entry: &FlowEntry<A>, is_tcp: bool) -> bool {
        self.action == Action::ResetAnswered as u8 && is_tcp && entry.has_chance_left()
    }

    /// Whether a flow that began at tick `created` is cut at tick `now`.
    #[inline(always)]
    #[must_use]
    const fn cuts(self, is_tcp: bool, created: u32, now: u32) -> bool {
        let is_meant = match self.action {
            0 => false,
            action => !is_tcp || action != Action::Move as u8,
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
    fn a_pause_holds_what_begins_or_all_until_its_end() {
        let fresh = CutOrder::default().with_hold(Hold::Fresh, 100);
        assert!(fresh.holds(false, true, 99));
        assert!(!fresh.holds(false, true, 100), "it has ended");
        assert!(!fresh.holds(false, true, 100_000_000), "long ago");
        assert!(!fresh.holds(false, false, 99), "what is there goes on");
        let all = fresh.with_hold(Hold::All, 120);
        assert!(all.holds(false, false, 119));
        assert!(!all.holds(true, true, 119), "previews go on");
        assert_eq!(
            all.with_hold(Hold::Fresh, 200),
            all,
            "the harder one counts"
        );
        assert!(!CutOrder::default().holds(false, true, u32::MAX));
    }

    #[test]
    fn of_a_dead_backend_only_what_it_has_answered_is_reset() {
        use crate::{
            address::Ipv4,
            flow::{FlowState, SECOND_CHANCES},
        };
        let order = CutOrder::new(Action::ResetAnswered, 100);
        let flow = |state: FlowState, chances| FlowEntry::<Ipv4> {
            state: state as u8,
            chances,
            created: 50,
            ..FlowEntry::default()
        };
        let cuts = |flow: FlowEntry<Ipv4>| order.cuts_flow(&flow, true, 100);
        assert!(cuts(flow(FlowState::Established, 0)));
        assert!(cuts(flow(FlowState::Answered, 0)));
        assert!(!cuts(flow(FlowState::Unanswered, 0)), "it goes elsewhere");
        assert!(cuts(flow(FlowState::Unanswered, SECOND_CHANCES)));
        let refuses = |flow: FlowEntry<Ipv4>, now| order.refuses_answer(&flow, now);
        assert!(
            refuses(flow(FlowState::Unanswered, 0), 100),
            "it would be reset then"
        );
        assert!(!refuses(flow(FlowState::Unanswered, 0), 99), "before");
        assert!(!refuses(flow(FlowState::Answered, 0), 100), "it is reset");
        let datagrams = flow(FlowState::Unanswered, 0);
        assert!(order.cuts_flow(&datagrams, false, 100), "UDP is moved");
        assert!(!order.cuts_flow(&datagrams, false, 99), "before");
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
